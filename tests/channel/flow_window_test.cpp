// The controller under simulated traffic: a producer, a ring and a consumer in simulated time, with
// credit returned as Inlet returns it.
#include "penstock/channel/flow_window.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <queue>
#include <vector>

namespace penstock {
namespace {

using namespace std::chrono_literals;

constexpr std::uint64_t kMessage = 64;
constexpr std::uint64_t kCapacity = 1024 * 1024;
constexpr std::uint64_t kLeast = 4096;

struct Traffic {
  /// Between two messages, from when they are meant to be sent; 0: as fast as it goes.
  Duration gap{};
  /// What the consumer does with a message that it gets at this time.
  std::function<Duration(Duration)> work = [](Duration) { return 1us; };
  Duration link{};    ///< one way, for records, credit and the word that the sender waits
  Duration waking{};  ///< of a sender that waited
  Duration length = 1s;
  std::uint64_t messages = ~0ULL;  ///< or so many, if sooner
  std::uint64_t capacity = kCapacity;
  /// What the receiver's clock shows.
  std::function<TimePoint(Duration)> clock = [](Duration t) { return TimePoint(1h + t); };
};

struct Outcome {
  std::uint64_t received = 0;
  Duration last{};               ///< when
  std::vector<Duration> delays;  ///< from landing in the ring to the consumer
  WindowStats window;

  [[nodiscard]] Duration delay(double part) const {
    auto sorted = delays;
    const auto at = static_cast<std::ptrdiff_t>(part * static_cast<double>(sorted.size() - 1));
    std::ranges::nth_element(sorted, sorted.begin() + at);
    return sorted[static_cast<std::size_t>(at)];
  }
  [[nodiscard]] double rate() const {
    return static_cast<double>(received) / std::chrono::duration<double>(last).count();
  }
};

/// A run. `flow` is null for a fixed window.
class Simulation {
 public:
  Simulation(const Traffic& traffic, FlowWindow* flow, std::uint64_t fixed)
      : traffic_(traffic), flow_(flow), window_(flow != nullptr ? flow->window() : fixed) {}

  Outcome run() {
    credited_ = limit_ = flow_ != nullptr ? traffic_.capacity : window_;
    at(Duration::zero(), [this] { send(); });
    while (!events_.empty() && events_.top().time <= traffic_.length) {
      const auto event = events_.top();
      events_.pop();
      now_ = event.time;
      event.what();
    }
    if (flow_ != nullptr) outcome_.window = flow_->stats();
    return std::move(outcome_);
  }

 private:
  struct Event {
    Duration time;
    std::uint64_t order;
    std::function<void()> what;
    bool operator<(const Event& other) const {
      return time != other.time ? time > other.time : order > other.order;
    }
  };
  void at(Duration time, std::function<void()> what) {
    events_.push({time, order_++, std::move(what)});
  }

  // The sender.
  void send() {
    if (sent_ == traffic_.messages) return;
    if (tail_ + kMessage > credited_) {
      blocked_ = true;
      at(now_ + traffic_.link, [this, tail = tail_] { told_of_waiting(tail); });
      return;
    }
    tail_ += kMessage;
    ++sent_;
    at(now_ + traffic_.link, [this] { land(); });
    constexpr auto kFastest = 20ns;
    at(std::max(now_ + kFastest, traffic_.gap * static_cast<Duration::rep>(sent_)),
       [this] { send(); });
  }
  void credit(std::uint64_t limit) {
    credited_ = std::max(credited_, limit);
    if (!std::exchange(blocked_, false)) return;
    at(now_ + traffic_.waking, [this] { send(); });
  }

  // The receiver.
  void land() {
    landed_.push_back(now_);
    if (!busy_) take();
  }
  void take() {
    busy_ = !landed_.empty();
    if (!busy_) return found_nothing();
    outcome_.delays.push_back(now_ - landed_.front());
    landed_.pop_front();
    at(now_ + traffic_.work(now_), [this] { release(); });
  }
  void release() {
    head_ += kMessage;
    ++outcome_.received;
    outcome_.last = now_;
    const bool due = head_ - sampled_ >= window_ / (waiting_ ? 16 : 4);
    if (due && flow_ != nullptr) {
      const auto queued =
          traffic_.link == 0ns ? (waiting_ ? limit_ - head_ : 0) : landed_.size() * kMessage;
      flow_->consumed(traffic_.clock(now_), head_, queued);
      window_ = flow_->window();
    }
    if (due) sampled_ = head_;
    if (due && head_ + window_ > limit_) grant();
    take();
  }
  void grant() {
    limit_ = std::max(limit_, head_ + window_);
    waiting_ = false;
    at(now_ + traffic_.link, [this, limit = limit_] { credit(limit); });
  }
  void told_of_waiting(std::uint64_t tail) {
    waiting_ = true;
    held_back_ = tail;
    if (!busy_) found_nothing();
  }
  void found_nothing() {
    if (flow_ != nullptr) flow_->found_nothing();
    // All that the sender had sent when the window held it back is consumed, and no more has come.
    if (std::exchange(held_back_, 0) != head_ || head_ == 0) return;
    if (flow_ != nullptr) {
      flow_->starved(traffic_.clock(now_), head_);
      window_ = flow_->window();
    }
    grant();
  }

  const Traffic traffic_;
  FlowWindow* const flow_;
  std::uint64_t window_;
  Duration now_{};
  std::uint64_t order_ = 0;
  std::priority_queue<Event> events_;
  std::uint64_t sent_ = 0;
  std::uint64_t tail_ = 0;
  std::uint64_t credited_ = 0;
  bool blocked_ = false;
  std::deque<Duration> landed_;
  bool busy_ = false;
  std::uint64_t head_ = 0;
  std::uint64_t sampled_ = 0;
  std::uint64_t limit_ = 0;
  std::uint64_t held_back_ = 0;
  bool waiting_ = false;
  Outcome outcome_;
};

Outcome living(const Traffic& traffic, Duration target, std::uint64_t least = kLeast) {
  FlowWindow flow(least, traffic.capacity, target);
  return Simulation(traffic, &flow, 0).run();
}
Outcome fixed(const Traffic& traffic, std::uint64_t parts = 1) {
  return Simulation(traffic, nullptr, traffic.capacity / parts).run();
}

/// Slowed ten times, for 200 ms of every 400.
Duration in_bursts(Duration t) { return t % 400ms < 200ms ? 1us : 10us; }

TEST(FlowWindow, holds_the_delay_of_a_saturated_channel_near_the_target) {
  for (const Duration target : {Duration(200us), Duration(1ms), Duration(5ms)}) {
    for (const Duration work : {Duration(500ns), Duration(2us), Duration(5us)}) {
      const Traffic traffic{.work = [work](Duration) { return work; }, .length = 300ms};
      const auto outcome = living(traffic, target, 1024);
      EXPECT_GE(outcome.rate(), 0.995 * fixed(traffic).rate());
      const auto window = std::min<Duration>(target, kCapacity / kMessage * work);
      EXPECT_LE(outcome.delay(0.5), 5 * window / 4) << target.count();
      EXPECT_GE(outcome.delay(0.5), 3 * window / 4) << target.count();
    }
  }
}

TEST(FlowWindow, knows_the_consumers_rate) {
  const auto outcome = living({}, 1ms);
  EXPECT_NEAR(outcome.window.rate, 64e6, 3e6);
  EXPECT_NEAR(static_cast<double>(outcome.window.now), 64e3, 6e3);
  EXPECT_GE(outcome.window.delay, 700us);
  EXPECT_LE(outcome.window.delay, 1200us);
}

TEST(FlowWindow, shrinks_while_the_consumer_is_slow_and_grows_again) {
  const Traffic saturated{.work = in_bursts};
  const auto outcome = living(saturated, 1ms);
  EXPECT_LE(outcome.window.smallest, 8000U);
  EXPECT_GE(outcome.window.largest, 60'000U);
  EXPECT_LE(outcome.window.largest, 200'000U);
  EXPECT_GE(outcome.rate(), 0.99 * fixed(saturated).rate());
}

TEST(FlowWindow, a_burst_waits_less_than_in_the_whole_ring_and_costs_no_throughput) {
  // Of what the consumer carries on the average, 70 %.
  const Traffic traffic{.gap = 2597ns, .work = in_bursts};
  const auto outcome = living(traffic, 1ms);
  const auto whole = fixed(traffic);
  const auto quarter = fixed(traffic, 4);
  EXPECT_GE(outcome.rate(), 0.98 * whole.rate());
  EXPECT_LE(outcome.delay(0.99), whole.delay(0.99) / 3);
  EXPECT_LE(outcome.delay(0.99), quarter.delay(0.99));
}

TEST(FlowWindow, lets_a_sender_that_is_slower_than_the_consumer_alone) {
  const Traffic traffic{.gap = 3us};
  const auto outcome = living(traffic, 1ms);
  EXPECT_EQ(outcome.received, fixed(traffic).received);
  EXPECT_EQ(outcome.delay(1), Duration::zero());
}

TEST(FlowWindow, fills_a_long_link) {
  for (const Duration link : {Duration(50us), Duration(500us), Duration(5ms)}) {
    const Traffic traffic{.link = link, .length = 3s, .capacity = 8 * kCapacity};
    const auto outcome = living(traffic, 1ms);
    const auto whole = fixed(traffic);
    EXPECT_GE(outcome.rate(), 0.97 * whole.rate()) << link.count();
    EXPECT_LE(outcome.delay(0.5), whole.delay(0.5) / 5) << link.count();
  }
}

TEST(FlowWindow, makes_up_for_a_sender_that_wakes_up_slowly) {
  for (const Duration waking : {Duration(60us), Duration(3ms)}) {
    const Traffic traffic{.waking = waking, .length = 4s};
    EXPECT_GE(living(traffic, 500us).rate(), 0.97 * fixed(traffic).rate()) << waking.count();
  }
}

TEST(FlowWindow, gives_up_what_a_slow_loop_had_made_it_grow_to) {
  FlowWindow flow(kLeast, kCapacity, 1ms);
  TimePoint now{1h};
  std::uint64_t total = 0;
  const auto work = [&](int steps, bool waits) {
    for (int i = 0; i < steps; ++i) {
      now += 100us;
      total += 6400;
      flow.consumed(now, total, waits ? flow.window() : 0);
    }
  };
  work(100, true);
  const auto before = flow.window();
  flow.starved(now, total);
  flow.starved(now, total);
  EXPECT_GE(flow.window(), 3 * before);
  work(20'000, true);
  EXPECT_LE(flow.window(), before + before / 8) << "a standing queue";
  flow.starved(now, total);
  flow.starved(now, total);
  work(20'000, false);
  EXPECT_LE(flow.window(), before + before / 8) << "nobody needs it";
}

TEST(FlowWindow, doubles_when_starved_up_to_the_most) {
  FlowWindow flow(1000, 10'000, 1ms);
  for (const std::uint64_t expected : {2000U, 4000U, 8000U, 10'000U, 10'000U}) {
    flow.starved(TimePoint{1h}, 0);
    EXPECT_EQ(flow.window(), expected);
  }
}

TEST(FlowWindow, does_not_move_while_nothing_is_sent) {
  FlowWindow flow(kLeast, kCapacity, 1ms);
  TimePoint now{1h};
  std::uint64_t total = 0;
  for (int i = 0; i < 100; ++i) flow.consumed(now += 100us, total += 6400, 6400);
  const auto before = flow.window();
  for (int i = 0; i < 100; ++i) {
    flow.found_nothing();
    now += 1h;
    flow.consumed(now, total += 64, 0);
    EXPECT_NEAR(static_cast<double>(flow.window()), static_cast<double>(before), 100);
  }
}

TEST(FlowWindow, passes_everything_though_its_clock_stands_still) {
  const Traffic traffic{
      .link = 100us, .messages = 100'000, .clock = [](Duration) { return TimePoint(1h); }};
  const auto outcome = living(traffic, 1ms);
  EXPECT_EQ(outcome.received, traffic.messages);
  EXPECT_EQ(outcome.window.rate, 0);
}

TEST(FlowWindow, forgets_a_jump_of_its_clock) {
  for (const Duration jump : {Duration(24h), Duration(-30min), Duration(10ms), Duration(-10ms)}) {
    const Traffic traffic{
        .clock = [jump](Duration t) { return TimePoint(1h + t + (t > 1s ? jump : 0s)); }};
    const auto outcome = living(traffic, 1ms);
    EXPECT_GE(outcome.rate(), 0.99 * fixed(traffic).rate());
    EXPECT_NEAR(outcome.window.rate, 64e6, 3e6);
    EXPECT_NEAR(static_cast<double>(outcome.window.now), 64e3, 6e3);
  }
}

TEST(FlowWindow, stays_within_its_bounds_whatever_it_is_told) {
  FlowWindow flow(1, 1, 1ns);
  std::uint64_t state = 1;
  const auto random = [&] {
    state = state * 6364136223846793005U + 1442695040888963407U;
    return state >> 20U;
  };
  for (int i = 0; i < 100'000; ++i) {
    const TimePoint now{Duration(static_cast<Duration::rep>(random()))};
    switch (random() % 3) {
      case 0: flow.consumed(now, random(), random()); break;
      case 1: flow.found_nothing(); break;
      default: flow.starved(now, random());
    }
    ASSERT_EQ(flow.window(), 1U);
    ASSERT_GE(flow.stats().delay, 0ns);
  }
}

}  // namespace
}  // namespace penstock
