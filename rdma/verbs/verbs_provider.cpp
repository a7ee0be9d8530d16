#include "penstock/rdma/verbs/verbs_provider.hpp"

#include <fmt/format.h>
#include <infiniband/verbs.h>

#include <chrono>
#include <cstring>
#include <map>
#include <mutex>
#include <nlohmann/json.hpp>
#include <optional>
#include <thread>
#include <utility>
#include <variant>

#include "penstock/rdma/verbs/path.hpp"
#include "penstock/rdma/verbs/verbs_link.hpp"
#include "penstock/transport/error.hpp"

namespace penstock::inline v1::verbs {
namespace {

using Json = nlohmann::ordered_json;

// A port's GIDs appear some tens of milliseconds after its network device came up.
constexpr std::chrono::milliseconds kGidPatience{200};
constexpr std::chrono::milliseconds kGidInterval{10};

/// What a queue pair of the device says; asked once per device, as it takes a dozen system calls.
std::optional<QueuePairFacts> queue_pair_facts(const DeviceFacts& device, const PortFacts& port) {
  static std::mutex mutex;
  static std::map<std::uint64_t, QueuePairFacts> known;
  const std::scoped_lock lock(mutex);
  if (const auto found = known.find(device.attr.node_guid); found != known.end())
    return found->second;
  try {
    const VerbsLink link({.device = &device,
                          .port = &port,
                          .gid = choose_gid(port, {}),
                          .partition = {},
                          .travel = {}},
                         {});
    return known.emplace(device.attr.node_guid, link.queue_pair_facts()).first->second;
  } catch (const SetupError&) {
    return std::nullopt;  // open() will say why
  }
}

Json port_json(const PortFacts& port) {
  Json gids = Json::array();
  for (const GidEntry& e : port.gids)
    gids.push_back({{"index", e.index},
                    {"gid", gid_text(e.gid)},
                    {"type", gid_type_text(e.type)},
                    {"netdev", e.netdev.empty() ? Json() : Json(e.netdev)}});
  std::vector<std::string> partitions;
  for (const Partition& p : port.partitions) partitions.push_back(fmt::format("{:#x}", p.key));
  const GidEntry* pick = port.attr.state == IBV_PORT_ACTIVE ? choose_gid(port, {}) : nullptr;
  return {{"port", port.number},
          {"state", ::ibv_port_state_str(port.attr.state)},
          {"link_layer", link_layer_text(port.attr.link_layer)},
          {"mtu", mtu_bytes(port.attr.active_mtu)},
          {"lid", port.attr.lid},
          {"max_message", port.attr.max_msg_sz},
          {"partitions", fmt::format("{}", fmt::join(partitions, " "))},
          {"gids", std::move(gids)},
          {"pick", pick != nullptr ? Json(pick->index) : Json()}};
}

Json device_json(const DeviceFacts& device, std::string_view fork_support) {
  Json json = {{"name", device.name}, {"available", device.problem.empty()}};
  if (!device.problem.empty()) json["why"] = device.problem;
  if (!device.device) return json;
  json["vendor"] = device.attr.vendor_id;
  json["part"] = device.attr.vendor_part_id;
  json["firmware"] = device.attr.fw_ver;
  json["max_queue_pairs"] = device.attr.max_qp;
  json["max_work_requests"] = device.attr.max_qp_wr;
  json["max_completions"] = device.attr.max_cqe;
  json["max_memory_regions"] = device.attr.max_mr;
  json["ordered_writes"] = places_writes_in_order(device.attr.vendor_id);
  json["fork"] = fork_support;
  if (device.problem.empty() && !device.ports.empty())
    if (const auto facts = queue_pair_facts(device, device.ports.front())) {
      json["max_inline"] = facts->inline_bytes;
      json["data_in_order"] = facts->data_in_order;
    }
  json["ports"] = Json::array();
  for (const PortFacts& p : device.ports) json["ports"].push_back(port_json(p));
  return json;
}

}  // namespace

// Before anything is registered: on kernels before 5.12 registered pages must be kept from the
// children of fork(), or a write of the parent would move its data away from the device.
VerbsProvider::VerbsProvider() : fork_error_(::ibv_fork_init()) {}

std::vector<std::string> VerbsProvider::option_names() const { return PathWish::option_names(); }

OptionHelp VerbsProvider::option_help(const std::string& name) const {
  return PathWish::option_help(name);
}

void VerbsProvider::check(const std::string& options) const {
  const PathWish wish = PathWish::parse(options, {});
  const Survey found = survey();
  for (const PathWish& rail : rail_wishes(found, wish)) {
    const auto choice = choose_path(found, rail);
    if (const auto* none = std::get_if<NoPath>(&choice); none != nullptr)
      throw SetupError(none->code, none->text);
  }
}

std::vector<std::string> VerbsProvider::rails(const std::string& options,
                                              const std::string& local_host) const {
  const PathWish wish = PathWish::parse(options, local_host);
  if (wish.rails == 1 && wish.more_devices.empty()) return {options};
  std::string others;  // options that all rails have
  for (std::string_view rest = options; !rest.empty();) {
    const auto amp = rest.find('&');
    const std::string_view item = rest.substr(0, amp);
    rest = amp == std::string_view::npos ? std::string_view{} : rest.substr(amp + 1);
    const std::string_view key = item.substr(0, item.find('='));
    if (key != "device" && key != "port" && key != "rails") others += fmt::format("{}&", item);
  }
  std::vector<std::string> rails;
  for (const PathWish& rail : rail_wishes(survey(), wish)) {
    auto& one = rails.emplace_back(others);
    if (!rail.device.empty()) one += fmt::format("device={}&", rail.device);
    if (rail.port) one += fmt::format("port={}&", *rail.port);
    if (!one.empty()) one.pop_back();
  }
  return rails;
}

ProbeReport VerbsProvider::probe() const {
  const Survey found = survey();
  ProbeReport report;
  const auto choice = choose_path(found, {});
  report.available = std::holds_alternative<PathChoice>(choice);
  if (!report.available) report.reason = std::get<NoPath>(choice).text;
  const std::string fork_support =
      fork_error_ == 0 || ::ibv_is_fork_initialized() == IBV_FORK_UNNEEDED
          ? "safe"
          : std::string("not safe: ibv_fork_init: ") + std::strerror(fork_error_) +
                ": memory was registered before the rdma transport was first used";
  Json devices = Json::array();
  for (const DeviceFacts& d : found.devices) devices.push_back(device_json(d, fork_support));
  report.json = devices.dump();
  return report;
}

std::unique_ptr<Link> VerbsProvider::open(const LinkConfig& config) {
  const PathWish wish = PathWish::parse(config.options, config.local_host);
  const auto patience = std::chrono::steady_clock::now() + kGidPatience;
  for (;;) {
    const Survey found = survey();
    const auto choice = choose_path(found, wish);
    if (const auto* path = std::get_if<PathChoice>(&choice))
      return std::make_unique<VerbsLink>(*path, config.regions);
    const auto& none = std::get<NoPath>(choice);
    if (!none.may_come || std::chrono::steady_clock::now() >= patience)
      throw SetupError(none.code, none.text);
    std::this_thread::sleep_for(kGidInterval);
  }
}

}  // namespace penstock::inline v1::verbs
