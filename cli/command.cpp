#include "command.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <array>
#include <charconv>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <iterator>
#include <system_error>
#include <utility>
#include <vector>

#include "penstock/transport/error.hpp"
#include "transfer.hpp"

namespace penstock::cli {
namespace {

struct Unit {
  std::string_view name;
  double nanoseconds;
};
constexpr std::array<Unit, 5> kUnits{
    {{"s", 1e9}, {"ms", 1e6}, {"us", 1e3}, {"ns", 1}, {"m", 60e9}}};

}  // namespace

std::string find_program(const std::string& name, std::string_view option) {
  std::error_code error;
  const auto folder = std::filesystem::read_symlink("/proc/self/exe", error).parent_path();
  const auto installed = (folder / PENSTOCK_PROGRAMS_FROM_BIN / name).lexically_normal();
  for (const auto& file : {folder / name, installed}) {
    if (::access(file.c_str(), X_OK) == 0) return file.string();
  }
  throw CommandError(fmt::format(
      "there is no {} beside this program and none at {}: install penstock built with {}", name,
      installed.string(), option));
}

void complain(std::string_view text) {
  end_progress_line();
  fmt::memory_buffer line;
  fmt::format_to(std::back_inserter(line), "penstock: {}\n", text);
  // Nothing can be done where even stderr fails.
  [[maybe_unused]] const auto written = ::write(STDERR_FILENO, line.data(), line.size());
}

void announce(const std::vector<std::string>& uris) {
  for (const auto& uri : uris) complain(fmt::format("listening on {}", uri));
}

std::string path_of(const Sender& sender) {
  const auto stats = sender.stats();
  return stats.rejected.empty() ? stats.path
                                : fmt::format("{} (not {})", stats.path, stats.rejected);
}

Duration parse_duration(const std::string& text) {
  if (text == "forever") return kForever;
  double number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  const std::string_view unit(end, static_cast<std::size_t>(text.data() + text.size() - end));
  if (error == std::errc{} && number >= 0) {
    if (unit.empty() && number == 0) return Duration::zero();
    for (const auto& [name, nanoseconds] : kUnits) {
      if (unit != name) continue;
      // A year is far beyond any use and far from overflow.
      if (number * nanoseconds < 3.2e16) return Duration(std::llround(number * nanoseconds));
      return kForever;
    }
  }
  throw CLI::ValidationError(fmt::format(
      "'{}' is no duration: give a number and a unit (50us, 200ms, 1.5s, 2m), 0, or forever",
      text));
}

std::string to_text(Duration duration) {
  if (duration == kForever) return "forever";
  if (duration == Duration::zero()) return "0";
  const auto nanoseconds = duration.count();
  if (nanoseconds % 1'000'000'000 == 0) return fmt::format("{}s", nanoseconds / 1'000'000'000);
  if (nanoseconds % 1'000'000 == 0) return fmt::format("{}ms", nanoseconds / 1'000'000);
  if (nanoseconds % 1'000 == 0) return fmt::format("{}us", nanoseconds / 1'000);
  return fmt::format("{}ns", nanoseconds);
}

CLI::Option* add_duration(CLI::App& app, const std::string& name, Duration& value,
                          const std::string& help) {
  return app
      .add_option_function<std::string>(
          name, [&value](const std::string& text) { value = parse_duration(text); }, help)
      ->type_name("DURATION")
      ->default_str(to_text(value));
}

Uri parse_uri(const std::string& text) {
  try {
    return Uri::parse(text);
  } catch (const SetupError& error) {
    throw UsageError(error.what());
  }
}

Uri parse_uri_between_processes(const std::string& text, std::string_view instead) {
  auto uri = parse_uri(text);
  if (uri.scheme == "inproc") {
    throw UsageError(
        fmt::format("{}: inproc reaches only threads of one process; {}", text, instead));
  }
  return uri;
}

}  // namespace penstock::cli
