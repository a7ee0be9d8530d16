#include "bench/pressure/load.hpp"

#include <gtest/gtest.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

namespace {

using pressure::Clock;
using pressure::Item;
using pressure::Outcome;
using pressure::Slice;

TEST(pressure_load, gives_each_message_the_time_it_was_meant_for_though_one_stalls) {
  struct Stalling {
    std::vector<Item> items;
    void send(const Item& item) {
      items.push_back(item);
      if (items.size() == 10) std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
  } end;
  const auto start = Clock::now();
  EXPECT_EQ(pressure::send_on_time(end, {.rate = 10'000, .seconds = 0.01}, start), 100);
  ASSERT_EQ(end.items.size(), 100);
  for (std::size_t k = 0; k < end.items.size(); ++k) {
    EXPECT_EQ(end.items[k].number, k);
    EXPECT_EQ(end.items[k].due, pressure::to_ns(start) + static_cast<std::int64_t>(k) * 100'000);
  }
}

TEST(pressure_load, sends_nothing_before_its_time) {
  struct Noting {
    std::int64_t early = 0;
    void send(const Item& item) { early += pressure::to_ns(Clock::now()) < item.due; }
  } end;
  (void)pressure::send_on_time(end, {.rate = 1000, .seconds = 0.02}, Clock::now());
  EXPECT_EQ(end.early, 0);
}

/// Hands out messages that were due so long before now.
struct Late {
  std::vector<std::pair<std::uint64_t, std::chrono::nanoseconds>>
      messages;  // number, due after start
  std::int64_t start = pressure::to_ns(Clock::now()) - std::int64_t{3'600'000'000'000};
  std::size_t at = 0;
  bool receive(Item& item) {
    if (at == messages.size()) return false;
    item.number = messages[at].first;
    item.due = start + messages[at].second.count();
    ++at;
    return true;
  }
};

TEST(pressure_load, notices_what_is_missing_doubled_or_out_of_order) {
  using std::chrono::milliseconds;
  const auto misplaced = [](std::vector<std::uint64_t> numbers) {
    Late end;
    for (const auto number : numbers) end.messages.emplace_back(number, milliseconds(number));
    const auto outcome = std::make_unique<Outcome>();
    pressure::receive_all(end, *outcome);
    EXPECT_EQ(outcome->received, numbers.size());
    return outcome->misplaced;
  };
  EXPECT_EQ(misplaced({0, 1, 2, 3}), 0);
  EXPECT_EQ(misplaced({0, 1, 3, 4}), 1);
  EXPECT_EQ(misplaced({1, 2, 3}), 1);
  EXPECT_EQ(misplaced({0, 1, 1, 2}), 1);
  EXPECT_EQ(misplaced({0, 2, 1, 3}), 3);
}

TEST(pressure_load, counts_latency_from_the_due_time_and_leaves_the_warm_up_out) {
  using std::chrono::milliseconds;
  Late end;
  for (std::uint64_t k = 0; k < 2500; ++k) end.messages.emplace_back(k, milliseconds(k));
  const auto outcome = std::make_unique<Outcome>();
  pressure::receive_all(end, *outcome);
  EXPECT_EQ(outcome->received, 2500);
  EXPECT_EQ(outcome->latency.count(), 2300);
  EXPECT_EQ(outcome->slices, 2);
  EXPECT_GE(outcome->slice[0].p50, 3'590'000'000'000);  // an hour, less some seconds
  EXPECT_GT(outcome->slice[0].p50, outcome->slice[1].p50);
}

TEST(pressure_load, less_than_a_second_stands_for_itself) {
  Late end;
  for (std::uint64_t k = 0; k < 500; ++k)
    end.messages.emplace_back(k, std::chrono::milliseconds(k));
  const auto outcome = std::make_unique<Outcome>();
  pressure::receive_all(end, *outcome);
  EXPECT_EQ(outcome->latency.count(), 300);
  EXPECT_EQ(outcome->slices, 1);
}

TEST(pressure_load, calm_is_the_lower_quartile_of_the_seconds) {
  const auto outcome = std::make_unique<Outcome>();
  EXPECT_EQ(pressure::calm(*outcome, &Slice::p99), 0);
  for (const std::uint64_t value : {900U, 30U, 10U, 800U, 20U, 700U, 40U, 600U, 50U})
    outcome->slice[outcome->slices++] = {value / 10, value};
  EXPECT_EQ(pressure::calm(*outcome, &Slice::p99), 30);
  EXPECT_EQ(pressure::calm(*outcome, &Slice::p50), 3);
}

}  // namespace
