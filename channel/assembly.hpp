// Messages that come in pieces, of one sender: put together in memory of their own.
//
// Who writes what: the holder of the inlet's token, all of it.
//
// A sender has one such message on its way at a time. It may give one up: then the next begins, and
// what came of the former is dropped.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "penstock/channel/byte_ring.hpp"
#include "penstock/channel/receiver.hpp"

namespace penstock::inline v1 {

class Assembly {
 public:
  enum class Step : std::uint8_t {
    more,   ///< taken; the message is not whole yet
    whole,  ///< ... is whole: hand_out() has it
    malformed,
    no_memory,
  };

  /// `largest`: bytes of a message, at most.
  explicit Assembly(std::uint64_t largest) noexcept : largest_(largest) {}

  /// The next record with one of the flags kInPieces. Copies the piece; the first allocates.
  [[nodiscard]] Step take(const Record& record) noexcept;
  /// What has come of a message is dropped.
  void give_up() noexcept { message_.reset(); }
  /// The message that is whole.
  [[nodiscard]] std::unique_ptr<Aside> hand_out() noexcept { return std::move(message_); }
  /// Bytes of the message that was begun last.
  [[nodiscard]] std::uint64_t size() const noexcept { return size_; }

 private:
  [[nodiscard]] Step begin(const Record& record) noexcept;

  const std::uint64_t largest_;
  std::unique_ptr<Aside> message_;  // null: none is on its way
  std::uint64_t size_ = 0;
  std::uint64_t here_ = 0;  // bytes of it that have come
};

}  // namespace penstock::inline v1
