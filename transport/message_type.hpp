// What the two ends of a channel say of their messages when they meet.
#pragma once

#include <cstdint>
#include <string>

namespace penstock::inline v1 {

/// What a byte channel exchanges: no type.
inline constexpr std::uint64_t kBytesFingerprint = 0;

/// Two ends with different fingerprints refuse each other: type_mismatch.
struct MessageType {
  std::uint64_t fingerprint = kBytesFingerprint;
  std::string name;  ///< for people; empty: bytes
};

/// "'Order' (fingerprint 3f2a…)", or "bytes".
[[nodiscard]] std::string describe(const MessageType& type);

/// Throws SetupError{type_mismatch}.
void check_types(const MessageType& sent, const MessageType& received);

}  // namespace penstock::inline v1
