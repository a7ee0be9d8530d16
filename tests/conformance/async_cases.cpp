// Waiting without a thread: coroutines, select, event loops. No message and no wake-up is lost,
// however a wait ends.
#include <poll.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <random>
#include <stop_token>
#include <thread>
#include <utility>
#include <vector>

#include "penstock/channel/select.hpp"
#include "tests/channel/coroutine.hpp"
#include "tests/conformance/suite.hpp"

namespace penstock::test {
namespace {

void sleep_on(int fd) {
  pollfd wait{fd, POLLIN, 0};
  EXPECT_GE(::poll(&wait, 1, -1), 0);
}

/// Receives by an event loop until there is something else than a message, and returns that.
template <class Each>
RecvStatus drain_by_event(Receiver& receiver, Each&& each) {
  for (;;) {
    auto message = receiver.try_recv();
    if (message) {
      each(std::move(message));
    } else if (message.status() != RecvStatus::empty) {
      return message.status();
    } else if (receiver.arm()) {
      sleep_on(receiver.event_fd());
    }
  }
}

/// Receives by a coroutine until there is something else than a message. The receiver must not be
/// moved meanwhile.
template <class Each>
Task drain_by_coroutine(Receiver& receiver, Each each, RecvStatus& end, std::stop_token stop = {}) {
  for (;;) {
    auto message = co_await receiver.recv_async(stop);
    if (!message) {
      end = message.status();
      co_return;
    }
    each(std::move(message));
  }
}

void run_until(Loop& loop, const std::function<bool()>& condition) {
  while (!condition())
    if (loop.run() == 0) std::this_thread::yield();
}

/// Counts how often each numbered message of one sender came.
class Tally {
 public:
  explicit Tally(std::uint64_t count) : seen_(count) {}
  void add(const Message& message) {
    const auto number = Numbered::from(message).number;
    if (number < seen_.size()) ++seen_[number];
  }
  [[nodiscard]] std::uint64_t count(int times) const {
    return static_cast<std::uint64_t>(
        std::ranges::count_if(seen_, [&](const auto& n) { return n == times; }));
  }

 private:
  std::vector<std::atomic<int>> seen_;
};

void send_numbered(Side& side, Sender& sender, std::uint64_t count, bool with_delays) {
  std::mt19937 random(11);
  for (std::uint64_t i = 0; i < count; ++i) {
    ASSERT_EQ(sender.send(Numbered{1, i}.bytes()), SendStatus::sent);
    if (with_delays) dither(random);
    if (i % 256 == 0) side.note("sent message " + std::to_string(i));
  }
}

// ── Messages ─────────────────────────────────────────────────────────────────────────────────────

const AddCase message_awaited{
    "resumes_a_coroutine_for_each_message",
    [](Side& side) {
      Receiver receiver = side.bind("capacity=16KiB");
      std::uint64_t next = 0;
      auto end = RecvStatus::empty;
      const auto task = drain_by_coroutine(
          receiver,
          [&](const Message& message) { EXPECT_EQ(Numbered::from(message).number, next++); }, end);
      side.put("awaited");
      wait_until([&] { return task.done(); });
      EXPECT_EQ(end, RecvStatus::closed);
      EXPECT_EQ(next, side.scaled(2'000));
    },
    [](Side& side) {
      Sender sender = side.connect();
      (void)side.get("awaited");
      send_numbered(side, sender, side.scaled(2'000), true);
    }};

const AddCase engine_share{"a_coroutine_that_always_finds_a_message_keeps_the_engine_from_nothing",
                           [](Side& side) {
                             // By pings: whoever sends none for two seconds is lost.
                             Receiver receiver = side.bind("capacity=64KiB&liveness=2s");
                             std::atomic<bool> stop = false;
                             Sender own = penstock::connect(side.with(receiver.uris().at(0), {}),
                                                            side.patient());
                             // Begun while there is nothing: it is the engine, not this thread,
                             // that it then runs on.
                             auto end = RecvStatus::empty;
                             const auto task = drain_by_coroutine(
                                 receiver, [](const Message&) {}, end);
                             std::jthread flood([&] {
                               while (!stop) EXPECT_EQ(own.send(bytes_of("x")), SendStatus::sent);
                               own = Sender();
                             });
                             (void)side.get("over");
                             stop = true;
                             wait_until([&] { return task.done(); });
                             EXPECT_EQ(end, RecvStatus::closed);
                           },
                           [](Side& side) {
                             Sender sender = side.connect("liveness=2s");
                             std::this_thread::sleep_for(std::chrono::milliseconds(2'500));
                             EXPECT_EQ(sender.state(), PeerState::connected);
                             EXPECT_EQ(sender.send(bytes_of("last")), SendStatus::sent);
                             side.put("over");
                           }};

const AddCase event_loop{
    "loses_no_wake_up_to_an_event_loop",
    [](Side& side) {
      Receiver receiver = side.bind("capacity=4KiB&spin=0", "to receiver");
      Sender sender = side.connect("spin=0", "to sender");
      // Whoever sends waits for the answer, so a lost wake-up is never covered by a later message.
      std::mt19937 random(12);
      std::uint64_t next = 0;
      EXPECT_EQ(
          drain_by_event(receiver,
                         [&](const Message& message) {
                           EXPECT_EQ(Numbered::from(message).number, next);
                           dither(random);
                           EXPECT_EQ(sender.send(Numbered{2, next}.bytes()), SendStatus::sent);
                           if (next++ % 64 == 0) side.note("round " + std::to_string(next));
                         }),
          RecvStatus::closed);
      EXPECT_EQ(next, side.scaled(2'000));
      EXPECT_FALSE(receiver.arm()) << "closed is news";
    },
    [](Side& side) {
      Receiver receiver = side.bind("capacity=4KiB&spin=0", "to sender");
      Sender sender = side.connect("spin=0", "to receiver");
      std::mt19937 random(13);
      const std::uint64_t count = side.scaled(2'000);
      for (std::uint64_t i = 0; i < count; ++i) {
        ASSERT_EQ(sender.send(Numbered{1, i}.bytes()), SendStatus::sent);
        for (bool answered = false; !answered;) {
          if (const auto message = receiver.try_recv()) {
            EXPECT_EQ(Numbered::from(message).number, i);
            answered = true;
          } else if (receiver.arm()) {
            sleep_on(receiver.event_fd());
          }
        }
        dither(random);
      }
    }};

const AddCase every_way{
    "clones_that_wait_in_different_ways_share_what_comes",
    [](Side& side) {
      const std::uint64_t count = side.scaled(4'000);
      Tally tally(count);
      const auto add = [&](const Message& message) { tally.add(message); };
      Receiver receiver = side.bind("capacity=16KiB&spin=0");
      Receiver by_engine = receiver.clone();
      Receiver by_loop = receiver.clone();
      Receiver by_loop_too = receiver.clone();
      Receiver by_thread = receiver.clone();
      Receiver by_event = receiver.clone();
      Receiver by_select = receiver.clone();
      Loop loop;
      by_loop.run_on(loop.executor());
      by_loop_too.run_on(loop.executor());
      auto end = RecvStatus::empty;
      auto end_loop = RecvStatus::empty;
      auto end_loop_too = RecvStatus::empty;
      const auto one = drain_by_coroutine(by_engine, add, end);
      const auto two = drain_by_coroutine(by_loop, add, end_loop);
      const auto three = drain_by_coroutine(by_loop_too, add, end_loop_too);
      std::jthread thread(
          [&] { EXPECT_EQ(penstock::test::drain(by_thread, add), RecvStatus::closed); });
      std::jthread events([&] { EXPECT_EQ(drain_by_event(by_event, add), RecvStatus::closed); });
      std::jthread selects([&] {
        for (bool open = true; open;)
          (void)v2::select(v2::on_recv(by_select, [&](Message message) {
            open = bool(message);
            if (open) add(message);
          }));
      });
      side.put("ready");
      run_until(loop, [&] { return one.done() && two.done() && three.done(); });
      thread.join();
      events.join();
      selects.join();
      EXPECT_EQ(end, RecvStatus::closed);
      EXPECT_EQ(end_loop, RecvStatus::closed);
      EXPECT_EQ(end_loop_too, RecvStatus::closed);
      EXPECT_EQ(tally.count(1), count);
    },
    [](Side& side) {
      Sender sender = side.connect();
      (void)side.get("ready");
      send_numbered(side, sender, side.scaled(4'000), true);
    }};

const AddCase cancelled{"receives_that_are_cancelled_at_random_lose_nothing",
                        [](Side& side) {
                          const std::uint64_t count = side.scaled(3'000);
                          Tally tally(count);
                          const auto add = [&](const Message& message) { tally.add(message); };
                          Receiver receiver = side.bind("capacity=16KiB");
                          Receiver other = receiver.clone();
                          Loop loop;
                          receiver.run_on(loop.executor());
                          other.run_on(loop.executor());
                          std::mt19937 random(14);
                          auto end = RecvStatus::empty;
                          auto end_brief = RecvStatus::empty;
                          const auto steady = drain_by_coroutine(receiver, add, end);
                          while (!steady.done()) {
                            std::stop_source stop;
                            auto brief =
                                drain_by_coroutine(other, add, end_brief, stop.get_token());
                            for (auto rounds = random() % 8; rounds != 0; --rounds) loop.run();
                            std::jthread stopper;
                            switch (random() % 3) {
                              case 0: break;  // it is destroyed
                              case 1: stop.request_stop(); break;
                              default: stopper = std::jthread([&] { stop.request_stop(); });
                            }
                            if (stopper.joinable() || stop.stop_requested())
                              run_until(loop, [&] { return brief.done(); });
                            brief = Task();
                            loop.run();
                          }
                          EXPECT_EQ(end, RecvStatus::closed);
                          EXPECT_EQ(tally.count(1), count);
                        },
                        [](Side& side) {
                          Sender sender = side.connect();
                          send_numbered(side, sender, side.scaled(3'000), true);
                        }};

const AddCase passed_on{"a_wake_up_that_a_cancelled_receive_does_not_want_goes_to_a_thread",
                        [](Side& side) {
                          // Both wait; whoever is woken first may be the one that is then stopped.
                          Receiver receiver = side.bind("capacity=4KiB&spin=0");
                          Receiver other = receiver.clone();
                          const std::uint64_t rounds = side.scaled(300);
                          for (std::uint64_t i = 0; i < rounds; ++i) {
                            Loop loop;
                            other.run_on(loop.executor());
                            auto end = RecvStatus::empty;
                            std::uint64_t taken = 0;
                            auto task = drain_by_coroutine(
                                other, [&](const Message&) { ++taken; }, end);
                            std::jthread thread([&] { EXPECT_TRUE(receiver.recv()); });
                            side.meet("waits " + std::to_string(i));
                            side.meet("sent " + std::to_string(i));
                            task = Task();
                            EXPECT_EQ(taken, 0U);
                            // Ends only if the thread hears of the message.
                          }
                          EXPECT_EQ(receiver.recv().status(), RecvStatus::closed);
                        },
                        [](Side& side) {
                          Sender sender = side.connect();
                          const std::uint64_t rounds = side.scaled(300);
                          for (std::uint64_t i = 0; i < rounds; ++i) {
                            side.meet("waits " + std::to_string(i));
                            EXPECT_EQ(sender.send(bytes_of("x")), SendStatus::sent);
                            side.meet("sent " + std::to_string(i));
                          }
                        }};

const AddCase receiver_closes{"a_waiting_coroutine_hears_that_its_receiver_closes",
                              [](Side& side) {
                                Receiver receiver = side.bind();
                                Receiver second = receiver.clone();
                                Receiver closer = receiver.clone();
                                auto end = RecvStatus::empty;
                                auto end_too = RecvStatus::empty;
                                const auto one = drain_by_coroutine(
                                    receiver, [](const Message&) {}, end);
                                const auto two = drain_by_coroutine(
                                    second, [](const Message&) {}, end_too);
                                side.meet("connected");
                                closer.close();
                                wait_until([&] { return one.done() && two.done(); });
                                EXPECT_EQ(end, RecvStatus::closed);
                                EXPECT_EQ(end_too, RecvStatus::closed);
                                EXPECT_FALSE(receiver.arm());
                                Receiver none;
                                EXPECT_FALSE(none.arm());
                                EXPECT_EQ(none.event_fd(), -1);
                                EXPECT_EQ(none.wait_list(), nullptr);
                                EXPECT_TRUE(drain_by_coroutine(
                                                none, [](const Message&) {}, end)
                                                .done());
                              },
                              [](Side& side) {
                                const Sender sender = side.connect();
                                side.meet("connected");
                                wait_until([&] { return sender.state() == PeerState::closed; });
                              }};

const AddCase sender_killed{"a_waiting_coroutine_hears_of_a_killed_sender",
                            [](Side& side) {
                              Receiver receiver = side.bind();
                              bool lost = false;
                              std::uint64_t received = 0;
                              const auto listen = [](Receiver& from, bool& saw_loss,
                                                     std::uint64_t& count) -> Task {
                                for (;;) {
                                  const auto message = co_await from.recv_async();
                                  if (message.status() == RecvStatus::closed) co_return;
                                  if (message.status() == RecvStatus::peer_lost)
                                    saw_loss = message.loss() != nullptr;
                                  if (message) ++count;
                                }
                              };
                              const auto task = listen(receiver, lost, received);
                              (void)side.get("sent");
                              side.tell_to_die();
                              wait_until([&] { return task.done(); });
                              EXPECT_TRUE(lost);
                              EXPECT_EQ(received, 1U);
                            },
                            [](Side& side) {
                              Sender sender = side.connect();
                              EXPECT_EQ(sender.send(bytes_of("x")), SendStatus::sent);
                              wait_delivered(sender);
                              side.put("sent");
                              side.die_when_told();
                            },
                            Case::apart, Case::Victim::sender};

// ── Room ─────────────────────────────────────────────────────────────────────────────────────────

// Sizes of which two do not fit the smallest ring, and small ones between them.
std::size_t size_of(std::uint64_t number) {
  return number % 8 == 7 ? number % 100 : 1'000 + number * 40 % 1'000;
}

/// Receives patterns 0, 1, … of size_of().
void receive_patterns(Side& side, std::uint64_t count) {
  Receiver receiver = side.bind("capacity=4KiB&spin=0");
  std::mt19937 random(21);
  std::uint64_t next = 0;
  EXPECT_EQ(drain(receiver,
                  [&](const Message& message) {
                    EXPECT_EQ(message.data().size(), size_of(next));
                    EXPECT_TRUE(has_pattern(next, message.data()));
                    if (next++ % 64 == 0) side.note("got message " + std::to_string(next));
                    if (random() % 4 == 0) dither(random);
                  }),
            RecvStatus::closed);
  EXPECT_EQ(next, count);
}

Task send_patterns(Sender& sender, std::uint64_t count) {
  for (std::uint64_t i = 0; i < count; ++i) {
    const auto message = pattern(i, size_of(i));
    EXPECT_EQ(co_await sender.send_async(message), SendStatus::sent);
  }
}

Task reserve_patterns(Sender& sender, std::uint64_t count) {
  for (std::uint64_t i = 0; i < count; ++i) {
    auto room = co_await sender.reserve_async(size_of(i));
    EXPECT_EQ(room.status(), SendStatus::sent);
    fill_pattern(i, room.data());
    room.commit();
  }
}

Task send_one(Sender& sender, std::span<const std::byte> message, SendStatus& status,
              std::stop_token stop = {}) {
  status = co_await sender.send_async(message, std::move(stop));
}

const AddCase room_awaited{"resumes_a_coroutine_for_room",
                           [](Side& side) { receive_patterns(side, side.scaled(3'000)); },
                           [](Side& side) {
                             Sender sender = side.connect("spin=0");
                             const auto task = send_patterns(sender, side.scaled(3'000));
                             wait_until([&] { return task.done(); });
                           }};

const AddCase room_reserved{"resumes_a_coroutine_for_room_to_fill_in_place",
                            [](Side& side) { receive_patterns(side, side.scaled(3'000)); },
                            [](Side& side) {
                              Sender sender = side.connect();
                              Loop loop;
                              sender.run_on(loop.executor());
                              const auto task = reserve_patterns(sender, side.scaled(3'000));
                              run_until(loop, [&] { return task.done(); });
                            }};

Task flush_patterns(Sender& sender, std::uint64_t count) {
  for (std::uint64_t i = 0; i < count; ++i) {
    const auto message = pattern(i, size_of(i));
    EXPECT_EQ(co_await sender.send_async(message), SendStatus::sent);
    if (i % 4 == 0) {
      EXPECT_EQ(co_await sender.flush_async(), FlushStatus::consumed);
      EXPECT_EQ(sender.stats().progress.consumed, i + 1);
    }
  }
  std::stop_source stop;
  stop.request_stop();
  EXPECT_EQ(co_await sender.flush_async(stop.get_token()), FlushStatus::cancelled);
  EXPECT_EQ(co_await sender.close_async(), FlushStatus::consumed);
  EXPECT_EQ(co_await sender.send_async({}), SendStatus::closed);
  EXPECT_EQ(co_await sender.flush_async(), FlushStatus::consumed);
  EXPECT_EQ(co_await sender.close_async(), FlushStatus::consumed) << "again";
}

const AddCase flush_awaited{"resumes_a_coroutine_when_everything_was_consumed",
                            [](Side& side) { receive_patterns(side, side.scaled(1'000)); },
                            [](Side& side) {
                              Sender sender = side.connect();
                              const auto task = flush_patterns(sender, side.scaled(1'000));
                              wait_until([&] { return task.done(); });
                            }};

const AddCase room_event{"loses_no_wake_up_to_an_event_loop_that_waits_for_room",
                         [](Side& side) { receive_patterns(side, side.scaled(3'000)); },
                         [](Side& side) {
                           Sender sender = side.connect();
                           EXPECT_FALSE(sender.arm(1)) << "without a descriptor";
                           const int fd = sender.event_fd();
                           EXPECT_FALSE(sender.arm(1)) << "there is room";
                           EXPECT_FALSE(sender.arm(1U << 20U)) << "it is too large";
                           for (std::uint64_t i = 0; i < side.scaled(3'000); ++i) {
                             const auto message = pattern(i, size_of(i));
                             auto status = SendStatus::full;
                             while ((status = sender.try_send(message)) == SendStatus::full)
                               if (sender.arm(message.size())) sleep_on(fd);
                             ASSERT_EQ(status, SendStatus::sent);
                           }
                         }};

const AddCase room_cancelled{"sends_that_are_cancelled_at_random_send_once_or_not_at_all",
                             [](Side& side) { receive_patterns(side, side.scaled(2'000)); },
                             [](Side& side) {
                               Sender sender = side.connect();
                               Loop loop;
                               sender.run_on(loop.executor());
                               std::mt19937 random(22);
                               for (std::uint64_t next = 0; next < side.scaled(2'000);) {
                                 const auto message = pattern(next, size_of(next));
                                 std::stop_source stop;
                                 auto status = SendStatus::full;
                                 auto task = send_one(sender, message, status, stop.get_token());
                                 for (auto rounds = random() % 4; rounds != 0; --rounds) loop.run();
                                 if (random() % 2 == 0) {
                                   std::jthread stopper;
                                   if (random() % 4 == 0) {
                                     stopper = std::jthread([&] { stop.request_stop(); });
                                   } else {
                                     stop.request_stop();
                                   }
                                   run_until(loop, [&] { return task.done(); });
                                 }
                                 task = Task();  // destroyed where it is, if it waits
                                 loop.run();
                                 if (status == SendStatus::sent) ++next;
                               }
                             }};

const AddCase room_for_little{
    "one_who_waits_for_little_room_is_not_held_up_by_one_who_waits_for_much",
    [](Side& side) {
      Receiver receiver = side.bind("capacity=4KiB");
      side.meet("waits");
      // Room for the small one only.
      EXPECT_EQ(receiver.recv().data().size(), 496U);
      (void)side.get("sent the small one");
      std::uint64_t left = 0;
      EXPECT_EQ(drain(receiver, [&](const Message&) { ++left; }), RecvStatus::closed);
      EXPECT_EQ(left, 9U);
    },
    [](Side& side) {
      Sender first = side.connect();
      EXPECT_EQ(fill_up(first, pattern(1, 496)), 8U);
      Sender second = first.clone();
      Sender third = first.clone();
      const auto large = pattern(2, 1'500);
      const auto small = pattern(3, 100);
      auto large_status = SendStatus::full;
      auto small_status = SendStatus::full;
      const auto large_task = send_one(first, large, large_status);
      const auto small_task = send_one(second, small, small_status);
      (void)third.event_fd();
      EXPECT_TRUE(third.arm(200));
      side.meet("waits");
      wait_until([&] { return small_task.done(); });
      EXPECT_EQ(small_status, SendStatus::sent);
      sleep_on(third.event_fd());
      side.put("sent the small one");
      wait_until([&] { return large_task.done(); });
      EXPECT_EQ(large_status, SendStatus::sent);
    }};

const AddCase sender_hears_the_end{
    "a_coroutine_that_waits_for_room_hears_that_the_channel_closes",
    [](Side& side) {
      Receiver receiver = side.bind("capacity=4KiB");
      Receiver other = side.bind("capacity=4KiB", "other");
      side.meet("waits");
      receiver.close();
      side.meet("closed");
      // The good-bye needs no room.
      for (std::uint64_t left = 8; left != 0; --left) EXPECT_TRUE(other.recv());
      EXPECT_EQ(other.recv().status(), RecvStatus::closed);
    },
    [](Side& side) {
      const auto wait_for_room = [](Sender& sender, SendStatus& status) {
        static const auto message = pattern(1, 480);
        EXPECT_EQ(fill_up(sender, message), 8U);
        return send_one(sender, message, status);
      };
      Sender sender = side.connect();
      Sender other = side.connect({}, "other");
      Sender closer = other.clone();
      auto status = SendStatus::full;
      auto status_other = SendStatus::full;
      const auto task = wait_for_room(sender, status);
      const auto task_other = wait_for_room(other, status_other);
      side.meet("waits");
      wait_until([&] { return task.done(); });
      EXPECT_EQ(status, SendStatus::closed);
      EXPECT_FALSE(task_other.done());
      EXPECT_EQ(closer.close(std::chrono::milliseconds(1)), FlushStatus::timed_out);
      wait_until([&] { return task_other.done(); });
      EXPECT_EQ(status_other, SendStatus::closed);
      side.meet("closed");
      Sender none;
      EXPECT_FALSE(none.arm(1));
      EXPECT_EQ(none.event_fd(), -1);
      EXPECT_EQ(none.wait_list(), nullptr);
      EXPECT_TRUE(send_one(none, {}, status).done());
      EXPECT_EQ(status, SendStatus::closed);
    }};

const AddCase receiver_killed{"a_coroutine_that_waits_for_room_hears_that_its_receiver_was_killed",
                              [](Side& side) {
                                Receiver receiver = side.bind("capacity=4KiB");
                                side.die_when_told();
                              },
                              [](Side& side) {
                                Sender sender = side.connect();
                                const auto message = pattern(1, 1'000);
                                (void)fill_up(sender, message);
                                auto status = SendStatus::full;
                                const auto task = send_one(sender, message, status);
                                side.tell_to_die();
                                wait_until([&] { return task.done(); });
                                EXPECT_EQ(status, SendStatus::peer_lost);
                              },
                              Case::apart, Case::Victim::receiver};

// ── Select ───────────────────────────────────────────────────────────────────────────────────────

const AddCase selects{
    "selects_over_receivers_and_a_sender_and_a_channel_between_threads",
    [](Side& side) {
      const std::uint64_t count = side.scaled(1'000);
      Receiver odd = side.bind("capacity=4KiB", "odd");
      Receiver even = side.bind("capacity=4KiB", "even");
      Sender answers = side.connect({}, "answers");
      // What is to be answered is thought over by a thread.
      auto [question, asked] = v2::channel<std::uint64_t, v2::spsc>(8);
      auto [thought, answer] = v2::channel<std::uint64_t, v2::spsc>(8);
      std::jthread thinker([asked = std::move(asked), thought = std::move(thought)]() mutable {
        while (const auto number = asked.recv()) EXPECT_EQ(thought.send(*number), SendStatus::sent);
      });
      std::uint64_t open = 2;
      std::uint64_t under_way = 0;
      std::vector<std::uint64_t> ready;
      std::uint64_t sent = 0;
      std::array<bool, 2> ended{};
      const auto take = [&, &ask = question](Message message, bool& end) {
        if (!message) {
          EXPECT_EQ(message.status(), RecvStatus::closed);
          end = true;
          --open;
          return;
        }
        ++under_way;
        EXPECT_EQ(ask.send(Numbered::from(message).number), SendStatus::sent);
      };
      while (open != 0 || under_way != 0 || !ready.empty()) {
        const Numbered next{2, ready.empty() ? 0 : ready.back()};
        auto from_odd = v2::on_recv(odd, [&](Message m) { take(std::move(m), ended[0]); });
        auto from_even = v2::on_recv(even, [&](Message m) { take(std::move(m), ended[1]); });
        auto from_thinker = v2::on_recv(answer, [&](auto number) {
          --under_way;
          ready.push_back(*number);
        });
        auto to_sender = v2::on_send(answers, next.bytes(), [&](SendStatus status) {
          EXPECT_EQ(status, SendStatus::sent);
          ready.pop_back();
          ++sent;
        });
        std::vector<v2::SelectCase*> all{&from_thinker};
        // So that the thinker never waits for this thread while this one waits for it.
        if (!ended[0] && under_way < 8) all.push_back(&from_odd);
        if (!ended[1] && under_way < 8) all.push_back(&from_even);
        if (!ready.empty()) all.push_back(&to_sender);
        EXPECT_TRUE(v2::select_until(TimePoint::max(), all));
      }
      EXPECT_EQ(sent, 2 * count);
      question.close();
    },
    [](Side& side) {
      const std::uint64_t count = side.scaled(1'000);
      Receiver answers = side.bind("capacity=4KiB", "answers");
      std::vector<std::jthread> threads;
      for (const std::uint64_t first : {0U, 1U})
        threads.emplace_back(
            [first, count, sender = side.connect({}, first == 0 ? "even" : "odd")]() mutable {
              std::mt19937 random(static_cast<std::uint32_t>(first));
              for (std::uint64_t i = 0; i < count; ++i) {
                EXPECT_EQ(sender.send(Numbered{first, 2 * i + first}.bytes()), SendStatus::sent);
                dither(random);
              }
              sender = Sender();
            });
      Tally tally(2 * count);
      EXPECT_EQ(drain(answers, [&](const Message& message) { tally.add(message); }),
                RecvStatus::closed);
      EXPECT_EQ(tally.count(1), 2 * count);
    }};

}  // namespace
}  // namespace penstock::test
