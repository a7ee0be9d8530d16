#include "penstock/channel/tail_table.hpp"

#include <gtest/gtest.h>

#include <memory>
#include <set>
#include <thread>
#include <vector>

namespace penstock {
namespace {

constexpr auto kNone = TailTable::kNone;

struct Table {
  std::shared_ptr<TailTable> tails = std::make_shared<TailTable>();
  std::vector<TailPlace> places;

  explicit Table(std::size_t count) {
    for (std::size_t i = 0; i < count; ++i) {
      places.push_back(tails->take());
      tails->watch(places.back().index, true);
    }
  }
  void write(std::size_t place, std::uint64_t tail) { *places[place].line = {tail, ~tail}; }
  /// As a receiver that finds everything in a ring, and then nothing.
  void drain(std::size_t place) { tails->drained(place, tails->begin_look(place).line); }
};

TEST(TailTable, finds_the_lines_that_changed_and_those_only) {
  Table table(1000);
  EXPECT_EQ(table.tails->next_news(0), kNone);
  const std::set<std::size_t> changed{0, 1, 15, 16, 63, 64, 255, 256, 700, 999};
  for (const auto place : changed) table.write(place, 16 * (place + 1));
  std::set<std::size_t> found;
  for (auto place = table.tails->next_news(0); place != kNone;
       place = table.tails->next_news(place + 1))
    found.insert(place);
  EXPECT_EQ(found, changed);
  EXPECT_EQ(table.tails->next_news(257, 700), kNone);
  EXPECT_EQ(table.tails->next_news(257, 701), 700U);
  for (const auto place : changed) table.drain(place);
  EXPECT_EQ(table.tails->next_news(0), kNone);
}

TEST(TailTable, a_change_of_the_check_alone_is_news) {
  Table table(3);
  table.places[2].line->check = 1;
  EXPECT_EQ(table.tails->next_news(0), 2U);
}

TEST(TailTable, what_lands_after_the_look_began_is_found_again) {
  Table table(40);
  table.write(17, 32);
  const auto begun = table.tails->begin_look(17);
  EXPECT_FALSE(begun.marked);
  table.write(17, 64);
  table.tails->drained(17, begun.line);
  EXPECT_EQ(table.tails->next_news(0), 17U);
}

TEST(TailTable, a_mark_is_news_until_a_look_begins) {
  Table table(300);
  table.tails->mark(299);
  table.tails->mark(0);
  EXPECT_EQ(table.tails->next_news(0), 0U);
  table.drain(0);
  EXPECT_EQ(table.tails->next_news(0), 299U);
  const auto begun = table.tails->begin_look(299);
  EXPECT_TRUE(begun.marked);
  table.tails->mark(299);
  table.tails->drained(299, begun.line);
  EXPECT_EQ(table.tails->next_news(0), 299U);
}

TEST(TailTable, looks_at_watched_places_only) {
  Table table(20);
  table.write(5, 16);
  table.tails->mark(6);
  table.tails->watch(5, false);
  table.tails->watch(6, false);
  EXPECT_EQ(table.tails->next_news(0), kNone);
  table.tails->watch(5, true);
  EXPECT_EQ(table.tails->next_news(0), 5U);
}

TEST(TailTable, knows_who_is_awake) {
  Table table(600);
  EXPECT_EQ(table.tails->next_awake(0), kNone);
  for (const std::size_t place : {0U, 64U, 127U, 599U}) table.tails->set_awake(place, true);
  EXPECT_EQ(table.tails->next_awake(0), 0U);
  EXPECT_EQ(table.tails->next_awake(1), 64U);
  EXPECT_EQ(table.tails->next_awake(65), 127U);
  EXPECT_EQ(table.tails->next_awake(128), 599U);
  table.tails->watch(599, false);
  EXPECT_EQ(table.tails->next_awake(128), kNone);
}

TEST(TailTable, a_place_is_free_again_and_clean_when_its_owner_is_gone) {
  Table table(2);
  table.write(1, 16);
  table.tails->mark(1);
  table.tails->set_awake(1, true);
  table.places.pop_back();
  EXPECT_EQ(table.tails->next_news(0), kNone);
  EXPECT_EQ(table.tails->next_awake(0), kNone);
  const auto again = table.tails->take();
  EXPECT_EQ(again.index, 1U);
  table.tails->watch(1, true);
  EXPECT_EQ(table.tails->next_news(0), kNone);
}

TEST(TailTable, places_come_and_go_while_others_are_looked_at) {
  const auto tails = std::make_shared<TailTable>();
  std::vector<std::jthread> threads;
  for (int t = 0; t < 3; ++t) {
    threads.emplace_back([&] {
      for (int round = 0; round < 300; ++round) {
        std::vector<TailPlace> mine;
        for (int i = 0; i < 7; ++i) {
          mine.push_back(tails->take());
          tails->watch(mine.back().index, true);
          tails->mark(mine.back().index);
        }
        for (const auto& place : mine) {
          EXPECT_TRUE(tails->has_news(place.index));
          tails->drained(place.index, tails->begin_look(place.index).line);
        }
      }
    });
  }
  threads.emplace_back([&] {
    for (int round = 0; round < 3000; ++round) {
      (void)tails->next_news(0);
      (void)tails->next_awake(0);
    }
  });
}

}  // namespace
}  // namespace penstock
