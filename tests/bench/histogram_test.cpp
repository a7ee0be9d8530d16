#include "bench/pressure/histogram.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <random>
#include <vector>

namespace {

using pressure::Histogram;

TEST(histogram, is_empty_at_first) {
  const auto histogram = std::make_unique<Histogram>();
  EXPECT_EQ(histogram->count(), 0);
  EXPECT_EQ(histogram->max(), 0);
  EXPECT_EQ(histogram->quantile(0.5), 0);
  EXPECT_EQ(histogram->quantile(1), 0);
}

TEST(histogram, knows_small_values_exactly) {
  const auto histogram = std::make_unique<Histogram>();
  for (std::uint64_t value = 0; value < 256; ++value) histogram->record(value);
  EXPECT_EQ(histogram->count(), 256);
  EXPECT_EQ(histogram->quantile(0), 0);
  EXPECT_EQ(histogram->quantile(0.5), 127);
  EXPECT_EQ(histogram->quantile(0.99), 253);
  EXPECT_EQ(histogram->quantile(1), 255);
}

TEST(histogram, knows_every_value_to_one_part_in_128) {
  for (unsigned bit = 0; bit < 64; ++bit) {
    const auto power = std::uint64_t{1} << bit;
    for (const auto value : {power - 1, power, power + power / 3, power + (power - 1)}) {
      const auto histogram = std::make_unique<Histogram>();
      histogram->record(value);
      // Something above, so that the bucket's edge is seen and not the largest value.
      histogram->record(std::numeric_limits<std::uint64_t>::max());
      const auto got = histogram->quantile(0.5);
      EXPECT_GE(got, value);
      EXPECT_LE(got - value, value / 128) << value;
    }
  }
}

TEST(histogram, never_says_more_than_the_largest) {
  const auto histogram = std::make_unique<Histogram>();
  histogram->record(1'000'003);
  EXPECT_EQ(histogram->max(), 1'000'003);
  EXPECT_EQ(histogram->quantile(0.5), 1'000'003);
  histogram->record(std::numeric_limits<std::uint64_t>::max());
  EXPECT_EQ(histogram->quantile(1), std::numeric_limits<std::uint64_t>::max());
}

TEST(histogram, adds_another) {
  const auto one = std::make_unique<Histogram>();
  const auto other = std::make_unique<Histogram>();
  one->record(5);
  other->record(7);
  other->record(1'000'003);
  one->add(*other);
  EXPECT_EQ(one->count(), 3);
  EXPECT_EQ(one->max(), 1'000'003);
  EXPECT_EQ(one->quantile(0.5), 7);
}

TEST(histogram, agrees_with_sorting) {
  std::mt19937_64 random(1);
  std::lognormal_distribution<double> latency(7, 2);
  std::vector<std::uint64_t> values(100'000);
  const auto histogram = std::make_unique<Histogram>();
  for (auto& value : values) {
    value = static_cast<std::uint64_t>(latency(random));
    histogram->record(value);
  }
  std::ranges::sort(values);
  for (const double fraction : {0.001, 0.1, 0.5, 0.9, 0.99, 0.999, 0.99999, 1.0}) {
    const auto rank = static_cast<std::size_t>(std::ceil(fraction * 100'000));
    const auto exact = values[rank - 1];
    const auto got = histogram->quantile(fraction);
    EXPECT_GE(got, exact) << fraction;
    EXPECT_LE(got, exact + exact / 128) << fraction;
  }
  EXPECT_EQ(histogram->max(), values.back());
}

}  // namespace
