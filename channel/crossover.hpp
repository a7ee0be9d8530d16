// Which messages land in the receiver's memory, and which go through the ring: what took less time
// for messages of about that size.
//
// For each power of two of sizes it keeps what a byte took, either way. Both are tried at first,
// then the quicker one is taken, and the other now and then, the seldomer the slower it was, so
// that trying costs about a thirtieth. No clock, no I/O.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>

#include "penstock/channel/options.hpp"

namespace penstock::inline v1 {

/// Thread-safe. Relaxed throughout: estimates, of which a lost one does no harm.
class Crossover {
 public:
  /// Shorter ones go through the ring, where nothing else is asked for: asking for memory takes a
  /// way there and back, and that is what they take.
  static constexpr std::uint64_t kLeast = std::uint64_t{256} << 10U;

  /// `from`: ConnectOptions::landing.
  explicit Crossover(std::uint64_t from) noexcept
      : least_(from == kLandingAuto ? kLeast : from), measures_(from == kLandingAuto) {}

  /// Bytes of a message that may land at all.
  [[nodiscard]] std::uint64_t least() const noexcept { return least_; }
  /// How the next message, of `size` bytes, is to go.
  [[nodiscard]] bool lands(std::uint64_t size) noexcept;
  /// One went, in this time.
  void took(std::uint64_t size, bool landed, std::chrono::nanoseconds time) noexcept;
  /// The receiver had no memory for one, or there was none to be registered here: the next few do
  /// not ask; the oftener that happens, the more.
  void refused() noexcept;
  /// Bytes of the shortest message that lands, as it looks now; 0: none does.
  [[nodiscard]] std::uint64_t from() const noexcept;

 private:
  /// One way of sending.
  struct Way {
    std::atomic<float> cost{0};           // nanoseconds for a byte; 0: not known
    std::atomic<std::uint32_t> tries{0};  // chosen so often
  };
  struct Class {
    Way ring;
    Way landing;
    std::atomic<std::uint32_t> since{0};  // messages since the slower way was tried
    [[nodiscard]] bool landing_is_quicker() const noexcept;
  };
  static constexpr std::size_t kClasses = 19;  // 4 KiB to 1 GiB
  [[nodiscard]] static std::size_t class_of(std::uint64_t size) noexcept;

  const std::uint64_t least_;
  const bool measures_;
  std::array<Class, kClasses> classes_{};
  std::atomic<std::uint32_t> refusals_{0};  // since one landed
  std::atomic<std::uint32_t> pause_{0};     // messages that are not to ask
};

}  // namespace penstock::inline v1
