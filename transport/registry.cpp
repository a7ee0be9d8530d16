#include "penstock/transport/registry.hpp"

#include <algorithm>
#include <map>
#include <mutex>
#include <set>

#include "penstock/loopback/loopback.hpp"
#include "penstock/transport/auto_transport.hpp"
#include "penstock/transport/error.hpp"
#include "penstock/transport/plugin_loader.hpp"
#include "penstock/transport/remote_transport.hpp"

namespace penstock::inline v1 {
namespace {

struct Registry {
  std::mutex mutex;
  std::map<std::string, std::shared_ptr<Transport>, std::less<>> transports;

  Registry() {
    for (auto transport : {make_inproc(), make_shm(), make_auto()}) {
      const std::string scheme(transport->scheme());
      transports.emplace(scheme, std::move(transport));
    }
  }
};

Registry& registry() {
  static auto& instance = *new Registry;  // never destroyed: channels may outlive main()
  return instance;
}

}  // namespace

std::shared_ptr<Transport> find_transport(std::string_view scheme) {
  auto& all = registry();
  const std::lock_guard lock(all.mutex);
  if (const auto found = all.transports.find(scheme); found != all.transports.end())
    return found->second;
  auto provider = load_link_module(scheme);
  if (!provider) {
    std::string places;
    for (const auto& directory : module_search_path())
      places += (places.empty() ? "" : ", ") + directory;
    throw SetupError(Errc::unknown_scheme, "no transport '" + std::string(scheme) +
                                               "': it is not built in, and there is no "
                                               "penstock_" +
                                               std::string(scheme) + ".so in " + places +
                                               " (PENSTOCK_PLUGIN_PATH adds directories)");
  }
  return all.transports.emplace(scheme, make_remote_transport(std::move(provider))).first->second;
}

void register_transport(std::shared_ptr<Transport> transport) {
  auto& all = registry();
  const std::lock_guard lock(all.mutex);
  const std::string scheme(transport->scheme());
  all.transports.insert_or_assign(scheme, std::move(transport));
}

void register_links(std::shared_ptr<LinkProvider> provider) {
  register_transport(make_remote_transport(std::move(provider)));
}

std::vector<std::string> known_schemes() {
  std::set<std::string> schemes;
  for (auto& scheme : find_modules()) schemes.insert(std::move(scheme));
  auto& all = registry();
  const std::lock_guard lock(all.mutex);
  for (const auto& [scheme, transport] : all.transports) schemes.insert(scheme);
  return {schemes.begin(), schemes.end()};
}

}  // namespace penstock::inline v1
