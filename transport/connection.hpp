// The control connection after the handshake: liveness, good-byes.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>

#include "penstock/transport/engine.hpp"
#include "penstock/transport/fork.hpp"
#include "penstock/transport/handshake.hpp"

namespace penstock::inline v1 {

/// Told by the engine thread what a control connection brings. Calls come one at a time.
class ConnectionObserver {
 public:
  ConnectionObserver() = default;
  ConnectionObserver(const ConnectionObserver&) = delete;
  ConnectionObserver& operator=(const ConnectionObserver&) = delete;
  ConnectionObserver(ConnectionObserver&&) = delete;
  ConnectionObserver& operator=(ConnectionObserver&&) = delete;
  virtual ~ConnectionObserver() = default;

  /// The peer said good-bye: a sender with the cursor where its messages end, a receiver with the
  /// cursor up to which it consumed. The last call.
  virtual void on_goodbye(Cursor cursor) noexcept = 0;
  /// The peer is gone: its end was closed without a good-bye, it broke the protocol, or it was
  /// silent for the whole liveness deadline. The last call.
  virtual void on_lost(const std::string& why) noexcept = 0;
  /// The receiver has credit for a sender that had asked to be told so.
  virtual void on_room() noexcept {}
  /// The peer has been silent for a quarter of the deadline, or is back.
  virtual void on_stalled(bool stalled) noexcept = 0;
};

/// Owns the socket. Each side pings the other within an eighth of the other's deadline; whatever
/// arrives counts as a sign of life. Thread-safe.
///
/// Quiet: the pings of all connections of a process with the same deadline go out together, and
/// what arrives is looked at then, not when it comes, so that a process wakes as often for a
/// thousand idle peers as for one. An end that hangs up is heard of at once, and its good-bye with
/// it.
class Connection final : public EngineHandler, public std::enable_shared_from_this<Connection> {
 public:
  struct Timing {
    std::chrono::nanoseconds own{};   ///< this side's liveness deadline
    std::chrono::nanoseconds peer{};  ///< the other side's
  };

  Connection(Fd socket, Timing timing, FrameReader rest) noexcept;
  ~Connection() override;

  /// From now on the observer is told. Throws SetupError.
  void start(std::weak_ptr<ConnectionObserver> observer);
  /// From now on what arrives is looked at when it comes: somebody waits for `room`.
  void listen_closely() noexcept;
  /// Ends the handshake: the sender may publish from now on.
  void say_go() noexcept;
  /// Says bye or closed, with its cursor. Never blocks: where the socket's buffer is full the peer
  /// will see a lost connection instead.
  void say_goodbye(FrameType type, Cursor cursor) noexcept;
  /// Tells a sender that there is room. Never blocks: where the socket's buffer is full it is full
  /// of what tells the same, not read yet.
  void say_room() noexcept;
  /// The path beside this connection has failed. A peer that closes says so here and then takes its
  /// end of the path down, so its good-bye is given a moment before it counts as lost.
  void suspect(const std::string& why) noexcept;
  /// Stops telling the observer and closes the socket. No call is running when it returns, unless
  /// it is made from within one.
  void stop() noexcept;

  void on_ready(std::uint32_t events) noexcept override;
  void on_time(TimePoint now) noexcept override;

 private:
  void send(std::span<const std::byte> frame) noexcept;
  void listen(bool closely) noexcept;
  void lost(const std::string& why) noexcept;
  enum class Heard : std::uint8_t { nothing, something, end };
  [[nodiscard]] Heard read_some();
  /// False: this connection is over.
  [[nodiscard]] bool take_frames(ConnectionObserver& observer);
  [[nodiscard]] bool over() noexcept;
  void read_all(ConnectionObserver& observer);
  [[nodiscard]] std::string reason_of_end(int error);
  void schedule(TimePoint now);

  const Birth birth_;
  Fd socket_;  // taken by stop(), which waits for the engine's calls first
  const Timing timing_;
  FrameReader reader_;                          // engine thread only
  std::weak_ptr<ConnectionObserver> observer_;  // set before the engine knows us
  std::mutex mutex_;       // guards writing, socket_'s taking, and the four below
  bool closely_ = false;   // listen_closely()
  bool done_ = false;      // nothing is told any more; each call of the engine looks first
  std::string suspicion_;  // empty: none
  TimePoint suspected_at_{};
  TimePoint last_heard_;   // engine thread only
  bool listening_ = true;  // engine thread only: called for everything that arrives
  bool stalled_ = false;   // engine thread only
};

}  // namespace penstock::inline v1
