// The rendezvous: how a sender finds a receiver and the two agree, over a stream socket. The same
// for every transport between processes; what differs is behind Admission and Approach.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "penstock/transport/connection.hpp"
#include "penstock/transport/handshake.hpp"
#include "penstock/transport/transport.hpp"

namespace penstock::inline v1 {

/// Where a control connection is listened for or made to: a host and port, or (host empty, port 0,
/// `local` set) a name on this machine.
struct Endpoint {
  std::string host;
  std::uint16_t port = 0;
  std::string local;  ///< an abstract Unix socket's name
};

/// The two ends of an accepted control connection, as numeric addresses (empty on this machine).
struct StreamEnds {
  std::string local_host;
  std::string peer_host;
  std::string peer;  ///< for people: "192.0.2.7:40122" or "pid 4711"
};

/// The receiver's side of one handshake. Called by the engine thread.
class Admission {
 public:
  Admission() = default;
  Admission(const Admission&) = delete;
  Admission& operator=(const Admission&) = delete;
  Admission(Admission&&) = delete;
  Admission& operator=(Admission&&) = delete;
  virtual ~Admission() = default;
  /// Makes the ring and the receiver's end of the path, and fills in what is the transport's own of
  /// the welcome; descriptors put into `descriptors` travel with it (Unix sockets only).
  /// Throws SetupError: the sender is turned away with its text.
  virtual void welcome(const Hello& hello, const StreamEnds& ends, Welcome& welcome,
                       std::vector<int>& descriptors) = 0;
  /// Joins the path.
  virtual void join(const Ready& ready) = 0;
  /// Takes what comes while the sender proves the path. Throws SetupError where it fails.
  virtual void progress() {}
  /// Gives up what was made.
  virtual InletParts complete() = 0;
};

/// A path at a listener.
struct ListenerPath {
  std::string scheme;
  std::function<std::unique_ptr<Admission>()> admit;
};

/// What the listener says for its transports.
struct ListenerTraits {
  std::string channel;  ///< the only name that is let in
  std::chrono::nanoseconds liveness{};
  MessageType type{};
  std::uint64_t capacity = 0;  ///< bytes of the ring that each Admission makes, at most
  std::vector<ListenerPath> paths;
  Offer offer;  ///< for those who ask; its `paths` may have more, which lie elsewhere
};

/// Listens at `endpoint` and hands accepted senders to `sink`. Throws SetupError (address_in_use,
/// …).
[[nodiscard]] std::unique_ptr<Listener> listen_at(const Endpoint& endpoint, const Uri& uri,
                                                  ListenerTraits traits,
                                                  std::shared_ptr<InletSink> sink);

/// The sender's side of one handshake.
class Approach {
 public:
  Approach() = default;
  Approach(const Approach&) = delete;
  Approach& operator=(const Approach&) = delete;
  Approach(Approach&&) = delete;
  Approach& operator=(Approach&&) = delete;
  virtual ~Approach() = default;
  /// Links that the path may have, for the hello; 0: one.
  [[nodiscard]] virtual std::uint64_t rails() const { return 0; }
  /// Makes the sender's end of the path. `descriptors` came with the welcome.
  virtual Ready ready(const Welcome& welcome, const StreamEnds& ends,
                      std::vector<Fd> descriptors) = 0;
  /// The receiver has joined, too: shows that something gets through. Throws SetupError.
  virtual void prove(TimePoint /*deadline*/) {}
  /// Gives up what was made; the receiver has said go.
  virtual OutletParts complete() = 0;
};

/// Asks the listener at `endpoint` what it has, trying again until `deadline` while there is none.
/// Throws SetupError, also where it would not let this sender in.
[[nodiscard]] Offer ask_at(const Endpoint& endpoint, const Uri& uri, const OutletSettings& settings,
                           TimePoint deadline);

/// Connects to the receiver at `endpoint`, trying again until `deadline` while nobody listens
/// there. Throws SetupError.
[[nodiscard]] OutletParts approach_at(const Endpoint& endpoint, const Uri& uri,
                                      const OutletSettings& settings, TimePoint deadline,
                                      Approach& approach);

/// The sizes of a new inlet: the settings with the transport's defaults filled in. Throws
/// SetupError{geometry_mismatch} where the sender cannot mirror that much.
struct Geometry {
  std::uint64_t capacity;
  std::uint64_t window;
};
[[nodiscard]] Geometry agree(const InletSettings& settings, std::uint64_t default_capacity,
                             std::uint64_t sender_max);

}  // namespace penstock::inline v1
