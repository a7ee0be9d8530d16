#include "perf.hpp"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <fstream>
#include <future>
#include <memory>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "command.hpp"

namespace penstock::cli {
namespace {

struct PerfOptions {
  std::string uri;
  bool listen = false;
  unsigned runs = 1;
  std::string json;
  PerfClientOptions client;
};

/// Prints a table as results come, and keeps them all.
class Table : public PerfReport {
 public:
  explicit Table(std::FILE* out) : out_(out) {}

  void add(const Json& result) override {
    const auto mode = result["mode"].get<std::string>();
    if (mode != mode_) {
      if (!mode_.empty()) fmt::print(out_, "\n");
      print_heads(mode);
    }
    mode_ = mode;
    if (mode == to_string(PerfMode::throughput)) {
      fmt::print(out_, "{:>8}  {:>12.0f}  {:>10.1f}  {:>10.3f}",
                 result["size"].get<std::uint64_t>(), result["messages_per_s"].get<double>(),
                 result["mb_per_s"].get<double>(), result["cpu_us_per_message"].get<double>());
    } else {
      fmt::print(out_, "{:>8}  {:>8.2f}  {:>8.2f}  {:>8.2f}  {:>8.2f}  {:>8.2f}  {:>10.3f}",
                 result["size"].get<std::uint64_t>(), result["min_us"].get<double>(),
                 result["p50_us"].get<double>(), result["mean_us"].get<double>(),
                 result["p99_us"].get<double>(), result["p999_us"].get<double>(),
                 result["cpu_us_per_message"].get<double>());
    }
    const auto messages = result["messages"].get<double>();
    const auto& sender = result["sender"];
    const auto& receiver = result["receiver"];
    const auto each = [&](double count) { fmt::print(out_, "  {:>9.4f}", count / messages); };
    each(sender.value("posts", 0.0));
    each(sender.value("work_requests", 0.0));
    each(receiver.value("credit_writes", 0.0));
    each(sender.value("immediates", 0.0) + receiver.value("immediates", 0.0));
    each(sender.value("stalls", 0.0));
    each(sender.value("parks", 0.0) + receiver.value("parks", 0.0));
    fmt::print(out_, "\n");
    std::fflush(out_);
    results_.push_back(result);
  }

  [[nodiscard]] const Json& results() const noexcept { return results_; }

 private:
  void print_heads(std::string_view mode) {
    if (mode == to_string(PerfMode::throughput)) {
      fmt::print(out_, "throughput\n{:>8}  {:>12}  {:>10}  {:>10}", "bytes", "messages/s", "MB/s",
                 "CPU us/msg");
    } else {
      fmt::print(out_, "latency (round trip, us)\n{:>8}  {:>8}  {:>8}  {:>8}  {:>8}  {:>8}  {:>10}",
                 "bytes", "min", "p50", "mean", "p99", "p99.9", "CPU us/msg");
    }
    fmt::print(out_, "  {:>9}  {:>9}  {:>9}  {:>9}  {:>9}  {:>9}\n", "posts/msg", "WRs/msg",
               "cred./msg", "imm./msg", "stall/msg", "park/msg");
  }

  std::FILE* out_;
  std::string mode_;
  Json results_ = Json::array();
};

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

int run_client(const PerfOptions& options) {
  const auto uri = parse_uri(options.uri);
  auto client = options.client;
  client.uri = options.uri;
  const bool json_to_stdout = options.json == "-";
  std::ofstream file;
  if (!options.json.empty() && !json_to_stdout) {
    // Opened first: a file that cannot be written is better known before the work than after.
    file.open(options.json);
    if (!file) throw CommandError(fmt::format("cannot write '{}'", options.json));
  }
  Table table(json_to_stdout ? stderr : stdout);
  if (uri.scheme == "inproc") {
    client.scope = CpuScope::thread;
    run_within_process(client, table);
  } else {
    run_perf_client(client, table);
  }
  const Json document{{"program", "penstock"},
                      {"version", PENSTOCK_VERSION},
                      {"uri", options.uri},
                      {"seconds", client.seconds},
                      {"in_place", client.in_place},
                      {"throughput_spin", to_text(client.throughput_spin)},
                      {"latency_spin", to_text(client.latency_spin)},
                      {"results", table.results()}};
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
  command->add_option("uri", options->uri, "inproc:NAME, shm:NAME or rdma://HOST:PORT/NAME")
      ->required()
      ->type_name("URI");
  auto* listen = command->add_flag("-l,--listen", options->listen, "Answer the measuring side");
  command->add_option("--runs", options->runs, "With --listen: end after so many clients, 0: never")
      ->needs(listen)
      ->capture_default_str();
  command->add_option("--sizes", client.sizes, "Bytes of a message, as in 64,4KiB,65536")
      ->delimiter(',')
      ->transform(CLI::AsSizeValue(true))
      ->excludes(listen)
      ->default_str("64,4096,65536");
  command->add_option("--seconds", client.seconds, "Length of each measurement")
      ->check(CLI::Range(0.01, 86400.0))
      ->excludes(listen)
      ->capture_default_str();
  command
      ->add_option_function<std::string>(
          "--mode",
          [&client](const std::string& name) {
            client.modes = {name == "latency" ? PerfMode::latency : PerfMode::throughput};
          },
          "Only this one")
      ->check(CLI::IsMember({"throughput", "latency"}))
      ->excludes(listen);
  command->add_option("--repeat", client.repeat, "Do all measurements so many times")
      ->check(CLI::Range(1, 10000))
      ->excludes(listen)
      ->capture_default_str();
  command
      ->add_flag("--in-place", client.in_place,
                 "Send without filling the message: what the channel alone costs")
      ->excludes(listen);
  command
      ->add_option_function<std::string>(
          "--spin",
          [&client](const std::string& text) {
            client.throughput_spin = client.latency_spin = parse_duration(text);
          },
          "How long a side that waits looks before it sleeps")
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
