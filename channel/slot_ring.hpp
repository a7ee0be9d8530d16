// SlotRing: a bounded ring of objects between threads of one process.
//
// Who writes what: producers `tail_` and the slots that they have claimed; consumers `head_`,
// `limit_` and, with several of them, the stamps of the slots that they have emptied.
//
// Invariants: a slot's stamp names the position that it serves, so nothing of an earlier lap can be
// taken for it (no ABA: positions are 62 bits wide and never come again). head_ <= tail_ <=
// head_ + capacity. A position that was claimed is published, as a value or as a tombstone.
//
// One consumer: the producer's stamp says that a slot is full; the consumer writes no stamp, it
// moves `limit_` on once for many slots. Two that run one behind the other then pass each line of
// slots once, and no index. Several consumers: they finish out of turn, so each stamps its slot
// free (Vyukov, "Bounded MPMC queue", 1024cores.net).
//
// A thread that stops between claim and publication holds up what was claimed after it, and nothing
// else: consumers see an empty ring and go on when it does, other producers see a full one.
//
// Lifetime: the slots are the ring's; values left in it are destroyed with it.
#pragma once

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <type_traits>
#include <utility>

#include "penstock/channel/claim.hpp"
#include "penstock/channel/slot_window.hpp"
#include "penstock/transport/line.hpp"

namespace penstock::v2 {

/// How many threads send and receive at a time. Each is its own code: ask for no more than needed.
enum class Topology : std::uint8_t { spsc, mpsc, spmc, mpmc };
inline constexpr Topology spsc = Topology::spsc;
inline constexpr Topology mpsc = Topology::mpsc;
inline constexpr Topology spmc = Topology::spmc;
inline constexpr Topology mpmc = Topology::mpmc;

[[nodiscard]] constexpr bool several_producers(Topology t) noexcept {
  return t == mpsc || t == mpmc;
}
[[nodiscard]] constexpr bool several_consumers(Topology t) noexcept {
  return t == spmc || t == mpmc;
}

/// Thread-safety: producers' calls from as many threads at a time as the topology has producers,
/// consumers' likewise; the rest from any.
template <class T, Topology kTopology>
class SlotRing {
  static constexpr bool kProducers = several_producers(kTopology);
  static constexpr bool kConsumers = several_consumers(kTopology);
  static_assert(std::is_nothrow_destructible_v<T>);
  static_assert(!kConsumers || std::is_nothrow_move_constructible_v<T>,
                "with several consumers a message whose move throws would be lost, as its place in "
                "the queue is gone by then: send std::unique_ptr<T>, or have one consumer");

 public:
  /// `capacity`: a power of two. `target`: above 0 with one consumer only, the window then lives.
  /// Throws std::bad_alloc.
  explicit SlotRing(std::size_t capacity, Duration target = Duration::zero())
      : mask_(capacity - 1),
        window_(target > Duration::zero() ? std::make_unique<SlotWindow>(capacity, target)
                                          : nullptr),
        slots_(std::make_unique<Slot[]>(capacity)),
        seen_limit_(capacity),
        limit_(capacity),
        batch_(std::max<std::size_t>(1, capacity / kBatches)) {
    for (std::size_t i = 0; i < capacity; ++i)
      slots_[i].stamp.store(i << kStateBits | kFree, std::memory_order_relaxed);
  }
  SlotRing(const SlotRing&) = delete;
  SlotRing& operator=(const SlotRing&) = delete;
  SlotRing(SlotRing&&) = delete;
  SlotRing& operator=(SlotRing&&) = delete;
  ~SlotRing() { clear(); }

  // ── Producers ────────────────────────────────────────────────────────────────────────────────

  /// Claims up to `count` places that follow each other; `first` is the first one, `count` becomes
  /// how many. Lock-free; linear in `count` with several consumers, else constant.
  [[nodiscard]] ClaimResult claim(std::uint64_t& first, std::size_t& count,
                                  Credit credit = Credit::any) noexcept {
    // relaxed: with one producer nobody else writes it; with several the claim orders nothing but
    // itself, what is put there is published by the slot's stamp.
    std::uint64_t tail = tail_.load(std::memory_order_relaxed);
    for (;;) {
      if ((tail & kClosed) != 0) return ClaimResult::closed;
      const std::size_t room = room_at(tail, count, credit);
      if (room == 0) {
        if constexpr (!kProducers) return ClaimResult::full;
        // What looked full may have been another producer's progress.
        const auto now = tail_.load(std::memory_order_relaxed);
        if (now == tail) return ClaimResult::full;
        tail = now;
        continue;
      }
      if constexpr (!kProducers) {
        tail_.store(tail + room, std::memory_order_relaxed);
      } else if (!tail_.compare_exchange_weak(tail, tail + room, std::memory_order_relaxed)) {
        continue;
      }
      first = tail;
      count = room;
      return ClaimResult::claimed;
    }
  }

  /// Where the value of a claimed place is made.
  [[nodiscard]] T* place(std::uint64_t position) noexcept { return slot(position).value(); }
  /// SYNC slot-publish (producer): the value happens-before this store.
  void publish(std::uint64_t position) noexcept {
    slot(position).stamp.store(position << kStateBits | kReady, std::memory_order_release);
  }
  /// Gives a claimed place back: consumers pass over it.
  void abandon(std::uint64_t position) noexcept {
    slot(position).stamp.store(position << kStateBits | kTombstoned, std::memory_order_release);
  }

  /// Makes a value in the next place. When the constructor throws, the place is given back.
  template <class... Args>
  [[nodiscard]] ClaimResult push(Credit credit, Args&&... args) noexcept(
      std::is_nothrow_constructible_v<T, Args...>) {
    std::uint64_t position;
    std::size_t count = 1;
    if (const auto result = claim(position, count, credit); result != ClaimResult::claimed)
      return result;
    if constexpr (std::is_nothrow_constructible_v<T, Args...>) {
      std::construct_at(place(position), std::forward<Args>(args)...);
    } else {
      try {
        std::construct_at(place(position), std::forward<Args>(args)...);
      } catch (...) {
        abandon(position);
        throw;
      }
    }
    publish(position);
    return ClaimResult::claimed;
  }

  /// Several consumers: as push(), but where the ring is full the oldest value goes to `take` and
  /// `value` into its slot. `full` only where that one's own sender has not published it yet.
  template <class Take>
  [[nodiscard]] ClaimResult force(T&& value, Take&& take) noexcept requires kConsumers {
    for (;;) {
      if (const auto result = push(Credit::any, std::move(value)); result != ClaimResult::full)
        return result;
      std::uint64_t head = head_.load(std::memory_order_relaxed);
      std::uint64_t tail = head + capacity();
      if (tail_.load(std::memory_order_relaxed) != tail) continue;  // not full any more, or closed
      auto& s = slot(head);
      const auto stamp = s.stamp.load(std::memory_order_acquire);  // SYNC slot-publish (consumer)
      if (stamp >> kStateBits == head && (stamp & kStates) == kFree) return ClaimResult::full;
      if (stamp >> kStateBits != head ||
          !head_.compare_exchange_strong(head, head + 1, std::memory_order_relaxed))
        continue;
      if ((stamp & kStates) == kReady) hand_over(s, take);
      // The slot is not free, so nobody else claims its next position; but it may have been closed.
      if (!tail_.compare_exchange_strong(tail, tail + 1, std::memory_order_relaxed)) {
        s.stamp.store((tail & ~kClosed) << kStateBits | kFree, std::memory_order_release);
        return ClaimResult::closed;
      }
      std::construct_at(s.value(), std::move(value));
      publish(tail);
      return ClaimResult::claimed;
    }
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

  // ── Consumers ────────────────────────────────────────────────────────────────────────────────

  /// Hands the next value to `take` as an rvalue, then destroys it. False: nothing is there, or it
  /// was claimed and not published yet. With one consumer a value whose `take` throws stays.
  template <class Take>
  [[nodiscard]] bool pop(Take&& take) noexcept(noexcept(take(std::declval<T&&>()))) {
    if constexpr (kConsumers) {
      std::uint64_t head = head_.load(std::memory_order_relaxed);
      for (;;) {
        auto& s = slot(head);
        // SYNC slot-publish (consumer)
        const auto stamp = s.stamp.load(std::memory_order_acquire);
        const auto ahead = static_cast<std::int64_t>((stamp >> kStateBits) - head);
        if (ahead != 0 || (stamp & kStates) == kFree) {
          // Empty, unless another consumer has moved on meanwhile.
          const auto now = head_.load(std::memory_order_relaxed);
          if (now == head) return false;
          head = now;
          continue;
        }
        // relaxed: the slot's stamp orders
        if (!head_.compare_exchange_weak(head, head + 1, std::memory_order_relaxed)) continue;
        const bool value = (stamp & kStates) == kReady;
        if (value) hand_over(s, take);
        // SYNC slot-free (consumer): the value is gone before this store.
        s.stamp.store((head + mask_ + 1) << kStateBits | kFree, std::memory_order_release);
        if (value) return true;
        ++head;
      }
    } else {
      // relaxed: the consumer is its only writer
      std::uint64_t head = head_.load(std::memory_order_relaxed);
      for (;;) {
        auto& s = slot(head);
        // SYNC slot-publish (consumer)
        const auto stamp = s.stamp.load(std::memory_order_acquire);
        const bool value = stamp == (head << kStateBits | kReady);
        if (!value && stamp != (head << kStateBits | kTombstoned)) {
          if (window_) return grant_living(window_->found_nothing(head)), false;
          grant();
          return false;
        }
        if (value) hand_over(s, take);
        // SYNC slot-free (consumer): the value is gone before this store.
        head_.store(++head, std::memory_order_release);
        if (head - granted_ >= batch_) {
          if (window_) {
            grant_living(window_->granted(head, tail()));
          } else {
            grant();
          }
        }
        if (value) return true;
      }
    }
  }

  /// One consumer: lets producers have all room that there is. It is not told of each place that
  /// becomes free, so as to leave the line to the producer. Otherwise does nothing.
  void grant() noexcept {
    if constexpr (!kConsumers) {
      const auto head = head_.load(std::memory_order_relaxed);
      if (granted_ == head) return;
      granted_ = head;
      limit_.store(head + mask_ + 1, std::memory_order_release);  // SYNC slot-free (consumer)
    }
  }

  /// Destroys what is there. As a consumer.
  void clear() noexcept {
    while (pop([](T&&) noexcept {})) {
    }
  }

  /// Whether a producer that sleeps is to be woken: in a full ring one place is room, in a smaller
  /// window perhaps not.
  [[nodiscard]] bool has_room() const noexcept { return size() < window(); }

  // ── Anybody ──────────────────────────────────────────────────────────────────────────────────

  [[nodiscard]] std::size_t capacity() const noexcept { return mask_ + 1; }
  /// So many places producers may fill.
  [[nodiscard]] std::uint64_t window() const noexcept {
    return window_ ? window_->now() : capacity();
  }
  [[nodiscard]] WindowStats flow() const noexcept {
    return window_ ? window_->stats() : WindowStats{capacity(), capacity(), capacity(), 0, {}};
  }
  /// Positions claimed so far, tombstones among them.
  [[nodiscard]] std::uint64_t tail() const noexcept {
    return tail_.load(std::memory_order_acquire) & ~kClosed;
  }
  /// Positions taken so far. SYNC slot-free
  [[nodiscard]] std::uint64_t head() const noexcept {
    return head_.load(std::memory_order_acquire);
  }
  /// Claimed and not taken, tombstones among them; of a moment that may be over.
  [[nodiscard]] std::size_t size() const noexcept {
    const auto head = this->head();  // first: it never passes the tail
    return static_cast<std::size_t>(std::min<std::uint64_t>(tail() - head, capacity()));
  }
  [[nodiscard]] bool closed() const noexcept {
    return (tail_.load(std::memory_order_acquire) & kClosed) != 0;
  }
  /// Closed, and all that was claimed was taken. SYNC closed
  [[nodiscard]] bool drained() const noexcept {
    const auto tail = tail_.load(std::memory_order_acquire);
    return (tail & kClosed) != 0 && head() == (tail & ~kClosed);
  }
  /// Claimed long enough ago to be passed by published ones, and not published: their threads stand
  /// still. Linear in the capacity.
  [[nodiscard]] std::size_t unpublished() const noexcept {
    std::size_t waiting = 0;
    std::size_t count = 0;
    for (auto at = head(), end = tail(); at < end; ++at) {
      const auto stamp = slot(at).stamp.load(std::memory_order_acquire);
      const bool there = stamp >> kStateBits == at && (stamp & kStates) != kFree;
      if (!there) {
        ++waiting;
      } else {
        count = waiting;
      }
    }
    return count;
  }

 private:
  // A stamp is a position and one of these.
  static constexpr unsigned kStateBits = 2;
  static constexpr std::uint64_t kStates = (1U << kStateBits) - 1;
  enum State : std::uint64_t { kFree = 0, kReady = 1, kTombstoned = 2 };

  static constexpr std::uint64_t kClosed = std::uint64_t{1} << 63U;
  /// In so many steps a ring's room comes back.
  static constexpr std::size_t kBatches = 8;

  struct Slot {
    std::atomic<std::uint64_t> stamp{0};
    alignas(T) std::byte bytes[sizeof(T)];  // NOLINT(modernize-avoid-c-arrays)
    [[nodiscard]] T* value() noexcept { return std::launder(reinterpret_cast<T*>(bytes)); }
  };

  [[nodiscard]] Slot& slot(std::uint64_t position) const noexcept {
    return slots_[position & mask_];
  }

  template <class Take>
  static void hand_over(Slot& s, Take&& take) noexcept(noexcept(take(std::declval<T&&>()))) {
    take(std::move(*s.value()));
    std::destroy_at(s.value());
  }

  /// How many of `count` places from `tail` on are free.
  [[nodiscard]] std::size_t room_at(std::uint64_t tail, std::size_t count, Credit credit) noexcept {
    if constexpr (kConsumers) {
      std::size_t room = 0;
      // SYNC slot-free (producer)
      while (room < count && slot(tail + room).stamp.load(std::memory_order_acquire) ==
                                 ((tail + room) << kStateBits | kFree))
        ++room;
      return room;
    } else {
      // SYNC seen-limit: what another producer's acquire made visible, is so here too.
      auto limit =
          seen_limit_.load(kProducers ? std::memory_order_acquire : std::memory_order_relaxed);
      if (static_cast<std::int64_t>(limit - tail) < static_cast<std::int64_t>(count)) {
        // SYNC slot-free (producer)
        const auto granted = limit_.load(std::memory_order_acquire);
        limit = std::max(limit, granted);
        if (static_cast<std::int64_t>(limit - tail) <= 0 && credit == Credit::any)
          limit = std::max(limit, head_.load(std::memory_order_acquire) + window());
        seen_limit_.store(limit, std::memory_order_release);
      }
      const auto room = static_cast<std::int64_t>(limit - tail);
      return room <= 0 ? 0 : std::min(count, static_cast<std::size_t>(room));
    }
  }

  void grant_living(std::uint64_t limit) noexcept {
    granted_ = head_.load(std::memory_order_relaxed);
    batch_ = window_->batch(kBatches);
    if (limit != limit_.load(std::memory_order_relaxed))
      limit_.store(limit, std::memory_order_release);  // SYNC slot-free (consumer)
  }

  const std::size_t mask_;
  const std::unique_ptr<SlotWindow> window_;  // null: the window is the capacity
  const std::unique_ptr<Slot[]> slots_;       // NOLINT(modernize-avoid-c-arrays)

  // Written by producers.
  alignas(kLine) std::atomic<std::uint64_t> tail_{0};
  std::atomic<std::uint64_t> seen_limit_;
  // Written by consumers now and then, read by producers that run out.
  alignas(kLine) std::atomic<std::uint64_t> limit_;
  // Written by consumers.
  alignas(kLine) std::atomic<std::uint64_t> head_{0};
  std::uint64_t granted_ = 0;  // one consumer: the head when limit_ was written
  std::uint64_t batch_;        // ... and after how many it is again
};

}  // namespace penstock::v2
