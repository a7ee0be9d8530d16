// How the ends of a typed channel look for each other before they sleep.
#pragma once

#include <algorithm>
#include <cstdint>
#include <thread>

#include "penstock/channel/options.hpp"
#include "penstock/channel/spin.hpp"
#include "penstock/transport/clock.hpp"

namespace penstock::v2 {

/// Looks away for as long as `messages` took to be handled, about, and at most a microsecond.
///
/// Who has caught up with a stream and looks at once again takes the line away in which the other
/// side is writing: each message then waits for a line twice. Who lets some gather takes the line
/// once for all of them. One that comes alone is looked for at once.
inline void look_away(std::uint64_t messages) noexcept {
  constexpr std::uint64_t kNanoseconds = 4;
  constexpr std::uint64_t kMost = 500;
  if (messages < 2) return;
  const auto enough = std::min(messages * kNanoseconds, kMost) * (cycles_per_ms() / 1000) / 1000;
  for (const auto begin = cycles(); cycles() - begin < enough;) cpu_relax();
}

/// Looks for a given time, and now and then gives the CPU away: often where another thread wants
/// it, which is perhaps the one that is waited for, seldom where none does.
class Watch {
 public:
  Watch(Duration spin, TimePoint deadline) noexcept : spin_(spin), deadline_(deadline) {}

  /// False: the time for looking, or all of it, is over.
  [[nodiscard]] bool again() noexcept {
    if (spin_ <= spin_.zero()) return false;
    // A look takes as long as several of these, and a message that comes meanwhile waits.
    if (++rounds_ % kRoundsPerRelax == 0) cpu_relax();
    if (rounds_ % kRoundsPerTime != 0) return true;
    const auto now = cycles();
    if (since_ == 0) since_ = now;
    if (now - since_ < patience) return true;
    std::this_thread::yield();
    since_ = cycles();
    patience = since_ - now > kSomebodyRan ? kShortest : std::min(2 * patience, kLongest);
    if (spin_ == Duration::max() && deadline_ == TimePoint::max()) return true;
    const auto time = Clock::now();
    if (end_ == TimePoint{})
      end_ = spin_ >= TimePoint::max() - time ? TimePoint::max() : time + spin_;
    return time < end_ && time < deadline_;
  }

 private:
  static constexpr std::uint32_t kRoundsPerRelax = 4;
  static constexpr std::uint32_t kRoundsPerTime = 16;
  // In cycles().
  static inline const std::uint64_t kSomebodyRan = cycles_per_ms() / 1000;
  static inline const std::uint64_t kShortest = cycles_per_ms() / 1000;
  static inline const std::uint64_t kLongest = cycles_per_ms() / 80;
  /// How long this thread looks before it gives the CPU away.
  static inline thread_local std::uint64_t patience = kShortest;

  const Duration spin_;
  const TimePoint deadline_;
  TimePoint end_{};
  std::uint64_t since_ = 0;
  std::uint32_t rounds_ = 0;
};

}  // namespace penstock::v2
