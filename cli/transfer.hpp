// How much has been moved: the progress line, and what an interrupt reports.
#pragma once

#include <chrono>
#include <cstdint>

namespace penstock::cli {

/// Counts bytes and, where asked, shows them on stderr: one line that is rewritten where stderr is
/// a terminal, a line a second otherwise. One at a time, one
/// thread.
class Transfer {
 public:
  explicit Transfer(bool show);

  void add(std::uint64_t bytes);
  /// Shows the total; add() no more.
  void finish() const;
  [[nodiscard]] static std::uint64_t bytes() noexcept;

 private:
  void print(std::chrono::steady_clock::time_point now) const;

  bool show_;
  bool rewrite_;
  std::chrono::steady_clock::time_point start_;
  std::chrono::steady_clock::time_point shown_;
};

/// Ends a progress line that stands on the terminal, so that other text starts on its own.
void end_progress_line() noexcept;

/// From now on SIGINT and SIGTERM end the process at once with a message and status 130 or 143,
/// without a good-bye: the peer learns that the transfer was broken off. SIGPIPE is ignored.
void install_signal_handlers();

}  // namespace penstock::cli
