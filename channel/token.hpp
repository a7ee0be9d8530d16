// The progress token: whoever holds it does the work, for the others too.
#pragma once

#include <atomic>
#include <cstdint>

namespace penstock::inline v1 {

/// A try-lock that never loses a request: run() either does the work or leaves it to the holder,
/// who looks again after finishing. Nobody waits.
class ProgressToken {
 public:
  /// Runs `work` now, or has the present holder run its own work once more.
  template <class Work>
  void run(Work&& work) noexcept {
    // SYNC token: what a requester wrote happens-before the holder's next round, and each holder's
    // work happens-before the next holder's.
    if (requests_.fetch_add(1, std::memory_order_acq_rel) != 0) return;
    leave(work);
  }

  /// Runs `work` if nobody holds the token; otherwise does nothing, and says so (false). For
  /// callers that come back.
  template <class Work>
  bool try_run(Work&& work) noexcept {
    if (!try_enter()) return false;
    leave(work);
    return true;
  }

 private:
  [[nodiscard]] bool try_enter() noexcept {
    std::uint32_t none = 0;
    // SYNC token. relaxed when it fails: nothing was learnt
    return requests_.load(std::memory_order_relaxed) == 0 &&
           requests_.compare_exchange_strong(none, 1, std::memory_order_acq_rel,
                                             std::memory_order_relaxed);
  }

  // Works off the requests, the first one at least once, and gives the token back.
  template <class Work>
  void leave(Work&& work) noexcept {
    for (;;) {
      // relaxed: the fetch_sub below orders; a request that comes later makes another round
      const std::uint32_t seen = requests_.load(std::memory_order_relaxed);
      work();
      if (requests_.fetch_sub(seen, std::memory_order_acq_rel) == seen) return;
    }
  }

  std::atomic<std::uint32_t> requests_{0};
};

}  // namespace penstock::inline v1
