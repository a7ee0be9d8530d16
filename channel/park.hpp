// Waiting: look for a while, then sleep.
#pragma once

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <climits>
#include <cstdint>
#include <ctime>

#include "penstock/channel/spin.hpp"
#include "penstock/transport/clock.hpp"
#include "penstock/transport/transport.hpp"

namespace penstock::inline v1 {

/// How often this thread received a message that it had looked for in vain before, or the last that
/// had come from a remote sender. What it sends next may be an answer that its peer waits for in
/// turn: no part of a stream (Publisher::pace()).
inline thread_local constinit std::uint64_t messages_awaited = 0;

/// Sleeps while `word` has the value `seen`, at most until `deadline`. May return for no reason.
/// `wait`: FUTEX_WAIT where the word may lie in memory that two processes share.
inline void futex_wait(std::atomic<std::uint32_t>& word, std::uint32_t seen, TimePoint deadline,
                       int wait = FUTEX_WAIT) noexcept {
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
  ::syscall(SYS_futex, &word, wait, seen, until, nullptr, 0);
}

inline void futex_wake_all(std::atomic<std::uint32_t>& word) noexcept {
  ::syscall(SYS_futex, &word, FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
}

/// Wakes every sender that waits on this ring.
inline void wake_senders(RingControl& control) noexcept {
  control.credit_epoch.fetch_add(1, std::memory_order_seq_cst);  // SYNC sender-sleep (waker)
  futex_wake_all(control.credit_epoch);
}

/// Wakes the senders that wait for something that was stored before, sequentially consistent. True:
/// the caller must tell the sender's process that one waits without a thread.
/// SYNC sender-sleep (waker)
[[nodiscard]] inline bool wake_waiting(RingControl& control) noexcept {
  if (control.senders_waiting.load(std::memory_order_seq_cst) == 0) return false;
  const auto who = control.senders_waiting.exchange(0, std::memory_order_seq_cst);
  if ((who & kSenderSleeps) != 0) {
    wake_senders(control);
  } else if (who != 0) {
    // It looks by itself. One that is about to sleep from here on sees what was stored before.
    control.credit_epoch.fetch_add(1, std::memory_order_seq_cst);  // SYNC sender-sleep (waker)
  }
  return (who & kSenderRests) != 0;
}

/// Grants credit and wakes the senders that wait for it, as wake_waiting() does.
/// SYNC credit (consumer): everything read before happens-before the producer's next write there.
/// SYNC sender-sleep: a sender sets senders_waiting, then rereads the credit; this stores the
/// credit, then reads senders_waiting. Sequentially consistent, so one of the two sees the other.
[[nodiscard]] inline bool grant(RingControl& control, Cursor consumed, Cursor limit) noexcept {
  control.consumed.store(consumed, std::memory_order_release);
  control.limit.store(limit, std::memory_order_seq_cst);
  return wake_waiting(control);
}

}  // namespace penstock::inline v1
