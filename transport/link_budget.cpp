#include "penstock/transport/link_budget.hpp"

#include <array>
#include <atomic>
#include <charconv>
#include <cstdlib>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "penstock/transport/error.hpp"

namespace penstock::inline v1 {
namespace {

constexpr const char* kMaxLinks = "PENSTOCK_MAX_LINKS";
constexpr const char* kMaxPinned = "PENSTOCK_MAX_PINNED";

/// A number, for `sizes` with a unit.
std::uint64_t variable(const char* name, bool sizes) {
  const char* value = ::secure_getenv(name);
  if (value == nullptr || *value == '\0') return kNoLinkLimit;
  const std::string_view text = value;
  std::uint64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  const auto unit = text.substr(static_cast<std::size_t>(end - text.data()));
  constexpr std::array<std::pair<std::string_view, std::uint64_t>, 5> kUnits{
      {{"", 1}, {"B", 1}, {"KiB", 1U << 10U}, {"MiB", 1U << 20U}, {"GiB", 1U << 30U}}};
  if (error == std::errc{})
    for (const auto& [known, factor] : kUnits)
      if (unit == known && (sizes || unit.empty()) && number <= kNoLinkLimit / factor)
        return number * factor;
  throw SetupError(Errc::bad_option,
                   std::string(name) + "=" + value + " is no " +
                       (sizes ? "size, such as 65536, 64MiB or 2GiB" : "number of links") +
                       ": correct it, or unset it for no limit");
}

struct State {
  std::mutex mutex;                  // not taken by what a child of fork() does
  std::optional<LinkBudget> budget;  // none: the variables have not been read yet
  // Raised under the mutex, lowered by anybody. relaxed: numbers that nothing else hangs on.
  std::atomic<std::uint64_t> links{0};
  std::atomic<std::uint64_t> pinned{0};

  /// Under the mutex.
  const LinkBudget& known() {
    if (!budget) budget = {variable(kMaxLinks, false), variable(kMaxPinned, true)};
    return *budget;
  }
};

State& state() {
  static auto& instance = *new State;  // never destroyed: channels may outlive main()
  return instance;
}

}  // namespace

void set_link_budget(const LinkBudget& budget) {
  State& s = state();
  const std::lock_guard lock(s.mutex);
  s.budget = budget;
}

LinkBudget link_budget() {
  State& s = state();
  const std::lock_guard lock(s.mutex);
  return s.known();
}

LinkUse link_use() noexcept {
  const State& s = state();
  return {s.links.load(std::memory_order_relaxed), s.pinned.load(std::memory_order_relaxed)};
}

LinkShare::LinkShare(std::uint64_t pinned) : pinned_(pinned) {
  State& s = state();
  const std::lock_guard lock(s.mutex);
  const LinkBudget& budget = s.known();
  const LinkUse use = link_use();
  if (use.links >= budget.max_links)
    throw SetupError(Errc::resource_limit,
                     "the budget of remote links is used up: " + std::to_string(use.links) +
                         " of " + std::to_string(budget.max_links) + ": raise " + kMaxLinks +
                         " (or set_link_budget()) there");
  if (pinned > budget.max_pinned || use.pinned > budget.max_pinned - pinned)
    throw SetupError(Errc::resource_limit,
                     "the budget of pinned memory is used up: " + std::to_string(use.pinned) +
                         " of " + std::to_string(budget.max_pinned) +
                         " bytes are in use, and this link needs " + std::to_string(pinned) +
                         ": raise " + kMaxPinned +
                         " (or set_link_budget()) there, or bind with a smaller ?capacity=");
  s.links.fetch_add(1, std::memory_order_relaxed);
  s.pinned.fetch_add(pinned, std::memory_order_relaxed);
}

PinnedShare::PinnedShare(std::uint64_t pinned) noexcept {
  State& s = state();
  const std::lock_guard lock(s.mutex);
  // A link has read the variables before. Where none was open, there is no budget to exceed.
  const auto most = s.budget ? s.budget->max_pinned : kNoLinkLimit;
  const auto used = s.pinned.load(std::memory_order_relaxed);
  if (pinned > most || used > most - pinned) return;
  s.pinned.fetch_add(pinned, std::memory_order_relaxed);
  pinned_ = pinned;
}

PinnedShare::~PinnedShare() { state().pinned.fetch_sub(pinned_, std::memory_order_relaxed); }

LinkShare::~LinkShare() {
  State& s = state();
  s.links.fetch_sub(1, std::memory_order_relaxed);
  s.pinned.fetch_sub(pinned_, std::memory_order_relaxed);
}

}  // namespace penstock::inline v1
