#include "bench/pressure/report.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <fstream>
#include <stdexcept>
#include <string>

namespace {

using pressure::compare;
using pressure::Limits;
using pressure::Row;

constexpr Limits kLimits{.p50 = 2, .p99 = 2, .rate = 1.5};

Row row(const char* transport, const char* load) {
  return {.transport = transport,
          .load = load,
          .rate = 1e6,
          .carried = 1e6,
          .maximum = 5e6,
          .sent = 100,
          .received = 100,
          .p999_ns = 9000,
          .calm_p50_ns = 500,
          .calm_p99_ns = 2000,
          .distance = "far"};
}

TEST(pressure_report, finds_nothing_worse_in_the_same_rows) {
  const std::array rows{row("shm", "1M"), row("inproc", "1M")};
  const auto all = compare(rows, rows, kLimits);
  EXPECT_EQ(all.compared, 2);
  EXPECT_TRUE(all.worse.empty());
  EXPECT_TRUE(all.excused.empty());
}

TEST(pressure_report, allows_what_the_ratio_allows) {
  const std::array before{row("shm", "1M")};
  auto now = before;
  now[0].calm_p50_ns = 1000;
  now[0].calm_p99_ns = 4000;
  now[0].maximum = 5e6 / 1.5;
  EXPECT_TRUE(compare(before, now, kLimits).worse.empty());
  now[0].p50_ns = now[0].p99_ns = now[0].p999_ns = now[0].max_ns = 1'000'000;  // only shown
  EXPECT_TRUE(compare(before, now, kLimits).worse.empty());
}

TEST(pressure_report, names_each_figure_that_is_worse) {
  const std::array before{row("shm", "1M")};
  auto now = before;
  now[0].calm_p50_ns = 1001;
  EXPECT_EQ(compare(before, now, kLimits).worse.size(), 1);
  now[0].calm_p99_ns = 4001;
  EXPECT_EQ(compare(before, now, kLimits).worse.size(), 2);
  now[0].carried = 0.6e6;
  EXPECT_EQ(compare(before, now, kLimits).worse.size(), 3);
  now[0].maximum = 3e6;
  const auto all = compare(before, now, kLimits);
  ASSERT_EQ(all.worse.size(), 4);
  EXPECT_EQ(all.worse[1], "shm 1M: calm p99 in us is 4.001, was 2: 2.00 times worse, allowed 2");
}

TEST(pressure_report, compares_parts_of_a_rate_and_not_rates_that_differ) {
  const std::array before{row("shm", "half")};
  auto now = before;
  now[0].rate = now[0].carried = 0.5e6;
  EXPECT_TRUE(compare(before, now, kLimits).worse.empty());
}

TEST(pressure_report, excuses_what_was_measured_at_another_distance) {
  const std::array before{row("shm", "1M")};
  auto now = before;
  now[0].calm_p50_ns = 5000;
  now[0].distance = "very far";
  auto all = compare(before, now, kLimits);
  EXPECT_TRUE(all.worse.empty());
  EXPECT_EQ(all.excused.size(), 1);
  auto moved = before;
  moved[0].distance = now[0].distance = "moved";
  all = compare(moved, now, kLimits);
  EXPECT_TRUE(all.worse.empty());
  EXPECT_EQ(all.excused.size(), 1);
}

TEST(pressure_report, matches_rows_by_transport_and_load) {
  const std::array before{row("shm", "1M"), row("inproc", "1M")};
  const std::array now{row("shm", "100k"), row("rdma", "1M"), row("inproc", "1M")};
  EXPECT_EQ(compare(before, now, kLimits).compared, 1);
}

TEST(pressure_report, reads_what_it_saved) {
  const auto path = testing::TempDir() + "pressure-" + std::to_string(::getpid()) + ".json";
  const std::array rows{row("shm", "1M"), row("inproc", "half")};
  pressure::save(path, rows);
  const auto read = pressure::load_rows(path);
  ASSERT_EQ(read.size(), 2);
  EXPECT_EQ(read[1].transport, "inproc");
  EXPECT_EQ(read[1].load, "half");
  EXPECT_EQ(read[1].maximum, 5e6);
  EXPECT_EQ(read[1].p999_ns, 9000);
  EXPECT_EQ(read[1].distance, "far");
  std::ofstream(path) << R"({"rows": [{"transport": "shm"}]})";
  EXPECT_THROW((void)pressure::load_rows(path), std::runtime_error);
  std::remove(path.c_str());
  EXPECT_THROW((void)pressure::load_rows(path), std::runtime_error);
  EXPECT_THROW(pressure::save("/nowhere/at/all.json", rows), std::runtime_error);
}

}  // namespace
