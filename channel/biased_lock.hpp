// A try-lock that costs no locked instruction to the thread that takes it again and again.
//
// Biased locking (Kawachiya et al., OOPSLA 2002; Dice, Moir and Scherer, "Quickly reacquirable
// locks", 2003), revoked by a barrier that the revoking thread makes for all (barrier.hpp).
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>

#include "penstock/channel/barrier.hpp"

namespace penstock::inline v1 {

/// Tells threads of a process apart; cheaper than std::this_thread::get_id(). Never 0.
[[nodiscard]] inline std::uintptr_t this_thread_tag() noexcept {
#if defined(__GNUC__) && !defined(__clang__) && defined(__x86_64__)
  return reinterpret_cast<std::uintptr_t>(__builtin_thread_pointer());
#else
  static thread_local constinit char here = 0;
  return reinterpret_cast<std::uintptr_t>(&here);
#endif
}

/// Mutual exclusion; nobody waits. Not recursive: with the bias, a second try_lock() of the holder
/// would succeed. Unlocked by the thread that locked it.
class BiasedLock {
 public:
  /// `biased`: enroll_in_barriers() said true.
  explicit BiasedLock(bool biased) noexcept : biased_(biased) {}

  /// False: somebody else has it, or had it a moment ago; try again.
  [[nodiscard]] bool try_lock() noexcept {
    const auto self = this_thread_tag();
    if (owner_.load(std::memory_order_relaxed) == self) {  // relaxed: looked at again below
      inside_.store(true, std::memory_order_relaxed);
      // Orders the compiler only. The CPU's part is the revoker's: SYNC revoke (owner): either this
      // sees the bias gone, or the revoker sees `inside_`.
      std::atomic_signal_fence(std::memory_order_seq_cst);
      if (owner_.load(std::memory_order_relaxed) == self) return true;
      inside_.store(false, std::memory_order_release);
    }
    return try_lock_shared(self);
  }

  void unlock() noexcept {
    if (by_lock_) {
      unlock_shared();
    } else {
      inside_.store(false, std::memory_order_release);  // SYNC bias: to the revoker
    }
  }

 private:
  /// A thread is given the bias when it has locked so often in a row. Doubled by every revocation,
  /// which costs as much as hundreds of locked instructions.
  static constexpr std::uint32_t kFirstPatience = 256;
  static constexpr std::uint32_t kMostPatience = 1U << 20U;

  [[nodiscard]] bool try_lock_shared(std::uintptr_t self) noexcept {
    // relaxed: only whether it pays to try
    if (locked_.load(std::memory_order_relaxed)) return false;
    if (locked_.exchange(true, std::memory_order_acquire)) return false;  // SYNC lock
    if (owner_.load(std::memory_order_relaxed) != 0) {  // relaxed: written with the lock held
      // SYNC revoke (revoker)
      owner_.store(0, std::memory_order_relaxed);
      barrier_for_all(BarrierScope::process);
      patience_ = std::min(patience_ * 2, kMostPatience);
    }
    // SYNC bias: what the owner did happens-before. One that is still inside is waited for by
    // trying again; one that only tried to enter will see that the bias is gone.
    if (inside_.load(std::memory_order_acquire)) {
      locked_.store(false, std::memory_order_release);
      return false;
    }
    by_lock_ = true;
    run_ = last_ == self ? run_ + 1 : 0;
    last_ = self;
    return true;
  }

  void unlock_shared() noexcept {
    by_lock_ = false;
    if (biased_ && run_ >= patience_) {
      run_ = 0;
      owner_.store(last_, std::memory_order_relaxed);  // relaxed: published by the lock
    }
    locked_.store(false, std::memory_order_release);  // SYNC lock
  }

  std::atomic<std::uintptr_t> owner_{0};  // has the bias; set by itself, with the lock held
  std::atomic<bool> inside_{false};       // written by the owner only
  std::atomic<bool> locked_{false};
  bool by_lock_ = false;  // how the holder came in; the holder's, like all below
  const bool biased_;
  std::uint32_t run_ = 0;
  std::uint32_t patience_ = kFirstPatience;
  std::uintptr_t last_ = 0;
};

}  // namespace penstock::inline v1
