// One sender and one receiver under an open load: messages are sent when their time has come,
// whatever became of those before.
//
// Latency counts from the time a message was meant to be sent. Where the channel or its receiver
// stands still, the messages that should have gone meanwhile are late, too, and are counted as
// late: a sender that measured from its own call would leave them out.
//
// Who writes what: the sender `sent`, the receiver all else of an Outcome. Read when both are over.
#pragma once

#include <algorithm>
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

/// One second of it. What the machine does to a run, it does to some of its seconds; what the code
/// does, to all.
struct Slice {
  std::uint64_t p50;
  std::uint64_t p99;
};
inline constexpr std::size_t kMostSlices = 4096;

struct Outcome {
  Histogram latency;  ///< nanoseconds; without the first kWarmUp
  std::array<Slice, kMostSlices> slice{};
  std::size_t slices = 0;
  std::uint64_t sent = 0;
  std::uint64_t received = 0;
  std::uint64_t misplaced = 0;  ///< not the one that had to come next
  double seconds = 0;           ///< from the first one's time to the last one's arrival
};

/// Whose pages and caches are cold is not what is measured.
inline constexpr std::chrono::milliseconds kWarmUp{200};

inline constexpr std::int64_t kSliceNs = 1'000'000'000;

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
  std::int64_t slice_begins = 0;
  Histogram slice;
  const auto end_slice = [&] {
    if (outcome.slices < kMostSlices)
      outcome.slice[outcome.slices++] = {slice.quantile(0.5), slice.quantile(0.99)};
    outcome.latency.add(slice);
    slice = {};
  };
  while (end.receive(item)) {
    now = to_ns(Clock::now());
    outcome.misplaced += item.number != next;
    next = item.number + 1;
    if (outcome.received++ == 0) {
      first = item.due;
      slice_begins = first + std::chrono::nanoseconds(kWarmUp).count();
    }
    if (item.due < slice_begins) continue;
    slice.record(static_cast<std::uint64_t>(std::max<std::int64_t>(now - item.due, 0)));
    if (item.due - slice_begins >= kSliceNs) {
      end_slice();
      slice_begins += kSliceNs;
    }
  }
  // A part of a second stands for itself where it is all there is.
  if (outcome.slices == 0) {
    end_slice();
  } else {
    outcome.latency.add(slice);
  }
  outcome.seconds = static_cast<double>(now - first) / 1e9;
}

/// What a quarter of the seconds did not exceed.
[[nodiscard]] inline std::uint64_t calm(const Outcome& outcome, std::uint64_t Slice::*figure) {
  if (outcome.slices == 0) return 0;
  auto slices = outcome.slice;
  const auto quarter = static_cast<std::ptrdiff_t>((outcome.slices - 1) / 4);
  std::nth_element(slices.begin(), slices.begin() + quarter,
                   slices.begin() + static_cast<std::ptrdiff_t>(outcome.slices),
                   [&](const Slice& a, const Slice& b) { return a.*figure < b.*figure; });
  return slices[static_cast<std::size_t>(quarter)].*figure;
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
