// What needs no device: the description's parser, and the choice of the path among devices that are
// described here.
#include "penstock/rdma/verbs/path.hpp"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <algorithm>
#include <cstdint>
#include <random>
#include <span>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "penstock/rdma/verbs/description.hpp"
#include "penstock/rdma/verbs/failure.hpp"
#include "penstock/transport/error.hpp"

namespace penstock::verbs {
namespace {

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

// --- the description -----------------------------------------------------------------------------

Description some_description() {
  Description d{.link_layer = IBV_LINK_LAYER_ETHERNET,
                .mtu = IBV_MTU_4096,
                .traffic_class = 7,
                .service_level = 3,
                .lid = 9,
                .pkey_index = 1,
                .pkey = 0xffff,
                .queue_pair = 0x123456,
                .first_psn = 0xabcdef,
                .gid_type = GidType::roce_v2,
                .gid = *gid_of("192.0.2.7"),
                .regions = {}};
  d.regions.push_back({.address = 0x7f00'0000'1000, .length = 4096, .key = 0x1234});
  d.regions.push_back({.address = 0x7f00'0001'0000, .length = 1U << 20U, .key = 0xffff'ffff});
  return d;
}

TEST(Description, SurvivesTheWay) {
  const Description sent = some_description();
  const auto bytes = encode(sent);
  EXPECT_EQ(bytes.size(), 48U + 2 * 24U);
  const Description got = decode(bytes);
  EXPECT_EQ(got.link_layer, sent.link_layer);
  EXPECT_EQ(got.mtu, sent.mtu);
  EXPECT_EQ(got.traffic_class, sent.traffic_class);
  EXPECT_EQ(got.service_level, sent.service_level);
  EXPECT_EQ(got.lid, sent.lid);
  EXPECT_EQ(got.pkey_index, sent.pkey_index);
  EXPECT_EQ(got.pkey, sent.pkey);
  EXPECT_EQ(got.queue_pair, sent.queue_pair);
  EXPECT_EQ(got.first_psn, sent.first_psn);
  EXPECT_EQ(got.gid_type, sent.gid_type);
  EXPECT_TRUE(same_gid(got.gid, sent.gid));
  ASSERT_EQ(got.regions.size(), 2U);
  EXPECT_EQ(got.regions[1].address, sent.regions[1].address);
  EXPECT_EQ(got.regions[1].length, sent.regions[1].length);
  EXPECT_EQ(got.regions[1].key, sent.regions[1].key);
}

TEST(Description, OfAnyOtherLengthIsRefused) {
  auto bytes = encode(some_description());
  for (std::size_t length = 0; length < bytes.size(); ++length)
    EXPECT_EQ(error_of([&] { (void)decode(std::span(bytes).first(length)); }).errc(),
              Errc::handshake_failed)
        << length;
  bytes.resize(bytes.size() + 1);
  EXPECT_EQ(error_of([&] { (void)decode(bytes); }).errc(), Errc::handshake_failed);
}

TEST(Description, OfAnotherVersionIsNamedAsSuch) {
  auto bytes = encode(some_description());
  bytes[4] = std::byte{9};
  const SetupError e = error_of([&] { (void)decode(bytes); });
  EXPECT_EQ(e.errc(), Errc::version_mismatch);
  EXPECT_TRUE(says(e.what(), "version 9"));
}

TEST(Description, ChangedAnywhereIsRefusedOrWithinItsBounds) {
  const auto good = encode(some_description());
  for (std::size_t at = 0; at < good.size(); ++at)
    for (unsigned value = 0; value < 256; ++value) {
      auto bytes = good;
      bytes[at] = static_cast<std::byte>(value);
      try {
        const Description d = decode(bytes);
        EXPECT_LE(d.regions.size(), kMaxRegions);
        EXPECT_LE(d.queue_pair, 0xff'ffffU);
        EXPECT_NE(mtu_bytes(d.mtu), 0U);
        for (const ExposedRegion& r : d.regions) EXPECT_GT(r.address + r.length, r.address);
      } catch (const SetupError&) {
        continue;
      }
    }
}

TEST(Description, OfRandomBytesIsRefused) {
  std::mt19937 random(1);
  for (int round = 0; round < 20'000; ++round) {
    std::vector<std::byte> bytes(random() % 300);
    for (std::byte& b : bytes) b = static_cast<std::byte>(random());
    EXPECT_THROW((void)decode(bytes), SetupError);
    // with the right beginning and length, the fields are what is left to check
    if (bytes.size() < 48) continue;
    auto disguised = bytes;
    const auto good = encode(some_description());
    std::copy_n(good.begin(), 6, disguised.begin());
    disguised[6] = static_cast<std::byte>(disguised.size());
    disguised[7] = static_cast<std::byte>(disguised.size() >> 8U);
    EXPECT_THROW((void)decode(disguised), SetupError);
  }
}

// --- the choice of the path ----------------------------------------------------------------------

GidEntry gid_entry(std::uint32_t index, const char* address, GidType type, const char* netdev) {
  return {.index = index, .gid = *gid_of(address), .type = type, .netdev = netdev};
}

PortFacts port_of(std::uint8_t number, std::vector<GidEntry> gids) {
  PortFacts port;
  port.number = number;
  port.attr.state = IBV_PORT_ACTIVE;
  port.attr.link_layer = IBV_LINK_LAYER_ETHERNET;
  port.attr.active_mtu = IBV_MTU_1024;
  port.gids = std::move(gids);
  port.partitions.push_back({});
  return port;
}

/// Two devices with an address each, as soft-RoCE on two network devices gives them.
Survey two_devices() {
  Survey survey;
  for (const unsigned i : {0U, 1U}) {
    const std::string netdev = "eth" + std::to_string(i);
    const std::string address = "192.0.2." + std::to_string(i + 1);
    DeviceFacts device;
    device.name = "rxe" + std::to_string(i);
    device.ports.push_back(
        port_of(1, {gid_entry(0, "fe80::1", GidType::roce_v2, netdev.c_str()),
                    gid_entry(1, address.c_str(), GidType::roce_v1, netdev.c_str()),
                    gid_entry(2, address.c_str(), GidType::roce_v2, netdev.c_str())}));
    survey.devices.push_back(std::move(device));
  }
  return survey;
}

TEST(PathRule, TakesTheControlConnectionsOwnAddressFirst) {
  const Survey survey = two_devices();
  const auto path = std::get<PathChoice>(choose_path(survey, PathWish::parse("", "192.0.2.2")));
  EXPECT_EQ(path.device->name, "rxe1");
  EXPECT_EQ(path.gid->index, 2U);
}

TEST(PathRule, FallsBackToAnIpv4AddressWithANetworkDevice) {
  Survey survey = two_devices();
  survey.devices[0].ports[0].gids[2].netdev.clear();
  const auto path = std::get<PathChoice>(choose_path(survey, PathWish::parse("", "127.0.0.1")));
  EXPECT_EQ(path.device->name, "rxe1");
  EXPECT_EQ(path.gid->index, 2U);
}

TEST(PathRule, NeverTakesALinkLocalAddressOrRoceV1) {
  Survey survey = two_devices();
  for (DeviceFacts& d : survey.devices) d.ports[0].gids.pop_back();
  const auto none = std::get<NoPath>(choose_path(survey, PathWish::parse("", "192.0.2.1")));
  EXPECT_EQ(none.code, Errc::transport_unavailable);
  EXPECT_TRUE(none.may_come);
  EXPECT_TRUE(says(none.text,
                   "no RoCE v2 GID with an IPv4 address on rxe0 port 1: give eth0 an "
                   "address, or pass ?gid_index=N"));
  EXPECT_TRUE(says(none.text, "0: fe80::1 RoCE v2 on eth0"));
}

TEST(PathRule, TakesAnIpv6AddressBeforeNothing) {
  Survey survey = two_devices();
  survey.devices.pop_back();
  auto& gids = survey.devices[0].ports[0].gids;
  gids.pop_back();
  gids.push_back(gid_entry(5, "2001:db8::1", GidType::roce_v2, "eth0"));
  const auto path = std::get<PathChoice>(choose_path(survey, {}));
  EXPECT_EQ(path.gid->index, 5U);
}

TEST(PathRule, TakesRoceV1OnlyFromAPortThatKnowsNothingElse) {
  Survey survey = two_devices();
  survey.devices.pop_back();
  survey.devices[0].ports[0].gids = {gid_entry(0, "fe80::1", GidType::roce_v1, "eth0"),
                                     gid_entry(1, "2001:db8::1", GidType::roce_v1, "eth0"),
                                     gid_entry(2, "192.0.2.1", GidType::roce_v1, "eth0")};
  EXPECT_EQ(std::get<PathChoice>(choose_path(survey, {})).gid->index, 2U);
  EXPECT_EQ(
      std::get<PathChoice>(choose_path(survey, PathWish::parse("", "2001:db8::1"))).gid->index, 1U);
  // Any port with version 2 is better.
  survey.devices.push_back(two_devices().devices[1]);
  EXPECT_EQ(
      std::get<PathChoice>(choose_path(survey, PathWish::parse("", "192.0.2.1"))).device->name,
      "rxe1");
}

/// An InfiniBand port that is a limited member of the default partition and a full one of 0x12.
Survey infiniband() {
  Survey survey;
  DeviceFacts device;
  device.name = "ib0";
  device.ports.push_back(port_of(1, {}));
  PortFacts& port = device.ports[0];
  port.attr.link_layer = IBV_LINK_LAYER_INFINIBAND;
  port.attr.active_mtu = IBV_MTU_4096;
  port.attr.lid = 7;
  port.partitions = {{.index = 0, .key = 0x7fff},
                     {.index = 2, .key = 0x8012},
                     {.index = 5, .key = 0x0013},
                     {.index = 6, .key = 0x8013}};
  survey.devices.push_back(std::move(device));
  return survey;
}

TEST(PathRule, NeedsNoGidOnInfiniBand) {
  const Survey survey = infiniband();
  const auto path = std::get<PathChoice>(choose_path(survey, {}));
  EXPECT_EQ(path.device->name, "ib0");
  EXPECT_EQ(path.gid, nullptr);
}

TEST(PathRule, TakesThePartitionThatIsAskedForAsAFullMemberIfItIsOne) {
  const Survey survey = infiniband();
  const auto partition = [&](const char* options) {
    return std::get<PathChoice>(choose_path(survey, PathWish::parse(options, ""))).partition;
  };
  EXPECT_EQ(partition("").index, 2U);
  EXPECT_EQ(partition("pkey=0xffff").index, 0U);
  EXPECT_EQ(partition("pkey=0x12").key, 0x8012U);
  EXPECT_EQ(partition("pkey=32786").key, 0x8012U);  // the membership bit is not the caller's affair
  EXPECT_EQ(partition("pkey=0x13").index, 6U);
  const auto none = std::get<NoPath>(choose_path(survey, PathWish::parse("pkey=0x44", "")));
  EXPECT_EQ(none.code, Errc::bad_uri);
  EXPECT_TRUE(says(none.text, "ib0 port 1 is not in partition 0x44 (it is in 0x7fff, 0x8012"));
}

TEST(PathRule, KnowsOnePartitionOnEthernet) {
  const Survey survey = two_devices();
  EXPECT_EQ(
      std::get<PathChoice>(choose_path(survey, PathWish::parse("pkey=0xffff", ""))).partition.key,
      0xffffU);
  const auto none = std::get<NoPath>(choose_path(survey, PathWish::parse("pkey=0x12", "")));
  EXPECT_TRUE(says(none.text, "a VLAN is chosen by ?gid_index="));
}

TEST(PathRule, PassesOnHowToTravel) {
  const Survey survey = two_devices();
  const auto path = std::get<PathChoice>(choose_path(
      survey, PathWish::parse("traffic_class=106&service_level=3&mtu=512&ack_timeout=18&"
                              "ordered_writes=0",
                              "")));
  EXPECT_EQ(path.travel.traffic_class, 106);
  EXPECT_EQ(path.travel.service_level, 3);
  EXPECT_EQ(path.travel.mtu, IBV_MTU_512);
  EXPECT_EQ(path.travel.ack_timeout, 18);
  EXPECT_EQ(path.travel.ordered_writes, false);
  const auto plain = std::get<PathChoice>(choose_path(survey, {}));
  EXPECT_FALSE(plain.travel.traffic_class || plain.travel.service_level || plain.travel.mtu ||
               plain.travel.ordered_writes);
  EXPECT_EQ(plain.travel.ack_timeout, kAckTimeout);
}

TEST(PathRule, RefusesToTravelAsThePortCannot) {
  const auto refusal = [](const Survey& survey, const char* options) {
    const auto none = std::get<NoPath>(choose_path(survey, PathWish::parse(options, "")));
    EXPECT_EQ(none.code, Errc::bad_uri) << options;
    return none.text;
  };
  EXPECT_TRUE(
      says(refusal(two_devices(), "mtu=2048"), "mtu=2048 is more than rxe0 port 1 has, 1024"));
  EXPECT_TRUE(says(refusal(two_devices(), "service_level=8"), "has priorities 0 to 7"));
  EXPECT_TRUE(says(refusal(infiniband(), "traffic_class=8"), "has no GID to put into it"));
  Survey survey = two_devices();
  survey.devices[1].ports[0].attr.active_mtu = IBV_MTU_4096;
  EXPECT_EQ(std::get<PathChoice>(choose_path(survey, PathWish::parse("mtu=4096", ""))).device->name,
            "rxe1");
}

TEST(PathRule, KnowsWhoPlacesWritesInOrder) {
  EXPECT_TRUE(places_writes_in_order(0x02c9));
  EXPECT_FALSE(places_writes_in_order(0x1d0f));
}

TEST(PathRule, ObeysTheOptions) {
  const Survey survey = two_devices();
  const auto path = std::get<PathChoice>(choose_path(
      survey, PathWish::parse("capacity=1MiB&device=rxe1&port=1&gid_index=0", "192.0.2.1")));
  EXPECT_EQ(path.device->name, "rxe1");
  EXPECT_EQ(path.gid->index, 0U);
}

TEST(PathRule, NamesWhatThereIsWhenAnOptionDoesNotFit) {
  const Survey survey = two_devices();
  const auto refusal = [&](const char* options) {
    return std::get<NoPath>(choose_path(survey, PathWish::parse(options, "192.0.2.1")));
  };
  EXPECT_TRUE(says(refusal("device=mlx5_0").text,
                   "there is no device 'mlx5_0'; there is rxe0 (port 1), rxe1 (port 1)"));
  EXPECT_EQ(refusal("device=mlx5_0").code, Errc::bad_uri);
  EXPECT_TRUE(says(refusal("device=rxe0&port=2").text, "there is no port 2 on rxe0"));
  EXPECT_TRUE(
      says(refusal("device=rxe0&gid_index=9").text, "rxe0 port 1 has no GID 9 (GIDs there"));
}

TEST(PathRule, SaysThatAPortIsDown) {
  Survey survey = two_devices();
  survey.devices.pop_back();
  survey.devices[0].ports[0].attr.state = IBV_PORT_DOWN;
  const auto none = std::get<NoPath>(choose_path(survey, {}));
  EXPECT_TRUE(says(none.text, "rxe0 port 1 is"));
  EXPECT_TRUE(none.may_come);
}

TEST(PathRule, PassesOnWhyADeviceCannotBeUsed) {
  Survey survey = two_devices();
  survey.devices.pop_back();
  survey.devices[0].problem = "rxe0 may not be opened";
  const auto none = std::get<NoPath>(choose_path(survey, {}));
  EXPECT_TRUE(says(none.text, "rdma: rxe0 may not be opened"));
  EXPECT_FALSE(none.may_come);
}

TEST(PathOptions, OutOfTheirRangeAreRefused) {
  for (const char* options : {"port=0",
                              "port=256",
                              "port=",
                              "port=1x",
                              "gid_index=-1",
                              "gid_index=256",
                              "gid_index=one",
                              "device=",
                              "pkey=0",
                              "pkey=0x8000",
                              "pkey=65536",
                              "pkey=0x",
                              "traffic_class=256",
                              "traffic_class=",
                              "service_level=16",
                              "mtu=1500",
                              "mtu=",
                              "mtu=4096B",
                              "ack_timeout=0",
                              "ack_timeout=32",
                              "ordered_writes=2",
                              "ordered_writes=yes",
                              "device=rxe0,",
                              "device=,rxe0",
                              "device=rxe0,rxe1,rxe0",
                              "device=a,b,c,d,e,f,g,h,i",
                              "rails=0",
                              "rails=9",
                              "rails=all"}) {
    const SetupError e = error_of([&] { (void)PathWish::parse(options, ""); });
    EXPECT_EQ(e.errc(), Errc::bad_uri) << options;
    EXPECT_TRUE(says(e.what(), options)) << options;
    EXPECT_TRUE(says(e.what(), "penstock info")) << options;
  }
}

// --- several rails -------------------------------------------------------------------------------

/// "rxe0:1 rxe1" where the second may take any port.
std::string rails_of(const Survey& survey, std::string_view options, std::string_view local = "") {
  std::string text;
  for (const PathWish& rail : rail_wishes(survey, PathWish::parse(options, local))) {
    if (!text.empty()) text += ' ';
    text += rail.device;
    if (rail.port) text += ':' + std::to_string(*rail.port);
  }
  return text;
}

TEST(Rails, AreOneUnlessAskedFor) {
  EXPECT_EQ(rails_of(two_devices(), ""), "");
  EXPECT_EQ(rails_of(two_devices(), "device=rxe1"), "rxe1");
  EXPECT_EQ(rails_of(two_devices(), "rails=1"), "");
}

TEST(Rails, AreTheDevicesThatAreNamed) {
  EXPECT_EQ(rails_of(two_devices(), "device=rxe1,rxe0"), "rxe1 rxe0");
  EXPECT_EQ(rails_of(two_devices(), "device=rxe1,rxe7&port=2"), "rxe1:2 rxe7:2")
      << "who is not there is told by choose_path()";
  const SetupError e = error_of([] { (void)PathWish::parse("device=rxe0,rxe1&rails=2", ""); });
  EXPECT_EQ(e.errc(), Errc::bad_uri);
  EXPECT_TRUE(says(e.what(), "rails=2 beside a list of devices"));
}

TEST(Rails, BeginWithWhatTheRulePicksAndGoOnWithItsLike) {
  Survey survey = two_devices();
  EXPECT_EQ(rails_of(survey, "rails=2"), "rxe0:1 rxe1:1");
  EXPECT_EQ(rails_of(survey, "rails=8", "192.0.2.2"), "rxe1:1 rxe0:1");
  EXPECT_EQ(rails_of(survey, "rails=8&device=rxe1"), "rxe1:1");
  // A second port counts, one that is down or has an address of another kind does not.
  survey.devices[0].ports.push_back(survey.devices[1].ports[0]);
  survey.devices[0].ports[1].number = 2;
  EXPECT_EQ(rails_of(survey, "rails=3"), "rxe0:1 rxe0:2 rxe1:1");
  EXPECT_EQ(rails_of(survey, "rails=2"), "rxe0:1 rxe0:2");
  survey.devices[0].ports[1].attr.state = IBV_PORT_DOWN;
  EXPECT_EQ(rails_of(survey, "rails=3"), "rxe0:1 rxe1:1");
  survey.devices[1].ports[0].gids = {gid_entry(3, "2001:db8::1", GidType::roce_v2, "eth1")};
  EXPECT_EQ(rails_of(survey, "rails=3"), "rxe0:1");
}

TEST(Rails, WaitLikeOneWhereThereIsNoneYet) {
  Survey survey = two_devices();
  for (DeviceFacts& d : survey.devices) d.ports[0].attr.state = IBV_PORT_DOWN;
  EXPECT_EQ(rails_of(survey, "rails=2"), "");
}

TEST(RegistrationError, SaysHowMuchLockedMemoryIsNeeded) {
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_MEMLOCK, &before), 0);
  rlimit low = before;
  low.rlim_cur = std::min<rlim_t>(before.rlim_max, 65536);
  ASSERT_EQ(::setrlimit(RLIMIT_MEMLOCK, &low), 0);
  const std::string text = registration_text("rxe0", 4U << 20U, 5U << 20U, ENOMEM);
  ASSERT_EQ(::setrlimit(RLIMIT_MEMLOCK, &before), 0);
  EXPECT_TRUE(says(text, "cannot register 4096 KiB with rxe0"));
  EXPECT_TRUE(says(text, "the limit of locked memory is 64 KiB"));
  EXPECT_TRUE(says(text, "needs 5120 KiB"));
  EXPECT_TRUE(says(text, "ulimit -l"));
}

}  // namespace
}  // namespace penstock::verbs
