// What holds for typed channels within a process, whatever their topology and way of waiting.
#include "penstock/channel/local_channel.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#include "tests/child.hpp"

namespace penstock::v2 {
namespace {

using std::chrono_literals::operator""ms;

template <Topology kTopology>
struct Shape {
  static constexpr Topology value = kTopology;
  template <class T>
  static Ends<T, kTopology> make(std::size_t capacity, const ChannelOptions& options = {}) {
    return channel<T, kTopology>(capacity, options);
  }
};

struct ShapeNames {
  template <class S>
  static std::string GetName(int /*index*/) {
    switch (S::value) {
      case spsc: return "spsc";
      case mpsc: return "mpsc";
      case spmc: return "spmc";
      case mpmc: return "mpmc";
      case remote: break;
    }
    return {};
  }
};

template <class S>
class LocalChannel : public testing::Test {};
using Shapes = testing::Types<Shape<spsc>, Shape<mpsc>, Shape<spmc>, Shape<mpmc>>;
TYPED_TEST_SUITE(LocalChannel, Shapes, ShapeNames);

/// Counts those alive; can be told to throw.
class Tracked {
 public:
  explicit Tracked(int value) : value_(value) { ++alive; }
  Tracked(Tracked&& other) noexcept : value_(std::exchange(other.value_, -1)) { ++alive; }
  Tracked(const Tracked& other) : value_(other.value_) {
    if (throwing) throw std::runtime_error("copy");
    ++alive;
  }
  Tracked& operator=(Tracked&& other) noexcept {
    value_ = std::exchange(other.value_, -1);
    return *this;
  }
  Tracked& operator=(const Tracked&) = default;
  ~Tracked() { --alive; }
  [[nodiscard]] int value() const { return value_; }

  static inline std::atomic<int> alive{0};
  static inline bool throwing = false;

 private:
  int value_;
};

// ── Messages ─────────────────────────────────────────────────────────────────────────────────────

TYPED_TEST(LocalChannel, hands_messages_on_in_order) {
  auto [tx, rx] = TypeParam::template make<int>(4);
  for (int lap = 0; lap < 100; ++lap) {
    for (int i = 0; i < 3; ++i) ASSERT_EQ(tx.send(lap * 3 + i), SendStatus::sent);
    for (int i = 0; i < 3; ++i) ASSERT_EQ(*rx.recv(), lap * 3 + i);
  }
}

TYPED_TEST(LocalChannel, holds_its_capacity_and_not_more) {
  for (const std::size_t capacity : {1U, 2U, 8U, 64U}) {
    auto [tx, rx] = TypeParam::template make<std::size_t>(capacity);
    EXPECT_EQ(tx.capacity(), capacity);
    for (std::size_t lap = 0; lap < 3; ++lap) {
      for (std::size_t i = 0; i < capacity; ++i) {
        EXPECT_EQ(rx.len(), i);
        ASSERT_EQ(tx.try_send(i), SendStatus::sent);
      }
      EXPECT_TRUE(tx.is_full());
      EXPECT_EQ(tx.try_send(std::size_t{0}), SendStatus::full);
      // One place comes back with one message.
      EXPECT_EQ(*rx.try_recv(), 0U);
      EXPECT_EQ(tx.try_send(capacity), SendStatus::sent);
      for (std::size_t i = 1; i <= capacity; ++i) ASSERT_EQ(*rx.try_recv(), i);
      EXPECT_EQ(rx.try_recv().status(), RecvStatus::empty);
      EXPECT_TRUE(rx.is_empty());
    }
  }
}

TYPED_TEST(LocalChannel, rounds_its_capacity_up_and_says_so) {
  auto [tx, rx] = TypeParam::template make<int>(1000);
  EXPECT_EQ(tx.capacity(), 1024U);
  EXPECT_EQ(rx.capacity(), 1024U);
}

TYPED_TEST(LocalChannel, refuses_a_capacity_that_makes_no_sense) {
  for (const auto capacity : {std::size_t{0}, static_cast<std::size_t>(-1)}) {
    try {
      (void)TypeParam::template make<int>(capacity);
      FAIL() << capacity;
    } catch (const SetupError& error) {
      EXPECT_EQ(error.errc(), Errc::bad_option);
    }
  }
}

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)  // they would end the program
TYPED_TEST(LocalChannel, says_that_memory_is_short) {
  struct Huge {
    std::array<std::byte, std::size_t{1} << 32U> bytes;
  };
  try {
    (void)TypeParam::template make<Huge>(kMaxSlots);
    FAIL();
  } catch (const SetupError& error) {
    EXPECT_EQ(error.errc(), Errc::resource_limit);
  }
}
#endif

TYPED_TEST(LocalChannel, moves_what_can_only_be_moved) {
  auto [tx, rx] = TypeParam::template make<std::unique_ptr<int>>(2);
  ASSERT_EQ(tx.send(std::make_unique<int>(7)), SendStatus::sent);
  EXPECT_EQ(**rx.recv(), 7);
}

TYPED_TEST(LocalChannel, leaves_what_it_does_not_send_with_the_caller) {
  auto [tx, rx] = TypeParam::template make<std::unique_ptr<int>>(1);
  ASSERT_EQ(tx.send(std::make_unique<int>(1)), SendStatus::sent);
  auto mine = std::make_unique<int>(2);
  EXPECT_EQ(tx.try_send(std::move(mine)), SendStatus::full);
  ASSERT_TRUE(mine);
  EXPECT_EQ(tx.send_for(std::move(mine), 1ms), SendStatus::timed_out);
  ASSERT_TRUE(mine);
  EXPECT_EQ(tx.send_for(std::move(mine), -1ms), SendStatus::timed_out);
  ASSERT_TRUE(mine);
  rx.close();
  EXPECT_EQ(tx.send(std::move(mine)), SendStatus::closed);
  ASSERT_TRUE(mine);
}

TYPED_TEST(LocalChannel, carries_types_of_any_alignment_and_without_default_constructor) {
  struct alignas(256) Wide {
    explicit Wide(int v) : value(v) {}
    int value;
  };
  auto [tx, rx] = TypeParam::template make<Wide>(4);
  for (int i = 0; i < 10; ++i) {
    ASSERT_EQ(tx.send(Wide(i)), SendStatus::sent);
    const auto got = rx.recv();
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(&*got) % 256, 0U);
    EXPECT_EQ(got->value, i);
  }
}

TYPED_TEST(LocalChannel, a_constructor_that_throws_sends_nothing) {
  auto [tx, rx] = TypeParam::template make<Tracked>(4);
  {
    const Tracked first(1);
    const Tracked second(2);
    ASSERT_EQ(tx.send(first), SendStatus::sent);
    Tracked::throwing = true;
    for (int i = 0; i < 20; ++i) {
      EXPECT_THROW((void)tx.try_send(second), std::runtime_error) << i;
      // The place goes back through the receiver, who passes over it.
      if (i == 0) {
        EXPECT_EQ(rx.recv()->value(), 1);
      } else {
        EXPECT_EQ(rx.try_recv().status(), RecvStatus::empty);
      }
    }
    Tracked::throwing = false;
    ASSERT_EQ(tx.send(second), SendStatus::sent);
    EXPECT_EQ(rx.recv()->value(), 2);
  }
  EXPECT_EQ(Tracked::alive, 0);
}

TYPED_TEST(LocalChannel, destroys_what_nobody_received) {
  {
    auto [tx, rx] = TypeParam::template make<Tracked>(8);
    for (int i = 0; i < 6; ++i) ASSERT_EQ(tx.send(Tracked(i)), SendStatus::sent);
    EXPECT_EQ(rx.recv()->value(), 0);
    EXPECT_EQ(Tracked::alive, 5);
  }
  EXPECT_EQ(Tracked::alive, 0);
  auto [tx, rx] = TypeParam::template make<Tracked>(8);
  ASSERT_EQ(tx.send(Tracked(1)), SendStatus::sent);
  rx.close();
  EXPECT_EQ(Tracked::alive, 0) << "at once, not when the last sender goes";
}

/// Its move throws where told so.
struct Fragile {
  explicit Fragile(int v) : value(v) {}
  // NOLINTNEXTLINE(performance-noexcept-move-constructor,bugprone-exception-escape)
  Fragile(Fragile&& other) : value(other.value) {
    if (armed) throw std::runtime_error("move");
  }
  int value;
  static inline bool armed = false;
};

TEST(LocalChannelOfOneConsumer, keeps_a_message_whose_move_throws) {
  auto [tx, rx] = channel<Fragile, spsc>(4);
  ASSERT_EQ(tx.send(Fragile(5)), SendStatus::sent);
  ASSERT_EQ(tx.send(Fragile(6)), SendStatus::sent);
  Fragile::armed = true;
  EXPECT_THROW((void)rx.recv(), std::runtime_error);
  EXPECT_THROW((void)rx.try_recv(), std::runtime_error);
  Fragile::armed = false;
  EXPECT_EQ(rx.recv()->value, 5);
  EXPECT_EQ(rx.recv()->value, 6);
}

// ── Room ─────────────────────────────────────────────────────────────────────────────────────────

TYPED_TEST(LocalChannel, room_is_filled_in_place_and_sent_by_commit) {
  auto [tx, rx] = TypeParam::template make<std::string>(2);
  auto room = tx.reserve();
  ASSERT_TRUE(room);
  room.emplace(3, 'a') += "b";
  EXPECT_EQ(rx.try_recv().status(), RecvStatus::empty);
  EXPECT_TRUE(room.commit());
  EXPECT_FALSE(room.commit()) << "of nothing";
  EXPECT_EQ(*rx.recv(), "aaab");
}

TYPED_TEST(LocalChannel, room_that_is_dropped_comes_back) {
  {
    auto [tx, rx] = TypeParam::template make<Tracked>(4);
    for (int i = 0; i < 40; ++i) {
      auto dropped = tx.try_reserve();
      ASSERT_TRUE(dropped);
      if (i % 2 == 0) dropped.emplace(-1);
      auto moved = std::move(dropped);
      auto kept = tx.try_reserve();
      kept.emplace(i);
      ASSERT_TRUE(kept.commit());
      EXPECT_EQ(rx.try_recv().status(), RecvStatus::empty) << "an earlier one is not published";
      if (i % 3 == 0) {
        EXPECT_EQ(moved.commit(), i % 2 == 0);
        if (i % 2 == 0) {
          EXPECT_EQ(rx.recv()->value(), -1);
        }
      } else {
        moved = {};
      }
      EXPECT_EQ(rx.recv()->value(), i);
    }
    EXPECT_EQ(Tracked::alive, 0);
  }
  EXPECT_EQ(Tracked::alive, 0);
}

TYPED_TEST(LocalChannel, room_is_not_there_when_the_channel_is_full_or_closed) {
  auto [tx, rx] = TypeParam::template make<int>(1);
  auto room = tx.reserve();
  EXPECT_EQ(tx.try_reserve().status(), SendStatus::full);
  EXPECT_EQ(tx.reserve_for(1ms).status(), SendStatus::timed_out);
  room = {};
  tx.close();
  EXPECT_EQ(tx.reserve().status(), SendStatus::closed);
}

TYPED_TEST(LocalChannel, a_sender_that_stands_still_shows_and_holds_nobody_up_for_ever) {
  auto [tx, rx] = TypeParam::template make<int>(8);
  auto still = tx.reserve();
  EXPECT_EQ(tx.stats().unpublished, 0U) << "nothing waits behind it yet";
  ASSERT_EQ(tx.send(1), SendStatus::sent);
  EXPECT_EQ(rx.try_recv().status(), RecvStatus::empty);
  EXPECT_EQ(rx.len(), 2U);
  EXPECT_EQ(rx.stats().unpublished, 1U);
  still = {};
  EXPECT_EQ(rx.stats().unpublished, 0U);
  EXPECT_EQ(*rx.recv(), 1);
}

// ── Ends ─────────────────────────────────────────────────────────────────────────────────────────

TYPED_TEST(LocalChannel, is_drained_after_the_last_sender_and_then_closed) {
  auto [tx, rx] = TypeParam::template make<int>(4);
  ASSERT_EQ(tx.send(1), SendStatus::sent);
  ASSERT_EQ(tx.send(2), SendStatus::sent);
  EXPECT_FALSE(rx.is_closed());
  tx = {};
  EXPECT_TRUE(rx.is_closed());
  EXPECT_EQ(rx.sender_count(), 0U);
  EXPECT_EQ(*rx.recv(), 1);
  EXPECT_EQ(*rx.try_recv(), 2);
  EXPECT_EQ(rx.try_recv().status(), RecvStatus::closed);
  EXPECT_EQ(rx.recv().status(), RecvStatus::closed);
  EXPECT_EQ(rx.recv_for(1ms).status(), RecvStatus::closed);
}

TYPED_TEST(LocalChannel, close_ends_sending_and_leaves_what_was_sent) {
  auto [tx, rx] = TypeParam::template make<int>(4);
  ASSERT_EQ(tx.send(1), SendStatus::sent);
  tx.close();
  EXPECT_EQ(tx.send(2), SendStatus::closed);
  EXPECT_EQ(tx.try_send(2), SendStatus::closed);
  EXPECT_EQ(*rx.recv(), 1);
  EXPECT_EQ(rx.recv().status(), RecvStatus::closed);
}

TYPED_TEST(LocalChannel, what_was_moved_from_says_closed) {
  auto [tx, rx] = TypeParam::template make<int>(4);
  auto tx2 = std::move(tx);
  auto rx2 = std::move(rx);
  EXPECT_FALSE(tx);                                      // NOLINT(bugprone-use-after-move)
  EXPECT_EQ(tx.send(1), SendStatus::closed);             // NOLINT(bugprone-use-after-move)
  EXPECT_EQ(tx.reserve().status(), SendStatus::closed);  // NOLINT(bugprone-use-after-move)
  EXPECT_EQ(tx.flush(), FlushStatus::closed);            // NOLINT(bugprone-use-after-move)
  EXPECT_EQ(rx.recv().status(), RecvStatus::closed);     // NOLINT(bugprone-use-after-move)
  EXPECT_EQ(rx.capacity(), 0U);                          // NOLINT(bugprone-use-after-move)
  EXPECT_EQ(tx2.send(1), SendStatus::sent);
  EXPECT_EQ(*rx2.recv(), 1);
  EXPECT_TRUE(tx2.same_channel(rx2));
  EXPECT_FALSE(tx2.same_channel(rx));  // NOLINT(bugprone-use-after-move)
}

TYPED_TEST(LocalChannel, is_a_range_until_it_is_closed) {
  auto [tx, rx] = TypeParam::template make<int>(4);
  std::thread sender([tx = std::move(tx)]() mutable {
    for (int i = 0; i < 100; ++i) ASSERT_EQ(tx.send(i), SendStatus::sent);
  });
  int next = 0;
  for (const int value : rx) EXPECT_EQ(value, next++);
  EXPECT_EQ(next, 100);
  sender.join();
}

TYPED_TEST(LocalChannel, flush_waits_until_all_is_received) {
  auto [tx, rx] = TypeParam::template make<int>(4);
  EXPECT_EQ(tx.flush(), FlushStatus::consumed);
  ASSERT_EQ(tx.send(1), SendStatus::sent);
  EXPECT_EQ(tx.flush(1ms), FlushStatus::timed_out);
  std::thread receiver([&rx = rx] {
    std::this_thread::sleep_for(5ms);
    EXPECT_EQ(*rx.recv(), 1);
  });
  EXPECT_EQ(tx.flush(), FlushStatus::consumed);
  receiver.join();
  ASSERT_EQ(tx.send(2), SendStatus::sent);
  rx.close();
  EXPECT_NE(tx.flush(), FlushStatus::timed_out);
}

TYPED_TEST(LocalChannel, a_child_has_its_parents_handles_and_cannot_use_them) {
  auto [tx, rx] = TypeParam::template make<int>(4);
  ASSERT_EQ(tx.send(1), SendStatus::sent);
  EXPECT_EQ(test::run_in_child([&tx = tx, &rx = rx] {
              const bool refused = tx.try_send(2) == SendStatus::forked &&
                                   rx.try_recv().status() == RecvStatus::forked &&
                                   tx.try_reserve().status() == SendStatus::forked &&
                                   tx.flush() == FlushStatus::forked;
              tx = {};
              rx = {};
              return refused;
            }),
            0);
  EXPECT_EQ(*rx.recv(), 1);
}

// ── Batches ──────────────────────────────────────────────────────────────────────────────────────

TYPED_TEST(LocalChannel, batches_say_how_many_went) {
  auto [tx, rx] = TypeParam::template make<int>(8);
  const std::vector<int> values{0, 1, 2, 3, 4, 5, 6, 7, 8, 9};
  const auto sent = tx.try_send_many(values);
  EXPECT_EQ(sent.count, 8U);
  EXPECT_EQ(sent.status, SendStatus::full);
  std::vector<int> got;
  auto received = rx.recv_many(std::back_inserter(got), 5);
  EXPECT_EQ(received.count, 5U);
  EXPECT_EQ(received.status, RecvStatus::received);
  received = rx.recv_many(std::back_inserter(got), 100);
  EXPECT_EQ(received.count, 3U);
  EXPECT_EQ(received.status, RecvStatus::received);
  EXPECT_EQ(got, std::vector<int>({0, 1, 2, 3, 4, 5, 6, 7}));
  received = rx.try_recv_many(std::back_inserter(got), 1);
  EXPECT_EQ(received.count, 0U);
  EXPECT_EQ(received.status, RecvStatus::empty);
  EXPECT_EQ(tx.send_many(std::vector<int>{}).status, SendStatus::sent) << "of nothing";
  ASSERT_EQ(tx.send(1), SendStatus::sent);
  tx.close();
  received = rx.recv_many(std::back_inserter(got), 2);
  EXPECT_EQ(received.count, 1U);
  EXPECT_EQ(received.status, RecvStatus::closed);
  EXPECT_EQ(tx.send_many(values).status, SendStatus::closed);
}

TYPED_TEST(LocalChannel, a_batch_larger_than_the_channel_goes_through_it) {
  auto [tx, rx] = TypeParam::template make<std::unique_ptr<int>>(4);
  std::thread sender([tx = std::move(tx)]() mutable {
    std::vector<std::unique_ptr<int>> values;
    for (int i = 0; i < 1000; ++i) values.push_back(std::make_unique<int>(i));
    const auto sent = tx.send_many(std::move(values));
    EXPECT_EQ(sent.count, 1000U);
    EXPECT_EQ(sent.status, SendStatus::sent);
  });
  std::vector<std::unique_ptr<int>> got;
  while (rx.recv_many(std::back_inserter(got), 7).status == RecvStatus::received) {
  }
  ASSERT_EQ(got.size(), 1000U);
  for (int i = 0; i < 1000; ++i) EXPECT_EQ(*got[static_cast<std::size_t>(i)], i);
  sender.join();
}

/// 3 cannot be sent.
struct Number {
  int value;
  explicit(false) operator Tracked() const {
    if (value == 3) throw std::runtime_error("element");
    return Tracked(value);
  }
};

TYPED_TEST(LocalChannel, a_batch_that_throws_has_sent_what_came_before) {
  {
    auto [tx, rx] = TypeParam::template make<Tracked>(8);
    const std::array<Number, 6> thrower{{{0}, {1}, {2}, {3}, {4}, {5}}};
    EXPECT_THROW((void)tx.send_many(thrower), std::runtime_error);
    for (int i = 0; i < 3; ++i) EXPECT_EQ(rx.try_recv()->value(), i);
    EXPECT_EQ(rx.try_recv().status(), RecvStatus::empty);
    ASSERT_EQ(tx.send(Tracked(9)), SendStatus::sent);
    EXPECT_EQ(rx.recv()->value(), 9);
  }
  EXPECT_EQ(Tracked::alive, 0);
}

// ── Clones ───────────────────────────────────────────────────────────────────────────────────────

TEST(LocalChannelClones, count_and_close_when_the_last_one_goes) {
  auto [tx, rx] = channel<int, mpmc>(4);
  auto weak = tx.downgrade();
  auto weak_receiver = rx.downgrade();
  auto tx2 = tx.clone();
  auto rx2 = rx.clone();
  EXPECT_EQ(rx.sender_count(), 2U);
  EXPECT_EQ(tx.receiver_count(), 2U);
  tx = {};
  EXPECT_FALSE(rx.is_closed());
  {
    auto tx3 = weak.upgrade();
    ASSERT_TRUE(tx3);
    EXPECT_EQ(rx.sender_count(), 2U);
    tx2 = {};
    EXPECT_FALSE(rx.is_closed());
  }
  EXPECT_TRUE(rx.is_closed());
  EXPECT_FALSE(weak.upgrade());
  EXPECT_EQ(rx2.recv().status(), RecvStatus::closed);
  rx = {};
  ASSERT_TRUE(weak_receiver.upgrade());
  rx2 = {};
  EXPECT_FALSE(weak_receiver.upgrade());
}

template <class End>
concept Clonable = requires(const End end) {
  end.clone();
};
template <class End>
concept Forcible = requires(End end) {
  end.force_send(1);
};
static_assert(!Clonable<Sender<int, spsc>> && !Clonable<Sender<int, spmc>>);
static_assert(!Clonable<Receiver<int, spsc>> && !Clonable<Receiver<int, mpsc>>);
static_assert(Clonable<Sender<int, mpsc>> && Clonable<Receiver<int, spmc>>);
static_assert(!Forcible<Sender<int, spsc>> && !Forcible<Sender<int, mpsc>>);
static_assert(Forcible<Sender<int, spmc>> && Forcible<Sender<int, mpmc>>);

TEST(LocalChannelForce, makes_room_by_evicting_the_oldest) {
  auto [tx, rx] = channel<std::unique_ptr<int>, spmc>(2);
  for (int i = 0; i < 5; ++i) {
    const auto forced = tx.force_send(std::make_unique<int>(i));
    EXPECT_EQ(forced.status, SendStatus::sent);
    ASSERT_EQ(forced.evicted.has_value(), i >= 2);
    if (i >= 2) {
      EXPECT_EQ(**forced.evicted, i - 2);
    }
  }
  EXPECT_EQ(**rx.recv(), 3);
  EXPECT_EQ(**rx.recv(), 4);
  rx.close();
  EXPECT_EQ(tx.force_send(std::make_unique<int>(1)).status, SendStatus::closed);
}

// ── Waiting ──────────────────────────────────────────────────────────────────────────────────────

class LocalChannelWaiting : public testing::TestWithParam<Waiting> {
 protected:
  [[nodiscard]] static ChannelOptions options() { return {GetParam()}; }
};

TEST_P(LocalChannelWaiting, a_receiver_wakes_for_a_message) {
  auto [tx, rx] = channel<int, mpmc>(1, options());
  std::thread receiver([rx = std::move(rx)]() mutable {
    for (int i = 0; i < 20; ++i) EXPECT_EQ(*rx.recv(), i);
    EXPECT_EQ(rx.recv().status(), RecvStatus::closed);
  });
  for (int i = 0; i < 20; ++i) {
    std::this_thread::sleep_for(1ms);
    ASSERT_EQ(tx.send(i), SendStatus::sent);
  }
  std::this_thread::sleep_for(1ms);
  tx = {};
  receiver.join();
}

TEST_P(LocalChannelWaiting, a_sender_wakes_for_room) {
  auto [tx, rx] = channel<int, mpsc>(1, options());
  std::thread sender([tx = std::move(tx)]() mutable {
    for (int i = 0; i < 20; ++i) EXPECT_EQ(tx.send(i), SendStatus::sent);
    EXPECT_EQ(tx.send(20), SendStatus::sent);
    EXPECT_EQ(tx.send(21), SendStatus::closed);
  });
  for (int i = 0; i < 20; ++i) {
    std::this_thread::sleep_for(1ms);
    EXPECT_EQ(*rx.recv(), i);
  }
  while (rx.len() == 0) std::this_thread::yield();
  std::this_thread::sleep_for(1ms);
  rx = {};
  sender.join();
}

TEST_P(LocalChannelWaiting, many_that_wait_all_wake_when_it_ends) {
  auto [tx, rx] = channel<int, mpmc>(1, options());
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i)
    threads.emplace_back(
        [rx = rx.clone()]() mutable { EXPECT_EQ(rx.recv().status(), RecvStatus::closed); });
  std::this_thread::sleep_for(2ms);
  tx.close();
  for (auto& thread : threads) thread.join();
}

TEST_P(LocalChannelWaiting, a_wait_that_times_out_takes_no_wake_up_with_it) {
  // Two wait, the first for a short time only: the message must reach the second.
  for (int lap = 0; lap < 200; ++lap) {
    auto [tx, rx] = channel<int, mpmc>(4, options());
    std::atomic<int> got{0};
    std::thread brief([&got, rx = rx.clone()]() mutable {
      got += rx.recv_for(std::chrono::microseconds(100)) ? 1 : 0;
    });
    std::thread patient([&got, rx = rx.clone()]() mutable { got += rx.recv() ? 1 : 0; });
    std::this_thread::sleep_for(std::chrono::microseconds(90));
    ASSERT_EQ(tx.send(1), SendStatus::sent);
    while (got == 0) std::this_thread::yield();
    tx = {};
    brief.join();
    patient.join();
    EXPECT_EQ(got, 1);
  }
}

INSTANTIATE_TEST_SUITE_P(Strategies, LocalChannelWaiting,
                         testing::Values(Waiting::spin, Waiting::adaptive, Waiting::block),
                         [](const auto& test) -> std::string {
                           switch (test.param) {
                             case Waiting::spin: return "spin";
                             case Waiting::adaptive: return "adaptive";
                             case Waiting::block: return "block";
                           }
                           return {};
                         });

// ── Stress ───────────────────────────────────────────────────────────────────────────────────────

/// One message's life, in ticks of a clock that all threads share.
struct Life {
  std::uint64_t send_begin = 0;
  std::uint64_t send_end = 0;
  std::uint64_t recv_begin = 0;
  std::uint64_t recv_end = 0;
  int receipts = 0;
};

/// A queue is linearizable if no message overtakes another: one that was received wholly before
/// another one's receipt began was not sent wholly after that one.
void expect_nobody_overtook(std::vector<Life>& lives) {
  std::ranges::sort(lives, {}, &Life::send_begin);
  std::vector<const Life*> by_end;
  for (const auto& life : lives) by_end.push_back(&life);
  std::ranges::sort(by_end, {}, &Life::send_end);
  std::uint64_t latest_begin = 0;  // of the receipts of those sent wholly before
  auto before = by_end.begin();
  for (const auto& life : lives) {
    for (; before != by_end.end() && (*before)->send_end < life.send_begin; ++before)
      latest_begin = std::max(latest_begin, (*before)->recv_begin);
    ASSERT_LE(latest_begin, life.recv_end);
  }
}

template <Topology kTopology>
void stress(std::size_t senders, std::size_t receivers, std::size_t capacity, Waiting waiting,
            std::size_t batch) {
  SCOPED_TRACE(testing::Message() << senders << " to " << receivers << ", capacity " << capacity
                                  << ", batch " << batch);
  constexpr std::size_t kMessages = 8'000;
  const std::size_t each = kMessages / senders;
  std::vector<Life> lives(each * senders);
  std::atomic<std::uint64_t> clock{1};
  auto [first_tx, first_rx] = channel<std::size_t, kTopology>(capacity, {waiting});
  std::vector<std::thread> threads;
  const auto start_sender = [&](Sender<std::size_t, kTopology> sender, std::size_t who) {
    threads.emplace_back([&, who, tx = std::move(sender)]() mutable {
      for (std::size_t i = 0; i < each; i += batch) {
        std::vector<std::size_t> values;
        for (std::size_t k = i; k < std::min(i + batch, each); ++k)
          values.push_back(who * each + k);
        const auto begin = clock.fetch_add(1);
        if (batch == 1) {
          ASSERT_EQ(tx.send(values[0]), SendStatus::sent);
        } else {
          ASSERT_EQ(tx.send_many(values).count, values.size());
        }
        const auto end = clock.fetch_add(1);
        for (const auto value : values) {
          lives[value].send_begin = begin;
          lives[value].send_end = end;
        }
      }
    });
  };
  const auto start_receiver = [&](Receiver<std::size_t, kTopology> receiver) {
    threads.emplace_back([&, rx = std::move(receiver)]() mutable {
      std::vector<std::size_t> last(senders, 0);
      std::vector<std::size_t> values;
      for (;;) {
        values.clear();
        const auto begin = clock.fetch_add(1);
        if (batch == 1) {
          const auto got = rx.recv();
          if (!got) return;
          values.push_back(*got);
        } else if (rx.recv_many(std::back_inserter(values), batch).count == 0) {
          return;
        }
        const auto end = clock.fetch_add(1);
        for (const auto value : values) {
          auto& seen = last[value / each];
          EXPECT_LE(seen, value % each + 1) << "a sender's own order";
          seen = value % each + 1;
          lives[value].recv_begin = begin;
          lives[value].recv_end = end;
          ++lives[value].receipts;
        }
      }
    });
  };
  if constexpr (several_producers(kTopology))
    for (std::size_t i = 1; i < senders; ++i) start_sender(first_tx.clone(), i);
  start_sender(std::move(first_tx), 0);
  if constexpr (several_consumers(kTopology))
    for (std::size_t i = 1; i < receivers; ++i) start_receiver(first_rx.clone());
  start_receiver(std::move(first_rx));
  for (auto& thread : threads) thread.join();
  for (const auto& life : lives) ASSERT_EQ(life.receipts, 1);
  expect_nobody_overtook(lives);
}

TYPED_TEST(LocalChannel, delivers_exactly_once_in_an_order_that_all_agree_on) {
  constexpr auto kTopology = TypeParam::value;
  for (const auto waiting : {Waiting::adaptive, Waiting::block, Waiting::spin})
    for (const std::size_t capacity : {1U, 4U, 256U})
      for (const std::size_t senders : {1U, 2U, 8U})
        for (const std::size_t receivers : {1U, 3U, 8U})
          for (const std::size_t batch : {1U, 5U}) {
            if (senders > 1 && !several_producers(kTopology)) continue;
            if (receivers > 1 && !several_consumers(kTopology)) continue;
            if (waiting == Waiting::spin && senders + receivers > 4) continue;  // more than CPUs
            stress<kTopology>(senders, receivers, capacity, waiting, batch);
            if (testing::Test::HasFatalFailure()) return;
          }
}

TEST(LocalChannelForce, says_full_where_the_oldest_is_not_there_yet) {
  auto [tx, rx] = channel<int, mpmc>(2);
  auto still = tx.reserve();
  ASSERT_EQ(tx.send(1), SendStatus::sent);
  EXPECT_EQ(tx.force_send(2).status, SendStatus::full);
  still.emplace(0);
  still.commit();
  const auto forced = tx.force_send(2);
  EXPECT_EQ(forced.status, SendStatus::sent);
  EXPECT_EQ(forced.evicted, 0);
  EXPECT_EQ(*rx.recv(), 1);
  EXPECT_EQ(*rx.recv(), 2);
}

TEST(LocalChannelStress, force_send_goes_on_though_nobody_receives) {
  auto [tx, rx] = channel<std::size_t, mpmc>(2);
  constexpr std::size_t kEach = 20'000;
  std::vector<std::atomic<int>> seen(3 * kEach);
  std::vector<std::thread> threads;
  for (std::size_t who = 0; who < 3; ++who)
    threads.emplace_back([&seen, who, tx = tx.clone()]() mutable {
      for (std::size_t i = 0; i < kEach; ++i) {
        auto status = SendStatus::full;
        while (status == SendStatus::full) {  // another one is between claim and publication
          const auto forced = tx.force_send(who * kEach + i);
          status = forced.status;
          if (forced.evicted) ++seen[*forced.evicted];
        }
        EXPECT_EQ(status, SendStatus::sent);
      }
    });
  for (auto& thread : threads) thread.join();
  tx = {};
  for (const auto value : rx) ++seen[value];
  EXPECT_TRUE(std::ranges::all_of(seen, [](const auto& n) { return n == 1; }));
}

TEST(LocalChannelStress, force_send_loses_nothing_but_what_it_hands_back) {
  auto [tx, rx] = channel<std::size_t, mpmc>(4);
  constexpr std::size_t kEach = 20'000;
  constexpr std::size_t kSenders = 2;
  std::vector<std::atomic<int>> seen(kEach * kSenders);
  std::vector<std::thread> threads;
  for (std::size_t who = 0; who < kSenders; ++who)
    threads.emplace_back([&seen, who, tx = tx.clone()]() mutable {
      for (std::size_t i = 0; i < kEach; ++i) {
        auto status = SendStatus::full;
        while (status == SendStatus::full) {
          const auto forced = tx.force_send(who * kEach + i);
          status = forced.status;
          if (forced.evicted) ++seen[*forced.evicted];
        }
        EXPECT_EQ(status, SendStatus::sent);
      }
    });
  threads.emplace_back([&seen, &rx = rx] {
    for (const auto value : rx) ++seen[value];
  });
  tx = {};
  for (auto& thread : threads) thread.join();
  EXPECT_TRUE(std::ranges::all_of(seen, [](const auto& n) { return n == 1; }));
}

// ── The living window ────────────────────────────────────────────────────────────────────────────

TEST(LocalWindow, is_refused_where_places_come_back_one_by_one) {
  const ChannelOptions options{.target_delay = 1ms};
  try {
    (void)channel<int, mpmc>(8, options);
    ADD_FAILURE() << "no error";
  } catch (const SetupError& error) {
    EXPECT_EQ(error.errc(), Errc::bad_option);
    EXPECT_NE(std::string(error.what()).find("mpsc"), std::string::npos) << error.what();
  }
  EXPECT_THROW((void)(channel<int, spmc>(8, options)), SetupError);
  EXPECT_THROW((void)(channel<int, spsc>(8, {.target_delay = -1ms})), SetupError);
  const auto fixed = channel<int, mpmc>(8).receiver.stats().flow;
  EXPECT_EQ(fixed.now, 8U);
  EXPECT_EQ(fixed.rate, 0);
}

template <Topology kTopology>
void shrink_and_grow() {
  auto ends = channel<std::uint64_t, kTopology>(4096, {.target_delay = 5ms});
  auto& rx = ends.receiver;
  std::jthread sender([tx = std::move(ends.sender)]() mutable {
    for (std::uint64_t i = 0; tx.send(i) == SendStatus::sent; ++i) {
    }
  });
  std::uint64_t next = 0;
  const auto until = [&, &rx = rx](std::chrono::milliseconds work, auto&& done) {
    for (;;) {
      const auto message = rx.recv();
      ASSERT_TRUE(message);
      ASSERT_EQ(*message, next++);
      if (done(rx.stats().flow)) return;
      if (work != 0ms) std::this_thread::sleep_for(work);
    }
  };
  until(1ms, [](const WindowStats& flow) { return flow.rate != 0 && flow.now <= 16; });
  until(0ms, [](const WindowStats& flow) { return flow.now >= 256; });
  until(1ms, [](const WindowStats& flow) { return flow.now <= 16; });
  const auto flow = rx.stats().flow;
  EXPECT_EQ(flow.smallest, 16U);
  EXPECT_GE(flow.largest, 256U);
  EXPECT_LE(flow.largest, 4096U);
  rx.close();
}

TEST(LocalWindow, shrinks_with_a_slow_receiver_and_grows_again) {
  shrink_and_grow<spsc>();
  shrink_and_grow<mpsc>();
}

TEST(LocalWindow, holds_senders_back_before_the_ring_is_full) {
  auto [tx, rx] = channel<int, spsc>(1024, {.target_delay = Duration(1000)});
  int sent = 0;
  while (tx.try_send(sent) == SendStatus::sent) ++sent;
  EXPECT_EQ(sent, 1024) << "nothing is known yet";
  for (int i = 0; i < 1024; ++i) EXPECT_EQ(*rx.recv(), i);
  EXPECT_LT(rx.stats().flow.now, 1024U);
  EXPECT_FALSE(tx.is_full());
  sent = 0;
  while (tx.try_send(sent) == SendStatus::sent) ++sent;
  EXPECT_LT(sent, 1024);
  EXPECT_TRUE(tx.is_full());
  EXPECT_TRUE(rx.recv());
}

TEST(LocalWindow, loses_no_wake_up_however_small_it_is) {
  for (const auto waiting : {Waiting::adaptive, Waiting::block}) {
    auto [tx, rx] = channel<int, mpsc>(1024, {.waiting = waiting, .target_delay = Duration(1)});
    constexpr int kEach = 20'000;
    std::vector<std::jthread> senders;
    for (int i = 0; i < 3; ++i)
      senders.emplace_back([i, tx = tx.clone()]() mutable {
        std::vector<int> many(1 + 40 * static_cast<std::size_t>(i), 1);
        for (int left = kEach; left > 0; left -= static_cast<int>(many.size())) {
          many.resize(std::min(many.size(), static_cast<std::size_t>(left)));
          EXPECT_EQ(tx.send_many(many).status, SendStatus::sent);
        }
      });
    tx = {};
    int sum = 0;
    for (const int one : rx) sum += one;
    EXPECT_EQ(sum, 3 * kEach);
  }
}

}  // namespace
}  // namespace penstock::v2
