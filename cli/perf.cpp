#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <future>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "command.hpp"
#include "perf.hpp"
#include "perf_table.hpp"

namespace penstock::cli {
namespace {

struct PerfOptions {
  std::string uri;
  bool listen = false;
  unsigned runs = 1;
  std::string json;
  bool sweep = false;
  std::vector<std::uint64_t> sizes;  // empty: the default
  std::vector<unsigned> senders;     // the same
  unsigned repeats = 0;              // 0: the default
  PerfClientOptions client;
};

// --sweep.
constexpr std::array<std::uint64_t, 7> kSweepSizes{8, 64, 512, 4096, 65536, 262144, 1048576};
constexpr std::array<unsigned, 5> kSweepSenders{1, 2, 4, 8, 16};
constexpr unsigned kMostSenders = 256;
constexpr unsigned kMostRepeats = 1000;
constexpr unsigned kPairs = 10;
const std::map<std::string, PerfMode> kModes{{"throughput", PerfMode::throughput},
                                             {"latency", PerfMode::latency},
                                             {"sleep", PerfMode::sleep}};

/// Both sides in this process, on two threads.
void run_within_process(const PerfClientOptions& client, PerfReport& report) {
  const PerfListenerOptions listener{.uri = client.uri, .runs = 1, .scope = CpuScope::thread};
  std::packaged_task<int()> listening([listener] { return run_perf_listener(listener); });
  auto outcome = listening.get_future();
  // Detached should the client fail: the listener waits for one that never comes, and the process
  // ends.
  std::thread thread(std::move(listening));
  try {
    run_perf_client(client, report);
  } catch (...) {
    thread.detach();
    throw;
  }
  thread.join();
  if (outcome.get() != kSuccess) throw CommandError("the listening thread failed");
}

PerfClientOptions client_options(const PerfOptions& options) {
  auto client = options.client;
  client.uri = options.uri;
  if (options.sweep) {
    client.sizes.assign(kSweepSizes.begin(), kSweepSizes.end());
    client.senders.assign(kSweepSenders.begin(), kSweepSenders.end());
  }
  if (!options.sizes.empty()) client.sizes = options.sizes;
  if (!options.senders.empty()) client.senders = options.senders;
  client.repeats = client.baseline ? kPairs : 1;
  if (options.repeats != 0) client.repeats = options.repeats;
  return client;
}

void check_baseline(const Uri& uri, const PerfClientOptions& client) {
  if (uri.scheme != "rdma") {
    throw UsageError(fmt::format(
        "--baseline compares with plain verbs through the same device, and {}: has none: give an "
        "rdma: URI, or leave --baseline out",
        uri.scheme));
  }
  if (std::ranges::find(client.sizes, 0U) != client.sizes.end()) {
    throw UsageError("--baseline: plain verbs writes no empty messages: leave 0 out of --sizes");
  }
}

void check_batch(const PerfClientOptions& client) {
  if (client.batch > 1 && std::ranges::find(client.sizes, 0U) != client.sizes.end())
    throw UsageError("--batch: empty messages make none: leave 0 out of --sizes");
}

int run_client(const PerfOptions& options) {
  const auto uri = parse_uri(options.uri);
  auto client = client_options(options);
  if (client.baseline) check_baseline(uri, client);
  check_batch(client);
  const bool json_to_stdout = options.json == "-";
  std::ofstream file;
  if (!options.json.empty() && !json_to_stdout) {
    // Opened first: a file that cannot be written is better known before the work than after.
    file.open(options.json);
    if (!file) throw CommandError(fmt::format("cannot write '{}'", options.json));
  }
  PerfTable table(json_to_stdout ? stderr : stdout, client.batch);
  if (uri.scheme == "inproc") {
    client.scope = CpuScope::thread;
    run_within_process(client, table);
  } else {
    run_perf_client(client, table);
  }
  Json document{{"program", "penstock"},
                {"version", PENSTOCK_VERSION},
                {"uri", options.uri},
                {"seconds", client.seconds},
                {"in_place", client.in_place},
                {"batch", client.batch},
                {"throughput_spin", to_text(client.throughput_spin)},
                {"latency_spin", to_text(client.latency_spin)},
                {"repeats", client.repeats}};
  document.update(table.document());
  if (json_to_stdout) {
    fmt::print("{}\n", document.dump(2));
  } else if (!options.json.empty()) {
    file << document.dump(2) << '\n';
    file.close();
    if (!file) throw CommandError(fmt::format("cannot write '{}'", options.json));
  }
  return kSuccess;
}

int run_listener(const PerfOptions& options) {
  static_cast<void>(parse_uri_between_processes(
      options.uri, "leave --listen out, and perf runs both sides as two threads"));
  return run_perf_listener({.uri = options.uri, .runs = options.runs});
}

}  // namespace

void add_perf(CLI::App& app, Action& action) {
  auto* command = app.add_subcommand(
      "perf", "Measure a channel: the rate and the round trip (inproc: both sides at once)");
  auto options = std::make_shared<PerfOptions>();
  auto& client = options->client;
  command
      ->add_option("uri", options->uri,
                   "inproc:NAME, shm:NAME, or rdma:, ucx: or auto: with //HOST:PORT/NAME")
      ->required()
      ->type_name("URI");
  auto* listen = command->add_flag("-l,--listen", options->listen, "Answer the measuring side");
  command->add_option("--runs", options->runs, "With --listen: end after so many clients, 0: never")
      ->needs(listen)
      ->capture_default_str();
  command->add_option("--sizes", options->sizes, "Bytes of a message, as in 64,4KiB,65536")
      ->delimiter(',')
      ->transform(CLI::AsSizeValue(true))
      ->excludes(listen)
      ->default_str("64,4096,65536");
  command
      ->add_option(
          "--senders", options->senders,
          "How many send at once, each a thread with a connection of its own, as in 1,4,16 "
          "(for throughput; round trips are one sender's)")
      ->delimiter(',')
      ->check(CLI::Range(1U, kMostSenders))
      ->excludes(listen)
      ->default_str("1");
  command
      ->add_flag("--sweep", options->sweep,
                 fmt::format("The same as --sizes {} --senders {}; either can still be given",
                             fmt::join(kSweepSizes, ","), fmt::join(kSweepSenders, ",")))
      ->excludes(listen);
  command->add_option("--seconds", client.seconds, "Length of each measurement")
      ->check(CLI::Range(0.01, 3600.0))
      ->excludes(listen)
      ->capture_default_str();
  command
      ->add_option_function<std::vector<std::string>>(
          "--mode",
          [&client](const std::vector<std::string>& names) {
            client.modes.clear();
            for (const auto& name : names) client.modes.push_back(kModes.at(name));
          },
          "Only these: throughput; latency, the round trip while both sides look all the time; "
          "sleep, the round trip while both sleep until a message comes")
      ->delimiter(',')
      ->check(CLI::IsMember({"throughput", "latency", "sleep"}))
      ->excludes(listen)
      ->default_str("throughput,latency");
  command->add_option("--repeats", options->repeats, "Measure each row so often, and print medians")
      ->check(CLI::Range(1U, kMostRepeats))
      ->excludes(listen)
      ->default_str(fmt::format("1, with --baseline {}", kPairs));
  command
      ->add_flag("--baseline", client.baseline,
                 "Plain verbs through the same device beside each measurement (rdma: only): the "
                 "ratio, and the 95 % interval of its median from 6 repeats on. The listener opens "
                 "another TCP port for it")
      ->excludes(listen);
  auto* in_place = command
                       ->add_flag("--in-place", client.in_place,
                                  "Send without filling the message: what the channel alone costs")
                       ->excludes(listen);
  command
      ->add_option("--batch", client.batch,
                   "Messages that one call sends, and at most so many taken by one (send_many, "
                   "recv_many; for throughput)")
      ->check(CLI::Range(std::size_t{1}, Messages::kMost))
      ->excludes(listen)
      ->excludes(in_place)
      ->capture_default_str();
  command
      ->add_option_function<std::string>(
          "--spin",
          [&client](const std::string& text) {
            client.throughput_spin = client.latency_spin = parse_duration(text);
          },
          "How long a side that waits looks before it sleeps (--mode sleep: 0)")
      ->type_name("DURATION")
      ->default_str("50us for throughput, forever for latency")
      ->excludes(listen);
  add_duration(*command, "--timeout", client.timeout, "How long to wait for the listener")
      ->excludes(listen);
  command->add_option("--json", options->json, "Write the results there; - for stdout")
      ->type_name("FILE")
      ->excludes(listen);
  command->callback([&action, options] {
    action = [options] { return options->listen ? run_listener(*options) : run_client(*options); };
  });
}

}  // namespace penstock::cli
