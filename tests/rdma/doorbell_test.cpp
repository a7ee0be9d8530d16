// Contract 6 over a device: a message costs no system call but the one that hands work to the
// device, where it wants one (soft-RoCE does, cards do not). A stream wakes the engine now and then
// to look after it, or yields to it. Needs a device: run by tests/softroce.
#include <gtest/gtest.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <thread>
#include <vector>

#include "penstock/channel/channel.hpp"

namespace penstock {
namespace {

/// The descriptors through which verbs of this process reach their devices.
std::vector<std::uint32_t> device_descriptors() {
  std::vector<std::uint32_t> found;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    const auto target = std::filesystem::read_symlink(entry.path(), error).string();
    if (!error && target.starts_with("/dev/infiniband/uverbs"))
      found.push_back(static_cast<std::uint32_t>(std::stoul(entry.path().filename())));
  }
  return found;
}

/// From now on any system call of this thread waits for whoever has the returned descriptor, but
/// writing to one of `devices` and the process's end.
int watch_system_calls(const std::vector<std::uint32_t>& devices) {
  std::vector<sock_filter> filter{
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_exit_group, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_write, 1, 0),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF),
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, args)),
  };
  for (const auto device : devices) {
    filter.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, device, 0, 1));
    filter.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW));
  }
  filter.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF));
  const sock_fprog program{static_cast<unsigned short>(filter.size()), filter.data()};
  if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) ::_exit(2);
  const auto listener =
      ::syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &program);
  if (listener < 0) ::_exit(2);
  return static_cast<int>(listener);
}

/// Lets the calls through that wait, and counts them.
[[noreturn]] void count_system_calls(int listener, std::atomic<int>& calls) {
  for (;;) {
    seccomp_notif call{};
    if (::ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &call) != 0) continue;
    ++calls;
    seccomp_notif_resp answer{};
    answer.id = call.id;
    answer.flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE;
    ::ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &answer);
  }
}

constexpr int kStream = 200;
constexpr int kSingles = 20;
constexpr int kRounds = 50;
constexpr int kMostCallsInRound = 10;  // of 220 messages; two or so were seen

/// Never returns: exits with 0 when every message arrived, before anything is torn down.
[[noreturn]] void exchange_and_count(const std::string& uri) {
  auto receiver = penstock::bind(uri);
  auto sender = connect(receiver.uris().at(0));
  const std::array<std::byte, 64> message{};
  const auto receive = [&] {
    for (;;) {
      const auto got = receiver.try_recv();
      if (got.status() != RecvStatus::empty) return got && got.data().size() == message.size();
    }
  };
  const auto round = [&] {
    // Half a ring at a time: blocking and sleeping, which may cost, are not the point here.
    for (int i = 0; i < kStream; ++i)
      if (sender.send(message) != SendStatus::sent) return false;
    for (int i = 0; i < kStream; ++i)
      if (!receive()) return false;
    for (int i = 0; i < kSingles; ++i)
      if (sender.send(message) != SendStatus::sent || !receive()) return false;
    return true;
  };
  bool good = true;
  for (int i = 0; i < 5; ++i) good = good && round();

  std::atomic<int> listener{-1};
  std::atomic<int> calls{0};
  std::thread([&] {
    while (listener == -1) std::this_thread::yield();
    count_system_calls(listener, calls);
  }).detach();
  const auto devices = device_descriptors();
  listener = watch_system_calls(devices);
  for (int i = 0; i < kRounds; ++i) good = good && round();
  const int made = calls;
  if (made > kMostCallsInRound * kRounds) std::fprintf(stderr, "%d system calls\n", made);
  good = good && !devices.empty() && made <= kMostCallsInRound * kRounds;
  ::syscall(SYS_exit_group, good ? 0 : 1);
  std::abort();
}

TEST(Doorbell, is_the_only_system_call_that_a_message_costs) {
  const char* address = std::getenv("PENSTOCK_ADDR");
  ASSERT_NE(address, nullptr) << "the address of a device: run by tests/softroce";
  // In a child of its own, which does everything itself: a parent's handles do not work there.
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0)
    exchange_and_count("rdma://" + std::string(address) + ":0/doorbell?capacity=32KiB");
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status)) << "killed by signal " << WTERMSIG(status);
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

}  // namespace
}  // namespace penstock
