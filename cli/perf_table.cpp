#include "perf_table.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <string_view>
#include <vector>

#include "median.hpp"

namespace penstock::cli {
namespace {

/// What is measured as a figure: a row has its median.
constexpr std::array<const char*, 8> kFigures{"messages_per_s", "mb_per_s",          "min_us",
                                              "p50_us",         "mean_us",           "p99_us",
                                              "p999_us",        "cpu_us_per_message"};
/// What is counted, by the sender or the receiver: a row has it for each message.
constexpr std::array<const char*, 3> kSenderCounts{"posts", "work_requests", "completions"};
constexpr std::array<const char*, 3> kCountsOfBoth{"immediates", "stalls", "parks"};

struct Column {
  std::string_view head;
  int width;
  int precision;
  const char* value;  ///< a JSON pointer into the row
};

constexpr std::array<Column, 2> kWork{{{"bytes", 8, 0, "/size"}, {"senders", 8, 0, "/senders"}}};
constexpr std::array<Column, 2> kThroughput{
    {{"messages/s", 13, 0, "/messages_per_s"}, {"MB/s", 10, 1, "/mb_per_s"}}};
constexpr std::array<Column, 5> kRoundTrip{{{"min", 9, 2, "/min_us"},
                                            {"p50", 9, 2, "/p50_us"},
                                            {"mean", 9, 2, "/mean_us"},
                                            {"p99", 9, 2, "/p99_us"},
                                            {"p99.9", 9, 2, "/p999_us"}}};
constexpr std::array<Column, 1> kPlainThroughput{{{"plain MB/s", 12, 1, "/plain/mb_per_s"}}};
constexpr std::array<Column, 1> kPlainRoundTrip{{{"plain p50", 11, 2, "/plain/p50_us"}}};
constexpr std::array<Column, 3> kRatio{
    {{"ratio", 7, 2, "/ratio/median"}, {"from", 7, 2, "/ratio/low"}, {"to", 7, 2, "/ratio/high"}}};
constexpr std::array<Column, 8> kCounts{{{"CPU us/msg", 12, 3, "/cpu_us_per_message"},
                                         {"posts/msg", 11, 4, "/per_message/posts"},
                                         {"WRs/msg", 11, 4, "/per_message/work_requests"},
                                         {"compl./msg", 11, 4, "/per_message/completions"},
                                         {"cred./msg", 11, 4, "/per_message/credit_writes"},
                                         {"imm./msg", 11, 4, "/per_message/immediates"},
                                         {"stall/msg", 11, 4, "/per_message/stalls"},
                                         {"park/msg", 11, 4, "/per_message/parks"}}};

std::vector<Column> columns(PerfMode mode, bool compares) {
  std::vector<Column> all;
  const auto append = [&all](const auto& some) {
    for (const auto& column : some) all.push_back(column);
  };
  const bool trips = mode != PerfMode::throughput;
  append(kWork);
  trips ? append(kRoundTrip) : append(kThroughput);
  if (compares) {
    trips ? append(kPlainRoundTrip) : append(kPlainThroughput);
    append(kRatio);
  }
  append(kCounts);
  return all;
}

/// The figure by which the two are compared.
const char* compared(PerfMode mode) { return mode == PerfMode::throughput ? "mb_per_s" : "p50_us"; }

std::string title(PerfMode mode, std::size_t batch) {
  switch (mode) {
    case PerfMode::throughput:
      return batch == 1 ? "throughput" : fmt::format("throughput, {} messages a call", batch);
    case PerfMode::latency: return "latency (round trip, us)";
    case PerfMode::sleep: return "latency through a sleep on both sides (round trip, us)";
  }
  return "?";
}

std::string_view title_of_ratio(PerfMode mode) {
  return mode == PerfMode::throughput ? "; ratio: MB/s to plain verbs' (above 1: more)"
                                      : "; ratio: p50 to plain verbs' (above 1: slower)";
}

void add_medians(Json& row, const std::vector<Json>& results) {
  for (const char* name : kFigures) {
    std::vector<double> values;
    for (const auto& result : results) {
      if (result.contains(name)) values.push_back(result.at(name).get<double>());
    }
    if (!values.empty()) row[name] = median(std::move(values));
  }
}

/// Of all repeats together.
Json counts_per_message(const std::vector<Json>& results) {
  double messages = 0;
  for (const auto& result : results) messages += result.at("messages").get<double>();
  const auto count = [&](const char* side, const char* name) {
    double sum = 0;
    for (const auto& result : results) sum += result.at(side).value(name, 0.0);
    return sum / messages;
  };
  Json counts;
  for (const char* name : kSenderCounts) counts[name] = count("sender", name);
  counts["credit_writes"] = count("receiver", "credit_writes");
  for (const char* name : kCountsOfBoth)
    counts[name] = count("sender", name) + count("receiver", name);
  return counts;
}

Json ratio(const PerfSeries& series) {
  const char* name = compared(series.mode);
  std::vector<double> ratios;
  for (std::size_t i = 0; i < series.ours.size(); ++i) {
    ratios.push_back(series.ours[i].at(name).get<double>() /
                     series.plain[i].at(name).get<double>());
  }
  Json text{{"of", name}, {"pairs", ratios.size()}, {"median", median(ratios)}};
  if (const auto interval = median_interval(ratios)) {
    text["low"] = interval->low;
    text["high"] = interval->high;
  }
  return text;
}

Json summary(const PerfSeries& series) {
  Json row{{"mode", to_string(series.mode)},
           {"size", series.size},
           {"senders", series.senders},
           {"repeats", series.ours.size()}};
  add_medians(row, series.ours);
  row["per_message"] = counts_per_message(series.ours);
  if (!series.plain.empty()) {
    add_medians(row["plain"], series.plain);
    row["ratio"] = ratio(series);
  }
  return row;
}

}  // namespace

void PerfTable::start(const std::string& path, const std::string& baseline) {
  compares_ = !baseline.empty();
  document_ = {{"path", path}, {"rows", Json::array()}, {"results", Json::array()}};
  fmt::print(out_, "path: {}\n", path);
  if (!compares_) return;
  document_["plain_verbs_path"] = baseline;
  document_["plain_verbs"] = Json::array();
  fmt::print(out_, "plain verbs: {}\n", baseline);
}

void PerfTable::start_mode(PerfMode mode) {
  mode_ = mode;
  fmt::print(out_, "\n{}{}\n", title(mode, batch_), compares_ ? title_of_ratio(mode) : "");
  for (const auto& column : columns(mode, compares_)) {
    fmt::print(out_, "{:>{}}", column.head, column.width);
  }
  fmt::print(out_, "\n");
  std::fflush(out_);
}

void PerfTable::add(const PerfSeries& series) {
  auto row = summary(series);
  for (const auto& column : columns(mode_, compares_)) {
    const Json::json_pointer value(column.value);
    if (row.contains(value)) {
      fmt::print(out_, "{:>{}.{}f}", row.at(value).get<double>(), column.width, column.precision);
    } else {
      fmt::print(out_, "{:>{}}", "-", column.width);
    }
  }
  fmt::print(out_, "\n");
  std::fflush(out_);
  document_["rows"].push_back(std::move(row));
  for (const auto& result : series.ours) document_["results"].push_back(result);
  for (const auto& result : series.plain) document_["plain_verbs"].push_back(result);
}

}  // namespace penstock::cli
