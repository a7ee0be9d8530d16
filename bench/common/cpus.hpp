// Where threads run, and how far apart their CPUs are.
#pragma once

#include <cstddef>

namespace contest {

/// Binds this thread to one CPU where there are at least two.
void pin(std::size_t cpu);

/// Nanoseconds that a cache line takes from one CPU to another and back, now. The hypervisor moves
/// CPUs: only what was measured at the same distance can be compared.
[[nodiscard]] double line_round_trip();

/// The class of such a round trip, for a person.
[[nodiscard]] const char* distance(double nanoseconds) noexcept;

}  // namespace contest
