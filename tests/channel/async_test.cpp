// Coroutines at the ends of in-process channels: nothing is lost, however they end.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <chrono>
#include <cstdint>
#include <memory>
#include <numeric>
#include <random>
#include <stop_token>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "penstock/channel/local_channel.hpp"
#include "penstock/channel/select.hpp"
#include "penstock/channel/spin.hpp"
#include "tests/channel/coroutine.hpp"

namespace penstock::v2 {
namespace {

using std::chrono_literals::operator""ms;
using test::Loop;
using test::Task;

Task receive_one(Receiver<int, mpmc>& rx, RecvStatus& status, int& value,
                 std::stop_token stop = {}) {
  auto got = co_await rx.recv_async(std::move(stop));
  status = got.status();
  if (got) value = *got;
}

Task send_one(Sender<int, mpmc>& tx, int value, SendStatus& status, std::stop_token stop = {}) {
  status = co_await tx.send_async(value, std::move(stop));
}

TEST(Async, takes_what_is_there_without_suspending) {
  auto [tx, rx] = channel<int, mpmc>(2);
  ASSERT_EQ(tx.send(7), SendStatus::sent);
  RecvStatus status{};
  int value = 0;
  const auto task = receive_one(rx, status, value);
  EXPECT_TRUE(task.done());
  EXPECT_EQ(status, RecvStatus::received);
  EXPECT_EQ(value, 7);
}

TEST(Async, is_resumed_by_who_sends) {
  auto [tx, rx] = channel<int, mpmc>(2);
  RecvStatus status{};
  int value = 0;
  const auto task = receive_one(rx, status, value);
  EXPECT_FALSE(task.done());
  ASSERT_EQ(tx.send(8), SendStatus::sent);
  EXPECT_TRUE(task.done());
  EXPECT_EQ(value, 8);
  EXPECT_TRUE(rx.is_empty());
}

TEST(Async, is_resumed_by_who_makes_room) {
  auto [tx, rx] = channel<int, mpmc>(1);
  ASSERT_EQ(tx.send(1), SendStatus::sent);
  SendStatus status = SendStatus::full;
  const auto task = send_one(tx, 2, status);
  EXPECT_FALSE(task.done());
  EXPECT_EQ(*rx.recv(), 1);
  EXPECT_TRUE(task.done());
  EXPECT_EQ(status, SendStatus::sent);
  EXPECT_EQ(*rx.recv(), 2);
}

TEST(Async, room_is_awaited_too) {
  auto [tx, rx] = channel<std::string, spsc>(1);
  ASSERT_EQ(tx.send("a"), SendStatus::sent);
  const auto fill = [](Sender<std::string, spsc>& sender) -> Task {
    auto room = co_await sender.reserve_async();
    EXPECT_TRUE(room);
    room.emplace("b");
    room.commit();
  };
  const auto task = fill(tx);
  EXPECT_FALSE(task.done());
  EXPECT_EQ(*rx.recv(), "a");
  EXPECT_TRUE(task.done());
  EXPECT_EQ(*rx.recv(), "b");
}

TEST(Async, runs_on_the_executor_it_was_given) {
  auto [tx, rx] = channel<int, mpmc>(2);
  Loop loop;
  rx.run_on(loop.executor());
  RecvStatus status{};
  int value = 0;
  const auto task = receive_one(rx, status, value);
  std::thread([&tx = tx] { ASSERT_EQ(tx.send(9), SendStatus::sent); }).join();
  EXPECT_FALSE(task.done());
  EXPECT_EQ(rx.len(), 1U) << "the message stays in the channel until the coroutine runs";
  loop.run();
  EXPECT_TRUE(task.done());
  EXPECT_EQ(value, 9);
}

TEST(Async, any_number_may_wait) {
  // Resumed one after another, not one within another: as many as there are would not fit the
  // stack.
  constexpr int kMany = 50'000;
  auto [tx, rx] = channel<int, mpmc>(std::bit_ceil(static_cast<std::size_t>(kMany)));
  std::vector<Receiver<int, mpmc>> receivers;
  std::vector<RecvStatus> statuses(kMany);
  std::vector<int> values(kMany, -1);
  std::vector<Task> tasks;
  for (int i = 0; i < kMany; ++i) receivers.push_back(rx.clone());
  for (std::size_t i = 0; i < kMany; ++i)
    tasks.push_back(receive_one(receivers[i], statuses[i], values[i]));
  std::vector<int> sent(kMany);
  std::iota(sent.begin(), sent.end(), 0);
  EXPECT_EQ(tx.send_many(sent).count, kMany);
  for (int i = 0; i < kMany; ++i) ASSERT_EQ(values[static_cast<std::size_t>(i)], i);
}

TEST(Async, one_that_was_chosen_may_be_destroyed_by_the_one_before_it) {
  auto [tx, rx] = channel<int, mpmc>(4);
  auto rx2 = rx.clone();
  auto rx3 = rx.clone();
  RecvStatus status{};
  int value = 0;
  int last = 0;
  Task second;
  const auto destroy_the_second = [](Receiver<int, mpmc>& from, Task& other) -> Task {
    auto got = co_await from.recv_async();
    EXPECT_EQ(*got, 1);
    other = Task();
  };
  const auto first = destroy_the_second(rx, second);
  second = receive_one(rx2, status, value);
  const auto third = receive_one(rx3, status, last);
  const std::array<int, 2> messages{1, 2};
  EXPECT_EQ(tx.send_many(messages).count, 2U);
  EXPECT_TRUE(first.done());
  EXPECT_EQ(value, 0);
  EXPECT_TRUE(third.done()) << "the wake-up goes to the next one";
  EXPECT_EQ(last, 2);
}

TEST(AsyncStress, one_that_is_destroyed_as_it_is_chosen_passes_the_wake_up_on) {
  // The coroutine waits first, so it is the one that is chosen; the thread behind it must hear.
  constexpr int kRounds = 3'000;
  auto [tx, rx] = channel<int, mpmc>(4, {.waiting = Waiting::block});
  auto other = rx.clone();
  Loop loop;
  other.run_on(loop.executor());
  std::atomic<int> start{0};
  std::atomic<int> sent{0};
  std::jthread sender([&, tx = tx.clone()]() mutable {
    for (int round = 1; round <= kRounds; ++round) {
      while (start.load() < round) std::this_thread::yield();
      EXPECT_EQ(tx.send(round), SendStatus::sent);
      sent.store(round);
    }
  });
  for (int round = 1; round <= kRounds; ++round) {
    RecvStatus status{};
    int value = 0;
    auto task = receive_one(other, status, value);
    const auto parks = tx.stats().recv_parks;
    std::jthread thread([&rx = rx, round] { EXPECT_EQ(*rx.recv(), round); });
    while (tx.stats().recv_parks == parks) std::this_thread::yield();
    start.store(round);
    for (int i = round % 200; i != 0; --i) cpu_relax();
    task = Task();
    while (sent.load() < round) std::this_thread::yield();
    thread.join();  // ends only if it hears of the message
    EXPECT_EQ(value, 0);
  }
}

TEST(Async, hears_that_the_channel_has_ended) {
  auto [tx, rx] = channel<int, mpmc>(1);
  RecvStatus received{};
  int value = 0;
  const auto receiver = receive_one(rx, received, value);
  tx.close();
  EXPECT_TRUE(receiver.done());
  EXPECT_EQ(received, RecvStatus::closed);

  auto [tx2, rx2] = channel<int, mpmc>(1);
  ASSERT_EQ(tx2.send(1), SendStatus::sent);
  SendStatus sent{};
  const auto sender = send_one(tx2, 2, sent);
  rx2.close();
  EXPECT_TRUE(sender.done());
  EXPECT_EQ(sent, SendStatus::closed);
  Receiver<int, mpmc> none;
  EXPECT_TRUE(receive_one(none, received, value).done());
  EXPECT_EQ(received, RecvStatus::closed);
}

TEST(Async, stops_when_it_is_told_to) {
  auto [tx, rx] = channel<int, mpmc>(1);
  std::stop_source stop;
  RecvStatus status{};
  int value = 0;
  const auto task = receive_one(rx, status, value, stop.get_token());
  EXPECT_FALSE(task.done());
  stop.request_stop();
  EXPECT_TRUE(task.done());
  EXPECT_EQ(status, RecvStatus::cancelled);
  // Stopped before it began.
  ASSERT_EQ(tx.send(1), SendStatus::sent);
  EXPECT_TRUE(receive_one(rx, status, value, stop.get_token()).done());
  EXPECT_EQ(status, RecvStatus::cancelled);
  SendStatus sent{};
  EXPECT_TRUE(send_one(tx, 2, sent, stop.get_token()).done());
  EXPECT_EQ(sent, SendStatus::cancelled);
  EXPECT_EQ(*rx.recv(), 1);
  EXPECT_TRUE(rx.is_empty());
}

TEST(Async, a_coroutine_that_is_destroyed_takes_neither_message_nor_wake_up_with_it) {
  auto [tx, rx] = channel<int, mpmc>(1);
  RecvStatus status{};
  int value = 0;
  { const auto gone = receive_one(rx, status, value); }
  auto other = rx.clone();
  const auto task = receive_one(other, status, value);
  ASSERT_EQ(tx.send(1), SendStatus::sent);
  EXPECT_TRUE(task.done());

  // Destroyed after it was chosen and before its task ran: the other one is chosen instead.
  Loop loop;
  rx.run_on(loop.executor());
  auto chosen = receive_one(rx, status, value);
  const auto next = receive_one(other, status, value);
  ASSERT_EQ(tx.send(2), SendStatus::sent);
  EXPECT_FALSE(next.done());
  chosen = {};
  EXPECT_TRUE(next.done());
  EXPECT_EQ(value, 2);
  loop.run();
}

TEST(Async, a_constructor_that_throws_comes_through) {
  struct Thrower {
    Thrower() = default;
    Thrower(const Thrower& /*other*/) { throw std::runtime_error("copy"); }
  };
  auto [tx, rx] = channel<Thrower, spsc>(1);
  bool caught = false;
  const auto task = [](Sender<Thrower, spsc>& sender, bool& thrown) -> Task {
    const Thrower value;
    try {
      (void)co_await sender.send_async(value);
    } catch (const std::runtime_error&) {
      thrown = true;
    }
  }(tx, caught);
  EXPECT_TRUE(caught);
}

// ── Stress ───────────────────────────────────────────────────────────────────────────────────────

/// Counts how often each message came.
class Tally {
 public:
  explicit Tally(std::size_t count) : seen_(count) {}
  void add(int value) { ++seen_[static_cast<std::size_t>(value)]; }
  [[nodiscard]] bool each_once() const {
    return std::ranges::all_of(seen_, [](const auto& n) { return n == 1; });
  }

 private:
  std::vector<std::atomic<int>> seen_;
};

Task receive_all(Receiver<int, mpmc>& rx, Tally& tally) {
  for (;;) {
    const auto got = co_await rx.recv_async();
    if (!got) co_return;
    tally.add(*got);
  }
}

Task send_all(Sender<int, mpmc> tx, int from, int to) {
  for (int i = from; i < to; ++i) EXPECT_EQ(co_await tx.send_async(i), SendStatus::sent);
  tx = {};  // rather than with the coroutine's frame
}

TEST(AsyncStress, coroutines_and_threads_share_a_channel) {
  constexpr int kEach = 5'000;
  Tally tally(4 * kEach);
  {
    auto [tx, rx] = channel<int, mpmc>(4);
    auto rx2 = rx.clone();
    auto first = receive_all(rx, tally);
    std::vector<std::thread> threads;
    threads.emplace_back([&tally, rx = rx.clone()]() mutable {
      while (const auto got = rx.recv()) tally.add(*got);
    });
    for (int who = 0; who < 2; ++who)
      threads.emplace_back([who, tx = tx.clone()]() mutable {
        for (int i = 0; i < kEach; ++i) EXPECT_EQ(tx.send(who * kEach + i), SendStatus::sent);
      });
    auto third = send_all(tx.clone(), 2 * kEach, 3 * kEach);
    auto fourth = send_all(tx.clone(), 3 * kEach, 4 * kEach);
    auto second = receive_all(rx2, tally);
    tx = {};
    for (auto& thread : threads) thread.join();
    while (!(first.done() && second.done() && third.done() && fourth.done()))
      std::this_thread::yield();
  }
  EXPECT_TRUE(tally.each_once());
}

/// Receives until it is stopped or the channel ends; says whether it was the latter.
Task receive_until_stopped(Receiver<int, mpmc>& rx, Tally& tally, std::stop_token stop,
                           bool& ended) {
  for (;;) {
    const auto got = co_await rx.recv_async(stop);
    if (got) {
      tally.add(*got);
      continue;
    }
    ended = got.status() == RecvStatus::closed;
    co_return;
  }
}

TEST(AsyncStress, receivers_that_are_cancelled_at_random_lose_nothing) {
  constexpr int kMessages = 20'000;
  for (const bool destroy : {false, true}) {
    Tally tally(kMessages);
    auto [tx, rx] = channel<int, mpmc>(4);
    std::thread sender([tx = std::move(tx)]() mutable {
      for (int i = 0; i < kMessages; ++i) ASSERT_EQ(tx.send(i), SendStatus::sent);
    });
    // On a loop of this thread; two at a time, one of which is ended now and then.
    Loop loop;
    auto rx2 = rx.clone();
    rx.run_on(loop.executor());
    rx2.run_on(loop.executor());
    std::mt19937 random(1);
    bool ended = false;
    bool ended2 = false;
    auto steady = receive_until_stopped(rx, tally, {}, ended);
    while (!ended) {
      std::stop_source stop;
      auto brief = receive_until_stopped(rx2, tally, stop.get_token(), ended2);
      for (auto rounds = random() % 8; rounds != 0; --rounds) loop.run();
      if (!destroy) {
        std::thread stopper;
        if (random() % 64 == 0) {
          stopper = std::thread([&stop] { stop.request_stop(); });
        } else {
          stop.request_stop();
        }
        while (!brief.done()) loop.run();
        if (stopper.joinable()) stopper.join();
      }
      brief = {};
      loop.run();
    }
    sender.join();
    EXPECT_TRUE(tally.each_once());
  }
}

TEST(AsyncStress, senders_that_are_cancelled_at_random_send_once_or_not_at_all) {
  constexpr int kMessages = 20'000;
  Tally tally(kMessages);
  auto [tx, rx] = channel<int, mpmc>(2);
  std::thread receiver([&tally, rx = std::move(rx)]() mutable {
    while (const auto got = rx.recv()) tally.add(*got);
  });
  Loop loop;
  tx.run_on(loop.executor());
  std::mt19937 random(2);
  for (int next = 0; next < kMessages;) {
    std::stop_source stop;
    auto status = SendStatus::full;
    auto task = send_one(tx, next, status, stop.get_token());
    for (auto rounds = random() % 4; rounds != 0; --rounds) loop.run();
    stop.request_stop();
    while (!task.done()) loop.run();
    if (status == SendStatus::sent) ++next;
  }
  tx = {};
  receiver.join();
  EXPECT_TRUE(tally.each_once());
}

// ── Select ───────────────────────────────────────────────────────────────────────────────────────

TEST(Select, takes_what_is_ready) {
  auto [tx1, rx1] = channel<int, spsc>(1);
  auto [tx2, rx2] = channel<std::string, mpsc>(1);
  ASSERT_EQ(tx2.send("b"), SendStatus::sent);
  std::string text;
  EXPECT_EQ(select(on_recv(rx1, [](auto&&) {}), on_recv(rx2, [&](auto got) { text = *got; })), 1U);
  EXPECT_EQ(text, "b");
  int sent = 0;
  EXPECT_EQ(select(on_recv(rx2, [](auto&&) {}),
                   on_send(tx1, 5, [&](SendStatus status) { sent += status == SendStatus::sent; })),
            1U);
  EXPECT_EQ(sent, 1);
  EXPECT_EQ(*rx1.recv(), 5);
}

TEST(Select, gives_up_in_time) {
  auto [tx, rx] = channel<int, spsc>(1);
  EXPECT_EQ(try_select(on_recv(rx, [](auto&&) {})), std::nullopt);
  EXPECT_EQ(select_for(2ms, on_recv(rx, [](auto&&) {})), std::nullopt);
  EXPECT_EQ(select_for(-2ms, on_recv(rx, [](auto&&) {})), std::nullopt);
  EXPECT_EQ(select_until(TimePoint::max(), {}), std::nullopt) << "over nothing";
}

TEST(Select, counts_an_end_as_ready) {
  auto [tx, rx] = channel<int, spsc>(1);
  tx.close();
  auto status = RecvStatus::received;
  EXPECT_EQ(select(on_recv(rx, [&](auto got) { status = got.status(); })), 0U);
  EXPECT_EQ(status, RecvStatus::closed);
  Sender<int, spsc> none;
  EXPECT_EQ(select(on_send(none, 1, [](SendStatus) {})), 0U);
}

TEST(Select, is_fair_among_the_ready) {
  auto [tx1, rx1] = channel<int, spsc>(1024);
  auto [tx2, rx2] = channel<int, spsc>(1024);
  for (int i = 0; i < 1000; ++i) {
    ASSERT_EQ(tx1.send(i), SendStatus::sent);
    ASSERT_EQ(tx2.send(i), SendStatus::sent);
  }
  std::array<int, 2> taken{};
  for (int i = 0; i < 1000; ++i)
    ++taken[select(on_recv(rx1, [](auto&&) {}), on_recv(rx2, [](auto&&) {}))];
  EXPECT_GT(taken[0], 300);
  EXPECT_GT(taken[1], 300);
}

TEST(Select, wakes_for_any_of_its_channels) {
  for (int lap = 0; lap < 50; ++lap) {
    auto [tx1, rx1] = channel<int, mpmc>(1);
    auto [tx2, rx2] = channel<int, mpmc>(1);
    std::thread other([lap, &first = tx1, &second = tx2] {
      std::this_thread::sleep_for(std::chrono::microseconds(200));
      ASSERT_EQ((lap % 2 == 0 ? first : second).send(lap), SendStatus::sent);
    });
    int got = -1;
    const auto take = [&](auto message) { got = *message; };
    EXPECT_EQ(select(on_recv(rx1, take), on_recv(rx2, take)), static_cast<std::size_t>(lap % 2));
    EXPECT_EQ(got, lap);
    other.join();
  }
}

TEST(SelectStress, several_selects_lose_nothing) {
  constexpr int kEach = 10'000;
  Tally tally(2 * kEach);
  auto [tx1, rx1] = channel<int, mpmc>(2, {Waiting::block});
  auto [tx2, rx2] = channel<int, mpmc>(2, {Waiting::block});
  std::vector<std::thread> threads;
  for (int i = 0; i < 3; ++i)
    threads.emplace_back([&tally, a = rx1.clone(), b = rx2.clone()]() mutable {
      for (bool a_open = true, b_open = true; a_open || b_open;) {
        auto from_a = on_recv(a, [&](auto got) { got ? tally.add(*got) : void(a_open = false); });
        auto from_b = on_recv(b, [&](auto got) { got ? tally.add(*got) : void(b_open = false); });
        std::vector<SelectCase*> cases;
        if (a_open) cases.push_back(&from_a);
        if (b_open) cases.push_back(&from_b);
        EXPECT_TRUE(select_until(TimePoint::max(), cases));
      }
    });
  // One thread sends to whichever has room.
  threads.emplace_back([tx1 = std::move(tx1), tx2 = std::move(tx2)]() mutable {
    for (int i = 0; i < 2 * kEach; ++i) {
      const auto sent = [](SendStatus status) { EXPECT_EQ(status, SendStatus::sent); };
      (void)select(on_send(tx1, i, sent), on_send(tx2, i, sent));
    }
  });
  for (auto& thread : threads) thread.join();
  EXPECT_TRUE(tally.each_once());
}

}  // namespace
}  // namespace penstock::v2
