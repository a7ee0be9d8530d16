// FlowWindow: how much of a ring its sender may fill, so that what is sent does not wait for long.
//
// A ring as large as a burst wants it is, behind a consumer that is slower than its sender, a queue
// as long: every message waits for capacity / rate. So the part of it in use moves. Three things
// move it:
//
//   - The consumer's rate, measured while it has work: window = rate × (target + loop). That much
//   is
//     consumed within the target, and lasts until the credit for it has brought more.
//   - Starvation: the consumer finds nothing, and the window holds the sender back. The loop
//   (credit
//     to the sender, its waking, the way back) takes longer than was thought: the window doubles,
//     and what it is more than rate × target counts as `loop` from then on.
//   - A standing queue: over an interval of many loops, the *least* that waited is more than the
//     target's worth. A queue that never shrinks below that helps nobody; the loop is shorter than
//     was thought, by that excess. A queue that comes and goes is what a buffer is for. And after
//     each interval in which nobody starved a part of `loop` goes, to see whether it is needed.
//
// The minimum over an interval as the sign of a bad queue is CoDel's (K. Nichols, V. Jacobson,
// "Controlling queue delay", ACM Queue 10(5), 2012; RFC 8289), which drops packets where this
// grants less. That rate × loop keeps a path busy with no queue at all is L. Kleinrock's ("Power
// and deterministic rules of thumb for probabilistic problems in computer communications", ICC
// 1979), and the measuring of both is akin to BBR's (N. Cardwell et al., ACM Queue 14(5), 2016).
//
// Pure: no I/O, and time is what the caller says it is. A clock that stands still or jumps costs a
// sample, not more.
//
// Who writes what: the consumer everything. stats() and window() from any thread.
#pragma once

#include <atomic>
#include <cstdint>
#include <limits>

#include "penstock/channel/options.hpp"
#include "penstock/channel/stats.hpp"
#include "penstock/transport/clock.hpp"

namespace penstock::inline v1 {

/// Of bytes, or of slots: the unit is the caller's.
class FlowWindow {
 public:
  /// Begins at the `least`, until the consumer's rate is known. 0 < least <= most; target > 0.
  FlowWindow(std::uint64_t least, std::uint64_t most, Duration target) noexcept;

  [[nodiscard]] std::uint64_t window() const noexcept {
    return window_.load(std::memory_order_relaxed);  // relaxed: a number, guards nothing
  }

  /// `total` were consumed since the beginning, and at least `queued` are waiting. To be called now
  /// and then: a few times for each window consumed.
  void consumed(TimePoint now, std::uint64_t total, std::uint64_t queued) noexcept;
  /// The consumer found nothing: the time until the next sample says nothing about its rate.
  void found_nothing() noexcept { busy_ = false; }
  /// The consumer found nothing because the window holds, or held, the sender back.
  void starved(TimePoint now, std::uint64_t total) noexcept;

  [[nodiscard]] WindowStats stats() const noexcept;

 private:
  struct Run {
    double units = 0;
    double seconds = 0;
    [[nodiscard]] double rate() const noexcept { return seconds > 0 ? units / seconds : 0; }
  };

  [[nodiscard]] Run sample(TimePoint now, std::uint64_t total) noexcept;
  void judge_queue(TimePoint now) noexcept;
  void set(double window) noexcept;

  const double least_;
  const double most_;
  const double target_;  // seconds
  double loop_ = 0;      // seconds

  Run recent_;  // the consumer's work of late: recent_.rate() is its rate, 0 while unknown
  bool busy_ = false;
  TimePoint sampled_{};
  std::uint64_t total_ = 0;

  TimePoint interval_began_{};
  std::uint64_t least_queued_ = std::numeric_limits<std::uint64_t>::max();
  bool starved_ = false;

  // relaxed: read by stats()
  std::atomic<std::uint64_t> window_;
  std::atomic<std::uint64_t> smallest_{0};
  std::atomic<std::uint64_t> largest_{0};
  std::atomic<double> rate_{0};
  std::atomic<double> delay_{0};
};

}  // namespace penstock::inline v1
