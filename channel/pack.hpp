// Copies records of one size from where they lie one after another to where they lie a stride
// apart: what a batch of small messages becomes in a ring. With the widest vectors that the CPU
// has.
#pragma once

#include <cstddef>
#include <cstdint>

namespace penstock::inline v1 {

enum class Simd : std::uint8_t {
  off,      ///< memcpy for each
  bits128,  ///< SSE2, NEON: what each CPU has
  bits256,  ///< AVX2
  bits512,  ///< AVX-512F
};

/// The widest that this CPU has.
[[nodiscard]] Simd widest_simd() noexcept;
/// What spread() uses from now on, at most widest_simd(). For tests and measurements.
void use_simd(Simd width) noexcept;

/// Copies `count` records of `each` bytes from `from` to `to`, `to + stride`, … Reads and writes no
/// other bytes. Thread-safe.
void spread(std::byte* to, std::size_t stride, const std::byte* from, std::size_t each,
            std::size_t count) noexcept;

}  // namespace penstock::inline v1
