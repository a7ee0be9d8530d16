// Several links as one, over rails that are simulated in one thread: what lands when is the test's
// choice, and what a dead rail had on its way may land as long as the other end has not destroyed
// its own.
#include "penstock/transport/railed_link.hpp"

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/eventfd.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "penstock/transport/error.hpp"
#include "penstock/transport/record.hpp"

namespace penstock::test {
namespace {

constexpr std::uint32_t kReceives = 12;

class SimLink;

/// What is between the ends.
struct Sim {
  struct Item {
    enum class Kind : std::uint8_t { write, immediate, completion };
    Kind kind;
    std::uint64_t value = 0;
    RemoteWrite write{};
    std::vector<std::byte> bytes{};  // once the source may change
  };
  /// What a link that is gone had sent.
  struct Ghost {
    std::uint64_t to;
    std::deque<Item> items;
  };
  std::map<std::uint64_t, SimLink*> links;
  std::vector<Ghost> ghosts;
  std::uint64_t next_id = 1;

  /// Moves one thing of one link, or of a ghost, on. False: there was nothing.
  template <class Random>
  bool step(Random& random);
  void run();
};

class SimLink final : public Link {
 public:
  SimLink(Sim& sim, std::vector<LinkRegion> regions, std::string name, bool ordered)
      : sim_(sim),
        id_(sim.next_id++),
        regions_(std::move(regions)),
        name_(std::move(name)),
        ordered_(ordered),
        events_fd_(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) {
    sim_.links.emplace(id_, this);
  }
  SimLink(const SimLink&) = delete;
  SimLink& operator=(const SimLink&) = delete;
  SimLink(SimLink&&) = delete;
  SimLink& operator=(SimLink&&) = delete;
  ~SimLink() override {
    sim_.links.erase(id_);
    haunt();
  }

  [[nodiscard]] std::vector<std::byte> describe() const override {
    std::vector<std::byte> blob(sizeof id_);
    std::memcpy(blob.data(), &id_, sizeof id_);
    return blob;
  }
  void connect(std::span<const std::byte> peer) override {
    std::memcpy(&peer_, peer.data(), sizeof peer_);
  }
  [[nodiscard]] LinkLimits limits() const noexcept override {
    return {.max_writes = 4,
            .max_write = 1U << 20U,
            .packet = 1024,
            .receives = kReceives,
            .ordered_writes = ordered_};
  }
  [[nodiscard]] PostStatus post(std::span<const RemoteWrite> writes,
                                std::optional<std::uint32_t> immediate,
                                std::uint64_t cookie) noexcept override {
    if (failed) return PostStatus::failed;
    if (queue.size() >= 24) return PostStatus::no_room;
    ++counters_.posts;
    counters_.work_requests += writes.size();
    for (const auto& write : writes) {
      auto& item = queue.emplace_back(Sim::Item{.kind = Sim::Item::Kind::write, .write = write});
      if (write.copied) item.bytes.assign(write.source, write.source + write.length);
    }
    if (immediate) {
      ++counters_.immediates;
      queue.push_back({.kind = Sim::Item::Kind::immediate, .value = *immediate});
    }
    queue.push_back({.kind = Sim::Item::Kind::completion, .value = cookie});
    return PostStatus::posted;
  }
  [[nodiscard]] std::size_t poll(std::span<LinkEvent> into) noexcept override {
    std::size_t count = 0;
    // As of a device that has failed: what had come and was not taken is gone.
    if (failed) events.clear();
    for (; count < into.size() && !events.empty(); events.pop_front()) {
      into[count++] = events.front();
      if (events.front().kind == LinkEvent::Kind::immediate) --untaken;
    }
    if (failed && !reported && count < into.size()) {
      reported = true;
      into[count++] = {LinkEvent::Kind::failed, 0};
    }
    return count;
  }
  void arm(bool completions, bool immediates) noexcept override {
    armed_completions_ = completions;
    armed_immediates_ = immediates;
  }
  void disarm() noexcept override {
    eventfd_t value = 0;
    (void)::eventfd_read(events_fd_.get(), &value);
    armed_completions_ = armed_immediates_ = false;
  }
  [[nodiscard]] int event_fd() const noexcept override { return events_fd_.get(); }
  [[nodiscard]] std::string error() const override { return why; }
  [[nodiscard]] LinkCounters counters() const noexcept override { return counters_; }
  [[nodiscard]] std::string path() const override { return name_; }

  void fail(const std::string& reason) {
    if (std::exchange(failed, true)) return;
    why = reason;
    haunt();
    (void)::eventfd_write(events_fd_.get(), 1);
  }
  void come(LinkEvent event) {
    const bool immediate = event.kind == LinkEvent::Kind::immediate;
    if (immediate) {
      ASSERT_LE(++untaken, kReceives) << "more immediates than the limits allow";
    }
    events.push_back(event);
    if (immediate ? armed_immediates_ : armed_completions_)
      (void)::eventfd_write(events_fd_.get(), 1);
  }
  void arrive(const Sim::Item& item) {
    if (item.kind == Sim::Item::Kind::immediate)
      return come({LinkEvent::Kind::immediate, item.value});
    const auto* from = item.bytes.empty() ? item.write.source : item.bytes.data();
    std::memcpy(regions_[item.write.region].base + item.write.offset, from, item.write.length);
  }
  /// The first thing on its way arrives.
  bool step() {
    if (queue.empty() || failed) return false;
    const auto peer = sim_.links.find(peer_);
    if (peer == sim_.links.end() || peer->second->failed) {
      fail(name_ + ": nobody answers");
      return true;
    }
    const auto item = queue.front();
    queue.pop_front();
    if (item.kind == Sim::Item::Kind::completion) {
      come({LinkEvent::Kind::completed, item.value});
    } else {
      peer->second->arrive(item);
    }
    return true;
  }

  std::deque<Sim::Item> queue;
  std::deque<LinkEvent> events;
  std::uint32_t untaken = 0;
  bool failed = false;
  bool reported = false;
  std::string why;

 private:
  void haunt() {
    Sim::Ghost ghost{peer_, {}};
    for (auto& item : queue) {
      if (item.kind == Sim::Item::Kind::completion) continue;
      if (item.kind == Sim::Item::Kind::write && item.bytes.empty())
        item.bytes.assign(item.write.source, item.write.source + item.write.length);
      ghost.items.push_back(std::move(item));
    }
    queue.clear();
    if (!ghost.items.empty()) sim_.ghosts.push_back(std::move(ghost));
  }

  Sim& sim_;
  const std::uint64_t id_;
  std::uint64_t peer_ = 0;
  std::vector<LinkRegion> regions_;
  std::string name_;
  bool ordered_;
  Fd events_fd_;
  bool armed_completions_ = false;
  bool armed_immediates_ = false;
  LinkCounters counters_;
};

template <class Random>
bool Sim::step(Random& random) {
  const auto all = links.size() + ghosts.size();
  for (std::size_t i = 0, at = random(); i < all; ++i, ++at) {
    if (at % all < links.size()) {
      if (std::next(links.begin(), static_cast<std::ptrdiff_t>(at % all))->second->step())
        return true;
      continue;
    }
    auto& ghost = ghosts[at % all - links.size()];
    if (ghost.items.empty()) continue;
    const auto to = links.find(ghost.to);
    if (to == links.end() || to->second->failed) {
      ghost.items.clear();
      continue;
    }
    to->second->arrive(ghost.items.front());
    ghost.items.pop_front();
    return true;
  }
  std::erase_if(ghosts, [](const Ghost& ghost) { return ghost.items.empty(); });
  return false;
}

void Sim::run() {
  const auto first = [] { return std::size_t{0}; };
  while (step(first)) {
  }
}

/// A tail or credit word, with its check.
struct Line {
  std::uint64_t value = 0;
  std::uint64_t check = ~0ULL;
};

constexpr std::size_t kSlots = 8;
constexpr std::size_t kSlot = 320UL * 1024;

/// A sender and a receiver with a few rails between them. The sender's memory is the source of what
/// it writes to the same places of the receiver's.
class Track {
 public:
  explicit Track(std::size_t rails, bool ordered = true)
      : mirror(kSlots * kSlot), ring(kSlots * kSlot) {
    std::vector<std::unique_ptr<Link>> senders;
    std::vector<std::unique_ptr<Link>> receivers;
    for (std::size_t i = 0; i < rails; ++i) {
      const auto name = "rail" + std::to_string(i);
      auto here = std::make_unique<SimLink>(
          sim,
          std::vector<LinkRegion>{{reinterpret_cast<std::byte*>(&credit), sizeof credit, true}},
          name, ordered);
      auto there = std::make_unique<SimLink>(
          sim,
          std::vector<LinkRegion>{{ring.data(), ring.size(), true},
                                  {reinterpret_cast<std::byte*>(&tail), sizeof tail, true}},
          name, ordered);
      here->connect(there->describe());
      there->connect(here->describe());
      at_sender.push_back(here.get());
      at_receiver.push_back(there.get());
      senders.push_back(std::move(here));
      receivers.push_back(std::move(there));
    }
    sender = std::make_unique<RailedLink>(std::move(senders));
    receiver = std::make_unique<RailedLink>(std::move(receivers));
  }

  /// Data of post `number` into its slot, and the tail.
  PostStatus publish(std::uint64_t number, std::uint32_t length,
                     std::optional<std::uint32_t> immediate = std::nullopt) {
    const auto at = number % kSlots * kSlot;
    std::memset(mirror.data() + at, static_cast<int>(number % 251 + 1), length);
    const Line line{number, ~number};
    const std::array writes{RemoteWrite{.source = mirror.data() + at,
                                        .length = length,
                                        .region = 0,
                                        .offset = at,
                                        .copied = false},
                            RemoteWrite{.source = reinterpret_cast<const std::byte*>(&line),
                                        .length = sizeof line,
                                        .region = 1,
                                        .offset = 0,
                                        .copied = true}};
    return sender->post(writes, immediate, number);
  }
  [[nodiscard]] bool whole(std::uint64_t number, std::uint32_t length) const {
    const auto* from = ring.data() + number % kSlots * kSlot;
    const auto value = static_cast<std::byte>(number % 251 + 1);
    return std::all_of(from, from + length, [&](std::byte b) { return b == value; });
  }

  static std::vector<LinkEvent> events(Link& link) {
    std::vector<LinkEvent> all;
    std::array<LinkEvent, 3> some;
    for (std::size_t count = some.size(); count == some.size();) {
      count = link.poll(some);
      all.insert(all.end(), some.begin(), some.begin() + static_cast<std::ptrdiff_t>(count));
    }
    return all;
  }
  /// Everything that can happen does; the events of both ends.
  std::pair<std::vector<LinkEvent>, std::vector<LinkEvent>> settle() {
    std::pair<std::vector<LinkEvent>, std::vector<LinkEvent>> all;
    for (int i = 0; i < 20; ++i) {
      sim.run();
      for (auto [link, into] :
           {std::pair{sender.get(), &all.first}, std::pair{receiver.get(), &all.second}})
        for (const auto& event : events(*link)) into->push_back(event);
    }
    return all;
  }

  Sim sim;
  std::vector<std::byte> mirror;
  std::vector<std::byte> ring;
  Line credit{0, ~0ULL};
  Line tail{0, ~0ULL};
  std::vector<SimLink*> at_sender;  // those that live
  std::vector<SimLink*> at_receiver;
  std::unique_ptr<RailedLink> sender;
  std::unique_ptr<RailedLink> receiver;
};

constexpr std::uint32_t kLong = 256 * 1024;

std::uint64_t last_completed(const std::vector<LinkEvent>& events) {
  std::uint64_t last = 0;
  for (const auto& event : events)
    if (event.kind == LinkEvent::Kind::completed) last = event.value;
  return last;
}
std::vector<std::uint64_t> immediates(const std::vector<LinkEvent>& events) {
  std::vector<std::uint64_t> values;
  for (const auto& event : events)
    if (event.kind == LinkEvent::Kind::immediate) values.push_back(event.value);
  return values;
}
bool failed(const std::vector<LinkEvent>& events) {
  return std::ranges::count(events, LinkEvent::Kind::failed, &LinkEvent::kind) == 1;
}

TEST(RailedLink, small_posts_go_whole_over_the_primary_at_once) {
  Track track(2);
  for (std::uint64_t i = 1; i <= 3; ++i) ASSERT_EQ(track.publish(i, 100, 7U), PostStatus::posted);
  EXPECT_EQ(track.at_sender[0]->counters().posts, 3U);
  EXPECT_EQ(track.at_sender[1]->counters().posts, 0U);
  const auto [sender, receiver] = track.settle();
  EXPECT_EQ(last_completed(sender), 3U);
  EXPECT_EQ(immediates(receiver), (std::vector<std::uint64_t>{7, 7, 7}));
  EXPECT_EQ(track.sender->limits().receives, kReceives - 2);
}

TEST(RailedLink, posts_of_medium_length_go_whole_when_alone_and_take_turns_otherwise) {
  Track track(2);
  for (std::uint64_t i = 1; i <= 4; ++i) ASSERT_EQ(track.publish(i, kLong / 4), PostStatus::posted);
  EXPECT_EQ(track.at_sender[0]->counters().posts, 2U) << "the first, and data of the fourth";
  EXPECT_EQ(track.at_sender[1]->counters().posts, 2U);
  (void)track.settle();
  EXPECT_EQ(track.tail.value, 4U);
  for (std::uint64_t i = 1; i <= 4; ++i) EXPECT_TRUE(track.whole(i, kLong / 4));
}

TEST(RailedLink, long_posts_are_spread_and_their_tails_wait) {
  Track track(2);
  ASSERT_EQ(track.publish(1, kLong, 7U), PostStatus::posted);
  ASSERT_EQ(track.publish(2, 100), PostStatus::posted);
  EXPECT_EQ(track.at_sender[0]->counters().posts, 1U);
  EXPECT_EQ(track.at_sender[1]->counters().posts, 1U);
  while (track.at_sender[0]->step()) {
  }
  (void)Track::events(*track.sender);
  EXPECT_EQ(track.at_sender[0]->counters().posts, 1U) << "data is still on the other rail";
  while (track.at_sender[1]->step()) {
  }
  (void)Track::events(*track.sender);
  EXPECT_EQ(track.at_sender[0]->counters().posts, 3U);
  EXPECT_TRUE(track.whole(1, kLong));
  const auto [sender, receiver] = track.settle();
  EXPECT_EQ(last_completed(sender), 2U);
  EXPECT_EQ(immediates(receiver), (std::vector<std::uint64_t>{7}));
  EXPECT_EQ(track.tail.value, 2U);
}

bool readable(const Link& link) {
  pollfd ready{link.event_fd(), POLLIN, 0};
  return ::poll(&ready, 1, 0) == 1;
}

TEST(RailedLink, whoever_sleeps_is_woken_for_what_waits_for_another_rail) {
  Track track(2);
  track.sender->arm(false, true);
  ASSERT_EQ(track.publish(1, kLong), PostStatus::posted);
  EXPECT_FALSE(readable(*track.sender));
  while (track.at_sender[1]->step()) {
  }
  EXPECT_TRUE(readable(*track.sender));
  track.sender->disarm();
  EXPECT_FALSE(readable(*track.sender));
  track.sender->arm(false, true);
  (void)Track::events(*track.sender);
  while (track.at_sender[0]->step()) {
  }
  EXPECT_EQ(track.tail.value, 1U);
  // The fence: a receiver that sleeps hears of it, and the sender of its answer.
  track.receiver->arm(false, true);
  (void)Track::events(*track.sender);
  track.sender->disarm();
  track.sender->arm(false, true);
  ASSERT_EQ(track.publish(2, kLong), PostStatus::posted);
  track.at_sender[1]->fail("cut");
  EXPECT_TRUE(readable(*track.sender));
  track.sender->disarm();
  track.sender->arm(false, true);
  (void)Track::events(*track.sender);
  while (track.at_sender[0]->step()) {
  }
  EXPECT_TRUE(readable(*track.receiver));
  track.sender->disarm();
  track.sender->arm(false, true);
  (void)Track::events(*track.sender);
  EXPECT_FALSE(readable(*track.sender));
  (void)Track::events(*track.receiver);
  while (track.at_receiver[0]->step()) {
  }
  EXPECT_TRUE(readable(*track.sender));
  (void)Track::events(*track.sender);
  while (track.at_sender[0]->step()) {
  }
  EXPECT_EQ(track.tail.value, 2U);
  EXPECT_TRUE(track.whole(2, kLong));
}

TEST(RailedLink, nothing_is_spread_where_only_an_immediate_proves_what_came_before) {
  Track track(2, false);
  ASSERT_EQ(track.publish(1, kLong, 7U), PostStatus::posted);
  EXPECT_EQ(track.at_sender[1]->counters().posts, 0U);
}

TEST(RailedLink, more_rails_share_the_data) {
  Track track(4);
  ASSERT_EQ(track.publish(1, kLong), PostStatus::posted);
  for (const auto* rail : track.at_sender) EXPECT_EQ(rail->counters().posts, 1U);
  (void)track.settle();
  EXPECT_TRUE(track.whole(1, kLong));
  EXPECT_EQ(track.tail.value, 1U);
}

TEST(RailedLink, a_lost_rail_is_replayed_when_the_other_end_has_destroyed_it) {
  Track track(2);
  ASSERT_EQ(track.publish(1, kLong), PostStatus::posted);
  track.at_sender[1]->fail("cut");
  (void)Track::events(*track.sender);
  while (track.at_sender[0]->step()) {
  }
  const auto before = track.at_sender[0]->counters();
  EXPECT_EQ(before.posts, 2U) << "data, and the news";
  (void)Track::events(*track.sender);
  EXPECT_EQ(track.at_sender[0]->counters().posts, 2U) << "the other end has not answered";
  EXPECT_EQ(track.sim.links.size(), 3U);
  (void)Track::events(*track.receiver);
  EXPECT_EQ(track.sim.links.size(), 2U);
  const auto [sender, receiver] = track.settle();
  EXPECT_EQ(last_completed(sender), 1U);
  EXPECT_TRUE(track.whole(1, kLong));
  EXPECT_EQ(track.tail.value, 1U);
  EXPECT_EQ(track.sender->path(), "rail0; rail1 lost: cut");
  EXPECT_EQ(track.receiver->path(), "rail0; rail1 lost: the other end has lost it");
  EXPECT_EQ(track.sender->counters().lost_rails, 1U);
  EXPECT_EQ(track.receiver->counters().lost_rails, 1U);
}

TEST(RailedLink, what_a_dead_rail_had_on_its_way_does_not_land_in_what_is_used_again) {
  Track track(2);
  ASSERT_EQ(track.publish(1, kLong), PostStatus::posted);
  track.at_sender[1]->fail("cut");  // its data travels on
  (void)Track::events(*track.sender);
  while (track.at_sender[0]->step()) {
  }
  (void)Track::events(*track.receiver);
  while (track.at_receiver[0]->step()) {
  }
  const auto [sender, receiver] = track.settle();
  ASSERT_EQ(last_completed(sender), 1U);
  ASSERT_EQ(track.publish(1 + kSlots, kLong), PostStatus::posted);
  (void)track.settle();
  EXPECT_EQ(track.tail.value, 1 + kSlots);
  EXPECT_TRUE(track.whole(1 + kSlots, kLong));
}

TEST(RailedLink, of_a_lost_primary_no_immediate_is_lost_or_comes_twice) {
  for (const bool taken : {false, true}) {
    Track track(2);
    for (std::uint32_t i = 1; i <= 4; ++i) ASSERT_EQ(track.publish(i, 100, i), PostStatus::posted);
    // Of the first two all has landed and is known to have; of the third the completion is lost.
    for (int i = 0; i < 4 + 4 + 3; ++i) ASSERT_TRUE(track.at_sender[0]->step());
    EXPECT_EQ(last_completed(Track::events(*track.sender)), 2U);
    std::vector<std::uint64_t> got;
    if (taken) got = immediates(Track::events(*track.receiver));
    track.at_sender[0]->fail("cut");
    track.at_receiver[0]->fail("cut");
    const auto [sender, receiver] = track.settle();
    for (const auto value : immediates(receiver)) got.push_back(value);
    EXPECT_EQ(got, (std::vector<std::uint64_t>{1, 2, 3, 4}));
    EXPECT_EQ(last_completed(sender), 4U);
    EXPECT_EQ(track.tail.value, 4U);
    // And on.
    ASSERT_EQ(track.publish(5, kLong, 5U), PostStatus::posted);
    EXPECT_EQ(immediates(track.settle().second), (std::vector<std::uint64_t>{5}));
  }
}

TEST(RailedLink, the_receiving_end_may_notice_alone) {
  Track track(2);
  track.at_receiver[0]->fail("cut");
  (void)track.settle();
  EXPECT_EQ(track.sim.links.size(), 2U);
  ASSERT_EQ(track.publish(1, kLong, 9U), PostStatus::posted);
  const auto [sender, receiver] = track.settle();
  EXPECT_EQ(last_completed(sender), 1U);
  EXPECT_EQ(immediates(receiver), (std::vector<std::uint64_t>{9}));
}

TEST(RailedLink, fails_with_the_last_rail_and_says_all_the_reasons) {
  Track track(2);
  ASSERT_EQ(track.publish(1, kLong), PostStatus::posted);
  track.at_sender[0]->fail("cut by a digger");
  track.at_sender[1]->fail("pulled out");
  EXPECT_TRUE(failed(Track::events(*track.sender)));
  EXPECT_FALSE(failed(Track::events(*track.sender))) << "told once";
  EXPECT_EQ(track.publish(2, 100), PostStatus::failed);
  EXPECT_EQ(track.sender->error(), "cut by a digger; pulled out");
}

TEST(RailedLink, ends_that_lose_different_rails_fail) {
  Track track(2);
  track.at_sender[0]->fail("cut");
  track.at_receiver[1]->fail("cut");
  const auto [sender, receiver] = track.settle();
  EXPECT_TRUE(failed(sender));
  EXPECT_TRUE(failed(receiver));
}

constexpr std::uint32_t news(std::uint32_t lost, std::uint32_t taken) {
  return static_cast<std::uint32_t>(Immediate::rails) | taken << 8U | lost;
}

TEST(RailedLink, news_that_make_no_sense_end_the_link) {
  {
    Track track(2);
    track.at_sender[1]->come({LinkEvent::Kind::immediate, news(4, 0)});
    EXPECT_TRUE(failed(Track::events(*track.sender)));
    EXPECT_NE(track.sender->error().find("breaks the protocol"), std::string::npos);
  }
  for (const std::uint32_t taken : {3U, 1000U, 0xFFFFU}) {
    Track track(2);
    for (std::uint32_t i = 1; i <= 2; ++i) ASSERT_EQ(track.publish(i, 100, i), PostStatus::posted);
    track.at_sender[1]->come({LinkEvent::Kind::immediate, news(1, taken)});
    EXPECT_TRUE(failed(Track::events(*track.sender))) << taken;
    EXPECT_NE(track.sender->error().find("breaks the protocol"), std::string::npos);
  }
  Track track(2);
  track.at_sender[1]->come({LinkEvent::Kind::immediate, news(3, 0)});
  EXPECT_TRUE(failed(Track::events(*track.sender))) << "it says that it has lost all";
}

TEST(RailedLink, news_that_are_old_or_repeated_do_no_harm) {
  Track track(3);
  track.at_sender[2]->come({LinkEvent::Kind::immediate, news(2, 0)});
  track.at_sender[2]->come({LinkEvent::Kind::immediate, news(0, 77)});
  track.at_sender[2]->come({LinkEvent::Kind::immediate, news(2, 99)});
  EXPECT_FALSE(failed(Track::events(*track.sender)));
  ASSERT_EQ(track.publish(1, kLong, 5U), PostStatus::posted);
  const auto [sender, receiver] = track.settle();
  EXPECT_EQ(last_completed(sender), 1U);
  EXPECT_EQ(immediates(receiver), (std::vector<std::uint64_t>{5}));
}

TEST(RailedLink, refuses_a_post_beyond_its_limits) {
  Track track(2);
  EXPECT_EQ(track.sender->post({}, std::nullopt, 1), PostStatus::failed);
  EXPECT_NE(track.sender->error().find("refused"), std::string::npos);
}

TEST(RailedLink, takes_a_device_with_few_receives_for_none) {
  Sim sim;
  std::vector<std::unique_ptr<Link>> many;
  for (int i = 0; i < 11; ++i)
    many.push_back(std::make_unique<SimLink>(sim, std::vector<LinkRegion>{}, "rail", true));
  EXPECT_THROW(RailedLink link(std::move(many)), SetupError);
}

/// One run of a sender and a receiver that work as the channel's do, with what lands when, what is
/// looked at when, and which rail is lost when, by chance.
class Journey {
 public:
  Journey(std::uint64_t seed, bool ordered)
      : random_(seed),
        rails_(2 + random_() % 3),
        sleepy_(random_() % 2 == 0),
        track_(rails_, ordered) {
    for (std::size_t i = 0; i < rails_; ++i) doomed_.push_back("rail" + std::to_string(i));
    std::ranges::shuffle(doomed_, random_);
    doomed_.pop_back();
  }

  void go() {
    constexpr std::uint64_t kPosts = 60;
    constexpr std::uint64_t kTooManySteps = 400'000;
    std::uint64_t steps = 0;
    while (completed_ < kPosts || seen_ < kPosts || got_ < sent_) {
      ASSERT_LT(++steps, kTooManySteps)
          << "stuck: completed " << completed_ << ", seen " << seen_ << ", immediates " << got_
          << " of " << sent_ << ", sleepy " << sleepy_;
      switch (random_() % 8) {
        case 0: lose_one(); break;
        case 1: sender(); break;
        case 2: receiver(); break;
        case 3:
          if (posted_ < kPosts) publish();
          break;
        default: (void)track_.sim.step(random_); break;
      }
      if (testing::Test::HasFatalFailure()) return;
    }
    EXPECT_EQ(posted_, kPosts);
  }

 private:
  void lose_one() {
    if (random_() % 40 != 0 || doomed_.empty()) return;
    const auto rail = doomed_.back();
    doomed_.pop_back();
    const auto side = random_() % 3;
    for (const auto& [id, link] : track_.sim.links)
      if (link->path() == rail && (side == 2 || id % 2 == side)) link->fail(rail + " is cut");
  }

  void publish() {
    const auto next = posted_ + 1;
    const auto credit = track_.credit;
    if (credit.check == ~credit.value) credited_ = std::max(credited_, credit.value);
    if (next > std::min(credited_, completed_) + kSlots) return;
    const auto length =
        random_() % 3 == 0 ? 64 * 1024 + random_() % (kSlot - 64 * 1024) : 1 + random_() % 2000;
    std::optional<std::uint32_t> immediate;
    if (random_() % 2 == 0 && sent_ - got_ < track_.sender->limits().receives)
      immediate = static_cast<std::uint32_t>(sent_ + 1);
    switch (track_.publish(next, static_cast<std::uint32_t>(length), immediate)) {
      case PostStatus::posted: break;
      case PostStatus::no_room: return;
      case PostStatus::failed: FAIL() << track_.sender->error();
    }
    lengths_[next % kSlots] = static_cast<std::uint32_t>(length);
    posted_ = next;
    if (immediate) ++sent_;
  }

  /// A sleepy end looks only when its descriptor says so.
  [[nodiscard]] bool may_look(Link& link, bool& first) const {
    if (!sleepy_ || std::exchange(first, false)) {
      link.arm(true, true);
      return true;
    }
    pollfd ready{link.event_fd(), POLLIN, 0};
    if (::poll(&ready, 1, 0) != 1) return false;
    link.disarm();
    link.arm(true, true);
    return true;
  }

  void sender() {
    if (!may_look(*track_.sender, sender_is_new_)) return;
    for (const auto& event : Track::events(*track_.sender)) {
      ASSERT_NE(event.kind, LinkEvent::Kind::failed) << track_.sender->error();
      if (event.kind != LinkEvent::Kind::completed) continue;
      ASSERT_GT(event.value, completed_);
      ASSERT_LE(event.value, posted_);
      completed_ = event.value;
    }
  }

  void receiver() {
    if (may_look(*track_.receiver, receiver_is_new_)) {
      for (const auto& event : Track::events(*track_.receiver)) {
        ASSERT_NE(event.kind, LinkEvent::Kind::failed) << track_.receiver->error();
        if (event.kind == LinkEvent::Kind::immediate) {
          ASSERT_EQ(event.value, ++got_);
        }
      }
    }
    const auto tail = track_.tail;
    if (tail.check != ~tail.value || tail.value <= seen_) return;
    ASSERT_LE(tail.value, posted_);
    for (auto i = seen_ + 1; i <= tail.value; ++i)
      ASSERT_TRUE(track_.whole(i, lengths_[i % kSlots])) << "post " << i;
    const Line line{tail.value, ~tail.value};
    const RemoteWrite write{.source = reinterpret_cast<const std::byte*>(&line),
                            .length = sizeof line,
                            .region = 0,
                            .offset = 0,
                            .copied = true};
    switch (track_.receiver->post(std::span(&write, 1), std::nullopt, cookie_ + 1)) {
      case PostStatus::posted: break;
      case PostStatus::no_room: return;
      case PostStatus::failed: FAIL() << track_.receiver->error();
    }
    ++cookie_;
    seen_ = tail.value;
  }

  std::mt19937_64 random_;
  std::size_t rails_;
  bool sleepy_;
  std::vector<std::string> doomed_;
  Track track_;
  bool sender_is_new_ = true;
  bool receiver_is_new_ = true;
  std::uint64_t posted_ = 0;
  std::uint64_t completed_ = 0;
  std::uint64_t credited_ = 0;
  std::uint64_t seen_ = 0;
  std::uint64_t cookie_ = 0;
  std::uint64_t sent_ = 0;  // immediates
  std::uint64_t got_ = 0;
  std::array<std::uint32_t, kSlots> lengths_{};
};

TEST(RailedLink, whatever_happens_all_comes_once_and_in_order) {
  for (std::uint64_t seed = 1; seed <= 400; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    Journey(seed, seed % 4 != 0).go();
    if (HasFatalFailure()) return;
  }
}

}  // namespace
}  // namespace penstock::test
