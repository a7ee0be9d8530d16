// Threads of one process, 64-byte items, one to one: penstock beside boost::lockfree::spsc_queue.
// Both move the same number of items through rings of about the same size; the rate is items that
// the receiver took by wall time. bench/run prints the ratio of the medians.
#include <benchmark/benchmark.h>

#include <array>
#include <boost/lockfree/spsc_queue.hpp>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <thread>

#include "penstock/channel/channel.hpp"

namespace {

constexpr std::uint64_t kItems = 2'000'000;
constexpr std::size_t kRingItems = 1024;

struct Item {
  std::array<std::uint64_t, 8> word;
};
static_assert(sizeof(Item) == 64);

/// Runs both sides once and gives the seconds from the first send to the last receive.
template <class Send, class Receive>
double seconds(Send&& send, Receive&& receive) {
  const auto start = std::chrono::steady_clock::now();
  std::thread sender(send);
  receive();
  sender.join();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

void finish(benchmark::State& state) {
  state.SetItemsProcessed(state.iterations() * static_cast<std::int64_t>(kItems));
}

void boost_spsc(benchmark::State& state) {
  using Queue = boost::lockfree::spsc_queue<Item, boost::lockfree::capacity<kRingItems>>;
  const auto queue = std::make_unique<Queue>();
  for (auto _ : state) {
    std::uint64_t sum = 0;
    state.SetIterationTime(seconds(
        // Each thread's own pointer: one on this function's stack would share a line with the item.
        [queue = queue.get()] {
          Item item{};
          for (std::uint64_t i = 0; i < kItems; ++i) {
            item.word[0] = i;
            while (!queue->push(item)) {
            }
          }
        },
        [&sum, queue = queue.get()] {
          Item item;
          for (std::uint64_t i = 0; i < kItems; ++i) {
            while (!queue->pop(item)) {
            }
            sum += item.word[0];
          }
        }));
    if (sum != kItems * (kItems - 1) / 2) state.SkipWithError("items were lost");
  }
  finish(state);
}

void penstock_bytes(benchmark::State& state, const char* uri) {
  auto receiver = penstock::bind(uri);
  auto sender = penstock::connect(uri);
  for (auto _ : state) {
    std::uint64_t sum = 0;
    state.SetIterationTime(seconds(
        [&] {
          Item item{};
          for (std::uint64_t i = 0; i < kItems; ++i) {
            item.word[0] = i;
            if (sender.send(std::as_bytes(std::span(&item, 1))) != penstock::SendStatus::sent)
              return;
          }
        },
        [&] {
          Item item;
          for (std::uint64_t i = 0; i < kItems; ++i) {
            const auto message = receiver.recv();
            if (!message) return;
            std::memcpy(&item, message.data().data(), sizeof item);
            sum += item.word[0];
          }
        }));
    if (sum != kItems * (kItems - 1) / 2) state.SkipWithError("items were lost");
  }
  finish(state);
}

BENCHMARK(boost_spsc)->UseManualTime()->Unit(benchmark::kMillisecond)->Iterations(1);
BENCHMARK_CAPTURE(penstock_bytes, inproc, "inproc:bench?capacity=128KiB")
    ->UseManualTime()
    ->Unit(benchmark::kMillisecond)
    ->Iterations(1);
BENCHMARK_CAPTURE(penstock_bytes, shm, "shm:bench?capacity=128KiB")
    ->UseManualTime()
    ->Unit(benchmark::kMillisecond)
    ->Iterations(1);

}  // namespace
