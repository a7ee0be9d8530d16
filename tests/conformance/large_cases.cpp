// Messages that are too long to go in one piece.
#include <algorithm>
#include <atomic>
#include <cstdint>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "penstock/channel/remote_channel.hpp"
#include "tests/channel/coroutine.hpp"
#include "tests/conformance/suite.hpp"

namespace penstock::test {
namespace {

using std::chrono::milliseconds;

constexpr std::size_t kLargest = std::size_t{1} << 20U;

/// A numbered message with `size` bytes more.
std::vector<std::byte> numbered(const Numbered& head, std::size_t size) {
  std::vector<std::byte> message(sizeof head + size);
  std::memcpy(message.data(), &head, sizeof head);
  fill_pattern(head.number, std::span(message).subspan(sizeof head));
  return message;
}
/// Checks that it is one, and says which.
Numbered whole(const Message& message) {
  Numbered head;
  EXPECT_GE(message.data().size(), sizeof head);
  if (message.data().size() < sizeof head) return head;
  std::memcpy(&head, message.data().data(), sizeof head);
  EXPECT_TRUE(has_pattern(head.number, message.data().subspan(sizeof head))) << head.number;
  return head;
}

const AddCase every_size{
    "carries_messages_larger_than_the_ring",
    [](Side& side) {
      Receiver receiver = side.bind("capacity=8KiB&max_message=1MiB");
      std::uint64_t next = 0;
      EXPECT_EQ(drain(receiver,
                      [&](const Message& m) {
                        ASSERT_EQ(reinterpret_cast<std::uintptr_t>(m.data().data()) % 16, 0U);
                        EXPECT_EQ(m.data().size(), std::stoull(side.get(std::to_string(next))));
                        EXPECT_TRUE(has_pattern(next, m.data())) << next;
                        ++next;
                      }),
                RecvStatus::closed);
      EXPECT_EQ(next, std::stoull(side.get("total")));
      EXPECT_EQ(receiver.stats().messages, next);
      EXPECT_EQ(receiver.stats().bytes, std::stoull(side.get("bytes")));
    },
    [](Side& side) {
      Sender sender = side.connect();
      EXPECT_EQ(sender.max_message(), kLargest);
      const std::size_t in_place = sender.max_in_place();
      EXPECT_EQ(in_place, 4U * 1024 - 16);
      std::vector<std::size_t> sizes{in_place, in_place + 1, 0, kLargest, 8'192, kLargest - 1, 1};
      std::mt19937 random(31);
      for (std::uint64_t i = 0; i < side.scaled(40, 4); ++i) {
        sizes.push_back(random() % (random() % 2 == 0 ? 64 : 100'000));
      }
      std::uint64_t bytes = 0;
      for (std::uint64_t i = 0; i < sizes.size(); ++i) {
        side.put(std::to_string(i), std::to_string(sizes[i]));
        ASSERT_EQ(sender.send(pattern(i, sizes[i])), SendStatus::sent);
        bytes += sizes[i];
      }
      side.put("total", std::to_string(sizes.size()));
      side.put("bytes", std::to_string(bytes));
      EXPECT_EQ(sender.flush(), FlushStatus::consumed);
      const auto stats = sender.stats();
      EXPECT_EQ(stats.progress.accepted, sizes.size());
      EXPECT_EQ(stats.progress.delivered, sizes.size());
      EXPECT_EQ(stats.progress.consumed, sizes.size());
      EXPECT_EQ(stats.bytes, bytes);
    }};

const AddCase living_window{
    "carries_messages_larger_than_the_ring_through_a_living_window",
    [](Side& side) {
      Receiver receiver = side.bind("capacity=64KiB&target_delay=1ms&max_message=1MiB");
      std::uint64_t next = 0;
      EXPECT_EQ(drain(receiver,
                      [&](const Message& m) {
                        EXPECT_TRUE(has_pattern(next, m.data())) << next;
                        ++next;
                      }),
                RecvStatus::closed);
      EXPECT_EQ(next, side.scaled(20, 3));
    },
    [](Side& side) {
      Sender sender = side.connect();
      for (std::uint64_t i = 0; i < side.scaled(20, 3); ++i) {
        ASSERT_EQ(sender.send(pattern(i, i % 3 == 0 ? 100 : 40'000 * (i % 7 + 1))),
                  SendStatus::sent);
      }
    }};

const AddCase refused{
    "refuses_in_one_piece_what_is_too_long_for_it",
    [](Side& side) {
      Receiver receiver = side.bind("capacity=4KiB&max_message=8KiB");
      EXPECT_EQ(receiver.recv().text(), "after");
      EXPECT_EQ(receiver.recv().status(), RecvStatus::closed);
    },
    [](Side& side) {
      Sender sender = side.connect();
      const auto large = pattern(1, sender.max_in_place() + 1);
      EXPECT_EQ(sender.try_send(large), SendStatus::too_large);
      EXPECT_EQ(sender.send_for(large, Duration::zero()), SendStatus::too_large);
      EXPECT_EQ(sender.reserve(large.size()).status(), SendStatus::too_large);
      EXPECT_EQ(sender.try_send_many(large, large.size()).status, SendStatus::too_large);
      const auto larger = pattern(1, sender.max_message() + 1);
      EXPECT_EQ(sender.send(larger), SendStatus::too_large);
      EXPECT_EQ(sender.send_for(larger, std::chrono::seconds(1)), SendStatus::too_large);
      EXPECT_EQ(sender.send_many(larger, larger.size()).status, SendStatus::too_large);
      EXPECT_EQ(sender.stats().progress.accepted, 0U);
      EXPECT_EQ(sender.send(bytes_of("after")), SendStatus::sent);
    }};

const AddCase given_up{"drops_what_came_of_a_large_message_that_was_given_up",
                       [](Side& side) {
                         Receiver receiver = side.bind("capacity=8KiB&max_message=1MiB");
                         // Its ring is full with the beginning of one when it begins to receive.
                         (void)side.get("timed out");
                         std::uint64_t next = 0;
                         EXPECT_EQ(drain(receiver,
                                         [&](const Message& m) {
                                           EXPECT_TRUE(has_pattern(next, m.data())) << next;
                                           ++next;
                                         }),
                                   RecvStatus::closed);
                         EXPECT_EQ(next, 3U);
                         EXPECT_EQ(receiver.stats().messages, 3U);
                       },
                       [](Side& side) {
                         Sender sender = side.connect();
                         ASSERT_EQ(sender.send(pattern(0, 100)), SendStatus::sent);
                         EXPECT_EQ(sender.send_for(pattern(77, kLargest), milliseconds(50)),
                                   SendStatus::timed_out);
                         EXPECT_EQ(sender.stats().progress.accepted, 1U);
                         side.put("timed out");
                         ASSERT_EQ(sender.send(pattern(1, 50)), SendStatus::sent);
                         ASSERT_EQ(sender.send(pattern(2, 200'000)), SendStatus::sent);
                         EXPECT_EQ(sender.flush(), FlushStatus::consumed);
                         EXPECT_EQ(sender.stats().progress.consumed, 3U);
                       }};

const AddCase clones{"large_messages_of_clones_arrive_once_each_and_in_order",
                     [](Side& side) {
                       Receiver receiver = side.bind("capacity=16KiB&max_message=1MiB");
                       std::vector<std::uint64_t> next(3);
                       EXPECT_EQ(drain(receiver,
                                       [&](const Message& m) {
                                         const auto head = whole(m);
                                         ASSERT_LT(head.sender, next.size());
                                         EXPECT_EQ(head.number, next[head.sender]++);
                                       }),
                                 RecvStatus::closed);
                       for (const auto count : next) EXPECT_EQ(count, side.scaled(100, 10));
                     },
                     [](Side& side) {
                       Sender sender = side.connect();
                       std::vector<std::jthread> threads;
                       for (std::uint64_t t = 0; t < 3; ++t) {
                         threads.emplace_back([&side, t, own = sender.clone()]() mutable {
                           std::mt19937 random(static_cast<unsigned>(t));
                           for (std::uint64_t i = 0; i < side.scaled(100, 10); ++i) {
                             const std::size_t size =
                                 random() % 2 == 0 ? random() % 64 : random() % 60'000;
                             ASSERT_EQ(own.send(numbered({t, i}, size)), SendStatus::sent);
                           }
                         });
                       }
                     }};

const AddCase held{"large_messages_stay_where_they_are_until_they_are_released",
                   [](Side& side) {
                     std::vector<Message> kept;
                     {
                       Receiver receiver = side.bind("capacity=64KiB&max_message=1MiB");
                       Message message;
                       while ((message = receiver.recv())) {
                         kept.push_back(std::move(message));
                         // Room is given back for those that were released, in any order, before it
                         // is short.
                         if (kept.size() % 4 == 0) kept.erase(kept.begin() + 1, kept.end() - 1);
                         if (kept.size() > 1 && kept.size() % 2 == 0) kept.erase(kept.begin());
                       }
                       EXPECT_EQ(message.status(), RecvStatus::closed);
                     }
                     ASSERT_FALSE(kept.empty());
                     for (const auto& message : kept) (void)whole(message);
                   },
                   [](Side& side) {
                     Sender sender = side.connect();
                     for (std::uint64_t i = 0; i < side.scaled(50, 9); ++i) {
                       ASSERT_EQ(sender.send(numbered({0, i}, 70'000)), SendStatus::sent);
                     }
                   }};

const AddCase batches{"large_messages_may_be_among_those_of_a_batch",
                      [](Side& side) {
                        Receiver receiver = side.bind("capacity=16KiB&max_message=1MiB");
                        std::uint64_t next = 0;
                        Messages messages;
                        while (receiver.recv_many(messages) == RecvStatus::received) {
                          for (const auto message : messages)
                            EXPECT_TRUE(has_pattern(next++, message));
                        }
                        EXPECT_EQ(messages.status(), RecvStatus::closed);
                        EXPECT_EQ(next, side.scaled(20, 2) * 10);
                      },
                      [](Side& side) {
                        Sender sender = side.connect();
                        std::uint64_t next = 0;
                        for (std::uint64_t round = 0; round < side.scaled(20, 2); ++round) {
                          std::vector<std::vector<std::byte>> bytes;
                          for (std::size_t i = 0; i < 10; ++i)
                            bytes.push_back(pattern(next++, i % 4 == 3 ? 30'000 : i * 20));
                          const std::vector<std::span<const std::byte>> messages(bytes.begin(),
                                                                                 bytes.end());
                          const auto sent = sender.send_many(messages);
                          EXPECT_EQ(sent.status, SendStatus::sent);
                          EXPECT_EQ(sent.count, messages.size());
                        }
                      }};

Task send_all(Sender& sender, const std::vector<std::vector<std::byte>>& messages) {
  for (const auto& message : messages)
    EXPECT_EQ(co_await sender.send_async(message), SendStatus::sent);
}

Task receive_all(Receiver& receiver, std::uint64_t& next) {
  for (;;) {
    const auto message = co_await receiver.recv_async();
    if (!message) {
      EXPECT_EQ(message.status(), RecvStatus::closed);
      co_return;
    }
    EXPECT_TRUE(has_pattern(next++, message.data()));
  }
}

const AddCase awaited{"coroutines_send_and_receive_large_messages",
                      [](Side& side) {
                        Receiver receiver = side.bind("capacity=16KiB&max_message=1MiB");
                        std::uint64_t next = 0;
                        const auto task = receive_all(receiver, next);
                        wait_until([&] { return task.done(); });
                        EXPECT_EQ(next, side.scaled(20, 4));
                      },
                      [](Side& side) {
                        Sender sender = side.connect();
                        std::vector<std::vector<std::byte>> messages;
                        for (std::uint64_t i = 0; i < side.scaled(20, 4); ++i)
                          messages.push_back(pattern(i, i % 2 == 0 ? 100'000 : 10));
                        const auto task = send_all(sender, messages);
                        wait_until([&] { return task.done(); });
                      }};

Task send_until_told(Sender& sender, const std::vector<std::byte>& message, std::stop_token stop,
                     SendStatus& status) {
  status = co_await sender.send_async(message, std::move(stop));
}

const AddCase cancelled{
    "a_cancelled_large_message_gives_its_turn_to_the_next",
    [](Side& side) {
      Receiver receiver = side.bind("capacity=16KiB&max_message=1MiB");
      (void)side.get("cancelled");
      const auto message = receiver.recv();
      ASSERT_TRUE(message) << describe(message);
      EXPECT_TRUE(has_pattern(5, message.data()));
      EXPECT_EQ(receiver.recv().status(), RecvStatus::closed);
    },
    [](Side& side) {
      Sender sender = side.connect();
      Loop loop;
      sender.run_on(loop.executor());
      Sender waiting = sender.clone();
      waiting.run_on(loop.executor());
      Sender third = sender.clone();
      const auto large = pattern(4, kLargest);
      std::stop_source stop;
      auto status = SendStatus::sent;
      {
        // One is cancelled, the other's coroutine is destroyed while it waits for its turn.
        const auto first = send_until_told(sender, large, stop.get_token(), status);
        EXPECT_FALSE(first.done());
        auto never = SendStatus::sent;
        const auto second = send_until_told(waiting, large, {}, never);
        EXPECT_FALSE(second.done());
        EXPECT_EQ(third.send_for(pattern(6, 20'000), milliseconds(20)), SendStatus::timed_out);
        stop.request_stop();
        wait_until([&] {
          loop.run();
          return first.done();
        });
        EXPECT_EQ(status, SendStatus::cancelled);
      }
      side.put("cancelled");
      EXPECT_EQ(third.send(pattern(5, 100'000)), SendStatus::sent);
    }};

const AddCase sender_dies{"a_sender_that_dies_within_a_large_message_is_lost_with_what_it_had_sent",
                          [](Side& side) {
                            Receiver receiver = side.bind("capacity=16KiB&max_message=1MiB");
                            auto message = receiver.recv();
                            ASSERT_TRUE(message) << describe(message);
                            EXPECT_TRUE(has_pattern(0, message.data()));
                            message.release();
                            (void)side.get("waiting");
                            side.tell_to_die();
                            message = receiver.recv();
                            EXPECT_EQ(message.status(), RecvStatus::peer_lost) << describe(message);
                            ASSERT_NE(message.loss(), nullptr);
                            EXPECT_EQ(message.loss()->progress.consumed, 1U);
                            EXPECT_EQ(receiver.recv().status(), RecvStatus::closed);
                          },
                          [](Side& side) {
                            Sender sender = side.connect();
                            ASSERT_EQ(sender.send(pattern(0, 50'000)), SendStatus::sent);
                            (void)sender.send_for(pattern(1, kLargest), milliseconds(20));
                            side.put("waiting");
                            side.die_when_told();
                          },
                          Case::apart, Case::Victim::sender};

const AddCase typed{
    "typed_channels_carry_large_values",
    [](Side& side) {
      auto receiver = v2::bind<std::string>(side.fresh_uri("capacity=4KiB&max_message=1MiB"));
      side.put("uri", receiver.uris().at(0));
      std::size_t size = 1;
      for (const auto& text : receiver) {
        EXPECT_EQ(text, std::string(size, 'x'));
        size *= 10;
      }
      EXPECT_EQ(size, 10'000'000U / 10);
    },
    [](Side& side) {
      auto sender = v2::connect<std::string>(side.with(side.get("uri"), {}), side.patient());
      for (std::size_t size = 1; size < 1'000'000; size *= 10)
        EXPECT_EQ(sender.send(std::string(size, 'x')), SendStatus::sent);
    }};

}  // namespace
}  // namespace penstock::test
