// A device that goes away under its channels. Makes one of its own to take away, so it needs root
// and the kernel's rdma_rxe and dummy: run by tests/softroce.
#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <ctime>
#include <optional>
#include <string>
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

}  // namespace
}  // namespace penstock
