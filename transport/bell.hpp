// An eventfd by which threads of a process tell the engine that an end of a channel has news.
#pragma once

#include <sys/eventfd.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdint>

#include "penstock/transport/error.hpp"
#include "penstock/transport/fd.hpp"

namespace penstock::inline v1 {

/// Made by the one who listens, when he first does: until then ringing is nothing. Thread-safe, but
/// for open().
class Bell {
 public:
  Bell() = default;
  Bell(const Bell&) = delete;
  Bell& operator=(const Bell&) = delete;
  Bell(Bell&&) = delete;
  Bell& operator=(Bell&&) = delete;
  ~Bell() { Fd(fd()).reset(); }

  /// The descriptor, readable once it is rung. Throws SetupError.
  int open() {
    if (fd() < 0) {
      const int made = ::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
      if (made < 0) throw_errno("eventfd", errno);
      // SYNC bell: sequentially consistent, before the listener looks for news; whoever rings has
      // stored his news before. So one of the two sees the other.
      fd_.store(made, std::memory_order_seq_cst);
    }
    return fd();
  }
  void ring() const noexcept {
    const int to = fd_.load(std::memory_order_seq_cst);  // SYNC bell
    if (to < 0) return;
    const std::uint64_t one = 1;
    // A full counter wakes as well.
    [[maybe_unused]] const auto written = ::write(to, &one, sizeof one);
  }
  /// Not readable any more.
  void quiet() const noexcept {
    std::uint64_t count = 0;
    [[maybe_unused]] const auto got = ::read(fd(), &count, sizeof count);
  }
  /// -1 before open().
  [[nodiscard]] int fd() const noexcept {
    return fd_.load(std::memory_order_relaxed);  // relaxed: the listener's own
  }

 private:
  std::atomic<int> fd_{-1};
};

}  // namespace penstock::inline v1
