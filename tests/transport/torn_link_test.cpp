// The torn link keeps exactly the promises of transport/link.hpp: it tears, but loses nothing.

#include "tests/transport/torn_link.hpp"

#include <gtest/gtest.h>
#include <poll.h>

#include <array>
#include <cstring>
#include <thread>
#include <vector>

#include "penstock/transport/error.hpp"

namespace penstock::test {
namespace {

// Reads what a link writes without asking the memory model.
[[gnu::noinline, gnu::no_sanitize_thread]] std::uint64_t look(const std::byte* at) {
  std::uint64_t word = 0;
  const volatile std::byte* from = at;
  auto* to = reinterpret_cast<volatile std::byte*>(&word);
  for (std::size_t i = 0; i < sizeof(word); ++i) to[i] = from[i];
  return word;
}

class Pair {
 public:
  explicit Pair(const std::string& options) {
    left_memory.resize(64 * 1024);
    right_memory.resize(64 * 1024);
    left = provider.open({{}, {}, options, {{left_memory.data(), left_memory.size(), true}}});
    right = provider.open({{}, {}, options, {{right_memory.data(), right_memory.size(), true}}});
    left->connect(right->describe());
    right->connect(left->describe());
  }

  // Waits for `kind` on `link` the way the interface asks for; returns its value.
  static std::uint64_t wait_for(Link& link, LinkEvent::Kind kind) {
    while (true) {
      link.arm(true, true);
      std::array<LinkEvent, 1> event{};
      if (link.poll(event) == 1) {
        if (event[0].kind == kind) return event[0].value;
        continue;
      }
      pollfd wait{link.event_fd(), POLLIN, 0};
      EXPECT_EQ(::poll(&wait, 1, -1), 1);
      link.disarm();
    }
  }

  TornLinkProvider provider;
  std::vector<std::byte> left_memory;
  std::vector<std::byte> right_memory;
  std::unique_ptr<Link> left;
  std::unique_ptr<Link> right;
};

class TornLinkTest : public testing::TestWithParam<const char*> {};

TEST_P(TornLinkTest, everything_has_landed_when_the_completion_comes) {
  Pair pair(GetParam());
  for (std::uint64_t cookie = 1; cookie <= 200; ++cookie) {
    std::memset(pair.left_memory.data(), static_cast<int>(cookie), pair.left_memory.size());
    const auto length = static_cast<std::uint32_t>(1 + cookie * 331 % 60'000);
    const RemoteWrite write{.source = pair.left_memory.data(), .length = length, .offset = cookie};
    ASSERT_EQ(pair.left->post(std::span(&write, 1), std::nullopt, cookie), PostStatus::posted);
    EXPECT_EQ(Pair::wait_for(*pair.left, LinkEvent::Kind::completed), cookie);
    EXPECT_EQ(std::memcmp(pair.right_memory.data() + cookie, pair.left_memory.data(), length), 0);
  }
  EXPECT_EQ(pair.left->counters().posts, 200U);
  EXPECT_EQ(pair.left->counters().completions, 200U);
}

TEST_P(TornLinkTest, an_immediate_proves_what_came_before_it) {
  Pair pair(GetParam());
  for (std::uint32_t i = 1; i <= 200; ++i) {
    std::memset(pair.left_memory.data(), static_cast<int>(i), 4096);
    const RemoteWrite first{.source = pair.left_memory.data(), .length = 4096};
    const RemoteWrite second{
        .source = pair.left_memory.data(), .length = 64, .offset = 5000, .copied = true};
    ASSERT_EQ(pair.left->post(std::array{first, second}, i, i), PostStatus::posted);
    EXPECT_EQ(Pair::wait_for(*pair.right, LinkEvent::Kind::immediate), i);
    EXPECT_EQ(std::memcmp(pair.right_memory.data(), pair.left_memory.data(), 4096), 0);
    EXPECT_EQ(std::memcmp(pair.right_memory.data() + 5000, pair.left_memory.data(), 64), 0);
    EXPECT_EQ(Pair::wait_for(*pair.left, LinkEvent::Kind::completed), i);
  }
}

TEST_P(TornLinkTest, words_are_seen_torn) {
  Pair pair(GetParam());
  std::uint64_t torn = 0;
  for (std::uint64_t cookie = 1; torn == 0; ++cookie) {
    const std::uint64_t before = look(pair.right_memory.data());
    const std::uint64_t after = ~before;
    const RemoteWrite write{.source = reinterpret_cast<const std::byte*>(&after),
                            .length = sizeof(after),
                            .copied = true};
    ASSERT_EQ(pair.left->post(std::span(&write, 1), std::nullopt, cookie), PostStatus::posted);
    std::array<LinkEvent, 1> event{};
    while (pair.left->poll(event) == 0) {
      const std::uint64_t seen = look(pair.right_memory.data());
      if (seen != before && seen != after) ++torn;
      std::this_thread::yield();
    }
  }
}

TEST_P(TornLinkTest, nothing_lands_after_an_end_is_gone) {
  for (int round = 0; round < 50; ++round) {
    Pair pair(GetParam());
    const RemoteWrite write{.source = pair.left_memory.data(), .length = 60'000};
    std::memset(pair.left_memory.data(), 1, pair.left_memory.size());
    ASSERT_EQ(pair.left->post(std::span(&write, 1), std::nullopt, 1), PostStatus::posted);
    if (round % 2 == 0) {
      pair.right.reset();
      (void)Pair::wait_for(*pair.left, LinkEvent::Kind::failed);
      EXPECT_NE(pair.left->error(), "");
    } else {
      pair.left.reset();
      (void)Pair::wait_for(*pair.right, LinkEvent::Kind::failed);
    }
    const std::vector<std::byte> copy = pair.right_memory;
    std::this_thread::yield();
    EXPECT_EQ(copy, pair.right_memory);
  }
}

TEST_P(TornLinkTest, fails_when_asked_to) {
  Pair pair(std::string(GetParam()) + "&fail_after=3");
  const RemoteWrite write{.source = pair.left_memory.data(), .length = 1};
  std::uint64_t cookie = 0;
  for (int i = 0; i < 3; ++i) {
    ASSERT_EQ(pair.left->post(std::span(&write, 1), std::nullopt, ++cookie), PostStatus::posted);
    (void)Pair::wait_for(*pair.left, LinkEvent::Kind::completed);
  }
  EXPECT_EQ(pair.left->post(std::span(&write, 1), std::nullopt, ++cookie), PostStatus::failed);
  (void)Pair::wait_for(*pair.left, LinkEvent::Kind::failed);
  (void)Pair::wait_for(*pair.right, LinkEvent::Kind::failed);
}

TEST_P(TornLinkTest, a_message_lands_in_memory_that_was_added_for_it) {
  Pair pair(GetParam());
  EXPECT_TRUE(pair.left->limits().landings);
  std::vector<std::byte> from(100'000, std::byte{5});
  std::vector<std::byte> to(100'000);
  const auto source = pair.left->add_memory({from.data(), from.size(), false});
  const auto target = pair.right->add_memory({to.data(), to.size(), true});
  std::uint64_t cookie = 0;
  for (std::uint64_t at = 0; at < from.size(); at += 50'000)
    ASSERT_EQ(pair.left->land({source.get(), at, 50'000, target->place()}, ++cookie),
              PostStatus::posted);
  while (Pair::wait_for(*pair.left, LinkEvent::Kind::completed) != cookie) {
  }
  EXPECT_EQ(from, to);
}

TEST_P(TornLinkTest, a_landing_fails_both_ends_where_an_end_took_its_memory_back) {
  for (const bool of_source : {true, false}) {
    Pair pair(GetParam());
    std::vector<std::byte> from(60'000, std::byte{5});
    std::vector<std::byte> to(60'000);
    auto source = pair.left->add_memory({from.data(), from.size(), false});
    auto target = pair.right->add_memory({to.data(), to.size(), true});
    const auto place = target->place();
    if (!of_source) target.reset();
    ASSERT_EQ(pair.left->land({source.get(), 0, 60'000, place}, 1), PostStatus::posted);
    if (of_source) source.reset();
    const auto copy = to;
    (void)Pair::wait_for(*pair.left, LinkEvent::Kind::failed);
    EXPECT_NE(pair.left->error().find(of_source ? "protection" : "access"), std::string::npos)
        << pair.left->error();
    (void)Pair::wait_for(*pair.right, LinkEvent::Kind::failed);
    EXPECT_EQ(copy, to);
  }
}

INSTANTIATE_TEST_SUITE_P(Orders, TornLinkTest,
                         testing::Values("seed=1&ordered=1", "seed=2&ordered=0"),
                         [](const auto& name) {
                           return std::string(name.param).back() == '1' ? "ordered" : "unordered";
                         });

TEST(TornLinkDeathTest, ends_the_process_when_the_contract_of_link_is_broken) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const auto with_pair = [](auto&& action) {
    Pair pair("seed=1");
    action(pair);
  };
  EXPECT_DEATH(with_pair([](Pair& pair) {
                 for (std::uint32_t i = 1; i <= 17; ++i) (void)pair.left->post({}, i, i);
               }),
               "more immediates");
  EXPECT_DEATH(with_pair([](Pair& pair) {
                 const RemoteWrite write{
                     .source = pair.left_memory.data(), .length = 10, .offset = 64 * 1024 - 5};
                 (void)pair.left->post(std::span(&write, 1), std::nullopt, 1);
               }),
               "outside of what the peer exposes");
  EXPECT_DEATH(with_pair([](Pair& pair) {
                 const RemoteWrite write{.source = pair.right_memory.data(), .length = 10};
                 (void)pair.left->post(std::span(&write, 1), std::nullopt, 1);
               }),
               "source is in no region");
  EXPECT_DEATH(with_pair([](Pair& pair) {
                 (void)pair.left->post({}, 1, 2);
                 (void)pair.left->post({}, 1, 2);
               }),
               "cookies do not rise");
}

TEST(TornLinkProviderTest, refuses_what_is_no_link) {
  TornLinkProvider provider;
  const auto link = provider.open({});
  EXPECT_THROW(link->connect({}), SetupError);
  EXPECT_THROW(link->connect(std::vector<std::byte>(8)), SetupError);
  EXPECT_THROW((void)provider.open({{}, {}, "seed=x", {}}), SetupError);
}

}  // namespace
}  // namespace penstock::test
