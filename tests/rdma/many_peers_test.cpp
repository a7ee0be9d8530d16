// Many peers, and too many: connects all at once, what an idle peer costs, and what happens when
// locked memory or huge pages run out. Needs a device, and root for some: run by tests/softroce.
#include <gtest/gtest.h>
#include <linux/capability.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "penstock/channel/channel.hpp"

namespace penstock {
namespace {

constexpr std::uint64_t kCapacity = 65536;
constexpr std::uint64_t kLine = 4096;  // the page with the credit line, or with tail lines
constexpr std::chrono::seconds kWatchdog{120};

testing::AssertionResult says(const std::string& text, std::string_view part) {
  if (text.find(part) != std::string::npos) return testing::AssertionSuccess();
  return testing::AssertionFailure() << "'" << text << "' does not say '" << part << "'";
}

/// A number out of a file of /proc, in the file's unit.
std::uint64_t number_of(const char* file, std::string_view key) {
  std::ifstream in(file);
  std::string word;
  while (in >> word)
    if (std::uint64_t value = 0; word == key && in >> value) return value;
  return 0;
}
std::uint64_t pinned() { return number_of("/proc/self/status", "VmPin:") * 1024; }
std::uint64_t resident() { return number_of("/proc/self/status", "VmRSS:") * 1024; }

std::string here(const std::string& query) {
  const char* address = std::getenv("PENSTOCK_ADDR");
  return std::string("rdma://") + (address != nullptr ? address : "127.0.0.1") + ":0/many?" + query;
}

/// Root's privilege to lock without limit. Before the first thread and the first device: the kernel
/// serves an open device only for those who have the privileges of who opened it.
bool drop_lock_privilege() {
  __user_cap_header_struct header{.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
  std::array<__user_cap_data_struct, 2> data{};
  if (::syscall(SYS_capget, &header, data.data()) != 0) return false;
  for (auto* set : {&data[0].effective, &data[0].permitted}) *set &= ~(1U << CAP_IPC_LOCK);
  return ::syscall(SYS_capset, &header, data.data()) == 0;
}
const bool kDropped = drop_lock_privilege();

/// `count` connects at once, each from a thread of its own.
struct Storm {
  std::vector<Sender> senders;
  std::vector<std::string> refusals;
  Storm(const std::string& uri, int count) {
    std::mutex mutex;
    std::vector<std::jthread> threads;
    for (int i = 0; i < count; ++i)
      threads.emplace_back([&] {
        try {
          Sender sender = penstock::connect(uri, {.deadline = kWatchdog});
          const std::lock_guard lock(mutex);
          senders.push_back(std::move(sender));
        } catch (const SetupError& e) {
          const std::lock_guard lock(mutex);
          EXPECT_EQ(e.errc(), Errc::resource_limit) << e.what();
          refusals.emplace_back(e.what());
        }
      });
  }
};

void all_work(std::vector<Sender>& senders, Receiver& receiver) {
  for (Sender& sender : senders)
    ASSERT_EQ(sender.send(std::as_bytes(std::span("x", 1))), SendStatus::sent);
  for (std::size_t i = 0; i < senders.size(); ++i) {
    const auto message = receiver.recv_for(kWatchdog);
    ASSERT_TRUE(message) << to_string(message.status())
                         << (message.loss() ? ": " + message.loss()->reason : "");
    ASSERT_EQ(message.text(), "x");
  }
}

void raise_descriptors() {
  rlimit files{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &files), 0);
  files.rlim_cur = files.rlim_max;
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &files), 0);
}

TEST(Storm, of_connects_is_survived_and_every_peer_costs_what_is_stated) {
  raise_descriptors();
  const char* given = std::getenv("PENSTOCK_STORM");
  const int count = given != nullptr ? std::atoi(given) : 500;
  Receiver receiver = penstock::bind(here("capacity=64KiB&persistent=1"));
  Sender first =
      penstock::connect(receiver.uris().front());  // what the process needs once is there now
  const std::uint64_t pinned_before = pinned();
  const std::uint64_t resident_before = resident();
  const auto begin = std::chrono::steady_clock::now();
  Storm storm(receiver.uris().front(), count);
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
  ASSERT_TRUE(storm.refusals.empty()) << storm.refusals.front();
  const auto peers = static_cast<std::uint64_t>(count);
  // Both ends are in this process: ring and mirror, and a page with a line each.
  EXPECT_EQ(pinned() - pinned_before, peers * 2 * (kCapacity + kLine));
  EXPECT_EQ(link_use().pinned, (peers + 1) * 2 * (kCapacity + kLine));
  const std::uint64_t besides = (resident() - resident_before) / peers - 2 * (kCapacity + kLine);
  std::printf(
      "%d connects at once took %.1f s; both ends of a peer: %llu KiB pinned, %llu KiB besides\n",
      count, took.count(), static_cast<unsigned long long>(2 * (kCapacity + kLine) / 1024),
      static_cast<unsigned long long>(besides / 1024));
  EXPECT_LT(besides, 1024U * 1024);  // two queue pairs, and the thread that connected
  all_work(storm.senders, receiver);
  std::vector<Sender> others;
  others.push_back(std::move(first));
  all_work(others, receiver);
}

TEST(Limits, of_locked_memory_end_the_connects_that_meet_them_and_no_other) {
  ASSERT_TRUE(kDropped);
  Receiver receiver = penstock::bind(here("capacity=64KiB&persistent=1"));
  const std::string uri = receiver.uris().front();
  std::vector<Sender> first;
  first.push_back(penstock::connect(uri));
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_MEMLOCK, &before), 0);
  rlimit low = before;
  low.rlim_cur = pinned() + 7 * (kCapacity + kLine) + kCapacity / 2;  // some way into a link
  ASSERT_EQ(::setrlimit(RLIMIT_MEMLOCK, &low), 0);
  Storm storm(uri, 32);
  ASSERT_EQ(::setrlimit(RLIMIT_MEMLOCK, &before), 0);
  EXPECT_LE(storm.senders.size(), 3U);
  EXPECT_GE(storm.refusals.size(), 29U);
  for (const std::string& text : storm.refusals) {
    EXPECT_TRUE(says(text, "cannot register"));
    EXPECT_TRUE(says(text, "the limit of locked memory is"));
    EXPECT_TRUE(says(text, "ulimit -l"));
  }
  all_work(first, receiver);
  all_work(storm.senders, receiver);
  Storm again(uri, 8);
  EXPECT_EQ(again.senders.size(), 8U);
  all_work(again.senders, receiver);
}

TEST(Limits, of_the_budget_are_told_to_both_ends) {
  Receiver receiver = penstock::bind(here("capacity=64KiB&persistent=1"));
  const std::string uri = receiver.uris().front();
  std::vector<Sender> first;
  first.push_back(penstock::connect(uri));
  set_link_budget({.max_links = link_use().links + 7});
  Storm storm(uri, 16);
  set_link_budget({});
  EXPECT_LE(storm.senders.size(), 3U);
  EXPECT_GE(storm.refusals.size(), 13U);
  for (const std::string& text : storm.refusals) EXPECT_TRUE(says(text, "PENSTOCK_MAX_LINKS"));
  EXPECT_TRUE(says(receiver.stats().last_refusal, "PENSTOCK_MAX_LINKS"));
  all_work(first, receiver);
  all_work(storm.senders, receiver);
}

/// As many huge pages as a test wants, while it runs.
class HugePages {
 public:
  explicit HugePages(std::uint64_t count)
      : before_(number_of("/proc/meminfo", "HugePages_Total:")) {
    set(count);
  }
  HugePages(const HugePages&) = delete;
  HugePages& operator=(const HugePages&) = delete;
  HugePages(HugePages&&) = delete;
  HugePages& operator=(HugePages&&) = delete;
  ~HugePages() { set(before_); }
  static std::uint64_t free() { return number_of("/proc/meminfo", "HugePages_Free:"); }

 private:
  static void set(std::uint64_t count) { std::ofstream("/proc/sys/vm/nr_hugepages") << count; }
  std::uint64_t before_;
};

TEST(Limits, of_huge_pages_are_told_with_how_many_to_reserve) {
  const HugePages pages(4);
  if (HugePages::free() != 4) GTEST_SKIP() << "needs root, and four huge pages";
  Receiver receiver = penstock::bind(here("capacity=2MiB&persistent=1&pages=huge"));
  const std::string uri = receiver.uris().front() + "?pages=huge";
  std::vector<Sender> senders;
  senders.push_back(penstock::connect(uri));
  EXPECT_EQ(HugePages::free(), 2U);
  senders.push_back(penstock::connect(uri));
  EXPECT_EQ(HugePages::free(), 0U);
  Storm storm(uri, 1);
  ASSERT_EQ(storm.refusals.size(), 1U);
  EXPECT_TRUE(says(storm.refusals[0],
                   "a ring of 2097152 bytes takes 1 huge pages of 2048 KiB, and 0 are free"));
  EXPECT_TRUE(says(storm.refusals[0], "sysctl vm.nr_hugepages=5"));
  all_work(senders, receiver);
  try {
    (void)penstock::bind(here("pages=enormous"));
    ADD_FAILURE() << "went through";
  } catch (const SetupError& e) {
    EXPECT_EQ(e.errc(), Errc::bad_uri);
  }
}

}  // namespace
}  // namespace penstock
