#include "penstock/transport/auto_transport.hpp"

#include <sys/random.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <utility>

#include "penstock/transport/clock.hpp"
#include "penstock/transport/registry.hpp"
#include "penstock/transport/remote_transport.hpp"
#include "penstock/transport/rendezvous.hpp"

namespace penstock::inline v1 {
namespace {

constexpr const char* kDefaultPaths = "inproc,shm,rdma,ucx";
constexpr std::string_view kPlaces = "auto/";
constexpr std::size_t kPlaceDigits = 32;
constexpr std::size_t kMostPaths = 16;  // with a reason for each they fit into a frame

[[noreturn]] void refuse(const Uri& uri, const std::string& why) {
  throw SetupError(Errc::bad_uri, uri.text() + ": " + why);
}

bool within_machine(std::string_view scheme) { return scheme == "inproc" || scheme == "shm"; }

/// Best first.
std::vector<std::string> paths_of(const Uri& uri) {
  const auto found = uri.options.find("paths");
  std::string_view rest = kDefaultPaths;
  if (found != uri.options.end()) rest = found->second;
  std::vector<std::string> paths;
  while (!rest.empty()) {
    const auto comma = std::min(rest.find(','), rest.size());
    std::string path(rest.substr(0, comma));
    rest.remove_prefix(std::min(comma + 1, rest.size()));
    if (path.empty() || path == kAnyPath || std::ranges::count(paths, path) != 0)
      refuse(uri, "option paths: '" + path +
                      "' is no path, or there twice: it takes schemes, as in " + kDefaultPaths);
    if (paths.size() == kMostPaths)
      refuse(uri, "option paths has more than " + std::to_string(kMostPaths));
    paths.push_back(std::move(path));
  }
  if (paths.empty()) refuse(uri, std::string("option paths has none, as in ") + kDefaultPaths);
  return paths;
}

/// The same receiver by one path; its options may be any transport's.
Uri by_path(const Uri& uri, const std::string& scheme, const std::string& place) {
  Uri one = uri;
  one.scheme = scheme;
  one.options.erase("paths");
  if (!within_machine(scheme)) return one;
  return {.scheme = scheme, .host = {}, .port = 0, .name = place, .options = {}};
}

/// No one else's name, and none that can be guessed.
std::string fresh_place() {
  std::array<unsigned char, kPlaceDigits / 2> random{};
  if (::getrandom(random.data(), random.size(), 0) != static_cast<ssize_t>(random.size()))
    throw_errno("auto: drawing a name with getrandom", errno);
  constexpr std::string_view kDigits = "0123456789abcdef";
  std::string place(kPlaces);
  for (const auto byte : random) {
    place += kDigits[byte / 16U];
    place += kDigits[byte % 16U];
  }
  return place;
}

/// What a peer calls one goes into names of this machine.
bool is_place(const std::string& place) {
  return place.size() == kPlaces.size() + kPlaceDigits && place.starts_with(kPlaces) &&
         place.find_first_not_of("0123456789abcdef", kPlaces.size()) == std::string::npos;
}

/// The error's text without the URI that it begins with.
std::string reason(const SetupError& error, const Uri& uri) {
  std::string text = error.what();
  const std::string prefix = uri.text() + ": ";
  return text.starts_with(prefix) ? text.substr(prefix.size()) : text;
}

void add_reason(std::string& all, const std::string& scheme, const std::string& why) {
  all += (all.empty() ? "" : "; ") + scheme + ": " + why;
}

/// Of the channel or of what the user said, whatever the path.
bool concerns_all_paths(Errc code) {
  return code == Errc::bad_uri || code == Errc::no_such_channel || code == Errc::type_mismatch ||
         code == Errc::version_mismatch || code == Errc::forked;
}

/// Of one receiver: that of the port, and those of its places.
class AutoListener final : public Listener {
 public:
  AutoListener(std::vector<std::unique_ptr<Listener>> places, std::unique_ptr<Listener> port)
      : places_(std::move(places)), port_(std::move(port)) {}
  [[nodiscard]] std::string uri() const override { return port_->uri(); }

 private:
  std::vector<std::unique_ptr<Listener>> places_;
  std::unique_ptr<Listener> port_;  // goes first: it tells of the places
};

class Auto final : public Transport {
 public:
  [[nodiscard]] std::string_view scheme() const noexcept override { return kAnyPath; }

  [[nodiscard]] std::vector<std::string> option_names(const Uri& uri) const override {
    std::vector<std::string> names{"paths"};
    for (const auto& path : paths_of(uri)) {
      try {
        for (auto& name : find_transport(path)->option_names({}))
          if (std::ranges::count(names, name) == 0) names.push_back(std::move(name));
      } catch (const SetupError&) {
        // listen() and connect() say why.
      }
    }
    return names;
  }

  [[nodiscard]] OptionHelp option_help(const std::string& name) const override {
    if (name != "paths") return {};
    return {"`" + std::string(kDefaultPaths) + "`; schemes, joined by commas",
            "Which paths this end may use; at the sender the best first"};
  }

  [[nodiscard]] ProbeReport probe() const override { return {true, {}, "[]"}; }

  [[nodiscard]] std::unique_ptr<Listener> listen(const Uri& uri, const InletSettings& settings,
                                                 std::shared_ptr<InletSink> sink) override {
    Offer offer{fresh_place(), {}, {}};
    std::vector<std::unique_ptr<Listener>> places;
    ListenerTraits traits{uri.name,
                          settings.liveness,
                          settings.type,
                          agree(settings, kRemoteCapacity, kMaxCapacity).capacity,
                          {},
                          {}};
    std::string lacks;
    const auto paths = paths_of(uri);
    for (const auto& path : paths) {
      const Uri one = by_path(uri, path, offer.place);
      // The last resort is opened for the first sender that comes for it: that may take threads and
      // devices (UCX), for nobody where the others do.
      const bool last = path == paths.back() && !offer.paths.empty();
      try {
        const auto transport = find_transport(path);
        if (!last) transport->check(one);
        if (within_machine(path)) {
          places.push_back(transport->listen(one, settings, sink));
        } else if (auto admit = transport->admissions(one, settings, sink)) {
          traits.paths.push_back({path, std::move(admit)});
        }
        offer.paths.push_back(path);
      } catch (const SetupError& e) {
        if (e.errc() == Errc::bad_uri) throw;
        offer.lacks.push_back(path + ": " + reason(e, one));
        add_reason(lacks, path, reason(e, one));
      }
    }
    if (offer.paths.empty())
      throw SetupError(Errc::transport_unavailable,
                       uri.text() + ": none of its paths can be had here: " + lacks);
    traits.offer = std::move(offer);
    auto port = listen_at({uri.host, uri.port, {}}, uri, std::move(traits), std::move(sink));
    return std::make_unique<AutoListener>(std::move(places), std::move(port));
  }

  [[nodiscard]] OutletParts connect(const Uri& uri, const OutletSettings& settings,
                                    TimePoint deadline) override {
    const auto paths = paths_of(uri);
    if (uri.host.empty() || uri.port == 0)
      refuse(uri, "connecting takes a host and a port, as in auto://192.0.2.7:7000/name");
    const auto offer = ask_at({uri.host, uri.port, {}}, uri, settings, deadline);
    std::string rejected;
    for (const auto& path : paths) {
      const Uri one = by_path(uri, path, offer.place);
      try {
        check_offered(path, offer);
        // Those have been asked already: they are there, or cannot be reached from here.
        auto parts = find_transport(path)->connect(one, settings,
                                                   within_machine(path) ? Clock::now() : deadline);
        parts.rejected = std::move(rejected);
        return parts;
      } catch (const SetupError& e) {
        if (concerns_all_paths(e.errc())) throw;
        add_reason(rejected, path, why_not(path, e, one));
      }
    }
    throw SetupError(Errc::unreachable, uri.text() + ": no path to the receiver: " + rejected);
  }

 private:
  /// Throws SetupError where the receiver lacks this path.
  static void check_offered(const std::string& path, const Offer& offer) {
    if (std::ranges::count(offer.paths, path) != 0 &&
        (!within_machine(path) || is_place(offer.place)))
      return;
    for (const auto& lack : offer.lacks)
      if (lack.starts_with(path + ": "))
        throw SetupError(Errc::transport_unavailable,
                         "the receiver lacks it: " + lack.substr(path.size() + 2));
    throw SetupError(Errc::transport_unavailable, "the receiver does not offer it");
  }

  static std::string why_not(const std::string& path, const SetupError& error, const Uri& uri) {
    if (within_machine(path) && error.errc() == Errc::unreachable)
      return path == "inproc"
                 ? "the receiver is in another process"
                 : "the receiver's socket is not here: another host, or another network namespace";
    return reason(error, uri);
  }
};

}  // namespace

std::shared_ptr<Transport> make_auto() { return std::make_shared<Auto>(); }

}  // namespace penstock::inline v1
