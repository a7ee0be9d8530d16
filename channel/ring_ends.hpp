// What the forms of SlotRing have in common: how far it was claimed and how far taken.
#pragma once

#include <algorithm>
#include <atomic>
#include <bit>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <memory>
#include <type_traits>
#include <utility>

#include "penstock/channel/claim.hpp"
#include "penstock/channel/spin.hpp"
#include "penstock/channel/stats.hpp"
#include "penstock/transport/line.hpp"

namespace penstock::v2 {

/// Keeps a thread that lost a race for an index away from its line, each time for twice as long:
/// who won it has it for several messages in a row, which between far CPUs cost a fraction of one
/// that fetches the line.
class Backoff {
 public:
  void lost() noexcept {
    for (unsigned i = 0; i < pauses_; ++i) cpu_relax();
    pauses_ = std::min(pauses_ * 2, kMost);
  }

 private:
  static constexpr unsigned kMost = 512;
  unsigned pauses_ = 1;
};
/// For those whose index is not what they race for longest.
struct NoBackoff {
  void lost() noexcept {}
};

/// Thread-safety: any thread, but for close(). Invariant: head <= tail <= head + capacity.
/// Positions are 62 bits wide and never come again.
template <bool kProducers>
class RingEnds {
 public:
  RingEnds(const RingEnds&) = delete;
  RingEnds& operator=(const RingEnds&) = delete;
  RingEnds(RingEnds&&) = delete;
  RingEnds& operator=(RingEnds&&) = delete;

  [[nodiscard]] std::size_t capacity() const noexcept { return capacity_; }
  /// Positions claimed so far, those given back among them.
  [[nodiscard]] std::uint64_t tail() const noexcept {
    return tail_.load(std::memory_order_acquire) & ~kClosed;
  }
  /// Positions taken so far. SYNC place-free
  [[nodiscard]] std::uint64_t head() const noexcept {
    return head_.load(std::memory_order_acquire);
  }
  /// Claimed and not taken, those given back among them; of a moment that may be over.
  [[nodiscard]] std::size_t size() const noexcept {
    const auto head = this->head();  // first: it never passes the tail
    return static_cast<std::size_t>(std::min<std::uint64_t>(tail() - head, capacity()));
  }
  /// Whether a producer that sleeps is to be woken.
  [[nodiscard]] bool has_room() const noexcept { return size() < capacity(); }
  /// Of a window that is the capacity.
  [[nodiscard]] WindowStats flow() const noexcept {
    return {capacity(), capacity(), capacity(), 0, {}};
  }
  [[nodiscard]] bool closed() const noexcept {
    return (tail_.load(std::memory_order_acquire) & kClosed) != 0;
  }
  /// Closed, and all that was claimed was taken. SYNC closed
  [[nodiscard]] bool drained() const noexcept {
    const auto tail = tail_.load(std::memory_order_acquire);
    return (tail & kClosed) != 0 && head() == (tail & ~kClosed);
  }

  /// No claim succeeds after this. From any thread with several producers, else from the producer.
  /// SYNC closed (producer): what was claimed before is seen by who sees this.
  void close() noexcept {
    if constexpr (kProducers) {
      tail_.fetch_or(kClosed, std::memory_order_release);
    } else {
      tail_.store(tail_.load(std::memory_order_relaxed) | kClosed, std::memory_order_release);
    }
  }

 protected:
  static constexpr std::uint64_t kClosed = std::uint64_t{1} << 63U;

  explicit RingEnds(std::size_t capacity) noexcept : capacity_(capacity) {}
  ~RingEnds() = default;

  /// As a producer: claims up to `count` places from the tail on; `first` is the first one, `count`
  /// becomes how many. `room(tail)` says how many there are.
  template <class Lost, class Room>
  [[nodiscard]] ClaimResult claim_ends(std::uint64_t& first, std::size_t& count,
                                       Room&& room) noexcept {
    // relaxed: with one producer nobody else writes it; with several the claim orders nothing but
    // itself, what is put there is published by a stamp.
    std::uint64_t tail = tail_.load(std::memory_order_relaxed);
    Lost race;
    for (;;) {
      if ((tail & kClosed) != 0) return ClaimResult::closed;
      const std::size_t there = room(tail);
      if (there == 0) {
        if constexpr (!kProducers) return ClaimResult::full;
        // What looked full may have been another producer's progress.
        const auto now = tail_.load(std::memory_order_relaxed);
        if (now == tail) return ClaimResult::full;
        tail = now;
        continue;
      }
      if constexpr (!kProducers) {
        tail_.store(tail + there, std::memory_order_relaxed);
      } else if (!tail_.compare_exchange_weak(tail, tail + there, std::memory_order_relaxed)) {
        race.lost();
        tail = tail_.load(std::memory_order_relaxed);
        continue;
      }
      first = tail;
      count = there;
      return ClaimResult::claimed;
    }
  }

  const std::size_t capacity_;
  alignas(kLine) std::atomic<std::uint64_t> tail_{0};  // written by producers
  alignas(kLine) std::atomic<std::uint64_t> head_{0};  // written by consumers
};

struct Never {
  [[nodiscard]] bool operator()() const noexcept { return false; }
};

/// An iterator over T that lie one behind the other and may be copied as bytes.
template <class It, class T>
concept IteratorOverBytes = std::contiguous_iterator<It> && std::is_trivially_copyable_v<T> &&
    std::same_as<std::iter_value_t<It>, T>;

/// Copies values as bytes; `count` is `kMost` or, seldom, less. kMost 0: any number.
template <std::size_t kMost, class T>
void copy_values(T* to, const T* from, std::size_t count) noexcept {
  if constexpr (kMost == 0) {
    std::memcpy(static_cast<void*>(to), from, count * sizeof(T));
  } else if (count == kMost) {  // without a call
    std::memcpy(static_cast<void*>(to), from, kMost * sizeof(T));
  } else {
    for (std::size_t bit = std::bit_floor(kMost); bit != 0; bit /= 2) {
      if ((count & bit) == 0) continue;
      std::memcpy(static_cast<void*>(to), from, bit * sizeof(T));
      to += bit;
      from += bit;
    }
  }
}

/// Claims a place in `ring` and makes a value there. When the constructor throws, the place is
/// given back.
template <class T, class Ring, class... Args>
[[nodiscard]] ClaimResult claim_and_make(Ring& ring, Credit credit, Args&&... args) noexcept(
    std::is_nothrow_constructible_v<T, Args...>) {
  std::uint64_t position = 0;
  std::size_t count = 1;
  if (const auto result = ring.claim(position, count, credit); result != ClaimResult::claimed)
    return result;
  if constexpr (std::is_nothrow_constructible_v<T, Args...>) {
    std::construct_at(ring.place(position), std::forward<Args>(args)...);
  } else {
    try {
      std::construct_at(ring.place(position), std::forward<Args>(args)...);
    } catch (...) {
      ring.abandon(position);
      throw;
    }
  }
  ring.publish(position);
  return ClaimResult::claimed;
}

}  // namespace penstock::v2
