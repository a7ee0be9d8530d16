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
#include <memory>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace contest {

inline constexpr std::size_t kCapacity = 1024;
inline constexpr std::size_t kBatch = 32;

template <std::size_t kBytes>
struct Item {
  static constexpr std::size_t kSize = kBytes;
  std::array<std::uint64_t, kBytes / 8> word;
};

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

/// Nanoseconds that a cache line takes from one CPU to another and back, now. The hypervisor moves
/// CPUs: only what was measured at the same distance can be compared.
[[nodiscard]] double line_round_trip();
/// Binds this thread to one CPU where there are at least two.
void pin(std::size_t cpu);
/// As many items as take about a twentieth of a second, from a run of `count` that took `seconds`.
[[nodiscard]] std::uint64_t enough(std::uint64_t count, double seconds);

struct Shape {
  std::size_t producers;
  std::size_t consumers;
  bool batches;
};

using Seconds = std::chrono::duration<double>;

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
      const std::uint64_t mine = count / shape.consumers;
      std::uint64_t sum = 0;
      if constexpr (requires(std::span<Item> some) { end.receive_many(some); }) {
        if (shape.batches) {
          std::array<Item, kBatch> items;
          for (std::uint64_t left = mine; left != 0;) {
            const auto got = end.receive_many(std::span(items).first(
                static_cast<std::size_t>(std::min<std::uint64_t>(left, kBatch))));
            for (std::size_t k = 0; k < got; ++k) sum += items[k].word[0];
            left -= got;
          }
          sums[i] = sum;
          ends[i] = std::chrono::steady_clock::now();
          return;
        }
      }
      Item item{};
      for (std::uint64_t k = 0; k < mine; ++k) {
        end.receive(item);
        sum += item.word[0];
      }
      sums[i] = sum;
      ends[i] = std::chrono::steady_clock::now();
    });
  for (std::size_t i = 0; i < shape.producers; ++i)
    threads.emplace_back([&, i, end = queue.sender()]() mutable {
      if (pinned) pin(1);
      start.arrive_and_wait();
      begins[i] = std::chrono::steady_clock::now();
      const std::uint64_t mine = count / shape.producers;
      if constexpr (requires(std::span<const Item> some) { end.send_many(some); }) {
        if (shape.batches) {
          std::array<Item, kBatch> items{};
          for (std::uint64_t k = 0; k < mine;) {
            const auto some = static_cast<std::size_t>(std::min<std::uint64_t>(mine - k, kBatch));
            for (std::size_t j = 0; j < some; ++j) items[j].word[0] = k + j;
            end.send_many(std::span<const Item>(items).first(some));
            k += some;
          }
          return;
        }
      }
      Item item{};
      for (std::uint64_t k = 0; k < mine; ++k) {
        item.word[0] = k;
        end.send(item);
      }
    });
  for (auto& thread : threads) thread.join();
  const Seconds took = *std::ranges::max_element(ends) - *std::ranges::min_element(begins);
  std::uint64_t sum = 0;
  for (const auto part : sums) sum += part;
  const std::uint64_t mine = count / shape.producers;
  return sum == mine * (mine - 1) / 2 * shape.producers ? took.count() : -1;
}

/// Seconds for `count` round trips through two queues. `pause`: between them, so that both ends
/// fall asleep that can.
template <class Queue, class Item>
double echo(std::uint64_t count, std::chrono::microseconds pause) {
  Queue there(kCapacity);
  Queue back(kCapacity);
  std::thread other([&, in = there.receiver(), out = back.sender()]() mutable {
    pin(1);
    Item item{};
    for (std::uint64_t k = 0; k < count; ++k) {
      in.receive(item);
      out.send(item);
    }
  });
  Seconds took{};
  std::thread self([&, out = there.sender(), in = back.receiver()]() mutable {
    pin(0);
    Item item{};
    const auto begin = std::chrono::steady_clock::now();
    for (std::uint64_t k = 0; k < count; ++k) {
      if (pause.count() != 0) std::this_thread::sleep_for(pause);
      const auto sent = std::chrono::steady_clock::now();
      out.send(item);
      in.receive(item);
      if (pause.count() != 0) took += std::chrono::steady_clock::now() - sent;
    }
    if (pause.count() == 0) took = std::chrono::steady_clock::now() - begin;
  });
  self.join();
  other.join();
  return took.count();
}

/// Registers one row. `run` takes a number of items and gives the seconds, negative if items were
/// lost.
template <class Run>
void enter(const std::string& work, const std::string& name, std::uint64_t first, Run run) {
  auto* row = benchmark::RegisterBenchmark(
      (work + "/" + name).c_str(), [run, first, count = std::uint64_t{0}](auto& state) mutable {
        if (count == 0) count = enough(first, run(first));
        for ([[maybe_unused]] auto _ : state) {
          state.counters["line_before"] = line_round_trip();
          const double seconds = run(count);
          if (seconds < 0) state.SkipWithError("items were lost");
          state.SetIterationTime(seconds);
          state.counters["line_after"] = line_round_trip();
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
    auto first = kFirst;
    if constexpr (requires { requires Queue::kStandsStill; })
      if (shape.producers + shape.consumers > 2) first = kFirst / 100;
    enter(what + "/" + size, name, first,
          [shape](std::uint64_t count) { return carry<Queue, It>(shape, count); });
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
