// Deadlines, saturating: "for ever" stays for ever.
#pragma once

#include <algorithm>
#include <chrono>

namespace penstock::inline v1 {

using Clock = std::chrono::steady_clock;
using TimePoint = Clock::time_point;

/// now + timeout; a negative timeout counts as zero, one too long to add as for ever.
[[nodiscard]] inline TimePoint deadline_after(std::chrono::nanoseconds timeout) noexcept {
  const auto now = Clock::now();
  if (timeout <= std::chrono::nanoseconds::zero()) return now;
  return timeout >= TimePoint::max() - now ? TimePoint::max() : now + timeout;
}

/// The timeout that ends at `deadline`; zero where that is over.
[[nodiscard]] inline std::chrono::nanoseconds time_until(TimePoint deadline) noexcept {
  if (deadline == TimePoint::max()) return std::chrono::nanoseconds::max();
  return std::max<std::chrono::nanoseconds>(deadline - Clock::now(), {});
}

/// Milliseconds until `deadline` for poll(2): rounded up, -1 for ever, at most a day.
[[nodiscard]] inline int poll_timeout(TimePoint deadline) noexcept {
  if (deadline == TimePoint::max()) return -1;
  const auto left = deadline - Clock::now();
  if (left <= left.zero()) return 0;
  const auto ms = std::chrono::ceil<std::chrono::milliseconds>(left).count();
  constexpr long kDay = 86'400'000;
  return static_cast<int>(ms < kDay ? ms : kDay);
}

}  // namespace penstock::inline v1
