#include "penstock/rdma/verbs/path.hpp"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <net/if.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <system_error>

namespace penstock::inline v1::verbs {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kSoftRoce =
    "Any Ethernet device can carry RDMA in software: `modprobe rdma_rxe`, then "
    "`rdma link add rxe0 type rxe netdev eth0` (as root, eth0 being a device with an address)";

/// Names in a directory of sysfs; empty when it is not there.
std::vector<std::string> names_in(const char* directory) {
  std::vector<std::string> names;
  std::error_code error;
  for (fs::directory_iterator it(directory, error), end; !error && it != end; it.increment(error))
    names.push_back(it->path().filename().string());
  std::ranges::sort(names);
  return names;
}

std::string join(const std::vector<std::string>& parts, std::string_view separator) {
  return fmt::format("{}", fmt::join(parts, separator));
}

std::string why_no_devices(int error) {
  std::vector<std::string> known = names_in("/sys/class/infiniband");
  if (known.empty())
    return fmt::format("rdma: there is no RDMA device on this machine{}. {}",
                       error == 0 ? "" : fmt::format(" ({})", std::strerror(error)), kSoftRoce);
  return fmt::format(
      "rdma: the kernel has {} but libibverbs cannot use it: load the module ib_uverbs "
      "(`modprobe ib_uverbs`) and install the user-space drivers (package ibverbs-providers); in a "
      "container, pass /dev/infiniband in",
      join(known, ", "));
}

std::string why_not_opened(const ibv_device& device, int error) {
  const char* name = device.name;
  const std::string file = fmt::format("/dev/infiniband/{}", device.dev_name);
  // libibverbs looks for the file in several ways and reports the failure of the last.
  if (::access(file.c_str(), F_OK) == 0 && ::access(file.c_str(), R_OK | W_OK) != 0) error = errno;
  switch (error) {
    case EACCES:
    case EPERM:
      return fmt::format(
          "{} may not be opened (no permission for {}): add the user to the group rdma, or let a "
          "udev rule give the file mode 0666",
          name, file);
    case ENOENT:
    case ENXIO:
      return fmt::format(
          "{} has no {}: `modprobe ib_uverbs`, or pass /dev/infiniband into the container", name,
          file);
    case EMFILE:
    case ENFILE:
      return fmt::format("{} cannot be opened: too many open files, raise `ulimit -n`", name);
    default: return fmt::format("{} cannot be opened: {}", name, std::strerror(error));
  }
}

bool ethernet(const PortFacts& port) noexcept {
  return port.attr.link_layer == IBV_LINK_LAYER_ETHERNET;
}

GidType type_of(std::uint32_t type) noexcept {
  if (type == IBV_GID_TYPE_ROCE_V2) return GidType::roce_v2;
  return type == IBV_GID_TYPE_ROCE_V1 ? GidType::roce_v1 : GidType::infiniband;
}

void add_gids(DeviceFacts& facts) {
  std::size_t most = 0;
  for (const PortFacts& p : facts.ports)
    most += static_cast<std::size_t>(std::max(p.attr.gid_tbl_len, 0));
  std::vector<ibv_gid_entry> entries(most);
  const ssize_t count =
      ::ibv_query_gid_table(facts.device->context(), entries.data(), entries.size(), 0);
  if (count < 0) {
    facts.problem = fmt::format("{}: its GIDs cannot be read: {}", facts.name,
                                std::strerror(static_cast<int>(-count)));
    return;
  }
  entries.resize(static_cast<std::size_t>(count));
  for (const ibv_gid_entry& e : entries) {
    const auto port = std::ranges::find(facts.ports, e.port_num, &PortFacts::number);
    if (port == facts.ports.end()) continue;
    std::array<char, IF_NAMESIZE> netdev{};
    if (e.ndev_ifindex != 0) static_cast<void>(::if_indextoname(e.ndev_ifindex, netdev.data()));
    port->gids.push_back(
        {.index = e.gid_index, .gid = e.gid, .type = type_of(e.gid_type), .netdev = netdev.data()});
  }
}

void add_partitions(ibv_context* context, PortFacts& port) {
  // The kernel makes up the one of Ethernet, whatever the length of the table.
  const int count = ethernet(port) ? 1 : port.attr.pkey_tbl_len;
  for (int i = 0; i < count; ++i) {
    __be16 key = 0;
    if (::ibv_query_pkey(context, port.number, i, &key) == 0 && partition_of(ntohs(key)) != 0)
      port.partitions.push_back({.index = static_cast<std::uint16_t>(i), .key = ntohs(key)});
  }
}

DeviceFacts look_at(ibv_device* device) {
  DeviceFacts facts;
  facts.name = ::ibv_get_device_name(device);
  try {
    facts.device = Device::open(device);
    facts.device->take_events();
    if (facts.device->lost()) facts.device = Device::open(device);
  } catch (const std::system_error& e) {
    facts.problem = why_not_opened(*device, e.code().value());
    return facts;
  }
  ibv_context* context = facts.device->context();
  if (const int error = ::ibv_query_device(context, &facts.attr); error != 0) {
    facts.problem = fmt::format("{} does not answer: {}", facts.name, std::strerror(error));
    return facts;
  }
  if (device->transport_type != IBV_TRANSPORT_IB) {
    facts.problem = fmt::format(
        "{} is no InfiniBand or RoCE device (iWARP and devices of a cloud's own protocol have no "
        "reliable connection that this transport can set up)",
        facts.name);
    return facts;
  }
  for (unsigned number = 1; number <= facts.attr.phys_port_cnt; ++number) {
    PortFacts port;
    port.number = static_cast<std::uint8_t>(number);
    if (::ibv_query_port(context, port.number, &port.attr) != 0) continue;
    add_partitions(context, port);
    facts.ports.push_back(std::move(port));
  }
  add_gids(facts);
  return facts;
}

bool link_local(const ibv_gid& gid) noexcept {
  return gid.raw[0] == 0xfe && (gid.raw[1] & 0xc0U) == 0x80;
}

/// From the worst to the best.
enum class Rank : std::uint8_t {
  none,
  v1_ipv6,
  v1_ipv4,
  v1_control_address,
  ipv6,
  infiniband,
  ipv4,
  control_address,
};

/// The kind of RoCE that counts on this port. Addresses come one by one, of v2 and v1 each time, so
/// one entry of v2 says that more may come.
GidType roce_of(const PortFacts& port) noexcept {
  return std::ranges::find(port.gids, GidType::roce_v2, &GidEntry::type) != port.gids.end()
             ? GidType::roce_v2
             : GidType::roce_v1;
}

Rank rank(const GidEntry& entry, GidType roce,
          const std::optional<ibv_gid>& local_address) noexcept {
  if (entry.type != roce || entry.netdev.empty()) return Rank::none;
  const bool v2 = roce == GidType::roce_v2;
  if (local_address && same_gid(entry.gid, *local_address))
    return v2 ? Rank::control_address : Rank::v1_control_address;
  if (ipv4_mapped(entry.gid)) return v2 ? Rank::ipv4 : Rank::v1_ipv4;
  if (link_local(entry.gid)) return Rank::none;
  return v2 ? Rank::ipv6 : Rank::v1_ipv6;
}

std::string gid_list(const PortFacts& port) {
  std::vector<std::string> all;
  for (const GidEntry& e : port.gids)
    all.push_back(fmt::format("{}: {} {}{}{}", e.index, gid_text(e.gid), gid_type_text(e.type),
                              e.netdev.empty() ? "" : " on ", e.netdev));
  return all.empty() ? "none" : join(all, ", ");
}

std::string device_list(const Survey& survey) {
  std::vector<std::string> all;
  for (const DeviceFacts& d : survey.devices) {
    std::vector<std::string> ports;
    for (const PortFacts& p : d.ports) ports.push_back(std::to_string(p.number));
    all.push_back(ports.empty() ? d.name : fmt::format("{} (port {})", d.name, join(ports, ", ")));
  }
  return join(all, ", ");
}

std::string why_no_gid(const DeviceFacts& device, const PortFacts& port) {
  const auto with_netdev =
      std::ranges::find_if(port.gids, [](const GidEntry& e) { return !e.netdev.empty(); });
  return fmt::format(
      "no RoCE v2 GID with an IPv4 address on {} port {}: give {} an address, or pass ?gid_index=N "
      "(GIDs there: {})",
      device.name, port.number,
      with_netdev == port.gids.end() ? "its network device" : with_netdev->netdev, gid_list(port));
}

/// Null: there is none.
const Partition* choose_partition(const PortFacts& port, std::optional<std::uint16_t> pkey) {
  static constexpr Partition kDefault;
  if (port.partitions.empty()) return !pkey || partition_of(*pkey) == 0x7fff ? &kDefault : nullptr;
  const Partition* best = nullptr;
  for (const Partition& p : port.partitions)
    if (!pkey || partition_of(p.key) == partition_of(*pkey))
      if (best == nullptr || (full_member(p.key) && !full_member(best->key))) best = &p;
  return best;
}

std::string why_no_partition(const DeviceFacts& device, const PortFacts& port, std::uint16_t pkey) {
  std::vector<std::string> all;
  for (const Partition& p : port.partitions) all.push_back(fmt::format("{:#x}", p.key));
  return fmt::format("{} port {} is not in partition {:#x} (it is in {}){}", device.name,
                     port.number, pkey, all.empty() ? "0xffff" : join(all, ", "),
                     ethernet(port)
                         ? ": on Ethernet leave ?pkey= out, a VLAN is chosen by ?gid_index="
                         : ": have the subnet manager's administrator add it");
}

/// Why packets cannot travel as wished from there; empty: they can.
std::string why_no_travel(const DeviceFacts& device, const PortFacts& port, const GidEntry* gid,
                          const TravelWish& wish) {
  const auto on = [&] { return fmt::format("{} port {}", device.name, port.number); };
  if (wish.mtu && *wish.mtu > port.attr.active_mtu)
    return fmt::format("mtu={} is more than {} has, {}: {}", mtu_bytes(*wish.mtu), on(),
                       mtu_bytes(port.attr.active_mtu),
                       ethernet(port) ? "raise its network device's MTU, at both ends and on the "
                                        "way between them, or leave ?mtu= out"
                                      : "leave ?mtu= out, or have the subnet manager raise it");
  if (ethernet(port) && wish.service_level.value_or(0) > 7)
    return fmt::format(
        "service_level={} does not exist on {}, which is Ethernet and has priorities 0 to 7",
        *wish.service_level, on());
  if (!ethernet(port) && wish.traffic_class && gid == nullptr)
    return fmt::format(
        "traffic_class={} needs a global header, and {} has no GID to put into it: use "
        "?service_level= there",
        *wish.traffic_class, on());
  return {};
}

}  // namespace

Survey survey() {
  Survey result;
  int count = 0;
  const DeviceListPtr list(::ibv_get_device_list(&count));
  const int error = list ? 0 : errno;
  for (int i = 0; list && i < count; ++i) result.devices.push_back(look_at(list.get()[i]));
  if (result.devices.empty()) result.problem = why_no_devices(error);
  return result;
}

const GidEntry* choose_gid(const PortFacts& port, const std::optional<ibv_gid>& local_address) {
  const GidEntry* best = nullptr;
  Rank best_rank = Rank::none;
  const GidType roce = roce_of(port);
  for (const GidEntry& entry : port.gids) {
    const Rank r = rank(entry, roce, local_address);
    if (r > best_rank) {
      best = &entry;
      best_rank = r;
    }
  }
  return best;
}

std::variant<PathChoice, NoPath> choose_path(const Survey& survey, const PathWish& wish) {
  if (survey.devices.empty()) return NoPath{.text = survey.problem};
  std::vector<std::string> reasons;  // why each thing that was looked at did not do
  bool may_come = false;
  bool device_there = false;
  bool port_there = false;
  bool wished_too_much = false;
  PathChoice best;
  Rank best_rank = Rank::none;
  for (const DeviceFacts& device : survey.devices) {
    if (!wish.device.empty() && device.name != wish.device) continue;
    device_there = true;
    if (!device.problem.empty()) {
      reasons.push_back(device.problem);
      port_there = true;  // its ports are not known
      continue;
    }
    for (const PortFacts& port : device.ports) {
      if (wish.port && port.number != *wish.port) continue;
      port_there = true;
      if (port.attr.state != IBV_PORT_ACTIVE) {
        may_come = true;
        reasons.push_back(fmt::format(
            "{} port {} is {}: bring {} up", device.name, port.number,
            ::ibv_port_state_str(port.attr.state),
            ethernet(port) ? "its network device (`ip link set NAME up`)" : "the link"));
        continue;
      }
      const GidEntry* gid = nullptr;
      Rank r = Rank::none;
      if (wish.gid_index) {
        const auto found = std::ranges::find(port.gids, *wish.gid_index, &GidEntry::index);
        if (found == port.gids.end()) {
          may_come = true;
          reasons.push_back(fmt::format("{} port {} has no GID {} (GIDs there: {})", device.name,
                                        port.number, *wish.gid_index, gid_list(port)));
          continue;
        }
        gid = &*found;
        r = Rank::control_address;
      } else if (ethernet(port)) {
        gid = choose_gid(port, wish.local_address);
        if (gid == nullptr) {
          may_come = true;
          reasons.push_back(why_no_gid(device, port));
          continue;
        }
        r = rank(*gid, roce_of(port), wish.local_address);
      } else {
        if (!port.gids.empty()) gid = &port.gids.front();
        r = Rank::infiniband;
      }
      const Partition* partition = choose_partition(port, wish.pkey);
      if (partition == nullptr) {
        wished_too_much = true;
        reasons.push_back(why_no_partition(device, port, *wish.pkey));
        continue;
      }
      if (std::string why = why_no_travel(device, port, gid, wish.travel); !why.empty()) {
        wished_too_much = true;
        reasons.push_back(std::move(why));
        continue;
      }
      if (r > best_rank) {
        best = {.device = &device,
                .port = &port,
                .gid = gid,
                .partition = *partition,
                .travel = wish.travel};
        best_rank = r;
      }
    }
  }
  if (best_rank != Rank::none) return best;
  if (!device_there)
    return NoPath{.code = Errc::bad_uri,
                  .text = fmt::format("rdma: there is no device '{}'; there is {}", wish.device,
                                      device_list(survey))};
  if (!port_there)
    return NoPath{
        .code = Errc::bad_uri,
        .text = fmt::format("rdma: there is no port {}{}; there is {}", *wish.port,
                            wish.device.empty() ? "" : " on " + wish.device, device_list(survey))};
  return NoPath{.code = wished_too_much ? Errc::bad_uri : Errc::transport_unavailable,
                .text = fmt::format("rdma: {}", join(reasons, "; ")),
                .may_come = may_come};
}

std::vector<PathWish> rail_wishes(const Survey& survey, const PathWish& wish) {
  PathWish one = wish;
  one.rails = 1;
  one.more_devices.clear();
  std::vector<PathWish> rails{one};
  for (const std::string& device : wish.more_devices) {
    one.device = device;
    rails.push_back(one);
  }
  const auto first = choose_path(survey, rails.front());
  if (wish.rails == 1 || std::holds_alternative<NoPath>(first)) return rails;
  const auto& best = std::get<PathChoice>(first);
  const auto alike = [&](const PathChoice& other) {
    if (other.port->attr.link_layer != best.port->attr.link_layer) return false;
    if (best.gid == nullptr || other.gid == nullptr) return best.gid == other.gid;
    return other.gid->type == best.gid->type &&
           ipv4_mapped(other.gid->gid) == ipv4_mapped(best.gid->gid);
  };
  rails.front().device = best.device->name;
  rails.front().port = best.port->number;
  for (const DeviceFacts& device : survey.devices) {
    for (const PortFacts& port : device.ports) {
      if (&port == best.port || rails.size() == wish.rails) continue;
      if (!wish.device.empty() && device.name != wish.device) continue;
      if (wish.port && port.number != *wish.port) continue;
      one.device = device.name;
      one.port = port.number;
      const auto choice = choose_path(survey, one);
      if (const auto* path = std::get_if<PathChoice>(&choice); path != nullptr && alike(*path))
        rails.push_back(one);
    }
  }
  return rails;
}

bool ipv4_mapped(const ibv_gid& gid) noexcept {
  static constexpr std::array<std::uint8_t, 12> kPrefix = {0, 0, 0, 0, 0,    0,
                                                           0, 0, 0, 0, 0xff, 0xff};
  return std::memcmp(gid.raw, kPrefix.data(), kPrefix.size()) == 0;
}

std::optional<ibv_gid> gid_of(std::string_view address) {
  const std::string text(address.substr(0, address.find('%')));  // without an IPv6 scope
  ibv_gid gid{};
  if (::inet_pton(AF_INET, text.c_str(), gid.raw + 12) == 1) {
    gid.raw[10] = gid.raw[11] = 0xff;
    return gid;
  }
  if (::inet_pton(AF_INET6, text.c_str(), gid.raw) == 1) return gid;
  return std::nullopt;
}

std::string gid_text(const ibv_gid& gid) {
  std::array<char, INET6_ADDRSTRLEN> text{};
  const bool v4 = ipv4_mapped(gid);
  const char* result =
      ::inet_ntop(v4 ? AF_INET : AF_INET6, v4 ? gid.raw + 12 : gid.raw, text.data(), text.size());
  return result != nullptr ? result : "?";
}

bool places_writes_in_order(std::uint32_t vendor) noexcept {
  switch (vendor) {
    case 0x02c9:    // NVIDIA (Mellanox): mlx4, mlx5
    case 0x14e4:    // Broadcom: bnxt_re
    case 0x1ded:    // Alibaba: erdma
    case 0x8086:    // Intel: irdma
    case 0xffffff:  // rdma_rxe: one task copies packet after packet
      return true;
    default: return false;
  }
}

bool same_gid(const ibv_gid& a, const ibv_gid& b) noexcept {
  return std::memcmp(a.raw, b.raw, sizeof a.raw) == 0;
}

bool empty_gid(const ibv_gid& gid) noexcept {
  return std::ranges::all_of(gid.raw, [](std::uint8_t byte) { return byte == 0; });
}

std::string_view link_layer_text(std::uint8_t link_layer) noexcept {
  switch (link_layer) {
    case IBV_LINK_LAYER_INFINIBAND: return "InfiniBand";
    case IBV_LINK_LAYER_ETHERNET: return "Ethernet";
    default: return "unspecified";
  }
}

std::string_view gid_type_text(GidType type) noexcept {
  switch (type) {
    case GidType::roce_v1: return "RoCE v1";
    case GidType::roce_v2: return "RoCE v2";
    case GidType::infiniband: break;
  }
  return "InfiniBand";
}

std::uint32_t mtu_bytes(unsigned mtu) noexcept {
  return mtu >= IBV_MTU_256 && mtu <= IBV_MTU_4096 ? 128U << mtu : 0;
}

}  // namespace penstock::inline v1::verbs
