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
#include <span>
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

/// The bare exchange, one message at a time or in batches of 32 on either side.
enum class By : std::uint8_t { one, batch };
constexpr std::size_t kBatch = 32;
static_assert(kItems % kBatch == 0);

void send_all(penstock::Sender& sender, By by) {
  std::array<Item, kBatch> items{};
  for (std::uint64_t i = 0; i < kItems; i += kBatch) {
    for (std::size_t k = 0; k < kBatch; ++k) items[k].word[0] = i + k;
    if (by == By::batch) {
      if (sender.send_many(std::as_bytes(std::span(items)), sizeof(Item)).count != kBatch) return;
      continue;
    }
    for (const auto& item : items)
      if (sender.send(std::as_bytes(std::span(&item, 1))) != penstock::SendStatus::sent) return;
  }
}

std::uint64_t receive_all(penstock::Receiver& receiver, By by) {
  std::uint64_t sum = 0;
  Item item;
  const auto take = [&](std::span<const std::byte> bytes) {
    std::memcpy(&item, bytes.data(), sizeof item);
    sum += item.word[0];
  };
  penstock::Messages messages;
  for (std::uint64_t i = 0; i < kItems;) {
    if (by == By::batch) {
      if (receiver.recv_many(messages) != penstock::RecvStatus::received) return sum;
      for (const auto& message : messages) take(message);
      i += messages.size();
    } else {
      const auto message = receiver.recv();
      if (!message) return sum;
      take(message.data());
      ++i;
    }
  }
  return sum;
}

void penstock_bytes(benchmark::State& state, const char* uri, By sent, By received) {
  auto receiver = penstock::bind(uri);
  auto sender = penstock::connect(uri);
  for (auto _ : state) {
    std::uint64_t sum = 0;
    state.SetIterationTime(
        seconds([&] { send_all(sender, sent); }, [&] { sum = receive_all(receiver, received); }));
    if (sum != kItems * (kItems - 1) / 2) state.SkipWithError("items were lost");
  }
  finish(state);
}

BENCHMARK(boost_spsc)->UseManualTime()->Unit(benchmark::kMillisecond)->Iterations(1);
#define PENSTOCK_BYTES(name, uri, sent, received)                      \
  BENCHMARK_CAPTURE(penstock_bytes, name, uri, By::sent, By::received) \
      ->UseManualTime()                                                \
      ->Unit(benchmark::kMillisecond)                                  \
      ->Iterations(1)
PENSTOCK_BYTES(inproc, "inproc:bench?capacity=128KiB", one, one);
PENSTOCK_BYTES(inproc_recv_many, "inproc:bench?capacity=128KiB", one, batch);
PENSTOCK_BYTES(inproc_batch, "inproc:bench?capacity=128KiB", batch, batch);
PENSTOCK_BYTES(shm, "shm:bench?capacity=128KiB", one, one);
PENSTOCK_BYTES(shm_recv_many, "shm:bench?capacity=128KiB", one, batch);
PENSTOCK_BYTES(shm_batch, "shm:bench?capacity=128KiB", batch, batch);

}  // namespace
