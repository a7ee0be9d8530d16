// Delivery within one machine: the sender stores straight into the receiver's ring.
#pragma once

#include <memory>

#include "penstock/transport/transport.hpp"

namespace penstock::inline v1 {

/// Ring size of a local sender where none is given.
inline constexpr std::uint64_t kLocalCapacity = std::uint64_t{1} << 20U;

/// `inproc:name`: between threads of one process.
[[nodiscard]] std::shared_ptr<Transport> make_inproc();

/// `shm:name`: between processes of one host and one user. The ring lies in a sealed memfd that the
/// receiver makes; a control connection over an abstract Unix socket carries it.
///
/// Trust: a sender cannot harm a receiver's memory or another sender's ring. But all senders of a
/// receiver hold its eventfd, so each could take wake-ups that others sent, or make it block; they
/// trust each other that far. They are of one user, or root's; a receiver that runs as root lets in
/// everybody, and so trusts everybody with this.
[[nodiscard]] std::shared_ptr<Transport> make_shm();

}  // namespace penstock::inline v1
