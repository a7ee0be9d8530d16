// The table that `penstock perf` prints, and the same as JSON.
#pragma once

#include <cstddef>
#include <cstdio>
#include <string>

#include "perf.hpp"

namespace penstock::cli {

/// Prints a row as soon as its measurements are made, and keeps it and all of them.
class PerfTable : public PerfReport {
 public:
  /// `batch`: the messages of one call.
  PerfTable(std::FILE* out, std::size_t batch) : out_(out), batch_(batch) {}

  void start(const std::string& path, const std::string& baseline) override;
  void start_mode(PerfMode mode) override;
  void add(const PerfSeries& series) override;

  /// `path`, `rows` (medians, counts of one message, ratios), `results` (each measurement) and,
  /// with a baseline, `plain_verbs_path` and `plain_verbs`.
  [[nodiscard]] const Json& document() const noexcept { return document_; }

 private:
  std::FILE* out_;
  std::size_t batch_;
  PerfMode mode_{};
  bool compares_ = false;
  Json document_;
};

}  // namespace penstock::cli
