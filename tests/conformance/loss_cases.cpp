// The other side dies, or stops and comes back.
#include <sys/types.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <thread>

#include "tests/conformance/suite.hpp"

namespace penstock::test {
namespace {

using std::chrono::milliseconds;

constexpr std::uint64_t kVictim = 1;
constexpr std::uint64_t kOther = 2;

// Sends numbers until the channel takes no more; returns why.
SendStatus stream(Sender& sender, std::uint64_t id, const std::atomic<bool>& stop) {
  for (std::uint64_t i = 0; !stop; ++i) {
    const SendStatus status = sender.send(Numbered{id, i}.bytes());
    if (status != SendStatus::sent) return status;
  }
  return SendStatus::sent;
}

const AddCase killed_sender{
    "reports_a_killed_sender_once_and_the_others_go_on",
    [](Side& side) {
      Receiver receiver = side.bind("capacity=16KiB");
      std::atomic<bool> stop = false;
      Sender other = penstock::connect(side.with(receiver.uris().at(0), {}), side.patient());
      std::jthread flow([&] {
        EXPECT_EQ(stream(other, kOther, stop), SendStatus::sent);
        other = Sender();
      });
      std::uint64_t victims = 0;
      std::uint64_t others = 0;
      std::uint64_t others_after = 0;
      SourceId victim = 0;
      int losses = 0;
      bool told = false;
      Message message;
      while (true) {
        message.release();
        message = receiver.recv();
        if (message.status() == RecvStatus::peer_lost) {
          ++losses;
          EXPECT_EQ(message.source(), victim);
          ASSERT_NE(message.loss(), nullptr);
          EXPECT_EQ(message.loss()->progress.consumed, victims) << "consumed is exact";
          EXPECT_GE(message.loss()->progress.delivered, victims);
          EXPECT_GE(message.loss()->progress.accepted, message.loss()->progress.delivered);
          EXPECT_FALSE(message.loss()->reason.empty());
          continue;
        }
        if (!message) break;
        const Numbered got = Numbered::from(message);
        if (got.sender == kVictim) {
          EXPECT_EQ(losses, 0) << "nothing comes after the loss";
          EXPECT_EQ(got.number, victims++) << "whole and in order to the end";
          victim = message.source();
          if (victims == 500) {
            told = true;
            side.tell_to_die();
          }
        } else {
          EXPECT_EQ(got.number, others++);
          if (losses > 0 && ++others_after == 500) stop = true;
        }
      }
      EXPECT_TRUE(told);
      EXPECT_EQ(message.status(), RecvStatus::closed);
      EXPECT_EQ(losses, 1);
      EXPECT_GE(others_after, 500U);
      EXPECT_TRUE(receiver.stats().sources.empty());
    },
    [](Side& side) {
      Sender sender = side.connect();
      const std::atomic<bool> never = false;
      const std::jthread flow([&] { (void)stream(sender, kVictim, never); });
      side.die_when_told();
    },
    Case::apart, Case::Victim::sender};

const AddCase killed_idle_sender{
    "notices_a_killed_sender_that_was_idle",
    [](Side& side) {
      Receiver receiver = side.bind("persistent=1");
      EXPECT_EQ(receiver.recv().text(), "x");
      side.tell_to_die();
      const Message message = receiver.recv();
      EXPECT_EQ(message.status(), RecvStatus::peer_lost);
      ASSERT_NE(message.loss(), nullptr);
      EXPECT_EQ(message.loss()->progress.consumed, 1U);
      EXPECT_EQ(receiver.recv_for(milliseconds(20)).status(), RecvStatus::timed_out) << "once";
      EXPECT_TRUE(receiver.stats().sources.empty());
    },
    [](Side& side) {
      Sender sender = side.connect();
      EXPECT_EQ(sender.send(bytes_of("x")), SendStatus::sent);
      side.die_when_told();
    },
    Case::apart, Case::Victim::sender};

const AddCase killed_with_messages{
    "hands_out_what_a_killed_sender_had_delivered",
    [](Side& side) {
      Receiver receiver = side.bind("persistent=1");
      (void)side.get("delivered");
      side.tell_to_die();
      wait_until([&] {
        const ReceiverStats stats = receiver.stats();
        return !stats.sources.empty() && stats.sources[0].state == PeerState::lost;
      });
      for (std::uint64_t i = 0; i < 100; ++i) {
        const Message message = receiver.recv();
        ASSERT_TRUE(message) << describe(message);
        EXPECT_EQ(Numbered::from(message).number, i);
      }
      EXPECT_EQ(receiver.recv().status(), RecvStatus::peer_lost);
    },
    [](Side& side) {
      Sender sender = side.connect();
      // A record that is never committed is no message.
      for (std::uint64_t i = 0; i < 100; ++i) {
        ASSERT_EQ(sender.send(Numbered{kVictim, i}.bytes()), SendStatus::sent);
      }
      wait_delivered(sender);
      const Reservation never_committed = sender.reserve(100);
      side.put("delivered");
      side.die_when_told();
    },
    Case::apart, Case::Victim::sender};

const AddCase killed_receiver{
    "tells_a_sender_that_its_receiver_was_killed",
    [](Side& side) {
      Receiver receiver = side.bind("capacity=16KiB");
      const std::jthread flow([&] { (void)drain(receiver, [](const Message&) {}); });
      side.die_when_told();
    },
    [](Side& side) {
      Sender sender = side.connect();
      for (std::uint64_t i = 0; i < 1'000; ++i) {
        ASSERT_EQ(sender.send(Numbered{0, i}.bytes()), SendStatus::sent);
      }
      side.tell_to_die();
      const std::atomic<bool> never = false;
      EXPECT_EQ(stream(sender, 0, never), SendStatus::peer_lost);
      EXPECT_EQ(sender.try_send(bytes_of("x")), SendStatus::peer_lost);
      // The last thing that it did may have been to consume everything.
      const SenderStats stats = sender.stats();
      const auto all_consumed = stats.progress.consumed == stats.progress.accepted;
      const auto expected = all_consumed ? FlushStatus::consumed : FlushStatus::peer_lost;
      EXPECT_EQ(sender.flush(), expected);
      EXPECT_EQ(sender.close(), expected);
      EXPECT_EQ(stats.state, PeerState::lost);
      EXPECT_FALSE(stats.error.empty());
      EXPECT_GE(stats.progress.accepted, 1'000U);
      EXPECT_GE(stats.progress.accepted, stats.progress.delivered);
      EXPECT_GE(stats.progress.delivered, stats.progress.consumed);
    },
    Case::apart, Case::Victim::receiver};

const AddCase killed_while_blocked{
    "wakes_a_blocked_sender_whose_receiver_was_killed",
    [](Side& side) {
      Receiver receiver = side.bind("capacity=4KiB");
      side.die_when_told();
    },
    [](Side& side) {
      Sender sender = side.connect("spin=0");
      const auto message = pattern(1, 1500);
      fill_up(sender, message);
      const std::uint64_t parks = sender.stats().parks;
      const std::jthread blocked([&, clone = sender.clone()]() mutable {
        EXPECT_EQ(clone.send(message), SendStatus::peer_lost);
      });
      const std::jthread flushing([&, clone = sender.clone()]() mutable {
        EXPECT_EQ(clone.flush(), FlushStatus::peer_lost);
      });
      wait_until([&] { return sender.stats().parks > parks; });
      side.tell_to_die();
    },
    Case::apart, Case::Victim::receiver};

PeerState state_of_first(const Receiver& receiver) {
  const ReceiverStats stats = receiver.stats();
  return stats.sources.empty() ? PeerState::lost : stats.sources[0].state;
}

// Between hosts nobody could wake the stopped side.
const AddCase stopped_sender{
    "shows_a_stopped_sender_as_stalled_and_forgives_it",
    [](Side& side) {
      Receiver receiver = side.bind("liveness=12s");
      EXPECT_EQ(receiver.recv().text(), "before");
      const pid_t peer = static_cast<pid_t>(std::stol(side.get("pid")));
      EXPECT_EQ(state_of_first(receiver), PeerState::connected);
      ASSERT_EQ(::kill(peer, SIGSTOP), 0);
      wait_until([&] { return state_of_first(receiver) != PeerState::connected; });
      EXPECT_EQ(state_of_first(receiver), PeerState::stalled);
      ASSERT_EQ(::kill(peer, SIGCONT), 0);
      wait_until([&] { return state_of_first(receiver) == PeerState::connected; });
      side.put("go on");
      EXPECT_EQ(receiver.recv().text(), "after");
      EXPECT_EQ(receiver.recv().status(), RecvStatus::closed);
    },
    [](Side& side) {
      Sender sender = side.connect("liveness=100s");
      EXPECT_EQ(sender.send(bytes_of("before")), SendStatus::sent);
      side.put("pid", std::to_string(::getpid()));
      (void)side.get("go on");
      EXPECT_EQ(sender.send(bytes_of("after")), SendStatus::sent);
    },
    Case::processes, Case::Victim::sender};

const AddCase stopped_for_ever{
    "counts_a_stopped_sender_as_lost_only_after_stalled",
    [](Side& side) {
      Receiver receiver = side.bind("liveness=4s&persistent=1");
      EXPECT_EQ(receiver.recv().text(), "before");
      const pid_t peer = static_cast<pid_t>(std::stol(side.get("pid")));
      ASSERT_EQ(::kill(peer, SIGSTOP), 0);
      wait_until([&] { return state_of_first(receiver) != PeerState::connected; });
      EXPECT_EQ(state_of_first(receiver), PeerState::stalled);
      EXPECT_EQ(drain(receiver, [](const Message&) {}), RecvStatus::peer_lost);
      ASSERT_EQ(::kill(peer, SIGCONT), 0);
    },
    [](Side& side) {
      Sender sender = side.connect("liveness=100s");
      EXPECT_EQ(sender.send(bytes_of("before")), SendStatus::sent);
      side.put("pid", std::to_string(::getpid()));
      // It was given up meanwhile, and is told so.
      const std::atomic<bool> never = false;
      const SendStatus end = stream(sender, 0, never);
      EXPECT_TRUE(end == SendStatus::peer_lost || end == SendStatus::closed) << to_string(end);
    },
    Case::processes, Case::Victim::sender};

const AddCase stopped_receiver{
    "shows_a_stopped_receiver_as_stalled_and_forgives_it",
    [](Side& side) {
      Receiver receiver = side.bind("capacity=4KiB&liveness=100s");
      side.put("pid", std::to_string(::getpid()));
      std::uint64_t next = 0;
      EXPECT_EQ(
          drain(receiver, [&](const Message& m) { EXPECT_TRUE(has_pattern(next++, m.data())); }),
          RecvStatus::closed);
      EXPECT_EQ(next, std::stoull(side.get("total")));
    },
    [](Side& side) {
      Sender sender = side.connect("liveness=12s");
      const pid_t peer = static_cast<pid_t>(std::stol(side.get("pid")));
      std::uint64_t next = 0;
      for (; next < 100; ++next) EXPECT_EQ(sender.send(pattern(next, 500)), SendStatus::sent);
      ASSERT_EQ(::kill(peer, SIGSTOP), 0);
      // Some more go into the ring; the one that blocks comes through later.
      std::jthread more([&, clone = sender.clone()]() mutable {
        for (int i = 0; i < 50; ++i, ++next) {
          EXPECT_EQ(clone.send(pattern(next, 500)), SendStatus::sent);
        }
      });
      wait_until([&] { return sender.state() != PeerState::connected; });
      EXPECT_EQ(sender.state(), PeerState::stalled);
      ASSERT_EQ(::kill(peer, SIGCONT), 0);
      wait_until([&] { return sender.state() == PeerState::connected; });
      more.join();
      side.put("total", std::to_string(next));
    },
    Case::processes, Case::Victim::receiver};

}  // namespace
}  // namespace penstock::test
