#include "report.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <fstream>
#include <stdexcept>

namespace pressure {

Comparison compare(std::span<const Row> before, std::span<const Row> now, const Limits& limits) {
  Comparison all;
  for (const auto& row : now) {
    const auto old = std::find_if(before.begin(), before.end(), [&row](const Row& other) {
      return other.transport == row.transport && other.load == row.load;
    });
    if (old == before.end()) continue;
    ++all.compared;
    const bool same = old->distance == row.distance && row.distance != "moved";
    const auto judge = [&](const char* what, double was, double is, double ratio, double most) {
      if (!(ratio > most)) return;
      auto line = fmt::format("{} {}: {} is {:.4g}, was {:.4g}: {:.2f} times worse, allowed {:g}",
                              row.transport, row.load, what, is, was, ratio, most);
      if (!same) line += fmt::format(" (CPUs: {}, before: {})", row.distance, old->distance);
      (same ? all.worse : all.excused).push_back(std::move(line));
    };
    const auto time = [&](const char* what, std::uint64_t was, std::uint64_t is, double most) {
      const auto is_us = static_cast<double>(is) / 1e3;
      const auto was_us = static_cast<double>(was) / 1e3;
      judge(what, was_us, is_us, is_us / was_us, most);
    };
    const auto rate = [&](const char* what, double was, double is) {
      judge(what, was, is, was / is, limits.rate);
    };
    time("calm p50 in us", old->calm_p50_ns, row.calm_p50_ns, limits.p50);
    time("calm p99 in us", old->calm_p99_ns, row.calm_p99_ns, limits.p99);
    // A rate that was asked for says nothing where it differs, as half of the maximum does.
    rate("the part of its rate that it carries", old->carried / old->rate, row.carried / row.rate);
    if (old->maximum > 0 && row.maximum > 0) rate("the maximum per s", old->maximum, row.maximum);
  }
  return all;
}

void save(const std::string& path, std::span<const Row> rows) {
  const nlohmann::json document{{"program", "bench_pressure"}, {"rows", rows}};
  std::ofstream file(path);
  file << document.dump(2) << '\n';
  file.close();
  if (!file) throw std::runtime_error(fmt::format("cannot write '{}'", path));
}

std::vector<Row> load_rows(const std::string& path) {
  std::ifstream file(path);
  if (!file) throw std::runtime_error(fmt::format("cannot read '{}'", path));
  try {
    return nlohmann::json::parse(file).at("rows").get<std::vector<Row>>();
  } catch (const nlohmann::json::exception& error) {
    throw std::runtime_error(fmt::format("'{}' is not what --save wrote: {}", path, error.what()));
  }
}

}  // namespace pressure
