// What a channel's end can say of itself.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "penstock/channel/options.hpp"
#include "penstock/transport/publish_mode.hpp"

namespace penstock::inline v1 {

/// The state of a peer as this end sees it.
enum class PeerState : std::uint8_t {
  connected,
  stalled,  ///< silent for a quarter of the liveness deadline: stopped, paused, or cut off
  closed,   ///< said good-bye: a sender when all it sent was delivered, a receiver to take no more
  lost,     ///< gone without a good-bye, or the path to it failed
};
[[nodiscard]] const char* to_string(PeerState state) noexcept;

/// Names one sender at a receiver; never reused within a process. 0 is no source.
using SourceId = std::uint64_t;

/// How far messages got. This end's own count is exact; what the peer did is a lower bound.
/// accepted: taken by send() or commit(); delivered: in the receiver's memory;
/// consumed: handed to the receiving application and released.
struct Progress {
  std::uint64_t accepted = 0;
  std::uint64_t delivered = 0;
  std::uint64_t consumed = 0;
};

[[nodiscard]] const char* to_string(PublishMode mode) noexcept;

/// Work done by a remote path since it was opened; zero for local ones.
struct PathStats {
  std::uint64_t posts = 0;
  std::uint64_t work_requests = 0;
  std::uint64_t completions = 0;
  std::uint64_t credit_writes = 0;  ///< credit lines that the receiver wrote
  std::uint64_t arming_writes = 0;  ///< of them, for wake-ups: that it sleeps, or took them
  std::uint64_t immediates = 0;
  std::uint64_t hot_publishes = 0;
  std::uint64_t lost_rails = 0;          ///< links of several that failed; `path` says which
  std::uint64_t mode_changes = 0;        ///< how often the receiver asked for another mode
  PublishMode mode = PublishMode::tail;  ///< how the sender publishes now
};

/// How a window moves (BindOptions::target_delay). In bytes; of a typed channel, in messages.
struct WindowStats {
  std::uint64_t now = 0;       ///< what a sender may fill
  std::uint64_t smallest = 0;  ///< since the consumer's rate is known; 0: not yet
  std::uint64_t largest = 0;
  double rate = 0;   ///< consumption in a second of work, of late; 0: not known
  Duration delay{};  ///< what was known to wait at the last look, at that rate
};

/// One sender and its ring.
struct SourceStats {
  SourceId id = 0;
  PeerState state = PeerState::connected;
  std::string peer;  ///< "inproc", "pid 4711", "192.0.2.7:40122 pid 4711"
  std::string path;  ///< the path in words; a lost peer's also says why
  std::uint64_t capacity = 0;
  std::uint64_t window = 0;  ///< the largest that it may be
  WindowStats flow;          ///< of a fixed window: that size, and nothing measured
  Progress progress;
  PathStats work;
  std::uint64_t landings = 0;  ///< messages that the sender wrote to memory of their own
};

struct SenderStats {
  PeerState state = PeerState::connected;
  std::string peer;
  std::string path;
  std::string rejected;  ///< auto: better paths, and why each was not taken
  std::string error;     ///< why the peer was lost; empty otherwise
  std::uint64_t capacity = 0;
  std::uint64_t window = 0;
  std::uint64_t max_message = 0;   ///< bytes
  std::uint64_t max_in_place = 0;  ///< bytes of a message that goes in one piece
  Progress progress;
  std::uint64_t bytes = 0;   ///< payload accepted
  std::uint64_t stalls = 0;  ///< times a send found no credit
  std::uint64_t parks = 0;   ///< times a send went to sleep for it
  PathStats work;
  std::uint64_t landings = 0;  ///< messages written straight into the receiver's memory
  /// Bytes of the shortest message that goes so now; 0: none does.
  std::uint64_t landing_from = 0;
};

struct ReceiverStats {
  std::uint64_t messages = 0;        ///< consumed, from all senders there ever were
  std::uint64_t bytes = 0;           ///< payload consumed
  std::uint64_t parks = 0;           ///< times recv() went to sleep
  std::uint64_t refused = 0;         ///< connections turned away: strangers, mismatches, budget
  std::string last_refusal;          ///< why the last of them was
  std::vector<SourceStats> sources;  ///< senders connected now, and lost ones not yet reported
};

}  // namespace penstock::inline v1
