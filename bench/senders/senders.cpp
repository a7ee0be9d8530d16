// What many senders cost one receiver.
//
//   sum   So many senders send as fast as they can. What the receiver consumes from all of them
//         within the timed window, and how fairly. The warm-up lasts until it has consumed as much
//         as all rings hold: where threads are many more than CPUs, they first fill the rings
//         while the receiver waits for a CPU.
//   idle  So many senders are connected and silent: what a try_recv() in vain takes, and what an
//         inlet takes of the receiver's memory.
//
// The receiver is a process of its own and all senders are threads of another; over inproc: and
// torn:, which end at the process, they share one, and memory is not told.
#include <fmt/format.h>
#include <sys/resource.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <semaphore>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

#include "../common/parts.hpp"
#include "penstock/channel/channel.hpp"
#ifdef BENCH_WITH_TORN
#include "penstock/transport/registry.hpp"
#include "tests/transport/torn_link.hpp"
#endif

namespace {

using Clock = std::chrono::steady_clock;
using Seconds = std::chrono::duration<double>;
using Json = nlohmann::ordered_json;

/// For all to have connected.
constexpr std::chrono::seconds kPatience{120};
/// Connections that are being set up at a time: no storm, which a receiver may turn away.
constexpr std::ptrdiff_t kConnecting = 8;
constexpr std::size_t kMostSenders = 4096;

struct Options {
  std::string uri;
  std::vector<std::size_t> senders;
  std::vector<std::size_t> sizes{64, 4096};
  double seconds = 1;
  std::string json;
  std::uint64_t most_beyond_ring = std::numeric_limits<std::uint64_t>::max();
};

contest::Where where(const std::string& uri) {
  const bool within = uri.starts_with("inproc:") || uri.starts_with("torn:");
  return within ? contest::Where::threads : contest::Where::processes;
}

/// Bytes that this process has of what /proc/self/status calls `name`.
std::uint64_t memory(std::string_view name) {
  std::ifstream status("/proc/self/status");
  for (std::string word; status >> word;)
    if (std::uint64_t kib = 0; word == name && status >> kib) return kib * 1024;
  throw std::runtime_error(fmt::format("/proc/self/status has no {}", name));
}

void await_senders(const penstock::Receiver& receiver, std::size_t count) {
  const auto deadline = Clock::now() + kPatience;
  while (receiver.sender_count() != count) {
    if (Clock::now() > deadline)
      throw std::runtime_error(fmt::format("{} of {} senders have connected within {} s",
                                           receiver.sender_count(), count, kPatience.count()));
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

/// Runs `each` on so many threads, each with a sender of its own.
template <class Each>
void with_senders(const std::string& uri, std::size_t count, Each&& each) {
  std::counting_semaphore connecting(kConnecting);
  std::vector<std::thread> threads;
  for (std::size_t i = 0; i < count; ++i) {
    threads.emplace_back([&] {
      try {
        connecting.acquire();
        auto sender = penstock::connect(uri, {.deadline = kPatience});
        connecting.release();
        each(sender);
      } catch (const std::exception& error) {
        // The receiver would wait for this sender: all end here.
        fmt::print(stderr, "a sender: {}\n", error.what());
        std::_Exit(EXIT_FAILURE);
      }
    });
  }
  for (auto& thread : threads) thread.join();
}

/// What both sides share.
struct Sum {
  std::atomic<bool> stop{false};
  double connect_s = 0;
  double seconds = 0;
  std::uint64_t messages = 0;
  std::uint64_t least = 0;  ///< messages of the sender that had fewest
  // The senders' work, with the warm-up's and the end's.
  std::atomic<std::uint64_t> sent{0};
  std::atomic<std::uint64_t> posts{0};
  std::atomic<std::uint64_t> work_requests{0};
  std::atomic<std::uint64_t> parks{0};
};

class Sink {
 public:
  explicit Sink(penstock::Receiver& receiver) : receiver_(receiver) {}

  /// Consumes for so long, and at least so many messages. Returns the seconds it took.
  double run(double seconds, std::uint64_t least = 0) {
    constexpr unsigned kBetweenLooks = 64;
    const auto start = Clock::now();
    for (std::uint64_t messages = 0;; messages += kBetweenLooks) {
      for (unsigned i = 0; i < kBetweenLooks; ++i)
        if (!take()) throw std::runtime_error("the senders have gone");
      const double taken = Seconds(Clock::now() - start).count();
      if (taken >= seconds && messages >= least) return taken;
    }
  }
  void drain() {
    while (take()) {
    }
  }
  void forget() { counts_.clear(); }
  [[nodiscard]] const auto& counts() const noexcept { return counts_; }

 private:
  bool take() {
    const auto message = receiver_.recv();
    if (message) {
      ++counts_[message.source()];
      return true;
    }
    if (message.status() == penstock::RecvStatus::closed) return false;
    throw std::runtime_error(message.loss() != nullptr ? message.loss()->reason
                                                       : to_string(message.status()));
  }

  penstock::Receiver& receiver_;
  std::unordered_map<penstock::SourceId, std::uint64_t> counts_;
};

Json measure_sum(const Options& options, std::size_t count, std::size_t size) {
  const contest::Shared<Sum> sum;
  contest::Meeting meeting(count + 1);
  const std::vector<contest::Part> parts{
      [&] {
        auto receiver = penstock::bind(options.uri);
        const auto start = Clock::now();
        await_senders(receiver, count);
        sum->connect_s = Seconds(Clock::now() - start).count();
        meeting.meet();
        Sink sink(receiver);
        const auto capacity = receiver.stats().sources.front().capacity;
        sink.run(options.seconds / 2, count * capacity / (size + 16));
        sink.forget();
        sum->seconds = sink.run(options.seconds);
        sum->least = std::numeric_limits<std::uint64_t>::max();
        for (const auto& [source, messages] : sink.counts()) {
          sum->messages += messages;
          sum->least = std::min(sum->least, messages);
        }
        if (sink.counts().size() < count) sum->least = 0;
        sum->stop = true;
        sink.drain();
        return true;
      },
      [&] {
        const std::vector<std::byte> payload(size, std::byte{0x5a});
        with_senders(options.uri, count, [&](penstock::Sender& sender) {
          meeting.meet();
          while (!sum->stop.load(std::memory_order_relaxed))
            if (const auto status = sender.send(payload); status != penstock::SendStatus::sent)
              throw std::runtime_error(to_string(status));
          const auto stats = sender.stats();
          sum->sent += stats.progress.accepted;
          sum->posts += stats.work.posts;
          sum->work_requests += stats.work.work_requests;
          sum->parks += stats.parks;
        });
        return true;
      }};
  if (!contest::run_parts(where(options.uri), parts))
    throw std::runtime_error(fmt::format("{} senders of {} bytes failed", count, size));
  const auto messages = static_cast<double>(sum->messages);
  const double rate = messages / sum->seconds;
  const auto per_message = [&](const std::atomic<std::uint64_t>& what) {
    return static_cast<double>(what) / static_cast<double>(std::max<std::uint64_t>(sum->sent, 1));
  };
  return {{"mode", "sum"},
          {"senders", count},
          {"size", size},
          {"messages_per_s", rate},
          {"mb_per_s", rate * static_cast<double>(size) / 1e6},
          {"least_share", static_cast<double>(sum->least) * static_cast<double>(count) / messages},
          {"posts_per_message", per_message(sum->posts)},
          {"work_requests_per_message", per_message(sum->work_requests)},
          {"parks_per_message", per_message(sum->parks)},
          {"connect_s", sum->connect_s}};
}

/// What the receiver's part finds out.
struct Idle {
  double poll_ns = 0;
  double connect_s = 0;
  std::int64_t resident = 0;  ///< more than without senders
  std::int64_t pinned = 0;
  std::uint64_t ring = 0;
};

/// Nanoseconds of a look in vain: the median of batches.
double measure_poll(penstock::Receiver& receiver, double seconds) {
  constexpr int kBatch = 256;
  std::vector<double> batches;
  const auto start = Clock::now();
  for (auto before = start; Seconds(before - start).count() < seconds;) {
    for (int i = 0; i < kBatch; ++i)
      if (receiver.try_recv().status() != penstock::RecvStatus::empty)
        throw std::runtime_error("something came from idle senders");
    const auto now = Clock::now();
    batches.push_back(Seconds(now - before).count() * 1e9 / kBatch);
    before = now;
  }
  const auto middle = batches.begin() + static_cast<std::ptrdiff_t>(batches.size() / 2);
  std::ranges::nth_element(batches, middle);
  return *middle;
}

Json measure_idle(const Options& options, std::size_t count) {
  const contest::Shared<Idle> idle;
  contest::Meeting meeting(count + 1);
  const std::vector<contest::Part> parts{
      [&] {
        auto receiver = penstock::bind(options.uri);
        const auto resident = memory("VmRSS:");
        const auto pinned = memory("VmPin:");
        const auto start = Clock::now();
        await_senders(receiver, count);
        idle->connect_s = Seconds(Clock::now() - start).count();
        idle->poll_ns = measure_poll(receiver, options.seconds);
        idle->resident = static_cast<std::int64_t>(memory("VmRSS:") - resident);
        idle->pinned = static_cast<std::int64_t>(memory("VmPin:") - pinned);
        if (const auto stats = receiver.stats(); !stats.sources.empty())
          idle->ring = stats.sources.front().capacity;
        meeting.meet();
        return true;
      },
      [&] {
        with_senders(options.uri, count, [&](penstock::Sender&) { meeting.meet(); });
        return true;
      }};
  if (!contest::run_parts(where(options.uri), parts))
    throw std::runtime_error(fmt::format("{} idle senders failed", count));
  Json result{{"mode", "idle"},
              {"idle", count},
              {"poll_ns", idle->poll_ns},
              {"connect_s", idle->connect_s}};
  if (count != 0 && where(options.uri) == contest::Where::processes) {
    result["ring"] = idle->ring;
    result["resident_per_inlet"] = idle->resident / static_cast<std::int64_t>(count);
    result["pinned_per_inlet"] = idle->pinned / static_cast<std::int64_t>(count);
  }
  return result;
}

/// True where an inlet takes no more memory besides its ring than it may.
bool judge(const Options& options, const Json& idle) {
  if (!idle.contains("ring")) return true;
  const auto beyond =
      idle["resident_per_inlet"].get<std::int64_t>() - idle["ring"].get<std::int64_t>();
  if (beyond <= 0 || static_cast<std::uint64_t>(beyond) <= options.most_beyond_ring) return true;
  fmt::print("an inlet takes {} bytes besides its ring, more than {}\n", beyond,
             options.most_beyond_ring);
  return false;
}

bool run_sum(const Options& options, Json& results) {
  fmt::print("{:>8} {:>8} {:>14} {:>10} {:>16} {:>10} {:>10} {:>10} {:>14}\n", "bytes", "senders",
             "messages/s", "MB/s", "least share, %", "posts/msg", "WRs/msg", "parks/msg",
             "connected, s");
  for (const auto size : options.sizes)
    for (const auto count : options.senders) {
      const auto result = measure_sum(options, count, size);
      const auto value = [&](const char* name) { return result[name].get<double>(); };
      fmt::print(
          "{:>8} {:>8} {:>14.0f} {:>10.1f} {:>16.1f} {:>10.4f} {:>10.4f} {:>10.5f} {:>14.2f}\n",
          size, count, value("messages_per_s"), value("mb_per_s"), 100 * value("least_share"),
          value("posts_per_message"), value("work_requests_per_message"),
          value("parks_per_message"), value("connect_s"));
      std::fflush(stdout);
      results.push_back(result);
    }
  return true;
}

bool run_idle(const Options& options, Json& results) {
  fmt::print("{:>8} {:>12} {:>20} {:>18} {:>14}\n", "idle", "poll, ns", "resident an inlet",
             "pinned an inlet", "connected, s");
  bool well = true;
  for (const auto count : options.senders) {
    const auto result = measure_idle(options, count);
    const auto bytes = [&](const char* name) {
      return result.contains(name) ? fmt::to_string(result[name].get<std::int64_t>()) : "-";
    };
    fmt::print("{:>8} {:>12.1f} {:>20} {:>18} {:>14.2f}\n", count, result["poll_ns"].get<double>(),
               bytes("resident_per_inlet"), bytes("pinned_per_inlet"),
               result["connect_s"].get<double>());
    std::fflush(stdout);
    well = judge(options, result) && well;
    results.push_back(result);
  }
  return well;
}

/// A thousand senders have some thousand descriptors.
void allow_descriptors() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  ::setrlimit(RLIMIT_NOFILE, &limit);
}

int run(int count, char** arguments) {
  CLI::App app("What many senders cost one receiver");
  app.require_subcommand(1);
  Options options;
  const auto add = [&](const char* name, const char* what, std::vector<std::size_t> senders) {
    auto* command = app.add_subcommand(name, what);
    command->add_option("uri", options.uri, "Where the receiver binds")->required();
    command->add_option("--senders", options.senders, "How many; as in 1,4,16")
        ->delimiter(',')
        ->check(CLI::Range(std::size_t{0}, kMostSenders))
        ->default_str(fmt::format("{}", fmt::join(senders, ",")));
    command->add_option("--seconds", options.seconds, "Length of each measurement")
        ->check(CLI::Range(0.01, 3600.0))
        ->capture_default_str();
    command->add_option("--json", options.json, "Write the results there")->type_name("FILE");
    command->callback([&options, senders = std::move(senders)] {
      if (options.senders.empty()) options.senders = senders;
    });
    return command;
  };
  add("sum", "All send as fast as they can", {1, 4, 16, 64, 256})
      ->add_option("--sizes", options.sizes, "Bytes of a message, as in 64,4096")
      ->delimiter(',')
      ->capture_default_str();
  add("idle", "None sends", {0, 1, 4, 16, 64, 256, 1000})
      ->add_option("--most-beyond-ring", options.most_beyond_ring,
                   "Exit status 1 where an inlet takes more bytes besides its ring");
  CLI11_PARSE(app, count, arguments);
  allow_descriptors();
#ifdef BENCH_WITH_TORN
  penstock::register_links(std::make_shared<penstock::test::TornLinkProvider>());
#endif
  Json results = Json::array();
  const bool idle = app.got_subcommand("idle");
  const bool well = idle ? run_idle(options, results) : run_sum(options, results);
  if (!options.json.empty()) {
    std::ofstream file(options.json);
    file << Json{{"program", "bench_senders"}, {"uri", options.uri}, {"results", results}}.dump(1)
         << '\n';
    file.close();
    if (!file) throw std::runtime_error(fmt::format("cannot write '{}'", options.json));
  }
  return well ? EXIT_SUCCESS : EXIT_FAILURE;
}

}  // namespace

int main(int count, char** arguments) {
  try {
    return run(count, arguments);
  } catch (const std::exception& error) {
    fmt::print(stderr, "bench_senders: {}\n", error.what());
    return EXIT_FAILURE;
  }
}
