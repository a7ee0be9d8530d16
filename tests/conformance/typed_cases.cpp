// Typed channels over a URI: whole values come and go, and ends that disagree are told so.
#include <array>
#include <chrono>
#include <cstdint>
#include <iterator>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "penstock/channel/any_channel.hpp"
#include "penstock/channel/remote_channel.hpp"
#include "penstock/channel/select.hpp"
#include "tests/channel/coroutine.hpp"
#include "tests/conformance/suite.hpp"

namespace penstock::test {

/// A message with a layout.
struct Order {
  std::uint64_t id = 0;
  double price = 0;
  std::array<char, 8> symbol{};
  bool operator==(const Order&) const = default;
};

/// A message with a codec: whole numbers as text, and some that misbehave.
struct Text {
  static constexpr int kThrowing = -1;
  static constexpr int kShort = -2;
  static constexpr int kUndecodable = -3;
  static constexpr int kThrowingOnce = -4;
  int value = 0;
};

}  // namespace penstock::test

template <>
struct penstock::v2::Codec<penstock::test::Text> {
  using Text = penstock::test::Text;
  static penstock::MessageType type() { return named_type("text/1"); }
  static std::size_t size(const Text& text) {
    return std::to_string(text.value).size() + (text.value == Text::kShort ? 1 : 0);
  }
  static std::size_t encode(const Text& text, std::span<std::byte> room) {
    if (text.value == Text::kThrowing) throw std::runtime_error("no");
    const auto digits = std::to_string(text.value);
    std::memcpy(room.data(), digits.data(), digits.size());
    return digits.size();
  }
  static std::optional<Text> decode(std::span<const std::byte> bytes) {
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(bytes.data()) % 16, 0U);
    const Text text{
        std::stoi(std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size()))};
    if (text.value == Text::kUndecodable) return std::nullopt;
    if (text.value == Text::kThrowingOnce && !std::exchange(thrown, true))
      throw std::runtime_error("not yet");
    return text;
  }
  static inline thread_local bool thrown = false;
};

namespace penstock::test {
namespace {

using std::chrono::milliseconds;
using v2::remote;

template <class T>
v2::Receiver<T, remote> bind_typed(Side& side, std::string_view query = {}) {
  auto receiver = v2::bind<T>(side.fresh_uri(query));
  side.put("uri", receiver.uris().front());
  return receiver;
}

template <class T>
v2::Sender<T, remote> connect_typed(Side& side) {
  return v2::connect<T>(side.with(side.get("uri"), {}), side.patient());
}

Order order(std::uint64_t id) {
  return {id, static_cast<double>(id) / 4, {'A', 'B', static_cast<char>('a' + id % 26)}};
}

const AddCase plain{"typed_values_arrive_as_they_were",
                    [](Side& side) {
                      auto receiver = bind_typed<Order>(side, "capacity=8KiB");
                      std::uint64_t next = 0;
                      for (const Order& got : receiver) EXPECT_EQ(got, order(next++));
                      EXPECT_EQ(next, side.scaled(2'000));
                      EXPECT_EQ(receiver.recv().status(), RecvStatus::closed);
                      EXPECT_TRUE(receiver.is_closed());
                    },
                    [](Side& side) {
                      auto sender = connect_typed<Order>(side);
                      const auto count = side.scaled(2'000);
                      for (std::uint64_t i = 0; i < count; ++i) {
                        if (i % 2 == 0) {
                          ASSERT_EQ(sender.send(order(i)), SendStatus::sent);
                          continue;
                        }
                        auto room = sender.reserve();
                        ASSERT_TRUE(room);
                        room.emplace(order(i + 1));
                        room.emplace(order(i));
                        EXPECT_TRUE(room.commit());
                        EXPECT_FALSE(sender.reserve().commit()) << "nothing was made";
                      }
                      EXPECT_EQ(sender.flush(), FlushStatus::consumed);
                      EXPECT_TRUE(sender.is_empty());
                    }};

const AddCase containers{
    "strings_and_vectors_of_any_size_arrive",
    [](Side& side) {
      auto strings = v2::bind<std::string>(side.fresh_uri());
      auto vectors = v2::bind<std::vector<Order>>(side.fresh_uri());
      side.put("strings", strings.uris().front());
      side.put("vectors", vectors.uris().front());
      for (const std::size_t size : {0U, 1U, 100U, 5000U}) {
        EXPECT_EQ(*strings.recv(), std::string(size, 'x'));
        const auto got = vectors.recv();
        ASSERT_TRUE(got);
        ASSERT_EQ(got->size(), size / 10);
        EXPECT_TRUE(got->empty() || got->back() == order(size));
        EXPECT_NE(got.source(), 0U);
      }
    },
    [](Side& side) {
      // A view is the same type as what it is a view of.
      auto strings =
          v2::connect<std::string_view>(side.with(side.get("strings"), {}), side.patient());
      auto vectors =
          v2::connect<std::vector<Order>>(side.with(side.get("vectors"), {}), side.patient());
      for (const std::size_t size : {0U, 1U, 100U, 5000U}) {
        EXPECT_EQ(strings.send(std::string(size, 'x')), SendStatus::sent);
        EXPECT_EQ(vectors.send(std::vector<Order>(size / 10, order(size))), SendStatus::sent);
      }
    }};

const AddCase in_place{"views_are_received_in_place",
                       [](Side& side) {
                         auto receiver = bind_typed<std::string_view>(side, "capacity=4KiB");
                         auto first = receiver.recv();
                         const auto second = receiver.recv();
                         EXPECT_EQ(*first, "first");
                         EXPECT_EQ(*second, "second");
                         first = {};
                         EXPECT_EQ(*second, "second");
                       },
                       [](Side& side) {
                         auto sender = connect_typed<std::string_view>(side);
                         EXPECT_EQ(sender.send("first"), SendStatus::sent);
                         EXPECT_EQ(sender.send("second"), SendStatus::sent);
                       }};

const AddCase bytes_and_text{"a_program_of_the_byte_interface_exchanges_bytes_with_a_typed_one",
                             [](Side& side) {
                               auto receiver = bind_typed<std::string>(side);
                               EXPECT_EQ(*receiver.recv(), "from v1");
                               v1::Receiver old = side.bind({}, "old");
                               EXPECT_EQ(old.recv().text(), "from v2");
                             },
                             [](Side& side) {
                               v1::Sender old = side.connect();
                               EXPECT_EQ(old.send(bytes_of("from v1")), v1::SendStatus::sent);
                               auto sender = v2::connect<std::span<const std::byte>>(
                                   side.with(side.get("old"), {}), side.patient());
                               EXPECT_EQ(sender.send(bytes_of("from v2")), SendStatus::sent);
                             }};

const AddCase disagree{
    "ends_of_different_types_are_told",
    [](Side& side) {
      auto receiver = bind_typed<Order>(side);
      EXPECT_EQ(receiver.recv()->id, 7U) << "the others go on";
      EXPECT_EQ(receiver.recv().status(), RecvStatus::closed);
    },
    [](Side& side) {
      const auto uri = side.with(side.get("uri"), {});
      const auto patient = side.patient();
      expect_setup_error(
          Errc::type_mismatch, [&] { (void)v2::connect<Text>(uri, patient); }, "another type");
      expect_setup_error(
          Errc::type_mismatch, [&] { (void)v1::connect(uri, patient); }, "bytes");
      expect_setup_error(
          Errc::type_mismatch,
          [&] {
            const MessageType stranger{1, "penstock::test::Order"};
            (void)v1::connect(uri, patient, stranger);
          },
          "the same name, another layout");
      auto sender = v2::connect<Order>(uri, patient);
      EXPECT_EQ(sender.send(order(7)), SendStatus::sent);
    }};

const AddCase codecs{"a_codec_that_fails_loses_nothing_else",
                     [](Side& side) {
                       auto receiver = bind_typed<Text>(side);
                       EXPECT_EQ(receiver.recv()->value, 1);
                       const auto bad = receiver.recv();
                       EXPECT_EQ(bad.status(), RecvStatus::not_decoded);
                       EXPECT_NE(bad.source(), 0U);
                       EXPECT_EQ(receiver.recv()->value, 2);
                       v2::Codec<Text>::thrown = false;
                       EXPECT_THROW((void)receiver.recv(), std::runtime_error);
                       EXPECT_EQ(receiver.recv()->value, Text::kThrowingOnce)
                           << "it is still there";
                       EXPECT_EQ(receiver.recv()->value, 3);
                       EXPECT_EQ(receiver.recv().status(), RecvStatus::closed);
                     },
                     [](Side& side) {
                       auto sender = connect_typed<Text>(side);
                       EXPECT_EQ(sender.send({1}), SendStatus::sent);
                       EXPECT_THROW((void)sender.send({Text::kThrowing}), std::runtime_error);
                       EXPECT_EQ(sender.send({Text::kShort}), SendStatus::not_encoded);
                       EXPECT_EQ(sender.send({Text::kUndecodable}), SendStatus::sent);
                       EXPECT_EQ(sender.send({2}), SendStatus::sent);
                       EXPECT_EQ(sender.send({Text::kThrowingOnce}), SendStatus::sent);
                       EXPECT_EQ(sender.send({3}), SendStatus::sent);
                     }};

const AddCase wrong_size{
    "bytes_that_are_no_such_value_are_told_and_passed_over",
    [](Side& side) {
      auto receiver = bind_typed<Order>(side);
      EXPECT_EQ(receiver.recv().status(), RecvStatus::not_decoded);
      EXPECT_EQ(receiver.recv().status(), RecvStatus::not_decoded);
      EXPECT_EQ(receiver.recv()->id, 4U);
    },
    [](Side& side) {
      v1::Sender liar =
          v1::connect(side.with(side.get("uri"), {}), side.patient(), v2::Codec<Order>::type());
      std::array<std::byte, sizeof(Order) + 1> bytes{};
      EXPECT_EQ(liar.send(bytes), SendStatus::sent);
      EXPECT_EQ(liar.send({}), SendStatus::sent);
      const Order good = order(4);
      EXPECT_EQ(liar.send(std::as_bytes(std::span(&good, 1))), SendStatus::sent);
    }};

const AddCase waits{"typed_sends_and_receives_keep_their_deadlines",
                    [](Side& side) {
                      auto receiver = bind_typed<Order>(side, "capacity=4KiB");
                      EXPECT_EQ(receiver.recv_for(milliseconds(1)).status(), RecvStatus::timed_out);
                      EXPECT_EQ(receiver.recv_for(milliseconds(-1)).status(),
                                RecvStatus::timed_out);
                      EXPECT_EQ(receiver.recv_until(Clock::now()).status(), RecvStatus::timed_out);
                      EXPECT_EQ(receiver.try_recv().status(), RecvStatus::empty);
                      side.meet("waited");
                      side.meet("full");
                      EXPECT_EQ(receiver.recv()->id, 0U);
                      receiver.close();
                      EXPECT_EQ(receiver.recv().status(), RecvStatus::closed);
                      side.put("closed");
                    },
                    [](Side& side) {
                      auto sender = connect_typed<Order>(side);
                      side.meet("waited");
                      while (sender.try_send(order(0)) == SendStatus::sent) {
                      }
                      EXPECT_GT(sender.len(), 0U);
                      EXPECT_EQ(sender.try_send(order(0)), SendStatus::full);
                      EXPECT_EQ(sender.try_reserve().status(), SendStatus::full);
                      EXPECT_EQ(sender.send_for(order(0), milliseconds(1)), SendStatus::timed_out);
                      EXPECT_EQ(sender.send_for(order(0), milliseconds(-1)), SendStatus::timed_out);
                      EXPECT_EQ(sender.send_until(order(0), Clock::now()), SendStatus::timed_out);
                      side.meet("full");
                      (void)side.get("closed");
                      wait_until([&] { return sender.send(order(1)) == SendStatus::closed; });
                      EXPECT_TRUE(sender.is_closed());
                    }};

const AddCase clones{"typed_clones_share_a_channel_and_weak_ends_do_not_keep_it",
                     [](Side& side) {
                       auto receiver = bind_typed<Order>(side);
                       auto other = receiver.clone();
                       const auto weak = receiver.downgrade();
                       EXPECT_TRUE(receiver.same_channel(other));
                       EXPECT_EQ(receiver.receiver_count(), 2U);
                       EXPECT_EQ(weak.upgrade().receiver_count(), 3U);
                       std::size_t mine = 0;
                       std::size_t others = 0;
                       std::thread thread([&] {
                         while (other.recv()) ++others;
                       });
                       while (receiver.recv()) ++mine;
                       thread.join();
                       EXPECT_EQ(mine + others, 2 * side.scaled(1'000));
                       receiver = {};
                       EXPECT_TRUE(weak.upgrade());
                       other = {};
                       EXPECT_FALSE(weak.upgrade());
                     },
                     [](Side& side) {
                       auto sender = connect_typed<Order>(side);
                       const auto weak = sender.downgrade();
                       auto other = weak.upgrade();
                       EXPECT_TRUE(sender.same_channel(other));
                       EXPECT_EQ(sender.sender_count(), 2U);
                       const auto count = side.scaled(1'000);
                       const auto send = [count](v2::Sender<Order, remote> tx) {
                         for (std::uint64_t i = 0; i < count; ++i)
                           EXPECT_EQ(tx.send(order(i)), SendStatus::sent);
                       };
                       std::thread thread(send, std::move(other));
                       send(std::move(sender));
                       thread.join();
                       EXPECT_FALSE(weak.upgrade());
                     }};

const AddCase many{"typed_batches_arrive_whole_and_in_order",
                   [](Side& side) {
                     auto receiver = bind_typed<Order>(side, "capacity=8KiB");
                     const auto count = side.scaled(3'000);
                     std::vector<Order> got;
                     while (got.size() < count) {
                       const auto batch = receiver.recv_many(std::back_inserter(got), 50);
                       ASSERT_EQ(batch.status, RecvStatus::received);
                       ASSERT_LE(batch.count, 50U);
                       // Both ways of receiving take turns.
                       if (got.size() < count) got.push_back(*receiver.recv());
                     }
                     for (std::uint64_t i = 0; i < got.size(); ++i) ASSERT_EQ(got[i], order(i));
                     EXPECT_EQ(receiver.try_recv_many(std::back_inserter(got), 50).count, 0U);
                     EXPECT_EQ(receiver.recv_many(std::back_inserter(got), 50).status,
                               RecvStatus::closed);
                   },
                   [](Side& side) {
                     auto sender = connect_typed<Order>(side);
                     const auto count = side.scaled(3'000);
                     std::vector<Order> orders;
                     for (std::uint64_t i = 0; i < count; ++i) orders.push_back(order(i));
                     const auto batch = sender.send_many(orders);
                     EXPECT_EQ(batch.count, count);
                     EXPECT_EQ(batch.status, SendStatus::sent);
                     EXPECT_EQ(sender.flush(), FlushStatus::consumed);
                     EXPECT_EQ(sender.send_many(std::vector<Order>()).status, SendStatus::sent);
                   }};

const AddCase many_codecs{
    "a_batch_stops_at_a_message_whose_codec_fails",
    [](Side& side) {
      auto receiver = bind_typed<Text>(side);
      side.meet("sent");
      std::vector<Text> got;
      v2::Codec<Text>::thrown = false;
      EXPECT_EQ(receiver.recv_many(std::back_inserter(got), 10).status, RecvStatus::not_decoded);
      EXPECT_EQ(got.size(), 2U);
      EXPECT_THROW((void)receiver.recv_many(std::back_inserter(got), 10), std::runtime_error);
      EXPECT_EQ(receiver.recv()->value, Text::kThrowingOnce);
      EXPECT_EQ(receiver.recv_many(std::back_inserter(got), 10).count, 1U);
      EXPECT_EQ(got.back().value, 4);
    },
    [](Side& side) {
      auto sender = connect_typed<Text>(side);
      const std::vector<Text> texts{
          {1}, {2}, {Text::kUndecodable}, {Text::kThrowingOnce}, {4}, {Text::kShort}, {5}};
      const auto batch = sender.send_many(texts);
      EXPECT_EQ(batch.count, 5U);
      EXPECT_EQ(batch.status, SendStatus::not_encoded);
      wait_until([&] { return sender.stats().progress.delivered == 5; });
      side.meet("sent");
    }};

Task sum_of(v2::Receiver<Order, remote>& receiver, std::uint64_t& sum, RecvStatus& end) {
  for (;;) {
    const auto order = co_await receiver.recv_async();
    end = order.status();
    if (!order) co_return;
    sum += order->id;
  }
}

const AddCase awaited{"typed_messages_can_be_awaited_and_selected",
                      [](Side& side) {
                        auto receiver = bind_typed<Order>(side);
                        auto [tx, rx] = v2::channel<Order>(4);
                        ASSERT_EQ(tx.send(order(5)), SendStatus::sent);
                        int local = 0;
                        int far = 0;
                        side.meet("sent");
                        while (local + far < 2)
                          v2::select(v2::on_recv(receiver,
                                                 [&](auto got) {
                                                   EXPECT_EQ(got->id, 100U);
                                                   ++far;
                                                 }),
                                     v2::on_recv(rx, [&](auto got) {
                                       EXPECT_EQ(got->id, 5U);
                                       ++local;
                                     }));
                        EXPECT_EQ(local, 1);
                        EXPECT_TRUE(receiver.arm()) << "nothing more is there";
                        Loop loop;
                        receiver.run_on(loop.executor());
                        std::uint64_t sum = 0;
                        RecvStatus end{};
                        const auto task = sum_of(receiver, sum, end);
                        side.put("awaited");
                        while (!task.done())
                          if (loop.run() == 0) std::this_thread::yield();
                        EXPECT_EQ(sum, 4950U);
                        EXPECT_EQ(end, RecvStatus::closed);
                      },
                      [](Side& side) {
                        auto sender = connect_typed<Order>(side);
                        EXPECT_EQ(sender.send(order(100)), SendStatus::sent);
                        side.meet("sent");
                        (void)side.get("awaited");
                        for (std::uint64_t i = 0; i < 100; ++i)
                          EXPECT_EQ(sender.send(order(i)), SendStatus::sent);
                      }};

Task send_orders(v2::Sender<Order, remote>& sender, std::uint64_t count) {
  for (std::uint64_t i = 0; i < count; i += 2) {
    EXPECT_EQ(co_await sender.send_async(order(i)), SendStatus::sent);
    auto room = co_await sender.reserve_async();
    EXPECT_TRUE(room);
    room.emplace(order(i + 1));
    room.commit();
  }
}

const AddCase awaited_room{"room_for_typed_messages_can_be_awaited_and_selected",
                           [](Side& side) {
                             auto receiver = bind_typed<Order>(side, "capacity=4KiB");
                             side.meet("full");
                             auto got = receiver.recv();
                             while (got->id == 7) got = receiver.recv();
                             for (std::uint64_t i = 0; i < 2'000; ++i) {
                               ASSERT_EQ(*got, order(i));
                               got = receiver.recv();
                             }
                             EXPECT_EQ(got->id, 9U);
                           },
                           [](Side& side) {
                             auto sender = connect_typed<Order>(side);
                             while (sender.try_send(order(7)) == SendStatus::sent) {
                             }
                             side.meet("full");
                             Loop loop;
                             sender.run_on(loop.executor());
                             const auto task = send_orders(sender, 2'000);
                             while (!task.done())
                               if (loop.run() == 0) std::this_thread::yield();
                             bool sent = false;
                             v2::select(v2::on_send(sender, order(9), [&](SendStatus status) {
                               sent = status == SendStatus::sent;
                             }));
                             EXPECT_TRUE(sent);
                           }};

const AddCase any{"any_end_stands_for_each_kind",
                  [](Side& side) {
                    v2::AnyReceiver<Order> receiver = bind_typed<Order>(side);
                    EXPECT_EQ(receiver.recv()->id, 1U);
                    auto [tx, rx] = v2::channel<Order, v2::spsc>(4);
                    v2::AnySender<Order> local = std::move(tx);
                    EXPECT_EQ(local.send(order(2)), SendStatus::sent);
                    const auto remote_end = std::move(receiver);
                    receiver = std::move(rx);
                    EXPECT_EQ(receiver.recv()->id, 2U);
                    EXPECT_FALSE(receiver.clone()) << "spsc has one receiver";
                    EXPECT_TRUE(remote_end.clone());
                  },
                  [](Side& side) {
                    v2::AnySender<Order> sender = connect_typed<Order>(side);
                    auto other = sender.clone();
                    EXPECT_EQ(other.send(order(1)), SendStatus::sent);
                    EXPECT_EQ(sender.sender_count(), 2U);
                    EXPECT_EQ(sender.flush(), FlushStatus::consumed);
                  }};

}  // namespace
}  // namespace penstock::test
