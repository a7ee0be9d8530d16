// ByteRing: variable-length records in contiguous memory, one consumer; one producer, or several
// threads of one process. One piece of code over any memory: the heap, shared memory, a registered
// mirror, a ring that a remote peer writes.
//
// Who writes what: producers write records and the claim cursor (`tail_`, private to their
// process); the consumer writes the credit (`RingControl::limit` and `consumed`).
//
// Invariants: a record lies in one piece; where it would not fit before the end of the ring, a
// padding record fills the end (docs/adr/001-padding.md). The header of the record at cursor c lies
// at c modulo the capacity, its `mark` is keyed by c and is stored last, so nothing else that ever
// lay there can be taken for it: no old payload, no header of an earlier lap
// (docs/adr/002-commit-marks.md). Claim, then commit per record, is Aeron's scheme (Real Logic,
// LogBuffer appender).
//
// Lifetime: neither end owns the memory; RingMemory::owner does.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "penstock/channel/barrier.hpp"
#include "penstock/channel/claim.hpp"
#include "penstock/transport/record.hpp"
#include "penstock/transport/transport.hpp"

namespace penstock::inline v1 {

#if defined(__SANITIZE_THREAD__)
extern "C" void __tsan_acquire(void* address);  // NOLINT
extern "C" void __tsan_release(void* address);  // NOLINT
/// ThreadSanitizer is told what a header's store orders, and not shown the store: the next lap's
/// payload comes to lie there, ordered by a consumer whom it does not see where that is another
/// process or a device.
__attribute__((no_sanitize("thread"), noinline)) inline void store_unseen(
    std::uint64_t& word, std::uint64_t value) noexcept {
  __atomic_store_n(&word, value, __ATOMIC_SEQ_CST);
}
#endif

/// One record, its header decoded once.
struct Record {
  Cursor begin = 0;
  Cursor end = 0;  ///< where the next one begins
  std::byte* payload = nullptr;
  std::uint32_t length = 0;
  std::uint8_t flags = 0;
};

enum class Inspection : std::uint8_t {
  absent,  ///< not committed yet
  record,
  malformed,  ///< committed, but its header lies: whoever wrote it breaks the protocol
};

/// The memory of a ring and the key that its marks are made with.
class RingView {
 public:
  explicit RingView(const RingMemory& memory) noexcept
      : data_(memory.data), capacity_(memory.capacity), key_(memory.key) {}

  [[nodiscard]] std::uint64_t capacity() const noexcept { return capacity_; }
  [[nodiscard]] const SessionKey& key() const noexcept { return key_; }
  [[nodiscard]] std::byte* at(Cursor cursor) const noexcept {
    return data_ + (cursor & (capacity_ - 1));
  }
  [[nodiscard]] RecordHeader& header(Cursor cursor) const noexcept {
    return *reinterpret_cast<RecordHeader*>(at(cursor));
  }
  /// Bytes from `cursor` to the end of the ring.
  [[nodiscard]] std::uint64_t room(Cursor cursor) const noexcept {
    return capacity_ - (cursor & (capacity_ - 1));
  }

  /// Stores a header and, with it, commits the record.
  /// SYNC record-commit (producer): the payload happens-before this store. Sequentially consistent
  /// because the producer next reads whether the consumer sleeps (SYNC receiver-sleep); a release
  /// is enough where the consumer then makes a `barrier`.
  void commit(Cursor at_cursor, std::uint32_t length, std::uint8_t flags,
              bool barrier) const noexcept {
    auto& h = header(at_cursor);
    const auto word = header_word(length, flags);
    const auto mark = key_.mark(at_cursor, word);
#if defined(__SANITIZE_THREAD__)
    __tsan_release(&h.mark);
    store_unseen(h.word, word);
    store_unseen(h.mark, mark);
    (void)barrier;
#else
    // relaxed: published by the mark
    std::atomic_ref(h.word).store(word, std::memory_order_relaxed);
    if (barrier) {
      std::atomic_ref(h.mark).store(mark, std::memory_order_release);
      std::atomic_signal_fence(std::memory_order_seq_cst);  // for the compiler
    } else {
      std::atomic_ref(h.mark).store(mark, std::memory_order_seq_cst);
    }
#endif
  }

  /// Stores the header of a record that is committed with one before it: whoever sees that one's
  /// mark sees this, too.
  void prepare(Cursor at_cursor, std::uint32_t length) const noexcept {
#if defined(__SANITIZE_THREAD__)
    commit(at_cursor, length, 0, true);
#else
    auto& h = header(at_cursor);
    const auto word = header_word(length, 0);
    // relaxed: published by the mark of the record before it
    std::atomic_ref(h.word).store(word, std::memory_order_relaxed);
    std::atomic_ref(h.mark).store(key_.mark(at_cursor, word), std::memory_order_relaxed);
#endif
  }

  /// A record was committed at `cursor`: its header word, copied once, so that all checks are on
  /// that.
  /// SYNC record-commit (consumer)
  [[nodiscard]] bool committed(Cursor cursor, std::uint64_t& word) const noexcept {
    auto& h = header(cursor);
    const auto mark = std::atomic_ref(h.mark).load(std::memory_order_seq_cst);
    word = std::atomic_ref(h.word).load(std::memory_order_relaxed);  // relaxed: ordered by the mark
    return mark == key_.mark(cursor, word);
  }

  /// A message without flags was committed at `cursor`, and ends no later than at `bound`, which
  /// lies ahead: its length. False is no verdict: inspect() says what is there.
  [[nodiscard]] bool plain(Cursor cursor, Cursor bound, std::uint64_t& length) const noexcept {
    return committed(cursor, length) && length == header_length(length) &&
           record_size(length) <= std::min(room(cursor), bound - cursor);
  }

  /// The committed record at `cursor`, whose end must not lie beyond `bound`.
  [[nodiscard]] Inspection inspect(Cursor cursor, Cursor bound, Record& out) const noexcept {
    std::uint64_t word = 0;
    if (!committed(cursor, word)) return Inspection::absent;
    return decode(cursor, word, bound, out) ? Inspection::record : Inspection::malformed;
  }

  /// Decodes a header word; false when it cannot be one.
  [[nodiscard]] bool decode(Cursor cursor, std::uint64_t word, Cursor bound,
                            Record& out) const noexcept {
    const auto length = header_length(word);
    const auto flags = header_flags(word);
    const auto size = record_size(length);
    if (word >> 40U != 0 || size > room(cursor) || cursor + size > bound) return false;
    out = {cursor, cursor + size, at(cursor) + sizeof(RecordHeader), length, flags};
    return true;
  }

  /// Committed messages in [from, to): a lower bound while producers and the consumer go on.
  /// Linear in the records; where some are claimed but not committed, in the bytes after them.
  [[nodiscard]] std::uint64_t count_messages(Cursor from, Cursor to) const noexcept {
    std::uint64_t count = 0;
    Record record;
    bool whole = true;
    while (from < to) {
      const auto word = std::atomic_ref(header(from).word)
                            .load(std::memory_order_relaxed);  // relaxed: a statistic
      // A record that was published hot has its proof in place of the mark: take its word for it.
      const bool proved =
          whole && (header_flags(word) & kSelfProved) != 0 && decode(from, word, to, record);
      if (!proved && inspect(from, to, record) != Inspection::record) {
        // Nobody knows how long it will be; the next committed one is known by its mark.
        whole = false;
        from += kRecordAlign;
        continue;
      }
      // Of several records of one message the last one counts.
      if ((record.flags & (kPadding | kTombstone | kFin | kFirst | kFragment)) == 0) ++count;
      from = record.end;
    }
    return count;
  }

 private:
  std::byte* data_;
  std::uint64_t capacity_;
  SessionKey key_;
};

/// A claimed record: room that is the producer's until it commits.
struct Claim {
  Cursor begin = 0;
  std::byte* payload = nullptr;
  std::uint32_t length = 0;
};

/// The producing side.
///
/// Thread-safety: claim() from one thread until share() was called, from any number after that;
/// everything else from any thread.
class RingProducer {
 public:
  RingProducer(const RingMemory& memory, std::uint64_t window) noexcept
      : ring_(memory), control_(*memory.control), window_(window), seen_limit_(window) {}

  /// The largest payload that always fits: padding may take as much again as the record.
  [[nodiscard]] static constexpr std::uint64_t max_payload(std::uint64_t window) noexcept {
    return window / 2 - sizeof(RecordHeader);
  }

  /// From now on several threads claim. To be called before the second one does.
  void share() noexcept { shared_.store(true, std::memory_order_relaxed); }  // relaxed: handed over

  /// Room for `length` bytes, at most max_payload(). Constant time; lock-free when shared.
  [[nodiscard]] ClaimResult claim(std::uint32_t length, Claim& out,
                                  Credit credit = Credit::granted) noexcept {
    return claim_ending(length, 0, credit, out);
  }
  /// Room for the last record: no claim succeeds after it.
  [[nodiscard]] ClaimResult claim_last(Claim& out, Credit credit) noexcept {
    return claim_ending(0, kClosed, credit, out);
  }

  /// Room for up to `count` records that follow each other without padding; `count` becomes how
  /// many. `length_of(i)`: bytes of the i-th, at most max_payload(). Linear in `count`; lock-free
  /// when shared.
  template <class LengthOf>
  [[nodiscard]] ClaimResult claim_run(std::size_t& count, LengthOf&& length_of, Cursor& begin,
                                      Cursor& end, Credit credit) noexcept {
    Cursor tail = tail_.load(std::memory_order_relaxed);  // relaxed: as claim_ending()
    for (;;) {
      if ((tail & kClosed) != 0) return ClaimResult::closed;
      const auto room = ring_.room(tail);
      const auto padding = record_size(length_of(0)) <= room ? 0 : room;
      begin = end = tail + padding;
      const auto edge = begin + ring_.room(begin);
      std::size_t fit = 0;
      for (; fit != count; ++fit) {
        const auto next = end + record_size(length_of(fit));
        if (next > edge) break;
        end = next;
      }
      // SYNC seen-limit: as claim_ending()
      if (end > seen_limit_.load(std::memory_order_acquire)) {
        const auto limit = credit_found(end, credit);
        after_consumer();
        seen_limit_.store(limit, std::memory_order_release);
        while (fit != 0 && end > limit) end -= record_size(length_of(--fit));
        if (fit == 0) {
          end += record_size(length_of(0));
          if (credit == Credit::granted || !fits_empty_ring(tail, end)) return ClaimResult::full;
          fit = 1;
        }
      }
      if (!shared_.load(std::memory_order_relaxed)) {
        tail_.store(end, std::memory_order_relaxed);
      } else if (!tail_.compare_exchange_weak(tail, end, std::memory_order_relaxed)) {
        continue;
      }
      commit_padding(tail, padding);
      count = fit;
      return ClaimResult::claimed;
    }
  }

  /// Commits all records of a run, whose payloads are there. The first one's mark comes last.
  template <class LengthOf>
  void commit_run(std::size_t count, LengthOf&& length_of, Cursor begin) noexcept {
    before_consumer();
    const auto ring = ring_;  // a copy, which a store to the ring does not touch
    auto at = begin + record_size(length_of(0));
    for (std::size_t i = 1; i != count; ++i) {
      ring.prepare(at, length_of(i));
      at += record_size(length_of(i));
    }
    ring.commit(begin, length_of(0), 0, consumer_makes_barriers());
  }

  /// Would claim() with any credit do something else than say `full`? Of a moment, where others
  /// claim.
  [[nodiscard]] bool may_claim(std::uint32_t length) const noexcept {
    const Cursor tail = tail_.load(std::memory_order_relaxed);  // relaxed: orders nothing
    const auto size = record_size(length);
    const auto room = ring_.room(tail & ~kClosed);
    const auto end = (tail & ~kClosed) + (size <= room ? 0 : room) + size;
    return (tail & kClosed) != 0 || end <= credit_found(end, Credit::any) ||
           fits_empty_ring(tail, end);
  }

  void commit(const Claim& claim, std::uint8_t flags = 0) noexcept {
    before_consumer();
    ring_.commit(claim.begin, claim.length, flags, consumer_makes_barriers());
  }

  /// Everything claimed so far ends here.
  [[nodiscard]] Cursor tail() const noexcept {
    return tail_.load(std::memory_order_relaxed) & ~kClosed;  // relaxed: a position, guards nothing
  }
  /// The last record was claimed. Relaxed: guards nothing.
  [[nodiscard]] bool closed() const noexcept {
    return (tail_.load(std::memory_order_relaxed) & kClosed) != 0;
  }
  [[nodiscard]] const RingView& view() const noexcept { return ring_; }

 private:
  // relaxed: a promise that is never taken back
  [[nodiscard]] bool consumer_makes_barriers() const noexcept {
    return enrolled_ && control_.receiver_barriers.load(std::memory_order_relaxed) != 0;
  }

  static constexpr Cursor kClosed = 1;  // cursors are multiples of kRecordAlign

  // What one producer wrote happens-before another's writing there in the next lap: by way of the
  // consumer, which ThreadSanitizer does not see when it is another process or a device.
#if defined(__SANITIZE_THREAD__)
  void before_consumer() noexcept { __tsan_release(&shared_); }
  void after_consumer() noexcept { __tsan_acquire(&shared_); }
#else
  static void before_consumer() noexcept {}
  static void after_consumer() noexcept {}
#endif

  [[nodiscard]] ClaimResult claim_ending(std::uint32_t length, Cursor last, Credit credit,
                                         Claim& out) noexcept {
    const auto size = record_size(length);
    // relaxed: with one producer nobody else writes it; with several the claim orders nothing but
    // itself, what is written into the room is published by its commit mark.
    Cursor tail = tail_.load(std::memory_order_relaxed);
    for (;;) {
      if ((tail & kClosed) != 0) return ClaimResult::closed;
      const auto room = ring_.room(tail);
      const auto padding = size <= room ? 0 : room;
      const auto end = tail + padding + size;
      // SYNC seen-limit: what another producer's acquire of the credit made visible, is so here too
      if (end > seen_limit_.load(std::memory_order_acquire)) {
        const auto limit = credit_found(end, credit);
        after_consumer();
        seen_limit_.store(limit, std::memory_order_release);
        if (end > limit && (credit == Credit::granted || !fits_empty_ring(tail, end)))
          return ClaimResult::full;
      }
      if (!shared_.load(std::memory_order_relaxed)) {
        tail_.store(end | last, std::memory_order_relaxed);
      } else if (!tail_.compare_exchange_weak(tail, end | last, std::memory_order_relaxed)) {
        continue;
      }
      commit_padding(tail, padding);
      out = {tail + padding, ring_.at(tail + padding) + sizeof(RecordHeader), length};
      return ClaimResult::claimed;
    }
  }

  void commit_padding(Cursor at, std::uint64_t padding) noexcept {
    if (padding == 0) return;
    ring_.commit(at, static_cast<std::uint32_t>(padding - sizeof(RecordHeader)), kPadding, true);
  }

  /// SYNC credit (producer): the consumer has read what lay there before this limit.
  [[nodiscard]] std::uint64_t credit_found(Cursor end, Credit credit) const noexcept {
    const auto limit = control_.limit.load(std::memory_order_acquire);
    if (end <= limit || credit == Credit::granted) return limit;
    // relaxed: any value that it had is as good, the ring is larger. 0 for remote rings.
    const auto window = control_.window.load(std::memory_order_relaxed);
    // SYNC sender-sleep (sender): sequentially consistent, after it was said that somebody waits
    return std::max(limit, control_.consumed.load(std::memory_order_seq_cst) + window);
  }

  /// Nothing is waiting: however small the window is by now, the next message may go, as large as
  /// it is. (Local rings; a remote receiver is asked.)
  [[nodiscard]] bool fits_empty_ring(Cursor tail, Cursor end) const noexcept {
    return control_.window.load(std::memory_order_relaxed) != 0 &&
           control_.consumed.load(std::memory_order_acquire) == tail &&  // SYNC credit
           end <= tail + window_;
  }

  const RingView ring_;
  RingControl& control_;
  const std::uint64_t window_;  // the largest
  const bool enrolled_ = enroll_in_barriers();
  std::atomic<bool> shared_{false};
  // Written by producers only: a line of their own.
  alignas(kLine) std::atomic<Cursor> tail_{0};
  std::atomic<std::uint64_t> seen_limit_;
};

}  // namespace penstock::inline v1
