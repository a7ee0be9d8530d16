#include "cpus.hpp"

#include <pthread.h>
#include <sched.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <thread>

namespace contest {

void pin(std::size_t cpu) {
  if (std::thread::hardware_concurrency() < 2) return;
  cpu_set_t cpus;
  CPU_ZERO(&cpus);
  CPU_SET(cpu, &cpus);
  ::pthread_setaffinity_np(::pthread_self(), sizeof cpus, &cpus);
}

double line_round_trip() {
  constexpr std::uint64_t kRounds = 10'000;
  struct alignas(128) Word {
    std::atomic<std::uint64_t> value{0};
  };
  Word there;
  Word back;
  // SYNC probe-there and SYNC probe-back: a number travels on each word, stored by one thread and
  // awaited by the other.
  std::thread other([&] {
    pin(1);
    for (std::uint64_t i = 1; i <= kRounds; ++i) {
      while (there.value.load(std::memory_order_acquire) != i) {  // SYNC probe-there
      }
      back.value.store(i, std::memory_order_release);  // SYNC probe-back
    }
  });
  double nanoseconds = 0;
  std::thread self([&] {
    pin(0);
    std::chrono::steady_clock::time_point begin;
    for (std::uint64_t i = 1; i <= kRounds; ++i) {
      there.value.store(i, std::memory_order_release);           // SYNC probe-there
      while (back.value.load(std::memory_order_acquire) != i) {  // SYNC probe-back
      }
      if (i == kRounds / 10) begin = std::chrono::steady_clock::now();
    }
    const std::chrono::duration<double, std::nano> took = std::chrono::steady_clock::now() - begin;
    nanoseconds = took.count() / (static_cast<double>(kRounds) * 0.9);
  });
  self.join();
  other.join();
  return nanoseconds;
}

const char* distance(double nanoseconds) noexcept {
  if (nanoseconds < 80) return "one core";
  if (nanoseconds < 300) return "one cache";
  if (nanoseconds < 1000) return "far";
  return "very far";
}

}  // namespace contest
