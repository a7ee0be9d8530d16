// Which way long messages go, with costs that are made up: nothing here takes time.
#include "penstock/channel/crossover.hpp"

#include <gtest/gtest.h>

#include <functional>

namespace penstock {
namespace {

using std::chrono::nanoseconds;

constexpr std::uint64_t kKiB = 1024;
constexpr std::uint64_t kMiB = 1024 * kKiB;

struct Counts {
  int landed = 0;
  int through_ring = 0;
};

/// Nanoseconds that a message takes, either way.
struct Costs {
  std::function<double(std::uint64_t size)> ring;
  std::function<double(std::uint64_t size)> landing;
};

Counts send(Crossover& crossover, std::uint64_t size, int messages, const Costs& costs) {
  Counts counts;
  for (int i = 0; i < messages; ++i) {
    const bool lands = crossover.lands(size);
    ++(lands ? counts.landed : counts.through_ring);
    const double cost = (lands ? costs.landing : costs.ring)(size);
    crossover.took(size, lands, nanoseconds(static_cast<std::int64_t>(cost)));
  }
  return counts;
}

/// Two copies against a way there and back and the pinning of the pages.
const Costs kCard{[](std::uint64_t size) { return 0.25 * static_cast<double>(size); },
                  [](std::uint64_t size) { return 150'000 + 0.1 * static_cast<double>(size); }};

TEST(Crossover, tries_both_ways_and_keeps_to_the_quicker) {
  Crossover crossover(kLandingAuto);
  const auto small = send(crossover, 300 * kKiB, 1000, kCard);
  EXPECT_GE(small.landed, 2);
  EXPECT_LE(small.landed, 60) << "slower there";
  const auto large = send(crossover, 8 * kMiB, 1000, kCard);
  EXPECT_GE(large.through_ring, 2);
  EXPECT_LE(large.through_ring, 60) << "slower there";
}

TEST(Crossover, tells_from_which_size_on_messages_land) {
  Crossover crossover(kLandingAuto);
  EXPECT_EQ(crossover.from(), 0U) << "nothing is known";
  for (std::uint64_t size = 256 * kKiB; size <= 64 * kMiB; size *= 2)
    send(crossover, size, 100, kCard);
  EXPECT_EQ(crossover.from(), kMiB) << "150 us are 0.15 ns a byte of a MiB";
}

TEST(Crossover, tries_the_slower_way_the_seldomer_the_slower_it_is) {
  Crossover crossover(kLandingAuto);
  const Costs equal{[](std::uint64_t) { return 1e6; }, [](std::uint64_t) { return 1e6; }};
  const Costs far{[](std::uint64_t) { return 1e6; }, [](std::uint64_t) { return 20e6; }};
  send(crossover, kMiB, 10, equal);
  send(crossover, 2 * kMiB, 10, far);
  EXPECT_NEAR(send(crossover, kMiB, 3200, equal).landed, 100, 20);
  EXPECT_NEAR(send(crossover, 2 * kMiB, 6400, far).landed, 10, 5);
}

TEST(Crossover, follows_a_path_that_changes) {
  Crossover crossover(kLandingAuto);
  const Costs first{[](std::uint64_t) { return 1e6; }, [](std::uint64_t) { return 2e6; }};
  const Costs then{[](std::uint64_t) { return 4e6; }, [](std::uint64_t) { return 2e6; }};
  send(crossover, kMiB, 500, first);
  send(crossover, kMiB, 500, then);
  const auto counts = send(crossover, kMiB, 500, then);
  EXPECT_GT(counts.landed, 450);
}

TEST(Crossover, takes_one_pause_for_no_change) {
  Crossover crossover(kLandingAuto);
  send(crossover, kMiB, 10, kCard);
  const Costs clear{[](std::uint64_t) { return 8e6; }, [](std::uint64_t) { return 1e6; }};
  send(crossover, kMiB, 100, clear);
  ASSERT_TRUE(crossover.lands(kMiB));
  crossover.took(kMiB, true, std::chrono::hours(1));  // a machine that was stopped
  EXPECT_GT(send(crossover, kMiB, 100, clear).landed, 90);
}

TEST(Crossover, leaves_short_messages_alone) {
  Crossover crossover(kLandingAuto);
  EXPECT_EQ(crossover.least(), 256 * kKiB);
  for (int i = 0; i < 100; ++i) EXPECT_FALSE(crossover.lands(256 * kKiB - 1));
}

TEST(Crossover, does_as_it_is_told) {
  Crossover always(kLeastLanding);
  EXPECT_EQ(always.from(), kLeastLanding);
  Crossover some(100'000);
  Crossover never(kLandingNever);
  for (int i = 0; i < 100; ++i) {
    EXPECT_TRUE(always.lands(kLeastLanding));
    EXPECT_FALSE(always.lands(kLeastLanding - 1));
    EXPECT_TRUE(some.lands(100'000));
    EXPECT_FALSE(some.lands(99'999));
    EXPECT_FALSE(never.lands(std::uint64_t{1} << 30U));
    always.took(kLeastLanding, true, std::chrono::seconds(1));
  }
}

TEST(Crossover, asks_the_seldomer_the_oftener_it_is_refused) {
  Crossover crossover(kLeastLanding);
  int asked = 0;
  for (int i = 0; i < 1000; ++i)
    if (crossover.lands(kMiB)) {
      ++asked;
      crossover.refused();
    }
  EXPECT_GE(asked, 8);
  EXPECT_LE(asked, 14);
  while (!crossover.lands(kMiB)) {
  }
  crossover.took(kMiB, true, std::chrono::milliseconds(1));
  EXPECT_TRUE(crossover.lands(kMiB)) << "one landed";
  crossover.refused();
  EXPECT_FALSE(crossover.lands(kMiB));
  EXPECT_TRUE(crossover.lands(kMiB)) << "the pause is short again";
}

}  // namespace
}  // namespace penstock
