// What plain verbs makes of the same work: penstock-verbs-baseline, run as a process of its own, so
// that the tool needs no libibverbs.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "penstock/transport/uri.hpp"
#include "perf_protocol.hpp"

namespace penstock::cli {

/// A child process whose standard input and output are pipes to this one. Ends with this object.
class Child {
 public:
  /// Throws CommandError.
  explicit Child(const std::vector<std::string>& command);
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;
  Child(Child&&) = delete;
  Child& operator=(Child&&) = delete;
  ~Child();

  /// Until and with the newline, or until the output ends.
  [[nodiscard]] std::string read_line();
  [[nodiscard]] std::string read_all();
  /// Waits for its end; its exit status, 128 + N where signal N ended it.
  [[nodiscard]] int wait();

 private:
  pid_t pid_ = -1;
  int input_ = -1;
  int output_ = -1;
};

/// The side that waits for clients, on the host and the device of a listener's URI.
class PlainVerbsServer {
 public:
  /// Throws CommandError.
  explicit PlainVerbsServer(const Uri& uri);
  [[nodiscard]] std::uint16_t port() const noexcept { return port_; }

 private:
  Child program_;
  std::uint16_t port_;
};

struct PlainVerbsWork {
  PerfMode mode{};
  std::size_t size = 0;
  unsigned senders = 1;
  double seconds = 0;
};

/// Measures against the server at `port` of `listener`'s host; the program's report, with one
/// result. Throws CommandError.
[[nodiscard]] Json measure_plain_verbs(const Uri& listener, std::uint16_t port,
                                       const PlainVerbsWork& work);

}  // namespace penstock::cli
