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
#include "penstock/transport/link.hpp"

namespace penstock::inline v1::verbs {

enum class GidType : std::uint8_t { infiniband, roce_v1, roce_v2 };

struct GidEntry {
  std::uint32_t index = 0;
  ibv_gid gid{};
  GidType type = GidType::infiniband;
  std::string netdev;  ///< empty: none, or not in this network namespace
};

/// An entry of a port's table of partitions. On Ethernet there is one, the default.
struct Partition {
  std::uint16_t index = 0;
  std::uint16_t key = 0xffff;  ///< P_Key; its top bit: full member
};

struct PortFacts {
  std::uint8_t number = 0;
  ibv_port_attr attr{};
  std::vector<GidEntry> gids;
  std::vector<Partition> partitions;
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

/// How an unanswered packet is waited for: 4.096 µs * 2^16 = 268 ms. Long enough for an overloaded
/// host, and with its repetitions over before the control connection's silence counts as a loss.
inline constexpr std::uint8_t kAckTimeout = 16;

/// How packets travel, as far as the URI says.
struct TravelWish {
  std::optional<std::uint8_t> traffic_class;  ///< of the global header; none: what the peer wishes
  std::optional<std::uint8_t> service_level;  ///< likewise
  std::optional<ibv_mtu> mtu;                 ///< at most; none: the port's
  std::uint8_t ack_timeout = kAckTimeout;     ///< 1 to 31, in the specification's encoding
  std::optional<bool> ordered_writes;  ///< none: as places_writes_in_order() knows the device
};

/// What the URI and the control connection say about the path.
struct PathWish {
  std::string device;                     ///< empty: any
  std::vector<std::string> more_devices;  ///< for further rails, one each
  std::uint8_t rails = 1;                 ///< at most, where the devices are not named
  std::optional<std::uint8_t> port;       ///< none: any
  std::optional<std::uint8_t> gid_index;  ///< none: by rule
  std::optional<std::uint16_t> pkey;      ///< none: by rule. The membership bit does not count
  std::optional<ibv_gid> local_address;   ///< of the control connection; none: not known
  TravelWish travel;

  /// Throws SetupError{bad_uri}. Options that are not the transport's own are left alone.
  static PathWish parse(std::string_view options, std::string_view local_host);
  /// Names of the options that parse() takes.
  static std::vector<std::string> option_names();
  static OptionHelp option_help(std::string_view name);
};

struct PathChoice {
  const DeviceFacts* device = nullptr;
  const PortFacts* port = nullptr;
  const GidEntry* gid = nullptr;  ///< null only on InfiniBand, where the LID is the address
  Partition partition;
  TravelWish travel;
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
///   4. a RoCE v2 GID made of an IPv6 address with more than link scope;
///   5. on a port that knows RoCE v1 alone, a GID of that kind, chosen likewise.
/// Among equals the first. `wish` narrows what is looked at; a GID index is taken as it is. Of the
/// port's partitions the first of which it is a full member, otherwise the first.
[[nodiscard]] std::variant<PathChoice, NoPath> choose_path(const Survey& survey,
                                                           const PathWish& wish);

/// The rails that a wish asks for, each as a wish of its own for one: the devices that it names, or
/// what choose_path() picks and then other ports, in the survey's order, on which it finds a GID of
/// the same kind. At least one.
[[nodiscard]] std::vector<PathWish> rail_wishes(const Survey& survey, const PathWish& wish);

/// The GID that the rule would take on this port; null: none.
[[nodiscard]] const GidEntry* choose_gid(const PortFacts& port,
                                         const std::optional<ibv_gid>& local_address);

/// Whether devices of this vendor place the writes of one queue pair in memory in the order in
/// which they were posted, though the specification promises that only for what a completion has
/// confirmed. They are told by vendor, as device names are the administrator's. One that is not
/// known gets the slower protocol, in which an immediate proves what came before it.
[[nodiscard]] bool places_writes_in_order(std::uint32_t vendor) noexcept;

/// An IPv4 or IPv6 address in numbers as a GID.
[[nodiscard]] std::optional<ibv_gid> gid_of(std::string_view address);
/// An IPv4 address as such, everything else as IPv6.
[[nodiscard]] std::string gid_text(const ibv_gid& gid);
/// Made of an IPv4 address.
[[nodiscard]] bool ipv4_mapped(const ibv_gid& gid) noexcept;
[[nodiscard]] bool same_gid(const ibv_gid& a, const ibv_gid& b) noexcept;
/// All bytes zero: no GID.
[[nodiscard]] bool empty_gid(const ibv_gid& gid) noexcept;

[[nodiscard]] std::string_view link_layer_text(std::uint8_t link_layer) noexcept;
[[nodiscard]] std::string_view gid_type_text(GidType type) noexcept;
/// The lower 15 bits, which name the partition.
[[nodiscard]] constexpr unsigned partition_of(std::uint16_t pkey) noexcept {
  return pkey & 0x7fffU;
}
[[nodiscard]] constexpr bool full_member(std::uint16_t pkey) noexcept {
  return (pkey & 0x8000U) != 0;
}
/// Bytes of a path MTU; 0 when it is none.
[[nodiscard]] std::uint32_t mtu_bytes(unsigned mtu) noexcept;

}  // namespace penstock::inline v1::verbs
