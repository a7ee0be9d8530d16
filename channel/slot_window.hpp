// The living window of a SlotRing with one consumer: its FlowWindow, in messages, and when to ask
// it.
//
// Who writes what: the consumer everything. now() and stats() from any thread.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <utility>

#include "penstock/channel/flow_window.hpp"
#include "penstock/transport/clock.hpp"

namespace penstock::v2 {

class SlotWindow {
 public:
  /// `target` > 0.
  SlotWindow(std::size_t capacity, Duration target) noexcept
      : flow_(std::min<std::size_t>(kLeast, capacity), capacity, target), limit_(capacity) {}

  /// As the consumer, after so many messages as batch() says: everything before `head` was taken,
  /// everything before `tail` claimed. Up to where producers may go; never less than before.
  [[nodiscard]] std::uint64_t granted(std::uint64_t head, std::uint64_t tail) noexcept {
    flow_.consumed(Clock::now(), head, tail - head);
    if (tail >= limit_) held_back_ = limit_;
    return grant(head);
  }
  /// As the consumer, which found nothing at `head`.
  [[nodiscard]] std::uint64_t found_nothing(std::uint64_t head) noexcept {
    flow_.found_nothing();
    // Producers have come as far as they may, or could when they were told last, and no further.
    if (std::exchange(held_back_, kNever) == head || head >= limit_)
      flow_.starved(Clock::now(), head);
    return grant(head);
  }

  [[nodiscard]] std::uint64_t now() const noexcept { return flow_.window(); }
  /// In so many steps room comes back.
  [[nodiscard]] std::uint64_t batch(std::size_t steps) const noexcept {
    return std::max<std::uint64_t>(1, now() / steps);
  }
  [[nodiscard]] WindowStats stats() const noexcept { return flow_.stats(); }

 private:
  static constexpr std::size_t kLeast = 16;
  static constexpr std::uint64_t kNever = ~std::uint64_t{0};

  [[nodiscard]] std::uint64_t grant(std::uint64_t head) noexcept {
    return limit_ = std::max(limit_, head + now());
  }

  FlowWindow flow_;
  std::uint64_t limit_;  // granted
  std::uint64_t held_back_ = kNever;
};

}  // namespace penstock::v2
