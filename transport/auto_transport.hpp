// auto://host:port/name: the best way to a receiver, whichever that is.
#pragma once

#include <memory>

#include "penstock/transport/transport.hpp"

namespace penstock::inline v1 {

/// A listener of it has one port, where whoever asks is told what it has (ask_at()); remote paths
/// are admitted there, those within this machine at a place of their own with a random name, which
/// the answer has. A sender tries the paths in its order (`?paths=`, "inproc,shm,rdma,ucx" where
/// none is given) and takes the first that it gets through: inproc where the place is in this
/// process, shm where its socket can be reached and its memory mapped, which neither another host
/// nor another network namespace can feign, a remote one where a packet came through
/// (Approach::prove()).
///
/// The last of a listener's paths is opened only when a sender comes for it.
///
/// It is made of the other transports: each other's options are its own, too. A path that one end
/// cannot have is left out, and the reason kept; that none is left is an error with all reasons.
[[nodiscard]] std::shared_ptr<Transport> make_auto();

}  // namespace penstock::inline v1
