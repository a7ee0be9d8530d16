// The bias goes to a thread that locks again and again, and comes back from it without losing
// exclusion.
#include "penstock/channel/biased_lock.hpp"

#include <gtest/gtest.h>

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

namespace penstock {
namespace {

class BiasedLockTest : public testing::TestWithParam<bool> {
 protected:
  BiasedLockTest() : lock_(GetParam() && enroll_in_barriers()) {}

  void lock() {
    while (!lock_.try_lock()) std::this_thread::yield();
  }
  /// Not atomic: without exclusion some are lost, and ThreadSanitizer speaks up.
  void count(std::uint64_t times) {
    for (std::uint64_t i = 0; i < times; ++i) {
      lock();
      ++counted_;
      lock_.unlock();
    }
  }

  BiasedLock lock_;
  std::uint64_t counted_ = 0;
};

TEST_P(BiasedLockTest, one_who_is_inside_keeps_others_out) {
  // Long enough for the bias.
  count(10'000);
  lock();
  std::thread([&] {
    for (int i = 0; i < 1'000; ++i) EXPECT_FALSE(lock_.try_lock());
  }).join();
  lock_.unlock();
  std::thread([&] {
    EXPECT_TRUE(lock_.try_lock());
    lock_.unlock();
  }).join();
  EXPECT_TRUE(lock_.try_lock());
  lock_.unlock();
}

TEST_P(BiasedLockTest, nothing_is_lost_between_an_owner_and_passers_by) {
  constexpr std::uint64_t kOwn = 200'000;
  constexpr std::uint64_t kTheirs = 200;
  std::atomic<std::uint64_t> passed{0};
  std::uint64_t own = 0;
  std::thread owner([&] {
    for (; own < kOwn || passed < kTheirs; own += 1'000) count(1'000);
  });
  for (; passed < kTheirs; ++passed) {
    count(1);
    std::this_thread::yield();
  }
  owner.join();
  EXPECT_EQ(counted_, own + kTheirs);
}

TEST_P(BiasedLockTest, nothing_is_lost_among_equals) {
  constexpr std::uint64_t kEach = 20'000;
  constexpr int kThreads = 4;
  std::vector<std::thread> threads;
  for (int i = 0; i < kThreads; ++i) threads.emplace_back([this] { count(kEach); });
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(counted_, kEach * kThreads);
}

INSTANTIATE_TEST_SUITE_P(Bias, BiasedLockTest, testing::Bool(),
                         [](const auto& test) { return test.param ? "with" : "without"; });

}  // namespace
}  // namespace penstock
