#include "contest.hpp"

#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <string_view>

namespace contest {
namespace {

bool only_checking = false;
int failures = 0;

/// Takes --check out of the arguments; the rest is Google Benchmark's.
void take_check(int& count, char** arguments) {
  const auto end = std::remove_if(arguments + 1, arguments + count, [](const char* argument) {
    return std::string_view(argument) == "--check";
  });
  only_checking = end != arguments + count;
  count = static_cast<int>(end - arguments);
}

int run(int count, char** arguments) {
  take_check(count, arguments);
  benchmark::Initialize(&count, arguments);
  if (benchmark::ReportUnrecognizedArguments(count, arguments)) return EXIT_FAILURE;
  if (benchmark::RunSpecifiedBenchmarks() == 0) ++failures;
  benchmark::Shutdown();
  return failures == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

}  // namespace

std::string fresh_name() {
  static std::atomic<unsigned> count{0};
  return "contest-" + std::to_string(::getpid()) + "-" + std::to_string(count++);
}

bool checking() noexcept { return only_checking; }

void failed(benchmark::State& state, const char* why) {
  ++failures;
  state.SkipWithError(why);
}

void note_distance(benchmark::State& state, double before, double after) {
  state.counters["line_before"] = before;
  state.counters["line_after"] = after;
  const std::string_view where = distance(before);
  state.SetLabel(where == distance(after) ? std::string(where) : "moved");
}

std::uint64_t enough(std::uint64_t count, double seconds) {
  constexpr double kTarget = 0.05;
  constexpr double kMost = 5e6;
  const double rate = static_cast<double>(count) / std::max(seconds, 1e-6);
  return static_cast<std::uint64_t>(
      std::clamp(rate * kTarget, static_cast<double>(count) / 4, kMost));
}

}  // namespace contest

int main(int count, char** arguments) { return contest::run(count, arguments); }
