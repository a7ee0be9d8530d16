// Endings: close, drain, linger, clones, moved-from handles, fork.
#include <optional>
#include <thread>

#include "tests/child.hpp"
#include "tests/conformance/suite.hpp"

namespace penstock::test {
namespace {

using std::chrono::milliseconds;

const AddCase drains{"drains_then_says_closed_after_the_last_sender",
                     [](Side& side) {
                       Receiver receiver = side.bind();
                       (void)side.get("closed");
                       for (std::uint64_t i = 0; i < 100; ++i) {
                         const Message message = receiver.recv();
                         ASSERT_TRUE(message);
                         EXPECT_EQ(Numbered::from(message).number, i);
                       }
                       EXPECT_EQ(receiver.recv().status(), RecvStatus::closed);
                     },
                     [](Side& side) {
                       {
                         Sender sender = side.connect();
                         for (std::uint64_t i = 0; i < 100; ++i) {
                           ASSERT_EQ(sender.send(Numbered{0, i}.bytes()), SendStatus::sent);
                         }
                       }
                       side.put("closed");
                     }};

const AddCase clone_keeps{"stays_open_while_a_clone_is_left",
                          [](Side& side) {
                            Receiver receiver = side.bind();
                            EXPECT_EQ(receiver.recv().text(), "one");
                            (void)side.get("first gone");
                            EXPECT_EQ(receiver.recv_for(milliseconds(20)).status(),
                                      RecvStatus::timed_out);
                            side.put("looked");
                            EXPECT_EQ(receiver.recv().text(), "two");
                            EXPECT_EQ(receiver.recv().status(), RecvStatus::closed);
                          },
                          [](Side& side) {
                            std::optional<Sender> first = side.connect();
                            Sender clone = first->clone();
                            EXPECT_EQ(first->send(bytes_of("one")), SendStatus::sent);
                            first.reset();
                            side.put("first gone");
                            (void)side.get("looked");
                            EXPECT_EQ(clone.send(bytes_of("two")), SendStatus::sent);
                          }};

const AddCase other_sender_keeps{"stays_open_while_another_sender_is_left",
                                 [](Side& side) {
                                   Receiver receiver = side.bind();
                                   EXPECT_EQ(receiver.recv().text(), "one");
                                   (void)side.get("first gone");
                                   EXPECT_EQ(receiver.recv_for(milliseconds(20)).status(),
                                             RecvStatus::timed_out);
                                   side.put("looked");
                                   EXPECT_EQ(receiver.recv().text(), "two");
                                   EXPECT_EQ(receiver.recv().status(), RecvStatus::closed);
                                 },
                                 [](Side& side) {
                                   std::optional<Sender> first = side.connect();
                                   Sender second = side.connect();
                                   EXPECT_EQ(first->send(bytes_of("one")), SendStatus::sent);
                                   EXPECT_EQ(first->flush(), FlushStatus::consumed);
                                   first.reset();
                                   side.put("first gone");
                                   (void)side.get("looked");
                                   EXPECT_EQ(second.send(bytes_of("two")), SendStatus::sent);
                                 }};

const AddCase turned_away{
    "turns_senders_away_when_the_receiver_closes",
    [](Side& side) {
      Receiver receiver = side.bind();
      EXPECT_EQ(receiver.recv().text(), "x");
      (void)side.get("sent two more");
      receiver.close();
      EXPECT_EQ(receiver.recv().status(), RecvStatus::closed);
      side.put("closed");
      (void)side.get("saw it");
    },
    [](Side& side) {
      Sender sender = side.connect();
      EXPECT_EQ(sender.send(bytes_of("x")), SendStatus::sent);
      EXPECT_EQ(sender.flush(), FlushStatus::consumed);
      EXPECT_EQ(sender.send(bytes_of("y")), SendStatus::sent);
      EXPECT_EQ(sender.send(bytes_of("z")), SendStatus::sent);
      side.put("sent two more");
      (void)side.get("closed");
      wait_until([&] { return sender.state() == PeerState::closed; });
      EXPECT_EQ(sender.send(bytes_of("late")), SendStatus::closed);
      EXPECT_EQ(sender.try_send(bytes_of("late")), SendStatus::closed);
      EXPECT_EQ(sender.send_for(bytes_of("late"), milliseconds(1)), SendStatus::closed);
      EXPECT_EQ(sender.reserve(4).status(), SendStatus::closed);
      EXPECT_EQ(sender.flush(), FlushStatus::closed);
      const SenderStats stats = sender.stats();
      EXPECT_EQ(stats.progress.accepted, 3U);
      EXPECT_EQ(stats.progress.consumed, 1U) << "what was not received is known";
      side.put("saw it");
    }};

const AddCase blocked_closed{"wakes_a_blocked_sender_when_the_receiver_closes",
                             [](Side& side) {
                               Receiver receiver = side.bind("capacity=4KiB");
                               (void)side.get("blocked");
                               // Goes out of scope: the last receiver closes.
                             },
                             [](Side& side) {
                               Sender sender = side.connect("spin=0");
                               const auto message = pattern(1, 1500);
                               fill_up(sender, message);
                               const std::uint64_t parks = sender.stats().parks;
                               const std::jthread blocked([&, clone = sender.clone()]() mutable {
                                 EXPECT_EQ(clone.send(message), SendStatus::closed);
                               });
                               const std::jthread flushing([&, clone = sender.clone()]() mutable {
                                 EXPECT_EQ(clone.flush(), FlushStatus::closed);
                               });
                               wait_until([&] { return sender.stats().parks > parks; });
                               side.put("blocked");
                             }};

const AddCase consumed_before_close{
    "knows_what_was_consumed_when_the_receiver_closes",
    [](Side& side) {
      Receiver receiver = side.bind();
      for (int i = 0; i < 7; ++i) EXPECT_TRUE(receiver.recv());
      receiver.close();
      (void)side.get("saw it");
    },
    [](Side& side) {
      Sender sender = side.connect();
      for (int i = 0; i < 7; ++i) EXPECT_EQ(sender.send(bytes_of("x")), SendStatus::sent);
      // All was consumed before the good-bye, whoever of the two gets here first.
      EXPECT_EQ(sender.flush(), FlushStatus::consumed);
      wait_until([&] { return sender.state() == PeerState::closed; });
      EXPECT_EQ(sender.stats().progress.consumed, 7U);
      EXPECT_EQ(sender.flush(), FlushStatus::consumed);
      side.put("saw it");
    }};

const AddCase leaves_at_once{
    "loses_nothing_when_a_sender_leaves_at_once",
    [](Side& side) {
      Receiver receiver = side.bind("persistent=1&capacity=64KiB");
      const std::uint64_t rounds = side.scaled(100, 5);
      std::vector<std::uint64_t> next(rounds, 0);
      for (std::uint64_t i = 0; i < rounds * 20; ++i) {
        const Message message = receiver.recv();
        ASSERT_TRUE(message) << describe(message);
        const Numbered got = Numbered::from(message);
        ASSERT_LT(got.sender, rounds);
        EXPECT_EQ(got.number, next[got.sender]++);
      }
    },
    [](Side& side) {
      const std::uint64_t rounds = side.scaled(100, 5);
      for (std::uint64_t round = 0; round < rounds; ++round) {
        Sender sender = side.connect();
        for (std::uint64_t i = 0; i < 20; ++i) {
          ASSERT_EQ(sender.send(Numbered{round, i}.bytes()), SendStatus::sent);
        }
      }
    }};

const AddCase lingers_full{"lingers_while_the_ring_is_full",
                           [](Side& side) {
                             Receiver receiver = side.bind("capacity=4KiB");
                             const std::uint64_t taken = std::stoull(side.get("taken"));
                             // The sender is now in its destructor, or soon will be.
                             std::this_thread::sleep_for(milliseconds(20));
                             std::uint64_t count = 0;
                             EXPECT_EQ(drain(receiver, [&](const Message&) { ++count; }),
                                       RecvStatus::closed);
                             EXPECT_EQ(count, taken);
                           },
                           [](Side& side) {
                             Sender sender = side.connect();
                             side.put("taken", std::to_string(fill_up(sender, pattern(1, 112))));
                           }};

const AddCase close_deadline{"close_says_whether_everything_was_consumed",
                             [](Side& side) {
                               Receiver receiver = side.bind();
                               (void)side.get("timed out");
                               EXPECT_EQ(receiver.recv().text(), "x");
                               EXPECT_EQ(receiver.recv().status(), RecvStatus::closed);
                             },
                             [](Side& side) {
                               Sender sender = side.connect();
                               EXPECT_EQ(sender.send(bytes_of("x")), SendStatus::sent);
                               EXPECT_EQ(sender.close(milliseconds(20)), FlushStatus::timed_out);
                               EXPECT_EQ(sender.send(bytes_of("y")), SendStatus::closed);
                               side.put("timed out");
                               EXPECT_EQ(sender.close(), FlushStatus::consumed);
                               EXPECT_EQ(sender.close(), FlushStatus::consumed) << "again";
                             }};

const AddCase closes_clones{"close_ends_all_clones",
                            [](Side& side) {
                              Receiver receiver = side.bind();
                              EXPECT_EQ(receiver.recv().text(), "x");
                              EXPECT_EQ(receiver.recv().status(), RecvStatus::closed);
                              side.put("closed");
                            },
                            [](Side& side) {
                              Sender sender = side.connect();
                              Sender clone = sender.clone();
                              EXPECT_EQ(sender.send(bytes_of("x")), SendStatus::sent);
                              EXPECT_EQ(sender.close(), FlushStatus::consumed);
                              EXPECT_EQ(clone.send(bytes_of("y")), SendStatus::closed);
                              EXPECT_EQ(clone.try_send(bytes_of("y")), SendStatus::closed);
                              EXPECT_EQ(clone.reserve(1).status(), SendStatus::closed);
                              (void)side.get("closed");  // though both are still there
                              EXPECT_EQ(clone.close(), FlushStatus::consumed);
                            }};

const AddCase persistent{"a_persistent_receiver_waits_for_the_next_sender",
                         [](Side& side) {
                           Receiver receiver = side.bind("persistent=1");
                           EXPECT_EQ(receiver.recv().text(), "one");
                           (void)side.get("first gone");
                           EXPECT_EQ(receiver.recv_for(milliseconds(20)).status(),
                                     RecvStatus::timed_out);
                           side.put("looked");
                           EXPECT_EQ(receiver.recv().text(), "two");
                         },
                         [](Side& side) {
                           {
                             Sender sender = side.connect();
                             EXPECT_EQ(sender.send(bytes_of("one")), SendStatus::sent);
                           }
                           side.put("first gone");
                           (void)side.get("looked");
                           Sender sender = side.connect();
                           EXPECT_EQ(sender.send(bytes_of("two")), SendStatus::sent);
                           EXPECT_EQ(sender.flush(), FlushStatus::consumed);
                         }};

const AddCase goes_on_after_closed{"takes_another_sender_after_it_said_closed",
                                   [](Side& side) {
                                     Receiver receiver = side.bind();
                                     EXPECT_EQ(receiver.recv().text(), "one");
                                     EXPECT_EQ(receiver.recv().status(), RecvStatus::closed);
                                     side.put("closed");
                                     (void)side.get("connected");
                                     EXPECT_EQ(receiver.recv().text(), "two");
                                     EXPECT_EQ(receiver.recv().status(), RecvStatus::closed);
                                   },
                                   [](Side& side) {
                                     {
                                       Sender sender = side.connect();
                                       EXPECT_EQ(sender.send(bytes_of("one")), SendStatus::sent);
                                     }
                                     (void)side.get("closed");
                                     Sender sender = side.connect();
                                     EXPECT_EQ(sender.send(bytes_of("two")), SendStatus::sent);
                                     wait_delivered(sender);
                                     side.put("connected");
                                   }};

const AddCase moved_from{
    "moved_from_handles_are_empty_and_harmless",
    [](Side& side) {
      Receiver first = side.bind();
      Receiver receiver = std::move(first);
      EXPECT_FALSE(first);  // NOLINT(bugprone-use-after-move): that is the point
      EXPECT_TRUE(receiver);
      EXPECT_EQ(first.try_recv().status(), RecvStatus::closed);
      EXPECT_EQ(first.recv_into({}).status, RecvStatus::closed);
      EXPECT_TRUE(first.uris().empty());
      EXPECT_EQ(first.stats().messages, 0U);
      first.close();
      Message message = receiver.recv();
      const Message kept = std::move(message);
      EXPECT_EQ(kept.text(), "x");
      message.release();  // NOLINT(bugprone-use-after-move)
      EXPECT_EQ(kept.text(), "x");
      EXPECT_EQ(receiver.recv().status(), RecvStatus::closed);
    },
    [](Side& side) {
      Sender first = side.connect();
      Sender sender = std::move(first);
      EXPECT_FALSE(first);  // NOLINT(bugprone-use-after-move)
      EXPECT_TRUE(sender);
      EXPECT_EQ(first.send(bytes_of("lost")), SendStatus::closed);
      EXPECT_EQ(first.reserve(3).status(), SendStatus::closed);
      EXPECT_EQ(first.flush(), FlushStatus::closed);
      EXPECT_EQ(first.state(), PeerState::closed);
      EXPECT_EQ(first.max_message(), 0U);
      EXPECT_EQ(sender.send(bytes_of("x")), SendStatus::sent);
    }};

const AddCase forked{
    "a_forked_child_is_told_so_and_its_parent_goes_on",
    [](Side& side) {
      Receiver receiver = side.bind();
      EXPECT_EQ(receiver.recv().text(), "before");
      EXPECT_EQ(run_in_child([&] {
                  bool clone_refused = false;
                  try {
                    (void)receiver.clone();
                  } catch (const SetupError& error) {
                    clone_refused = error.errc() == Errc::forked;
                  }
                  const bool refused = receiver.recv().status() == RecvStatus::forked &&
                                       receiver.try_recv().status() == RecvStatus::forked;
                  receiver = Receiver();  // the child's copy goes: nothing happens to the parent's
                  return clone_refused && refused;
                }),
                0);
      side.put("received");
      EXPECT_EQ(receiver.recv().text(), "after");
      EXPECT_EQ(receiver.recv().status(), RecvStatus::closed);
    },
    [](Side& side) {
      Sender sender = side.connect();
      EXPECT_EQ(sender.send(bytes_of("before")), SendStatus::sent);
      (void)side.get("received");
      EXPECT_EQ(run_in_child([&] {
                  bool clone_refused = false;
                  try {
                    (void)sender.clone();
                  } catch (const SetupError& error) {
                    clone_refused = error.errc() == Errc::forked;
                  }
                  const bool refused = sender.send(bytes_of("child")) == SendStatus::forked &&
                                       sender.flush() == FlushStatus::forked &&
                                       sender.reserve(3).status() == SendStatus::forked;
                  sender = Sender();
                  return clone_refused && refused;
                }),
                0);
      EXPECT_EQ(sender.send(bytes_of("after")), SendStatus::sent);
      EXPECT_EQ(sender.flush(), FlushStatus::consumed);
    }};

}  // namespace
}  // namespace penstock::test
