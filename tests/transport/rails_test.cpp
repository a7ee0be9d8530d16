// Channels over several torn links: what the ends agree on, count and say, and that a lost rail
// costs no message.
#include <gtest/gtest.h>

#include <chrono>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

#include "penstock/channel/channel.hpp"
#include "penstock/transport/link_budget.hpp"
#include "penstock/transport/registry.hpp"
#include "tests/transport/torn_link.hpp"

namespace penstock::test {
namespace {

constexpr std::uint64_t kEnd = 512 * 1024 + 4096;  // a ring or mirror, and a page with a line

std::size_t count(std::string_view text, std::string_view part) {
  std::size_t times = 0;
  for (auto at = text.find(part); at != std::string_view::npos; at = text.find(part, at + 1))
    ++times;
  return times;
}

/// A message that says its number, and is as long as that wants.
std::vector<std::byte> message(std::uint64_t number) {
  const std::size_t length = number % 3 == 0 ? 100'000 + number * 7 : 8 + number % 100;
  std::vector<std::byte> bytes(length, static_cast<std::byte>(number));
  std::memcpy(bytes.data(), &number, sizeof number);
  return bytes;
}

class RailsTest : public testing::Test {
 protected:
  void SetUp() override { register_links(std::make_shared<TornLinkProvider>()); }

  void open(const std::string& receiver_options, const std::string& sender_options) {
    receiver = penstock::bind("torn://127.0.0.1:0/rails?capacity=512KiB" + receiver_options);
    sender = connect(receiver.uris().at(0) + "?seed=1" + sender_options);
  }
  void carry(std::uint64_t messages) {
    std::jthread sending([&] {
      for (std::uint64_t i = 0; i < messages; ++i)
        ASSERT_EQ(sender.send(message(i)), SendStatus::sent) << sender.stats().error;
    });
    for (std::uint64_t i = 0; i < messages; ++i) {
      const auto got = receiver.recv_for(std::chrono::seconds(60));
      ASSERT_TRUE(got) << to_string(got.status());
      const auto want = message(i);
      ASSERT_EQ(got.data().size(), want.size()) << i;
      ASSERT_EQ(std::memcmp(got.data().data(), want.data(), want.size()), 0) << i;
    }
  }
  /// What both ends say of their path once the receiver has said that it lost a rail.
  [[nodiscard]] std::pair<std::string, std::string> paths_after_a_loss() const {
    while (receiver.stats().sources.at(0).work.lost_rails == 0)
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    EXPECT_EQ(receiver.stats().sources.at(0).work.lost_rails, 1U);
    EXPECT_EQ(sender.stats().work.lost_rails, 1U);
    return {sender.stats().path, receiver.stats().sources.at(0).path};
  }

  Receiver receiver;
  Sender sender;
};

TEST_F(RailsTest, both_ends_name_all_rails_and_count_each_in_the_budget) {
  open("&rails=3", "&rails=3");
  EXPECT_EQ(count(sender.stats().path, "torn link"), 3U) << sender.stats().path;
  EXPECT_EQ(count(receiver.stats().sources.at(0).path, "torn link"), 3U);
  EXPECT_EQ(link_use().links, 6U);
  EXPECT_EQ(link_use().pinned, 6 * kEnd);
  carry(60);
  EXPECT_EQ(sender.stats().work.lost_rails, 0U);
}

TEST_F(RailsTest, there_are_as_many_as_both_ends_have) {
  for (const auto& [here, there, each] : {std::tuple{"", "&rails=2", 1U},
                                          {"&rails=2", "", 1U},
                                          {"&rails=2", "&rails=4", 2U},
                                          {"&rails=4", "&rails=2", 2U}}) {
    open(here, there);
    EXPECT_EQ(count(sender.stats().path, "torn link"), each);
    EXPECT_EQ(count(receiver.stats().sources.at(0).path, "torn link"), each);
    EXPECT_EQ(link_use().links, 2 * each);
    carry(6);
    sender = {};
    receiver = {};
  }
}

TEST_F(RailsTest, a_budget_for_fewer_refuses_the_peer) {
  set_link_budget({.max_links = 3});
  receiver = penstock::bind("torn://127.0.0.1:0/rails?rails=2&capacity=512KiB");
  EXPECT_THROW((void)connect(receiver.uris().at(0) + "?rails=2"), SetupError);
  // The receiver's end goes when it hears that the sender gave up.
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (link_use().links != 0 && std::chrono::steady_clock::now() < end)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  EXPECT_EQ(link_use().links, 0U);
  set_link_budget({});
}

TEST_F(RailsTest, the_first_may_be_lost) {
  open("&rails=2", "&rails=2&lose=0&fail_after=30");
  carry(200);
  const auto [here, there] = paths_after_a_loss();
  EXPECT_EQ(count(here, "lost: torn link"), 1U) << here;
  EXPECT_LT(here.find("lost: "), here.find("; ")) << here;
  EXPECT_EQ(count(there, "lost: "), 1U) << there;
  EXPECT_EQ(sender.state(), PeerState::connected);
}

TEST_F(RailsTest, the_receivers_first_may_be_lost) {
  open("&rails=2&lose=0&fail_after=10", "&rails=2");
  carry(200);
  const auto [here, there] = paths_after_a_loss();
  EXPECT_LT(there.find("lost: "), there.find("; ")) << there;
  EXPECT_EQ(count(here, "lost: "), 1U) << here;
}

TEST_F(RailsTest, another_may_be_lost) {
  open("&rails=2", "&rails=2&lose=1&fail_after=8");
  carry(200);
  const auto [here, there] = paths_after_a_loss();
  EXPECT_GT(here.find("lost: torn link"), here.find("; ")) << here;
  EXPECT_GT(there.find("lost: "), there.find("; ")) << there;
}

TEST_F(RailsTest, one_that_never_carried_anything_is_as_one_that_is_lost) {
  for (const char* dead : {"&rails=2&lose=0&fail_after=0", "&rails=2&lose=1&fail_after=0"}) {
    open("&rails=2", dead);
    carry(200);
    const auto [here, there] = paths_after_a_loss();
    EXPECT_EQ(count(here, "lost: "), 1U) << here;
    EXPECT_EQ(count(there, "lost: "), 1U) << there;
    sender = {};
    receiver = {};
  }
  EXPECT_THROW(open("&rails=2", "&rails=2&fail_after=0"), SetupError) << "none is left";
}

TEST_F(RailsTest, the_last_to_be_lost_loses_the_peer_with_all_the_reasons) {
  open("&rails=2", "&rails=2&fail_after=20");
  std::jthread receiving([&] {
    while (receiver.recv().status() == RecvStatus::received) continue;
  });
  SendStatus status = SendStatus::sent;
  for (std::uint64_t i = 0; status == SendStatus::sent; ++i) status = sender.send(message(i));
  EXPECT_EQ(status, SendStatus::peer_lost);
  EXPECT_EQ(count(sender.stats().error, "torn link"), 2U) << sender.stats().error;
}

}  // namespace
}  // namespace penstock::test
