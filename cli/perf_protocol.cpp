#include "perf_protocol.hpp"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <netdb.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <memory>
#include <thread>

#include "command.hpp"

namespace penstock::cli {
namespace {

using std::chrono::steady_clock;

constexpr std::uint32_t kLooksPerClock = 32;
constexpr std::uint32_t kLooksBeforeYield = 4096;

double microseconds(const timeval& time) {
  return static_cast<double>(time.tv_sec) * 1e6 + static_cast<double>(time.tv_usec);
}

/// The numeric address from which this host reaches `uri`'s. No packet is sent.
std::string local_address(const Uri& uri) {
  const addrinfo hints{.ai_flags = 0,
                       .ai_family = AF_UNSPEC,
                       .ai_socktype = SOCK_DGRAM,
                       .ai_protocol = 0,
                       .ai_addrlen = 0,
                       .ai_addr = nullptr,
                       .ai_canonname = nullptr,
                       .ai_next = nullptr};
  addrinfo* found = nullptr;
  const auto port = std::to_string(uri.port == 0 ? 1 : uri.port);
  if (const int error = ::getaddrinfo(uri.host.c_str(), port.c_str(), &hints, &found); error != 0) {
    throw CommandError(fmt::format("{}: cannot resolve the host '{}': {}", uri.text(), uri.host,
                                   ::gai_strerror(error)));
  }
  const std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)> addresses(found, &::freeaddrinfo);
  const int probe = ::socket(found->ai_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  sockaddr_storage local{};
  socklen_t length = sizeof local;
  const bool known = probe >= 0 && ::connect(probe, found->ai_addr, found->ai_addrlen) == 0 &&
                     ::getsockname(probe, reinterpret_cast<sockaddr*>(&local), &length) == 0;
  const int error = errno;
  if (probe >= 0) ::close(probe);
  std::array<char, NI_MAXHOST> text{};
  if (!known || ::getnameinfo(reinterpret_cast<const sockaddr*>(&local), length, text.data(),
                              text.size(), nullptr, 0, NI_NUMERICHOST) != 0) {
    throw CommandError(fmt::format("{}: no local address reaches the host '{}': {}", uri.text(),
                                   uri.host, std::strerror(error)));
  }
  return text.data();
}

void add(PathStats& sum, const PathStats& work) {
  sum.posts += work.posts;
  sum.work_requests += work.work_requests;
  sum.completions += work.completions;
  sum.credit_writes += work.credit_writes;
  sum.immediates += work.immediates;
  sum.hot_publishes += work.hot_publishes;
}

}  // namespace

const char* to_string(PerfMode mode) noexcept {
  switch (mode) {
    case PerfMode::throughput: return "throughput";
    case PerfMode::latency: return "latency";
    case PerfMode::sleep: return "sleep";
  }
  return "?";
}

double cpu_us(CpuScope scope) {
  rusage usage{};
  if (::getrusage(scope == CpuScope::process ? RUSAGE_SELF : RUSAGE_THREAD, &usage) != 0) return 0;
  return microseconds(usage.ru_utime) + microseconds(usage.ru_stime);
}

SideStats operator-(const SideStats& after, const SideStats& before) {
  return {.cpu_us = after.cpu_us - before.cpu_us,
          .stalls = after.stalls - before.stalls,
          .parks = after.parks - before.parks,
          .window = after.window,
          .work = {.posts = after.work.posts - before.work.posts,
                   .work_requests = after.work.work_requests - before.work.work_requests,
                   .completions = after.work.completions - before.work.completions,
                   .credit_writes = after.work.credit_writes - before.work.credit_writes,
                   .immediates = after.work.immediates - before.work.immediates,
                   .hot_publishes = after.work.hot_publishes - before.work.hot_publishes}};
}

SideStats side_stats(std::span<const Sender> senders, CpuScope scope) {
  SideStats side{.cpu_us = cpu_us(scope), .work = {}};
  for (const auto& sender : senders) {
    const auto stats = sender.stats();
    side.stalls += stats.stalls;
    side.parks += stats.parks;
    side.window = stats.window;
    add(side.work, stats.work);
  }
  return side;
}

SideStats side_stats(const ReceiverStats& stats, std::span<const SourceId> sources,
                     CpuScope scope) {
  SideStats side{.cpu_us = cpu_us(scope), .parks = stats.parks, .work = {}};
  for (const auto& each : stats.sources) {
    if (std::ranges::find(sources, each.id) == sources.end()) continue;
    side.window = each.flow.now;
    add(side.work, each.work);
  }
  return side;
}

Json to_json(const SideStats& stats) {
  return {{"cpu_us", stats.cpu_us},
          {"posts", stats.work.posts},
          {"work_requests", stats.work.work_requests},
          {"completions", stats.work.completions},
          {"credit_writes", stats.work.credit_writes},
          {"immediates", stats.work.immediates},
          {"hot_publishes", stats.work.hot_publishes},
          {"stalls", stats.stalls},
          {"parks", stats.parks},
          {"window", stats.window}};
}

std::string encode(const Json& control, std::size_t data_size) {
  auto text = control.dump();
  if (text.size() == data_size) text += ' ';
  return text;
}

Json decode(std::span<const std::byte> message) {
  if (message.size() > kMaxControl) return nullptr;
  const auto* text = reinterpret_cast<const char*>(message.data());
  auto control = Json::parse(text, text + message.size(), nullptr, /*allow_exceptions=*/false);
  return control.is_object() ? control : Json(nullptr);
}

Message recv_spinning(Receiver& receiver, Duration spin, Duration timeout) {
  if (spin > Duration::zero()) {
    const auto start = steady_clock::now();
    const auto longest = std::min(spin, timeout);
    for (std::uint32_t looks = 1;; ++looks) {
      auto message = receiver.try_recv();
      if (message.status() != RecvStatus::empty) return message;
      if (looks % kLooksPerClock != 0) continue;
      if (steady_clock::now() - start >= longest) break;
      // On a busy machine the other side may be waiting for this CPU.
      if (looks >= kLooksBeforeYield) std::this_thread::yield();
    }
  }
  return receiver.recv_for(timeout);
}

std::span<const std::byte> as_bytes(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

Uri reply_uri(const Uri& listener) {
  Uri uri = listener;
  uri.name += fmt::format("{}perf-{}", uri.name.empty() ? "" : "-", ::getpid());
  if (!uri.host.empty()) {
    uri.host = local_address(listener);
    uri.port = 0;
  }
  return uri;
}

}  // namespace penstock::cli
