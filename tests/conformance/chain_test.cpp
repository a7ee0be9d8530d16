// Back-pressure across a chain of channels: inproc, then shm, then a remote one. A slow last stage
// makes the first producer wait, and what lies between is bounded.
#include <gtest/gtest.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "penstock/channel/channel.hpp"
#include "penstock/transport/record.hpp"
#include "penstock/transport/registry.hpp"
#include "tests/transport/torn_link.hpp"

namespace penstock::test {
namespace {

constexpr std::uint64_t kCapacity = 64 * 1024;
using Payload = std::array<std::uint64_t, 30>;
constexpr std::uint64_t kPerRing = kCapacity / record_size(sizeof(Payload));

/// The remote transports there are: the torn link stands in for a device; where a test bed says
/// that there is one (tests/softroce/run), that too.
std::vector<std::string> remotes() {
  std::vector<std::string> schemes{"torn"};
  if (std::getenv("PENSTOCK_ADDR") != nullptr) schemes.emplace_back("rdma");  // NOLINT
  return schemes;
}

struct Stage {
  Receiver in;
  Sender out;
};

Stage stage(const std::string& place, const std::string& options) {
  Stage made;
  made.in = penstock::bind(place + "?capacity=64KiB" + options);
  made.out = penstock::connect(made.in.uris().at(0));
  return made;
}

void wait_until(const std::function<bool()>& condition) {
  while (!condition()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
}

class Chain : public testing::TestWithParam<std::string> {
 protected:
  static void SetUpTestSuite() { register_links(std::make_shared<TornLinkProvider>()); }

  void build(const std::string& options) {
    const char* address = std::getenv("PENSTOCK_ADDR");  // NOLINT(concurrency-mt-unsafe)
    const std::string host = address != nullptr ? address : "127.0.0.1";
    const std::string name = "chain-" + std::to_string(::getpid());
    stages_[0] = stage("inproc:" + name, options);
    stages_[1] = stage("shm:" + name, options);
    stages_[2] = stage(GetParam() + "://" + host + ":0/" + name, options);
    for (std::size_t i = 0; i + 1 < stages_.size(); ++i)
      threads_.emplace_back([&from = stages_[i].in, &to = stages_[i + 1].out] {
        for (;;) {
          const Message message = from.recv();
          if (!message || to.send(message.data()) != SendStatus::sent) break;
        }
        (void)to.close(std::chrono::seconds(60));
      });
    threads_.emplace_back([this] {
      Payload payload{};
      while (!stop_) {
        ++sent_;  // before, so that it is never behind what was received
        ASSERT_EQ(stages_[0].out.send(std::as_bytes(std::span(payload))), SendStatus::sent);
        ++payload[0];
      }
      (void)stages_[0].out.close(std::chrono::seconds(60));
    });
  }
  void take(std::chrono::microseconds work = {}) {
    const Message message = stages_[2].in.recv();
    ASSERT_TRUE(message) << to_string(message.status());
    std::uint64_t number = 0;
    std::memcpy(&number, message.data().data(), sizeof number);
    ASSERT_EQ(number, received_++);
    if (work.count() != 0) std::this_thread::sleep_for(work);
  }
  /// In the rings, and with each relay and the producer one more.
  [[nodiscard]] std::uint64_t between() const { return sent_ - received_; }
  /// The last stage takes what is left, and the end comes through.
  void finish() {
    stop_ = true;
    for (Message message = stages_[2].in.recv(); message; message = stages_[2].in.recv())
      ++received_;
    threads_.clear();
    EXPECT_EQ(received_, sent_);
  }

  static constexpr std::uint64_t kMost = 3 * (kPerRing + 1) + 1;
  std::array<Stage, 3> stages_;
  std::atomic<std::uint64_t> sent_{0};
  std::uint64_t received_ = 0;
  std::atomic<bool> stop_{false};
  std::vector<std::jthread> threads_;
};

TEST_P(Chain, makes_the_first_producer_wait_for_the_last_stage) {
  build("");
  for (int i = 0; i < 100; ++i) take();
  // The last stage stands still: one sender after another runs out of room and goes to sleep.
  for (auto at = stages_.rbegin(); at != stages_.rend(); ++at)
    wait_until([&] { return at->out.stats().parks > 0; });
  EXPECT_LE(between(), kMost);
  for (std::uint64_t i = 0; i < 3 * kMost; ++i) {
    take();
    ASSERT_LE(between(), kMost);
  }
  finish();
}

TEST_P(Chain, keeps_little_between_where_its_windows_live) {
  build("&target_delay=2ms&min_window=1KiB");
  const auto slow = std::chrono::milliseconds(1);
  // Each stage sees the next one as a slow consumer, and keeps two milliseconds' worth.
  do {
    take(slow);
    ASSERT_LE(between(), kMost);
  } while (received_ < kMost || between() > kMost / 4);
  finish();
}

INSTANTIATE_TEST_SUITE_P(Over, Chain, testing::ValuesIn(remotes()),
                         [](const auto& param) { return param.param; });

}  // namespace
}  // namespace penstock::test
