#include "plain_verbs.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <charconv>
#include <csignal>
#include <cstring>
#include <string_view>

#include "command.hpp"

namespace penstock::cli {
namespace {

constexpr const char* kProgram = "penstock-verbs-baseline";

std::string find_baseline() { return find_program(kProgram, "-DPENSTOCK_RDMA=ON"); }

std::string host_and_port(const Uri& uri, std::uint16_t port) {
  if (uri.host.find(':') != std::string::npos) return fmt::format("[{}]:{}", uri.host, port);
  return fmt::format("{}:{}", uri.host.empty() ? "0.0.0.0" : uri.host, port);
}

/// The program's options for the device that the URI asks for.
void add_device(std::vector<std::string>& command, const Uri& uri) {
  constexpr std::array<std::array<const char*, 2>, 3> kNames{
      {{"device", "--device"}, {"port", "--port"}, {"gid_index", "--gid-index"}}};
  for (const auto& [key, option] : kNames) {
    const auto found = uri.options.find(key);
    if (found == uri.options.end()) continue;
    command.emplace_back(option);
    command.push_back(found->second);
  }
}

const char* mode_name(PerfMode mode) { return mode == PerfMode::sleep ? "event" : to_string(mode); }

std::vector<std::string> server_command(const Uri& uri) {
  std::vector<std::string> command{find_baseline(), "--listen", host_and_port(uri, 0),
                                   "--until-eof"};
  add_device(command, uri);
  return command;
}

std::uint16_t announced_port(const std::string& line) {
  constexpr std::string_view kWords = "listening on port ";
  std::uint16_t port = 0;
  if (line.starts_with(kWords)) {
    std::from_chars(line.data() + kWords.size(), line.data() + line.size(), port);
  }
  if (port == 0) {
    throw CommandError(
        fmt::format("plain verbs: {} does not listen; what it says is on standard "
                    "error",
                    kProgram));
  }
  return port;
}

std::array<int, 2> make_pipe() {
  std::array<int, 2> ends{};
  if (::pipe2(ends.data(), O_CLOEXEC) != 0) {
    throw CommandError(fmt::format("plain verbs: pipe: {}", std::strerror(errno)));
  }
  return ends;
}

}  // namespace

Child::Child(const std::vector<std::string>& command) {
  const auto input = make_pipe();
  const auto output = make_pipe();
  std::vector<char*> arguments;
  arguments.reserve(command.size() + 1);
  for (const auto& word : command) arguments.push_back(const_cast<char*>(word.c_str()));
  arguments.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  ::posix_spawn_file_actions_init(&actions);
  ::posix_spawn_file_actions_adddup2(&actions, input[0], STDIN_FILENO);
  ::posix_spawn_file_actions_adddup2(&actions, output[1], STDOUT_FILENO);
  // Not fork(): that would copy on write the pages that the device of a channel writes to.
  const int error =
      ::posix_spawn(&pid_, arguments[0], &actions, nullptr, arguments.data(), environ);
  ::posix_spawn_file_actions_destroy(&actions);
  ::close(input[0]);
  ::close(output[1]);
  input_ = input[1];
  output_ = output[0];
  if (error != 0) {
    ::close(input_);
    ::close(output_);
    throw CommandError(
        fmt::format("plain verbs: cannot run {}: {}", command[0], std::strerror(error)));
  }
}

Child::~Child() {
  ::close(input_);
  ::close(output_);
  if (pid_ < 0) return;
  ::kill(pid_, SIGTERM);
  static_cast<void>(wait());
}

std::string Child::read_line() {
  std::string line;
  char letter = 0;
  while (::read(output_, &letter, 1) == 1) {
    line += letter;
    if (letter == '\n') break;
  }
  return line;
}

std::string Child::read_all() {
  std::string text;
  std::array<char, 4096> piece{};
  for (;;) {
    const auto size = ::read(output_, piece.data(), piece.size());
    if (size <= 0) return text;
    text.append(piece.data(), static_cast<std::size_t>(size));
  }
}

int Child::wait() {
  int status = 0;
  while (::waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
  }
  pid_ = -1;
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

PlainVerbsServer::PlainVerbsServer(const Uri& uri)
    : program_(server_command(uri)), port_(announced_port(program_.read_line())) {}

Json measure_plain_verbs(const Uri& listener, std::uint16_t port, const PlainVerbsWork& work) {
  std::vector<std::string> command{
      find_baseline(), host_and_port(listener, port), "--mode",    mode_name(work.mode),
      "--sizes",       std::to_string(work.size),     "--seconds", fmt::format("{}", work.seconds),
      "--senders",     std::to_string(work.senders),  "--json",    "-"};
  add_device(command, listener);
  Child program(command);
  const auto text = program.read_all();
  if (const int status = program.wait(); status != kSuccess) {
    throw CommandError(fmt::format(
        "plain verbs with {} bytes and {} senders: {} ended with status {}; what it said is on "
        "standard error, here or at the listener",
        work.size, work.senders, kProgram, status));
  }
  auto report = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!report.is_object() || !report.contains("results") || report["results"].size() != 1) {
    throw CommandError(
        fmt::format("plain verbs: {} gives no report; is it of this version?", command[0]));
  }
  return report;
}

}  // namespace penstock::cli
