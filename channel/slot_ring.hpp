// SlotRing: a bounded ring of objects between threads of one process, in the form that its number
// of producers and consumers allows.
#pragma once

#include <cstdint>
#include <type_traits>

#include "penstock/channel/run_ring.hpp"
#include "penstock/channel/turn_ring.hpp"

namespace penstock::v2 {

/// How many threads send and receive at a time. Each is its own code: ask for no more than needed.
enum class Topology : std::uint8_t { spsc, mpsc, spmc, mpmc };
inline constexpr Topology spsc = Topology::spsc;
inline constexpr Topology mpsc = Topology::mpsc;
inline constexpr Topology spmc = Topology::spmc;
inline constexpr Topology mpmc = Topology::mpmc;

[[nodiscard]] constexpr bool several_producers(Topology t) noexcept {
  return t == mpsc || t == mpmc;
}
[[nodiscard]] constexpr bool several_consumers(Topology t) noexcept {
  return t == spmc || t == mpmc;
}

template <class T, Topology kTopology>
using SlotRing =
    std::conditional_t<several_consumers(kTopology), TurnRing<T, several_producers(kTopology)>,
                       RunRing<T, several_producers(kTopology)>>;

}  // namespace penstock::v2
