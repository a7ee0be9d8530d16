// Whether threads poll by themselves, so that the engine need not be woken for them.
#pragma once

#include <cstdint>
#include <utility>

namespace penstock::inline v1 {

/// Where each event of a link is news, threads that poll it leave the engine nothing but to be
/// woken for each: it is armed when none has polled for two ticks. Used with a progress token held.
class PollWatch {
 public:
  /// A thread polls.
  void polled() noexcept { ++polls_; }
  /// A watch begins. True: there were polls since the last one did, or its last tick().
  [[nodiscard]] bool begin() noexcept {
    ticks_ = 0;
    return std::exchange(seen_, polls_) != polls_;
  }
  /// A tick of the engine. True: the second in a row without a poll. Not the first: it may come at
  /// once, and want the CPU of who is about to poll.
  [[nodiscard]] bool tick() noexcept {
    if (std::exchange(seen_, polls_) == polls_) return ++ticks_ == kTicks;
    ticks_ = 0;
    return false;
  }

 private:
  static constexpr std::uint8_t kTicks = 2;
  std::uint64_t polls_ = 0;
  std::uint64_t seen_ = 0;  // of those, at the last look
  std::uint8_t ticks_ = 0;  // without a poll, one after another
};

}  // namespace penstock::inline v1
