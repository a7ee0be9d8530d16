// Who sends and receives at the ends of a typed channel.
#pragma once

#include <cstdint>

namespace penstock::v2 {

/// Between threads of one process: how many send and receive at a time. Each is its own code: ask
/// for no more than needed. `remote`: whoever comes through a URI.
enum class Topology : std::uint8_t { spsc, mpsc, spmc, mpmc, remote };
inline constexpr Topology spsc = Topology::spsc;
inline constexpr Topology mpsc = Topology::mpsc;
inline constexpr Topology spmc = Topology::spmc;
inline constexpr Topology mpmc = Topology::mpmc;
inline constexpr Topology remote = Topology::remote;

[[nodiscard]] constexpr bool several_producers(Topology t) noexcept {
  return t == mpsc || t == mpmc;
}
[[nodiscard]] constexpr bool several_consumers(Topology t) noexcept {
  return t == spmc || t == mpmc;
}

template <class T, Topology kTopology>
class Sender;
template <class T, Topology kTopology>
class Receiver;
template <class T, Topology kTopology>
class WeakSender;
template <class T, Topology kTopology>
class WeakReceiver;
template <class T, Topology kTopology>
class Room;

}  // namespace penstock::v2
