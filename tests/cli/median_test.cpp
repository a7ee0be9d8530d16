#include "cli/median.hpp"

#include <gtest/gtest.h>

#include <numeric>
#include <vector>

namespace penstock::cli {
namespace {

std::vector<double> first_numbers(int count) {
  std::vector<double> values(static_cast<std::size_t>(count));
  std::iota(values.rbegin(), values.rend(), 1.0);
  return values;
}

TEST(Median, is_the_middle_or_the_mean_of_the_two_in_the_middle) {
  EXPECT_EQ(median({7}), 7);
  EXPECT_EQ(median({3, 1, 2}), 2);
  EXPECT_EQ(median({4, 1, 3, 2}), 2.5);
}

TEST(MedianInterval, takes_six_values_at_least) {
  EXPECT_FALSE(median_interval({}));
  EXPECT_FALSE(median_interval(first_numbers(5)));
  const auto interval = median_interval(first_numbers(6));
  ASSERT_TRUE(interval);
  EXPECT_EQ(interval->low, 1);
  EXPECT_EQ(interval->high, 6);
}

// The ranks that tables of the sign test give.
TEST(MedianInterval, has_the_ranks_of_the_sign_test) {
  const auto ten = median_interval(first_numbers(10));
  EXPECT_EQ(ten->low, 2);
  EXPECT_EQ(ten->high, 9);
  const auto twenty = median_interval(first_numbers(20));
  EXPECT_EQ(twenty->low, 6);
  EXPECT_EQ(twenty->high, 15);
  const auto thousand = median_interval(first_numbers(1000));
  EXPECT_EQ(thousand->low, 469);
  EXPECT_EQ(thousand->high, 532);
}

}  // namespace
}  // namespace penstock::cli
