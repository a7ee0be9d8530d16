#include "transfer.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <iterator>
#include <string_view>

#include "penstock/transport/error.hpp"

namespace penstock::cli {
namespace {

using std::chrono::steady_clock;

// Read by the signal handler. relaxed everywhere: single values that order nothing else.
std::atomic<std::uint64_t> moved{0};
std::atomic<bool> counting{false};
std::atomic<bool> line_open{false};
static_assert(std::atomic<std::uint64_t>::is_always_lock_free);

void write_error(const char* text, std::size_t size) noexcept {
  // Nothing can be done where even stderr fails.
  [[maybe_unused]] const auto written = ::write(STDERR_FILENO, text, size);
}

/// Only async-signal-safe calls: no allocation, no stdio.
extern "C" void on_signal(int signal) {
  std::array<char, 128> text{};
  const auto* line_end = line_open.load(std::memory_order_relaxed) ? "\n" : "";
  const auto* what = signal == SIGINT ? "interrupted" : "terminated";
  const auto end =
      counting.load(std::memory_order_relaxed)
          ? fmt::format_to_n(text.begin(), text.size(), "{}penstock: {} after {} bytes\n", line_end,
                             what, moved.load(std::memory_order_relaxed))
          : fmt::format_to_n(text.begin(), text.size(), "{}penstock: {}\n", line_end, what);
  write_error(text.data(), end.size);
  ::_exit(128 + signal);
}

void handle(int signal, void (*handler)(int)) {
  struct sigaction action {};
  action.sa_handler = handler;
  if (::sigaction(signal, &action, nullptr) != 0) throw_errno("sigaction", errno);
}

}  // namespace

Transfer::Transfer(bool show)
    : show_(show),
      rewrite_(::isatty(STDERR_FILENO) == 1),
      start_(steady_clock::now()),
      shown_(start_) {
  moved.store(0, std::memory_order_relaxed);
  counting.store(true, std::memory_order_relaxed);
}

void Transfer::finish() const {
  if (!show_) return;
  print(steady_clock::now());
  end_progress_line();
}

void Transfer::add(std::uint64_t bytes) {
  const auto before = moved.fetch_add(bytes, std::memory_order_relaxed);
  if (!show_) return;
  const auto now = steady_clock::now();
  // A listener may have waited long for its first byte.
  if (before == 0) start_ = now;
  const auto interval = rewrite_ ? std::chrono::milliseconds(100) : std::chrono::milliseconds(1000);
  if (now - shown_ < interval) return;
  shown_ = now;
  print(now);
}

std::uint64_t Transfer::bytes() noexcept { return moved.load(std::memory_order_relaxed); }

void Transfer::print(steady_clock::time_point now) const {
  const double seconds = std::max(std::chrono::duration<double>(now - start_).count(), 1e-6);
  const auto total = static_cast<double>(bytes());
  fmt::memory_buffer line;
  fmt::format_to(std::back_inserter(line), "{}{:.1f} MB  {:.1f} s  {:.1f} MB/s{}",
                 rewrite_ ? "\r" : "", total / 1e6, seconds, total / 1e6 / seconds,
                 rewrite_ ? "   " : "\n");
  line_open.store(rewrite_, std::memory_order_relaxed);
  write_error(line.data(), line.size());
}

void end_progress_line() noexcept {
  if (line_open.exchange(false, std::memory_order_relaxed)) write_error("\n", 1);
}

void install_signal_handlers() {
  handle(SIGINT, on_signal);
  handle(SIGTERM, on_signal);
  handle(SIGPIPE, SIG_IGN);
}

}  // namespace penstock::cli
