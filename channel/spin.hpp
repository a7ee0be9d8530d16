// Looking again and again for a while, before sleeping.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <thread>

#include "penstock/transport/clock.hpp"

namespace penstock::inline v1 {

inline void cpu_relax() noexcept {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

/// A counter that rises at a steady rate of about a nanosecond or less; cheap to read.
[[nodiscard]] inline std::uint64_t cycles() noexcept {
#if defined(__x86_64__) || defined(__i386__)
  return __builtin_ia32_rdtsc();
#elif defined(__aarch64__)
  std::uint64_t count;
  asm volatile("mrs %0, cntvct_el0" : "=r"(count));
  return count;
#else
  return static_cast<std::uint64_t>(Clock::now().time_since_epoch().count());
#endif
}

/// What cycles() counts in about a millisecond (on x86, whose rate is not told: in one to two).
[[nodiscard]] inline std::uint64_t cycles_per_ms() noexcept {
#if defined(__x86_64__) || defined(__i386__)
  return 4'000'000;
#elif defined(__aarch64__)
  std::uint64_t hertz;
  asm("mrs %0, cntfrq_el0" : "=r"(hertz));
  return hertz / 1000;
#else
  return 1'000'000;
#endif
}

/// Waits for a thread that holds something for as long as a look takes; for longer where it has
/// lost its CPU, perhaps to this very thread. Then yielding is not enough: a scheduler that is fair
/// (CFS) gives the CPU back at once to a thread that has slept before, for milliseconds.
class Backoff {
 public:
  /// True: the CPU was given away.
  bool wait() noexcept {
    if (++looks_ < kLooks) {
      cpu_relax();
      return false;
    }
    if (looks_ < kLooks + kYields) {
      std::this_thread::yield();
    } else {
      std::this_thread::sleep_for(sleep_);
      sleep_ = std::min(2 * sleep_, kLongestSleep);
    }
    return true;
  }

 private:
  static constexpr std::uint32_t kLooks = 100;
  static constexpr std::uint32_t kYields = 16;
  static constexpr std::chrono::microseconds kLongestSleep{1000};
  std::uint32_t looks_ = 0;
  std::chrono::microseconds sleep_{20};
};

/// Spins for a given time, and now and then gives the CPU away, so that on a busy machine the other
/// side, or the kernel's part of a device, gets to run.
class Spinner {
 public:
  Spinner(std::chrono::nanoseconds spin, TimePoint deadline) noexcept
      : spin_(spin), deadline_(deadline) {}

  /// False: the time for spinning, or all of it, is over.
  [[nodiscard]] bool again() noexcept {
    if (spin_ <= spin_.zero()) return false;
    // A look takes as long as several of these, and a message that comes meanwhile waits.
    if (++rounds_ % kRoundsPerRelax == 0) cpu_relax();
    if (rounds_ % kRoundsPerLook != 0) return true;
    const auto now = cycles();
    if (seen_ == 0) seen_ = now;
    if (now - seen_ < yield_cycles_ && end_ != TimePoint{}) return true;
    if (now - seen_ >= yield_cycles_) {
      std::this_thread::yield();
      seen_ = cycles();
    }
    const bool for_ever = spin_ == std::chrono::nanoseconds::max() && deadline_ == TimePoint::max();
    if (for_ever) return true;  // a clock may be slow to read
    const auto time = Clock::now();
    if (end_ == TimePoint{})
      end_ = spin_ >= TimePoint::max() - time ? TimePoint::max() : time + spin_;
    return time < end_ && time < deadline_;
  }

 private:
  static constexpr std::uint32_t kRoundsPerRelax = 4;
  static constexpr std::uint32_t kRoundsPerLook = 16;
  const std::uint64_t yield_cycles_ = cycles_per_ms() / 80;
  const std::chrono::nanoseconds spin_;
  const TimePoint deadline_;
  TimePoint end_{};
  std::uint64_t seen_ = 0;
  std::uint32_t rounds_ = 0;
};

}  // namespace penstock::inline v1
