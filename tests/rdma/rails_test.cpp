// One channel over two soft-RoCE devices, and what is left of it when one goes away. Makes devices
// of its own to take away, so it needs root and the kernel's rdma_rxe and dummy: run by
// tests/softroce.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <functional>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "penstock/channel/channel.hpp"

namespace penstock {
namespace {

using namespace std::chrono_literals;

bool run(const std::string& command) { return std::system(command.c_str()) == 0; }  // NOLINT

std::vector<std::byte> message(std::uint64_t number) {
  static constexpr std::array<std::size_t, 4> kSizes{8, 64'000, 300'000, 1'000};
  std::vector<std::byte> bytes(kSizes[number % kSizes.size()], static_cast<std::byte>(number));
  std::memcpy(bytes.data(), &number, sizeof number);
  return bytes;
}

/// The next message is this one.
void expect(Receiver& receiver, std::uint64_t number) {
  const auto got = receiver.recv_for(60s);
  ASSERT_TRUE(got) << number << ": " << to_string(got.status());
  const auto want = message(number);
  ASSERT_EQ(got.data().size(), want.size()) << number;
  ASSERT_TRUE(std::ranges::equal(got.data(), want)) << number;
}

/// Which rail is lost, by the path that says so of one only.
void expect_lost(const std::string& path, const std::string& device) {
  const auto lost = path.find(" lost: ");
  ASSERT_NE(lost, std::string::npos) << path;
  EXPECT_EQ(path.rfind(device, lost), path.rfind("rxe", lost)) << path;
  EXPECT_EQ(path.find(" lost: ", lost + 1), std::string::npos) << path;
}

/// Two soft-RoCE devices over network devices that nobody else uses. The control connection goes
/// over neither.
class Rails : public testing::Test {
 protected:
  static std::string device(int rail) { return "rxerail" + std::to_string(rail); }
  void SetUp() override {
    for (const int rail : {0, 1}) {
      const auto n = std::to_string(rail);
      ASSERT_TRUE(run("ip link add rail" + n + " mtu 9000 type dummy && ip address add 192.168.8" +
                      n + ".1/24 dev rail" + n + " && ip link set rail" + n +
                      " up && rdma link add " + device(rail) + " type rxe netdev rail" + n))
          << "needs root, rdma_rxe, dummy, ip and rdma";
      there_.at(static_cast<std::size_t>(rail)) = true;
    }
  }
  void TearDown() override {
    sender = {};
    receiver = {};
    for (const int rail : {0, 1}) remove(rail);
    // The names are free again when the kernel is done with them.
    for (const int rail : {0, 1})
      while (run("test -e /sys/class/infiniband/" + device(rail) + " -o -e /sys/class/net/rail" +
                 std::to_string(rail)))
        std::this_thread::sleep_for(20ms);
  }
  void remove(int rail) {
    if (!std::exchange(there_.at(static_cast<std::size_t>(rail)), false)) return;
    // The command itself ends only when nobody uses the device any more.
    EXPECT_TRUE(run("ip link delete rail" + std::to_string(rail) + " &"));
  }

  /// The devices' addresses appear a moment after the links are up.
  void open(const std::string& options) {
    for (const auto end = std::chrono::steady_clock::now() + 30s;;) {
      try {
        receiver = penstock::bind("rdma://127.0.0.1:0/rails?capacity=2MiB&" + options);
        sender = connect(receiver.uris().at(0) + "?" + options);
        return;
      } catch (const SetupError&) {
        if (std::chrono::steady_clock::now() > end) throw;
        std::this_thread::sleep_for(20ms);
      }
    }
  }

  /// `messages` from end to end; in the middle of it, `at_half`.
  void carry(
      std::uint64_t messages, const std::function<void()>& at_half = [] {}) {
    std::jthread sending([&] {
      for (std::uint64_t i = 0; i < messages; ++i)
        ASSERT_EQ(sender.send(message(i)), SendStatus::sent) << sender.stats().error;
    });
    for (std::uint64_t i = 0; i < messages; ++i) {
      if (i == messages / 2) at_half();
      ASSERT_NO_FATAL_FAILURE(expect(receiver, i));
    }
  }
  void lose(int rail) {
    open("device=rxerail0,rxerail1");
    carry(400, [&] { remove(rail); });
    while (receiver.stats().sources.at(0).work.lost_rails == 0 ||
           sender.stats().work.lost_rails == 0)
      std::this_thread::sleep_for(1ms);
    carry(100);
    expect_lost(sender.stats().path, device(rail));
    expect_lost(receiver.stats().sources.at(0).path, device(rail));
    EXPECT_EQ(sender.state(), PeerState::connected);
    EXPECT_EQ(sender.close(), FlushStatus::consumed);
  }

  Receiver receiver;
  Sender sender;

 private:
  std::array<bool, 2> there_{};
};

TEST_F(Rails, carry_all_in_order_and_share_the_work) {
  open("device=rxerail0,rxerail1");
  carry(400);
  for (const int rail : {0, 1}) {
    EXPECT_NE(sender.stats().path.find(device(rail)), std::string::npos) << sender.stats().path;
    std::ifstream counter("/sys/class/infiniband/" + device(rail) +
                          "/ports/1/hw_counters/sent_pkts");
    std::uint64_t packets = 0;
    counter >> packets;
    EXPECT_GT(packets, 1000U) << device(rail);
  }
  EXPECT_EQ(sender.stats().work.lost_rails, 0U);
}

TEST_F(Rails, are_found_by_number) {
  open("rails=8");
  EXPECT_GE(std::ranges::count(sender.stats().path, ';'), 1) << sender.stats().path;
  carry(40);
}

TEST_F(Rails, that_are_not_there_are_refused_by_name) {
  open("device=rxerail0,rxerail1");
  try {
    (void)penstock::bind("rdma://127.0.0.1:0/wrong?device=rxerail0,rxenone");
    FAIL();
  } catch (const SetupError& e) {
    EXPECT_EQ(e.errc(), Errc::bad_uri);
    EXPECT_NE(std::string_view(e.what()).find("'rxenone'"), std::string_view::npos) << e.what();
  }
}

TEST_F(Rails, go_on_without_the_second) { lose(1); }

TEST_F(Rails, go_on_without_the_first) { lose(0); }

TEST_F(Rails, end_with_the_last) {
  open("device=rxerail0,rxerail1");
  carry(10);
  remove(0);
  remove(1);
  const auto notice = receiver.recv_for(60s);
  ASSERT_EQ(notice.status(), RecvStatus::peer_lost) << to_string(notice.status());
  const auto& reason = notice.loss()->reason;
  EXPECT_NE(reason.find(device(0)), std::string::npos) << reason;
  EXPECT_NE(reason.find(device(1)), std::string::npos) << reason;
}

// Between two hosts one end may lose its rail alone. Host 0 receives, host 1 sends.

std::string variable(const char* name) {
  const char* value = std::getenv(name);  // NOLINT(concurrency-mt-unsafe)
  return value == nullptr ? "" : value;
}

struct Cut {
  const char* name;
  int host;             // where it happens
  const char* command;  // what
  int port;
};

class RailsBetweenHosts : public testing::TestWithParam<Cut> {
 protected:
  static constexpr const char* kDevice = "rxerail";
  void SetUp() override {
    if (variable("PENSTOCK_PEER_ADDR") == variable("PENSTOCK_ADDR"))
      GTEST_SKIP() << "needs a second host (tests/softroce/run --hosts 2)";
    // Each address is answered for by its own network device, or all goes over the first.
    ASSERT_TRUE(run("echo 1 >/proc/sys/net/ipv4/conf/all/arp_ignore"));
    ASSERT_TRUE(
        run("ip link add link " + variable("PENSTOCK_NETDEV") +
            " name rail type macvlan mode bridge && ip link set rail mtu 9000 && ip address "
            "add 192.168.80." +
            std::to_string(host + 1) +
            "/24 dev rail && ip link set rail up && rdma link add rxerail type rxe netdev "
            "rail"))
        << "needs root, rdma_rxe, macvlan, ip and rdma";
  }
  void TearDown() override {
    // Packets sent again, refused or out of order: what a failure of one end alone does not tell.
    if (HasFailure()) (void)run("grep -Hr . /sys/class/infiniband/*/ports/1/hw_counters");
    (void)run("ip link delete rail 2>/dev/null");  // nobody uses it any more
    while (run("test -e /sys/class/infiniband/rxerail -o -e /sys/class/net/rail"))
      std::this_thread::sleep_for(20ms);
  }
  /// The second device is the first rail.
  [[nodiscard]] std::string uri(const char* address) const {
    return "rdma://" + variable(address) + ":" + std::to_string(GetParam().port) +
           "/rails?ack_timeout=14&device=rxerail," + variable("PENSTOCK_RDMA_DEVICE");
  }
  /// The devices' addresses appear a moment after the links are up.
  template <class Make>
  static auto when_ready(Make make) {
    for (const auto end = std::chrono::steady_clock::now() + 30s;;) {
      try {
        return make();
      } catch (const SetupError&) {
        if (std::chrono::steady_clock::now() > end) throw;
        std::this_thread::sleep_for(20ms);
      }
    }
  }
  void cut_if_here(int host_here) const {
    if (GetParam().host == host_here) {
      ASSERT_TRUE(run(GetParam().command));
    }
  }
  void receive() {
    auto receiver =
        when_ready([&] { return penstock::bind(uri("PENSTOCK_ADDR") + "&capacity=2MiB"); });
    for (std::uint64_t i = 0; i < kMessages; ++i) {
      if (i == kMessages / 2) cut_if_here(0);
      ASSERT_NO_FATAL_FAILURE(expect(receiver, i));
    }
    ASSERT_NO_FATAL_FAILURE(expect(receiver, kMessages));
    while (receiver.stats().sources.at(0).work.lost_rails == 0) std::this_thread::sleep_for(1ms);
    expect_lost(receiver.stats().sources.at(0).path, kDevice);
    const auto end = receiver.recv_for(60s);
    EXPECT_EQ(end.status(), RecvStatus::closed) << to_string(end.status());
  }
  void send() {
    auto sender = when_ready([&] { return connect(uri("PENSTOCK_PEER_ADDR") + "&deadline=30s"); });
    for (std::uint64_t i = 0; i < kMessages; ++i) {
      if (i == kMessages / 2) cut_if_here(1);
      ASSERT_EQ(sender.send(message(i)), SendStatus::sent) << sender.stats().error;
    }
    while (sender.stats().work.lost_rails == 0) std::this_thread::sleep_for(1ms);
    expect_lost(sender.stats().path, kDevice);
    // It goes when the other end has destroyed its rail.
    ASSERT_EQ(sender.send(message(kMessages)), SendStatus::sent) << sender.stats().error;
    EXPECT_EQ(sender.close(), FlushStatus::consumed);
  }

  static constexpr std::uint64_t kMessages = 400;
  const int host = std::atoi(variable("PENSTOCK_HOST").c_str());  // NOLINT(cert-err34-c)
};

TEST_P(RailsBetweenHosts, go_on_when_one_end_loses_the_first) {
  if (host == 0)
    receive();
  else
    send();
}

INSTANTIATE_TEST_SUITE_P(
    Cuts, RailsBetweenHosts,
    testing::Values(Cut{"receivers_device_goes", 0, "ip link delete rail &", 7101},
                    Cut{"senders_device_goes", 1, "ip link delete rail &", 7102},
                    Cut{"receivers_network_falls_silent", 0, "ip link set rail down", 7103},
                    Cut{"senders_network_falls_silent", 1, "ip link set rail down", 7104}),
    [](const auto& cut) { return cut.param.name; });

}  // namespace
}  // namespace penstock
