// The small interface behind which a remote transport lives.
//
// A Link is one connection between a sender and a receiver. It moves bytes by one-sided writes into
// memory that the other end exposed, and 32-bit immediates; it knows nothing of rings, credit or
// messages. Everything above it is written once, in channel/.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "penstock/transport/error.hpp"

namespace penstock::inline v1 {

/// Memory given to a link when it is opened. The caller keeps it alive until the link is destroyed.
struct LinkRegion {
  std::byte* base = nullptr;
  std::size_t length = 0;     ///< bytes
  bool remote_write = false;  ///< the peer may write here; otherwise only a source of writes
};

/// One write into the peer's memory.
struct RemoteWrite {
  const std::byte* source = nullptr;  ///< inside a region of this link, unless `copied`
  std::uint32_t length = 0;           ///< bytes
  std::uint32_t region = 0;           ///< which of the peer's remote_write regions, in its order
  std::uint64_t offset = 0;           ///< in that region
  /// The source is read before post() returns and may be anywhere; at most kMaxCopied bytes.
  bool copied = false;
};
inline constexpr std::uint32_t kMaxCopied = 64;

/// Where memory lies that a peer may write, in words of its link's own: the peer's link understands
/// them, nobody else does.
using LandingPlace = std::array<std::uint64_t, 4>;

/// Memory that was added to a link, beside its regions, for one message. Destruction is a fence:
/// when it returns the peer can write there no more, and the device does not read there any more; a
/// write that is still on its way fails, and its link with it.
class LinkMemory {
 public:
  LinkMemory() = default;
  LinkMemory(const LinkMemory&) = delete;
  LinkMemory& operator=(const LinkMemory&) = delete;
  LinkMemory(LinkMemory&&) = delete;
  LinkMemory& operator=(LinkMemory&&) = delete;
  virtual ~LinkMemory() = default;
  /// What the peer's land() needs to know.
  [[nodiscard]] virtual LandingPlace place() const noexcept = 0;
};

/// One write from memory that was added to this link into memory that was added to the peer's.
struct LandingWrite {
  const LinkMemory* source = nullptr;
  std::uint64_t offset = 0;  ///< in both
  std::uint32_t length = 0;  ///< bytes, at most LinkLimits::max_write
  LandingPlace place{};
};

struct LinkEvent {
  enum class Kind : std::uint8_t {
    completed,  ///< all posts up to and including `value` have landed and their sources are free
    immediate,  ///< `value` is an immediate from the peer; writes posted before it have landed
    failed,     ///< the link is dead; error() has the first cause. Reported once
  };
  Kind kind;
  std::uint64_t value;
};

enum class PostStatus : std::uint8_t { posted, no_room, failed };

/// What a link can carry, read from the device, never assumed.
struct LinkLimits {
  std::uint32_t max_writes = 0;  ///< writes in one post, at least 3
  std::uint32_t max_write = 0;   ///< bytes in one write
  std::uint32_t packet = 0;      ///< bytes that travel as one packet: the bound for a hot record
  /// Immediates that may be on their way to this end at once; it takes them in poll(). A constant
  /// of the transport: each end counts on its peer's being its own.
  std::uint32_t receives = 0;
  /// Two writes of one link are placed in the order in which they were posted, and poll() has an
  /// immediate before a write posted after it is placed. Where false, only an immediate proves what
  /// came before it. Of a post whose last write is `copied`, what comes before that may be placed
  /// earlier than its turn, and in any order (railed_link.hpp).
  bool ordered_writes = false;
  bool landings = false;  ///< add_memory() and land() may be used
};

/// Counters since the link was opened.
struct LinkCounters {
  std::uint64_t posts = 0;          ///< calls that rang the device's doorbell
  std::uint64_t work_requests = 0;  ///< writes and immediates handed over in them
  std::uint64_t completions = 0;    ///< completions taken from the device
  std::uint64_t immediates = 0;     ///< immediates sent
  std::uint64_t lost_rails = 0;     ///< links of which it was made that failed; path() says which
};

/// Thread-safety: no two calls at the same time (the caller holds the link's progress token),
/// except event_fd(). Destruction fences: when it returns, nothing of the peer lands any more.
class Link {
 public:
  Link() = default;
  Link(const Link&) = delete;
  Link& operator=(const Link&) = delete;
  Link(Link&&) = delete;
  Link& operator=(Link&&) = delete;
  virtual ~Link() = default;

  /// What the peer's connect() needs to know; at most 4096 bytes. Valid once the link is open.
  [[nodiscard]] virtual std::vector<std::byte> describe() const = 0;
  /// Joins this end to the peer that described itself so. Throws SetupError.
  virtual void connect(std::span<const std::byte> peer) = 0;
  [[nodiscard]] virtual LinkLimits limits() const noexcept = 0;

  /// Hands over the writes in order, the immediate (if any) with or after the last, as one post.
  /// Both may not be empty. `cookie` comes back as the value of a `completed` event; cookies of one
  /// link must rise, from 0 on. no_room: poll() until something completes. Takes no lock, does not
  /// block.
  [[nodiscard]] virtual PostStatus post(std::span<const RemoteWrite> writes,
                                        std::optional<std::uint32_t> immediate,
                                        std::uint64_t cookie) noexcept = 0;
  /// Adds memory for one message: for the peer to write where `remote_write`, else a source of
  /// land(). Null where the device refuses, which is no failure of the link. Takes as long as
  /// pinning that many bytes does. Thread-safe, beside every other call, as is the destruction of
  /// what it returns, which must come before the link's.
  ///
  /// A link made of several may leave landings out, or add the memory to each: one address, a key
  /// for each in the rest of the place.
  [[nodiscard]] virtual std::unique_ptr<LinkMemory> add_memory(
      const LinkRegion& /*memory*/) noexcept {
    return nullptr;
  }
  /// Hands over one such write, as post() does those into regions, and with cookies of the same
  /// row. A place that is none, or that the peer has taken back, fails the link. Not ordered
  /// against posts: what is to be seen after it is posted after its completion.
  [[nodiscard]] virtual PostStatus land(const LandingWrite& /*write*/,
                                        std::uint64_t /*cookie*/) noexcept {
    return PostStatus::failed;
  }
  /// Takes up to events.size() events and returns how many. Does not block.
  [[nodiscard]] virtual std::size_t poll(std::span<LinkEvent> events) noexcept = 0;

  /// event_fd() becomes readable at the next event of the kinds asked for, and stays so until
  /// disarm(), although poll() may have taken the event meanwhile. Poll once more after this
  /// returns: an event may have come just before. May wake spuriously.
  virtual void arm(bool completions, bool immediates) noexcept = 0;
  /// Takes what made event_fd() readable; call arm() again afterwards.
  virtual void disarm() noexcept = 0;
  /// A descriptor to poll for reading; the link owns it.
  [[nodiscard]] virtual int event_fd() const noexcept = 0;
  /// `apart`: what was armed makes the descriptor that this returns readable instead, which wakes a
  /// thread that polls it sooner, and event_fd() only what arm() need not ask for. -1: there is
  /// none, or no memory left for it, and nothing has changed.
  [[nodiscard]] virtual int events_apart(bool /*apart*/) noexcept { return -1; }

  /// The first failure, in words: what completed with which status, peer, likely cause, remedy.
  [[nodiscard]] virtual std::string error() const = 0;
  [[nodiscard]] virtual LinkCounters counters() const noexcept = 0;
  /// The path in words, for stats and logs: device, port, GID, queue pair.
  [[nodiscard]] virtual std::string path() const = 0;
};

/// What is known of a transport on this machine, for `penstock info`.
struct ProbeReport {
  bool available = false;
  std::string reason;  ///< when not available: why, and what to do about it
  std::string json;    ///< devices and their properties, a JSON array; "[]" when there are none
};

struct LinkConfig {
  std::string local_host;  ///< numeric address of this end of the control connection
  std::string peer_host;   ///< numeric address of its other end
  std::string options;     ///< the URI's query, for options of the transport's own
  std::vector<LinkRegion> regions;
};

/// Links that one path may have.
inline constexpr std::size_t kMaxRails = 8;

/// What there is to know of an option, for people.
struct OptionHelp {
  std::string values;  ///< what it takes, and first what it is where it is not given
  std::string text;    ///< what it is, one sentence
};

/// A remote transport: makes links. Thread-safe.
class LinkProvider {
 public:
  LinkProvider() = default;
  LinkProvider(const LinkProvider&) = delete;
  LinkProvider& operator=(const LinkProvider&) = delete;
  LinkProvider(LinkProvider&&) = delete;
  LinkProvider& operator=(LinkProvider&&) = delete;
  virtual ~LinkProvider() = default;

  [[nodiscard]] virtual std::string_view scheme() const noexcept = 0;
  /// The URI options that belong to this transport.
  [[nodiscard]] virtual std::vector<std::string> option_names() const = 0;
  [[nodiscard]] virtual OptionHelp option_help(const std::string& /*name*/) const { return {}; }
  /// Whether links can be made here, or why not, and with which devices.
  [[nodiscard]] virtual ProbeReport probe() const = 0;
  /// Called for every bind and connect, before anybody is waited for: throws SetupError where no
  /// link can be made here, or none with these options (a URI's query).
  virtual void check(const std::string& /*options*/) const {
    if (const ProbeReport report = probe(); !report.available)
      throw SetupError(Errc::transport_unavailable, report.reason);
  }
  /// The rails that `options` ask for from this end of the control connection (empty: not known
  /// yet): for each, the options with which open() makes it. At least one, the first being the
  /// best. Throws SetupError{bad_uri}.
  [[nodiscard]] virtual std::vector<std::string> rails(const std::string& options,
                                                       const std::string& /*local_host*/) const {
    return {options};
  }
  /// Throws SetupError (transport_unavailable, resource_limit, bad_uri).
  [[nodiscard]] virtual std::unique_ptr<Link> open(const LinkConfig& config) = 0;
};

}  // namespace penstock::inline v1
