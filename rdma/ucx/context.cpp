#include "penstock/rdma/ucx/context.hpp"

#include <fmt/format.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <mutex>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "penstock/rdma/ucx/error_log.hpp"
#include "penstock/transport/error.hpp"

namespace penstock::inline v1::ucx {
namespace {

std::string variable(const char* name) {
  const char* value = std::getenv(name);  // NOLINT(concurrency-mt-unsafe): UCX reads them likewise
  return value == nullptr ? std::string() : std::string(value);
}

std::vector<std::string_view> split(std::string_view list) {
  std::vector<std::string_view> parts;
  while (!list.empty()) {
    const auto comma = std::min(list.find(','), list.size());
    parts.push_back(list.substr(0, comma));
    list.remove_prefix(std::min(comma + 1, list.size()));
  }
  return parts;
}

/// All of them do without verbs.
bool without_verbs(std::string_view transports) {
  constexpr std::array<std::string_view, 9> kOthers{"tcp",  "self",  "shm", "sm",   "mm",
                                                    "sysv", "posix", "cma", "xpmem"};
  return std::ranges::all_of(split(transports), [&](auto transport) {
    return std::ranges::find(kOthers, transport) != kOthers.end();
  });
}

std::vector<std::filesystem::path> rdma_devices() {
  std::vector<std::filesystem::path> found;
  std::error_code failed;
  std::filesystem::directory_iterator devices("/sys/class/infiniband", failed);
  for (; !failed && devices != std::filesystem::directory_iterator(); devices.increment(failed))
    found.push_back(devices->path());
  return found;
}

/// The name of an RDMA device in software, as soft-RoCE is, if there is one that UCX may use.
std::string soft_device() {
  const auto allowed = variable("UCX_NET_DEVICES");
  for (const auto& device : rdma_devices()) {
    std::error_code failed;
    const auto real = std::filesystem::canonical(device, failed);
    if (!failed && real.native().starts_with("/sys/devices/virtual/") &&
        (allowed.empty() || allowed == "all" ||
         allowed.find(device.filename().string()) != std::string::npos))
      return device.filename();
  }
  return {};
}

/// What UCX looks for once, when a context is made: the network interfaces and RDMA devices.
std::string devices_now() {
  std::string text;
  for (const auto& device : rdma_devices()) text += device.filename().string() + ' ';
  ifaddrs* first = nullptr;
  if (::getifaddrs(&first) != 0) return text;
  for (const auto* at = first; at != nullptr; at = at->ifa_next) {
    if (at->ifa_addr == nullptr) continue;
    text += fmt::format("{} {}", at->ifa_name, at->ifa_flags & (IFF_UP | IFF_RUNNING));
    std::size_t length = 0;
    if (at->ifa_addr->sa_family == AF_INET) length = sizeof(sockaddr_in);
    if (at->ifa_addr->sa_family == AF_INET6) length = sizeof(sockaddr_in6);
    text.append(reinterpret_cast<const char*>(at->ifa_addr), length);
  }
  ::freeifaddrs(first);
  return text;
}

/// Sets what the user has not.
class Adjuster {
 public:
  explicit Adjuster(ucp_config_t* config) : config_(config) {}
  void set(const char* name, const std::string& value, const char* user_variable) {
    if (status == UCS_OK && variable(user_variable).empty())
      status = ::ucp_config_modify(config_, name, value.c_str());
  }
  ucs_status_t status = UCS_OK;

 private:
  ucp_config_t* const config_;
};

std::string asked_or_set(const std::string& asked) {
  return asked.empty() ? variable("UCX_TLS") : asked;
}

bool is_all(const std::string& transports) { return transports.empty() || transports == "all"; }

/// UCX's verbs transports meet by `ud`, which ends the process when a peer is lost in between.
/// Where the device is soft-RoCE, `rdma:` is the better choice anyway.
std::string keep_off_soft_roce(const std::string& asked) {
  const auto wanted = asked_or_set(asked);
  if ((!wanted.empty() && without_verbs(wanted)) || !variable("UCX_NET_DEVICES").empty())
    return asked;
  const std::string device = soft_device();
  if (device.empty()) return asked;
  if (wanted.empty()) return "tcp";
  throw SetupError(
      Errc::transport_unavailable,
      fmt::format("ucx: the transports {} of UCX over {}, a device in software, end the process "
                  "when a peer is lost while it connects: use rdma: there, or ?tls=tcp, or have "
                  "them all the same by naming the device in UCX_NET_DEVICES ({}:1)",
                  wanted, device, device));
}

ucs_status_t adjust(ucp_config_t* config, const std::string& asked) {
  const auto transports = asked_or_set(asked);
  const auto names = split(transports);
  const auto among = [&](std::string_view name) {
    return is_all(transports) || std::ranges::find(names, name) != names.end();
  };
  Adjuster adjuster(config);
  if (is_all(transports) ? rdma_devices().empty() : without_verbs(transports)) {
    // UCX copies each message to a socket or to shared memory anyway: it is not to register what it
    // sends. With UCX 1.13 a link's part of that, 2 MiB, stays until the context goes. In pieces of
    // 8 KiB, its own choice for copies, large messages would have a third of their speed; what is
    // not copied travels in pieces as long as what is received.
    adjuster.set("ZCOPY_THRESH", "inf", "UCX_ZCOPY_THRESH");
    const auto received = variable("UCX_TCP_RX_SEG_SIZE");
    if (among("tcp"))
      adjuster.set("TX_SEG_SIZE", received.empty() ? "64k" : received, "UCX_TCP_TX_SEG_SIZE");
  } else if ((among("ud") || among("ud_v") || among("ud_verbs") || among("rc") || among("ib")) &&
             !soft_device().empty()) {
    // UCX asks the completion's service level for the kind of packet, which only mlx5 has there,
    // takes an IPv4 header for a GRH, and drops every packet as another's.
    adjuster.set("UD_ETH_DGID_CHECK", "n", "UCX_UD_ETH_DGID_CHECK");
  }
  return adjuster.status;
}

}  // namespace

std::shared_ptr<Context> Context::get(const std::string& asked) {
  struct Known {
    std::shared_ptr<Context> context;
    std::string devices;
  };
  const std::string transports = keep_off_soft_roce(asked);
  auto devices = devices_now();
  static std::mutex mutex;
  static auto& known = *new std::map<std::string, Known>;  // UCX may be gone when main() has ended
  const std::scoped_lock lock(mutex);
  auto& entry = known[transports];
  if (!entry.context || entry.context->process_ != ::getpid() || entry.devices != devices)
    entry = {std::make_shared<Context>(transports), std::move(devices)};
  return entry.context;
}

std::string Context::version() { return ::ucp_get_version_string(); }

Context::Context(const std::string& transports) : transports_(transports) {
  unsigned major = 0;
  unsigned minor = 0;
  unsigned release = 0;
  ::ucp_get_version(&major, &minor, &release);
  // UCX keeps to its ABI within a major version: a newer one will do.
  if (major != UCP_API_MAJOR || minor < UCP_API_MINOR)
    throw SetupError(
        Errc::version_mismatch,
        fmt::format("ucx: UCX {} is loaded here, but this was built against {}.{}: "
                    "install UCX {}.{} or a later one of that major version",
                    version(), UCP_API_MAJOR, UCP_API_MINOR, UCP_API_MAJOR, UCP_API_MINOR));
  ErrorLog log;
  const ErrorLog::Scope listening(log);
  ucp_config_t* config = nullptr;
  if (const auto status = ::ucp_config_read(nullptr, nullptr, &config); status != UCS_OK)
    throw SetupError(Errc::transport_unavailable,
                     fmt::format("ucx: its configuration cannot be read: {}: look at the UCX_ "
                                 "variables of this process",
                                 reason(status, log)));
  ucs_status_t status = UCS_OK;
  if (!transports.empty()) status = ::ucp_config_modify(config, "TLS", transports.c_str());
  if (status == UCS_OK) status = adjust(config, transports);
  if (status == UCS_OK) {
    ucp_params_t params{};
    params.field_mask = UCP_PARAM_FIELD_FEATURES | UCP_PARAM_FIELD_NAME;
    params.features = UCP_FEATURE_AM | UCP_FEATURE_WAKEUP;
    params.name = "penstock";
    status = ::ucp_init(&params, config, &context_);
  }
  ::ucp_config_release(config);
  if (status != UCS_OK)
    throw SetupError(
        status == UCS_ERR_NO_MEMORY ? Errc::resource_limit : Errc::transport_unavailable,
        fmt::format("ucx: no transport{}: {}: `ucx_info -d` lists what this machine has",
                    transports.empty() ? "" : fmt::format(" of those in ?tls={}", transports),
                    reason(status, log)));
}

Context::~Context() {
  // A child of fork() has none of its parent's threads.
  if (context_ != nullptr && process_ == ::getpid()) ::ucp_cleanup(context_);
}

}  // namespace penstock::inline v1::ucx
