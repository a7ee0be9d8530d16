// What two sides agree on inside a ring: records, the sender's tail line, the receiver's credit
// line. docs/wire.md has the same layouts byte by byte; tests/transport/layout_test.cpp pins them.
//
// Every word that the other side writes carries a keyed check, because on some devices a reader may
// see any mixture of old and new bytes, inside an eight-byte word too
// (docs/adr/003-keyed-checks.md).
#pragma once

#include <array>
#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>

#include "penstock/transport/line.hpp"
#include "penstock/transport/publish_mode.hpp"

namespace penstock::inline v1 {

static_assert(std::endian::native == std::endian::little, "the ring layouts are little-endian");

/// Every record starts at a multiple of this, so a header never straddles the end of a ring.
inline constexpr std::size_t kRecordAlign = 16;

/// A cursor is a free-running 64-bit byte position in a session; `cursor & (capacity - 1)` is its
/// place in the ring.
using Cursor = std::uint64_t;

enum RecordFlag : std::uint8_t {
  kPadding = 1U << 0U,     ///< fills the end of the ring; never handed out
  kTombstone = 1U << 1U,   ///< a reservation that was dropped; never handed out
  kFin = 1U << 2U,         ///< the sender closed: nothing follows
  kFragment = 1U << 3U,    ///< a piece of a message, but not the last
  kLanding = 1U << 4U,     ///< with kFirst: asks for memory to land in; with kLast: landed there
  kSelfProved = 1U << 5U,  ///< `mark` is a keyed hash over cursor, word and payload
  kFirst = 1U << 6U,       ///< before the pieces of a message: its length, 8 bytes
  kLast = 1U << 7U,        ///< the last piece
};
/// A record of a message that does not come in one has one of these, or kLanding and one of them.
inline constexpr std::uint8_t kInPieces = kFirst | kFragment | kLast | kLanding;

/// In front of every payload, 16 bytes. `word` holds the payload's length in bytes (bits 0-31) and
/// the flags (bits 32-39); bits 40-63 are zero. `mark` is stored last: it commits the record.
struct RecordHeader {
  std::uint64_t word;
  std::uint64_t mark;
};
static_assert(sizeof(RecordHeader) == kRecordAlign);

/// Written by the sender at the start of the receiver's region, 16 bytes: everything before `tail`
/// has landed.
struct TailLine {
  std::uint64_t tail;
  std::uint64_t check;
};

/// Written by the receiver into the sender's memory, one cache line. All fields are cumulative: a
/// lost, repeated or overtaken write does no harm.
struct CreditLine {
  std::uint64_t consumed;  ///< everything before this cursor has been consumed
  std::uint64_t limit;     ///< the sender may fill the ring up to this cursor
  /// 0: never slept; else cursor|1 at which the receiver went to sleep. In mode immediate: up to
  /// this cursor the immediates were taken, and their receives posted anew.
  std::uint64_t armed_at;
  std::uint64_t mode;   ///< sequence number << 8 | PublishMode
  std::uint64_t check;  ///< over the four words before it
  std::array<std::uint64_t, 3> reserved;
};
static_assert(sizeof(CreditLine) == kLine);

/// Written by the receiver into the sender's memory, one cache line after the credit line: the
/// answer to a record with kFirst and kLanding.
struct OfferLine {
  std::uint64_t id;      ///< cursor|1 of the record that asked
  std::uint64_t length;  ///< bytes that may be written, as many as were asked for; 0: refused
  std::array<std::uint64_t, 4> place;  ///< where, as the receiver's link says it (LandingPlace)
  std::uint64_t check;                 ///< over the six words before it
  std::uint64_t reserved;
};
static_assert(sizeof(OfferLine) == kLine);
/// Where in the sender's region.
inline constexpr std::size_t kOfferOffset = sizeof(CreditLine);

/// What an immediate says (its upper byte).
enum class Immediate : std::uint32_t {
  wake = 1U << 24U,  ///< to a receiver that sleeps: your ring has news
  /// To a receiver: I wait for more consumption than the low 24 bits say (a cursor / kRecordAlign);
  /// answer with `credit` when there is some.
  blocked = 2U << 24U,
  credit = 3U << 24U,  ///< to a sender: your credit line has news
  landed = 4U << 24U,  ///< to a receiver: the low 24 bits are the new tail / kRecordAlign
  /// To a receiver that asked for another mode: from the cursor in the low 24 bits on I keep to it.
  adopted = 5U << 24U,
  offered = 6U << 24U,  ///< to a sender: your offer line has news
  rails = 128U << 24U,  ///< between the ends of a RailedLink (railed_link.cpp)
};
inline constexpr std::uint32_t kImmediateKind = 0xFF00'0000U;
/// Immediates carry cursors modulo this.
inline constexpr std::uint64_t kImmediateRange = (std::uint64_t{1} << 24U) * kRecordAlign;
/// A cursor as an immediate carries it.
[[nodiscard]] constexpr std::uint32_t low_bits(Cursor cursor) noexcept {
  return static_cast<std::uint32_t>(cursor / kRecordAlign) & ~kImmediateKind;
}
/// How far the cursor in `immediate` lies ahead of `from`: less than kImmediateRange.
[[nodiscard]] constexpr std::uint64_t distance_ahead(std::uint32_t immediate,
                                                     Cursor from) noexcept {
  return (std::uint64_t{immediate & ~kImmediateKind} * kRecordAlign - from) & (kImmediateRange - 1);
}
/// `landed` counts in kRecordAlign units modulo 2^24, so a ring may not be larger than half of it.
inline constexpr std::uint64_t kMaxCapacity = std::uint64_t{128} << 20U;
inline constexpr std::uint64_t kMinCapacity = 4096;

/// The regions that a receiver exposes to a remote sender.
inline constexpr std::uint32_t kRingRegion = 0;
inline constexpr std::uint32_t kTailRegion = 1;  ///< the tail line

/// Multiply-and-fold of two words (the mixing step of the wyhash family).
[[nodiscard]] constexpr std::uint64_t fold(std::uint64_t a, std::uint64_t b) noexcept {
  __extension__ using Wide = unsigned __int128;
  const Wide product = static_cast<Wide>(a) * b;
  return static_cast<std::uint64_t>(product) ^ static_cast<std::uint64_t>(product >> 64U);
}

/// The secret that the two ends of a session share; everything that proves itself is keyed by it,
/// so no payload can be made to look like a header. 32 random bytes, drawn by the receiver.
struct SessionKey {
  std::array<std::uint64_t, 4> word{};

  /// Draws a key from the kernel. Throws SetupError when the kernel has no randomness to give.
  static SessionKey random();

  /// The commit mark of a record at `cursor`.
  [[nodiscard]] constexpr std::uint64_t mark(Cursor cursor, std::uint64_t header) const noexcept {
    return fold(header ^ word[0], cursor ^ word[1]);
  }
  [[nodiscard]] constexpr std::uint64_t tail_check(std::uint64_t tail) const noexcept {
    return fold(tail ^ word[2], word[3]);
  }
  [[nodiscard]] constexpr std::uint64_t credit_check(const CreditLine& line) const noexcept {
    const std::uint64_t first = fold(line.consumed ^ word[3], line.limit ^ word[1]);
    return fold(first ^ line.armed_at, line.mode ^ word[2]);
  }
  [[nodiscard]] constexpr std::uint64_t offer_check(const OfferLine& line) const noexcept {
    const std::uint64_t first = fold(line.id ^ word[0], line.length ^ word[3]);
    const std::uint64_t second = fold(line.place[0] ^ word[1], line.place[1] ^ word[2]);
    const std::uint64_t third = fold(line.place[2] ^ word[3], line.place[3] ^ word[0]);
    return fold(first ^ word[1], second ^ word[2] ^ std::rotl(third, 1));
  }
};

[[nodiscard]] constexpr std::uint64_t header_word(std::uint32_t length,
                                                  std::uint8_t flags) noexcept {
  return static_cast<std::uint64_t>(flags) << 32U | length;
}
[[nodiscard]] constexpr std::uint32_t header_length(std::uint64_t word) noexcept {
  return static_cast<std::uint32_t>(word);
}
[[nodiscard]] constexpr std::uint8_t header_flags(std::uint64_t word) noexcept {
  return static_cast<std::uint8_t>(word >> 32U);
}
/// Bytes a record with this payload takes in a ring, header and alignment included.
[[nodiscard]] constexpr std::uint64_t record_size(std::uint64_t payload) noexcept {
  return (sizeof(RecordHeader) + payload + kRecordAlign - 1) & ~std::uint64_t{kRecordAlign - 1};
}

/// One load of a word that a device or another process may write at this moment.
/// Acquire: pairs with the writer's release store (local) or the device's placement order (remote).
[[nodiscard]] inline std::uint64_t load_shared(const std::uint64_t& word) noexcept {
  // atomic_ref wants a mutable reference; the object is never written through it here.
  return std::atomic_ref<std::uint64_t>(const_cast<std::uint64_t&>(word))
      .load(std::memory_order_acquire);
}

/// Reads a tail line that a device may be writing: the value, or nothing when it is torn.
[[nodiscard]] inline std::optional<std::uint64_t> read_tail(const TailLine& line,
                                                            const SessionKey& key) noexcept {
  const std::uint64_t tail = load_shared(line.tail);
  if (load_shared(line.check) != key.tail_check(tail)) return std::nullopt;
  return tail;
}

/// Writes a tail line that other threads may be scanning. Relaxed: what a scan finds is a hint.
inline void write_tail(TailLine& line, const TailLine& value) noexcept {
  std::atomic_ref(line.tail).store(value.tail, std::memory_order_relaxed);
  std::atomic_ref(line.check).store(value.check, std::memory_order_relaxed);
}

/// Reads a credit line that a device may be writing: a copy, or nothing when it is torn.
[[nodiscard]] inline std::optional<CreditLine> read_credit(const CreditLine& line,
                                                           const SessionKey& key) noexcept {
  CreditLine copy{};
  copy.consumed = load_shared(line.consumed);
  copy.limit = load_shared(line.limit);
  copy.armed_at = load_shared(line.armed_at);
  copy.mode = load_shared(line.mode);
  copy.check = load_shared(line.check);
  if (copy.check != key.credit_check(copy)) return std::nullopt;
  return copy;
}

/// What read_credit() gave before is there still, whole.
[[nodiscard]] inline bool is_credit(const CreditLine& line, const CreditLine& known) noexcept {
  return ((load_shared(line.consumed) ^ known.consumed) | (load_shared(line.limit) ^ known.limit) |
          (load_shared(line.armed_at) ^ known.armed_at) | (load_shared(line.mode) ^ known.mode) |
          (load_shared(line.check) ^ known.check)) == 0;
}

/// As read_credit().
[[nodiscard]] inline std::optional<OfferLine> read_offer(const OfferLine& line,
                                                         const SessionKey& key) noexcept {
  OfferLine copy{};
  copy.id = load_shared(line.id);
  copy.length = load_shared(line.length);
  for (std::size_t i = 0; i < copy.place.size(); ++i) copy.place[i] = load_shared(line.place[i]);
  if (load_shared(line.check) != key.offer_check(copy)) return std::nullopt;
  return copy;
}

}  // namespace penstock::inline v1
