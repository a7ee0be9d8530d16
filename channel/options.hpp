// Settings of one end of a channel. Every field can also be given in the environment, under the
// same name (`PENSTOCK_CAPACITY=4MiB`), where it wins over the struct, and in the URI
// (`?capacity=4MiB&spin=50us`), where it wins over both.
#pragma once

#include <chrono>
#include <cstdint>

namespace penstock::inline v1 {

using Duration = std::chrono::nanoseconds;

/// "For ever", for spin and deadlines.
inline constexpr Duration kForever = Duration::max();

/// How long a call that found nothing to do keeps looking before its thread sleeps. Spinning costs
/// a CPU and saves a wake-up (microseconds); kForever never sleeps.
inline constexpr Duration kDefaultSpin = std::chrono::microseconds(50);

/// How remote senders tell a receiver of their messages (docs/adr/004-publish-modes.md).
enum class Publishing : std::uint8_t {
  automatic,  ///< as their number and traffic, and the device, make best
  tail,
  hot,
  immediate,  ///< always where the device promises no order of writes
  turns,      ///< each in turn, changing often: for tests
};

/// Bytes of the longest message, in however many pieces.
inline constexpr std::uint64_t kMaxMessage = std::uint64_t{1} << 30U;

/// ConnectOptions::landing: as it was measured to be quicker, and never.
inline constexpr std::uint64_t kLandingAuto = 0;
inline constexpr std::uint64_t kLandingNever = ~std::uint64_t{0};
/// The least that may be asked for; in a URI also called `always`.
inline constexpr std::uint64_t kLeastLanding = 4096;

struct BindOptions {
  /// Bytes of one sender's ring; a power of two from 4 KiB to 128 MiB. 0: the transport's default
  /// (1 MiB local, 4 MiB remote). Memory is capacity × senders at the receiver and, for remote
  /// senders, capacity at each sender.
  std::uint64_t capacity = 0;
  /// Bytes of the ring that a sender may fill; at most the capacity. 0: the capacity.
  /// The largest message that goes in one piece has window / 2 - 16 bytes.
  std::uint64_t window = 0;
  /// Bytes, up to kMaxMessage: messages too long for one piece are taken, too, up to this. They
  /// come in pieces through the ring, however small it is, and are put together in memory of their
  /// own: so much for each sender's, and for those that are held. 0: none are taken.
  std::uint64_t max_message = 0;
  /// Above 0: the window lives. It moves between `min_window` and `window`, so that a message that
  /// was accepted waits for about so long before it is received, however slow the receiver
  /// (docs/flow-control.md). 0: it is `window`, always.
  Duration target_delay{};
  /// Bytes; 0: 4 KiB. A sender may count on so much, and on any one message in an empty ring.
  std::uint64_t min_window = 0;
  Duration spin = kDefaultSpin;
  /// A sender that has been silent for so long counts as lost; after a quarter of it, as stalled.
  Duration liveness = std::chrono::seconds(10);
  Publishing publish = Publishing::automatic;
  /// recv() does not report `closed` when the last sender has closed, but waits for the next one.
  bool persistent = false;
};

struct ConnectOptions {
  /// How long connect() waits for a receiver to be there.
  Duration deadline = std::chrono::seconds(10);
  /// How long the last Sender's destructor waits until everything sent is in the receiver's memory.
  Duration linger = std::chrono::seconds(5);
  Duration spin = kDefaultSpin;
  /// A receiver that has been silent for so long counts as lost; after a quarter of it, as stalled.
  Duration liveness = std::chrono::seconds(10);
  /// Remote, where the receiver takes long messages (`max_message`): those of so many bytes and
  /// more are written straight from the caller's memory into memory that the receiver offers for
  /// each. kLandingAuto: those of 256 KiB and more, where that is quicker
  /// (docs/adr/016-landing.md).
  std::uint64_t landing = kLandingAuto;
};

}  // namespace penstock::inline v1
