#include "penstock/channel/flow_window.hpp"

#include <algorithm>
#include <utility>

namespace penstock::inline v1 {
namespace {

using Seconds = std::chrono::duration<double>;

/// The rate is that of about so many targets of work: long enough that one pause of the consumer's
/// thread is not taken for its pace,
constexpr double kMemory = 4;
/// and of no less than this.
constexpr double kLeastMemory = 2e-3;
/// A queue is judged over so many targets, and no fewer than so many loops.
constexpr double kIntervalTargets = 16;
constexpr double kIntervalLoops = 4;
/// Of the allowance for the loop this part is kept after an interval in which nobody starved.
constexpr double kKept = 7.0 / 8;

}  // namespace

FlowWindow::FlowWindow(std::uint64_t least, std::uint64_t most, Duration target) noexcept
    : least_(static_cast<double>(least)),
      most_(static_cast<double>(most)),
      target_(Seconds(target).count()),
      window_(least) {}

/// What was consumed since the last sample, and in which time; nothing where the consumer did not
/// work all the time, or the clock went back.
FlowWindow::Run FlowWindow::sample(TimePoint now, std::uint64_t total) noexcept {
  Run run{static_cast<double>(total - total_), Seconds(now - sampled_).count()};
  if (busy_ && run.seconds == 0) return {};  // counts with the next one
  const bool valid = std::exchange(busy_, true) && run.seconds > 0;
  sampled_ = now;
  total_ = total;
  if (!valid) return {};
  const double memory = std::max(kMemory * target_, kLeastMemory);
  // A pause is worth no more than all that is remembered.
  if (run.seconds > memory) run = {run.units * (memory / run.seconds), memory};
  recent_.units += run.units;
  recent_.seconds += run.seconds;
  if (recent_.seconds > memory) recent_ = {recent_.units * (memory / recent_.seconds), memory};
  return run;
}

void FlowWindow::consumed(TimePoint now, std::uint64_t total, std::uint64_t queued) noexcept {
  least_queued_ = busy_ ? std::min(least_queued_, queued) : 0;
  (void)sample(now, total);
  judge_queue(now);
  const double rate = recent_.rate();
  if (rate == 0) return;
  delay_.store(static_cast<double>(queued) / rate, std::memory_order_relaxed);
  set(rate * (target_ + loop_));
}

void FlowWindow::starved(TimePoint now, std::uint64_t total) noexcept {
  // It may be faster than it was thought to be: then what it did just now counts alone.
  if (const auto run = sample(now, total); run.rate() > recent_.rate()) recent_ = run;
  busy_ = false;
  starved_ = true;
  least_queued_ = 0;
  const double rate = recent_.rate();
  const double window =
      std::min(most_, std::max(2 * static_cast<double>(this->window()), rate * (target_ + loop_)));
  if (rate != 0) loop_ = std::max(loop_, window / rate - target_);
  set(window);
}

void FlowWindow::judge_queue(TimePoint now) noexcept {
  const double length = std::max(kIntervalTargets * target_, kIntervalLoops * loop_);
  const double passed = Seconds(now - interval_began_).count();
  if (passed >= 0 && passed < length) return;
  const double rate = recent_.rate();
  // The beginning of the first interval, and one that the clock's jump made, tell nothing.
  if (rate != 0 && interval_began_ != TimePoint{} && passed > 0) {
    const double excess = static_cast<double>(least_queued_) / rate - target_;
    if (excess > 0) loop_ -= std::min(loop_, excess / 2);
    if (!std::exchange(starved_, false)) loop_ *= kKept;
  }
  interval_began_ = now;
  least_queued_ = std::numeric_limits<std::uint64_t>::max();
}

void FlowWindow::set(double window) noexcept {
  const auto units = static_cast<std::uint64_t>(std::clamp(window, least_, most_));
  window_.store(units, std::memory_order_relaxed);
  const auto smallest = smallest_.load(std::memory_order_relaxed);
  if (smallest == 0 || units < smallest) smallest_.store(units, std::memory_order_relaxed);
  if (units > largest_.load(std::memory_order_relaxed))
    largest_.store(units, std::memory_order_relaxed);
  rate_.store(recent_.rate(), std::memory_order_relaxed);
}

WindowStats FlowWindow::stats() const noexcept {
  WindowStats stats;
  stats.now = window();
  stats.smallest = smallest_.load(std::memory_order_relaxed);
  stats.largest = largest_.load(std::memory_order_relaxed);
  stats.rate = rate_.load(std::memory_order_relaxed);
  constexpr double kLongest = 1e9;  // what nanoseconds hold, and more than anybody waits
  stats.delay = std::chrono::duration_cast<Duration>(
      Seconds(std::min(delay_.load(std::memory_order_relaxed), kLongest)));
  return stats;
}

}  // namespace penstock::inline v1
