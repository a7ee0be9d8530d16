// One sender and one receiver under an open load: messages are sent when their time has come,
// whatever became of those before.
//
// Latency counts from the time a message was meant to be sent. Where the channel or its receiver
// stands still, the messages that should have gone meanwhile are late, too, and are counted as
// late: a sender that measured from its own call would leave them out.
//
// Who writes what: the sender `sent`, the receiver all else of an Outcome. Read when both are over.
#pragma once

#include <array>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <thread>

#include "../common/cpus.hpp"
#include "../common/parts.hpp"
#include "histogram.hpp"

namespace pressure {

using Clock = std::chrono::steady_clock;
using Nanoseconds = std::chrono::duration<double, std::nano>;

/// What is sent: 64 bytes.
struct Item {
  std::uint64_t number;
  std::int64_t due;  ///< when it was meant to be sent, by Clock
  std::array<std::uint64_t, 6> rest;
};
static_assert(sizeof(Item) == 64);

struct Load {
  double rate;     ///< messages per second; infinite: as many as go
  double seconds;  ///< how long they are sent
};

struct Outcome {
  Histogram latency;  ///< nanoseconds; without the first kWarmUp
  std::uint64_t sent = 0;
  std::uint64_t received = 0;
  std::uint64_t misplaced = 0;  ///< not the one that had to come next
  double seconds = 0;           ///< from the first one's time to the last one's arrival
};

/// Whose pages and caches are cold is not what is measured.
inline constexpr std::chrono::milliseconds kWarmUp{200};

inline std::int64_t to_ns(Clock::time_point time) noexcept {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(time.time_since_epoch()).count();
}

/// Waits without sleeping, for a wake-up would come late. Gives the CPU away while there is time.
inline Clock::time_point wait_until(Clock::time_point due) noexcept {
  constexpr std::chrono::microseconds kShort{20};
  auto now = Clock::now();
  for (; now < due; now = Clock::now())
    if (due - now > kShort) std::this_thread::yield();
  return now;
}

/// Sends what is due. Returns how many.
template <class End>
std::uint64_t send_on_time(End& end, const Load& load, Clock::time_point start) {
  const auto count = static_cast<std::uint64_t>(load.rate * load.seconds);
  Item item{};
  Clock::time_point now{};
  for (std::uint64_t k = 0; k < count; ++k) {
    const Nanoseconds after(static_cast<double>(k) * 1e9 / load.rate);
    const auto due = start + std::chrono::duration_cast<Clock::duration>(after);
    if (now < due) now = wait_until(due);
    item.number = k;
    item.due = to_ns(due);
    end.send(item);
  }
  return count;
}

/// Sends as many as go, each due at once.
template <class End>
std::uint64_t send_flat_out(End& end, double seconds, Clock::time_point start) {
  constexpr std::uint64_t kBurst = 64;
  const auto enough =
      start + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
  Item item{};
  std::uint64_t count = 0;
  for (auto now = Clock::now(); now < enough; now = Clock::now()) {
    item.due = to_ns(now);
    for (std::uint64_t i = 0; i < kBurst; ++i) {
      item.number = count++;
      end.send(item);
    }
  }
  return count;
}

/// Receives until the sender has closed.
template <class End>
void receive_all(End& end, Outcome& outcome) {
  Item item{};
  std::uint64_t next = 0;
  std::int64_t first = 0;
  std::int64_t now = 0;
  while (end.receive(item)) {
    now = to_ns(Clock::now());
    outcome.misplaced += item.number != next;
    next = item.number + 1;
    if (outcome.received++ == 0) first = item.due;
    if (item.due - first >= std::chrono::nanoseconds(kWarmUp).count())
      outcome.latency.record(static_cast<std::uint64_t>(std::max<std::int64_t>(now - item.due, 0)));
  }
  outcome.seconds = static_cast<double>(now - first) / 1e9;
}

/// A road leads from one end to the other: where() its ends run, receiver(), and once that is there
/// sender(). Throws where it breaks.
template <class Road>
void put_under(Road& road, const Load& load, Outcome& outcome) {
  contest::Meeting meeting(2);
  const std::array<contest::Part, 2> parts{
      [&] {
        auto end = road.receiver();
        meeting.meet();
        contest::pin(0);
        receive_all(end, outcome);
        meeting.meet();
        return true;
      },
      [&] {
        meeting.meet();
        {
          auto end = road.sender();
          contest::pin(1);
          const auto start = Clock::now();
          outcome.sent = std::isinf(load.rate) ? send_flat_out(end, load.seconds, start)
                                               : send_on_time(end, load, start);
        }
        meeting.meet();
        return true;
      }};
  if (!contest::run_parts(road.where(), parts)) throw std::runtime_error("a part failed");
}

}  // namespace pressure
