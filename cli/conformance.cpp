// penstock conformance: holds a transport, one's own module for instance, to the contract. The
// suite is a program of its own, which the tool becomes.
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <memory>
#include <string>
#include <system_error>
#include <vector>

#include "command.hpp"
#include "penstock/transport/plugin_loader.hpp"

namespace penstock::cli {
namespace {

constexpr const char* kProgram = "penstock-conformance";

struct ConformanceOptions {
  std::string uri;
  std::vector<std::string> topologies;
  std::string peer;
  bool second = false;
  double scale = 0;               // 0: what the environment says
  std::vector<std::string> rest;  // for GoogleTest
};

std::string join(const std::vector<std::string>& words) {
  return fmt::to_string(fmt::join(words, ","));
}

void set_variable(const char* name, const std::string& value) {
  ::setenv(name, value.c_str(), 1);  // NOLINT(concurrency-mt-unsafe): no other thread is there
}

/// The suite lies elsewhere than the tool: it is told where the tool would find the module.
void pass_module_on(const std::string& scheme) {
  if (std::getenv("PENSTOCK_PLUGIN_PATH") != nullptr) return;  // NOLINT(concurrency-mt-unsafe)
  for (const auto& directory : module_search_path()) {
    std::error_code error;
    const auto file = std::filesystem::path(directory) / fmt::format("penstock_{}.so", scheme);
    if (std::filesystem::exists(file, error))
      return set_variable("PENSTOCK_PLUGIN_PATH", directory);
  }
}

int run_conformance(const ConformanceOptions& options) {
  const Uri uri = parse_uri(options.uri);
  std::vector<std::string> command{find_program(kProgram, "-DPENSTOCK_CONFORMANCE=ON"),
                                   "--transport", uri.scheme};
  std::vector<std::string> query;
  for (const auto& [key, value] : uri.options) query.push_back(fmt::format("{}={}", key, value));
  if (!query.empty()) {
    command.emplace_back("--query");
    command.push_back(fmt::to_string(fmt::join(query, "&")));
  }
  auto topologies = options.topologies;
  if (!options.peer.empty() && topologies.empty()) topologies = {"hosts"};
  if (!topologies.empty()) {
    command.emplace_back("--topology");
    command.push_back(join(topologies));
  }
  command.insert(command.end(), options.rest.begin(), options.rest.end());
  pass_module_on(uri.scheme);
  if (!uri.host.empty()) set_variable("PENSTOCK_ADDR", uri.host);
  if (!options.peer.empty()) {
    set_variable("PENSTOCK_PEER_ADDR", options.peer);
    set_variable("PENSTOCK_HOST", options.second ? "1" : "0");
  }
  if (options.scale != 0) set_variable("PENSTOCK_TEST_SCALE", fmt::format("{}", options.scale));

  std::vector<char*> arguments;
  arguments.reserve(command.size() + 1);
  for (auto& word : command) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  ::execv(arguments[0], arguments.data());
  throw CommandError(fmt::format("cannot run {}: {}", command[0], std::strerror(errno)));
}

}  // namespace

void add_conformance(CLI::App& app, Action& action) {
  auto options = std::make_shared<ConformanceOptions>();
  auto* command = app.add_subcommand("conformance",
                                     "Run the contract's cases over a transport, for its makers");
  command
      ->add_option("uri", options->uri,
                   "Transport, address to bind at and options, for instance "
                   "tcp://127.0.0.1:0/x?nodelay=1; ports and names are chosen anew for each case")
      ->required();
  command->add_option("--topology", options->topologies, "threads, processes, hosts")
      ->delimiter(',')
      ->check(CLI::IsMember({"threads", "processes", "hosts"}));
  command->add_option("--peer", options->peer,
                      "Between two hosts: the other's address. Start it at both");
  command->add_flag("--second", options->second, "... and this is the second of them")
      ->needs("--peer");
  command->add_option("--scale", options->scale, "Less than 1: fewer rounds in each case")
      ->check(CLI::PositiveNumber);
  command->add_option("gtest", options->rest,
                      "After --: options for GoogleTest, for instance --gtest_filter=*wake*");
  command->callback(
      [&action, options] { action = [options] { return run_conformance(*options); }; });
}

}  // namespace penstock::cli
