#include "penstock/rdma/ucx/context.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <mutex>
#include <string_view>
#include <system_error>

#include "penstock/rdma/ucx/error_log.hpp"
#include "penstock/transport/error.hpp"

namespace penstock::inline v1::ucx {
namespace {

std::string variable(const char* name) {
  const char* value = std::getenv(name);  // NOLINT(concurrency-mt-unsafe): UCX reads them likewise
  return value == nullptr ? std::string() : std::string(value);
}

/// All of them do without verbs.
bool without_verbs(std::string_view transports) {
  constexpr std::array<std::string_view, 9> kOthers{"tcp",  "self",  "shm", "sm",   "mm",
                                                    "sysv", "posix", "cma", "xpmem"};
  while (!transports.empty()) {
    const auto comma = std::min(transports.find(','), transports.size());
    if (std::ranges::find(kOthers, transports.substr(0, comma)) == kOthers.end()) return false;
    transports.remove_prefix(std::min(comma + 1, transports.size()));
  }
  return true;
}

/// The name of an RDMA device in software, if there is one.
std::string software_device() {
  std::error_code failed;
  std::filesystem::directory_iterator devices("/sys/class/infiniband", failed);
  for (; !failed && devices != std::filesystem::directory_iterator(); devices.increment(failed)) {
    const auto real = std::filesystem::canonical(devices->path(), failed);
    if (!failed && real.native().starts_with("/sys/devices/virtual/"))
      return devices->path().filename();
  }
  return {};
}

/// UCX's verbs transports cannot meet over soft-RoCE, and end the process when they give up.
std::string keep_off_soft_roce(const std::string& asked) {
  const std::string wanted = asked.empty() ? variable("UCX_TLS") : asked;
  if ((!wanted.empty() && without_verbs(wanted)) || !variable("UCX_NET_DEVICES").empty())
    return asked;
  const std::string device = software_device();
  if (device.empty()) return asked;
  if (wanted.empty()) return "tcp";
  throw SetupError(
      Errc::transport_unavailable,
      fmt::format("ucx: the transports {} of UCX do not work over {}, a device in software: use "
                  "rdma: there, or ?tls=tcp, or name the devices to use in UCX_NET_DEVICES",
                  wanted, device));
}

}  // namespace

std::shared_ptr<Context> Context::get(const std::string& asked) {
  const std::string transports = keep_off_soft_roce(asked);
  static std::mutex mutex;
  static std::map<std::string, std::weak_ptr<Context>> known;
  const std::scoped_lock lock(mutex);
  auto& entry = known[transports];
  auto context = entry.lock();
  if (!context) entry = context = std::make_shared<Context>(transports);
  return context;
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
  if (context_ != nullptr) ::ucp_cleanup(context_);
}

}  // namespace penstock::inline v1::ucx
