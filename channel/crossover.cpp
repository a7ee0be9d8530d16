#include "penstock/channel/crossover.hpp"

#include <algorithm>
#include <bit>

namespace penstock::inline v1 {
namespace {

constexpr auto kRelaxed = std::memory_order_relaxed;
constexpr unsigned kSmallestClass = 12;  // of 4 KiB
/// Each way is tried so often before they are compared. The first landing takes new memory.
constexpr std::uint32_t kFirstTries = 2;
/// The slower way, where it takes as long as the quicker, is tried once in so many messages; where
/// it takes n times as long, in n times as many, up to:
constexpr float kTryOneIn = 32;
constexpr float kMostBetweenTries = 4096;
/// A new figure counts for so much; one that is so many times as large was a pause of somebody.
constexpr float kWeight = 0.25F;
constexpr float kMostGrowth = 4;
/// After so many refusals the pause between questions grows no more.
constexpr std::uint32_t kMostDoublings = 8;

}  // namespace

bool Crossover::Class::landing_is_quicker() const noexcept {
  const float by_landing = landing.cost.load(kRelaxed);
  const float by_ring = ring.cost.load(kRelaxed);
  return by_landing > 0 && (by_ring <= 0 || by_landing < by_ring);
}

std::size_t Crossover::class_of(std::uint64_t size) noexcept {
  const auto bits = static_cast<unsigned>(std::bit_width(size >> kSmallestClass));
  return std::min<std::size_t>(bits == 0 ? 0 : bits - 1, kClasses - 1);
}

bool Crossover::lands(std::uint64_t size) noexcept {
  if (size < least_) return false;
  if (const auto pause = pause_.load(kRelaxed); pause != 0) {
    pause_.store(pause - 1, kRelaxed);
    return false;
  }
  if (!measures_) return true;
  auto& c = classes_[class_of(size)];
  const auto choose = [](Way& way, bool landing) {
    way.tries.fetch_add(1, kRelaxed);
    return landing;
  };
  if (c.ring.tries.load(kRelaxed) < kFirstTries) return choose(c.ring, false);
  if (c.landing.tries.load(kRelaxed) < kFirstTries) return choose(c.landing, true);
  const bool landing = c.landing_is_quicker();
  const float quick = (landing ? c.landing : c.ring).cost.load(kRelaxed);
  const float slow = (landing ? c.ring : c.landing).cost.load(kRelaxed);
  const float between = quick > 0 && slow > 0
                            ? std::clamp(kTryOneIn * (slow / quick), kTryOneIn, kMostBetweenTries)
                            : kTryOneIn;
  const auto since = c.since.load(kRelaxed) + 1;
  const bool try_other = static_cast<float>(since) >= between;
  c.since.store(try_other ? 0 : since, kRelaxed);
  return landing != try_other;
}

void Crossover::took(std::uint64_t size, bool landed, std::chrono::nanoseconds time) noexcept {
  if (landed) refusals_.store(0, kRelaxed);
  if (size < least_ || !measures_) return;
  auto& c = classes_[class_of(size)];
  auto& cost = (landed ? c.landing : c.ring).cost;
  const float fresh = std::max(static_cast<float>(time.count()) / static_cast<float>(size), 1e-6F);
  const float known = cost.load(kRelaxed);
  cost.store(known <= 0 ? fresh : known + kWeight * (std::min(fresh, kMostGrowth * known) - known),
             kRelaxed);
}

void Crossover::refused() noexcept {
  const auto refusals = std::min(refusals_.load(kRelaxed), kMostDoublings);
  refusals_.store(refusals + 1, kRelaxed);
  pause_.store(1U << refusals, kRelaxed);
}

std::uint64_t Crossover::from() const noexcept {
  if (!measures_) return least_;
  // Larger messages gain more, or as much: from the largest that are known downwards.
  std::uint64_t from = 0;
  for (std::size_t i = kClasses; i-- != 0;) {
    const auto& c = classes_[i];
    const auto begin = std::uint64_t{1} << (kSmallestClass + i);
    if (c.landing_is_quicker()) {
      from = std::max(begin, least_);
    } else if (c.ring.cost.load(kRelaxed) > 0) {
      break;
    }
  }
  return from;
}

}  // namespace penstock::inline v1
