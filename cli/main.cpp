// penstock: the command-line tool. Exit status: 0 done, 1 failed, 2 wrong usage.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <string>
#include <string_view>
#include <vector>

#include "command.hpp"
#include "penstock/channel/settings.hpp"
#include "transfer.hpp"

namespace penstock::cli {
namespace {

/// The word of `known` nearest to `word`, or an empty string where none is near.
std::string nearest(std::string_view word, const std::vector<std::string>& known) {
  std::string best;
  std::size_t best_distance = std::max<std::size_t>(word.size() / 2, 2) + 1;
  for (const auto& candidate : known) {
    const auto distance = edit_distance(word, candidate);
    if (distance >= best_distance) continue;
    best_distance = distance;
    best = candidate;
  }
  return best;
}

std::vector<std::string> subcommand_names(const CLI::App& app) {
  std::vector<std::string> names;
  for (const auto* command : app.get_subcommands([](const CLI::App*) { return true; })) {
    names.push_back(command->get_name());
  }
  return names;
}

/// The words that could stand on the command line for `command`.
std::vector<std::string> vocabulary(const CLI::App& command) {
  auto words = subcommand_names(command);
  for (const auto* option : command.get_options()) {
    for (const auto& name : option->get_lnames()) words.push_back("--" + name);
  }
  return words;
}

/// What is wrong with the command line, and the nearest thing that would be right.
std::string explain(const CLI::App& app, const CLI::ParseError& error) {
  const auto chosen = app.get_subcommands();
  const CLI::App& command = chosen.empty() ? app : *chosen.front();
  const auto help = chosen.empty() ? std::string("penstock --help")
                                   : fmt::format("penstock {} --help", command.get_name());
  const auto unexpected = app.remaining(true);
  if (!unexpected.empty()) {
    const auto& word = unexpected.front();
    const auto candidate = nearest(word, vocabulary(command));
    return fmt::format("'{}' was not expected here: {}", word,
                       candidate.empty() ? fmt::format("see {}", help)
                                         : fmt::format("did you mean {}?", candidate));
  }
  if (chosen.empty()) {
    return fmt::format("give a command: {}",
                       fmt::to_string(fmt::join(subcommand_names(app), ", ")));
  }
  return fmt::format("{} (see {})", error.what(), help);
}

int run(int argc, char** argv) {
  CLI::App app{"One channel, any distance: threads, processes and hosts.", "penstock"};
  app.set_version_flag("--version", "penstock " PENSTOCK_VERSION);
  app.require_subcommand(1);
  Action action;
  add_info(app, action);
  add_doctor(app, action);
  add_cat(app, action);
  add_perf(app, action);
  add_conformance(app, action);
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& success) {
    return app.exit(success);
  } catch (const CLI::ParseError& error) {
    complain(explain(app, error));
    return kUsage;
  }
  install_signal_handlers();
  try {
    const int status = action();
    if (std::fflush(stdout) != 0)
      throw CommandError(fmt::format("cannot write the output: {}", std::strerror(errno)));
    if (std::ferror(stdout) != 0)
      throw CommandError("cannot write the output: part of it was lost before");
    return status;
  } catch (const UsageError& error) {
    complain(error.what());
    return kUsage;
  } catch (const std::exception& error) {
    complain(error.what());
    return kFailure;
  }
}

}  // namespace
}  // namespace penstock::cli

int main(int argc, char** argv) {
  try {
    return penstock::cli::run(argc, argv);
  } catch (const std::exception& error) {
    penstock::cli::complain(error.what());
    return penstock::cli::kFailure;
  }
}
