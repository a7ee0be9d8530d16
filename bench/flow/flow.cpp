// A consumer that is slowed ten times in bursts, behind a fixed window and a living one.
//
// The sender keeps a schedule, whatever becomes of it (open loop): each message is meant to go at a
// time of its own, at 70 % of what the consumer carries on the average. Two delays are counted for
// each: `inside`, from when the channel accepted it to when the consumer has it, and `intended`,
// from when it was meant to go. What a smaller window takes from the one stays in the other: the
// message waits with its sender, which knows, and may do better than wait. A second load,
// `saturated`, sends as fast as it goes and shows what a window costs in throughput.
//
// Every repeat runs all settings one after another, so that what the machine does meanwhile comes
// to all of them.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "penstock/channel/channel.hpp"
#include "penstock/channel/local_channel.hpp"

namespace penstock::bench {
namespace {

using Json = nlohmann::ordered_json;
using std::chrono::milliseconds;

struct Plan {
  unsigned repeats = 5;
  double seconds = 2;
  std::vector<std::string> channels{"inproc", "shm", "typed"};
  std::uint64_t capacity = std::uint64_t{1} << 20U;  ///< bytes
  std::int64_t target_us = 1000;
  std::int64_t work_ns = 1000;  ///< of a message, while not slowed
  std::int64_t burst_ms = 100;  ///< slow for so long, then as long not
  double load = 0.7;
  std::string json;
  std::string trace;
};

/// What travels. With a byte channel's header and rounding it takes 80 bytes.
struct Payload {
  std::int64_t intended;
  std::int64_t accepted;
  std::byte rest[48];  // NOLINT(modernize-avoid-c-arrays)
};
static_assert(sizeof(Payload) == 64);
/// The consumer of the slow part takes so many times as long.
constexpr std::int64_t kSlowed = 10;
constexpr std::int64_t kEnd = -1;

std::int64_t now_ns() { return Clock::now().time_since_epoch().count(); }

struct Setting {
  std::string name;
  std::uint64_t window;  ///< bytes
  bool living;
};

/// A channel: `send` returns once the message is accepted, `receive` hands it out.
class Bytes {
 public:
  Bytes(const std::string& scheme, const Plan& plan, const Setting& setting)
      : receiver_(bind(fmt::format("{}:flow-{}", scheme, ::getpid()),
                       {.capacity = plan.capacity,
                        .window = setting.window,
                        .target_delay = target(plan, setting)})),
        sender_(connect(receiver_.uris().at(0))) {}

  void send(std::int64_t intended) {
    auto room = sender_.reserve(sizeof(Payload));
    const Payload payload{intended, now_ns(), {}};
    std::memcpy(room.data().data(), &payload, sizeof payload);
    room.commit();
  }
  template <class Work>
  bool receive(Work&& work) {
    const auto message = receiver_.recv();
    Payload payload;  // NOLINT(cppcoreguidelines-pro-type-member-init)
    std::memcpy(&payload, message.data().data(), sizeof payload);
    if (payload.intended == kEnd) return false;
    work(payload);
    return true;
  }
  [[nodiscard]] std::uint64_t window() const {
    const auto sources = receiver_.stats().sources;
    return sources.empty() ? 0 : sources[0].flow.now;
  }
  [[nodiscard]] static Duration target(const Plan& plan, const Setting& setting) {
    return setting.living ? std::chrono::microseconds(plan.target_us) : Duration::zero();
  }

 private:
  Receiver receiver_;
  Sender sender_;
};

class Typed {
 public:
  Typed(const Plan& plan, const Setting& setting)
      : ends_(v2::channel<Payload, v2::spsc>(setting.window / sizeof(Payload),
                                             {.target_delay = Bytes::target(plan, setting)})) {}

  void send(std::int64_t intended) {
    auto room = ends_.sender.reserve();
    room.emplace(Payload{intended, now_ns(), {}});
    room.commit();
  }
  template <class Work>
  bool receive(Work&& work) {
    const auto payload = ends_.receiver.recv();
    if (payload->intended == kEnd) return false;
    work(*payload);
    return true;
  }
  [[nodiscard]] std::uint64_t window() const {
    return ends_.receiver.stats().flow.now * sizeof(Payload);
  }

 private:
  v2::Ends<Payload, v2::spsc> ends_;
};

struct Sample {
  std::int64_t time;  ///< when it was handed out, from the start
  std::int64_t inside;
  std::int64_t intended;
  std::uint64_t window;
};

struct Run {
  double throughput = 0;  ///< messages a second
  std::vector<Sample> samples;
};

double percentile_ms(const std::vector<Sample>& samples, std::int64_t Sample::*what, double part) {
  std::vector<std::int64_t> values(samples.size());
  std::ranges::transform(samples, values.begin(), what);
  const auto at =
      values.begin() + static_cast<std::ptrdiff_t>(part * static_cast<double>(values.size() - 1));
  std::ranges::nth_element(values, at);
  return static_cast<double>(*at) / 1e6;
}

/// Messages a second that the consumer carries, half of the time slowed.
double mean_rate(const Plan& plan) {
  const double fast = 1e9 / static_cast<double>(plan.work_ns);
  return (fast + fast / kSlowed) / 2;
}

template <class Channel>
Run run(Channel& channel, const Plan& plan, bool saturated, bool traced) {
  const double rate = mean_rate(plan) * plan.load;
  const double most = saturated ? mean_rate(plan) : rate;
  const auto length = static_cast<std::int64_t>(plan.seconds * 1e9);
  Run result;
  // Touched before, so that the consumer meets no page for the first time.
  result.samples.resize(static_cast<std::size_t>(most * plan.seconds * 1.5) + 1000);
  std::size_t count = 0;
  const auto start = now_ns() + 1'000'000;
  std::jthread sender([&] {
    for (std::int64_t i = 0;; ++i) {
      auto due =
          start + (saturated ? 0 : static_cast<std::int64_t>(static_cast<double>(i) * 1e9 / rate));
      auto now = now_ns();
      if ((saturated ? now : due) >= start + length) break;
      while (now < due || now < start) now = now_ns();
      channel.send(saturated ? now : due);
    }
    channel.send(kEnd);
  });
  const auto period = 2 * plan.burst_ms * 1'000'000;
  std::int64_t looked = 0;
  std::uint64_t window = 0;
  while (channel.receive([&](const Payload& payload) {
    auto now = now_ns();
    if (traced && now - looked > 1'000'000) {
      window = channel.window();
      looked = now = now_ns();
    }
    if (count < result.samples.size())
      result.samples[count++] = {now - start, now - payload.accepted, now - payload.intended,
                                 window};
    const bool slow = (now - start) % period >= period / 2;
    for (const auto end = now + (slow ? kSlowed : 1) * plan.work_ns; now < end;) now = now_ns();
  })) {
  }
  result.samples.resize(count);
  result.throughput = static_cast<double>(count) * 1e9 / static_cast<double>(now_ns() - start);
  return result;
}

Run run(const std::string& channel, const Plan& plan, const Setting& setting, bool saturated,
        bool traced) {
  if (channel == "typed") {
    Typed typed(plan, setting);
    return run(typed, plan, saturated, traced);
  }
  Bytes bytes(channel, plan, setting);
  return run(bytes, plan, saturated, traced);
}

/// One line for each millisecond: the longest delays of the messages handed out in it.
void write_trace(const std::string& path, const std::string& channel, const Setting& setting,
                 const Run& run, bool first) {
  std::ofstream out(path, first ? std::ios::trunc : std::ios::app);
  if (first) out << "channel,setting,ms,inside_ms,intended_ms,window_bytes\n";
  for (std::size_t i = 0; i < run.samples.size();) {
    const auto ms = run.samples[i].time / 1'000'000;
    Sample worst = run.samples[i];
    for (; i < run.samples.size() && run.samples[i].time / 1'000'000 == ms; ++i) {
      worst.inside = std::max(worst.inside, run.samples[i].inside);
      worst.intended = std::max(worst.intended, run.samples[i].intended);
      worst.window = run.samples[i].window;
    }
    out << fmt::format("{},{},{},{:.3f},{:.3f},{}\n", channel, setting.name, ms,
                       static_cast<double>(worst.inside) / 1e6,
                       static_cast<double>(worst.intended) / 1e6, worst.window);
  }
  out.close();  // a full disk shows here
  if (!out) throw std::runtime_error("cannot write " + path);
}

double median(std::vector<double> values) {
  std::ranges::sort(values);
  return values[values.size() / 2];
}

int measure(const Plan& plan) {
  const std::vector<Setting> settings{{"fixed", plan.capacity, false},
                                      {"quarter", plan.capacity / 4, false},
                                      {"living", plan.capacity, true}};
  Json report{{"capacity", plan.capacity},
              {"target_us", plan.target_us},
              {"work_ns", plan.work_ns},
              {"slowed", kSlowed},
              {"burst_ms", plan.burst_ms},
              {"load", plan.load},
              {"offered", mean_rate(plan) * plan.load},
              {"seconds", plan.seconds},
              {"repeats", plan.repeats},
              {"runs", Json::array()}};
  fmt::print("{:8} {:10} {:8} {:>12} {:>12} {:>14} {:>14}\n", "channel", "load", "window",
             "messages/s", "inside p50", "inside p99", "intended p99");
  bool first = true;
  for (const auto& channel : plan.channels) {
    for (const bool saturated : {false, true}) {
      std::vector<std::vector<Json>> results(settings.size());
      for (unsigned repeat = 0; repeat < plan.repeats; ++repeat) {
        for (std::size_t i = 0; i < settings.size(); ++i) {
          const bool traced = !plan.trace.empty() && !saturated && repeat == 0;
          const auto one = run(channel, plan, settings[i], saturated, traced);
          if (traced)
            write_trace(plan.trace, channel, settings[i], one, std::exchange(first, false));
          results[i].push_back(
              {{"throughput", one.throughput},
               {"inside_p50_ms", percentile_ms(one.samples, &Sample::inside, 0.5)},
               {"inside_p99_ms", percentile_ms(one.samples, &Sample::inside, 0.99)},
               {"intended_p99_ms", percentile_ms(one.samples, &Sample::intended, 0.99)}});
        }
      }
      for (std::size_t i = 0; i < settings.size(); ++i) {
        Json line{{"channel", channel},
                  {"load", saturated ? "saturated" : "open"},
                  {"setting", settings[i].name}};
        for (const auto* key :
             {"throughput", "inside_p50_ms", "inside_p99_ms", "intended_p99_ms"}) {
          std::vector<double> values;
          for (const auto& result : results[i]) values.push_back(result[key].get<double>());
          line[key] = median(values);
        }
        line["repeats"] = results[i];
        // When a saturated sender meant to send, is when it could.
        fmt::print(
            "{:8} {:10} {:8} {:12.0f} {:9.3f} ms {:11.3f} ms {:>14}\n", channel,
            line["load"].get<std::string>(), settings[i].name, line["throughput"].get<double>(),
            line["inside_p50_ms"].get<double>(), line["inside_p99_ms"].get<double>(),
            saturated ? "" : fmt::format("{:.3f} ms", line["intended_p99_ms"].get<double>()));
        report["runs"].push_back(std::move(line));
      }
    }
  }
  if (!plan.json.empty()) {
    std::ofstream out(plan.json);
    out << report.dump(1) << '\n';
    out.close();
    if (!out) throw std::runtime_error("cannot write " + plan.json);
  }
  return 0;
}

}  // namespace
}  // namespace penstock::bench

int main(int argc, char** argv) {
  try {
    penstock::bench::Plan plan;
    CLI::App app("Fixed windows and a living one, behind a consumer that is slowed in bursts.");
    app.add_option("--repeats", plan.repeats)->check(CLI::Range(1, 1000));
    app.add_option("--seconds", plan.seconds, "of each run")->check(CLI::Range(0.05, 600.0));
    app.add_option("--channels", plan.channels, "inproc, shm, typed")
        ->delimiter(',')
        ->check(CLI::IsMember({"inproc", "shm", "typed"}));
    app.add_option("--capacity", plan.capacity, "bytes")
        ->check(CLI::Range(std::uint64_t{16} << 10U, std::uint64_t{1} << 30U));
    app.add_option("--target", plan.target_us, "of the living window, in microseconds")
        ->check(CLI::Range(std::int64_t{1}, std::int64_t{3'600'000'000}));
    app.add_option("--work", plan.work_ns, "nanoseconds of the consumer for a message")
        ->check(CLI::Range(1, 1'000'000'000));
    app.add_option("--burst", plan.burst_ms, "milliseconds")->check(CLI::Range(1, 60'000));
    app.add_option("--load", plan.load, "of what the consumer carries on the average")
        ->check(CLI::Range(0.001, 10.0));
    app.add_option("--json", plan.json, "file for the figures");
    app.add_option("--trace", plan.trace, "file (CSV) for the first repeat's delays over time");
    CLI11_PARSE(app, argc, argv);
    return penstock::bench::measure(plan);
  } catch (const std::exception& error) {
    fmt::print(stderr, "bench_flow: {}\n", error.what());
    return 1;
  }
}
