// A try-lock that costs no locked instruction to the thread that takes it again and again.
//
// Biased locking (Kawachiya et al., OOPSLA 2002; Dice, Moir and Scherer, "Quickly reacquirable
// locks", 2003), revoked by a barrier that the revoking thread makes for all (barrier.hpp).
//
// Who writes what: each thread that ever had the bias its own seat's `inside_`; who has the lock
// everything else.
//
// Invariant: a seat is its thread's for ever. A thread that was stopped between its look at
// `owner_` and its word in `inside_` may come back when the bias was taken away and given to
// another: it writes, and takes back, only what is its own.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

#include "penstock/channel/barrier.hpp"

namespace penstock::inline v1 {

/// Tells threads of a process apart; cheaper than std::this_thread::get_id(). Never 0, and its low
/// four bits are.
[[nodiscard]] inline std::uintptr_t this_thread_tag() noexcept {
#if defined(__GNUC__) && !defined(__clang__) && defined(__x86_64__)
  return reinterpret_cast<std::uintptr_t>(__builtin_thread_pointer());
#else
  alignas(16) static thread_local constinit char here = 0;
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
    const auto owner = owner_.load(std::memory_order_relaxed);  // relaxed: looked at again below
    if ((owner & ~kSeat) == self) {
      auto& inside = inside_[owner & kSeat];
      inside.store(true, std::memory_order_relaxed);
      // Orders the compiler only. The CPU's part is the revoker's: SYNC revoke (owner): either this
      // sees the bias gone, or the revoker sees `inside`.
      std::atomic_signal_fence(std::memory_order_seq_cst);
      if (owner_.load(std::memory_order_relaxed) == owner) return true;
      inside.store(false, std::memory_order_release);
    }
    return try_lock_shared(self);
  }

  void unlock() noexcept {
    if (by_lock_) return unlock_shared();
    const auto self = this_thread_tag();
    const auto owner = owner_.load(std::memory_order_relaxed);  // relaxed: its own seat in any case
    const auto seat = (owner & ~kSeat) == self ? owner & kSeat : seat_of(self);
    inside_[seat].store(false, std::memory_order_release);  // SYNC bias: to the revoker
  }

 private:
  /// A thread is given the bias when it has locked so often in a row. Doubled by every revocation,
  /// which costs as much as hundreds of locked instructions.
  static constexpr std::uint32_t kFirstPatience = 256;
  static constexpr std::uint32_t kMostPatience = 1U << 20U;
  /// So many threads may have the bias in turn; it is given to no others.
  static constexpr std::size_t kSeats = 4;
  static constexpr std::uintptr_t kSeat = 15;  // of `owner_`

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
    for (const auto& inside : inside_) {
      if (!inside.load(std::memory_order_acquire)) continue;
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
      // relaxed: published by the lock
      if (const auto seat = seat_for(last_); seat != kSeats)
        owner_.store(last_ | seat, std::memory_order_relaxed);
    }
    locked_.store(false, std::memory_order_release);  // SYNC lock
  }

  /// The seat of a thread that has one. relaxed: it was given to this very thread
  [[nodiscard]] std::size_t seat_of(std::uintptr_t self) const noexcept {
    std::size_t seat = 0;
    while (seats_[seat].load(std::memory_order_relaxed) != self) ++seat;
    return seat;
  }
  /// With the lock held. kSeats: none is left.
  [[nodiscard]] std::size_t seat_for(std::uintptr_t self) noexcept {
    for (std::size_t seat = 0; seat != kSeats; ++seat) {
      const auto whose = seats_[seat].load(std::memory_order_relaxed);
      if (whose == 0) seats_[seat].store(self, std::memory_order_relaxed);
      if (whose == 0 || whose == self) return seat;
    }
    return kSeats;
  }

  // Has the bias: a thread's tag and its seat; 0: nobody. Set with the lock held.
  std::atomic<std::uintptr_t> owner_{0};
  std::array<std::atomic<bool>, kSeats> inside_{};
  std::atomic<bool> locked_{false};
  bool by_lock_ = false;  // how the holder came in; the holder's, like all below
  const bool biased_;
  std::uint32_t run_ = 0;
  std::uint32_t patience_ = kFirstPatience;
  std::uintptr_t last_ = 0;
  std::array<std::atomic<std::uintptr_t>, kSeats> seats_{};  // whose; written with the lock held
};

}  // namespace penstock::inline v1
