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
  double seconds = 2;                                 ///< of each measurement
  std::vector<PerfMode> modes{PerfMode::throughput, PerfMode::latency};
  unsigned repeat = 1;
  bool in_place = false;
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

/// Takes each measurement as it is made.
class PerfReport {
 public:
  PerfReport() = default;
  PerfReport(const PerfReport&) = delete;
  PerfReport& operator=(const PerfReport&) = delete;
  PerfReport(PerfReport&&) = delete;
  PerfReport& operator=(PerfReport&&) = delete;
  virtual ~PerfReport() = default;
  virtual void add(const Json& result) = 0;
};

/// Throws SetupError, CommandError.
void run_perf_client(const PerfClientOptions& options, PerfReport& report);
/// Returns the exit status: failure where a client was lost. Throws SetupError.
[[nodiscard]] int run_perf_listener(const PerfListenerOptions& options);

}  // namespace penstock::cli
