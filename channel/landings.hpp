// Where a remote sender's long messages land, at the receiver: each in memory that is offered for
// it alone and taken back before it is handed out (docs/adr/016-landing.md).
//
// Who writes what: the holder of the inlet's token, all of it. Memory is found and registered
// without the token, since that takes long, between asked() and answer().
//
// Invariants: a sender has one question out; the next one comes after the answer. Two offers are
// open at most: one for a message that is landing, and one for the next. A third question takes the
// older one back, and so do a message that comes in pieces, and the end, with both.
#pragma once

#include <array>
#include <cstdint>
#include <memory>

#include "penstock/channel/byte_ring.hpp"
#include "penstock/channel/receiver.hpp"
#include "penstock/channel/spare.hpp"
#include "penstock/transport/link.hpp"
#include "penstock/transport/link_budget.hpp"

namespace penstock::inline v1 {

class Landings {
 public:
  enum class Step : std::uint8_t { asked, landed, malformed };
  /// A sender's question.
  struct Ask {
    std::uint64_t id = 0;    ///< 0: none
    std::uint64_t size = 0;  ///< bytes
  };
  /// Memory that the sender may write; empty: none.
  struct Offer {
    Ask ask;
    PinnedShare share;
    std::unique_ptr<Aside> message;
    std::unique_ptr<LinkMemory> memory;  // goes first
  };

  /// `largest`: bytes of a message, at most.
  explicit Landings(std::uint64_t largest) : largest_(largest) {}

  /// The next record with kLanding and one of the flags kInPieces.
  [[nodiscard]] Step take(const Record& record) noexcept;
  /// Nothing that was asked for is to land any more.
  void give_up() noexcept;

  /// What was asked last.
  [[nodiscard]] const Ask& asked() const noexcept { return ask_; }
  /// Without the token. Takes as long as pinning the memory does. Thread-safe.
  [[nodiscard]] Offer find_memory(Link& link, const Ask& ask) const noexcept;
  /// With it again: the answer. Takes the memory where it is still wanted.
  [[nodiscard]] OfferLine answer(Offer& offer, const SessionKey& key) noexcept;

  /// The message that has landed, and its size. The sender can write there no more.
  [[nodiscard]] std::unique_ptr<Aside> hand_out(std::uint64_t& size) noexcept;

 private:
  static void take_back(Offer& offer) noexcept;

  const std::uint64_t largest_;
  const std::shared_ptr<Spare> spare_ = std::make_shared<Spare>();
  Ask ask_;
  bool answered_ = true;
  bool wanted_ = false;        // the message that was asked for last may still land
  std::array<Offer, 2> open_;  // the older one first
  std::size_t landed_ = 0;     // which of them hand_out() is for
};

}  // namespace penstock::inline v1
