// Waiting: look for a while, then sleep.
#pragma once

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <climits>
#include <cstdint>
#include <ctime>
#include <thread>

#include "penstock/transport/clock.hpp"
#include "penstock/transport/transport.hpp"

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

/// How often this thread received a message that it had looked for in vain before. What it sends
/// next may be an answer that its peer waits for in turn: no part of a stream (Publisher::pace()).
inline thread_local constinit std::uint64_t messages_awaited = 0;

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

/// Sleeps while `word` has the value `seen`, at most until `deadline`. May return for no reason.
/// Not the private futex: the word may lie in memory that two processes share.
inline void futex_wait(std::atomic<std::uint32_t>& word, std::uint32_t seen,
                       TimePoint deadline) noexcept {
  static_assert(sizeof word == sizeof(std::uint32_t));
  timespec timeout{};
  timespec* until = nullptr;
  if (deadline != TimePoint::max()) {
    const auto left = deadline - Clock::now();
    if (left <= left.zero()) return;
    const auto whole = std::chrono::duration_cast<std::chrono::seconds>(left);
    timeout.tv_sec = whole.count();
    timeout.tv_nsec = (left - whole).count();
    until = &timeout;
  }
  ::syscall(SYS_futex, &word, FUTEX_WAIT, seen, until, nullptr, 0);
}

inline void futex_wake_all(std::atomic<std::uint32_t>& word) noexcept {
  ::syscall(SYS_futex, &word, FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
}

/// Wakes every sender that waits on this ring.
inline void wake_senders(RingControl& control) noexcept {
  control.credit_epoch.fetch_add(1, std::memory_order_seq_cst);  // SYNC sender-sleep (waker)
  futex_wake_all(control.credit_epoch);
}

/// Wakes the senders that wait for something that was stored before, sequentially consistent.
/// SYNC sender-sleep (waker)
inline void wake_waiting(RingControl& control) noexcept {
  if (control.senders_waiting.load(std::memory_order_seq_cst) == 0) return;
  const auto who = control.senders_waiting.exchange(0, std::memory_order_seq_cst);
  if ((who & kSenderSleeps) != 0) {
    wake_senders(control);
  } else if (who != 0) {
    // It looks by itself. One that is about to sleep from here on sees what was stored before.
    control.credit_epoch.fetch_add(1, std::memory_order_seq_cst);  // SYNC sender-sleep (waker)
  }
}

/// Grants credit and wakes the senders that wait for it.
/// SYNC credit (consumer): everything read before happens-before the producer's next write there.
/// SYNC sender-sleep: a sender sets senders_waiting, then rereads the credit; this stores the
/// credit, then reads senders_waiting. Sequentially consistent, so one of the two sees the other.
inline void grant(RingControl& control, Cursor consumed, Cursor limit) noexcept {
  control.consumed.store(consumed, std::memory_order_release);
  control.limit.store(limit, std::memory_order_seq_cst);
  wake_waiting(control);
}

}  // namespace penstock::inline v1
