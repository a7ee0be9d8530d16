// How a sender makes what it wrote known: the receiver chooses. docs/adr/004-publish-modes.md
#pragma once

#include <cstdint>

namespace penstock::inline v1 {

/// How a receiver wants its peer to publish (low byte of CreditLine::mode). It may change its mind.
enum class PublishMode : std::uint8_t {
  tail = 0,       ///< data, then the tail line
  hot = 1,        ///< one record that proves itself whole when the link is idle, else as `tail`
  immediate = 2,  ///< data, the tail in an immediate: for devices that promise no order of writes
};

}  // namespace penstock::inline v1
