// The middle of repeated measurements, and how well it is known.
#pragma once

#include <optional>
#include <vector>

namespace penstock::cli {

/// Of at least one value.
[[nodiscard]] double median(std::vector<double> values);

struct Interval {
  double low = 0;
  double high = 0;
};

/// Holds the true median with a probability of at least 95 %, whatever the distribution: two of the
/// values, each so far from its end that the median lies beyond it in 2.5 % of cases at most. None
/// for fewer than 6 values, which cannot tell so much; 1000 at most.
[[nodiscard]] std::optional<Interval> median_interval(std::vector<double> values);

}  // namespace penstock::cli
