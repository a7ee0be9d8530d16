// What one end of a verbs link tells the other in the handshake. docs/wire.md has it byte by byte.
#pragma once

#include <infiniband/verbs.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "penstock/rdma/verbs/path.hpp"

namespace penstock::inline v1::verbs {

inline constexpr std::size_t kMaxRegions = 8;

/// Memory into which the peer may write.
struct ExposedRegion {
  std::uint64_t address = 0;
  std::uint64_t length = 0;  ///< bytes
  std::uint32_t key = 0;     ///< rkey
};

struct Description {
  std::uint8_t link_layer = 0;     ///< IBV_LINK_LAYER_...
  std::uint8_t mtu = 0;            ///< ibv_mtu: the most that this end takes
  std::uint8_t traffic_class = 0;  ///< with which this end wants to be reached; 0: no wish
  std::uint8_t service_level = 0;  ///< likewise
  std::uint16_t lid = 0;           ///< 0 on Ethernet
  std::uint16_t pkey_index = 0;    ///< of the describing end, for diagnosis
  std::uint16_t pkey = 0;
  std::uint32_t queue_pair = 0;  ///< 24 bits
  std::uint32_t first_psn = 0;   ///< 24 random bits: number of the first packet this end sends
  GidType gid_type = GidType::infiniband;
  ibv_gid gid{};  ///< all zero: none (InfiniBand only)
  std::vector<ExposedRegion> regions;
};

/// 48 bytes and 24 for each region, little-endian.
[[nodiscard]] std::vector<std::byte> encode(const Description& description);
/// Throws SetupError: version_mismatch, or handshake_failed for anything that encode() would not
/// have made.
[[nodiscard]] Description decode(std::span<const std::byte> bytes);

}  // namespace penstock::inline v1::verbs
