// TurnRing: the SlotRing of several consumers. A slot's stamp says whose turn it is.
//
// Who writes what: producers `tail_` and the slots that they have claimed; consumers `head_` and
// the slots that they have taken, whose stamps they set free.
//
// Invariants: a slot's stamp names the position that it serves, so nothing of an earlier lap can be
// taken for it (no ABA: positions are 62 bits wide and never come again). head_ <= tail_ <=
// head_ + capacity. A position that was claimed is published, as a value or as given back.
// Consumers finish out of turn, so each sets its own slot free (Vyukov, "Bounded MPMC queue",
// 1024cores.net).
//
// A thread that stops between claim and publication holds up what was claimed after it, and nothing
// else: consumers see an empty ring and go on when it does, other producers see a full one.
//
// Lifetime: the slots are the ring's; values left in it are destroyed with it.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <type_traits>
#include <utility>

#include "penstock/channel/claim.hpp"
#include "penstock/channel/ring_ends.hpp"
#include "penstock/transport/line.hpp"

namespace penstock::v2 {

/// Thread-safety: producers' calls from as many threads at a time as the topology has producers,
/// consumers' likewise; the rest from any.
template <class T, bool kProducers>
class TurnRing : public RingEnds<kProducers> {
  using Ends = RingEnds<kProducers>;
  using Ends::capacity_;
  using Ends::head_;
  using Ends::kClosed;
  using Ends::tail_;
  static_assert(std::is_nothrow_destructible_v<T>);
  static_assert(std::is_nothrow_move_constructible_v<T>,
                "with several consumers a message whose move throws would be lost, as its place in "
                "the queue is gone by then: send std::unique_ptr<T>, or have one consumer");

 public:
  /// At most so many places lie one behind the other; 0: any number.
  static constexpr std::size_t kEach = 1;

  /// `capacity`: a power of two. The window is the capacity: places come back one by one. Throws
  /// std::bad_alloc.
  TurnRing(std::size_t capacity, Duration /*target*/)
      : Ends(capacity), slots_(std::make_unique<Slot[]>(capacity)) {
    for (std::size_t i = 0; i < capacity; ++i)
      slots_[i].stamp.store(i << kStateBits | kFree, std::memory_order_relaxed);
  }
  TurnRing(const TurnRing&) = delete;
  TurnRing& operator=(const TurnRing&) = delete;
  TurnRing(TurnRing&&) = delete;
  TurnRing& operator=(TurnRing&&) = delete;
  ~TurnRing() { clear(); }

  // ── Producers ────────────────────────────────────────────────────────────────────────────────

  /// Claims up to `count` places that follow each other; `first` is the first one, `count` becomes
  /// how many. Lock-free; linear in `count`.
  [[nodiscard]] ClaimResult claim(std::uint64_t& first, std::size_t& count,
                                  Credit /*credit*/ = Credit::any) noexcept {
    return Ends::template claim_ends<Backoff>(first, count, [&](std::uint64_t tail) {
      std::size_t room = 0;
      // SYNC slot-free (producer)
      while (room < count && slot(tail + room).stamp.load(std::memory_order_acquire) ==
                                 ((tail + room) << kStateBits | kFree))
        ++room;
      return room;
    });
  }

  /// Where the value of a claimed place is made.
  [[nodiscard]] T* place(std::uint64_t position) noexcept { return slot(position).value(); }
  /// How many places from `position` on lie one behind the other.
  [[nodiscard]] static std::size_t adjacent(std::uint64_t /*position*/) noexcept { return 1; }

  /// Publishes places that follow each other, values made.
  void publish(std::uint64_t first, std::size_t count = 1) noexcept { stamp(first, count, kReady); }
  /// Gives claimed places that follow each other back: consumers pass over them.
  void abandon(std::uint64_t first, std::size_t count = 1) noexcept {
    stamp(first, count, kGivenBack);
  }

  /// Makes a value in the next place. When the constructor throws, the place is given back.
  template <class... Args>
  [[nodiscard]] ClaimResult push(Credit credit, Args&&... args) noexcept(
      std::is_nothrow_constructible_v<T, Args...>) {
    return claim_and_make<T>(*this, credit, std::forward<Args>(args)...);
  }

  /// As push(), but where the ring is full the oldest value goes to `take` and
  /// `value` into its slot. `full` only where that one's own sender has not published it yet.
  template <class Take>
  [[nodiscard]] ClaimResult force(T&& value, Take&& take) noexcept {
    for (;;) {
      if (const auto result = push(Credit::any, std::move(value)); result != ClaimResult::full)
        return result;
      std::uint64_t head = head_.load(std::memory_order_relaxed);
      std::uint64_t tail = head + capacity_;
      if (tail_.load(std::memory_order_relaxed) != tail) continue;  // not full any more, or closed
      auto& s = slot(head);
      const auto stamp = s.stamp.load(std::memory_order_acquire);  // SYNC slot-publish (consumer)
      if (stamp >> kStateBits == head && (stamp & kStates) == kFree) return ClaimResult::full;
      if (stamp >> kStateBits != head ||
          !head_.compare_exchange_strong(head, head + 1, std::memory_order_relaxed))
        continue;
      if ((stamp & kStates) == kReady) {
        take(std::move(*s.value()));
        std::destroy_at(s.value());
      }
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

  // ── Consumers ────────────────────────────────────────────────────────────────────────────────

  /// Hands the next value to `take` as an rvalue, then destroys it. False: nothing is there, or it
  /// was claimed and not published yet. A value whose `take` throws is gone. `ended`: nothing
  /// is taken where it is true.
  template <class Take, class Ended = Never>
  [[nodiscard]] bool pop(Take take,
                         Ended ended = {}) noexcept(noexcept(take(std::declval<T&&>()))) {
    if (ended()) return false;
    bool took = false;
    while (!took) {
      std::uint64_t head = 0;
      if (take_turns(head, 1) == 0) return false;
      took = empty_slot(head, take);
    }
    return true;
  }

  /// Moves up to `count` values to `out`; how many. One that throws is gone, those behind it stay.
  template <class Out>
  [[nodiscard]] std::size_t pop_many(std::size_t count, Out& out) {
    const auto take = [&out](T&& value) noexcept(noexcept(*out = std::move(value), ++out)) {
      *out = std::move(value);
      ++out;
    };
    std::size_t taken = 0;
    if constexpr (noexcept(take(std::declval<T&&>()))) {
      while (taken < count) {
        std::uint64_t head = 0;
        const auto turns = take_turns(head, count - taken);
        if (turns == 0) break;
        for (std::size_t i = 0; i < turns; ++i) taken += empty_slot(head + i, take) ? 1 : 0;
      }
    } else {
      while (taken < count && pop(take)) ++taken;
    }
    return taken;
  }

  /// Destroys what is there. As a consumer.
  void clear() noexcept {
    while (pop([](T&&) noexcept {})) {
    }
  }

  // ── Anybody ──────────────────────────────────────────────────────────────────────────────────

  /// Claimed long enough ago to be passed by published ones, and not published: their threads stand
  /// still. Linear in the capacity.
  [[nodiscard]] std::size_t unpublished() const noexcept {
    std::size_t waiting = 0;
    std::size_t count = 0;
    for (auto at = Ends::head(), end = Ends::tail(); at < end; ++at) {
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
  enum State : std::uint64_t { kFree = 0, kReady = 1, kGivenBack = 2 };

  struct Slot {
    std::atomic<std::uint64_t> stamp{0};
    alignas(T) std::byte bytes[sizeof(T)];  // NOLINT(modernize-avoid-c-arrays)
    [[nodiscard]] T* value() noexcept { return std::launder(reinterpret_cast<T*>(bytes)); }
  };

  [[nodiscard]] Slot& slot(std::uint64_t position) const noexcept {
    return slots_[position & (capacity_ - 1)];
  }

  /// SYNC slot-publish (producer): the values happen-before these stores.
  void stamp(std::uint64_t first, std::size_t count, State state) noexcept {
    for (auto at = first; at != first + count; ++at)
      slot(at).stamp.store(at << kStateBits | state, std::memory_order_release);
  }

  /// As a consumer: takes up to `count` places that are done, from `head` on; how many.
  [[nodiscard]] std::size_t take_turns(std::uint64_t& head, std::size_t count) noexcept {
    head = head_.load(std::memory_order_relaxed);
    Backoff race;
    for (;;) {
      std::size_t done = 0;
      for (; done < count; ++done) {
        // SYNC slot-publish (consumer)
        const auto stamp = slot(head + done).stamp.load(std::memory_order_acquire);
        if (stamp >> kStateBits != head + done || (stamp & kStates) == kFree) break;
      }
      if (done == 0) {
        // Empty, unless another consumer has moved on meanwhile.
        const auto now = head_.load(std::memory_order_relaxed);
        if (now == head) return 0;
        head = now;
        continue;
      }
      // relaxed: the slots' stamps order
      if (head_.compare_exchange_weak(head, head + done, std::memory_order_relaxed)) return done;
      race.lost();
      head = head_.load(std::memory_order_relaxed);
    }
  }

  /// Hands on what is in a slot that was taken, and sets the slot free. False: it was given back.
  template <class Take>
  [[nodiscard]] bool empty_slot(std::uint64_t position,
                                Take& take) noexcept(noexcept(take(std::declval<T&&>()))) {
    struct Emptied {  // also where `take` throws
      Slot& slot;
      const std::uint64_t free;
      const bool value;
      ~Emptied() {
        if (value) std::destroy_at(slot.value());
        // SYNC slot-free (consumer): the value is gone before this store.
        slot.stamp.store(free, std::memory_order_release);
      }
    };
    auto& from = slot(position);
    // relaxed: has been acquired by who took it
    const bool value = (from.stamp.load(std::memory_order_relaxed) & kStates) == kReady;
    const Emptied emptied{from, (position + capacity_) << kStateBits | kFree, value};
    if (value) take(std::move(*from.value()));
    return value;
  }

  // Begins a line: the end of head_'s would be used else.
  alignas(kLine) const std::unique_ptr<Slot[]> slots_;  // NOLINT(modernize-avoid-c-arrays)
};

}  // namespace penstock::v2
