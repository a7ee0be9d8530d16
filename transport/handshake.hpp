// What travels on the control connection: framed messages with tagged fields. docs/wire.md has the
// bytes. All integers are little-endian.
//
//   sender                         receiver
//     hello  ───────────────────────▶        who, which channel, which paths
//            ◀───────────────────────  welcome (or reject)   ring, key, the path's address
//     ready  ───────────────────────▶        the sender's end of the path
//            ◀───────────────────────  prove (or go, or reject)
//     proven ───────────────────────▶        something got through the path
//            ◀───────────────────────  go                    publish from now on
//   A hello for the path "auto" asks what there is: the answer is an offer, and the end.
//   then, either way: ping; bye (the sender has closed, with its last cursor); closed (the receiver
//   has closed or received everything, with the cursor up to which it consumed); room (there is
//   credit for a sender that waits without a thread)
#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "penstock/transport/error.hpp"
#include "penstock/transport/message_type.hpp"
#include "penstock/transport/record.hpp"

namespace penstock::inline v1 {

inline constexpr std::uint16_t kWireVersion = 1;
/// Feature bit: a receiver of a shared ring sends `room` where the sender asks for it.
inline constexpr std::uint64_t kRoomFrames = 1U << 0U;
/// Feature bit: long messages may land in memory that a remote receiver offers. Of the receiver:
/// its link can do that.
inline constexpr std::uint64_t kLandings = 1U << 1U;
/// Feature bit: the receiver of a remote path says `prove`, and go after that.
inline constexpr std::uint64_t kProof = 1U << 2U;
/// Feature bits that this version knows. A peer that requires others is refused.
inline constexpr std::uint64_t kKnownFeatures = kRoomFrames | kLandings | kProof;

/// The path of a hello that asks for an offer: no scheme of a transport's own.
inline constexpr const char* kAnyPath = "auto";

enum class FrameType : std::uint16_t {
  hello = 1,
  welcome = 2,
  reject = 3,
  ready = 4,
  go = 5,
  ping = 6,
  bye = 7,
  closed = 8,
  room = 9,
  offer = 10,
  prove = 11,
  proven = 12,
};

/// In front of every message on a control connection, 12 bytes.
struct FrameHeader {
  std::uint32_t magic;
  std::uint16_t type;
  std::uint16_t reserved;
  std::uint32_t length;  ///< of the body, bytes
};
static_assert(sizeof(FrameHeader) == 12);
inline constexpr std::uint32_t kFrameMagic = 0x3154'4E50;  // "PNT1"
inline constexpr std::uint32_t kMaxFrame = 16 * 1024;

using SessionId = std::array<std::uint8_t, 16>;

struct Hello {
  std::uint16_t version_min = kWireVersion;
  std::uint16_t version_max = kWireVersion;
  std::uint64_t features_required = 0;
  std::uint64_t features_offered = 0;
  SessionId session{};            ///< names the session, not the link: for resuming
  std::uint64_t incarnation = 0;  ///< rises with every link of one session
  MessageType type;
  std::string channel;             ///< the URI's name
  std::vector<std::string> paths;  ///< schemes offered, best first
  std::uint64_t page_size = 0;     ///< granularity of the sender's memory
  std::uint64_t max_capacity = 0;  ///< the largest ring that the sender will mirror
  std::uint64_t liveness_ns = 0;   ///< the sender's own deadline: ping it well within
  std::uint64_t process = 0;       ///< process id, for people
  std::uint64_t rails = 0;         ///< links that the path may have; 0: one
  std::vector<std::byte> authentication;
};

struct Welcome {
  std::uint16_t version = kWireVersion;
  std::uint64_t features = 0;
  SessionId session{};
  std::uint64_t incarnation = 0;
  std::string path;  ///< the scheme chosen
  std::uint64_t capacity = 0;
  std::uint64_t window = 0;
  std::uint64_t max_message = 0;  ///< the longest that may come in pieces; 0: none may
  std::uint64_t page_size = 0;
  SessionKey key;
  std::uint64_t liveness_ns = 0;
  std::uint64_t process = 0;
  std::vector<std::byte> link;  ///< the receiver's end, as Link::describe() has it
  /// Of further rails, in order; no more than the hello asked for.
  std::vector<std::vector<std::byte>> rails;
};

struct Ready {
  std::vector<std::byte> link;
  std::vector<std::vector<std::byte>> rails{};  ///< no more than the welcome has
};

struct Reject {
  Errc code = Errc::handshake_failed;
  std::string text;
};

/// What a listener has.
struct Offer {
  std::string place;               ///< where local paths lie: a name for inproc: and shm:; or empty
  std::vector<std::string> paths;  ///< schemes
  std::vector<std::string> lacks;  ///< "scheme: why", for people
};

/// A whole frame, header included.
[[nodiscard]] std::vector<std::byte> encode(const Hello& hello);
[[nodiscard]] std::vector<std::byte> encode(const Welcome& welcome);
[[nodiscard]] std::vector<std::byte> encode(const Ready& ready);
[[nodiscard]] std::vector<std::byte> encode(const Reject& reject);
[[nodiscard]] std::vector<std::byte> encode(const Offer& offer);
// What is sent when the channel is up allocates nothing.
inline constexpr std::size_t kEmptySize = sizeof(FrameHeader);
inline constexpr std::size_t kGoodbyeSize = kEmptySize + 8 + sizeof(Cursor);
[[nodiscard]] std::array<std::byte, kEmptySize> encode_empty(FrameType type) noexcept;
[[nodiscard]] std::array<std::byte, kGoodbyeSize> encode_goodbye(FrameType type,
                                                                 Cursor cursor) noexcept;

/// From a frame's body. Throws SetupError: handshake_failed for bytes that make no sense,
/// feature_mismatch for a must-understand field that this version does not know.
[[nodiscard]] Hello decode_hello(std::span<const std::byte> body);
[[nodiscard]] Welcome decode_welcome(std::span<const std::byte> body);
[[nodiscard]] Ready decode_ready(std::span<const std::byte> body);
[[nodiscard]] Reject decode_reject(std::span<const std::byte> body);
[[nodiscard]] Offer decode_offer(std::span<const std::byte> body);
[[nodiscard]] Cursor decode_goodbye(std::span<const std::byte> body);

struct Frame {
  FrameType type;
  std::vector<std::byte> body;
};

/// The liveness time that a peer says it has, kept to what can be served: from 10 ms (a ping every
/// millisecond or so) to an hour.
[[nodiscard]] std::chrono::nanoseconds liveness_of(std::uint64_t ns) noexcept;

/// Cuts a byte stream into frames. Used in turns (append, then next() until there is none) it holds
/// less than one frame and what was appended last.
class FrameReader {
 public:
  void append(std::span<const std::byte> bytes);
  /// The next whole frame, if there is one. Throws SetupError{handshake_failed} when the bytes are
  /// not ours; they are judged as early as their first byte.
  [[nodiscard]] std::optional<Frame> next();

 private:
  std::vector<std::byte> buffer_;
  std::size_t begin_ = 0;  // of what next() has not handed out
};

}  // namespace penstock::inline v1
