#include "penstock/channel/pack.hpp"

#include <algorithm>
#include <atomic>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace penstock::inline v1 {
namespace {

using Spread = void (*)(std::byte* to, std::size_t stride, const std::byte* from, std::size_t each,
                        std::size_t count) noexcept;

void spread_plainly(std::byte* to, std::size_t stride, const std::byte* from, std::size_t each,
                    std::size_t count) noexcept {
  for (; count != 0; --count, to += stride, from += each) std::memcpy(to, from, each);
}

// A record ends with a vector that overlaps the one before it, where its size is no multiple.

template <std::size_t width>
void move_ends(std::byte* to, const std::byte* from, std::size_t size) noexcept {
  std::memcpy(to, from, width);
  std::memcpy(to + size - width, from + size - width, width);
}

void spread_128(std::byte* to, std::size_t stride, const std::byte* from, std::size_t each,
                std::size_t count) noexcept {
  constexpr std::size_t kWidth = 16;
  for (; count != 0; --count, to += stride, from += each) {
    if (each >= kWidth) {
      for (std::size_t at = 0; at + kWidth <= each; at += kWidth)
        std::memcpy(to + at, from + at, kWidth);
      std::memcpy(to + each - kWidth, from + each - kWidth, kWidth);
    } else if (each >= 8) {
      move_ends<8>(to, from, each);
    } else if (each >= 4) {
      move_ends<4>(to, from, each);
    } else {
      to[0] = from[0];
      to[each / 2] = from[each / 2];
      to[each - 1] = from[each - 1];
    }
  }
}

#if defined(__x86_64__)
[[gnu::target("avx2")]] void spread_256(std::byte* to, std::size_t stride, const std::byte* from,
                                        std::size_t each, std::size_t count) noexcept {
  constexpr std::size_t kWidth = 32;
  if (each < kWidth) return spread_128(to, stride, from, each, count);
  for (; count != 0; --count, to += stride, from += each) {
    for (std::size_t at = 0;; at = std::min(at + kWidth, each - kWidth)) {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + at),
                          _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + at)));
      if (at + kWidth == each) break;
    }
  }
}

[[gnu::target("avx512f")]] void spread_512(std::byte* to, std::size_t stride, const std::byte* from,
                                           std::size_t each, std::size_t count) noexcept {
  constexpr std::size_t kWidth = 64;
  if (each < kWidth) return spread_256(to, stride, from, each, count);
  for (; count != 0; --count, to += stride, from += each) {
    for (std::size_t at = 0;; at = std::min(at + kWidth, each - kWidth)) {
      _mm512_storeu_si512(to + at, _mm512_loadu_si512(from + at));
      if (at + kWidth == each) break;
    }
  }
}
#endif

Spread spread_of(Simd width) noexcept {
  switch (width) {
    case Simd::off: return spread_plainly;
    case Simd::bits128: break;
#if defined(__x86_64__)
    case Simd::bits256: return spread_256;
    case Simd::bits512: return spread_512;
#else
    case Simd::bits256:
    case Simd::bits512: break;
#endif
  }
  return spread_128;
}

// relaxed: whichever is read does the same
std::atomic<Spread>& chosen() noexcept {
  static std::atomic<Spread> spread{spread_of(widest_simd())};
  return spread;
}

}  // namespace

Simd widest_simd() noexcept {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f") != 0) return Simd::bits512;
  if (__builtin_cpu_supports("avx2") != 0) return Simd::bits256;
#endif
  return Simd::bits128;
}

void use_simd(Simd width) noexcept {
  chosen().store(spread_of(std::min(width, widest_simd())), std::memory_order_relaxed);
}

void spread(std::byte* to, std::size_t stride, const std::byte* from, std::size_t each,
            std::size_t count) noexcept {
  if (each == 0) return;
  chosen().load(std::memory_order_relaxed)(to, stride, from, each, count);
}

}  // namespace penstock::inline v1
