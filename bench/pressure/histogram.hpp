// Counts of values over many orders of magnitude, each known to within 1 part in 128 of itself.
//
// The idea is that of Gil Tene's HdrHistogram: buckets whose width doubles as the values do, so
// that recording is a shift and an increment, and memory is fixed however long it takes.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>

namespace pressure {

/// Not thread-safe. May lie in memory that processes share.
class Histogram {
 public:
  void record(std::uint64_t value) noexcept {
    ++counts_[bucket(value)];
    ++count_;
    max_ = std::max(max_, value);
  }

  /// Adds what another one has recorded.
  void add(const Histogram& other) noexcept;

  [[nodiscard]] std::uint64_t count() const noexcept { return count_; }
  /// Exact; 0 where nothing was recorded.
  [[nodiscard]] std::uint64_t max() const noexcept { return max_; }
  /// A value that `fraction` (0 to 1) of those recorded do not exceed, at most 1/128 above the
  /// smallest such, and never above max(). 0 where nothing was recorded.
  [[nodiscard]] std::uint64_t quantile(double fraction) const noexcept;

 private:
  /// Values below 2^kBits have a bucket each; above, kHalf buckets share each doubling.
  static constexpr unsigned kBits = 8;
  static constexpr std::size_t kHalf = std::size_t{1} << (kBits - 1);
  static constexpr std::size_t kBuckets = (64 - kBits) * kHalf + 2 * kHalf;

  static std::size_t bucket(std::uint64_t value) noexcept {
    const auto width = static_cast<unsigned>(std::bit_width(value));
    const auto shift = width > kBits ? width - kBits : 0;
    return shift * kHalf + static_cast<std::size_t>(value >> shift);
  }
  /// The largest value of a bucket.
  static std::uint64_t top(std::size_t bucket) noexcept;

  std::array<std::uint64_t, kBuckets> counts_{};
  std::uint64_t count_ = 0;
  std::uint64_t max_ = 0;
};

}  // namespace pressure
