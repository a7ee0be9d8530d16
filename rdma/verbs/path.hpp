// Which device, port and GID a link goes through: what is there, and the rule that picks.
#pragma once

#include <infiniband/verbs.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "penstock/rdma/verbs/device.hpp"
#include "penstock/transport/error.hpp"

namespace penstock::inline v1::verbs {

enum class GidType : std::uint8_t { infiniband, roce_v1, roce_v2 };

struct GidEntry {
  std::uint32_t index = 0;
  ibv_gid gid{};
  GidType type = GidType::infiniband;
  std::string netdev;  ///< empty: none, or not in this network namespace
};

struct PortFacts {
  std::uint8_t number = 0;
  ibv_port_attr attr{};
  std::vector<GidEntry> gids;
};

struct DeviceFacts {
  std::string name;
  std::string problem;             ///< why no link can go through it; empty when one can
  std::shared_ptr<Device> device;  ///< null when it could not be opened
  ibv_device_attr attr{};
  std::vector<PortFacts> ports;
};

/// Everything there is on this machine.
struct Survey {
  std::vector<DeviceFacts> devices;
  std::string problem;  ///< why there are no devices, and how to get one
};

/// Looks at the machine's devices. Opens those that are not open yet.
[[nodiscard]] Survey survey();

/// What the URI and the control connection say about the path.
struct PathWish {
  std::string device;                     ///< empty: any
  std::optional<std::uint8_t> port;       ///< none: any
  std::optional<std::uint8_t> gid_index;  ///< none: by rule
  std::optional<ibv_gid> local_address;   ///< of the control connection; none: not known

  /// Throws SetupError{bad_uri}. Options that are not the transport's own are left alone.
  static PathWish parse(std::string_view options, std::string_view local_host);
};

struct PathChoice {
  const DeviceFacts* device = nullptr;
  const PortFacts* port = nullptr;
  const GidEntry* gid = nullptr;  ///< null only on InfiniBand, where the LID is the address
};

/// Why there is no path.
struct NoPath {
  Errc code = Errc::transport_unavailable;
  std::string text;       ///< whole sentences: what is there and what to do
  bool may_come = false;  ///< ports and addresses that come up now may cure it
};

/// The rule. In this order:
///   1. the port that has the control connection's own address as a RoCE v2 GID: its network is
///      known to reach the peer;
///   2. a RoCE v2 GID made of an IPv4 address, on an active port with a network device;
///   3. an active InfiniBand port;
///   4. a RoCE v2 GID made of an IPv6 address with more than link scope.
/// Among equals the first. `wish` narrows what is looked at; a GID index is taken as it is.
[[nodiscard]] std::variant<PathChoice, NoPath> choose_path(const Survey& survey,
                                                           const PathWish& wish);

/// The GID that the rule would take on this port; null: none.
[[nodiscard]] const GidEntry* choose_gid(const PortFacts& port,
                                         const std::optional<ibv_gid>& local_address);

/// An IPv4 or IPv6 address in numbers as a GID.
[[nodiscard]] std::optional<ibv_gid> gid_of(std::string_view address);
/// An IPv4 address as such, everything else as IPv6.
[[nodiscard]] std::string gid_text(const ibv_gid& gid);
[[nodiscard]] bool same_gid(const ibv_gid& a, const ibv_gid& b) noexcept;
/// All bytes zero: no GID.
[[nodiscard]] bool empty_gid(const ibv_gid& gid) noexcept;

[[nodiscard]] std::string_view link_layer_text(std::uint8_t link_layer) noexcept;
[[nodiscard]] std::string_view gid_type_text(GidType type) noexcept;
/// Bytes of a path MTU; 0 when it is none.
[[nodiscard]] std::uint32_t mtu_bytes(unsigned mtu) noexcept;

}  // namespace penstock::inline v1::verbs
