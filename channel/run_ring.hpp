// RunRing: the SlotRing of one consumer. Messages are published in runs, and taken in runs.
//
// Who writes what: producers `tail_`, the places that they have claimed, and their stamps; the
// consumer `head_`, `seen_` and `limit_`. With one producer, `open_` and `fast_until_` are its own.
//
// Invariants: head_ <= tail_ <= head_ + capacity. A stamp that says more than the position of its
// place says up to where all places from there on are published. Positions are 62 bits wide and
// never come again, so what is left of an earlier lap says less: no ABA. The consumer stamps
// nothing free; it moves `limit_` on once for many places. So two that run one behind the other
// pass each line of places once, and no index.
//
// One producer publishes in order: several small values share a stamp, and the line with it. With
// several each place has its own, so that none waits for another; one that stops between claim and
// publication holds up what was claimed after it, and nothing else.
//
// Lifetime: the places are the ring's; values left in it are destroyed with it.
#pragma once

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <memory>
#include <new>
#include <type_traits>
#include <utility>

#include "penstock/channel/claim.hpp"
#include "penstock/channel/ring_ends.hpp"
#include "penstock/channel/slot_window.hpp"
#include "penstock/transport/line.hpp"

namespace penstock::v2 {

/// How many values share a line with their stamp; none where not one fits.
template <class T>
inline constexpr std::size_t kValuesPerLine =
    alignof(T) < kLine ? (kLine - std::max(sizeof(std::uint64_t), alignof(T))) / sizeof(T) : 0;

/// Where a ring's values and stamps lie: `kEach` values after a stamp of theirs.
template <class T, std::size_t kEach>
class StampedPlaces {
 public:
  explicit StampedPlaces(std::size_t capacity)
      // With several in a group, those in use may begin and end in the middle of one.
      : mask_(kEach == 1 ? capacity - 1 : std::bit_ceil(capacity / kEach + 2) - 1),
        groups_(std::make_unique<Group[]>(mask_ + 1)) {}

  [[nodiscard]] T* value(std::uint64_t position) const noexcept {
    return groups_[position / kEach & mask_].value(position % kEach);
  }
  [[nodiscard]] std::atomic<std::uint64_t>& stamp_of(const T* value) const noexcept {
    return group_of(value).stamp;
  }
  /// How many values from this one on lie one behind the other.
  [[nodiscard]] std::size_t adjacent(const T* value) const noexcept {
    return static_cast<std::size_t>(group_of(value).value(kEach) - value);
  }
  /// The value that comes `count` after this one, at most `adjacent`.
  [[nodiscard]] T* after(T* value, std::size_t count = 1) const noexcept {
    value += count;
    // By the address alone where groups are lines.
    constexpr std::size_t kEnd = (offsetof(Group, bytes) + kEach * sizeof(T)) % kLine;
    if (kEach > 1 && reinterpret_cast<std::uintptr_t>(value) % kLine != kEnd) return value;
    auto* next = &group_of(value - 1) + 1;
    return (next == &groups_[mask_] + 1 ? &groups_[0] : next)->value(0);
  }

 private:
  static constexpr std::size_t kAlign =
      kEach == 1 ? std::max(alignof(T), alignof(std::uint64_t)) : kLine;
  struct alignas(kAlign) Group {
    std::atomic<std::uint64_t> stamp{0};
    alignas(T) std::byte bytes[kEach * sizeof(T)];  // NOLINT(modernize-avoid-c-arrays)
    [[nodiscard]] T* value(std::size_t index) noexcept {
      return std::launder(reinterpret_cast<T*>(bytes)) + index;
    }
  };
  [[nodiscard]] static Group& group_of(const T* value) noexcept {
    auto at = reinterpret_cast<std::uintptr_t>(value);
    if constexpr (kEach == 1) {
      at -= offsetof(Group, bytes);
    } else {
      static_assert(sizeof(Group) == kLine);
      at &= ~std::uintptr_t{kLine - 1};
    }
    return *reinterpret_cast<Group*>(at);  // NOLINT(performance-no-int-to-ptr)
  }
  const std::size_t mask_;
  const std::unique_ptr<Group[]> groups_;  // NOLINT(modernize-avoid-c-arrays)
};

/// The same for large values: apart from their stamps, so that a run of them is one piece.
template <class T>
class StampedPlaces<T, 0> {
 public:
  explicit StampedPlaces(std::size_t capacity)
      : mask_(capacity - 1),
        values_(std::make_unique<Bytes[]>(capacity)),
        stamps_(std::make_unique<std::atomic<std::uint64_t>[]>(capacity)) {}

  [[nodiscard]] T* value(std::uint64_t position) const noexcept { return at(position & mask_); }
  [[nodiscard]] std::atomic<std::uint64_t>& stamp_of(const T* value) const noexcept {
    return stamps_[index_of(value)];
  }
  [[nodiscard]] std::size_t adjacent(const T* value) const noexcept {
    return mask_ + 1 - index_of(value);
  }
  [[nodiscard]] T* after(T* value, std::size_t count = 1) const noexcept {
    return at((index_of(value) + count) & mask_);
  }

 private:
  static constexpr std::size_t kAlign =
      sizeof(T) % kLine == 0 ? std::max(alignof(T), kLine) : alignof(T);
  struct alignas(kAlign) Bytes {
    std::byte bytes[sizeof(T)];  // NOLINT(modernize-avoid-c-arrays)
  };
  [[nodiscard]] T* at(std::size_t index) const noexcept {
    return std::launder(reinterpret_cast<T*>(values_[index].bytes));
  }
  [[nodiscard]] std::size_t index_of(const T* value) const noexcept {
    return static_cast<std::size_t>(reinterpret_cast<const Bytes*>(value) - values_.get());
  }
  const std::size_t mask_;
  // NOLINTBEGIN(modernize-avoid-c-arrays)
  // The values first: where there is no memory for them, none was touched for the stamps.
  const std::unique_ptr<Bytes[]> values_;
  const std::unique_ptr<std::atomic<std::uint64_t>[]> stamps_;
  // NOLINTEND(modernize-avoid-c-arrays)
};

/// Thread-safety: producers' calls from as many threads at a time as there are producers, the
/// consumer's from one; the rest from any.
template <class T, bool kProducers>
class RunRing : public RingEnds<kProducers> {
  using Ends = RingEnds<kProducers>;
  using Ends::capacity_;
  using Ends::head_;
  using Ends::kClosed;
  using Ends::tail_;
  static_assert(std::is_nothrow_destructible_v<T>);

 public:
  /// At most so many places lie one behind the other; 0: any number. With several producers each
  /// has a stamp of its own.
  static constexpr std::size_t kEach =
      kProducers ? std::min<std::size_t>(kValuesPerLine<T>, 1) : kValuesPerLine<T>;

  /// `capacity`: a power of two. `target`: above 0 the window lives. Throws std::bad_alloc.
  RunRing(std::size_t capacity, Duration target)
      : Ends(capacity),
        batch_(std::max<std::size_t>(1, capacity / kBatches)),
        window_(target > Duration::zero() ? std::make_unique<SlotWindow>(capacity, target)
                                          : nullptr),
        places_(capacity),
        marks_(kProducers ? nullptr : std::make_unique<std::atomic<std::uint8_t>[]>(capacity)),
        seen_limit_(capacity),
        fast_until_(capacity),
        next_(places_.value(0)),
        limit_(capacity),
        grant_at_(batch_),
        at_(places_.value(0)) {}
  RunRing(const RunRing&) = delete;
  RunRing& operator=(const RunRing&) = delete;
  RunRing(RunRing&&) = delete;
  RunRing& operator=(RunRing&&) = delete;
  ~RunRing() { clear(); }

  // ── Producers ────────────────────────────────────────────────────────────────────────────────

  /// Claims up to `count` places that follow each other; `first` is the first one, `count` becomes
  /// how many. Lock-free; its time does not depend on `count`.
  [[nodiscard]] ClaimResult claim(std::uint64_t& first, std::size_t& count,
                                  Credit credit = Credit::any) noexcept {
    const auto result = Ends::template claim_ends<NoBackoff>(
        first, count, [&](std::uint64_t tail) { return room_at(tail, count, credit); });
    if constexpr (!kProducers) {
      if (result == ClaimResult::claimed) {
        if (open_.load(std::memory_order_relaxed) == kNone)
          open_.store(first, std::memory_order_relaxed);
        fast_until_ = 0;
        next_ = places_.value(first + count);
      }
    }
    return result;
  }

  /// Where the value of a claimed place is made.
  [[nodiscard]] T* place(std::uint64_t position) noexcept { return places_.value(position); }
  /// How many places from `position` on lie one behind the other.
  [[nodiscard]] std::size_t adjacent(std::uint64_t position) const noexcept {
    return places_.adjacent(places_.value(position));
  }

  /// Publishes places of one claim that follow each other, values made. At least one.
  void publish(std::uint64_t first, std::size_t count = 1) noexcept {
    if constexpr (!kProducers) {
      if (open_.load(std::memory_order_relaxed) != first || Ends::tail() != first + count)
        return settle(first, count, kDone);
      open_.store(kNone, std::memory_order_relaxed);
      fast_until_ = seen_limit_.load(std::memory_order_relaxed);
    }
    stamp(places_.value(first), first + count);
  }
  /// Gives claimed places that follow each other back: the consumer passes over them.
  void abandon(std::uint64_t first, std::size_t count = 1) noexcept {
    if constexpr (kProducers) {
      places_.stamp_of(places_.value(first))
          .store((first + count) << 1U | kGiven, std::memory_order_release);
    } else {
      given_.store(std::max(given_.load(std::memory_order_relaxed), first + count),
                   std::memory_order_relaxed);
      settle(first, count, kGivenBack);
    }
  }

  /// Makes a value in the next place. When the constructor throws, the place is given back.
  template <class... Args>
  [[nodiscard]] ClaimResult push(Credit credit, Args&&... args) noexcept(
      std::is_nothrow_constructible_v<T, Args...>) {
    if constexpr (!kProducers && std::is_trivially_constructible_v<T, Args...>) {
      // No code of T's own, which might send into this ring, runs between claim and publication.
      const std::uint64_t tail = tail_.load(std::memory_order_relaxed);
      if (tail < fast_until_) [[likely]] {
        T* const place = next_;
        next_ = places_.after(place);
        std::construct_at(place, std::forward<Args>(args)...);
        tail_.store(tail + 1, std::memory_order_relaxed);
        stamp(place, tail + 1);
        return ClaimResult::claimed;
      }
      return push_slowly(credit, std::forward<Args>(args)...);
    } else {
      return claim_and_make<T>(*this, credit, std::forward<Args>(args)...);
    }
  }

  // ── The consumer ─────────────────────────────────────────────────────────────────────────────

  /// Hands the next value to `take` as an rvalue, then destroys it. False: nothing is there, or it
  /// was claimed and not published yet. A value whose `take` throws stays. `ended`: asked before
  /// anything new is looked for, which is not once clear() was called and this is true.
  template <class Take, class Ended = Never>
  [[nodiscard]] bool pop(Take take,
                         Ended ended = {}) noexcept(noexcept(take(std::declval<T&&>()))) {
    // relaxed: the consumer is the only writer
    std::uint64_t head = head_.load(std::memory_order_relaxed);
    if (head == seen_.load(std::memory_order_relaxed)) {
      if (ended()) return false;
      if (!look_quickly(head)) [[unlikely]] {
        head = look(head);
        if (head == kNone) return false;
      }
    }
    T* const value = at_;
    take(std::move(*value));
    std::destroy_at(value);
    at_ = places_.after(value);
    pass(head + 1);
    return true;
  }

  /// Moves up to `count` values to `out`; how many. One that throws stays, with those behind it.
  template <class Out>
  [[nodiscard]] std::size_t pop_many(std::size_t count, Out& out) {
    std::uint64_t head = head_.load(std::memory_order_relaxed);
    struct Taken {  // also where something throws
      RunRing& ring;
      const std::uint64_t& head;
      ~Taken() { ring.pass(head); }
    };
    const Taken taken{*this, head};
    std::size_t left = count;
    while (left != 0) {
      auto seen = seen_.load(std::memory_order_relaxed);
      if (head == seen) {
        if (!look_quickly(head)) [[unlikely]] {
          const auto next = look(head);
          if (next == kNone) break;
          head = next;
        }
        seen = seen_.load(std::memory_order_relaxed);
      }
      const auto some = std::min({left, batch_, places_.adjacent(at_), std::size_t{seen - head}});
      move_out(head, some, out);
      left -= some;
      if (head >= grant_at_) pass(head);
    }
    return count - left;
  }

  /// Destroys what is there.
  void clear() noexcept {
    while (pop([](T&&) noexcept {})) {
    }
  }

  // ── Anybody ──────────────────────────────────────────────────────────────────────────────────

  /// So many places producers may fill.
  [[nodiscard]] std::uint64_t window() const noexcept {
    return window_ ? window_->now() : capacity_;
  }
  /// Whether a producer that sleeps is to be woken: in a full ring one place is room, in a smaller
  /// window perhaps not.
  [[nodiscard]] bool has_room() const noexcept { return Ends::size() < window(); }
  [[nodiscard]] WindowStats flow() const noexcept {
    return window_ ? window_->stats() : Ends::flow();
  }

  /// Claimed long enough ago to be passed by published ones, and not published: their threads stand
  /// still. Linear in the capacity.
  [[nodiscard]] std::size_t unpublished() const noexcept {
    std::size_t waiting = 0;
    std::size_t count = 0;
    const auto visit = [&](bool there) { there ? void(count = waiting) : void(++waiting); };
    // relaxed: what is counted may be over
    if constexpr (kProducers) {
      auto at = std::max(seen_.load(std::memory_order_relaxed), Ends::head());
      for (const auto end = Ends::tail(); at < end; ++at) {
        const auto upto = places_.stamp_of(places_.value(at)).load(std::memory_order_relaxed) >> 1U;
        visit(upto > at);
        if (upto > at) at = upto - 1;
      }
    } else {
      auto at = open_.load(std::memory_order_relaxed);
      if (at == kNone) return 0;
      for (const auto end = std::min(Ends::tail(), at + capacity_); at < end; ++at)
        visit(mark(at).load(std::memory_order_relaxed) != kNothing);
    }
    return count;
  }

 private:
  static constexpr std::uint64_t kNone = ~std::uint64_t{0};
  /// In so many steps a ring's room comes back.
  static constexpr std::size_t kBatches = 8;
  /// In a stamp, below the position: the run was given back. (Several producers.)
  static constexpr std::uint64_t kGiven = 1;
  /// One producer: what is out of turn. A place that was given back keeps its mark until the
  /// consumer has passed it, one that was published until those before it are.
  enum Mark : std::uint8_t { kNothing = 0, kDone, kGivenBack };

  template <class... Args>
  [[nodiscard, gnu::noinline]] ClaimResult push_slowly(Credit credit, Args&&... args) noexcept(
      std::is_nothrow_constructible_v<T, Args...>) {
    return claim_and_make<T>(*this, credit, std::forward<Args>(args)...);
  }

  /// SYNC run-publish (producer): the values happen-before this store.
  void stamp(T* first, std::uint64_t end) noexcept {
    places_.stamp_of(first).store(end << 1U, std::memory_order_release);
  }
  [[nodiscard]] std::atomic<std::uint8_t>& mark(std::uint64_t position) const noexcept {
    return marks_[position & (capacity_ - 1)];
  }

  /// One producer: places are done out of turn, or others are still open.
  void settle(std::uint64_t first, std::size_t count, Mark done) noexcept {
    // relaxed: published by the stamp
    for (auto at = first; at != first + count; ++at)
      mark(at).store(done, std::memory_order_relaxed);
    auto at = open_.load(std::memory_order_relaxed);
    if (at != first) return;
    const auto end = Ends::tail();
    for (; at != end; ++at) {
      const auto now = mark(at).load(std::memory_order_relaxed);
      if (now == kNothing) break;
      if (now == kDone) mark(at).store(kNothing, std::memory_order_relaxed);
      stamp(places_.value(at), at + 1);
    }
    open_.store(at == end ? kNone : at, std::memory_order_relaxed);
    if (at == end) fast_until_ = seen_limit_.load(std::memory_order_relaxed);
  }

  /// How many of `count` places from `tail` on are free.
  [[nodiscard]] std::size_t room_at(std::uint64_t tail, std::size_t count, Credit credit) noexcept {
    // SYNC seen-limit: what another producer's acquire made visible, is so here too.
    auto limit =
        seen_limit_.load(kProducers ? std::memory_order_acquire : std::memory_order_relaxed);
    if (static_cast<std::int64_t>(limit - tail) < static_cast<std::int64_t>(count)) {
      // SYNC place-free (producer)
      limit = std::max(limit, limit_.load(std::memory_order_acquire));
      if (static_cast<std::int64_t>(limit - tail) <= 0 && credit == Credit::any)
        limit = std::max(limit, head_.load(std::memory_order_acquire) + window());
      seen_limit_.store(limit, std::memory_order_release);
    }
    const auto room = static_cast<std::int64_t>(limit - tail);
    return room <= 0 ? 0 : std::min(count, static_cast<std::size_t>(room));
  }

  /// All seen was taken, up to `head`. True: there is more; false: perhaps.
  [[nodiscard]] bool look_quickly(std::uint64_t head) noexcept {
    // SYNC run-publish (consumer)
    const auto stamp = places_.stamp_of(at_).load(std::memory_order_acquire);
    if (stamp >> 1U <= head) return false;
    if (kProducers ? (stamp & kGiven) != 0 : head < given_.load(std::memory_order_relaxed))
      return false;
    seen_.store(stamp >> 1U, std::memory_order_relaxed);
    return true;
  }
  /// As look_quickly(), but passes over what was given back, to the next value: its position, or
  /// kNone.
  [[nodiscard, gnu::noinline]] std::uint64_t look(std::uint64_t head) noexcept {
    for (;;) {
      // SYNC run-publish (consumer)
      const auto stamp = places_.stamp_of(at_).load(std::memory_order_acquire);
      const auto upto = stamp >> 1U;
      if (upto <= head) {
        grant(head);
        if (window_) grant_living(window_->found_nothing(head));
        return kNone;
      }
      auto end = upto;
      if constexpr (kProducers) {
        if ((stamp & kGiven) != 0) head = upto;
      } else {
        // relaxed: the stamp orders
        const auto given_back = [&](std::uint64_t at) {
          return mark(at).load(std::memory_order_relaxed) == kGivenBack;
        };
        if (head < given_.load(std::memory_order_relaxed)) {
          for (; head != upto && given_back(head); ++head)
            mark(head).store(kNothing, std::memory_order_relaxed);
          for (end = head; end != upto && !given_back(end);) ++end;
        }
      }
      seen_.store(end, std::memory_order_relaxed);
      at_ = places_.value(head);
      pass(head);
      if (head != end) return head;
    }
  }

  /// All before `head` was taken: producers are given the room.
  void grant(std::uint64_t head) noexcept {
    // SYNC place-free (consumer): the values are gone before these stores.
    head_.store(head, std::memory_order_release);
    if (head == granted_) return;
    granted_ = head;
    if (window_) return grant_living(window_->granted(head, Ends::tail()));
    grant_at_ = head + batch_;
    limit_.store(head + capacity_, std::memory_order_release);
  }
  /// All before `head` was taken: producers are given the room once it is a batch. They are not
  /// told of each place that becomes free, so as to leave the line to them.
  void pass(std::uint64_t head) noexcept {
    if (head < grant_at_) [[likely]] {
      head_.store(head, std::memory_order_release);  // SYNC place-free (consumer)
    } else {
      grant(head);
    }
  }
  void grant_living(std::uint64_t limit) noexcept {
    batch_ = window_->batch(kBatches);
    grant_at_ = granted_ + batch_;
    if (limit != limit_.load(std::memory_order_relaxed))
      limit_.store(limit, std::memory_order_release);  // SYNC place-free (consumer)
  }

  /// Moves `count` values that lie one behind the other, from `head` on.
  template <class Out>
  void move_out(std::uint64_t& head, std::size_t count, Out& out) {
    if constexpr (IteratorOverBytes<Out, T>) {
      copy_values<kEach>(std::to_address(out), at_, count);
      out += static_cast<std::iter_difference_t<Out>>(count);
      at_ = places_.after(at_, count);
      head += count;
    } else {
      for (const auto end = head + count; head != end; ++head) {
        *out = std::move(*at_);
        ++out;
        std::destroy_at(at_);
        at_ = places_.after(at_);
      }
    }
  }

  // What is read by both begins a line: the end of head_'s would be used else.
  // (Of a living window the consumer now and then writes the first.)
  alignas(kLine) std::size_t batch_;
  const std::unique_ptr<SlotWindow> window_;  // null: the window is the capacity
  const StampedPlaces<T, kEach> places_;
  const std::unique_ptr<std::atomic<std::uint8_t>[]> marks_;  // NOLINT(modernize-avoid-c-arrays)
  /// One producer: one past the last place that was given back. Written before its stamp.
  std::atomic<std::uint64_t> given_{0};

  // Written by producers.
  alignas(kLine) std::atomic<std::uint64_t> seen_limit_;
  /// One producer: below this position places can be claimed and published in one step. None can
  /// while others are open.
  std::uint64_t fast_until_;
  /// One producer: the first place that was claimed and not published.
  std::atomic<std::uint64_t> open_{kNone};
  T* next_;  // one producer: the place of the tail
  // Written by the consumer now and then, read by producers that run out.
  alignas(kLine) std::atomic<std::uint64_t> limit_;
  // Written by the consumer.
  alignas(kLine) std::atomic<std::uint64_t> seen_{
      0};                      // up to here values are there, one behind the other
  std::uint64_t granted_ = 0;  // the head when limit_ was written
  std::uint64_t grant_at_;     // ... and when it will be
  T* at_;                      // the head's place
};

}  // namespace penstock::v2
