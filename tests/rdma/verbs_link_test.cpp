// The verbs link on a real device: two links of one process, joined to each other.
#include "penstock/rdma/verbs/verbs_link.hpp"

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <random>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <variant>
#include <vector>

#include "penstock/rdma/verbs/description.hpp"
#include "penstock/rdma/verbs/failure.hpp"
#include "penstock/rdma/verbs/path.hpp"
#include "penstock/rdma/verbs/verbs_provider.hpp"
#include "penstock/transport/error.hpp"
#include "penstock/transport/plugin_loader.hpp"
#include "tests/child.hpp"

namespace penstock::verbs {
namespace {

using Kind = LinkEvent::Kind;

constexpr std::chrono::seconds kWatchdog{60};  // the device may be emulated by an emulated CPU
constexpr std::size_t kPage = 4096;

/// The error that `body` must throw.
template <typename Body>
SetupError error_of(Body body) {
  try {
    body();
  } catch (const SetupError& e) {
    return e;
  }
  ADD_FAILURE() << "no SetupError";
  return {Errc::system, ""};
}

testing::AssertionResult says(const std::string& text, std::string_view part) {
  if (text.find(part) != std::string::npos) return testing::AssertionSuccess();
  return testing::AssertionFailure() << "'" << text << "' does not say '" << part << "'";
}

/// Whole pages of its own.
class Memory {
 public:
  explicit Memory(std::size_t length)
      : bytes_(static_cast<std::byte*>(::mmap(nullptr, length, PROT_READ | PROT_WRITE,
                                              MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)),
               length) {}
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  Memory(Memory&&) = delete;
  Memory& operator=(Memory&&) = delete;
  ~Memory() { ::munmap(bytes_.data(), bytes_.size()); }
  [[nodiscard]] std::byte* data() const { return bytes_.data(); }
  [[nodiscard]] std::size_t size() const { return bytes_.size(); }
  void fill(unsigned seed) const {
    for (std::size_t i = 0; i < bytes_.size(); ++i)
      bytes_[i] = static_cast<std::byte>((i * 131 + seed) % 251);
  }
  [[nodiscard]] LinkRegion region(bool remote_write) const {
    return {.base = data(), .length = size(), .remote_write = remote_write};
  }

 private:
  std::span<std::byte> bytes_;
};

// --- the link ------------------------------------------------------------------------------------

std::shared_ptr<LinkProvider> linked_in() { return std::make_shared<VerbsProvider>(); }
std::shared_ptr<LinkProvider> from_module() { return load_link_module("rdma"); }

struct Route {
  const char* name;
  std::shared_ptr<LinkProvider> (*make)();
};

/// Two joined links: `a` writes from its mirror into `b`'s ring, `b` from its line into `a`'s.
class VerbsLinkTest : public testing::TestWithParam<Route> {
 protected:
  void SetUp() override {
    provider_ = GetParam().make();
    ASSERT_NE(provider_, nullptr) << "penstock_rdma.so is not beside the test";
    const ProbeReport report = provider_->probe();
    ASSERT_TRUE(report.available) << report.reason;  // run by tests/softroce, which has a device
  }

  std::unique_ptr<Link> open_a(const std::string& options = {}) {
    return provider_->open({.local_host = "127.0.0.1",
                            .peer_host = "127.0.0.1",
                            .options = options,
                            .regions = {mirror_.region(false), credit_.region(true)}});
  }
  std::unique_ptr<Link> open_b(const std::string& options = {}) {
    return provider_->open({.local_host = "127.0.0.1",
                            .peer_host = "127.0.0.1",
                            .options = options,
                            .regions = {ring_.region(true), line_.region(false)}});
  }
  void join(const std::string& options_a = {}, const std::string& options_b = {}) {
    a_ = open_a(options_a);
    b_ = open_b(options_b);
    a_->connect(b_->describe());
    b_->connect(a_->describe());
  }

  /// The next event of `link`; polls until it comes.
  static LinkEvent next(Link& link) {
    LinkEvent event{};
    const auto end = std::chrono::steady_clock::now() + kWatchdog;
    while (link.poll(std::span(&event, 1)) == 0)
      if (std::chrono::steady_clock::now() > end) {
        ADD_FAILURE() << "no event within the watchdog's time";
        return {.kind = Kind::failed, .value = ~0ULL};
      }
    return event;
  }
  static void expect_event(Link& link, Kind kind, std::uint64_t value) {
    const LinkEvent event = next(link);
    EXPECT_EQ(event.kind, kind) << link.error();
    EXPECT_EQ(event.value, value);
  }
  /// Sleeps on the event descriptor until there is an event.
  static LinkEvent sleep_for_event(Link& link, bool completions, bool immediates) {
    LinkEvent event{};
    for (;;) {
      link.arm(completions, immediates);
      if (link.poll(std::span(&event, 1)) == 1) return event;
      pollfd fd{.fd = link.event_fd(), .events = POLLIN, .revents = 0};
      if (::poll(&fd, 1, std::chrono::milliseconds(kWatchdog).count()) != 1) {
        ADD_FAILURE() << "the event descriptor did not become readable";
        return {.kind = Kind::failed, .value = ~0ULL};
      }
      link.disarm();
    }
  }

  PostStatus write(std::size_t from, std::uint32_t length, std::uint64_t to, std::uint64_t cookie,
                   std::optional<std::uint32_t> immediate = {}) {
    const RemoteWrite w{
        .source = mirror_.data() + from, .length = length, .region = 0, .offset = to};
    return a_->post(std::span(&w, 1), immediate, cookie);
  }
  [[nodiscard]] bool landed(std::size_t from, std::size_t length, std::size_t to) const {
    return std::memcmp(mirror_.data() + from, ring_.data() + to, length) == 0;
  }

  Memory mirror_{1U << 20U};
  Memory credit_{kPage};
  Memory ring_{1U << 20U};
  Memory line_{kPage};
  std::shared_ptr<LinkProvider> provider_;
  std::unique_ptr<Link> a_;
  std::unique_ptr<Link> b_;
};

TEST_P(VerbsLinkTest, WritesOfEverySizeLand) {
  join();
  mirror_.fill(1);
  std::uint64_t cookie = 0;
  for (const std::uint32_t length :
       {1U, 8U, 63U, 64U, 65U, 128U, 129U, 500U, 1024U, 4095U, 4097U, 65536U, 1U << 20U}) {
    std::memset(ring_.data(), 0xee, ring_.size());
    ASSERT_EQ(write(0, length, 0, ++cookie), PostStatus::posted);
    expect_event(*a_, Kind::completed, cookie);
    EXPECT_TRUE(landed(0, length, 0)) << length;
    if (length < ring_.size()) {
      EXPECT_EQ(ring_.data()[length], std::byte{0xee}) << length;
    }
  }
  const LinkCounters counters = a_->counters();
  EXPECT_EQ(counters.posts, cookie);
  EXPECT_EQ(counters.work_requests, cookie);
  EXPECT_EQ(counters.completions, cookie);
  EXPECT_EQ(counters.immediates, 0U);
}

TEST_P(VerbsLinkTest, ACopiedSourceIsFreeAtOnce) {
  join();
  for (std::uint64_t cookie = 1; cookie <= 1000; ++cookie) {
    std::array<std::byte, kMaxCopied> text{};
    text.fill(static_cast<std::byte>(cookie));
    const RemoteWrite w{.source = text.data(),
                        .length = kMaxCopied,
                        .region = 0,
                        .offset = cookie * kMaxCopied,
                        .copied = true};
    PostStatus status = a_->post(std::span(&w, 1), {}, cookie);
    while (status == PostStatus::no_room) {
      (void)next(*a_);
      status = a_->post(std::span(&w, 1), {}, cookie);
    }
    ASSERT_EQ(status, PostStatus::posted) << a_->error();
    text.fill(std::byte{0xff});
  }
  while (next(*a_).value != 1000) {
  }
  for (std::uint64_t cookie = 1; cookie <= 1000; ++cookie)
    EXPECT_EQ(ring_.data()[cookie * kMaxCopied + 63], static_cast<std::byte>(cookie));
}

TEST_P(VerbsLinkTest, AChainLandsInOrderAndCompletesOnce) {
  if (!open_a()->limits().ordered_writes) GTEST_SKIP() << "the device does not order writes";
  join();
  for (std::uint64_t round = 1; round <= 200; ++round) {
    const auto mark = static_cast<std::byte>(round);
    std::memset(mirror_.data(), static_cast<int>(round), 60'000);
    const std::array<RemoteWrite, 3> chain = {
        RemoteWrite{.source = mirror_.data(), .length = 30'000, .region = 0, .offset = kPage},
        RemoteWrite{
            .source = mirror_.data() + 30'000, .length = 30'000, .region = 0, .offset = 40'000},
        RemoteWrite{.source = &mark, .length = 1, .region = 0, .offset = 0, .copied = true}};
    ASSERT_EQ(a_->post(chain, {}, round), PostStatus::posted);
    const auto end = std::chrono::steady_clock::now() + kWatchdog;
    // SYNC: the device's placement order stands for a release; this is the acquire
    while (std::atomic_ref(*ring_.data()).load(std::memory_order_acquire) != mark)
      ASSERT_LT(std::chrono::steady_clock::now(), end);
    EXPECT_EQ(ring_.data()[kPage], mark);
    EXPECT_EQ(ring_.data()[kPage + 29'999], mark);
    EXPECT_EQ(ring_.data()[69'999], mark);
    expect_event(*a_, Kind::completed, round);
  }
  EXPECT_EQ(a_->counters().completions, 200U);
  EXPECT_EQ(a_->counters().work_requests, 600U);
}

TEST_P(VerbsLinkTest, AnImmediateComesAfterItsData) {
  join();
  mirror_.fill(3);
  for (std::uint32_t round = 0; round < 300; ++round) {
    std::memset(ring_.data(), 0, 9000);
    ASSERT_EQ(write(round, 9000, 0, round + 1, 0x0100'0000U | round), PostStatus::posted);
    expect_event(*b_, Kind::immediate, 0x0100'0000U | round);
    EXPECT_TRUE(landed(round, 9000, 0));
    expect_event(*a_, Kind::completed, round + 1);
  }
  EXPECT_EQ(a_->counters().immediates, 300U);
}

TEST_P(VerbsLinkTest, AnImmediateAloneIsAPost) {
  join();
  ASSERT_EQ(a_->post({}, 0xdead'beefU, 1), PostStatus::posted);
  expect_event(*b_, Kind::immediate, 0xdead'beefU);
  expect_event(*a_, Kind::completed, 1);
  ASSERT_EQ(b_->post({}, 42, 1), PostStatus::posted);
  expect_event(*a_, Kind::immediate, 42);
}

TEST_P(VerbsLinkTest, TakesAsManyImmediatesAsItPromises) {
  join();
  const std::uint32_t receives = a_->limits().receives;
  ASSERT_GE(receives, 1U);
  for (std::uint32_t round = 0; round < 20; ++round) {
    for (std::uint32_t i = 1; i <= receives; ++i)
      ASSERT_EQ(a_->post({}, i, round * receives + i), PostStatus::posted);
    std::uint64_t completed = 0;  // nobody polls b_ until all of them have arrived
    while (completed != (round + 1) * receives) completed = next(*a_).value;
    for (std::uint32_t i = 1; i <= receives; ++i) expect_event(*b_, Kind::immediate, i);
  }
}

TEST_P(VerbsLinkTest, SaysWhenTheSendQueueIsFull) {
  join();
  mirror_.fill(4);
  std::uint64_t cookie = 0;
  std::uint64_t refused = 0;
  std::array<RemoteWrite, 3> chain;
  chain.fill({.source = mirror_.data(), .length = 4096, .region = 0, .offset = 0});
  std::uint64_t completed = 0;
  while (refused < 5) {
    const PostStatus status = a_->post(chain, {}, cookie + 1);
    ASSERT_NE(status, PostStatus::failed) << a_->error();
    if (status == PostStatus::posted) {
      ++cookie;
      continue;
    }
    ++refused;
    completed = next(*a_).value;
  }
  while (completed != cookie) completed = next(*a_).value;
  EXPECT_EQ(a_->counters().work_requests, 3 * cookie);
  ASSERT_EQ(a_->post(chain, {}, ++cookie), PostStatus::posted);
  expect_event(*a_, Kind::completed, cookie);
}

TEST_P(VerbsLinkTest, ItsDescriptorWakesAReceiver) {
  join();
  for (std::uint32_t i = 1; i <= 100; ++i) {
    ASSERT_EQ(a_->post({}, i, i), PostStatus::posted);
    const LinkEvent event = sleep_for_event(*b_, false, true);
    EXPECT_EQ(event.kind, Kind::immediate);
    EXPECT_EQ(event.value, i);
    expect_event(*a_, Kind::completed, i);
  }
}

TEST_P(VerbsLinkTest, ItsDescriptorWakesASender) {
  join();
  for (std::uint32_t i = 1; i <= 100; ++i) {
    ASSERT_EQ(write(0, 65536, 0, i), PostStatus::posted);
    const LinkEvent event = sleep_for_event(*a_, true, false);
    EXPECT_EQ(event.kind, Kind::completed);
    EXPECT_EQ(event.value, i);
  }
}

TEST_P(VerbsLinkTest, ItsDescriptorIsQuietWhileNothingHappens) {
  join();
  std::array<LinkEvent, 4> events;
  pollfd fd{.fd = b_->event_fd(), .events = POLLIN, .revents = 0};
  // what came up with the device may still be there, once
  for (int i = 0; i < 3; ++i) {
    b_->disarm();
    b_->arm(true, true);
    EXPECT_EQ(b_->poll(events), 0U);
  }
  EXPECT_EQ(::poll(&fd, 1, 20), 0);
}

TEST_P(VerbsLinkTest, WakesWhoPollsItsEventsApartAndNobodyElse) {
  join();
  std::array<LinkEvent, 4> events;
  for (int i = 0; i < 3; ++i) {  // as above
    b_->disarm();
    b_->arm(true, true);
    EXPECT_EQ(b_->poll(events), 0U);
  }
  std::array<pollfd, 2> fds{{{.fd = b_->events_apart(true), .events = POLLIN, .revents = 0},
                             {.fd = b_->event_fd(), .events = POLLIN, .revents = 0}}};
  ASSERT_GE(fds[0].fd, 0);
  for (std::uint32_t i = 1; i <= 10; ++i) {
    ASSERT_EQ(a_->post({}, i, i), PostStatus::posted);
    ASSERT_EQ(::poll(fds.data(), 1, std::chrono::milliseconds(kWatchdog).count()), 1);
    EXPECT_EQ(::poll(&fds[1], 1, 0), 0);
    expect_event(*b_, Kind::immediate, i);
    expect_event(*a_, Kind::completed, i);
    b_->disarm();
    EXPECT_EQ(::poll(fds.data(), 2, 0), 0);
    b_->arm(true, true);
  }
  // One that came before it is together again.
  ASSERT_EQ(a_->post({}, 11U, 11), PostStatus::posted);
  expect_event(*a_, Kind::completed, 11);
  ASSERT_GE(b_->events_apart(false), 0);
  EXPECT_EQ(::poll(&fds[1], 1, std::chrono::milliseconds(kWatchdog).count()), 1);
  expect_event(*b_, Kind::immediate, 11);
}

TEST_P(VerbsLinkTest, KeepsWritesInsideWhatWasDescribed) {
  const auto refused = [&](RemoteWrite w) {
    join();
    EXPECT_EQ(a_->post(std::span(&w, 1), {}, 1), PostStatus::failed);
    EXPECT_TRUE(says(a_->error(), "outside the memory"));
    expect_event(*a_, Kind::failed, 0);
    std::array<LinkEvent, 4> events;
    EXPECT_EQ(a_->poll(events), 0U) << "a failure is reported once";
  };
  refused({.source = mirror_.data(), .length = 8, .region = 1, .offset = 0});
  refused({.source = mirror_.data(), .length = 8, .region = 0, .offset = ring_.size() - 7});
  refused({.source = mirror_.data(), .length = 8, .region = 0, .offset = ~0ULL - 3});
  refused({.source = mirror_.data() + mirror_.size() - 7, .length = 8, .region = 0, .offset = 0});
  refused({.source = ring_.data(), .length = 8, .region = 0, .offset = 0});
  refused({.source = mirror_.data(), .length = 65, .region = 0, .offset = 0, .copied = true});
}

TEST_P(VerbsLinkTest, DoesNotPostBeforeItIsConnected) {
  a_ = open_a();
  EXPECT_EQ(write(0, 8, 0, 1), PostStatus::failed);
}

TEST_P(VerbsLinkTest, AWrongDescriptionIsAnErrorAndLeavesTheLinkUsable) {
  a_ = open_a();
  b_ = open_b();
  const auto good = b_->describe();
  for (std::size_t length = 0; length < good.size(); ++length)
    EXPECT_THROW(a_->connect(std::span(good).first(length)), SetupError);
  std::mt19937 random(2);
  for (int round = 0; round < 2000; ++round) {
    std::vector<std::byte> bytes(random() % 512);
    for (std::byte& b : bytes) b = static_cast<std::byte>(random());
    EXPECT_THROW(a_->connect(bytes), SetupError);
  }
  a_->connect(good);
  b_->connect(a_->describe());
  ASSERT_EQ(a_->post({}, 5, 1), PostStatus::posted);
  expect_event(*b_, Kind::immediate, 5);
  EXPECT_THROW(a_->connect(good), SetupError);
}

TEST_P(VerbsLinkTest, AWrongOptionIsAnErrorThatNamesWhatThereIs) {
  const auto devices = nlohmann::json::parse(provider_->probe().json);
  const std::string name = devices[0]["name"];
  SetupError e = error_of([&] { (void)open_a("device=nothere"); });
  EXPECT_EQ(e.errc(), Errc::bad_uri);
  EXPECT_TRUE(says(e.what(), name));
  e = error_of([&] { (void)open_a("device=" + name + "&port=200"); });
  EXPECT_EQ(e.errc(), Errc::bad_uri);
  EXPECT_TRUE(says(e.what(), "port 200"));
  e = error_of([&] { (void)open_a("device=" + name + "&gid_index=255"); });
  EXPECT_EQ(e.errc(), Errc::transport_unavailable);
  EXPECT_TRUE(says(e.what(), "has no GID 255"));
  e = error_of([&] { (void)open_a("gid_index=x"); });
  EXPECT_EQ(e.errc(), Errc::bad_uri);
}

TEST_P(VerbsLinkTest, TheSmallerMtuOfTheTwoIsThePathsAndCarriesEverything) {
  join("mtu=256");
  EXPECT_EQ(a_->limits().packet, 256U);
  EXPECT_EQ(b_->limits().packet, 256U);
  mirror_.fill(8);
  ASSERT_EQ(write(3, 40'000, 5, 1, 2), PostStatus::posted);
  expect_event(*b_, Kind::immediate, 2);
  EXPECT_TRUE(landed(3, 40'000, 5));
}

TEST_P(VerbsLinkTest, TravelsAsItsOptionsSay) {
  join("traffic_class=106&service_level=3&ack_timeout=18&pkey=0xffff&ordered_writes=0");
  EXPECT_FALSE(a_->limits().ordered_writes);
  mirror_.fill(9);
  ASSERT_EQ(write(0, 5000, 0, 1, 2), PostStatus::posted);
  expect_event(*b_, Kind::immediate, 2);
  EXPECT_TRUE(landed(0, 5000, 0));
  expect_event(*a_, Kind::completed, 1);
  ASSERT_EQ(b_->post({}, 42, 1), PostStatus::posted);
  expect_event(*a_, Kind::immediate, 42);
  EXPECT_EQ(error_of([&] { provider_->check("mtu=1000"); }).errc(), Errc::bad_uri);
  EXPECT_EQ(error_of([&] { provider_->check("pkey=0x12"); }).errc(), Errc::bad_uri);
}

TEST_P(VerbsLinkTest, GoesFromOneIpv6AddressToAnotherButNotToAnIpv4One) {
  const auto devices = nlohmann::json::parse(provider_->probe().json);
  std::string options;
  for (const auto& gid : devices[0]["ports"][0]["gids"])
    if (gid["gid"].get<std::string>().find(':') != std::string::npos && !gid["netdev"].is_null())
      options = "device=" + devices[0]["name"].get<std::string>() +
                "&gid_index=" + std::to_string(gid["index"].get<int>());
  if (options.empty()) GTEST_SKIP() << "the device has no IPv6 address";
  join(options, options);
  EXPECT_TRUE(says(a_->path(), "::"));
  mirror_.fill(10);
  ASSERT_EQ(write(0, 9000, 0, 1, 2), PostStatus::posted);
  expect_event(*b_, Kind::immediate, 2);
  EXPECT_TRUE(landed(0, 9000, 0));

  a_ = open_a(options);
  b_ = open_b();
  const SetupError e = error_of([&] { a_->connect(b_->describe()); });
  EXPECT_EQ(e.errc(), Errc::unreachable);
  EXPECT_TRUE(says(e.what(), "choose with ?gid_index="));
}

TEST_P(VerbsLinkTest, ADeadPeerFailsItWithTheFirstCause) {
  join("ack_timeout=12");
  b_.reset();
  for (std::uint64_t cookie = 1; cookie <= 20; ++cookie)
    ASSERT_EQ(write(0, 64, 0, cookie), PostStatus::posted);
  // A device that repeats for ever tells nothing: whoever waits looks.
  expect_event(*a_, Kind::failed, 0);
  EXPECT_TRUE(says(a_->error(), "the peer is gone or unreachable"));
  EXPECT_TRUE(says(a_->error(), "queue pair 0x"));
  EXPECT_EQ(write(0, 64, 0, 21), PostStatus::failed);
}

TEST_P(VerbsLinkTest, AMessageLandsInMemoryThatWasAddedForIt) {
  join();
  ASSERT_TRUE(a_->limits().landings) << "the kernel copies no registered pages for children";
  const Memory target(3 * kPage + 1);
  mirror_.fill(11);
  const auto taken = b_->add_memory(target.region(true));
  // Beginning and end need not lie at pages' borders.
  const auto source = a_->add_memory({mirror_.data() + 5, target.size(), false});
  ASSERT_TRUE(taken && source);
  ASSERT_EQ(a_->land({source.get(), 0, 5000, taken->place()}, 1), PostStatus::posted);
  const auto rest = static_cast<std::uint32_t>(target.size() - 5000);
  ASSERT_EQ(a_->land({source.get(), 5000, rest, taken->place()}, 2), PostStatus::posted);
  LinkEvent event = next(*a_);
  if (event.value == 1) event = next(*a_);
  ASSERT_EQ(event.kind, Kind::completed) << a_->error();
  EXPECT_EQ(event.value, 2U);
  EXPECT_EQ(std::memcmp(target.data(), mirror_.data() + 5, target.size()), 0);
  EXPECT_EQ(a_->counters().posts, 2U);
}

TEST_P(VerbsLinkTest, ASourceMayLieWhereNobodyMayWrite) {
  join();
  ASSERT_EQ(::mprotect(mirror_.data(), kPage, PROT_READ), 0);
  const Memory target(kPage);
  const auto taken = b_->add_memory(target.region(true));
  const auto source = a_->add_memory({mirror_.data(), kPage, false});
  ASSERT_TRUE(taken && source);
  std::memset(target.data(), 1, kPage);
  ASSERT_EQ(a_->land({source.get(), 0, kPage, taken->place()}, 1), PostStatus::posted);
  expect_event(*a_, Kind::completed, 1);
  EXPECT_EQ(target.data()[kPage - 1], std::byte{0});
}

TEST_P(VerbsLinkTest, MemoryThatCannotBePinnedIsRefusedAndTheLinkGoesOn) {
  join();
  void* const nowhere = ::mmap(nullptr, kPage, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ::munmap(nowhere, kPage);
  EXPECT_EQ(a_->add_memory({static_cast<std::byte*>(nowhere), kPage, false}), nullptr);
  EXPECT_EQ(a_->add_memory({static_cast<std::byte*>(nowhere), kPage, true}), nullptr);
  ASSERT_EQ(write(0, 64, 0, 1, 7), PostStatus::posted);
  expect_event(*b_, Kind::immediate, 7);
}

TEST_P(VerbsLinkTest, ALandingInMemoryThatWasTakenBackFailsTheLinkAndWritesNothing) {
  join();
  const Memory target(kPage);
  auto taken = b_->add_memory(target.region(true));
  const auto place = taken->place();
  taken.reset();
  mirror_.fill(12);
  const auto source = a_->add_memory(mirror_.region(false));
  ASSERT_EQ(a_->land({source.get(), 0, kPage, place}, 1), PostStatus::posted);
  EXPECT_EQ(next(*a_).kind, Kind::failed);
  EXPECT_TRUE(says(a_->error(), "remote access error"));
  EXPECT_TRUE(std::all_of(target.data(), target.data() + kPage,
                          [](std::byte b) { return b == std::byte{0}; }));
}

TEST_P(VerbsLinkTest, ALandingOutsideOfItsMessageIsRefused) {
  join();
  const Memory target(kPage);
  const auto taken = b_->add_memory(target.region(true));
  const auto source = a_->add_memory({mirror_.data(), 1000, false});
  EXPECT_EQ(a_->land({source.get(), 990, 11, taken->place()}, 1), PostStatus::failed);
  EXPECT_EQ(next(*a_).kind, Kind::failed);
  EXPECT_TRUE(says(a_->error(), "outside the memory of its message"));
}

TEST_P(VerbsLinkTest, MemoryIsAddedAndTakenBackBesideOtherCalls) {
  join();
  std::atomic<bool> over = false;
  std::jthread adding([&] {
    const Memory memory(16 * kPage);
    while (!over) EXPECT_NE(a_->add_memory(memory.region(true)), nullptr);
  });
  for (std::uint64_t cookie = 1; cookie <= 300; ++cookie) {
    ASSERT_EQ(write(0, 64, 0, cookie), PostStatus::posted);
    expect_event(*a_, Kind::completed, cookie);
  }
  over = true;
}

TEST_P(VerbsLinkTest, DestructionFences) {
  join();
  mirror_.fill(5);
  std::uint64_t cookie = 0;
  while (write(0, 65536, 0, cookie + 1) == PostStatus::posted) ++cookie;
  b_.reset();
  std::memset(ring_.data(), 0x77, ring_.size());
  const auto end = std::chrono::steady_clock::now() + kWatchdog;
  for (LinkEvent event{}; event.kind != Kind::failed;) {
    ASSERT_LT(std::chrono::steady_clock::now(), end);
    if (write(0, 65536, 0, cookie + 1) == PostStatus::posted) ++cookie;
    (void)a_->poll(std::span(&event, 1));
  }
  EXPECT_TRUE(std::all_of(ring_.data(), ring_.data() + ring_.size(),
                          [](std::byte b) { return b == std::byte{0x77}; }));
}

TEST_P(VerbsLinkTest, AChildOfForkLeavesItAlone) {
  join();
  EXPECT_EQ(test::run_in_child([&] {
              a_.reset();
              b_.reset();
              return true;
            }),
            0);
  mirror_.fill(6);
  ASSERT_EQ(write(0, 5000, 0, 1, 9), PostStatus::posted) << a_->error();
  expect_event(*b_, Kind::immediate, 9);
  EXPECT_TRUE(landed(0, 5000, 0));
}

TEST_P(VerbsLinkTest, ManyLinksLeaveNothingBehind) {
  const auto descriptors = [] {
    return std::distance(std::filesystem::directory_iterator("/proc/self/fd"), {});
  };
  const auto kept = open_a();  // the device's context stays open
  const auto before = descriptors();
  for (int i = 0; i < 200; ++i) {
    join();
    ASSERT_EQ(write(0, 64, 0, 1, 7), PostStatus::posted);
    expect_event(*b_, Kind::immediate, 7);
    a_.reset();
    b_.reset();
    ASSERT_EQ(descriptors(), before);
  }
}

TEST_P(VerbsLinkTest, SaysWhatItIs) {
  join();
  EXPECT_TRUE(says(a_->path(), " port "));
  EXPECT_TRUE(says(a_->path(), " queue pair "));
  const LinkLimits limits = a_->limits();
  EXPECT_GE(limits.max_writes, 3U);
  EXPECT_GE(limits.max_write, 1U << 20U);
  EXPECT_GE(limits.packet, 256U);
  const auto devices = nlohmann::json::parse(provider_->probe().json);
  ASSERT_TRUE(devices.is_array());
  ASSERT_FALSE(devices.empty());
  for (const char* key : {"name", "available", "ports", "max_inline", "data_in_order"})
    EXPECT_TRUE(devices[0].contains(key)) << key;
}

INSTANTIATE_TEST_SUITE_P(, VerbsLinkTest,
                         testing::Values(Route{"LinkedIn", linked_in},
                                         Route{"Module", from_module}),
                         [](const auto& test) { return std::string(test.param.name); });

// --- a device with little inline data ------------------------------------------------------------

TEST(VerbsLinkStaging, CopiedWritesLandWithoutInlineData) {
  const Survey found = survey();
  const auto choice = choose_path(found, {});
  const auto* none = std::get_if<NoPath>(&choice);
  ASSERT_EQ(none, nullptr) << none->text;
  const auto& path = std::get<PathChoice>(choice);
  const QueuePairWish wish{.send_requests = 8, .inline_bytes = 0};
  const Memory ring(kPage * 16);
  VerbsLink a(path, {}, wish);
  VerbsLink b(path, {ring.region(true)}, wish);
  ASSERT_LT(a.queue_pair_facts().inline_bytes, kMaxCopied);
  a.connect(b.describe());
  b.connect(a.describe());
  std::uint64_t completed = 0;
  const auto poll = [&] {
    LinkEvent event{};
    if (a.poll(std::span(&event, 1)) == 0) return;
    ASSERT_EQ(event.kind, Kind::completed) << a.error();
    completed = event.value;
  };
  for (std::uint64_t cookie = 1; cookie <= 500; ++cookie) {
    std::array<std::byte, kMaxCopied> text{};
    text.fill(static_cast<std::byte>(cookie));
    const RemoteWrite w{.source = text.data(),
                        .length = kMaxCopied,
                        .region = 0,
                        .offset = cookie * kMaxCopied,
                        .copied = true};
    PostStatus status = a.post(std::span(&w, 1), {}, cookie);
    for (; status == PostStatus::no_room; status = a.post(std::span(&w, 1), {}, cookie)) poll();
    ASSERT_EQ(status, PostStatus::posted) << a.error();
    text.fill(std::byte{0xff});
  }
  const auto end = std::chrono::steady_clock::now() + kWatchdog;
  while (completed != 500) {
    poll();
    ASSERT_LT(std::chrono::steady_clock::now(), end);
  }
  for (std::uint64_t cookie = 1; cookie <= 500; ++cookie)
    EXPECT_EQ(ring.data()[cookie * kMaxCopied + 63], static_cast<std::byte>(cookie));
}

}  // namespace
}  // namespace penstock::verbs
