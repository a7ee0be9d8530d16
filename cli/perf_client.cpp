// The measuring side of `penstock perf`.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <future>
#include <numeric>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "command.hpp"
#include "perf.hpp"
#include "plain_verbs.hpp"

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
constexpr std::size_t kMostBetweenLooks = 1024;

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
      : options_(options), receiver_(bind_reply(options)) {
    senders_.push_back(connect_once());
    command(
        {{"op", "hello"}, {"penstock_perf", kPerfProtocol}, {"reply", reply_address(receiver_)}});
    await("ready");
  }

  void check_size(std::size_t size) const {
    const auto largest = options_.in_place ? first().max_in_place() : first().max_message();
    if (size <= largest) return;
    throw CommandError(fmt::format(
        "a message of {} bytes does not fit, the largest here has {}: leave {} out of --sizes, or "
        "give the listener's URI {}",
        size, largest, size,
        options_.in_place ? "a larger window (?capacity=…&window=…)" : "?max_message=…"));
  }

  /// From now on so many senders send at once.
  void use_senders(std::size_t count) {
    while (senders_.size() > count) {
      // Said before it closes, so that the listener does not look for it any more.
      say(senders_.back(), {{"op", "leave"}});
      senders_.pop_back();
    }
    while (senders_.size() < count) {
      senders_.push_back(connect_once());
      say(senders_.back(), {{"op", "join"}, {"reply", reply_address(receiver_)}});
    }
  }

  Json measure(PerfMode mode, std::size_t size) {
    phase(mode, size, std::min(kWarmUpSeconds, options_.seconds));
    return phase(mode, size, options_.seconds);
  }

  /// The port at the listener's host where plain verbs answers.
  std::uint16_t start_plain_verbs() {
    command({{"op", "plain_verbs"}});
    return value_of(await("plain_verbs"), "port", std::uint16_t{0});
  }

  [[nodiscard]] std::string path() const { return path_of(first()); }

  void finish() {
    command({{"op", "bye"}});
    const auto status = first().flush(options_.timeout);
    if (status != FlushStatus::consumed) fail(fmt::format("at the end: {}", to_string(status)));
  }

 private:
  static Receiver bind_reply(const PerfClientOptions& options) {
    BindOptions binding;
    binding.spin = Duration::zero();  // recv_spinning() spins as the measurement asks for
    // Echoes are as long as what they answer.
    binding.max_message = std::min<std::uint64_t>(std::ranges::max(options.sizes), kMaxMessage);
    return penstock::bind(reply_uri(Uri::parse(options.uri)).text(), binding);
  }

  Sender connect_once() {
    return connect(options_.uri, {.deadline = options_.timeout, .spin = options_.throughput_spin});
  }

  /// The one that commands.
  [[nodiscard]] const Sender& first() const { return senders_.front(); }
  [[nodiscard]] Sender& first() { return senders_.front(); }

  static std::string reply_address(const Receiver& receiver) {
    auto uri = Uri::parse(receiver.uris().front());
    uri.options.clear();
    return uri.text();
  }

  [[noreturn]] void fail(const std::string& what) const { fail(first(), what); }

  [[noreturn]] void fail(const Sender& sender, const std::string& what) const {
    const auto stats = sender.stats();
    throw CommandError(fmt::format("{}: {}{}{}", options_.uri, what,
                                   stats.error.empty() ? "" : ": ", stats.error));
  }

  void check(const Sender& sender, SendStatus status) const {
    if (status == SendStatus::sent) return;
    fail(sender, fmt::format("sending failed: {}", to_string(status)));
  }

  void say(Sender& sender, const Json& control, std::size_t data_size = 0) const {
    check(sender, sender.send(as_bytes(encode(control, data_size))));
  }

  void command(const Json& control, std::size_t data_size = 0) { say(first(), control, data_size); }

  /// The listener's next answer, which must be `op`. Looks after the listener meanwhile: it may be
  /// gone before it has ever connected back.
  Json await(std::string_view op) {
    constexpr Duration kGlance = std::chrono::milliseconds(200);
    const auto start = steady_clock::now();
    for (;;) {
      const auto message = receiver_.recv_for(kGlance);
      if (message) {
        auto answer = decode(message.data());
        const auto got = text_of(answer, "op");
        if (got == op) return answer;
        fail(got == "refused" ? text_of(answer, "why") : "the listener broke the protocol");
      }
      if (message.status() != RecvStatus::timed_out) {
        fail(fmt::format("the listener is gone: {}", to_string(message.status())));
      }
      const auto state = first().state();
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
    const auto spin = spin_of(mode);
    command({{"op", "begin"},
             {"mode", to_string(mode)},
             {"size", size},
             {"senders", senders_.size()},
             {"batch", options_.batch},
             {"spin_ns", spin.count()}},
            size);
    await("ready");
    Json result{{"mode", to_string(mode)}, {"size", size}, {"senders", senders_.size()}};
    const auto before = side_stats(senders_, options_.scope);
    const auto work = mode == PerfMode::throughput ? send_all(size, seconds, result)
                                                   : ping(size, seconds, spin, result);
    const auto messages = work.messages;
    auto sender = side_stats(senders_, options_.scope) - before;
    sender.cpu_us += work.cpu_us;
    command({{"op", "end"}}, size);
    const auto answer = await("result");
    if (value_of(answer, "messages", std::uint64_t{0}) != messages) {
      fail(fmt::format("{} messages were sent, but the listener counted {}", messages,
                       value_of(answer, "messages", std::uint64_t{0})));
    }
    auto receiver = answer.value("stats", Json::object());
    result["messages"] = messages;
    result["cpu_us_per_message"] =
        (sender.cpu_us + value_of(receiver, "cpu_us", 0.0)) / static_cast<double>(messages);
    result["sender"] = to_json(sender);
    result["receiver"] = std::move(receiver);
    return result;
  }

  [[nodiscard]] Duration spin_of(PerfMode mode) const {
    switch (mode) {
      case PerfMode::throughput: return options_.throughput_spin;
      case PerfMode::latency: return options_.latency_spin;
      case PerfMode::sleep: break;
    }
    return Duration::zero();
  }

  struct Work {
    std::uint64_t messages = 0;
    double cpu_us = 0;  ///< that side_stats() does not see
  };

  /// Sends for `seconds`, a thread for each sender, and waits until all is consumed.
  Work send_all(std::size_t size, double seconds, Json& result) {
    const std::vector<std::byte> payload(size * options_.batch, std::byte{0x5a});
    const auto start = steady_clock::now();
    const auto enough = start + std::chrono::duration_cast<Duration>(Seconds(seconds));
    std::vector<std::future<Work>> others;
    others.reserve(senders_.size() - 1);
    for (auto& sender : std::span(senders_).subspan(1)) {
      others.push_back(std::async(std::launch::async, [&] {
        const auto messages = send_until(enough, sender, payload, size);
        const bool seen = options_.scope == CpuScope::process;
        return Work{.messages = messages, .cpu_us = seen ? 0 : cpu_us(CpuScope::thread)};
      }));
    }
    Work all{.messages = send_until(enough, first(), payload, size)};
    for (auto& other : others) {
      const auto work = other.get();
      all.messages += work.messages;
      all.cpu_us += work.cpu_us;
    }
    const double taken = Seconds(steady_clock::now() - start).count();
    const auto count = static_cast<double>(all.messages);
    result["seconds"] = taken;
    result["messages_per_s"] = count / taken;
    result["mb_per_s"] = count * static_cast<double>(size) / taken / 1e6;
    return all;
  }

  /// Sends messages of `size` bytes, a batch lies in `payload`. Returns their number.
  std::uint64_t send_until(steady_clock::time_point enough, Sender& sender,
                           std::span<const std::byte> payload, std::size_t size) const {
    const auto calls =
        std::clamp<std::size_t>(kClockInterval / std::max<std::size_t>(payload.size(), 1), 1,
                                kMostBetweenLooks / options_.batch);
    std::uint64_t messages = 0;
    do {
      for (std::size_t i = 0; i < calls; ++i) {
        if (options_.batch == 1)
          send_one(sender, payload);
        else
          check(sender, sender.send_many(payload, size).status);
      }
      messages += calls * options_.batch;
    } while (steady_clock::now() < enough);
    if (const auto status = sender.flush(); status != FlushStatus::consumed) {
      fail(sender, fmt::format("waiting for the listener: {}", to_string(status)));
    }
    return messages;
  }

  void send_one(Sender& sender, std::span<const std::byte> payload) const {
    if (!options_.in_place) {
      check(sender, sender.send(payload));
      return;
    }
    auto room = sender.reserve(payload.size());
    check(sender, room.status());
    room.commit();
  }

  /// Sends one message at a time and waits for its echo.
  Work ping(std::size_t size, double seconds, Duration spin, Json& result) {
    const std::vector<std::byte> payload(size, std::byte{0x5a});
    // Touched before the measurement, so that none of it pays for the pages.
    std::vector<std::uint32_t> samples(kMaxSamples);
    std::size_t count = 0;
    auto now = steady_clock::now();
    const auto enough = now + std::chrono::duration_cast<Duration>(Seconds(seconds));
    do {
      const auto sent = now;
      send_one(first(), payload);
      const auto echo = recv_spinning(receiver_, spin, kForever);
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
    return {.messages = count};
  }

  const PerfClientOptions& options_;
  Receiver receiver_;
  std::vector<Sender> senders_;
};

/// One row after the other, each with all its repeats, so that what is compared lies close in time.
class Rows {
 public:
  Rows(const PerfClientOptions& options, Client& client, PerfReport& report)
      : options_(options), uri_(Uri::parse(options.uri)), client_(client), report_(report) {}

  void run() {
    for (const auto size : options_.sizes) client_.check_size(size);
    if (options_.baseline) port_ = client_.start_plain_verbs();
    report_.start(client_.path(), options_.baseline ? plain_verbs_path() : "");
    for (const auto mode : options_.modes) {
      report_.start_mode(mode);
      const auto counts =
          mode == PerfMode::throughput ? std::span(options_.senders) : std::span(kOneSender);
      for (const auto senders : counts) {
        client_.use_senders(senders);
        for (const auto size : options_.sizes) {
          report_.add(series({.mode = mode, .size = size, .senders = senders}));
        }
      }
    }
  }

 private:
  static constexpr std::array<unsigned, 1> kOneSender{1};

  PerfSeries series(PerfSeries row) {
    for (unsigned repeat = 0; repeat < options_.repeats; ++repeat) {
      // Each goes first in turn: what one leaves behind must not always hit the other.
      if (options_.baseline && repeat % 2 == 1) measure_plain(row, repeat);
      auto result = client_.measure(row.mode, row.size);
      result["repeat"] = repeat;
      row.ours.push_back(std::move(result));
      if (options_.baseline && repeat % 2 == 0) measure_plain(row, repeat);
    }
    return row;
  }

  void measure_plain(PerfSeries& row, unsigned repeat) {
    auto report = measure_plain_verbs(
        uri_, port_,
        {.mode = row.mode, .size = row.size, .senders = row.senders, .seconds = options_.seconds});
    auto& result = report["results"][0];
    result["mode"] = to_string(row.mode);
    result["senders"] = row.senders;
    result["repeat"] = repeat;
    row.plain.push_back(std::move(result));
  }

  /// By a short piece of work, which also shows that it works at all.
  std::string plain_verbs_path() {
    const auto report =
        measure_plain_verbs(uri_, port_, {.mode = PerfMode::latency, .size = 64, .seconds = 0.01});
    return fmt::format("{} port {} GID {} ({}), MTU {}", report["device"].get<std::string>(),
                       report["port"].get<int>(), report["gid_index"].get<int>(),
                       report["gid"].get<std::string>(), report["mtu"].get<int>());
  }

  const PerfClientOptions& options_;
  Uri uri_;
  Client& client_;
  PerfReport& report_;
  std::uint16_t port_ = 0;
};

}  // namespace

void run_perf_client(const PerfClientOptions& options, PerfReport& report) {
  Client client(options);
  Rows(options, client, report).run();
  client.finish();
}

}  // namespace penstock::cli
