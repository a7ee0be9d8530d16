// What this process gives to remote links, all channels together. Every remote peer costs pinned
// memory and a queue pair, and whoever may connect decides how many there are: the budget keeps one
// program from taking what the others on the machine need, or from running into the device's end.
#pragma once

#include <cstdint>
#include <limits>
#include <utility>

namespace penstock::inline v1 {

inline constexpr std::uint64_t kNoLinkLimit = std::numeric_limits<std::uint64_t>::max();

struct LinkBudget {
  std::uint64_t max_links = kNoLinkLimit;  ///< remote peers: each has a queue pair
  /// Bytes of rings, mirrors and lines, and of messages that are landing, while they are
  std::uint64_t max_pinned = kNoLinkLimit;
};

/// What of it is in use.
struct LinkUse {
  std::uint64_t links = 0;
  std::uint64_t pinned = 0;
};

/// Replaces the budget, which is at first what PENSTOCK_MAX_LINKS and PENSTOCK_MAX_PINNED say.
/// Peers that are there stay, though they be more than that. Thread-safe.
void set_link_budget(const LinkBudget& budget);
/// Throws SetupError{bad_option} where a variable makes no sense. Thread-safe, as all of these.
[[nodiscard]] LinkBudget link_budget();
[[nodiscard]] LinkUse link_use() noexcept;

/// One link's part of the budget, given back when it is destroyed.
class LinkShare {
 public:
  /// Throws SetupError: resource_limit when nothing is left for a link of so many bytes.
  explicit LinkShare(std::uint64_t pinned);
  LinkShare(const LinkShare&) = delete;
  LinkShare& operator=(const LinkShare&) = delete;
  LinkShare(LinkShare&&) = delete;
  LinkShare& operator=(LinkShare&&) = delete;
  ~LinkShare();

 private:
  std::uint64_t pinned_;
};

/// Memory that is pinned for a while, beside a link's own: counts until it is destroyed.
class PinnedShare {
 public:
  PinnedShare() = default;
  /// Not taken where the budget has no room for so many bytes.
  explicit PinnedShare(std::uint64_t pinned) noexcept;
  PinnedShare(PinnedShare&& other) noexcept : pinned_(std::exchange(other.pinned_, 0)) {}
  PinnedShare& operator=(PinnedShare&& other) noexcept {
    std::swap(pinned_, other.pinned_);
    return *this;
  }
  PinnedShare(const PinnedShare&) = delete;
  PinnedShare& operator=(const PinnedShare&) = delete;
  ~PinnedShare();
  [[nodiscard]] bool taken() const noexcept { return pinned_ != 0; }

 private:
  std::uint64_t pinned_ = 0;
};

}  // namespace penstock::inline v1
