#include "penstock/channel/tail_table.hpp"

#include <algorithm>
#include <bit>
#include <cstring>

#include "penstock/transport/error.hpp"

namespace penstock::inline v1 {
namespace {

/// Lines that are compared before it is asked whether one of them differs.
constexpr std::size_t kGroup = 16;

using Differ = bool (*)(const TailLine* lines, const TailLine* drained) noexcept;

// Plain loads of what devices and other threads write: whatever they get is only a hint.
[[gnu::always_inline]] inline bool differ(const TailLine* lines, const TailLine* drained) noexcept {
  using Words = std::uint64_t __attribute__((vector_size(2 * sizeof(TailLine))));
  Words sum{};
  for (std::size_t i = 0; i < kGroup; i += 2) {
    Words a;
    Words b;
    std::memcpy(&a, lines + i, sizeof a);
    std::memcpy(&b, drained + i, sizeof b);
    sum |= a ^ b;
  }
  return (sum[0] | sum[1] | sum[2] | sum[3]) != 0;
}

[[gnu::no_sanitize_thread]] bool differ_plain(const TailLine* lines,
                                              const TailLine* drained) noexcept {
  return differ(lines, drained);
}
#if defined(__x86_64__)
[[gnu::no_sanitize_thread, gnu::target("avx2")]] bool differ_avx2(
    const TailLine* lines, const TailLine* drained) noexcept {
  return differ(lines, drained);
}
#endif

Differ choose_differ() noexcept {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2") != 0) return differ_avx2;
#endif
  return differ_plain;
}
const Differ group_differs = choose_differ();

/// Relaxed: whoever finds news here reads the line anew.
TailLine copy_of(const TailLine& line) noexcept {
  const auto load = [](const std::uint64_t& word) {
    return std::atomic_ref(const_cast<std::uint64_t&>(word)).load(std::memory_order_relaxed);
  };
  return {load(line.tail), load(line.check)};
}

}  // namespace

void TailTable::set(Bits& bits, std::size_t place, bool on, std::memory_order order) noexcept {
  auto& word = bits[place % kInBlock / kInWord];
  const auto bit = std::uint64_t{1} << (place % kInWord);
  if (on) {
    word.fetch_or(bit, order);
  } else {
    word.fetch_and(~bit, order);
  }
}

bool TailTable::get(const Bits& bits, std::size_t place) noexcept {
  const auto word = bits[place % kInBlock / kInWord].load(std::memory_order_relaxed);
  return ((word >> (place % kInWord)) & 1U) != 0;
}

std::size_t TailTable::take_free() {
  const std::lock_guard lock(mutex_);
  if (free_.empty()) {
    const auto first = owned_.size() * kInBlock;
    if (owned_.size() == kMaxBlocks)
      throw SetupError(Errc::resource_limit, "a receiver has at most " + std::to_string(first) +
                                                 " remote senders: bind another one");
    free_.reserve(first + kInBlock);
    auto& block = owned_.emplace_back(std::make_unique<Block>());
    for (std::size_t i = kInBlock; i != 0; --i) free_.push_back(first + i - 1);
    // SYNC tail-blocks (writer)
    blocks_[owned_.size() - 1].store(block.get(), std::memory_order_release);
  }
  const auto place = free_.back();
  free_.pop_back();
  if (place >= places_.load(std::memory_order_relaxed))
    places_.store(place + 1, std::memory_order_release);  // SYNC tail-blocks (writer)
  return place;
}

TailPlace TailTable::take() {
  const auto place = take_free();
  return {std::shared_ptr<void>(
              nullptr, [self = shared_from_this(), place](void*) { self->give_back(place); }),
          &block_of(place).lines[place % kInBlock], place};
}

void TailTable::give_back(std::size_t place) noexcept {
  auto& block = block_of(place);
  set(block.watched, place, false, std::memory_order_relaxed);
  set(block.awake, place, false, std::memory_order_relaxed);
  set(block.marked, place, false, std::memory_order_relaxed);
  write_tail(block.lines[place % kInBlock], {});
  write_tail(block.drained[place % kInBlock], {});
  const std::lock_guard lock(mutex_);
  free_.push_back(place);  // has room for all places there are
}

void TailTable::watch(std::size_t place, bool on) noexcept {
  set(block_of(place).watched, place, on, std::memory_order_relaxed);
}

void TailTable::mark(std::size_t place) noexcept {
  set(block_of(place).marked, place, true, std::memory_order_release);  // SYNC tail-mark
}

bool TailTable::has_news(std::size_t place) const noexcept {
  const auto& block = block_of(place);
  if (!get(block.watched, place)) return false;
  if (get(block.marked, place)) return true;
  const auto line = copy_of(block.lines[place % kInBlock]);
  const auto drained = copy_of(block.drained[place % kInBlock]);
  return line.tail != drained.tail || line.check != drained.check;
}

std::size_t TailTable::next_news(std::size_t from, std::size_t to) const noexcept {
  to = std::min(to, places_.load(std::memory_order_acquire));  // SYNC tail-blocks (reader)
  while (from < to) {
    const auto first = from / kGroup * kGroup;
    const auto end = std::min(first + kGroup, to);
    const auto& block = block_of(first);
    const auto at = first % kInBlock;
    const auto marks = block.marked[at / kInWord].load(std::memory_order_relaxed) >> (at % kInWord);
    if ((marks & ((std::uint64_t{1} << kGroup) - 1)) != 0 ||
        group_differs(&block.lines[at], &block.drained[at])) {
      for (; from != end; ++from)
        if (has_news(from)) return from;
    }
    from = end;
  }
  return kNone;
}

TailTable::Begun TailTable::begin_look(std::size_t place) noexcept {
  auto& block = block_of(place);
  const bool marked = get(block.marked, place);
  // SYNC tail-mark (reader)
  if (marked) set(block.marked, place, false, std::memory_order_acquire);
  return {copy_of(block.lines[place % kInBlock]), marked};
}

void TailTable::drained(std::size_t place, const TailLine& line) noexcept {
  write_tail(block_of(place).drained[place % kInBlock], line);
}

void TailTable::set_awake(std::size_t place, bool awake) noexcept {
  set(block_of(place).awake, place, awake, std::memory_order_relaxed);
}

std::size_t TailTable::next_awake(std::size_t from) const noexcept {
  const auto places = places_.load(std::memory_order_acquire);  // SYNC tail-blocks (reader)
  while (from < places) {
    const auto& block = block_of(from);
    const auto word = from % kInBlock / kInWord;
    const auto awake = (block.awake[word].load(std::memory_order_relaxed) &
                        block.watched[word].load(std::memory_order_relaxed)) >>
                       (from % kInWord);
    if (awake != 0) return from + static_cast<std::size_t>(std::countr_zero(awake));
    from = (from / kInWord + 1) * kInWord;
  }
  return kNone;
}

}  // namespace penstock::inline v1
