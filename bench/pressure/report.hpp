// What was measured: rows, as JSON, and against those of an earlier run.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <vector>

namespace pressure {

struct Row {
  std::string transport;
  std::string load;    ///< its name: what is compared with what
  double rate = 0;     ///< asked for, messages per second
  double carried = 0;  ///< that arrived, per second
  double maximum = 0;  ///< without a rate, messages per second; 0: not measured
  std::uint64_t sent = 0;
  std::uint64_t received = 0;
  std::uint64_t misplaced = 0;
  std::uint64_t p50_ns = 0;
  std::uint64_t p99_ns = 0;
  std::uint64_t p999_ns = 0;
  std::uint64_t max_ns = 0;
  std::uint64_t calm_p50_ns = 0;  ///< in the calmest quarter of the seconds: what is compared
  std::uint64_t calm_p99_ns = 0;
  std::string distance;  ///< of the CPUs, before and after: a class, or "moved"

  [[nodiscard]] std::int64_t lost() const noexcept {
    return static_cast<std::int64_t>(sent - received);
  }
};
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(Row, transport, load, rate, carried, maximum, sent, received,
                                   misplaced, p50_ns, p99_ns, p999_ns, max_ns, calm_p50_ns,
                                   calm_p99_ns, distance)

/// How many times worse than before something may be.
struct Limits {
  double p50 = 2;
  double p99 = 2;
  double rate = 1.5;
};

struct Comparison {
  std::vector<std::string> worse;    ///< a line for each figure
  std::vector<std::string> excused;  ///< worse, but measured with the CPUs at another distance
  std::size_t compared = 0;          ///< rows that are in both
};

/// Rows are matched by transport and load.
[[nodiscard]] Comparison compare(std::span<const Row> before, std::span<const Row> now,
                                 const Limits& limits);

/// Throw std::runtime_error, naming the file.
void save(const std::string& path, std::span<const Row> rows);
[[nodiscard]] std::vector<Row> load_rows(const std::string& path);

}  // namespace pressure
