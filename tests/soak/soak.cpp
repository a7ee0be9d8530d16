// Sends for as long as it is told to, and proves that nothing was lost, repeated, reordered or
// changed: every message carries its sender, its number and bytes that follow from both.
//
//   penstock_soak receive URI
//   penstock_soak send URI --seconds 600 --senders 3
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <map>
#include <random>
#include <span>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "penstock/channel/channel.hpp"

namespace {

using Clock = std::chrono::steady_clock;
constexpr std::chrono::seconds kPatience{120};
constexpr std::chrono::seconds kBetweenLines{10};

/// In front of every message. The last one of a sender has `last` set.
struct Head {
  std::uint32_t sender = 0;
  std::uint32_t last = 0;
  std::uint64_t number = 0;
};

/// Mostly small, some that fill a good part of a ring, and a few that go through it in pieces.
std::size_t size_of(std::mt19937_64& random) {
  const auto kind = random() % 100;
  const auto most = kind < 70 ? 256U : kind < 95 ? 8U << 10U : kind < 99 ? 64U << 10U : 512U << 10U;
  return sizeof(Head) + random() % most;
}

void fill(std::span<std::byte> message, const Head& head) {
  std::memcpy(message.data(), &head, sizeof head);
  // Any bytes that differ from one message to the next, and quickly made.
  auto state = head.number * 0x9E37'79B9'7F4A'7C15U + head.sender + 1;
  for (auto rest = message.subspan(sizeof head); !rest.empty();) {
    state ^= state << 13U;
    state ^= state >> 7U;
    state ^= state << 17U;
    const auto length = std::min(rest.size(), sizeof state);
    std::memcpy(rest.data(), &state, length);
    rest = rest.subspan(length);
  }
}

/// Counts for the progress line. Relaxed: for people.
struct Progress {
  std::atomic<std::uint64_t> messages{0};
  std::atomic<std::uint64_t> bytes{0};

  void add(std::size_t size) {
    messages.fetch_add(1, std::memory_order_relaxed);
    bytes.fetch_add(size, std::memory_order_relaxed);
  }
  void print(const char* what, Clock::time_point since) const {
    const auto seconds = std::chrono::duration<double>(Clock::now() - since).count();
    const auto sum = bytes.load(std::memory_order_relaxed);
    fmt::print("{} {} messages, {:.1f} MB in {:.0f} s\n", what,
               messages.load(std::memory_order_relaxed), static_cast<double>(sum) / 1e6, seconds);
    std::fflush(stdout);
  }
};

void receive(const std::string& uri) {
  auto receiver = penstock::bind(uri);
  std::map<std::uint32_t, std::uint64_t> next;
  std::size_t ended = 0;
  std::vector<std::byte> expected;
  Progress progress;
  const auto start = Clock::now();
  for (auto due = start + kBetweenLines;;) {
    const auto message = receiver.recv_for(kPatience);
    if (message.status() == penstock::RecvStatus::closed) break;
    if (!message)
      throw std::runtime_error(message.loss() != nullptr ? message.loss()->reason
                                                         : to_string(message.status()));
    const auto data = message.data();
    Head head;
    if (data.size() < sizeof head) throw std::runtime_error("a message lost its head");
    std::memcpy(&head, data.data(), sizeof head);
    auto& number = next[head.sender];
    if (head.number != number)
      throw std::runtime_error(fmt::format("sender {}: message {} came where {} was due",
                                           head.sender, head.number, number));
    ++number;
    ended += head.last;
    expected.resize(data.size());
    fill(expected, head);
    if (!std::ranges::equal(data, expected))
      throw std::runtime_error(
          fmt::format("sender {}: message {} was changed", head.sender, head.number));
    progress.add(data.size());
    if (Clock::now() < due) continue;
    progress.print("received", start);
    due += kBetweenLines;
  }
  progress.print("received", start);
  if (ended != next.size())
    throw std::runtime_error(fmt::format("{} of {} senders came to their end", ended, next.size()));
}

void send(const std::string& uri, std::uint32_t id, std::chrono::seconds how_long,
          Progress& progress) {
  auto sender = penstock::connect(uri, {.deadline = kPatience, .linger = kPatience});
  std::mt19937_64 random(id);
  std::vector<std::byte> message;
  Head head{.sender = id};
  for (const auto end = Clock::now() + how_long; head.last == 0; ++head.number) {
    head.last = Clock::now() < end ? 0 : 1;
    message.resize(size_of(random));
    fill(message, head);
    if (const auto status = sender.send(message); status != penstock::SendStatus::sent)
      throw std::runtime_error(
          fmt::format("sender {}: {}: {}", id, to_string(status), sender.stats().error));
    progress.add(message.size());
  }
  if (const auto status = sender.close(kPatience); status != penstock::FlushStatus::consumed)
    throw std::runtime_error(
        fmt::format("sender {}: at the end: {}: {}", id, to_string(status), sender.stats().error));
}

void send_all(const std::string& uri, std::uint32_t senders, std::chrono::seconds how_long) {
  Progress progress;
  std::atomic<bool> failed{false};  // relaxed: read after the threads have ended
  const auto start = Clock::now();
  {
    std::vector<std::jthread> threads;
    for (std::uint32_t id = 0; id < senders; ++id)
      threads.emplace_back([&, id] {
        try {
          send(uri, id, how_long, progress);
        } catch (const std::exception& error) {
          fmt::print(stderr, "penstock_soak: {}\n", error.what());
          failed.store(true, std::memory_order_relaxed);
        }
      });
  }
  progress.print("sent", start);
  if (failed.load(std::memory_order_relaxed)) throw std::runtime_error("a sender failed");
}

int run(int count, char** arguments) {
  CLI::App app("Nothing is lost, repeated, reordered or changed");
  app.require_subcommand(1);
  std::string uri;
  std::uint32_t senders = 3;
  std::uint32_t seconds = 600;
  auto* receiving = app.add_subcommand("receive", "Until all senders have ended");
  receiving->add_option("uri", uri)->required();
  auto* sending = app.add_subcommand("send", "So many senders, for so long");
  sending->add_option("uri", uri)->required();
  sending->add_option("--senders", senders)->capture_default_str();
  sending->add_option("--seconds", seconds)->capture_default_str();
  CLI11_PARSE(app, count, arguments);
  if (app.got_subcommand(receiving))
    receive(uri);
  else
    send_all(uri, senders, std::chrono::seconds(seconds));
  return EXIT_SUCCESS;
}

}  // namespace

int main(int count, char** arguments) {
  try {
    return run(count, arguments);
  } catch (const std::exception& error) {
    fmt::print(stderr, "penstock_soak: {}\n", error.what());
    return EXIT_FAILURE;
  }
}
