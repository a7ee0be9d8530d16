// What flow control costs a remote channel: how often the receiver writes credit.
#include <gtest/gtest.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "penstock/channel/channel.hpp"
#include "penstock/transport/registry.hpp"
#include "tests/transport/torn_link.hpp"

namespace penstock {
namespace {

using namespace std::chrono_literals;

struct Rates {
  const char* name;
  std::uint64_t size;                    // bytes of a message
  std::chrono::microseconds send_pause;  // after each message
  std::chrono::microseconds receive_pause;
};

class CreditWrites : public testing::TestWithParam<Rates> {};

// And one more where the sender waits and the ring is empty: at most one a window. Where consuming
// a quarter takes long a sender that waits is told in a millisecond or so. Before it sleeps a
// receiver says so, which is another line.
TEST_P(CreditWrites, are_at_most_one_a_quarter_window_at_any_rate) {
  register_links(std::make_shared<test::TornLinkProvider>());
  constexpr std::uint64_t kWindow = 64 * 1024;
  constexpr std::uint64_t kWindows = 40;
  const auto& [name, size, send_pause, receive_pause] = GetParam();
  const std::uint64_t count = kWindows * kWindow / (size + 16);
  auto receiver = bind("torn://127.0.0.1:0/credit?capacity=64KiB");
  std::jthread sending([&, uri = receiver.uris().at(0), size = size, pause = send_pause] {
    auto sender = connect(uri);
    const std::vector<std::byte> message(size);
    for (std::uint64_t i = 0; i < count; ++i) {
      ASSERT_EQ(sender.send(message), SendStatus::sent);
      if (pause != 0us) std::this_thread::sleep_for(pause);
    }
    ASSERT_EQ(sender.flush(30s), FlushStatus::consumed);
  });
  PathStats work;
  const auto start = std::chrono::steady_clock::now();
  for (std::uint64_t i = 0; i < count; ++i) {
    const auto message = receiver.recv_for(30s);
    ASSERT_TRUE(message) << to_string(message.status());
    if (receive_pause != 0us) std::this_thread::sleep_for(receive_pause);
    work = receiver.stats().sources.at(0).work;
  }
  const auto milliseconds = static_cast<std::uint64_t>(
      std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count());
  constexpr std::uint64_t kAtTheStart = 4;  // the first line, changes of mode
  EXPECT_LE(work.credit_writes - work.arming_writes,
            (4 + 1) * kWindows + kAtTheStart + (send_pause == 0us ? milliseconds : 0));
}

INSTANTIATE_TEST_SUITE_P(Rates, CreditWrites,
                         testing::Values(Rates{"both_at_full_speed", 64, 0us, 0us},
                                         Rates{"slow_sender", 1000, 200us, 0us},
                                         Rates{"slow_receiver", 1000, 0us, 20us},
                                         Rates{"the_same_speed", 1000, 20us, 20us}),
                         [](const auto& test) { return std::string(test.param.name); });

}  // namespace
}  // namespace penstock
