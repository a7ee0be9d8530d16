// The measuring side of `penstock perf`.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <numeric>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "command.hpp"
#include "perf.hpp"

namespace penstock::cli {
namespace {

using std::chrono::steady_clock;
using Seconds = std::chrono::duration<double>;

/// Round trips of one measurement at most, so that their times fit in 16 MiB.
constexpr std::size_t kMaxSamples = std::size_t{4} << 20;
constexpr double kWarmUpSeconds = 0.2;
/// What a distribution is told at.
constexpr std::array kShares{0.0,  0.01, 0.1,   0.25,  0.5,    0.75,  0.9,
                             0.95, 0.99, 0.995, 0.999, 0.9995, 0.9999};
/// Bytes sent between two looks at the clock.
constexpr std::size_t kClockInterval = std::size_t{64} << 10;

std::span<const std::byte> as_bytes(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

/// The smallest sample that is not below a fraction of `quantile` of all. Samples are sorted.
double quantile_us(std::span<const std::uint32_t> samples, double quantile) {
  const auto rank = std::ceil(quantile * static_cast<double>(samples.size()));
  const auto index = static_cast<std::size_t>(std::max(rank, 1.0)) - 1;
  return static_cast<double>(samples[std::min(index, samples.size() - 1)]) / 1e3;
}

/// Pairs of a share and the microseconds that so many took at most, as far as there are samples.
Json distribution(std::span<const std::uint32_t> samples) {
  Json pairs = Json::array();
  for (const double share : kShares)
    if ((1 - share) * static_cast<double>(samples.size()) >= 1)
      pairs.push_back({share, quantile_us(samples, share)});
  return pairs;
}

class Client {
 public:
  explicit Client(const PerfClientOptions& options)
      : options_(options),
        receiver_(bind_reply(options)),
        sender_(
            connect(options.uri, {.deadline = options.timeout, .spin = options.throughput_spin})) {
    command(
        {{"op", "hello"}, {"penstock_perf", kPerfProtocol}, {"reply", reply_address(receiver_)}});
    await("ready");
  }

  Json measure(PerfMode mode, std::size_t size) {
    if (size > sender_.max_message()) {
      throw CommandError(
          fmt::format("a message of {} bytes does not fit, the largest here has {}: leave {} out "
                      "of --sizes, or "
                      "give the listener's URI a larger window (?capacity=…&window=…)",
                      size, sender_.max_message(), size));
    }
    phase(mode, size, std::min(kWarmUpSeconds, options_.seconds));
    return phase(mode, size, options_.seconds);
  }

  void finish() {
    command({{"op", "bye"}});
    const auto status = sender_.flush(options_.timeout);
    if (status != FlushStatus::consumed) fail(fmt::format("at the end: {}", to_string(status)));
  }

 private:
  static Receiver bind_reply(const PerfClientOptions& options) {
    return bind(reply_uri(Uri::parse(options.uri)).text(), {.spin = options.latency_spin});
  }

  static std::string reply_address(const Receiver& receiver) {
    auto uri = Uri::parse(receiver.uris().front());
    uri.options.clear();
    return uri.text();
  }

  [[noreturn]] void fail(const std::string& what) const {
    const auto stats = sender_.stats();
    throw CommandError(fmt::format("{}: {}{}{}", options_.uri, what,
                                   stats.error.empty() ? "" : ": ", stats.error));
  }

  void check(SendStatus status) const {
    if (status != SendStatus::sent) fail(fmt::format("sending failed: {}", to_string(status)));
  }

  void command(const Json& control, std::size_t data_size = 0) {
    check(sender_.send(as_bytes(encode(control, data_size))));
  }

  /// The listener's next answer, which must be `op`. Looks after the listener meanwhile: it may be
  /// gone before it has ever connected back.
  Json await(std::string_view op) {
    constexpr Duration kGlance = std::chrono::milliseconds(200);
    const auto start = steady_clock::now();
    for (;;) {
      const auto message = receiver_.recv_for(kGlance);
      if (message) {
        auto answer = decode(message);
        const auto got = answer.is_object() ? answer.value("op", "") : "";
        if (got == op) return answer;
        fail(got == "refused" ? answer.value("why", "refused") : "the listener broke the protocol");
      }
      if (message.status() != RecvStatus::timed_out) {
        fail(fmt::format("the listener is gone: {}", to_string(message.status())));
      }
      const auto state = sender_.state();
      if (state == PeerState::closed || state == PeerState::lost) {
        fail(fmt::format("the listener is gone: {}", to_string(state)));
      }
      if (options_.timeout != kForever && steady_clock::now() - start > options_.timeout) {
        fail(
            fmt::format("no answer to this side's {} within {}: does `penstock perf --listen` run "
                        "there, and can that host connect back to this one?",
                        reply_address(receiver_), to_text(options_.timeout)));
      }
    }
  }

  Json phase(PerfMode mode, std::size_t size, double seconds) {
    const auto spin =
        mode == PerfMode::throughput ? options_.throughput_spin : options_.latency_spin;
    command({{"op", "begin"}, {"mode", to_string(mode)}, {"size", size}, {"spin_ns", spin.count()}},
            size);
    await("ready");
    Json result{{"mode", to_string(mode)}, {"size", size}};
    const auto before = side_stats(sender_.stats(), options_.scope);
    const auto messages = mode == PerfMode::throughput ? send_all(size, seconds, result)
                                                       : ping(size, seconds, result);
    const auto sender = side_stats(sender_.stats(), options_.scope) - before;
    command({{"op", "end"}}, size);
    const auto answer = await("result");
    if (answer.value("messages", std::uint64_t{0}) != messages) {
      fail(fmt::format("{} messages were sent, but the listener counted {}", messages,
                       answer.value("messages", std::uint64_t{0})));
    }
    auto receiver = answer.value("stats", Json::object());
    result["messages"] = messages;
    result["cpu_us_per_message"] =
        (sender.cpu_us + receiver.value("cpu_us", 0.0)) / static_cast<double>(messages);
    result["sender"] = to_json(sender);
    result["receiver"] = std::move(receiver);
    return result;
  }

  /// Sends for `seconds` and waits until all is consumed. Returns the number of messages.
  std::uint64_t send_all(std::size_t size, double seconds, Json& result) {
    const std::vector<std::byte> payload(size, std::byte{0x5a});
    const auto burst = std::max<std::size_t>(kClockInterval / std::max<std::size_t>(size, 1), 1);
    const auto start = steady_clock::now();
    const auto enough = start + std::chrono::duration_cast<Duration>(Seconds(seconds));
    std::uint64_t messages = 0;
    do {
      for (std::size_t i = 0; i < std::min<std::size_t>(burst, 1024); ++i) send_one(payload);
      messages += std::min<std::size_t>(burst, 1024);
    } while (steady_clock::now() < enough);
    const auto status = sender_.flush();
    const double taken = Seconds(steady_clock::now() - start).count();
    if (status != FlushStatus::consumed) {
      fail(fmt::format("waiting for the listener: {}", to_string(status)));
    }
    const auto count = static_cast<double>(messages);
    result["seconds"] = taken;
    result["messages_per_s"] = count / taken;
    result["mb_per_s"] = count * static_cast<double>(size) / taken / 1e6;
    return messages;
  }

  void send_one(std::span<const std::byte> payload) {
    if (!options_.in_place) {
      check(sender_.send(payload));
      return;
    }
    auto room = sender_.reserve(payload.size());
    check(room.status());
    room.commit();
  }

  /// Sends one message at a time and waits for its echo. Returns the number of round trips.
  std::uint64_t ping(std::size_t size, double seconds, Json& result) {
    const std::vector<std::byte> payload(size, std::byte{0x5a});
    // Touched before the measurement, so that none of it pays for the pages.
    std::vector<std::uint32_t> samples(kMaxSamples);
    std::size_t count = 0;
    auto now = steady_clock::now();
    const auto enough = now + std::chrono::duration_cast<Duration>(Seconds(seconds));
    do {
      const auto sent = now;
      send_one(payload);
      const auto echo = receiver_.recv();
      now = steady_clock::now();
      if (!echo || echo.data().size() != size) {
        fail(fmt::format("waiting for an echo: {}", to_string(echo.status())));
      }
      const auto nanoseconds = (now - sent) / std::chrono::nanoseconds(1);
      samples[count++] =
          static_cast<std::uint32_t>(std::min<std::int64_t>(nanoseconds, UINT32_MAX));
    } while (now < enough && count < samples.size());
    samples.resize(count);
    std::sort(samples.begin(), samples.end());
    const auto sum = std::accumulate(samples.begin(), samples.end(), 0.0);
    result["round_trips"] = count;
    result["min_us"] = static_cast<double>(samples.front()) / 1e3;
    result["mean_us"] = sum / static_cast<double>(count) / 1e3;
    result["p50_us"] = quantile_us(samples, 0.5);
    result["p99_us"] = quantile_us(samples, 0.99);
    result["p999_us"] = quantile_us(samples, 0.999);
    result["max_us"] = static_cast<double>(samples.back()) / 1e3;
    result["quantiles_us"] = distribution(samples);
    return count;
  }

  const PerfClientOptions& options_;
  Receiver receiver_;
  Sender sender_;
};

}  // namespace

void run_perf_client(const PerfClientOptions& options, PerfReport& report) {
  Client client(options);
  for (const auto mode : options.modes) {
    for (unsigned repeat = 0; repeat < options.repeat; ++repeat) {
      for (const auto size : options.sizes) {
        auto result = client.measure(mode, size);
        result["repeat"] = repeat;
        report.add(result);
      }
    }
  }
  client.finish();
}

}  // namespace penstock::cli
