// The tail lines of a receiver's remote senders, side by side, so that one that sends nothing costs
// a look sixteen bytes.
//
// Who writes what: each sender's device its own line; receiving threads and the engine `drained`
// and the bits. What a scan finds is a hint: whoever follows it reads the line anew, by the rules.
//
// Invariant: a line with news is found by every scan that begins after it has landed: either it
// differs from what was drained, or its mark is set. So a look begins with a copy of the line and
// takes the mark; only if it then finds nothing is that copy what was drained, else the mark is set
// again.
//
// Lifetime: a place keeps its table; blocks of lines stay where they are.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "penstock/transport/line.hpp"
#include "penstock/transport/record.hpp"
#include "penstock/transport/transport.hpp"

namespace penstock::inline v1 {

/// Thread-safe. Scans are linear in the number of places, a sixteenth of a line of each.
class TailTable : public std::enable_shared_from_this<TailTable> {
 public:
  static constexpr std::size_t kNone = ~std::size_t{0};

  /// A place for one more sender; it is free again when its owner is gone. Throws SetupError.
  [[nodiscard]] TailPlace take();

  /// From now on scans look at this place, or no longer.
  void watch(std::size_t place, bool on) noexcept;
  /// The next scan finds it, whatever its line says. SYNC tail-mark (writer): the reason before it
  void mark(std::size_t place) noexcept;
  /// The first place with news in [from, to), or kNone.
  [[nodiscard]] std::size_t next_news(std::size_t from, std::size_t to = kNone) const noexcept;
  [[nodiscard]] bool has_news(std::size_t place) const noexcept;

  /// What a look begins with: what the line says, and whether there was a mark, which is gone.
  struct Begun {
    TailLine line;
    bool marked;
  };
  [[nodiscard]] Begun begin_look(std::size_t place) noexcept;
  /// The look found nothing beyond that.
  void drained(std::size_t place, const TailLine& line) noexcept;

  /// Before a receiver sleeps, the sender of this place is to hear of it; or hears already.
  void set_awake(std::size_t place, bool awake) noexcept;
  /// The first watched place from `from` on whose sender is to hear; or kNone.
  [[nodiscard]] std::size_t next_awake(std::size_t from) const noexcept;

 private:
  static constexpr std::size_t kInBlock = 256;  // a page of lines
  static constexpr std::size_t kMaxBlocks = 256;
  static constexpr std::size_t kInWord = 64;
  using Bits = std::array<std::atomic<std::uint64_t>, kInBlock / kInWord>;

  struct Block {
    alignas(4096) std::array<TailLine, kInBlock> lines{};
    std::array<TailLine, kInBlock> drained{};
    // SYNC tail-mark; the others relaxed: each bit is a hint, or written under a lock of the user's
    Bits watched{};
    Bits marked{};
    Bits awake{};
  };

  [[nodiscard]] Block& block_of(std::size_t place) const noexcept {
    return *blocks_[place / kInBlock].load(std::memory_order_acquire);  // SYNC tail-blocks
  }
  [[nodiscard]] std::size_t take_free();
  void give_back(std::size_t place) noexcept;
  static void set(Bits& bits, std::size_t place, bool on, std::memory_order order) noexcept;
  [[nodiscard]] static bool get(const Bits& bits, std::size_t place) noexcept;

  std::array<std::atomic<Block*>, kMaxBlocks> blocks_{};
  std::atomic<std::size_t> places_{0};  // SYNC tail-blocks: those that were ever taken

  std::mutex mutex_;  // guards all below
  std::vector<std::unique_ptr<Block>> owned_;
  std::vector<std::size_t> free_;
};

}  // namespace penstock::inline v1
