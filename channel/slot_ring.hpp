// SlotRing: a bounded ring of objects between threads of one process, in the form that its number
// of producers and consumers allows.
#pragma once

#include <type_traits>

#include "penstock/channel/run_ring.hpp"
#include "penstock/channel/topology.hpp"
#include "penstock/channel/turn_ring.hpp"

namespace penstock::v2 {

template <class T, Topology kTopology>
using SlotRing =
    std::conditional_t<several_consumers(kTopology), TurnRing<T, several_producers(kTopology)>,
                       RunRing<T, several_producers(kTopology)>>;

}  // namespace penstock::v2
