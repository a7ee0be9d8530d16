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
};
constexpr std::array<Option, 10> kOptions{{{"device", set_device},
                                           {"rails", set_rails},
                                           {"port", set_port},
                                           {"gid_index", set_gid_index},
                                           {"pkey", set_pkey},
                                           {"traffic_class", set_traffic_class},
                                           {"service_level", set_service_level},
                                           {"mtu", set_mtu},
                                           {"ack_timeout", set_ack_timeout},
                                           {"ordered_writes", set_ordered_writes}}};

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

}  // namespace penstock::inline v1::verbs
