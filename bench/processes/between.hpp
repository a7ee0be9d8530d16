// Channels between processes of one host, on the same work.
//
// A rival is a class template over the item, `Rival<Item>(capacity, senders)`, made in the process
// that starts the others, before they are there. In the processes that receive and send it gives
//   receiver()          first
//   sender(number)      once the receiver is there; numbers from 0
// whose results have send(), receive() and the like as in ../local/contest.hpp, and may throw
// where the channel is broken. `kSenders`: whether there may be several. `kWhere`: where the parts
// run, if not in processes of their own.
//
// Every item bears its sender's number and its own, and is checked.
#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "../common/parts.hpp"
#include "../local/contest.hpp"

namespace contest {

template <class Rival>
[[nodiscard]] constexpr Where where_parts_run() {
  if constexpr (requires { Rival::kWhere; }) {
    return Rival::kWhere;
  } else {
    return Where::processes;
  }
}

/// Seconds for `count` items from so many senders to one receiver; negative if items were lost,
/// doubled or out of order.
template <class Rival, class Item>
double carry_between(std::size_t senders, bool batches, std::uint64_t count) {
  constexpr std::size_t kMost = 8;
  constexpr int kNumberBits = 48;
  using Clock = std::chrono::steady_clock;
  struct Times {
    std::array<Clock::time_point, kMost> begin;
    Clock::time_point end;
    bool in_order = false;
  };
  if (senders > kMost) throw std::invalid_argument("too many senders");
  const std::uint64_t each = count / senders;
  Rival rival(kCapacity, senders);
  Shared<Times> times;
  Meeting meeting(senders + 1);
  const bool pinned = senders == 1;
  std::vector<Part> parts;
  parts.emplace_back([&] {
    auto end = rival.receiver();
    meeting.meet();  // senders may connect
    meeting.meet();  // all are there
    if (pinned) pin(0);
    std::array<std::uint64_t, kMost> next{};
    std::uint64_t wrong = 0;
    receive_items<Item>(end, each * senders, batches, [&](std::uint64_t word) {
      const auto from = (word >> kNumberBits) % kMost;
      wrong += (word & ((std::uint64_t{1} << kNumberBits) - 1)) != next[from];
      ++next[from];
    });
    times->end = Clock::now();
    for (std::size_t i = 0; i < senders; ++i) wrong += next[i] != each;
    times->in_order = wrong == 0;
    meeting.meet();  // senders may go
    return true;
  });
  for (std::size_t i = 0; i < senders; ++i)
    parts.emplace_back([&, i] {
      meeting.meet();
      auto end = rival.sender(i);
      meeting.meet();
      if (pinned) pin(1);
      times->begin[i] = Clock::now();
      send_items<Item>(end, std::uint64_t{i} << kNumberBits, each, batches);
      meeting.meet();
      return true;
    });
  if (!run_parts(where_parts_run<Rival>(), parts)) throw std::runtime_error("a part failed");
  if (!times->in_order) return -1;
  const Seconds took =
      times->end - *std::min_element(times->begin.begin(),
                                     times->begin.begin() + static_cast<std::ptrdiff_t>(senders));
  return took.count();
}

/// Seconds for `count` round trips; negative if an answer was none.
template <class Rival, class Item>
double echo_between(std::uint64_t count) {
  Rival there(kCapacity, 1);
  Rival back(kCapacity, 1);
  Shared<double> seconds;
  Meeting meeting(2);
  const std::array<Part, 2> parts{[&] {
                                    auto in = there.receiver();
                                    meeting.meet();
                                    auto out = back.sender(0);
                                    meeting.meet();
                                    pin(1);
                                    answer<Item>(in, out, count);
                                    meeting.meet();
                                    return true;
                                  },
                                  [&] {
                                    auto in = back.receiver();
                                    meeting.meet();
                                    auto out = there.sender(0);
                                    meeting.meet();
                                    pin(0);
                                    *seconds = ask<Item>(out, in, count, {});
                                    meeting.meet();
                                    return true;
                                  }};
  if (!run_parts(where_parts_run<Rival>(), parts)) throw std::runtime_error("a part failed");
  return *seconds;
}

/// Registers all work that a rival can do.
template <template <class> class Rival, std::size_t kBytes>
void enter_between_with(const std::string& name) {
  using It = Item<kBytes>;
  using Channel = Rival<It>;
  const std::string size = "/" + std::to_string(kBytes) + "B";
  constexpr std::uint64_t kFirst = 20'000;
  const auto carried = [&](const std::string& what, std::size_t senders, bool batches) {
    enter(what + size, name, kFirst, [senders, batches](std::uint64_t count) {
      return carry_between<Channel, It>(senders, batches, count);
    });
  };
  carried("1to1", 1, false);
  using SendEnd = decltype(std::declval<Channel&>().sender(0));
  if constexpr (requires(SendEnd end, std::span<const It> some) { end.send_many(some); })
    carried("1to1-batch32", 1, true);
  if constexpr (Channel::kSenders) carried("2to1", 2, false);
  enter("echo" + size, name, 1'000,
        [](std::uint64_t count) { return echo_between<Channel, It>(count); });
}

template <template <class> class Rival>
void enter_between(const std::string& name) {
  enter_between_with<Rival, 8>(name);
  enter_between_with<Rival, 64>(name);
}

}  // namespace contest
