// What a transport gives to a channel: the two ends of a path from one sender to one receiver.
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "penstock/transport/bell.hpp"
#include "penstock/transport/link.hpp"
#include "penstock/transport/message_type.hpp"
#include "penstock/transport/record.hpp"
#include "penstock/transport/uri.hpp"

namespace penstock::inline v1 {

/// Bits of RingControl::senders_waiting.
enum SenderWait : std::uint32_t {
  kSenderWaits = 1U << 0U,   ///< wants room soon, a batch of it; looks by itself
  kSenderSleeps = 1U << 1U,  ///< wants any there is, and is to be woken
  /// Likewise, without a thread: its process is to be told.
  kSenderRests = 1U << 2U,
  kSenderFlushes = 1U << 3U,  ///< waits for consumption, not for room
  kSenderLands = 1U << 4U,    ///< remote: waits for memory to land in, or for its landing
};
/// Whoever set one of these wants any credit there is.
inline constexpr std::uint32_t kSenderWantsAny = kSenderSleeps | kSenderRests;

/// A sender that waits and looks by itself gets credit when this part of the window was consumed.
inline constexpr std::uint64_t kBatchPart = 16;

/// The words beside a ring that both of its ends touch. For local rings it lives with the ring, in
/// memory that both map; for remote ones each end has its own, fed by the link.
///
/// Who writes what: the receiver `limit`, `window`, `window_lives`, `consumed`, `receiver_closed`,
/// `receiver_barriers`; the sender `sender_gone`, `sender_barriers`; both `receiver_armed` and
/// `senders_waiting` (set by the sleeper, taken by the waker), and `credit_epoch` (raised by the
/// receiver, and by the sender's own process when the path ends). Either may find anything here
/// that the other is not supposed to write.
struct RingControl {
  // Written by the receiver now and then: a sender that waits looks here and disturbs nobody.
  alignas(kLine) std::atomic<std::uint64_t> limit;  ///< the sender may fill up to this cursor,
  std::atomic<std::uint64_t> window;                ///< or so far beyond `consumed` (local rings),
  std::atomic<std::uint32_t> window_lives;          ///< 1: which moves
  // Read by the sender for every message, seldom written.
  alignas(kLine) std::atomic<std::uint32_t> receiver_armed;  ///< 1: the receiver sleeps, wake it
  std::atomic<std::uint32_t> receiver_closed;                ///< 1: no message is taken any more
  /// 1: between arming and its last look the receiver makes a barrier for all (local rings only).
  std::atomic<std::uint32_t> receiver_barriers;
  // Read by the receiver for every release, seldom written. Also a futex of the waiting senders.
  alignas(kLine) std::atomic<std::uint32_t> senders_waiting;
  std::atomic<std::uint32_t>
      credit_epoch;                        ///< futex word: rises whenever waiting senders are woken
  std::atomic<std::uint32_t> sender_gone;  ///< 1: the sender gave up without a fin (inproc only)
  /// 1: between asking for a wake-up and its last look a sender makes a barrier for all.
  std::atomic<std::uint32_t> sender_barriers;
  // Written by the receiver for every message of a local ring.
  alignas(kLine) std::atomic<std::uint64_t> consumed;  ///< everything before it has been consumed
};
static_assert(sizeof(RingControl) == 4 * kLine);
static_assert(std::atomic<std::uint64_t>::is_always_lock_free);
static_assert(std::atomic<std::uint32_t>::is_always_lock_free);

/// A ring's memory as one end sees it.
struct RingMemory {
  std::shared_ptr<void> owner;  ///< keeps data and control mapped
  std::byte* data = nullptr;
  std::uint64_t capacity = 0;  ///< bytes, a power of two
  RingControl* control = nullptr;
  SessionKey key;
};

/// The stream socket beside a path: the handshake's, then liveness and good-byes.
class Connection;

/// What a remote path has besides the ring's memory.
struct LinkEnd {
  std::unique_ptr<Link> link;
  std::byte* credit = nullptr;  ///< at the sender: the credit line that the receiver writes, ...
  bool landings = false;  ///< both ends can have messages land; ... and, after it, the offer line
};

/// The sending end of a path, as made by Transport::connect().
struct OutletParts {
  RingMemory ring;  ///< local: the receiver's ring. Remote: its registered mirror
  LinkEnd remote;   ///< link is null for local paths
  int receiver_wake_fd =
      -1;  ///< local paths: an eventfd to write when receiver_armed was set; owned
  std::shared_ptr<Connection> connection;  ///< null within one process
  std::shared_ptr<Bell> bell;              ///< within one process: rung for kSenderRests
  bool room_frames = false;                ///< the receiver says `room` for kSenderRests
  std::uint64_t window = 0;                ///< bytes granted at the start
  std::uint64_t max_message = 0;           ///< bytes that may go in pieces; 0: none
  std::string peer;
  std::string path;
  std::string rejected;  ///< auto: better paths, and why each was not taken
};

/// How an inlet's window moves.
struct FlowSettings {
  std::chrono::nanoseconds target_delay{};  ///< 0: it does not
  std::uint64_t min_window = 0;
};

/// Where a remote sender's tail line lies, beside those of the receiver's other senders.
struct TailPlace {
  std::shared_ptr<void> owner;  ///< keeps the place; to go after the link that writes there
  TailLine* line = nullptr;
  std::size_t index = 0;
};

/// The receiving end of a path, as handed to InletSink::add().
struct InletParts {
  RingMemory ring;
  TailPlace tail;  ///< remote
  LinkEnd remote;
  std::shared_ptr<Connection> connection;
  std::shared_ptr<Bell> bell;  ///< within one process: to ring for kSenderRests
  bool room_frames = false;    ///< the sender knows `room`
  std::uint64_t window = 0;
  std::uint64_t max_message = 0;  ///< bytes that may come in pieces; 0: none
  FlowSettings flow{};
  std::string peer;
  std::string path;
};

/// What a receiver asks of the senders that come.
struct InletSettings {
  std::uint64_t capacity = 0;  ///< 0: the transport's default
  std::uint64_t window = 0;    ///< 0: the capacity
  std::chrono::nanoseconds liveness{};
  FlowSettings flow{};
  std::uint64_t max_message = 0;  ///< bytes that may come in pieces; 0: none
  MessageType type{};
};

/// What a sender brings.
struct OutletSettings {
  std::chrono::nanoseconds liveness{};
  MessageType type{};
  /// Goes as far as a sender can without the receiver's counting it; only `peer`, `path` and
  /// `rejected` of the parts are filled in.
  bool trial = false;
};

/// Takes the senders that a listener has accepted. Thread-safe; outlives its listeners.
class InletSink {
 public:
  InletSink() = default;
  InletSink(const InletSink&) = delete;
  InletSink& operator=(const InletSink&) = delete;
  InletSink(InletSink&&) = delete;
  InletSink& operator=(InletSink&&) = delete;
  virtual ~InletSink() = default;

  /// False: the receiver has closed meanwhile; the parts are destroyed.
  virtual bool add(InletParts parts) = 0;
  /// A place for a remote sender's tail line. Throws SetupError.
  [[nodiscard]] virtual TailPlace tail_place() = 0;
  /// An inlet is to be looked at in another way from now on.
  virtual void rearranged() noexcept = 0;
  /// A connection was turned away (for the statistics).
  virtual void refused(const std::string& why) = 0;
  /// Wakes the receiver; local senders do the same through wake_fd().
  virtual void notify() noexcept = 0;
  [[nodiscard]] virtual int wake_fd() const noexcept = 0;
};

/// Accepts senders until it is destroyed. Destruction waits for calls into the sink to end, so hold
/// no lock that the sink takes; after it none begins. In a child of the process that made it,
/// destruction leaves the parent's channel alone.
class Listener {
 public:
  Listener() = default;
  Listener(const Listener&) = delete;
  Listener& operator=(const Listener&) = delete;
  Listener(Listener&&) = delete;
  Listener& operator=(Listener&&) = delete;
  virtual ~Listener() = default;
  /// The URI to connect to, with the port that was picked.
  [[nodiscard]] virtual std::string uri() const = 0;
};

/// The receiver's side of one handshake (rendezvous.hpp).
class Admission;

class Transport {
 public:
  Transport() = default;
  Transport(const Transport&) = delete;
  Transport& operator=(const Transport&) = delete;
  Transport(Transport&&) = delete;
  Transport& operator=(Transport&&) = delete;
  virtual ~Transport() = default;

  [[nodiscard]] virtual std::string_view scheme() const noexcept = 0;
  /// URI options of the transport's own, for refusing unknown ones in `uri`.
  [[nodiscard]] virtual std::vector<std::string> option_names(const Uri& uri) const = 0;
  [[nodiscard]] virtual OptionHelp option_help(const std::string& /*name*/) const { return {}; }
  [[nodiscard]] virtual ProbeReport probe() const = 0;
  /// Throws SetupError.
  [[nodiscard]] virtual std::unique_ptr<Listener> listen(const Uri& uri,
                                                         const InletSettings& settings,
                                                         std::shared_ptr<InletSink> sink) = 0;
  /// Remote transports: throws SetupError where links cannot be made here, or not with these
  /// options.
  virtual void check(const Uri& /*uri*/) const {}
  /// Remote transports: makes the admissions of senders at a listener of somebody else's. Empty for
  /// others.
  [[nodiscard]] virtual std::function<std::unique_ptr<Admission>()> admissions(
      const Uri& /*uri*/, const InletSettings& /*settings*/,
      const std::shared_ptr<InletSink>& /*sink*/) {
    return {};
  }
  /// Waits for a receiver until `deadline`. Throws SetupError.
  [[nodiscard]] virtual OutletParts connect(const Uri& uri, const OutletSettings& settings,
                                            std::chrono::steady_clock::time_point deadline) = 0;
};

}  // namespace penstock::inline v1
