// What a URI may say about the path.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <system_error>

#include "penstock/rdma/verbs/path.hpp"
#include "penstock/transport/link.hpp"

namespace penstock::inline v1::verbs {
namespace {

[[noreturn]] void refuse(std::string_view key, std::string_view value, std::string_view right) {
  throw SetupError(Errc::bad_uri,
                   fmt::format("rdma: option {}={}: {} goes here; `penstock info` shows what there "
                               "is",
                               key, value, right));
}

/// Decimal, or hexadecimal after 0x.
unsigned number(std::string_view key, std::string_view text, unsigned least, unsigned most) {
  unsigned value = 0;
  const bool hexadecimal = text.starts_with("0x");
  const std::string_view digits = text.substr(hexadecimal ? 2 : 0);
  const auto [end, error] =
      std::from_chars(digits.data(), digits.data() + digits.size(), value, hexadecimal ? 16 : 10);
  if (error != std::errc{} || end != digits.data() + digits.size() || value < least || value > most)
    refuse(key, text, fmt::format("a number from {} to {}", least, most));
  return value;
}

std::uint8_t small(std::string_view key, std::string_view text, unsigned least, unsigned most) {
  return static_cast<std::uint8_t>(number(key, text, least, most));
}

void set_device(PathWish& wish, std::string_view key, std::string_view value) {
  const auto wrong = [&] {
    refuse(key, value, fmt::format("the name of a device, or up to {} different ones", kMaxRails));
  };
  wish.device.clear();
  wish.more_devices.clear();
  for (std::string_view rest = value;;) {
    const auto comma = rest.find(',');
    const std::string name(rest.substr(0, comma));
    if (name.empty() || name == wish.device ||
        std::ranges::find(wish.more_devices, name) != wish.more_devices.end() ||
        wish.more_devices.size() + 1 == kMaxRails)
      wrong();
    if (wish.device.empty())
      wish.device = name;
    else
      wish.more_devices.push_back(name);
    if (comma == std::string_view::npos) return;
    rest = rest.substr(comma + 1);
  }
}
void set_rails(PathWish& wish, std::string_view key, std::string_view value) {
  wish.rails = small(key, value, 1, kMaxRails);
}
void set_port(PathWish& wish, std::string_view key, std::string_view value) {
  wish.port = small(key, value, 1, 255);
}
void set_gid_index(PathWish& wish, std::string_view key, std::string_view value) {
  wish.gid_index = small(key, value, 0, 255);
}
void set_pkey(PathWish& wish, std::string_view key, std::string_view value) {
  wish.pkey = static_cast<std::uint16_t>(number(key, value, 1, 0xffff));
  if (partition_of(*wish.pkey) == 0) refuse(key, value, "a partition's key, from 0x1 to 0x7fff,");
}
void set_traffic_class(PathWish& wish, std::string_view key, std::string_view value) {
  wish.travel.traffic_class = small(key, value, 0, 255);
}
void set_service_level(PathWish& wish, std::string_view key, std::string_view value) {
  wish.travel.service_level = small(key, value, 0, 15);
}
void set_mtu(PathWish& wish, std::string_view key, std::string_view value) {
  for (const ibv_mtu mtu : {IBV_MTU_256, IBV_MTU_512, IBV_MTU_1024, IBV_MTU_2048, IBV_MTU_4096})
    if (value == std::to_string(mtu_bytes(mtu))) wish.travel.mtu = mtu;
  if (!wish.travel.mtu) refuse(key, value, "256, 512, 1024, 2048 or 4096");
}
void set_ack_timeout(PathWish& wish, std::string_view key, std::string_view value) {
  wish.travel.ack_timeout = small(key, value, 1, 31);
}
void set_ordered_writes(PathWish& wish, std::string_view key, std::string_view value) {
  if (value != "0" && value != "1") refuse(key, value, "0 or 1");
  wish.travel.ordered_writes = value == "1";
}

struct Option {
  std::string_view name;
  void (*set)(PathWish& wish, std::string_view key, std::string_view value);
  const char* values;
  const char* text;
};
constexpr std::array<Option, 10> kOptions{
    {{"device", set_device, "by rule; a device's name, or several joined by commas",
      "The RDMA device; several are rails, each end naming its own in the same order"},
     {"rails", set_rails, "1; 1 to 8",
      "At most so many ports at once, found by themselves; there are as many as both ends have"},
     {"port", set_port, "by rule; 1 to 255", "The device's port, not the TCP port"},
     {"gid_index", set_gid_index, "by rule; 0 to 255", "The port's GID, as `penstock info` counts"},
     {"pkey", set_pkey, "by rule; 0x1 to 0xffff",
      "The InfiniBand partition; its top bit does not count"},
     {"traffic_class", set_traffic_class, "the peer's, or 0; 0 to 255",
      "Of the packets' global header. On RoCE v2 its upper six bits are the DSCP: 104 is 26"},
     {"service_level", set_service_level, "the peer's, or 0; 0 to 15",
      "A priority; on Ethernet from 0 to 7"},
     {"mtu", set_mtu, "the port's; 256, 512, 1024, 2048 or 4096",
      "Payload of a packet, at most the port's; the smaller of the two ends' counts"},
     {"ack_timeout", set_ack_timeout, "16; 1 to 31",
      "4.096 µs · 2^n until an unanswered packet is repeated (16: 268 ms). Cards repeat it seven "
      "times; where nothing is acknowledged for 32 of these times (8.6 s), and one more for each "
      "16 KiB of what is awaited, the link ends"},
     {"ordered_writes", set_ordered_writes, "by vendor; 0 or 1",
      "Of a receiver: whether this device places a sender's writes in the order in which they were "
      "posted. 1 where it does not loses messages; 0 is always right, and slower"}}};

}  // namespace

PathWish PathWish::parse(std::string_view options, std::string_view local_host) {
  PathWish wish;
  wish.local_address = gid_of(local_host);
  while (!options.empty()) {
    const auto amp = options.find('&');
    const std::string_view item = options.substr(0, amp);
    options = amp == std::string_view::npos ? std::string_view{} : options.substr(amp + 1);
    const auto equals = item.find('=');
    if (equals == std::string_view::npos) continue;
    for (const Option& option : kOptions)
      if (option.name == item.substr(0, equals))
        option.set(wish, option.name, item.substr(equals + 1));
  }
  if (wish.rails > 1 && !wish.more_devices.empty())
    throw SetupError(
        Errc::bad_uri,
        fmt::format("rdma: option rails={} beside a list of devices: the list says how "
                    "many there are, so leave ?rails= out",
                    wish.rails));
  return wish;
}

std::vector<std::string> PathWish::option_names() {
  std::vector<std::string> names;
  names.reserve(kOptions.size());
  for (const Option& option : kOptions) names.emplace_back(option.name);
  return names;
}

OptionHelp PathWish::option_help(std::string_view name) {
  for (const Option& option : kOptions)
    if (option.name == name) return {option.values, option.text};
  return {};
}

}  // namespace penstock::inline v1::verbs
