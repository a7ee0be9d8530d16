// penstock perf: how fast a channel is. The client drives, the listener answers.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "perf_protocol.hpp"

namespace penstock::cli {

struct PerfClientOptions {
  std::string uri;
  std::vector<std::uint64_t> sizes{64, 4096, 65536};  ///< bytes of a message
  std::vector<unsigned> senders{1};                   ///< at once; for throughput only
  double seconds = 2;                                 ///< of each measurement
  std::vector<PerfMode> modes{PerfMode::throughput, PerfMode::latency};
  unsigned repeats = 1;
  bool baseline = false;  ///< a measurement of plain verbs beside each
  bool in_place = false;
  std::size_t batch = 1;  ///< messages in one call; for throughput only
  Duration throughput_spin = kDefaultSpin;
  Duration latency_spin = kForever;
  Duration timeout = ConnectOptions{}.deadline;
  CpuScope scope = CpuScope::process;
};

struct PerfListenerOptions {
  std::string uri;
  unsigned runs = 1;  ///< 0: for ever
  CpuScope scope = CpuScope::process;
};

/// One row: the same measurement, repeated.
struct PerfSeries {
  PerfMode mode{};
  std::uint64_t size = 0;
  unsigned senders = 1;
  std::vector<Json> ours{};   ///< a measurement for each repeat
  std::vector<Json> plain{};  ///< with a baseline: its measurement beside each of ours
};

/// Takes the measurements as they are made.
class PerfReport {
 public:
  PerfReport() = default;
  PerfReport(const PerfReport&) = delete;
  PerfReport& operator=(const PerfReport&) = delete;
  PerfReport(PerfReport&&) = delete;
  PerfReport& operator=(PerfReport&&) = delete;
  virtual ~PerfReport() = default;
  /// `baseline`: the device in words; empty where nothing is compared with.
  virtual void start(const std::string& path, const std::string& baseline) = 0;
  virtual void start_mode(PerfMode mode) = 0;
  virtual void add(const PerfSeries& series) = 0;
};

/// Throws SetupError, CommandError.
void run_perf_client(const PerfClientOptions& options, PerfReport& report);
/// Returns the exit status: failure where a client was lost. Throws SetupError.
[[nodiscard]] int run_perf_listener(const PerfListenerOptions& options);

}  // namespace penstock::cli
