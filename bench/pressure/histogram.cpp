#include "histogram.hpp"

#include <cmath>

namespace pressure {

std::uint64_t Histogram::top(std::size_t bucket) noexcept {
  const auto shift = bucket < 2 * kHalf ? 0 : bucket / kHalf - 1;
  const auto leading = static_cast<std::uint64_t>(bucket - shift * kHalf);
  return ((leading + 1) << shift) - 1;  // of the last bucket: 2^64 - 1, by wrapping
}

void Histogram::add(const Histogram& other) noexcept {
  for (std::size_t i = 0; i < kBuckets; ++i) counts_[i] += other.counts_[i];
  count_ += other.count_;
  max_ = std::max(max_, other.max_);
}

std::uint64_t Histogram::quantile(double fraction) const noexcept {
  const auto rank = std::max(std::ceil(fraction * static_cast<double>(count_)), 1.0);
  std::uint64_t below = 0;
  for (std::size_t i = 0; i < kBuckets; ++i) {
    below += counts_[i];
    if (static_cast<double>(below) >= rank) return std::min(top(i), max_);
  }
  return max_;
}

}  // namespace pressure
