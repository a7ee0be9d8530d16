// When a link of whose events each is news is left to the threads that poll it.
#include "penstock/channel/poll_watch.hpp"

#include <gtest/gtest.h>

namespace penstock {
namespace {

TEST(PollWatch, begins_only_where_somebody_has_polled) {
  PollWatch watch;
  EXPECT_FALSE(watch.begin());
  watch.polled();
  EXPECT_TRUE(watch.begin());
  EXPECT_FALSE(watch.begin()) << "the same poll again";
}

TEST(PollWatch, ends_at_the_second_tick_without_a_poll) {
  PollWatch watch;
  watch.polled();
  ASSERT_TRUE(watch.begin());
  EXPECT_FALSE(watch.tick());
  EXPECT_TRUE(watch.tick());
  EXPECT_FALSE(watch.tick()) << "it is told once";
}

TEST(PollWatch, goes_on_while_there_is_a_poll_between_two_ticks) {
  PollWatch watch;
  watch.polled();
  ASSERT_TRUE(watch.begin());
  for (int i = 0; i < 10; ++i) {
    EXPECT_FALSE(watch.tick());
    watch.polled();
    EXPECT_FALSE(watch.tick());
  }
  EXPECT_FALSE(watch.tick());
  EXPECT_TRUE(watch.tick());
}

TEST(PollWatch, counts_anew_where_another_begins) {
  PollWatch watch;
  watch.polled();
  ASSERT_TRUE(watch.begin());
  EXPECT_FALSE(watch.tick());
  EXPECT_FALSE(watch.begin());
  EXPECT_FALSE(watch.tick());
  EXPECT_TRUE(watch.tick());
}

}  // namespace
}  // namespace penstock
