#include "median.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>

namespace penstock::cli {

double median(std::vector<double> values) {
  std::ranges::sort(values);
  const auto half = values.size() / 2;
  return values.size() % 2 == 1 ? values[half] : (values[half - 1] + values[half]) / 2;
}

std::optional<Interval> median_interval(std::vector<double> values) {
  constexpr double kTail = 0.025;
  std::ranges::sort(values);
  const auto count = values.size();
  // How many values lie below the median is binomial: `term` is the probability of exactly
  // `beyond`.
  double term = std::exp2(-static_cast<double>(count));
  double tail = term;
  std::size_t beyond = 0;
  while (tail <= kTail) {
    ++beyond;
    term *= static_cast<double>(count - beyond + 1) / static_cast<double>(beyond);
    tail += term;
  }
  if (beyond == 0) return std::nullopt;
  return Interval{.low = values[beyond - 1], .high = values[count - beyond]};
}

}  // namespace penstock::cli
