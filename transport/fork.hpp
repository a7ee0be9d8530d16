// fork(): a child has its parent's handles but not its threads, and must not touch its devices.
#pragma once

#include <atomic>
#include <cstdint>

namespace penstock::inline v1 {

/// How many forks lie between the first process and this one. A handle remembers the value of its
/// birth; where that differs, the handle belongs to a parent and everything on it is refused.
/// relaxed: changes only where one thread is left.
extern std::atomic<std::uint32_t> fork_count;
[[nodiscard]] inline std::uint32_t fork_generation() noexcept {
  return fork_count.load(std::memory_order_relaxed);
}

/// Remembers in which process it was made.
class Birth {
 public:
  [[nodiscard]] bool here() const noexcept { return generation_ == fork_generation(); }

 private:
  std::uint32_t generation_ = fork_generation();
};

}  // namespace penstock::inline v1
