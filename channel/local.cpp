#include "penstock/channel/local.hpp"

#include <bit>
#include <string>

namespace penstock::v2 {

std::size_t checked_capacity(std::size_t capacity) {
  if (capacity == 0)
    throw SetupError(Errc::bad_option,
                     "channel: a capacity of 0 holds no message: give at least 1");
  if (capacity > kMaxSlots)
    throw SetupError(Errc::bad_option, "channel: a capacity of " + std::to_string(capacity) +
                                           " messages is above " + std::to_string(kMaxSlots) +
                                           ": a negative number, perhaps?");
  return std::bit_ceil(capacity);
}

Duration checked_target(Duration target, Topology topology) {
  if (target < Duration::zero())
    throw SetupError(Errc::bad_option,
                     "channel: a target_delay below 0: 0 uses the whole capacity, always");
  if (target > Duration::zero() && several_consumers(topology))
    throw SetupError(Errc::bad_option,
                     "channel: a target_delay needs one receiver (spsc, mpsc): with several, each "
                     "place in the ring comes back by itself. Choose a smaller capacity, or one "
                     "receiver that hands on");
  return target;
}

void no_memory_for(std::size_t capacity, std::size_t bytes_each) {
  throw SetupError(Errc::resource_limit, "channel: no memory for " + std::to_string(capacity) +
                                             " messages of " + std::to_string(bytes_each) +
                                             " bytes: ask for a smaller capacity");
}

}  // namespace penstock::v2
