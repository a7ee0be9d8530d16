// Receiving: views held, timeouts, buffers, clones, several URIs.
#include <algorithm>
#include <array>
#include <mutex>
#include <random>
#include <thread>

#include "tests/conformance/suite.hpp"

namespace penstock::test {
namespace {

using std::chrono::milliseconds;

const AddCase nothing{
    "says_empty_and_times_out_when_there_is_nothing",
    [](Side& side) {
      Receiver receiver = side.bind();
      EXPECT_EQ(receiver.try_recv().status(), RecvStatus::empty) << "before any sender came";
      EXPECT_EQ(receiver.recv_for(milliseconds(5)).status(), RecvStatus::timed_out);
      side.put("waited");
      (void)side.get("connected");
      EXPECT_EQ(receiver.try_recv().status(), RecvStatus::empty);
      const auto before = std::chrono::steady_clock::now();
      EXPECT_EQ(receiver.recv_for(milliseconds(30)).status(), RecvStatus::timed_out);
      EXPECT_GE(std::chrono::steady_clock::now() - before, milliseconds(30));
      std::array<std::byte, 4> buffer{};
      EXPECT_EQ(receiver.recv_into(buffer, milliseconds(1)).status, RecvStatus::timed_out);
      side.put("waited again");
      EXPECT_EQ(receiver.recv_for(kForever).text(), "x");
      EXPECT_EQ(receiver.recv_for(kForever).status(), RecvStatus::closed);
    },
    [](Side& side) {
      (void)side.get("waited");
      Sender sender = side.connect();
      side.put("connected");
      (void)side.get("waited again");
      EXPECT_EQ(sender.send(bytes_of("x")), SendStatus::sent);
    }};

const AddCase into_buffer{
    "keeps_a_message_that_is_too_large_for_the_buffer",
    [](Side& side) {
      Receiver receiver = side.bind();
      std::vector<std::byte> buffer(1000);
      for (int i = 0; i < 2; ++i) {
        const Received received = receiver.recv_into(std::span(buffer).first(999));
        EXPECT_EQ(received.status, RecvStatus::too_small);
        EXPECT_EQ(received.size, 1000U);
        EXPECT_NE(received.source, 0U);
      }
      const Received received = receiver.recv_into(buffer);
      EXPECT_TRUE(received);
      EXPECT_EQ(received.size, 1000U);
      EXPECT_TRUE(has_pattern(1, buffer));
      EXPECT_EQ(receiver.recv_into({}).status, RecvStatus::too_small);
      const Message second = receiver.recv();
      EXPECT_TRUE(has_pattern(2, second.data())) << "recv() takes what was kept";
      EXPECT_EQ(second.data().size(), 50U);
      const Received empty = receiver.recv_into({});
      EXPECT_TRUE(empty) << "an empty message needs no room";
      EXPECT_EQ(receiver.recv_into(buffer).status, RecvStatus::closed);
    },
    [](Side& side) {
      Sender sender = side.connect();
      EXPECT_EQ(sender.send(pattern(1, 1000)), SendStatus::sent);
      EXPECT_EQ(sender.send(pattern(2, 50)), SendStatus::sent);
      EXPECT_EQ(sender.send({}), SendStatus::sent);
    }};

const AddCase out_of_order{
    "gives_room_back_for_messages_released_in_any_order",
    [](Side& side) {
      Receiver receiver = side.bind("capacity=16KiB");
      std::mt19937 random(9);
      std::vector<std::pair<std::uint64_t, Message>> held;
      std::uint64_t next = 0;
      const std::uint64_t total = side.scaled(3'000);
      while (next < total) {
        Message message = receiver.recv();
        ASSERT_TRUE(message) << describe(message);
        held.emplace_back(next++, std::move(message));
        if (held.size() < 20) continue;
        std::ranges::shuffle(held, random);
        while (!held.empty()) {
          // Whatever came meanwhile did not touch it.
          EXPECT_TRUE(has_pattern(held.back().first, held.back().second.data()));
          held.pop_back();
          // One more in between, so that what is held is not in one piece either.
          if (held.size() % 5 == 0 && next < total) {
            message = receiver.recv();
            ASSERT_TRUE(message) << describe(message);
            EXPECT_TRUE(has_pattern(next++, message.data()));
            message.release();
          }
        }
      }
      held.clear();
      EXPECT_EQ(receiver.recv().status(), RecvStatus::closed);
    },
    [](Side& side) {
      Sender sender = side.connect();
      const std::uint64_t total = side.scaled(3'000);
      for (std::uint64_t i = 0; i < total; ++i) {
        ASSERT_EQ(sender.send(pattern(i, i * 7 % 300)), SendStatus::sent);
      }
      EXPECT_EQ(sender.flush(), FlushStatus::consumed);
    }};

const AddCase view_limit{"holds_as_many_views_as_promised",
                         [](Side& side) {
                           Receiver receiver = side.bind();
                           std::vector<Message> held;
                           for (std::size_t i = 0; i < kMaxViews; ++i) {
                             held.push_back(receiver.recv());
                             ASSERT_TRUE(held.back()) << i;
                           }
                           EXPECT_EQ(receiver.recv().status(), RecvStatus::view_limit);
                           EXPECT_EQ(receiver.try_recv().status(), RecvStatus::view_limit);
                           EXPECT_EQ(receiver.recv_for(milliseconds(1)).status(),
                                     RecvStatus::view_limit);
                           for (std::size_t i = 0; i < held.size(); ++i) {
                             EXPECT_EQ(Numbered::from(held[i]).number, i);
                             held[i].release();
                             EXPECT_TRUE(held[i].data().empty());
                             held[i] = receiver.recv();
                             ASSERT_TRUE(held[i]);
                           }
                           held.clear();
                           EXPECT_EQ(receiver.recv().status(), RecvStatus::closed);
                         },
                         [](Side& side) {
                           Sender sender = side.connect();
                           for (std::uint64_t i = 0; i < 2 * kMaxViews; ++i) {
                             ASSERT_EQ(sender.send(Numbered{0, i}.bytes()), SendStatus::sent);
                           }
                         }};

const AddCase view_gap{
    "an_old_message_that_a_clone_holds_keeps_the_others_waiting_until_it_is_released",
    [](Side& side) {
      Receiver slow = side.bind();
      Receiver quick = slow.clone();
      Message old = slow.recv();
      ASSERT_TRUE(old);
      // One of the views is the old message's.
      const auto take_all = [&](std::size_t first) {
        for (std::size_t i = 0; i < kMaxViews - 1; ++i) {
          const Message message = quick.recv();
          ASSERT_TRUE(message) << describe(message);
          EXPECT_EQ(Numbered::from(message).number, first + i);
        }
      };
      take_all(1);
      EXPECT_EQ(quick.recv_for(milliseconds(1)).status(), RecvStatus::timed_out);
      old = quick.try_recv();
      EXPECT_EQ(old.status(), RecvStatus::empty);
      old = quick.recv();
      ASSERT_TRUE(old);
      EXPECT_EQ(Numbered::from(old).number, kMaxViews);
      take_all(kMaxViews + 1);
      EXPECT_EQ(quick.try_recv().status(), RecvStatus::empty);
      // Alone, it would wait for itself.
      slow = Receiver();
      EXPECT_EQ(quick.recv().status(), RecvStatus::view_limit);
      old.release();
      const Message last = quick.recv();
      ASSERT_TRUE(last) << describe(last);
      EXPECT_EQ(Numbered::from(last).number, 2 * kMaxViews);
      EXPECT_EQ(quick.recv().status(), RecvStatus::closed);
    },
    [](Side& side) {
      Sender sender = side.connect();
      for (std::uint64_t i = 0; i < 2 * kMaxViews + 1; ++i) {
        ASSERT_EQ(sender.send(Numbered{0, i}.bytes()), SendStatus::sent);
      }
    }};

const AddCase outlive{"messages_outlive_their_receiver",
                      [](Side& side) {
                        std::vector<Message> held;
                        {
                          Receiver receiver = side.bind();
                          for (std::uint64_t i = 0; i < 10; ++i) held.push_back(receiver.recv());
                        }
                        side.put("closed");
                        (void)side.get("gone");
                        for (std::uint64_t i = 0; i < 10; ++i) {
                          EXPECT_EQ(held[i].data().size(), 5000U);
                          EXPECT_TRUE(has_pattern(i, held[i].data()));
                        }
                        // In another thread, and not in order.
                        std::thread([messages = std::move(held)]() mutable {
                          messages.erase(messages.begin() + 3);
                        }).join();
                      },
                      [](Side& side) {
                        {
                          Sender sender = side.connect();
                          for (std::uint64_t i = 0; i < 10; ++i) {
                            ASSERT_EQ(sender.send(pattern(i, 5000)), SendStatus::sent);
                          }
                          (void)side.get("closed");
                        }
                        side.put("gone");
                      }};

const AddCase outlive_sender{
    "messages_outlive_their_sender",
    [](Side& side) {
      Receiver receiver = side.bind();
      std::vector<Message> held;
      EXPECT_EQ(drain(receiver, [&](Message m) { held.push_back(std::move(m)); }),
                RecvStatus::closed);
      (void)side.get("gone");
      ASSERT_EQ(held.size(), 10U);
      for (std::uint64_t i = 0; i < 10; ++i) EXPECT_TRUE(has_pattern(i, held[i].data()));
    },
    [](Side& side) {
      {
        Sender sender = side.connect();
        for (std::uint64_t i = 0; i < 10; ++i) {
          ASSERT_EQ(sender.send(pattern(i, 5000)), SendStatus::sent);
        }
      }
      side.put("gone");
    }};

const AddCase other_thread{
    "messages_may_be_released_by_other_threads",
    [](Side& side) {
      Receiver receiver = side.bind("capacity=16KiB");
      std::mutex mutex;
      std::vector<Message> queue;
      bool end = false;
      std::jthread releaser([&] {
        for (bool go_on = true; go_on;) {
          std::vector<Message> taken;
          {
            const std::lock_guard lock(mutex);
            taken.swap(queue);
            go_on = !end;
          }
          for (const Message& message : taken) EXPECT_EQ(message.data().size(), 100U);
          std::this_thread::yield();
        }
      });
      std::uint64_t count = 0;
      // When views run out, the other thread has not released them yet.
      for (RecvStatus status = RecvStatus::view_limit; status == RecvStatus::view_limit;) {
        status = drain(receiver, [&](Message m) {
          ++count;
          const std::lock_guard lock(mutex);
          queue.push_back(std::move(m));
        });
        EXPECT_TRUE(status == RecvStatus::closed || status == RecvStatus::view_limit)
            << to_string(status);
        std::this_thread::yield();
      }
      {
        const std::lock_guard lock(mutex);
        end = true;
      }
      EXPECT_EQ(count, side.scaled(3'000));
    },
    [](Side& side) {
      Sender sender = side.connect();
      for (std::uint64_t i = 0; i < side.scaled(3'000); ++i) {
        ASSERT_EQ(sender.send(pattern(i, 100)), SendStatus::sent);
      }
      EXPECT_EQ(sender.flush(), FlushStatus::consumed);
    }};

const AddCase parked_clone{
    "wakes_every_parked_receiver_clone",
    [](Side& side) {
      Receiver first = side.bind("spin=0&persistent=1");
      for (std::uint64_t round = 0; round < side.scaled(50, 5); ++round) {
        // Each holds its message until both have one: two messages must wake two sleepers.
        std::array<Message, 3> got;
        {
          std::vector<std::jthread> threads;
          for (Message& message : got) {
            threads.emplace_back(
                [&message, clone = first.clone()]() mutable { message = clone.recv(); });
          }
          side.put("ready " + std::to_string(round));
        }
        for (const Message& message : got) EXPECT_TRUE(message) << describe(message);
      }
      side.put("end");
    },
    [](Side& side) {
      Sender sender = side.connect();
      for (std::uint64_t round = 0; round < side.scaled(50, 5); ++round) {
        (void)side.get("ready " + std::to_string(round));
        if (round % 2 == 0) std::this_thread::sleep_for(milliseconds(2));
        for (int i = 0; i < 3; ++i) ASSERT_EQ(sender.send(bytes_of("x")), SendStatus::sent);
      }
      (void)side.get("end");
    }};

const AddCase parked_closed{"wakes_every_parked_receiver_clone_at_the_end",
                            [](Side& side) {
                              Receiver first = side.bind("spin=0");
                              std::vector<std::jthread> threads;
                              for (int i = 0; i < 3; ++i) {
                                threads.emplace_back([clone = first.clone()]() mutable {
                                  EXPECT_EQ(drain(clone, [](const Message&) {}),
                                            RecvStatus::closed);
                                });
                              }
                              (void)side.get("connected");
                              EXPECT_EQ(drain(first, [](const Message&) {}), RecvStatus::closed);
                            },
                            [](Side& side) {
                              Sender sender = side.connect();
                              EXPECT_EQ(sender.send(bytes_of("x")), SendStatus::sent);
                              EXPECT_EQ(sender.flush(), FlushStatus::consumed);
                              side.put("connected");
                            }};

const AddCase several_uris{
    "one_receiver_binds_several_uris",
    [](Side& side) {
      const std::string name = side.fresh_uri().substr(0, side.fresh_uri().find('?'));
      Receiver receiver = penstock::bind("inproc:several" + name.substr(name.rfind('-')));
      receiver.bind(side.fresh_uri());
      receiver.bind(side.fresh_uri("capacity=8KiB"));
      const std::vector<std::string> uris = receiver.uris();
      ASSERT_EQ(uris.size(), 3U);
      Sender own = penstock::connect(uris[0]);
      side.put("first", uris[1]);
      side.put("second", uris[2]);
      EXPECT_EQ(own.send(bytes_of("0")), SendStatus::sent);
      std::vector<std::string> texts;
      std::vector<SourceId> sources;
      for (int i = 0; i < 3; ++i) {
        const Message message = receiver.recv();
        ASSERT_TRUE(message);
        texts.emplace_back(message.text());
        sources.push_back(message.source());
      }
      std::ranges::sort(texts);
      EXPECT_EQ(texts, (std::vector<std::string>{"0", "1", "2"}));
      std::ranges::sort(sources);
      EXPECT_EQ(std::unique(sources.begin(), sources.end()), sources.end()) << "three sources";
      EXPECT_EQ(own.close(), FlushStatus::consumed);
      side.put("received");
      EXPECT_EQ(receiver.recv().status(), RecvStatus::closed);
    },
    [](Side& side) {
      Sender first = side.connect({}, "first");
      Sender second = side.connect({}, "second");
      EXPECT_EQ(second.send(bytes_of("2")), SendStatus::sent);
      EXPECT_EQ(first.send(bytes_of("1")), SendStatus::sent);
      (void)side.get("received");
    }};

}  // namespace
}  // namespace penstock::test
