// Order and identity: FIFO for each sender, each message once, to one receiver, with its source.
#include <algorithm>
#include <map>
#include <mutex>
#include <random>
#include <set>
#include <thread>

#include "tests/conformance/suite.hpp"

namespace penstock::test {
namespace {

// Follows the messages of several senders; each sender's numbers must come one after another.
class Follower {
 public:
  void take(const Message& message) {
    const Numbered got = Numbered::from(message);
    EXPECT_EQ(got.number, next_[got.sender]) << "of sender " << got.sender;
    next_[got.sender] = got.number + 1;
    sources_[got.sender].insert(message.source());
  }
  void expect(std::uint64_t senders, std::uint64_t each) const {
    EXPECT_EQ(next_.size(), senders);
    for (const auto& [sender, next] : next_) EXPECT_EQ(next, each) << "of sender " << sender;
  }
  [[nodiscard]] const std::map<std::uint64_t, std::set<SourceId>>& sources() const {
    return sources_;
  }

 private:
  std::map<std::uint64_t, std::uint64_t> next_;
  std::map<std::uint64_t, std::set<SourceId>> sources_;
};

void send_numbers(Sender sender, std::uint64_t id, std::uint64_t count) {
  for (std::uint64_t i = 0; i < count; ++i) {
    ASSERT_EQ(sender.send(Numbered{id, i}.bytes()), SendStatus::sent);
  }
}

const AddCase one_sender{"keeps_order_of_one_sender",
                         [](Side& side) {
                           Receiver receiver = side.bind("capacity=64KiB");
                           Follower follower;
                           EXPECT_EQ(drain(receiver, [&](const Message& m) { follower.take(m); }),
                                     RecvStatus::closed);
                           follower.expect(1, side.scaled(20'000));
                         },
                         [](Side& side) { send_numbers(side.connect(), 0, side.scaled(20'000)); }};

const AddCase many_connections{
    "keeps_order_of_each_of_many_connections",
    [](Side& side) {
      Receiver receiver = side.bind("capacity=8KiB");
      Follower follower;
      EXPECT_EQ(drain(receiver, [&](const Message& m) { follower.take(m); }), RecvStatus::closed);
      follower.expect(8, side.scaled(2'000));
      std::set<SourceId> all;
      for (const auto& [sender, sources] : follower.sources()) {
        EXPECT_EQ(sources.size(), 1U) << "sender " << sender << " is one source";
        all.insert(sources.begin(), sources.end());
      }
      EXPECT_EQ(all.size(), 8U) << "no two senders are the same source";
      EXPECT_FALSE(all.contains(0));
    },
    [](Side& side) {
      std::vector<Sender> senders;
      for (int i = 0; i < 8; ++i) senders.push_back(side.connect());
      std::vector<std::jthread> threads;
      for (std::uint64_t i = 0; i < 8; ++i) {
        threads.emplace_back(send_numbers, std::move(senders[i]), i, side.scaled(2'000));
      }
    }};

// More than a receiver of remote senders looks at all the time. One by one, each to a receiver that
// sleeps; then all at once; then the last is busy alone, and is looked at like the first.
constexpr std::uint64_t kMany = 20;

void take_from_many(Side& side, std::size_t clones) {
  Receiver receiver = side.bind("capacity=8KiB&spin=0");
  const std::uint64_t each = side.scaled(300, 40);
  const std::uint64_t busy = side.scaled(20'000, 4'000);
  std::mutex mutex;
  std::map<std::uint64_t, std::uint64_t> count;
  const auto work = [&](Receiver mine) {
    std::map<std::uint64_t, std::uint64_t> least;
    EXPECT_EQ(drain(mine,
                    [&](const Message& message) {
                      const Numbered got = Numbered::from(message);
                      EXPECT_GE(got.number, least[got.sender]) << "of sender " << got.sender;
                      least[got.sender] = got.number + 1;
                      const std::lock_guard lock(mutex);
                      ++count[got.sender];
                    }),
              RecvStatus::closed);
  };
  {
    std::vector<std::jthread> threads;
    for (std::size_t i = 1; i < clones; ++i) threads.emplace_back(work, receiver.clone());
    const auto& target = side.target();
    const bool gets_hot = target.ordered() && target.options.find("publish") == std::string::npos;
    // Closed only when all of them are; the busy one's mode is looked at before that.
    threads.emplace_back([&, mine = receiver.clone()] {
      (void)side.get("busy");
      if (gets_hot)
        wait_until([&] {
          return std::ranges::any_of(mine.stats().sources, [&](const SourceStats& source) {
            return source.progress.consumed > busy / 2 && source.work.mode == PublishMode::hot;
          });
        });
      side.put("seen");
    });
    work(std::move(receiver));
    threads.clear();
  }
  EXPECT_EQ(count.size(), kMany);
  for (const auto& [sender, got] : count)
    EXPECT_EQ(got, sender + 1 == kMany ? each + busy : each) << "of sender " << sender;
}

void send_from_many(Side& side) {
  const std::uint64_t each = side.scaled(300, 40);
  const std::uint64_t busy = side.scaled(20'000, 4'000);
  std::vector<Sender> senders;
  for (std::uint64_t i = 0; i < kMany; ++i) senders.push_back(side.connect());
  std::mt19937 random(7);
  std::uint64_t sent = 0;
  for (; sent < 4; ++sent)
    for (std::uint64_t i = 0; i < kMany; ++i) {
      ASSERT_EQ(senders[i].send(Numbered{i, sent}.bytes()), SendStatus::sent);
      ASSERT_EQ(senders[i].flush(), FlushStatus::consumed);
      dither(random);
    }
  {
    std::vector<std::jthread> threads;
    for (std::uint64_t i = 0; i < kMany; ++i)
      threads.emplace_back([&, i] {
        for (auto number = sent; number < each; ++number)
          ASSERT_EQ(senders[i].send(Numbered{i, number}.bytes()), SendStatus::sent);
        ASSERT_EQ(senders[i].flush(), FlushStatus::consumed);
      });
  }
  for (auto number = each; number < each + busy; ++number)
    ASSERT_EQ(senders[kMany - 1].send(Numbered{kMany - 1, number}.bytes()), SendStatus::sent);
  ASSERT_EQ(senders[kMany - 1].flush(), FlushStatus::consumed);
  side.put("busy");
  (void)side.get("seen");
}

const AddCase many_senders{"keeps_up_with_many_senders_few_of_them_busy",
                           [](Side& side) { take_from_many(side, 1); }, send_from_many};
const AddCase many_senders_clones{"keeps_up_with_many_senders_by_two_clones",
                                  [](Side& side) { take_from_many(side, 2); }, send_from_many};

const AddCase clones{"keeps_order_of_each_clone",
                     [](Side& side) {
                       Receiver receiver = side.bind("capacity=8KiB");
                       Follower follower;
                       std::set<SourceId> sources;
                       EXPECT_EQ(drain(receiver,
                                       [&](const Message& m) {
                                         follower.take(m);
                                         sources.insert(m.source());
                                       }),
                                 RecvStatus::closed);
                       follower.expect(4, side.scaled(5'000));
                       EXPECT_EQ(sources.size(), 1U) << "clones are one source";
                     },
                     [](Side& side) {
                       Sender first = side.connect();
                       std::vector<std::jthread> threads;
                       for (std::uint64_t i = 0; i < 4; ++i) {
                         threads.emplace_back(send_numbers, first.clone(), i, side.scaled(5'000));
                       }
                     }};

const AddCase receiver_clones{
    "gives_each_message_to_exactly_one_receiver_clone",
    [](Side& side) {
      const std::uint64_t each = side.scaled(5'000);
      std::mutex mutex;
      std::vector<std::vector<int>> seen(2, std::vector<int>(each, 0));
      Receiver first = side.bind("capacity=8KiB");
      const auto work = [&](Receiver receiver) {
        std::vector<std::uint64_t> least(2, 0);
        const RecvStatus end = drain(receiver, [&](const Message& message) {
          const Numbered got = Numbered::from(message);
          ASSERT_LT(got.sender, 2U);
          ASSERT_LT(got.number, each);
          EXPECT_GE(got.number, least[got.sender]) << "a clone sees each sender in order";
          least[got.sender] = got.number + 1;
          const std::lock_guard lock(mutex);
          ++seen[got.sender][got.number];
        });
        EXPECT_EQ(end, RecvStatus::closed) << "every clone is told";
      };
      {
        std::vector<std::jthread> threads;
        for (int i = 0; i < 3; ++i) threads.emplace_back(work, first.clone());
        work(std::move(first));
      }
      for (const auto& one : seen) EXPECT_EQ(one, std::vector<int>(each, 1));
    },
    [](Side& side) {
      Sender one = side.connect();
      Sender two = side.connect();
      const std::uint64_t each = side.scaled(5'000);
      const std::jthread thread(send_numbers, std::move(one), 0, each);
      send_numbers(std::move(two), 1, each);
    }};

const AddCase later_source{"never_uses_a_source_twice",
                           [](Side& side) {
                             Receiver receiver = side.bind("persistent=1&capacity=4KiB");
                             std::set<SourceId> sources;
                             for (std::uint64_t i = 0; i < 20; ++i) {
                               const Message message = receiver.recv();
                               ASSERT_TRUE(message);
                               EXPECT_EQ(Numbered::from(message).number, i);
                               EXPECT_TRUE(sources.insert(message.source()).second)
                                   << "source " << message.source();
                             }
                           },
                           [](Side& side) {
                             for (std::uint64_t i = 0; i < 20; ++i) {
                               Sender sender = side.connect();
                               ASSERT_EQ(sender.send(Numbered{0, i}.bytes()), SendStatus::sent);
                               EXPECT_EQ(sender.flush(), FlushStatus::consumed);
                             }
                           }};

}  // namespace
}  // namespace penstock::test
