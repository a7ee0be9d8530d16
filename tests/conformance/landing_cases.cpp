// Long messages that land in memory of their own, where the transport can do that; elsewhere the
// same messages in pieces.
#include <algorithm>
#include <atomic>
#include <cstdint>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "penstock/transport/link_budget.hpp"
#include "tests/channel/coroutine.hpp"
#include "tests/conformance/suite.hpp"

namespace penstock::test {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;

constexpr std::size_t kLargest = std::size_t{1} << 20U;
constexpr const char* kSmallRing = "capacity=8KiB&max_message=1MiB";
constexpr const char* kAlways = "landing=always";

/// The torn link can have messages land, unless there are several.
bool must_land(const Side& side) {
  return side.target().scheme == "torn" &&
         side.target().options.find("rails=") == std::string::npos;
}

/// Messages of this sender may land.
bool lands(const Side& side, const Sender& sender) {
  const bool can = sender.stats().landing_from != 0;
  if (side.target().scheme == "torn") {
    EXPECT_EQ(can, must_land(side));
  }
  return can;
}

/// Receives patterns in order until the sender is gone; says how many.
std::uint64_t receive_all(Receiver& receiver) {
  std::uint64_t next = 0;
  EXPECT_EQ(drain(receiver,
                  [&](const Message& m) {
                    EXPECT_TRUE(has_pattern(next, m.data())) << next << ", " << m.data().size();
                    ++next;
                  }),
            RecvStatus::closed);
  return next;
}

const AddCase every_size{
    "landing_carries_every_size_beside_pieces_and_short_messages",
    [](Side& side) {
      Receiver receiver = side.bind(kSmallRing);
      const auto count = receive_all(receiver);
      EXPECT_EQ(count, std::stoull(side.get("total")));
    },
    [](Side& side) {
      Sender sender = side.connect(kAlways);
      std::vector<std::size_t> sizes{0,      4080,   4081,         4095,         4096,    4097,
                                     65'535, 65'536, kLargest - 1, kLargest,     100'003, 1,
                                     4096,   4090,   300'000,      kLargest - 3, 12'345,  64};
      std::mt19937 random(16);
      for (std::uint64_t i = 0; i < side.scaled(60, 4); ++i)
        sizes.push_back(random() % (random() % 2 == 0 ? 64 : 100'000));
      std::uint64_t bytes = 0;
      for (std::uint64_t i = 0; i < sizes.size(); ++i) {
        ASSERT_EQ(sender.send(pattern(i, sizes[i])), SendStatus::sent);
        bytes += sizes[i];
      }
      side.put("total", std::to_string(sizes.size()));
      EXPECT_EQ(sender.flush(), FlushStatus::consumed);
      const auto stats = sender.stats();
      EXPECT_EQ(stats.progress.accepted, sizes.size());
      EXPECT_EQ(stats.progress.delivered, sizes.size());
      EXPECT_EQ(stats.progress.consumed, sizes.size());
      EXPECT_EQ(stats.bytes, bytes);
      const auto landed =
          std::ranges::count_if(sizes, [](std::size_t size) { return size >= kLeastLanding; });
      EXPECT_EQ(stats.landings, lands(side, sender) ? static_cast<std::uint64_t>(landed) : 0U);
    }};

const AddCase in_place{
    "landing_takes_messages_that_would_fit_into_the_ring_too",
    [](Side& side) {
      Receiver receiver = side.bind("capacity=256KiB&max_message=1MiB");
      for (std::uint64_t i = 0; i < 4; ++i) {
        const auto message = receiver.recv();
        ASSERT_TRUE(message) << describe(message);
        EXPECT_TRUE(has_pattern(i, message.data()));
      }
      const auto stats = receiver.stats();
      ASSERT_EQ(stats.sources.size(), 1U);
      EXPECT_EQ(stats.sources[0].landings, std::stoull(side.get("landings")));
      EXPECT_EQ(stats.messages, 4U);
      EXPECT_EQ(stats.bytes, 4U * 50'000);
      side.put("seen");
    },
    [](Side& side) {
      Sender sender = side.connect(kAlways);
      EXPECT_EQ(sender.try_send(pattern(0, 50'000)), SendStatus::sent) << "which does not wait";
      EXPECT_EQ(sender.send(pattern(1, 50'000)), SendStatus::sent);
      auto room = sender.reserve(50'000);
      ASSERT_TRUE(room);
      fill_pattern(2, room.data());
      room.commit();
      EXPECT_EQ(sender.send_for(pattern(3, 50'000), std::chrono::hours(1)), SendStatus::sent);
      EXPECT_EQ(sender.flush(), FlushStatus::consumed);
      EXPECT_EQ(sender.stats().landings, lands(side, sender) ? 2U : 0U);
      side.put("landings", std::to_string(sender.stats().landings));
      (void)side.get("seen");
    }};

const AddCase several{
    "landing_messages_of_several_senders_and_clones_arrive_once_each_and_in_order",
    [](Side& side) {
      Receiver receiver = side.bind("capacity=16KiB&max_message=1MiB");
      std::vector<std::uint64_t> next(4);
      EXPECT_EQ(drain(receiver,
                      [&](const Message& m) {
                        Numbered head;
                        ASSERT_GE(m.data().size(), sizeof head);
                        std::memcpy(&head, m.data().data(), sizeof head);
                        ASSERT_LT(head.sender, next.size());
                        EXPECT_EQ(head.number, next[head.sender]++);
                        EXPECT_TRUE(has_pattern(head.number, m.data().subspan(sizeof head)));
                      }),
                RecvStatus::closed);
      for (const auto count : next) EXPECT_EQ(count, side.scaled(60, 8));
    },
    [](Side& side) {
      std::vector<Sender> senders;
      senders.push_back(side.connect(kAlways));
      senders.push_back(senders[0].clone());
      senders.push_back(side.connect(kAlways));
      senders.push_back(side.connect("landing=never"));
      std::vector<std::jthread> threads;
      for (std::uint64_t t = 0; t < senders.size(); ++t) {
        threads.emplace_back([&side, t, own = std::move(senders[t])]() mutable {
          std::mt19937 random(static_cast<unsigned>(t));
          for (std::uint64_t i = 0; i < side.scaled(60, 8); ++i) {
            const Numbered head{t, i};
            std::vector<std::byte> message(sizeof head +
                                           (random() % 2 == 0 ? random() % 64 : random() % 80'000));
            std::memcpy(message.data(), &head, sizeof head);
            fill_pattern(i, std::span(message).subspan(sizeof head));
            ASSERT_EQ(own.send(message), SendStatus::sent);
          }
        });
      }
    }};

const AddCase receiver_away{"landing_messages_that_time_out_before_the_receiver_looks_are_not_sent",
                            [](Side& side) {
                              Receiver receiver = side.bind(kSmallRing);
                              (void)side.get("timed out");
                              EXPECT_EQ(receive_all(receiver), 3U);
                            },
                            [](Side& side) {
                              Sender sender = side.connect(kAlways);
                              ASSERT_EQ(sender.send(pattern(0, 100)), SendStatus::sent);
                              for (int i = 0; i < 3; ++i)
                                EXPECT_EQ(sender.send_for(pattern(77, kLargest), milliseconds(20)),
                                          SendStatus::timed_out);
                              EXPECT_EQ(sender.stats().progress.accepted, 1U);
                              side.put("timed out");
                              EXPECT_EQ(sender.send(pattern(1, 200'000)), SendStatus::sent);
                              EXPECT_EQ(sender.send(pattern(2, 50)), SendStatus::sent);
                              EXPECT_EQ(sender.flush(), FlushStatus::consumed);
                            }};

const AddCase half_way{
    "landing_messages_that_time_out_half_way_are_not_sent_and_the_next_ones_are",
    [](Side& side) {
      Receiver receiver = side.bind(kSmallRing);
      std::vector<std::uint64_t> numbers;
      EXPECT_EQ(drain(receiver,
                      [&](const Message& m) {
                        std::uint64_t number = 0;
                        ASSERT_GE(m.data().size(), sizeof number);
                        std::memcpy(&number, m.data().data(), sizeof number);
                        EXPECT_TRUE(has_pattern(number, m.data().subspan(sizeof number)));
                        numbers.push_back(number);
                      }),
                RecvStatus::closed);
      std::string text;
      for (const auto number : numbers) text += std::to_string(number) + " ";
      EXPECT_EQ(text, side.get("sent"));
    },
    [](Side& side) {
      Sender sender = side.connect(kAlways);
      std::mt19937 random(4);
      std::string sent;
      std::uint64_t most = 100;  // microseconds
      for (std::uint64_t i = 0; i < side.scaled(150, 20); ++i) {
        std::vector<std::byte> message(sizeof i + random() % 300'000);
        std::memcpy(message.data(), &i, sizeof i);
        fill_pattern(i, std::span(message).subspan(sizeof i));
        const auto status = sender.send_for(message, microseconds(1 + random() % most));
        if (status == SendStatus::sent) sent += std::to_string(i) + " ";
        // About half of them, however slow the machine is.
        most = status == SendStatus::sent ? std::max<std::uint64_t>(most / 2, 2) : most * 2;
        ASSERT_TRUE(status == SendStatus::sent || status == SendStatus::timed_out);
        std::ranges::fill(message, std::byte{0xEE});  // nothing may read it any more
      }
      side.put("sent", sent);
      EXPECT_EQ(sender.flush(), FlushStatus::consumed);
    }};

const AddCase receiver_closes{
    "a_receiver_may_close_while_messages_are_landing",
    [](Side& side) {
      for (int round = 0; round < 4; ++round) {
        const auto tag = std::to_string(round);
        Receiver receiver = side.bind(kSmallRing, "uri" + tag);
        std::vector<Message> kept;
        for (std::uint64_t i = 0; i < 3; ++i) {
          kept.push_back(receiver.recv());
          ASSERT_TRUE(kept.back()) << describe(kept.back());
        }
        if (round % 2 != 0) (void)receiver.try_recv();
        receiver.close();
        EXPECT_TRUE(has_pattern(2, kept[2].data()));
        (void)side.get("closed" + tag);
        for (std::uint64_t i = 0; i < 3; ++i) EXPECT_TRUE(has_pattern(i, kept[i].data())) << i;
      }
    },
    [](Side& side) {
      for (int round = 0; round < 4; ++round) {
        const auto tag = std::to_string(round);
        Sender sender = side.connect(kAlways, "uri" + tag);
        auto status = SendStatus::sent;
        std::uint64_t next = 0;
        while ((status = sender.send(pattern(next, 200'000))) == SendStatus::sent) ++next;
        EXPECT_EQ(status, SendStatus::closed) << sender.stats().error;
        EXPECT_GE(next, 3U);
        side.put("closed" + tag);
      }
    }};

const AddCase held{"landing_messages_stay_as_they_are_until_they_are_released",
                   [](Side& side) {
                     std::vector<Message> kept;
                     {
                       Receiver receiver = side.bind(kSmallRing);
                       Message message;
                       while ((message = receiver.recv())) kept.push_back(std::move(message));
                       EXPECT_EQ(message.status(), RecvStatus::closed);
                     }
                     ASSERT_EQ(kept.size(), side.scaled(30, 6));
                     for (std::uint64_t i = 0; i < kept.size(); ++i) {
                       EXPECT_TRUE(has_pattern(i, kept[i].data())) << i;
                       if (i % 3 == 0) kept[i].release();
                     }
                   },
                   [](Side& side) {
                     Sender sender = side.connect(kAlways);
                     for (std::uint64_t i = 0; i < side.scaled(30, 6); ++i)
                       ASSERT_EQ(sender.send(pattern(i, 60'000 + i)), SendStatus::sent);
                   }};

const AddCase batches{"landing_messages_may_be_among_those_of_a_batch",
                      [](Side& side) {
                        Receiver receiver = side.bind("capacity=64KiB&max_message=1MiB");
                        std::uint64_t next = 0;
                        Messages messages;
                        while (receiver.recv_many(messages) == RecvStatus::received)
                          for (const auto message : messages)
                            EXPECT_TRUE(has_pattern(next++, message));
                        EXPECT_EQ(messages.status(), RecvStatus::closed);
                        EXPECT_EQ(next, side.scaled(20, 2) * 10 + 1);
                      },
                      [](Side& side) {
                        Sender sender = side.connect(kAlways);
                        std::uint64_t next = 0;
                        for (std::uint64_t round = 0; round < side.scaled(20, 2); ++round) {
                          std::vector<std::vector<std::byte>> bytes;
                          for (std::size_t i = 0; i < 10; ++i)
                            bytes.push_back(pattern(next++, i % 4 == 3 ? 20'000 * i : i * 20));
                          const std::vector<std::span<const std::byte>> messages(bytes.begin(),
                                                                                 bytes.end());
                          const auto sent = sender.send_many(messages);
                          EXPECT_EQ(sent.status, SendStatus::sent);
                          EXPECT_EQ(sent.count, messages.size());
                        }
                        EXPECT_EQ(sender.flush(), FlushStatus::consumed);
                        // Without waiting, those that fit go in place.
                        EXPECT_EQ(sender.try_send_many(pattern(next, 20'000), 20'000).count, 1U);
                      }};

const AddCase budget{
    "landing_messages_for_which_the_budget_has_no_room_go_in_pieces",
    [](Side& side) {
      Receiver receiver = side.bind(kSmallRing);
      ASSERT_TRUE(receiver.recv());
      set_link_budget({.max_pinned = link_use().pinned + 10'000});
      side.put("short of memory");
      for (std::uint64_t i = 0; i < 3; ++i) {
        const auto message = receiver.recv();
        EXPECT_TRUE(message && has_pattern(i, message.data())) << describe(message);
      }
      set_link_budget({});
      side.put("enough again");
      for (std::uint64_t i = 3; i < 15; ++i) {
        const auto message = receiver.recv();
        EXPECT_TRUE(message && has_pattern(i, message.data())) << describe(message);
      }
    },
    [](Side& side) {
      Sender sender = side.connect(kAlways);
      ASSERT_EQ(sender.send({}), SendStatus::sent);
      (void)side.get("short of memory");
      for (std::uint64_t i = 0; i < 3; ++i)
        ASSERT_EQ(sender.send(pattern(i, 100'000)), SendStatus::sent);
      EXPECT_EQ(sender.stats().landings, 0U);
      (void)side.get("enough again");
      for (std::uint64_t i = 3; i < 15; ++i)
        ASSERT_EQ(sender.send(pattern(i, 100'000)), SendStatus::sent);
      EXPECT_EQ(sender.stats().landings != 0, lands(side, sender));
    }};

const AddCase measured{"landing_is_tried_where_nothing_is_said",
                       [](Side& side) {
                         Receiver receiver = side.bind("capacity=64KiB&max_message=1MiB");
                         EXPECT_EQ(receive_all(receiver), side.scaled(30, 8));
                       },
                       [](Side& side) {
                         Sender sender = side.connect();
                         for (std::uint64_t i = 0; i < side.scaled(30, 8); ++i)
                           ASSERT_EQ(sender.send(pattern(i, 256 * 1024)), SendStatus::sent);
                         EXPECT_LT(sender.stats().landings, side.scaled(30, 8));
                         EXPECT_EQ(sender.flush(), FlushStatus::consumed);
                         if (must_land(side)) {
                           EXPECT_GE(sender.stats().landings, 2U);
                         }
                       }};

Task receive_until_closed(Receiver& receiver, std::uint64_t& next) {
  for (;;) {
    const auto message = co_await receiver.recv_async();
    if (!message) {
      EXPECT_EQ(message.status(), RecvStatus::closed);
      co_return;
    }
    EXPECT_TRUE(has_pattern(next++, message.data()));
  }
}

const AddCase awaited{"landing_messages_are_received_by_coroutines",
                      [](Side& side) {
                        Receiver receiver = side.bind(kSmallRing);
                        std::uint64_t next = 0;
                        const auto task = receive_until_closed(receiver, next);
                        wait_until([&] { return task.done(); });
                        EXPECT_EQ(next, side.scaled(20, 4));
                      },
                      [](Side& side) {
                        Sender sender = side.connect(kAlways);
                        for (std::uint64_t i = 0; i < side.scaled(20, 4); ++i)
                          ASSERT_EQ(sender.send(pattern(i, i % 3 == 2 ? 10 : 70'000)),
                                    SendStatus::sent);
                      }};

const AddCase receiver_clones{
    "landing_messages_go_to_one_receiver_clone_each",
    [](Side& side) {
      Receiver receiver = side.bind(kSmallRing);
      std::atomic<std::uint64_t> sum{0};
      std::vector<std::jthread> threads;
      for (int t = 0; t < 3; ++t) {
        threads.emplace_back([&sum, own = receiver.clone()]() mutable {
          std::uint64_t last = 0;
          EXPECT_EQ(drain(own,
                          [&](const Message& m) {
                            std::uint64_t number = 0;
                            ASSERT_GE(m.data().size(), sizeof number);
                            std::memcpy(&number, m.data().data(), sizeof number);
                            EXPECT_GT(number, last);
                            last = number;
                            EXPECT_TRUE(has_pattern(number, m.data().subspan(sizeof number)));
                            sum += number;
                          }),
                    RecvStatus::closed);
        });
      }
      threads.clear();
      const auto count = side.scaled(60, 9);
      EXPECT_EQ(sum, count * (count + 1) / 2);
    },
    [](Side& side) {
      Sender sender = side.connect(kAlways);
      for (std::uint64_t i = 1; i <= side.scaled(60, 9); ++i) {
        std::vector<std::byte> message(sizeof i + (i % 2 == 0 ? 20 : 50'000 + i));
        std::memcpy(message.data(), &i, sizeof i);
        fill_pattern(i, std::span(message).subspan(sizeof i));
        ASSERT_EQ(sender.send(message), SendStatus::sent);
      }
    }};

const AddCase sender_dies{"a_sender_that_dies_while_its_message_is_landing_is_lost_with_it",
                          [](Side& side) {
                            Receiver receiver = side.bind(kSmallRing);
                            auto message = receiver.recv();
                            ASSERT_TRUE(message) << describe(message);
                            EXPECT_TRUE(has_pattern(0, message.data()));
                            std::uint64_t next = 1;
                            (void)side.get("begins");
                            side.tell_to_die();
                            while ((message = receiver.recv()))
                              EXPECT_TRUE(has_pattern(next++, message.data()));
                            EXPECT_EQ(message.status(), RecvStatus::peer_lost) << describe(message);
                            ASSERT_NE(message.loss(), nullptr);
                            EXPECT_EQ(message.loss()->progress.consumed, next);
                            EXPECT_EQ(receiver.recv().status(), RecvStatus::closed);
                          },
                          [](Side& side) {
                            Sender sender = side.connect(kAlways);
                            ASSERT_EQ(sender.send(pattern(0, 50'000)), SendStatus::sent);
                            const std::jthread sending([&] {
                              for (std::uint64_t i = 1;; ++i)
                                if (sender.send(pattern(i, kLargest)) != SendStatus::sent) return;
                            });
                            side.put("begins");
                            side.die_when_told();
                          },
                          Case::apart, Case::Victim::sender};

const AddCase receiver_dies{"a_sender_is_told_that_its_receiver_died_while_its_message_was_landing",
                            [](Side& side) {
                              Receiver receiver = side.bind(kSmallRing);
                              ASSERT_TRUE(receiver.recv());
                              const std::jthread receiving([&] {
                                while (receiver.recv()) {
                                }
                              });
                              side.die_when_told();
                            },
                            [](Side& side) {
                              Sender sender = side.connect(kAlways);
                              ASSERT_EQ(sender.send(pattern(0, 50'000)), SendStatus::sent);
                              side.tell_to_die();
                              auto status = SendStatus::sent;
                              while (status == SendStatus::sent)
                                status = sender.send(pattern(1, kLargest));
                              EXPECT_EQ(status, SendStatus::peer_lost);
                              EXPECT_FALSE(sender.stats().error.empty());
                            },
                            Case::apart, Case::Victim::receiver};

}  // namespace
}  // namespace penstock::test
