// What one CPU takes away from another at a time.
#pragma once

#include <cstddef>

namespace penstock::inline v1 {

/// Destructive interference size, ours: layouts cross processes and builds, so it may not change
/// with a compiler flag.
inline constexpr std::size_t kLine = 64;

}  // namespace penstock::inline v1
