#include "penstock/channel/proof.hpp"

#define XXH_INLINE_ALL
#include <xxhash.h>

namespace penstock::inline v1 {

Prover::Prover(const SessionKey& key) noexcept : key_(key) {
  // Both ends draw the same secret from the key (docs/wire.md).
  for (std::size_t i = 0; i < secret_.size(); ++i)
    secret_[i] = fold(key.word[i % 4] ^ (i + 1), key.word[(i / 4 + 1) % 4] ^ ~std::uint64_t{i});
}

std::uint64_t Prover::prove(Cursor cursor, std::uint64_t word, const std::byte* payload,
                            std::uint32_t length) const noexcept {
  const auto hash = XXH3_64bits_withSecret(payload, length, secret_.data(), sizeof secret_);
  return fold(hash ^ key_.word[2], key_.mark(cursor, word) ^ key_.word[3]);
}

}  // namespace penstock::inline v1
