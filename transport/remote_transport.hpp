// Makes a Transport out of a LinkProvider: registered memory, and the rendezvous over TCP.
#pragma once

#include <memory>

#include "penstock/transport/transport.hpp"

namespace penstock::inline v1 {

/// Ring size of a remote sender where none is given.
inline constexpr std::uint64_t kRemoteCapacity = std::uint64_t{4} << 20U;

[[nodiscard]] std::shared_ptr<Transport> make_remote_transport(
    std::shared_ptr<LinkProvider> provider);

}  // namespace penstock::inline v1
