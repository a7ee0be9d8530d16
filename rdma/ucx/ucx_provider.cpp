#include "penstock/rdma/ucx/ucx_provider.hpp"

#include <nlohmann/json.hpp>

#include "penstock/rdma/ucx/context.hpp"
#include "penstock/rdma/ucx/ucx_link.hpp"
#include "penstock/transport/error.hpp"

namespace penstock::inline v1::ucx {
namespace {

std::string transports_in(std::string_view options) {
  while (!options.empty()) {
    const auto amp = options.find('&');
    const auto item = options.substr(0, amp);
    if (item.starts_with("tls=")) return std::string(item.substr(4));
    options = amp == std::string_view::npos ? std::string_view{} : options.substr(amp + 1);
  }
  return {};
}

}  // namespace

void UcxProvider::check(const std::string& options) const {
  (void)Context::get(transports_in(options));
}

OptionHelp UcxProvider::option_help(const std::string& name) const {
  if (name != "tls") return {};
  return {"UCX's choice; `tcp`, `shm`, `rc_verbs`, … joined by commas",
          "UCX's transports, as in `UCX_TLS`, which it outweighs. The two ends need one in common"};
}

ProbeReport UcxProvider::probe() const {
  ProbeReport report{.available = true, .reason = {}, .json = {}};
  report.json = nlohmann::json{{{"library", "UCX " + Context::version()}}}.dump();
  try {
    (void)Context::get(std::string());
  } catch (const SetupError& e) {
    report.available = false;
    report.reason = e.what();
  }
  return report;
}

std::unique_ptr<Link> UcxProvider::open(const LinkConfig& config) {
  return std::make_unique<UcxLink>(Context::get(transports_in(config.options)), config.regions);
}

}  // namespace penstock::inline v1::ucx
