// A device that goes away under its channels. Makes one of its own to take away, so it needs root
// and the kernel's rdma_rxe and dummy: run by tests/softroce.
#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <utility>

#include "penstock/channel/channel.hpp"

namespace penstock {
namespace {

using namespace std::chrono_literals;

bool run(const std::string& command) { return std::system(command.c_str()) == 0; }  // NOLINT

double cpu_seconds() {
  timespec now{};
  ::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

/// A soft-RoCE device over a network device that nobody else uses.
class OwnDevice {
 public:
  static constexpr const char* kAddress = "192.168.79.1";
  OwnDevice() {
    made_ =
        run("ip link add gone0 type dummy && ip address add 192.168.79.1/24 dev gone0 && "
            "ip link set gone0 up && rdma link add rxegone type rxe netdev gone0");
  }
  OwnDevice(const OwnDevice&) = delete;
  OwnDevice& operator=(const OwnDevice&) = delete;
  OwnDevice(OwnDevice&&) = delete;
  OwnDevice& operator=(OwnDevice&&) = delete;
  ~OwnDevice() { (void)remove(); }
  [[nodiscard]] bool made() const noexcept { return made_; }
  /// The command itself ends only when nobody uses the device any more.
  bool remove() { return std::exchange(made_, false) && run("ip link delete gone0 &"); }

 private:
  bool made_ = false;
};

std::span<const std::byte> bytes(std::string_view text) { return std::as_bytes(std::span(text)); }

// Its addresses appear in the device's table a moment after the link is up.
Receiver bind_when_ready(const std::string& uri) {
  for (const auto end = std::chrono::steady_clock::now() + 30s;;) {
    try {
      return penstock::bind(uri);
    } catch (const SetupError&) {
      if (std::chrono::steady_clock::now() > end) throw;
      std::this_thread::sleep_for(20ms);
    }
  }
}

TEST(DeviceLoss, is_told_to_both_sides_and_the_others_go_on_at_no_cost) {
  OwnDevice device;
  ASSERT_TRUE(device.made()) << "needs root, rdma_rxe, dummy, ip and rdma";
  auto receiver =
      bind_when_ready(std::string("rdma://") + OwnDevice::kAddress + ":0/loss?device=rxegone");
  receiver.bind("inproc:device-loss");
  auto remote = connect(receiver.uris().at(0) + "?device=rxegone");
  auto local = connect("inproc:device-loss");
  ASSERT_EQ(remote.send(bytes("from afar")), SendStatus::sent);
  {
    const auto message = receiver.recv_for(30s);
    ASSERT_TRUE(message) << to_string(message.status());
    EXPECT_EQ(message.text(), "from afar");
  }

  ASSERT_TRUE(device.remove());
  const auto notice = receiver.recv_for(30s);
  ASSERT_EQ(notice.status(), RecvStatus::peer_lost) << to_string(notice.status());
  EXPECT_EQ(notice.loss()->progress.consumed, 1U);
  EXPECT_NE(notice.loss()->reason.find("gone"), std::string::npos) << notice.loss()->reason;
  for (const auto end = std::chrono::steady_clock::now() + 30s;
       remote.state() != PeerState::lost && std::chrono::steady_clock::now() < end;)
    std::this_thread::sleep_for(1ms);
  EXPECT_EQ(remote.send(bytes("too late")), SendStatus::peer_lost);
  EXPECT_NE(remote.stats().error.find("gone"), std::string::npos) << remote.stats().error;

  ASSERT_EQ(local.send(bytes("still here")), SendStatus::sent);
  const auto message = receiver.recv_for(30s);
  ASSERT_TRUE(message) << to_string(message.status());
  EXPECT_EQ(message.text(), "still here");

  // The handles are kept: what is left of the device must not keep the engine busy.
  const double before = cpu_seconds();
  std::this_thread::sleep_for(1s);
  EXPECT_LT(cpu_seconds() - before, 0.5);  // what spins burns one second a second
}

TEST(DeviceLoss, under_traffic_loses_nothing_that_was_delivered) {
  OwnDevice device;
  ASSERT_TRUE(device.made()) << "needs root, rdma_rxe, dummy, ip and rdma";
  auto receiver = bind_when_ready(std::string("rdma://") + OwnDevice::kAddress +
                                  ":0/traffic?device=rxegone&capacity=64KiB");
  receiver.bind("inproc:device-loss-traffic");
  std::atomic<bool> over{false};
  std::uint64_t accepted = 0;
  std::jthread remote([&, uri = receiver.uris().at(0) + "?device=rxegone"] {
    auto sender = connect(uri);
    const auto send = [&] { return sender.send(std::as_bytes(std::span(&accepted, 1))); };
    auto status = send();
    for (; status == SendStatus::sent; status = send()) ++accepted;
    EXPECT_EQ(status, SendStatus::peer_lost) << to_string(status);
  });
  std::uint64_t sent = 0;
  std::jthread local([&] {
    auto sender = connect("inproc:device-loss-traffic");
    for (; !over; ++sent) ASSERT_EQ(sender.send(bytes("still here")), SendStatus::sent);
  });

  constexpr std::uint64_t kBeforeTheEnd = 2000;
  std::uint64_t next = 0;
  std::uint64_t from_local = 0;
  for (;;) {
    const auto message = receiver.recv_for(30s);
    if (message.status() == RecvStatus::closed) break;
    if (message.status() == RecvStatus::peer_lost) {
      EXPECT_EQ(message.loss()->progress.consumed, next);
      EXPECT_FALSE(over.exchange(true)) << "told once";
      continue;
    }
    ASSERT_TRUE(message) << to_string(message.status());
    if (message.text() == "still here") {
      ++from_local;
      continue;
    }
    std::uint64_t number = 0;
    ASSERT_EQ(message.data().size(), sizeof number);
    std::memcpy(&number, message.data().data(), sizeof number);
    ASSERT_EQ(number, next) << "in order, none twice";
    if (++next == kBeforeTheEnd) {
      ASSERT_TRUE(device.remove());
    }
  }
  remote.join();
  local.join();
  EXPECT_TRUE(over);
  EXPECT_EQ(from_local, sent);
  EXPECT_GE(next, kBeforeTheEnd);
  EXPECT_LE(next, accepted);
}

}  // namespace
}  // namespace penstock
