// A transport module for plugin_test.cpp: what PENSTOCK_TEST_MODULE_FAULT says is wrong with it.
// Without a fault it is a working transport of links that write into themselves.
#include <cstddef>
#include <cstring>
#include <deque>
#include <memory>
#include <stdexcept>

#include "penstock/transport/plugin_export.hpp"

namespace penstock {
namespace {

/// Its place says where it lies, how long it is, and whether it is a source.
class EchoMemory final : public LinkMemory {
 public:
  EchoMemory(const LinkRegion& region, LinkCounters& counters)
      : region_(region), counters_(counters) {
    ++counters_.posts;
  }
  EchoMemory(const EchoMemory&) = delete;
  EchoMemory& operator=(const EchoMemory&) = delete;
  EchoMemory(EchoMemory&&) = delete;
  EchoMemory& operator=(EchoMemory&&) = delete;
  ~EchoMemory() override { --counters_.posts; }
  [[nodiscard]] LandingPlace place() const noexcept override {
    return {reinterpret_cast<std::uint64_t>(region_.base), region_.length,
            region_.remote_write ? 0U : 1U, 77};
  }

 private:
  const LinkRegion region_;
  LinkCounters& counters_;
};

/// Writes into its own exposed regions: enough to see every argument arrive.
class EchoLink final : public Link {
 public:
  explicit EchoLink(const LinkConfig& config) : config_(config) {}
  [[nodiscard]] std::vector<std::byte> describe() const override {
    return {std::byte{1}, std::byte{2}, std::byte{3}};
  }
  void connect(std::span<const std::byte> peer) override {
    if (peer.size() != 3) throw SetupError(Errc::handshake_failed, "echo: not a description");
  }
  [[nodiscard]] LinkLimits limits() const noexcept override {
    return {.max_writes = 4,
            .max_write = 1000,
            .packet = 100,
            .receives = 5,
            .ordered_writes = true,
            .landings = true};
  }
  [[nodiscard]] std::unique_ptr<LinkMemory> add_memory(const LinkRegion& memory) noexcept override {
    return memory.length == 13 ? nullptr : std::make_unique<EchoMemory>(memory, counters_);
  }
  [[nodiscard]] PostStatus land(const LandingWrite& write, std::uint64_t cookie) noexcept override {
    const auto from = write.source->place();
    if (from[2] != 1) return PostStatus::failed;
    std::memcpy(reinterpret_cast<std::byte*>(write.place[0]) + write.offset,
                reinterpret_cast<const std::byte*>(from[0]) + write.offset, write.length);
    events_.push_back({.kind = LinkEvent::Kind::completed, .value = cookie});
    return PostStatus::posted;
  }
  [[nodiscard]] PostStatus post(std::span<const RemoteWrite> writes,
                                std::optional<std::uint32_t> immediate,
                                std::uint64_t cookie) noexcept override {
    if (events_.size() > 2) return PostStatus::no_room;
    for (const RemoteWrite& w : writes) {
      if (w.region >= config_.regions.size()) {
        events_.push_back({.kind = LinkEvent::Kind::failed, .value = 0});
        return PostStatus::failed;
      }
      std::memcpy(config_.regions[w.region].base + w.offset, w.source, w.length);
    }
    ++counters_.posts;
    counters_.work_requests += writes.size();
    if (immediate) events_.push_back({.kind = LinkEvent::Kind::immediate, .value = *immediate});
    events_.push_back({.kind = LinkEvent::Kind::completed, .value = cookie});
    return PostStatus::posted;
  }
  [[nodiscard]] std::size_t poll(std::span<LinkEvent> events) noexcept override {
    std::size_t count = 0;
    for (; count < events.size() && !events_.empty(); events_.pop_front())
      events[count++] = events_.front();
    return count;
  }
  void arm(bool completions, bool immediates) noexcept override {
    counters_.completions = completions ? 1 : 0;
    counters_.immediates = immediates ? 1 : 0;
  }
  void disarm() noexcept override { counters_.completions = counters_.immediates = 0; }
  [[nodiscard]] int event_fd() const noexcept override { return 77; }
  [[nodiscard]] int events_apart(bool apart) noexcept override { return apart ? 78 : 77; }
  [[nodiscard]] std::string error() const override { return "echo: no such region"; }
  [[nodiscard]] LinkCounters counters() const noexcept override { return counters_; }
  [[nodiscard]] std::string path() const override {
    return config_.local_host + "->" + config_.peer_host + "?" + config_.options;
  }

 private:
  LinkConfig config_;
  std::deque<LinkEvent> events_;
  LinkCounters counters_;
};

/// Runs when the module is loaded.
const struct Loaded {
  Loaded() {
    if (PENSTOCK_TEST_MODULE_FAULT == std::string_view("crash")) std::abort();
  }
} kLoaded;

class EchoProvider final : public LinkProvider {
 public:
  EchoProvider() {
    if (PENSTOCK_TEST_MODULE_FAULT == std::string_view("create"))
      throw SetupError(Errc::resource_limit, "echo: nothing left to echo with");
  }
  [[nodiscard]] std::string_view scheme() const noexcept override { return PENSTOCK_TEST_SCHEME; }
  [[nodiscard]] std::vector<std::string> option_names() const override { return {"one", "two"}; }
  [[nodiscard]] ProbeReport probe() const override {
    return {.available = false, .reason = "echo: nobody listens", .json = R"([{"name":"wall"}])"};
  }
  void check(const std::string& options) const override {
    if (options == "one=1") throw SetupError(Errc::bad_uri, "echo: not one=1");
  }
  [[nodiscard]] std::vector<std::string> rails(const std::string& options,
                                               const std::string& local_host) const override {
    if (options == "one=1") throw SetupError(Errc::bad_uri, "echo: not one=1");
    return {options, local_host};
  }
  [[nodiscard]] std::unique_ptr<Link> open(const LinkConfig& config) override {
    if (config.options == "throw=runtime_error") throw std::runtime_error("not a SetupError");
    if (config.options == "throw=int") throw 7;  // NOLINT: what must not cross the border
    if (config.options == "throw=setup") throw SetupError(Errc::unreachable, "echo: far away");
    return std::make_unique<EchoLink>(config);
  }
};

}  // namespace
}  // namespace penstock

extern "C" __attribute__((visibility("default"))) const penstock_transport*
penstock_transport_v1() {
  static penstock_transport table = *penstock::plugin::Exported<penstock::EchoProvider>::table();
  const std::string_view fault = PENSTOCK_TEST_MODULE_FAULT;
  if (fault == "null") return nullptr;
  if (fault == "version") table.abi_version = 999;
  if (fault == "size") table.struct_size = 64;
  if (fault == "entry") table.link_poll = nullptr;
  if (fault == "older") {
    // What lies behind its end is not to be looked at.
    table.struct_size = offsetof(penstock_transport, link_add_memory);
    table.link_land = reinterpret_cast<decltype(table.link_land)>(1);
  }
  if (fault == "rails") {
    // Of when there were rails, and nothing after them.
    table.struct_size = offsetof(penstock_transport, link_events_apart);
    table.link_events_apart = reinterpret_cast<decltype(table.link_events_apart)>(1);
  }
  return &table;
}
