// Sleeping and waking: no wake-up is lost, and an idle channel costs nothing.
#include <ctime>
#include <random>
#include <thread>

#include "tests/conformance/suite.hpp"

namespace penstock::test {
namespace {

using std::chrono::milliseconds;

double cpu_seconds() {
  timespec now{};
  ::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

// Both roles: whoever sends waits for the answer, so a lost wake-up is never covered by a later
// message.
void ping_pong(Side& side, Receiver& receiver, Sender& sender, bool first, std::uint64_t rounds,
               bool with_delays) {
  std::mt19937 random(first ? 1 : 2);
  for (std::uint64_t i = 0; i < rounds; ++i) {
    if (i % 64 == 0) side.note("in round " + std::to_string(i));
    if (first) {
      ASSERT_EQ(sender.send(Numbered{1, i}.bytes()), SendStatus::sent);
    }
    const Message message = receiver.recv();
    ASSERT_TRUE(message) << describe(message);
    ASSERT_EQ(Numbered::from(message).number, i);
    if (with_delays) dither(random);
    if (!first) {
      ASSERT_EQ(sender.send(Numbered{2, i}.bytes()), SendStatus::sent);
    }
  }
}

template <bool kDelays>
void pinger(Side& side) {
  Receiver receiver = side.bind("spin=0&capacity=4KiB", "to receiver");
  Sender sender = side.connect("spin=0", "to sender");
  side.meet("start");
  ping_pong(side, receiver, sender, true, side.scaled(kDelays ? 3'000 : 1'000), kDelays);
  side.meet("end");
}

template <bool kDelays>
void ponger(Side& side) {
  Receiver receiver = side.bind("spin=0&capacity=4KiB", "to sender");
  Sender sender = side.connect("spin=0", "to receiver");
  side.meet("start");
  ping_pong(side, receiver, sender, false, side.scaled(kDelays ? 3'000 : 1'000), kDelays);
  side.meet("end");
}

const AddCase sleeping_ping_pong{"plays_ping_pong_with_both_sides_asleep", pinger<false>,
                                 ponger<false>};
const AddCase sleep_race{"loses_no_wake_up_to_a_receiver_that_falls_asleep", pinger<true>,
                         ponger<true>};

const AddCase credit_race{"loses_no_wake_up_to_a_sender_that_waits_for_room",
                          [](Side& side) {
                            Receiver receiver = side.bind("capacity=4KiB&spin=0");
                            std::mt19937 random(3);
                            std::uint64_t next = 0;
                            EXPECT_EQ(drain(receiver,
                                            [&](const Message& m) {
                                              EXPECT_TRUE(has_pattern(next, m.data()));
                                              if (next++ % 64 == 0)
                                                side.note("got message " + std::to_string(next));
                                              dither(random);
                                            }),
                                      RecvStatus::closed);
                            EXPECT_EQ(next, side.scaled(3'000));
                          },
                          [](Side& side) {
                            Sender sender = side.connect("spin=0");
                            std::mt19937 random(4);
                            const std::uint64_t count = side.scaled(3'000);
                            for (std::uint64_t i = 0; i < count; ++i) {
                              // Mostly large ones, so that the sender is the one who waits.
                              const std::size_t size =
                                  random() % 8 == 0 ? random() % 100 : 1000 + random() % 1000;
                              ASSERT_EQ(sender.send(pattern(i, size)), SendStatus::sent);
                              if (random() % 16 == 0) dither(random);
                              if (i % 64 == 0) side.note("sent message " + std::to_string(i));
                            }
                          }};

const AddCase flush_race{"loses_no_wake_up_to_a_sender_that_flushes",
                         [](Side& side) {
                           Receiver receiver = side.bind("spin=0");
                           std::mt19937 random(5);
                           EXPECT_EQ(drain(receiver, [&](const Message&) { dither(random); }),
                                     RecvStatus::closed);
                         },
                         [](Side& side) {
                           Sender sender = side.connect("spin=0");
                           std::mt19937 random(6);
                           const std::uint64_t count = side.scaled(1'000);
                           for (std::uint64_t i = 0; i < count; ++i) {
                             for (auto n = random() % 3; n > 0; --n) {
                               ASSERT_EQ(sender.send(Numbered{0, i}.bytes()), SendStatus::sent);
                             }
                             dither(random);
                             ASSERT_EQ(sender.flush(), FlushStatus::consumed);
                             if (i % 64 == 0) side.note("flushed " + std::to_string(i));
                           }
                         }};

const AddCase long_sleep{"wakes_after_a_long_sleep_and_costs_no_cpu_meanwhile",
                         [](Side& side) {
                           Receiver receiver = side.bind();
                           EXPECT_EQ(receiver.recv().text(), "one");
                           side.put("going to sleep");
                           const double before = cpu_seconds();
                           const auto start = std::chrono::steady_clock::now();
                           Message message = receiver.recv();
                           const std::chrono::duration<double> slept =
                               std::chrono::steady_clock::now() - start;
                           EXPECT_EQ(message.text(), "two");
                           // What spins burns one second a second.
                           EXPECT_LT(cpu_seconds() - before, slept.count() / 2);
                           EXPECT_GE(receiver.stats().parks, 1U);
                           message.release();
                           EXPECT_EQ(receiver.recv().status(), RecvStatus::closed);
                         },
                         [](Side& side) {
                           Sender sender = side.connect();
                           EXPECT_EQ(sender.send(bytes_of("one")), SendStatus::sent);
                           (void)side.get("going to sleep");
                           std::this_thread::sleep_for(milliseconds(1'500));
                           EXPECT_EQ(sender.send(bytes_of("two")), SendStatus::sent);
                         }};

const AddCase nobody_calls{
    "needs_no_calls_for_progress",
    [](Side& side) {
      Receiver receiver = side.bind("capacity=8KiB&spin=0");
      std::uint64_t next = 0;
      EXPECT_EQ(
          drain(receiver, [&](const Message& m) { EXPECT_TRUE(has_pattern(next++, m.data())); }),
          RecvStatus::closed);
      EXPECT_EQ(next, side.scaled(50, 5) * 5);
    },
    [](Side& side) {
      Sender sender = side.connect();
      std::mt19937 random(8);
      std::uint64_t next = 0;
      for (std::uint64_t round = 0; round < side.scaled(50, 5); ++round) {
        for (int i = 0; i < 5; ++i) {
          ASSERT_EQ(sender.send(pattern(next++, random() % 1500)), SendStatus::sent);
        }
        // No further call is made: what was sent arrives, and is consumed, on its own.
        wait_consumed(sender);
      }
    }};

}  // namespace
}  // namespace penstock::test
