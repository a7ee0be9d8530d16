// Queues and channels between threads of one process, on the same work.
//
// A rival is a class template over the item: `Rival<Item>(capacity)`, whose sender() and receiver()
// give handles, each for one thread, with
//   send(const Item&), receive(Item&)                         return when it is done
//   send_many(span<const Item>), receive_many(span<Item>)     where it has batches; the second
//                                                             returns how many, at least one
// `kProducers` and `kConsumers` say whether there may be several of either. `kStandsStill`: where
// there are more threads than CPUs each item may take a scheduler's time slice, since its producers
// wait for each other without giving the CPU away: few items are measured then.
#pragma once

#include <benchmark/benchmark.h>

#include <algorithm>
#include <array>
#include <barrier>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <limits>
#include <memory>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "../common/cpus.hpp"

namespace contest {

inline constexpr std::size_t kCapacity = 1024;
inline constexpr std::size_t kBatch = 32;

template <std::size_t kBytes>
struct Item {
  static constexpr std::size_t kSize = kBytes;
  std::array<std::uint64_t, kBytes / 8> word;
};

/// A name that no other channel of this machine has.
[[nodiscard]] std::string fresh_name();

/// For rivals that can only try: looks again, and gives the CPU away when that does not help.
class Patience {
 public:
  void lose() noexcept {
    if (++looks_ < kLooks) {
#if defined(__x86_64__)
      __builtin_ia32_pause();
#endif
    } else {
      std::this_thread::yield();
    }
  }

 private:
  static constexpr int kLooks = 200;
  int looks_ = 0;
};

/// As many items as take about a twentieth of a second, from a run of `count` that took `seconds`.
[[nodiscard]] std::uint64_t enough(std::uint64_t count, double seconds);

struct Shape {
  std::size_t producers;
  std::size_t consumers;
  bool batches;
};

using Seconds = std::chrono::duration<double>;

/// Sends `count` items: the k-th bears `first + k`.
template <class Item, class End>
void send_items(End& end, std::uint64_t first, std::uint64_t count, bool batches) {
  if constexpr (requires(std::span<const Item> some) { end.send_many(some); }) {
    if (batches) {
      std::array<Item, kBatch> items{};
      for (std::uint64_t k = 0; k < count;) {
        const auto some = static_cast<std::size_t>(std::min<std::uint64_t>(count - k, kBatch));
        for (std::size_t j = 0; j < some; ++j) items[j].word[0] = first + k + j;
        end.send_many(std::span<const Item>(items).first(some));
        k += some;
      }
      return;
    }
  }
  Item item{};
  for (std::uint64_t k = 0; k < count; ++k) {
    item.word[0] = first + k;
    end.send(item);
  }
}

/// Receives `count` items, and hands what each bears to `take`.
template <class Item, class End, class Take>
void receive_items(End& end, std::uint64_t count, bool batches, Take take) {
  if constexpr (requires(std::span<Item> some) { end.receive_many(some); }) {
    if (batches) {
      std::array<Item, kBatch> items;
      for (std::uint64_t left = count; left != 0;) {
        const auto got = end.receive_many(std::span(items).first(
            static_cast<std::size_t>(std::min<std::uint64_t>(left, kBatch))));
        for (std::size_t k = 0; k < got; ++k) take(items[k].word[0]);
        left -= got;
      }
      return;
    }
  }
  Item item{};
  for (std::uint64_t k = 0; k < count; ++k) {
    end.receive(item);
    take(item.word[0]);
  }
}

template <class Queue, class Item>
double carry(const Shape& shape, std::uint64_t count) {
  Queue queue(kCapacity);
  const std::uint64_t parts = shape.producers * shape.consumers;
  count = (count + parts - 1) / parts * parts;
  std::barrier start(static_cast<std::ptrdiff_t>(shape.producers + shape.consumers));
  // Taken by those who work: this thread may find no CPU for a while.
  using Moment = std::chrono::steady_clock::time_point;
  std::vector<Moment> begins(shape.producers);
  std::vector<Moment> ends(shape.consumers);
  std::vector<std::uint64_t> sums(shape.consumers);
  std::vector<std::thread> threads;
  const bool pinned = shape.producers == 1 && shape.consumers == 1;
  for (std::size_t i = 0; i < shape.consumers; ++i)
    threads.emplace_back([&, i, end = queue.receiver()]() mutable {
      if (pinned) pin(0);
      start.arrive_and_wait();
      std::uint64_t sum = 0;
      receive_items<Item>(end, count / shape.consumers, shape.batches,
                          [&sum](std::uint64_t word) { sum += word; });
      sums[i] = sum;
      ends[i] = std::chrono::steady_clock::now();
    });
  for (std::size_t i = 0; i < shape.producers; ++i)
    threads.emplace_back([&, i, end = queue.sender()]() mutable {
      if (pinned) pin(1);
      start.arrive_and_wait();
      begins[i] = std::chrono::steady_clock::now();
      send_items<Item>(end, 0, count / shape.producers, shape.batches);
    });
  for (auto& thread : threads) thread.join();
  const Seconds took = *std::ranges::max_element(ends) - *std::ranges::min_element(begins);
  std::uint64_t sum = 0;
  for (const auto part : sums) sum += part;
  const std::uint64_t mine = count / shape.producers;
  return sum == mine * (mine - 1) / 2 * shape.producers ? took.count() : -1;
}

/// The answering end of `count` round trips.
template <class Item, class In, class Out>
void answer(In& in, Out& out, std::uint64_t count) {
  Item item{};
  for (std::uint64_t k = 0; k < count; ++k) {
    in.receive(item);
    out.send(item);
  }
}

/// The asking end. Gives the seconds, negative if an answer was none. `pause`: between round trips,
/// so that both ends fall asleep that can.
template <class Item, class Out, class In>
double ask(Out& out, In& in, std::uint64_t count, std::chrono::microseconds pause) {
  Item item{};
  Seconds took{};
  std::uint64_t wrong = 0;
  const auto now = [] { return std::chrono::steady_clock::now(); };
  const auto once = [&](std::uint64_t k) {
    item.word[0] = k;
    out.send(item);
    in.receive(item);
    wrong += item.word[0] != k;
  };
  // Reading the clock takes as long as a part of a round trip: without pauses it is read twice.
  if (pause.count() == 0) {
    const auto begin = now();
    for (std::uint64_t k = 0; k < count; ++k) once(k);
    took = now() - begin;
  } else {
    for (std::uint64_t k = 0; k < count; ++k) {
      std::this_thread::sleep_for(pause);
      const auto begin = now();
      once(k);
      took += now() - begin;
    }
  }
  return wrong == 0 ? took.count() : -1;
}

/// Seconds for `count` round trips through two queues.
template <class Queue, class Item>
double echo(std::uint64_t count, std::chrono::microseconds pause) {
  Queue there(kCapacity);
  Queue back(kCapacity);
  std::thread other([&, in = there.receiver(), out = back.sender()]() mutable {
    pin(1);
    answer<Item>(in, out, count);
  });
  double took = 0;
  std::thread self([&, out = there.sender(), in = back.receiver()]() mutable {
    pin(0);
    took = ask<Item>(out, in, count, pause);
  });
  self.join();
  other.join();
  return took;
}

/// With --check the rows only show that every rival works: few items, nothing is timed.
[[nodiscard]] bool checking() noexcept;
/// The program's exit status tells that a row failed.
void failed(benchmark::State& state, const char* why);
/// Nanoseconds of a line's round trip before and after a repeat; its label is their class.
void note_distance(benchmark::State& state, double before, double after);

/// Registers one row. `run` takes a number of items and gives the seconds, negative if items were
/// lost; it may throw. It is given `first` items, and after that as many as take a while, at most
/// `most`.
template <class Run>
void enter(const std::string& work, const std::string& name, std::uint64_t first, Run run,
           std::uint64_t most = std::numeric_limits<std::uint64_t>::max()) {
  auto* row = benchmark::RegisterBenchmark(
      (work + "/" + name).c_str(),
      [run, first, most, count = std::uint64_t{0}](auto& state) mutable {
        try {
          if (count == 0) count = checking() ? first : std::min(enough(first, run(first)), most);
          for ([[maybe_unused]] auto _ : state) {
            const double before = checking() ? 0 : line_round_trip();
            const double seconds = run(count);
            if (seconds < 0) failed(state, "items were lost");
            state.SetIterationTime(seconds);
            if (!checking()) note_distance(state, before, line_round_trip());
          }
        } catch (const std::exception& error) {
          failed(state, error.what());
        }
        state.SetItemsProcessed(static_cast<std::int64_t>(count));
      });
  row->UseManualTime()->Unit(benchmark::kMillisecond)->Iterations(1);
}

/// Registers all work that a rival can do. `sleeps`: its ends sleep when they wait long.
template <template <class> class Rival, std::size_t kBytes>
void enter_with(const std::string& name, bool sleeps) {
  using It = Item<kBytes>;
  using Queue = Rival<It>;
  const std::string size = std::to_string(kBytes) + "B";
  constexpr std::uint64_t kFirst = 20'000;
  const auto carried = [&](const std::string& what, Shape shape) {
    const auto run = [shape](std::uint64_t count) { return carry<Queue, It>(shape, count); };
    if constexpr (requires { requires Queue::kStandsStill; }) {
      // The first items may go well, and the same again take minutes.
      if (shape.producers + shape.consumers > 2)
        return enter(what + "/" + size, name, kFirst / 100, run, kFirst / 50);
    }
    enter(what + "/" + size, name, kFirst, run);
  };
  carried("1to1", {1, 1, false});
  using Sender = decltype(std::declval<Queue&>().sender());
  if constexpr (requires(Sender end, std::span<const It> some) { end.send_many(some); })
    carried("1to1-batch32", {1, 1, true});
  if constexpr (Queue::kProducers) {
    carried("2to1", {2, 1, false});
    carried("4to1", {4, 1, false});
    carried("16to1", {16, 1, false});
    if constexpr (Queue::kConsumers) carried("2to2", {2, 2, false});
  }
  enter("echo/" + size, name, 1'000,
        [](std::uint64_t count) { return echo<Queue, It>(count, {}); });
  if (sleeps)
    enter("echo-asleep/" + size, name, 50, [](std::uint64_t) {
      constexpr std::uint64_t kRounds = 200;
      return echo<Queue, It>(kRounds, std::chrono::microseconds(200));
    });
}

template <template <class> class Rival>
void enter_all(const std::string& name, bool sleeps = false) {
  enter_with<Rival, 8>(name, sleeps);
  enter_with<Rival, 64>(name, sleeps);
}

}  // namespace contest
