// What a producer hears that asks for room in a ring.
#pragma once

#include <cstdint>

namespace penstock::inline v1 {

enum class ClaimResult : std::uint8_t { claimed, full, closed };

/// Which credit a claim may use.
enum class Credit : std::uint8_t {
  /// What the consumer granted, which it does in batches: two that run a message apart would pass
  /// cache lines to and fro for every message.
  granted,
  any,  ///< ... and what was consumed since
};

}  // namespace penstock::inline v1
