#include "contest.hpp"

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <atomic>

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
  std::thread other([&] {
    pin(1);
    for (std::uint64_t i = 1; i <= kRounds; ++i) {
      while (there.value.load(std::memory_order_acquire) != i) {
      }
      back.value.store(i, std::memory_order_release);
    }
  });
  double nanoseconds = 0;
  std::thread self([&] {
    pin(0);
    std::chrono::steady_clock::time_point begin;
    for (std::uint64_t i = 1; i <= kRounds; ++i) {
      there.value.store(i, std::memory_order_release);
      while (back.value.load(std::memory_order_acquire) != i) {
      }
      if (i == kRounds / 10) begin = std::chrono::steady_clock::now();
    }
    nanoseconds = Seconds(std::chrono::steady_clock::now() - begin).count() * 1e9 /
                  (static_cast<double>(kRounds) * 0.9);
  });
  self.join();
  other.join();
  return nanoseconds;
}

std::uint64_t enough(std::uint64_t count, double seconds) {
  constexpr double kTarget = 0.05;
  constexpr double kMost = 5e6;
  const double rate = static_cast<double>(count) / std::max(seconds, 1e-6);
  return static_cast<std::uint64_t>(
      std::clamp(rate * kTarget, static_cast<double>(count) / 4, kMost));
}

}  // namespace contest

BENCHMARK_MAIN();
