// What the doctor finds, and how it is told.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace penstock::cli {

enum class Verdict : std::uint8_t {
  ok,
  note,  ///< nothing is wrong, but worth knowing
  warn,  ///< works, but not as it could, or not for everything
  fail,  ///< what is required does not work
};

struct Finding {
  Verdict verdict = Verdict::ok;
  std::string what;    ///< what was looked at, and what was seen
  std::string remedy;  ///< a command, or what to do; empty: nothing
};

/// Findings in the order in which they were made.
class Checkup {
 public:
  void add(Verdict verdict, std::string what, std::string remedy = {});
  [[nodiscard]] bool failed() const noexcept;
  void print() const;
  [[nodiscard]] nlohmann::ordered_json json() const;

 private:
  [[nodiscard]] std::size_t count(Verdict verdict) const noexcept;
  std::vector<Finding> findings_;
};

/// What is checked for.
struct Patient {
  std::string scheme;  ///< what has to work; empty: all that there is
  [[nodiscard]] bool needs(const std::string& one) const { return scheme.empty() || scheme == one; }
  /// What goes wrong with `one` is a failure, or only worth knowing.
  [[nodiscard]] Verdict bad(const std::string& one) const {
    return needs(one) ? Verdict::fail : Verdict::warn;
  }
};

// Each looks at one part of the machine. Those of modules come before anything else that may start
// a thread: they fork.

/// Modules that are there, each loaded in a child. Returns the schemes of those that can be used;
/// no other is to be loaded after that.
[[nodiscard]] std::vector<std::string> check_modules(Checkup& checkup, const Patient& patient);
/// PENSTOCK_ variables that nothing reads.
void check_variables(Checkup& checkup, const std::vector<std::string>& usable);
/// Descriptors, locked memory, huge pages.
void check_limits(Checkup& checkup, const Patient& patient);
/// RDMA devices as the kernel and the module tell of them; `loaded`: there is such a module.
void check_devices(Checkup& checkup, const Patient& patient, bool loaded);
/// A message through `scheme`, from here to here.
void check_loopback(Checkup& checkup, const Patient& patient, const std::string& scheme);

}  // namespace penstock::cli
