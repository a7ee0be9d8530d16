// What the tool's commands share: exit statuses, errors, option types.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "penstock/channel/channel.hpp"
#include "penstock/transport/uri.hpp"

namespace penstock::cli {

inline constexpr int kSuccess = 0;
inline constexpr int kFailure = 1;
inline constexpr int kUsage = 2;

/// The command line asks for something that makes no sense; exit status 2.
class UsageError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// The command could not do its work; exit status 1.
class CommandError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// What the chosen subcommand does; returns the exit status.
using Action = std::function<int()>;

/// Writes "penstock: `text`" and a newline to stderr as one write, after ending a progress line
/// that may stand there.
void complain(std::string_view text);
/// Tells, on stderr, where a receiver can be reached.
void announce(const std::vector<std::string>& uris);

/// The path of a sender in words, and of `auto` why it is no better one.
[[nodiscard]] std::string path_of(const Sender& sender);

/// Parses "50us", "1.5s", "0" or "forever". Throws CLI::ValidationError.
[[nodiscard]] Duration parse_duration(const std::string& text);
/// An option of that form; its current value is shown as the default.
CLI::Option* add_duration(CLI::App& app, const std::string& name, Duration& value,
                          const std::string& help);
[[nodiscard]] std::string to_text(Duration duration);

/// Throws UsageError where `text` is no URI, or an inproc: one while the other end is to be
/// another process; `instead` is what to do then.
[[nodiscard]] Uri parse_uri_between_processes(const std::string& text, std::string_view instead);
/// Throws UsageError.
[[nodiscard]] Uri parse_uri(const std::string& text);

/// The program `name`, beside this one, as in a build tree, or where an installation has it. Throws
/// CommandError that tells with which option of CMake it comes.
[[nodiscard]] std::string find_program(const std::string& name, std::string_view option);

void add_info(CLI::App& app, Action& action);
void add_doctor(CLI::App& app, Action& action);
void add_conformance(CLI::App& app, Action& action);
void add_cat(CLI::App& app, Action& action);
void add_perf(CLI::App& app, Action& action);

}  // namespace penstock::cli
