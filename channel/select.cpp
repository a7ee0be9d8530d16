#include "penstock/channel/select.hpp"

#include <cstdint>
#include <deque>

#include "penstock/channel/spin.hpp"

namespace penstock::v2 {
namespace {

/// A number below `count`, each as likely (xorshift64*: Vigna, "An experimental exploration of
/// Marsaglia's xorshift generators, scrambled").
std::size_t any_of(std::size_t count) noexcept {
  static thread_local std::uint64_t state = cycles() | 1U;
  state ^= state >> 12U;
  state ^= state << 25U;
  state ^= state >> 27U;
  const auto random = (state * 0x2545'F491'4F6C'DD1DULL) >> 32U;
  return static_cast<std::size_t>((random * count) >> 32U);
}

/// The first that happens, from a random one on.
std::optional<std::size_t> try_each(std::span<SelectCase* const> cases) {
  const auto first = any_of(cases.size());
  for (std::size_t i = 0; i < cases.size(); ++i) {
    const auto at = first + i < cases.size() ? first + i : first + i - cases.size();
    if (cases[at]->attempt()) return at;
  }
  return std::nullopt;
}

/// A thread's stay in the lists of all cases.
class Everywhere {
 public:
  explicit Everywhere(std::span<SelectCase* const> cases) : cases_(cases) {
    for (auto* one : cases) {
      nodes_.emplace_back(thread_);
      if (auto* list = one->list()) (void)list->add(nodes_.back());
    }
  }
  Everywhere(const Everywhere&) = delete;
  Everywhere& operator=(const Everywhere&) = delete;
  Everywhere(Everywhere&&) = delete;
  Everywhere& operator=(Everywhere&&) = delete;
  ~Everywhere() {
    for (std::size_t i = 0; i < cases_.size(); ++i) {
      auto* list = cases_[i]->list();
      if (list == nullptr) continue;
      // Chosen there: for this case, or for nothing. Either way the next one may have a reason.
      if (!list->remove(nodes_[i]) && cases_[i]->more()) list->wake(1);
    }
  }
  [[nodiscard]] bool sleep(TimePoint deadline) noexcept { return thread_.sleep(deadline); }

 private:
  std::span<SelectCase* const> cases_;
  WaitingThread thread_;
  std::deque<WaitNode> nodes_;
};

}  // namespace

std::optional<std::size_t> select_until(TimePoint deadline, std::span<SelectCase* const> cases) {
  if (cases.empty()) return std::nullopt;
  auto chosen = try_each(cases);
  if (!chosen && deadline != TimePoint::min()) {
    Spinner spinner(kDefaultSpin, deadline);
    while (!chosen && spinner.again()) chosen = try_each(cases);
  }
  while (!chosen && Clock::now() < deadline) {
    Everywhere waiting(cases);
    chosen = try_each(cases);
    if (chosen) break;
    (void)waiting.sleep(deadline);
    chosen = try_each(cases);
  }
  if (chosen) cases[*chosen]->handle();
  return chosen;
}

}  // namespace penstock::v2
