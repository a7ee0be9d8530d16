// Work for callgrind: 64-byte messages through a channel, by one thread, half a ring at a time. The
// script `instructions` beside this counts what is done within send_phase() and receive_phase().
//   bench_instructions CHANNEL WAY ROUNDS
//     CHANNEL: spsc, mpsc, mpmc, or a URI    WAY: single, batch    byte channels also: batch-plain
//     (memcpy instead of vectors), alone (each is received before the next is sent)
#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <thread>

#include "penstock/channel/channel.hpp"
#include "penstock/channel/local_channel.hpp"
#include "penstock/channel/pack.hpp"

namespace {

constexpr std::size_t kBatch = 32;
constexpr std::size_t kRound = 16 * kBatch;

struct Item {
  std::array<std::uint64_t, 8> word{};
};

std::array<Item, kBatch> items;
std::uint64_t sum = 0;

// What is counted, by its name.
extern "C" [[gnu::noinline]] void send_phase(const std::function<void()>& send, int times) {
  for (int i = 0; i < times; ++i) send();
}
extern "C" [[gnu::noinline]] void receive_phase(const std::function<void()>& receive, int times) {
  for (int i = 0; i < times; ++i) receive();
}

void run(int rounds, const std::function<void()>& send, const std::function<void()>& receive,
         int times = kRound / kBatch) {
  for (int i = 0; i < rounds; ++i) {
    send_phase(send, times);
    // What travels has arrived, and looks that find nothing are not counted.
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    receive_phase(receive, times);
  }
}

void take(std::span<const std::byte> bytes) {
  Item item;
  std::memcpy(&item, bytes.data(), sizeof item);
  sum += item.word[0];
}

void run_bytes(const std::string& uri, std::string_view way, int rounds) {
  auto receiver = penstock::bind(uri + "?capacity=128KiB");
  auto sender = penstock::connect(uri);
  if (way == "alone")
    return run(
        rounds * static_cast<int>(kRound),
        [&] { (void)sender.send(std::as_bytes(std::span(items).first(1))); },
        [&] { take(receiver.recv().data()); }, 1);
  if (way == "single")
    return run(
        rounds,
        [&] {
          for (const auto& item : items) (void)sender.send(std::as_bytes(std::span(&item, 1)));
        },
        [&] {
          for (std::size_t i = 0; i < kBatch; ++i) take(receiver.recv().data());
        });
  if (way == "batch-plain") penstock::use_simd(penstock::Simd::off);
  run(
      rounds, [&] { (void)sender.send_many(std::as_bytes(std::span(items)), sizeof(Item)); },
      [&, messages = std::make_shared<penstock::Messages>()] {
        (void)receiver.recv_many(*messages, kBatch);
        for (const auto& message : *messages) take(message);
      });
}

template <penstock::v2::Topology kTopology>
void run_typed(std::string_view way, int rounds) {
  auto [tx, rx] = penstock::v2::channel<Item, kTopology>(1024);
  if (way == "single")
    return run(
        rounds,
        [&tx = tx] {
          for (const auto& item : items) (void)tx.send(item);
        },
        [&rx = rx] {
          for (std::size_t i = 0; i < kBatch; ++i) sum += rx.recv()->word[0];
        });
  run(
      rounds, [&tx = tx] { (void)tx.send_many(items); },
      [&rx = rx, got = std::make_shared<std::array<Item, kBatch>>()] {
        (void)rx.recv_many(got->begin(), kBatch);
        sum += (*got)[0].word[0];
      });
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) return 2;
  const std::string channel = argv[1];
  const std::string_view way = argv[2];
  const int rounds = std::stoi(argv[3]);
  if (channel == "spsc") {
    run_typed<penstock::v2::spsc>(way, rounds);
  } else if (channel == "mpsc") {
    run_typed<penstock::v2::mpsc>(way, rounds);
  } else if (channel == "mpmc") {
    run_typed<penstock::v2::mpmc>(way, rounds);
  } else {
    run_bytes(channel, way, rounds);
  }
  std::printf("%llu\n", static_cast<unsigned long long>(sum));
}
