// Records that prove themselves whole: a keyed hash over cursor, header and payload stands where
// the commit mark of other records does.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "penstock/transport/record.hpp"

namespace penstock::inline v1 {

/// XXH3 with a secret drawn from the session's key. Not a signature: it keeps stale and torn bytes,
/// and payloads made by those who do not know the key, from being taken for a record.
class Prover {
 public:
  explicit Prover(const SessionKey& key) noexcept;
  /// What RecordHeader::mark must be. Linear in `length`; may read bytes that a device is writing.
  [[nodiscard]] std::uint64_t prove(Cursor cursor, std::uint64_t word, const std::byte* payload,
                                    std::uint32_t length) const noexcept;

 private:
  static constexpr std::size_t kSecretBytes = 192;
  SessionKey key_;
  alignas(kLine) std::array<std::uint64_t, kSecretBytes / sizeof(std::uint64_t)> secret_{};
};

}  // namespace penstock::inline v1
