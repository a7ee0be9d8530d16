#include "penstock/transport/remote_transport.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <fstream>
#include <thread>
#include <utility>

#include "penstock/transport/clock.hpp"
#include "penstock/transport/link_budget.hpp"
#include "penstock/transport/railed_link.hpp"
#include "penstock/transport/rendezvous.hpp"

namespace penstock::inline v1 {
namespace {

constexpr std::size_t kPage = 4096;

/// Anonymous memory, page-aligned and zero, to be registered with a device.
std::shared_ptr<std::byte> map_memory(std::size_t length) {
  void* memory =
      ::mmap(nullptr, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED)
    throw SetupError(Errc::resource_limit, "no memory for a ring of " + std::to_string(length) +
                                               " bytes: bind with a smaller ?capacity=");
  return {static_cast<std::byte*>(memory), [length](std::byte* p) { ::munmap(p, length); }};
}

/// The kernel's huge pages of its usual size.
struct HugePages {
  std::size_t bytes = 0;  // 0: this kernel has none
  std::size_t total = 0;
  std::size_t free = 0;  // and promised to nobody
};

HugePages huge_pages() {
  HugePages pages;
  std::size_t reserved = 0;
  std::ifstream file("/proc/meminfo");
  std::string word;
  while (file >> word) {
    if (word == "HugePages_Total:") file >> pages.total;
    if (word == "HugePages_Free:") file >> pages.free;
    if (word == "HugePages_Rsvd:") file >> reserved;
    if (word == "Hugepagesize:" && file >> pages.bytes) pages.bytes *= 1024;
  }
  pages.free -= std::min(pages.free, reserved);
  return pages;
}

/// Likewise of huge pages, which are taken from the kernel's at once or not at all.
std::shared_ptr<std::byte> map_huge(std::size_t length) {
  const HugePages pages = huge_pages();
  if (pages.bytes == 0)
    throw SetupError(Errc::resource_limit,
                     "pages=huge: this kernel has no huge pages: leave it out");
  const std::size_t count = (length + pages.bytes - 1) / pages.bytes;
  const std::size_t whole = count * pages.bytes;
  // Shared: of pinned private pages fork() makes copies, for which there may be no huge pages left.
  void* memory = ::mmap(nullptr, whole, PROT_READ | PROT_WRITE,
                        MAP_SHARED | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);
  if (memory == MAP_FAILED)
    throw SetupError(Errc::resource_limit,
                     "pages=huge: a ring of " + std::to_string(length) + " bytes takes " +
                         std::to_string(count) + " huge pages of " +
                         std::to_string(pages.bytes / 1024) + " KiB, and " +
                         std::to_string(pages.free) + " are free: reserve so many for each peer (" +
                         "for this one `sysctl vm.nr_hugepages=" +
                         std::to_string(pages.total + count - std::min(count, pages.free)) +
                         "`), or leave ?pages= out");
  return {static_cast<std::byte*>(memory), [whole](std::byte* p) { ::munmap(p, whole); }};
}

/// Whether the URI asks for huge pages under the rings. Throws SetupError.
bool wants_huge_pages(const Uri& uri) {
  const auto found = uri.options.find("pages");
  if (found == uri.options.end() || found->second == "normal") return false;
  if (found->second == "huge") return true;
  throw SetupError(Errc::bad_uri,
                   uri.text() + ": option pages=" + found->second + " is normal or huge");
}

std::shared_ptr<std::byte> map_ring(const Uri& uri, std::size_t length) {
  return wants_huge_pages(uri) ? map_huge(length) : map_memory(length);
}

/// This end's own words of a remote ring, and what keeps them.
struct RemoteMemory {
  /// Throws SetupError where the budget has no room for it: each rail registers the ring, and a
  /// page with a line.
  RemoteMemory(std::uint64_t capacity, std::size_t rails) {
    for (std::size_t i = 0; i < rails; ++i)
      shares.push_back(std::make_unique<LinkShare>(capacity + kPage));
  }
  std::vector<std::unique_ptr<LinkShare>> shares;
  std::shared_ptr<std::byte> region;  // what the peer may write
  std::shared_ptr<std::byte> mirror;  // sender only
  RingControl control{};
};

std::unique_ptr<Link> open_link(LinkProvider& provider, const LinkConfig& config) {
  auto link = provider.open(config);
  const auto limits = link->limits();
  if (limits.max_writes < 3 || limits.receives < 2 || limits.max_write < kPage)
    throw SetupError(Errc::transport_unavailable,
                     std::string(provider.scheme()) + ": the device takes too little in one post");
  return link;
}

/// The options of each rail, at most `most`. Throws SetupError.
std::vector<std::string> rail_paths(const LinkProvider& provider, const Uri& uri,
                                    const std::string& local_host, std::uint64_t most) {
  auto paths = provider.rails(uri.query(), local_host);
  paths.resize(std::min<std::uint64_t>({paths.size(), most, kMaxRails}));
  return paths;
}

constexpr auto kProofInterval = std::chrono::microseconds(20);
/// For further rails, when one has carried something.
constexpr auto kOthersProof = std::chrono::seconds(1);

/// All descriptions together must fit into a frame, beside the rest.
constexpr std::size_t kMaxRailBytes = 8UL * 1024;

/// The links of one path, from when they are opened until something got through.
class Rails {
  enum class Proof : std::uint8_t { open, through, failed };

 public:
  /// One for each of `paths`. Throws SetupError.
  void open(LinkProvider& provider, const std::vector<std::string>& paths, const StreamEnds& ends,
            const std::vector<LinkRegion>& regions) {
    for (const auto& options : paths)
      links_.push_back(open_link(provider, {ends.local_host, ends.peer_host, options, regions}));
  }
  /// Whether messages may land; over several rails none do.
  [[nodiscard]] bool can_land() const noexcept {
    return links_.size() == 1 && links_.front()->limits().landings;
  }
  [[nodiscard]] std::vector<std::byte> describe_first() const { return links_.front()->describe(); }
  [[nodiscard]] std::vector<std::vector<std::byte>> describe_others() const {
    std::vector<std::vector<std::byte>> others;
    std::size_t bytes = 0;
    for (std::size_t i = 1; i < links_.size(); ++i)
      bytes += others.emplace_back(links_[i]->describe()).size();
    if (bytes > kMaxRailBytes)
      throw SetupError(Errc::resource_limit,
                       "the descriptions of " + std::to_string(links_.size()) +
                           " rails are too long for the handshake: ask for fewer");
    return others;
  }
  /// As many as the peer has too; what is left over goes. Throws SetupError.
  void join(const std::vector<std::byte>& first, const std::vector<std::vector<std::byte>>& others,
            RemoteMemory& memory) {
    links_.resize(std::min(links_.size(), others.size() + 1));
    memory.shares.resize(links_.size());
    links_.front()->connect(first);
    for (std::size_t i = 1; i < links_.size(); ++i) {
      try {
        links_[i]->connect(others[i - 1]);
      } catch (const SetupError& e) {
        throw SetupError(e.errc(), name(i) + ": " + e.what() +
                                       ": rails are paired by their order at the two ends");
      }
    }
  }
  /// Takes what comes while the peer proves them. Throws SetupError when none is left.
  void progress() {
    for (std::size_t i = 0; i < links_.size(); ++i) poll(i);
    check_left();
  }
  /// Writes a packet of `zeros` to where the peer's ring begins, which is zero, over each, and
  /// waits until it is there. One that fails while another carries is left to RailedLink, as if it
  /// had failed later. Throws SetupError where nothing gets through.
  void prove(const std::byte* zeros, std::uint64_t size, TimePoint deadline) {
    proofs_.resize(links_.size());
    for (std::size_t i = 0; i < links_.size(); ++i) {
      const auto limits = links_[i]->limits();
      const RemoteWrite write{.source = zeros,
                              .length = static_cast<std::uint32_t>(std::min<std::uint64_t>(
                                  {size, limits.packet, limits.max_write}))};
      // A failed link says why in poll().
      (void)links_[i]->post(std::span(&write, 1), {}, 0);
    }
    while (count(Proof::open) != 0) {
      for (std::size_t i = 0; i < links_.size(); ++i) poll(i);
      check_left();
      const auto now = Clock::now();
      if (now >= deadline) break;
      if (count(Proof::through) != 0) deadline = std::min(deadline, now + kOthersProof);
      std::this_thread::sleep_for(kProofInterval);
    }
    if (count(Proof::through) == 0)
      throw SetupError(
          Errc::unreachable,
          name(0) + ": nothing gets through to the peer, a packet of " +
              std::to_string(std::min<std::uint64_t>(size, links_[0]->limits().packet)) +
              " bytes at least: look at the firewalls (RoCE v2 takes UDP port 4791, "
              "both ways) and the MTUs between the two");
  }
  [[nodiscard]] std::unique_ptr<Link> take() {
    if (links_.size() == 1) return std::move(links_.front());
    return std::make_unique<RailedLink>(std::move(links_));
  }

 private:
  [[nodiscard]] std::string name(std::size_t i) const {
    return (links_.size() == 1 ? "" : "rail " + std::to_string(i) + ", ") + links_[i]->path();
  }
  void poll(std::size_t i) {
    proofs_.resize(links_.size());
    std::array<LinkEvent, 8> events;
    for (const auto& event : std::span(events).first(links_[i]->poll(events))) {
      if (event.kind == LinkEvent::Kind::completed) proofs_[i] = Proof::through;
      if (event.kind == LinkEvent::Kind::failed) proofs_[i] = Proof::failed;
    }
  }
  [[nodiscard]] std::size_t count(Proof proof) const {
    return static_cast<std::size_t>(std::ranges::count(proofs_, proof));
  }
  void check_left() const {
    if (count(Proof::failed) != links_.size()) return;
    std::string reasons;
    for (std::size_t i = 0; i < links_.size(); ++i)
      reasons += (i == 0 ? "" : "; ") + name(i) +
                 ": nothing gets through to the peer: " + links_[i]->error();
    throw SetupError(Errc::unreachable, reasons);
  }

  std::vector<Proof> proofs_;  // one for each link
  std::vector<std::unique_ptr<Link>> links_;
};

class RemoteAdmission final : public Admission {
 public:
  RemoteAdmission(std::shared_ptr<LinkProvider> provider, Uri uri, InletSettings settings,
                  std::shared_ptr<InletSink> sink)
      : provider_(std::move(provider)),
        uri_(std::move(uri)),
        settings_(settings),
        sink_(std::move(sink)) {}

  void welcome(const Hello& hello, const StreamEnds& ends, Welcome& welcome,
               std::vector<int>& /*descriptors*/) override {
    const auto geometry = agree(settings_, kRemoteCapacity, hello.max_capacity);
    parts_.window = welcome.window = geometry.window;
    parts_.max_message = welcome.max_message = settings_.max_message;
    parts_.flow = settings_.flow;
    parts_.ring.capacity = welcome.capacity = geometry.capacity;
    parts_.ring.key = welcome.key = SessionKey::random();
    const auto paths =
        rail_paths(*provider_, uri_, ends.local_host, std::max<std::uint64_t>(hello.rails, 1));
    memory_ = std::make_shared<RemoteMemory>(geometry.capacity, paths.size());
    memory_->region = map_ring(uri_, geometry.capacity);
    parts_.tail = sink_->tail_place();
    // Never torn at rest, from the first look on.
    write_tail(*parts_.tail.line, {0, welcome.key.tail_check(0)});
    parts_.ring.data = memory_->region.get();
    parts_.ring.control = &memory_->control;
    parts_.ring.owner = memory_;
    rails_.open(*provider_, paths, ends,
                {{memory_->region.get(), geometry.capacity, true},
                 {reinterpret_cast<std::byte*>(parts_.tail.line), sizeof(TailLine), true}});
    parts_.remote.landings = (hello.features_offered & kLandings) != 0 &&
                             settings_.max_message != 0 && rails_.can_land();
    if (parts_.remote.landings) welcome.features |= kLandings;
    welcome.features |= hello.features_offered & kProof;
    welcome.link = rails_.describe_first();
    welcome.rails = rails_.describe_others();
  }

  void join(const Ready& ready) override { rails_.join(ready.link, ready.rails, *memory_); }
  void progress() override { rails_.progress(); }

  InletParts complete() override {
    parts_.remote.link = rails_.take();
    parts_.path = parts_.remote.link->path();
    return std::move(parts_);
  }

 private:
  std::shared_ptr<LinkProvider> provider_;
  const Uri uri_;
  const InletSettings settings_;
  std::shared_ptr<InletSink> sink_;
  std::shared_ptr<RemoteMemory> memory_;
  InletParts parts_;
  Rails rails_;  // to go before the memory that they write
};

class RemoteApproach final : public Approach {
 public:
  RemoteApproach(LinkProvider& provider, const Uri& uri) : provider_(provider), uri_(uri) {}

  [[nodiscard]] std::uint64_t rails() const override {
    const auto paths = rail_paths(provider_, uri_, {}, kMaxRails);
    return paths.size() == 1 ? 0 : paths.size();
  }

  Ready ready(const Welcome& welcome, const StreamEnds& ends, std::vector<Fd> /*fds*/) override {
    const auto paths = rail_paths(provider_, uri_, ends.local_host, welcome.rails.size() + 1);
    auto memory = std::make_shared<RemoteMemory>(welcome.capacity, paths.size());
    memory->region = map_memory(kPage);
    memory->mirror = map_ring(uri_, welcome.capacity);
    parts_.ring.data = memory->mirror.get();
    parts_.ring.capacity = welcome.capacity;
    parts_.ring.control = &memory->control;
    parts_.ring.key = welcome.key;
    parts_.ring.owner = memory;
    // The peer's region 0 is the credit line; the mirror is only a source.
    rails_.open(
        provider_, paths, ends,
        {{memory->region.get(), kPage, true}, {memory->mirror.get(), welcome.capacity, false}});
    Ready ready{rails_.describe_first(), rails_.describe_others()};
    parts_.remote.landings = (welcome.features & kLandings) != 0 && rails_.can_land();
    rails_.join(welcome.link, welcome.rails, *memory);
    parts_.remote.credit = memory->region.get();
    return ready;
  }

  void prove(TimePoint deadline) override {
    rails_.prove(parts_.ring.data, parts_.ring.capacity, deadline);
  }

  OutletParts complete() override {
    parts_.remote.link = rails_.take();
    parts_.path = parts_.remote.link->path();
    return std::move(parts_);
  }

 private:
  LinkProvider& provider_;
  const Uri& uri_;
  OutletParts parts_;
  Rails rails_;  // to go before the memory that they write
};

class RemoteTransport final : public Transport {
 public:
  explicit RemoteTransport(std::shared_ptr<LinkProvider> provider)
      : provider_(std::move(provider)) {}

  [[nodiscard]] std::string_view scheme() const noexcept override { return provider_->scheme(); }
  [[nodiscard]] std::vector<std::string> option_names(const Uri& /*uri*/) const override {
    auto names = provider_->option_names();
    names.emplace_back("pages");
    return names;
  }
  [[nodiscard]] OptionHelp option_help(const std::string& name) const override {
    if (name != "pages") return provider_->option_help(name);
    return {"`normal`; or `huge`",
            "What the ring, or its mirror, lies on. Where there are too few huge pages it is "
            "refused, with how many to reserve"};
  }
  [[nodiscard]] ProbeReport probe() const override { return provider_->probe(); }
  void check(const Uri& uri) const override {
    (void)link_budget();  // a variable that makes no sense is told now, not to the first sender
    (void)wants_huge_pages(uri);
    try {
      provider_->check(uri.query());
    } catch (const SetupError& e) {
      throw SetupError(e.errc(), uri.text() + ": " + e.what());
    }
  }

  [[nodiscard]] std::unique_ptr<Listener> listen(const Uri& uri, const InletSettings& settings,
                                                 std::shared_ptr<InletSink> sink) override {
    check(uri);
    ListenerTraits traits{uri.name,
                          settings.liveness,
                          settings.type,
                          agree(settings, kRemoteCapacity, kMaxCapacity).capacity,
                          {{uri.scheme, admissions(uri, settings, sink)}},
                          {{}, {uri.scheme}, {}}};
    return listen_at({uri.host, uri.port, {}}, uri, std::move(traits), std::move(sink));
  }

  [[nodiscard]] std::function<std::unique_ptr<Admission>()> admissions(
      const Uri& uri, const InletSettings& settings,
      const std::shared_ptr<InletSink>& sink) override {
    return [provider = provider_, uri, settings, sink] {
      return std::make_unique<RemoteAdmission>(provider, uri, settings, sink);
    };
  }

  [[nodiscard]] OutletParts connect(const Uri& uri, const OutletSettings& settings,
                                    TimePoint deadline) override {
    check(uri);
    if (uri.host.empty() || uri.port == 0)
      throw SetupError(Errc::bad_uri, uri.text() + ": connecting takes a host and a port, as in " +
                                          uri.scheme + "://192.0.2.7:7000/name");
    RemoteApproach approach(*provider_, uri);
    return approach_at({uri.host, uri.port, {}}, uri, settings, deadline, approach);
  }

 private:
  std::shared_ptr<LinkProvider> provider_;
};

}  // namespace

std::shared_ptr<Transport> make_remote_transport(std::shared_ptr<LinkProvider> provider) {
  return std::make_shared<RemoteTransport>(std::move(provider));
}

}  // namespace penstock::inline v1
