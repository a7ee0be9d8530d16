// What it costs a remote channel that its receiver sleeps between messages.
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "penstock/channel/channel.hpp"
#include "penstock/transport/registry.hpp"
#include "tests/transport/torn_link.hpp"

namespace penstock {
namespace {

using namespace std::chrono_literals;

constexpr std::uint64_t kMessages = 200;

void wait_until(const std::function<bool()>& condition) {
  while (!condition()) std::this_thread::sleep_for(100us);
}

/// Both ends, and a thread that receives.
class Sleeper : public testing::Test {
 protected:
  Sleeper() { register_links(std::make_shared<test::TornLinkProvider>()); }

  void start(const std::string& options) {
    receiver_ = penstock::bind("torn://127.0.0.1:0/sleep?spin=0" + options);
    sender_ = penstock::connect(receiver_.uris().at(0));
    receiving_ = std::jthread([this] {
      while (receiver_.recv()) {
      }
    });
  }
  void TearDown() override { sender_ = {}; }

  void send(std::uint64_t count) {
    for (std::uint64_t i = 0; i < count; ++i)
      ASSERT_EQ(sender_.send(std::vector<std::byte>(64)), SendStatus::sent);
    sent_ += count;
  }
  /// Each when the receiver sleeps again after the one before.
  void send_to_sleeper(std::uint64_t count) {
    for (std::uint64_t i = 0; i < count; ++i) {
      const auto parks = receiver_.stats().parks;
      send(1);
      wait_until([&] {
        const auto stats = receiver_.stats();
        return stats.messages == sent_ && stats.parks > parks;
      });
    }
  }
  [[nodiscard]] PathStats work() const { return receiver_.stats().sources.at(0).work; }

  Receiver receiver_;
  Sender sender_;
  std::uint64_t sent_ = 0;
  std::jthread receiving_;
};

TEST_F(Sleeper, need_not_say_so_for_every_message) {
  start("");
  send_to_sleeper(kMessages);
  EXPECT_EQ(work().mode, PublishMode::immediate);
  EXPECT_LE(work().credit_writes, kMessages / 2);
}

TEST_F(Sleeper, that_has_much_to_do_is_woken_only_when_it_asks) {
  start("");
  send_to_sleeper(kMessages);
  wait_until([&] {
    send(kMessages);
    return work().mode == PublishMode::hot;
  });
}

TEST_F(Sleeper, keeps_to_the_way_that_was_asked_for) {
  start("&publish=hot");
  send_to_sleeper(kMessages);
  EXPECT_EQ(work().mode, PublishMode::hot);
  EXPECT_EQ(work().mode_changes, 0U);
}

TEST_F(Sleeper, tells_what_it_consumed_when_the_traffic_has_ended) {
  start("");
  send_to_sleeper(kMessages);
  wait_until([&] { return sender_.stats().progress.consumed == sent_; });
}

}  // namespace
}  // namespace penstock
