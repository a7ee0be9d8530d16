// bench_pressure: latency under a steady load, saved, and compared with an earlier run.
#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "../common/cpus.hpp"
#include "load.hpp"
#include "report.hpp"
#include "roads.hpp"

namespace pressure {
namespace {

constexpr const char* kHalf = "half";

struct Options {
  std::vector<std::string> transports;
  std::vector<std::string> rates{"10k", "100k", "1M", kHalf};
  double seconds = 30;
  std::string uri;
  std::string save;
  std::string baseline;
  Limits limits;
};

/// Messages per second, as in 10k or 1.5M.
double parse_rate(const std::string& text) {
  std::size_t used = 0;
  double rate = 0;
  try {
    rate = std::stod(text, &used);
  } catch (const std::exception&) {
    used = 0;
  }
  const auto unit = text.substr(used);
  const double factor = unit == "k" ? 1e3 : unit == "M" ? 1e6 : unit.empty() ? 1 : 0;
  rate *= factor;
  if (used == 0 || !(rate >= 1 && rate <= 1e9))
    throw CLI::ValidationError("--rates",
                               fmt::format("'{}': as in 500, 10k, 1M or {}", text, kHalf));
  return rate;
}

class Suite {
 public:
  explicit Suite(const Options& options) : options_(options) {
    fmt::print(
        "{:<8} {:>6} {:>11} {:>11} {:>11} {:>11} {:>5} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9}  {}\n",
        "", "load", "asked/s", "carried/s", "sent", "received", "lost", "p50 us", "p99 us",
        "p99.9 us", "max us", "calm p50", "calm p99", "CPUs");
  }

  /// Every load on one transport.
  void measure_all(const std::string& transport) {
    const double maximum = needs_maximum() ? measure_maximum(transport) : 0;
    for (const auto& name : options_.rates)
      add(measure(transport, name, rate_of(name, maximum), name == kHalf ? maximum : 0,
                  options_.seconds));
  }

  /// The highest load that the transport carries.
  void measure_highest(const std::string& transport) {
    constexpr double kTrialSeconds = 2;
    const double maximum = measure_maximum(transport);
    auto names = options_.rates;
    std::ranges::sort(names, std::greater{},
                      [&](const auto& name) { return rate_of(name, maximum); });
    for (const auto& name : names) {
      const auto rate = rate_of(name, maximum);
      if (rate > maximum || !carries(measure(transport, name, rate, maximum,
                                             std::min(kTrialSeconds, options_.seconds)))) {
        fmt::print("{:<8} {:>6} is more than it carries: at most {:.0f} messages/s\n",
                   short_name(transport), name, maximum);
        continue;
      }
      auto row = measure(transport, name, rate, maximum, options_.seconds);
      const bool carried = carries(row);
      add(std::move(row));
      if (carried) return;
    }
    throw std::runtime_error(fmt::format("{} carries none of the loads", transport));
  }

  [[nodiscard]] const std::vector<Row>& rows() const noexcept { return rows_; }

 private:
  static bool carries(const Row& row) { return row.carried >= 0.98 * row.rate; }
  static double rate_of(const std::string& name, double maximum) {
    return name == kHalf ? maximum / 2 : parse_rate(name);
  }
  [[nodiscard]] bool needs_maximum() const {
    return std::ranges::find(options_.rates, kHalf) != options_.rates.end();
  }
  static std::string short_name(const std::string& transport) {
    return transport.substr(0, transport.find(':'));
  }

  static void run(const std::string& transport, const Load& load, Outcome& outcome) {
    if (transport == "typed") {
      TypedRoad road;
      put_under(road, load, outcome);
    } else {
      const auto own = fmt::format("{}:pressure-{}", transport, ::getpid());
      ByteRoad road(transport.find(':') == std::string::npos ? own : transport);
      put_under(road, load, outcome);
    }
  }

  /// The best of a few tries: whatever disturbs makes it less.
  static double measure_maximum(const std::string& transport) {
    double maximum = 0;
    for (int i = 0; i < 3; ++i) {
      const contest::Shared<Outcome> outcome;
      run(transport, {std::numeric_limits<double>::infinity(), 1}, *outcome);
      maximum = std::max(maximum, static_cast<double>(outcome->received) / outcome->seconds);
    }
    fmt::print("{:<8} without a rate, {:.0f} messages/s\n", short_name(transport), maximum);
    return maximum;
  }

  static Row measure(const std::string& transport, const std::string& name, double rate,
                     double maximum, double seconds) {
    const contest::Shared<Outcome> outcome;
    const std::string before = contest::distance(contest::line_round_trip());
    run(transport, {rate, seconds}, *outcome);
    const std::string after = contest::distance(contest::line_round_trip());
    const auto& latency = outcome->latency;
    return {.transport = short_name(transport),
            .load = name,
            .rate = rate,
            .carried = static_cast<double>(outcome->received) / outcome->seconds,
            .maximum = maximum,
            .sent = outcome->sent,
            .received = outcome->received,
            .misplaced = outcome->misplaced,
            .p50_ns = latency.quantile(0.5),
            .p99_ns = latency.quantile(0.99),
            .p999_ns = latency.quantile(0.999),
            .max_ns = latency.max(),
            .calm_p50_ns = calm(*outcome, &Slice::p50),
            .calm_p99_ns = calm(*outcome, &Slice::p99),
            .distance = before == after ? before : "moved"};
  }

  void add(Row row) {
    fmt::print("{:<8} {:>6} {:>11.0f} {:>11.0f} {:>11} {:>11} {:>5} ", row.transport, row.load,
               row.rate, row.carried, row.sent, row.received, row.lost());
    for (const auto ns :
         {row.p50_ns, row.p99_ns, row.p999_ns, row.max_ns, row.calm_p50_ns, row.calm_p99_ns})
      fmt::print("{:>9.2f} ", static_cast<double>(ns) / 1e3);
    fmt::print(" {}\n", row.distance);
    std::fflush(stdout);
    rows_.push_back(std::move(row));
  }

  const Options& options_;
  std::vector<Row> rows_;
};

/// False: worse than before.
bool judge(const Options& options, const std::vector<Row>& baseline, const std::vector<Row>& rows) {
  const auto comparison = compare(baseline, rows, options.limits);
  for (const auto& line : comparison.excused) fmt::print("not comparable: {}\n", line);
  for (const auto& line : comparison.worse) fmt::print("WORSE: {}\n", line);
  fmt::print("{} of {} rows compared with '{}': worse figures: {}, not comparable: {}\n",
             comparison.compared, rows.size(), options.baseline, comparison.worse.size(),
             comparison.excused.size());
  if (comparison.compared == 0) fmt::print("the baseline has none of these rows\n");
  return comparison.compared != 0 && comparison.worse.empty();
}

int run(const Options& options) {
  // Read first: a file that is not there is better known before the work than after.
  std::optional<std::vector<Row>> baseline;
  if (!options.baseline.empty()) baseline = load_rows(options.baseline);
  Suite suite(options);
  for (const auto& transport : options.transports) suite.measure_all(transport);
  if (!options.uri.empty()) suite.measure_highest(options.uri);
  bool well = true;
  for (const auto& row : suite.rows())
    if (row.lost() != 0 || row.misplaced != 0) {
      fmt::print("LOST: {} {}: {} of {} messages, {} out of order\n", row.transport, row.load,
                 row.lost(), row.sent, row.misplaced);
      well = false;
    }
  if (!options.save.empty()) save(options.save, suite.rows());
  if (baseline) well = judge(options, *baseline, suite.rows()) && well;
  return well ? EXIT_SUCCESS : EXIT_FAILURE;
}

int parse_and_run(int count, char** arguments) {
  const std::vector<std::string> local{"typed", "inproc", "shm"};
  CLI::App app(
      "Latency under a steady load, counted from the time each message was meant to be sent");
  Options options;
  app.add_option("--transports", options.transports, "Default: all three, or with --uri none")
      ->delimiter(',')
      ->check(CLI::IsMember(local));
  app.add_option("--rates", options.rates, "Messages per second; half: of the measured maximum")
      ->delimiter(',')
      ->capture_default_str();
  app.add_option("--seconds", options.seconds, "How long each load lasts; to compare, 15 at least")
      ->check(CLI::Range(0.3, 86400.0))
      ->capture_default_str();
  app.add_option("--uri", options.uri,
                 "A channel between processes, under the highest rate that it carries");
  app.add_option("--save", options.save, "Write what was measured there")->type_name("FILE");
  app.add_option("--baseline", options.baseline,
                 "Compare with what --save wrote: exit status 1 if anything is worse")
      ->type_name("FILE");
  app.add_option("--p50-ratio", options.limits.p50, "How many times worse p50 may be")
      ->check(CLI::Range(1.0, 1e6))
      ->capture_default_str();
  app.add_option("--p99-ratio", options.limits.p99, "How many times worse p99 may be")
      ->check(CLI::Range(1.0, 1e6))
      ->capture_default_str();
  app.add_option("--rate-ratio", options.limits.rate, "How many times lower a rate may be")
      ->check(CLI::Range(1.0, 1e6))
      ->capture_default_str();
  try {
    app.parse(count, arguments);
    for (const auto& name : options.rates)
      if (name != kHalf) (void)parse_rate(name);
  } catch (const CLI::ParseError& error) {
    return app.exit(error);
  }
  if (options.transports.empty() && options.uri.empty()) options.transports = local;
  return run(options);
}

}  // namespace
}  // namespace pressure

int main(int count, char** arguments) {
  try {
    return pressure::parse_and_run(count, arguments);
  } catch (const std::exception& error) {
    fmt::print(stderr, "bench_pressure: {}\n", error.what());
    return EXIT_FAILURE;
  }
}
