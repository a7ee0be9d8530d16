// Contract 6: after set-up no allocation and no system call per message on the local path.
#include <gtest/gtest.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstddef>
#include <cstdlib>
#include <new>
#include <string>

#include "penstock/channel/channel.hpp"

namespace {
thread_local std::uint64_t allocations = 0;  // the engine's keep-alives are not a message's
}  // namespace

// Not inlined: g++ 12 would take the pairs apart and warn of a mismatch that is none.
[[gnu::noinline]] void* operator new(std::size_t size) {
  ++allocations;
  if (void* memory = std::malloc(size)) return memory;
  throw std::bad_alloc();
}
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }

namespace penstock {
namespace {

/// Any system call but exit_group kills the process from now on.
void forbid_system_calls() {
  std::array<sock_filter, 4> filter{{
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_exit_group, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
  }};
  const sock_fprog program{filter.size(), filter.data()};
  if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
      ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0)
    ::_exit(2);
}

class Cost : public testing::TestWithParam<const char*> {};

/// Never returns: exits with 0 when every message arrived, before anything is torn down.
[[noreturn]] void exchange_without_system_calls(const char* uri) {
  auto receiver = bind(uri);
  auto sender = connect(uri);
  std::array<std::byte, 64> message{};
  const auto round = [&] {
    // Half a ring at a time: blocking and sleeping, which may cost, are not the point here.
    for (int i = 0; i < 1000; ++i)
      if (sender.send(message) != SendStatus::sent) return false;
    for (int i = 0; i < 1000; ++i)
      if (auto got = receiver.try_recv(); !got || got.data().size() != message.size()) return false;
    for (int i = 0; i < 100; ++i) {
      auto room = sender.reserve(100);
      if (!room) return false;
      room.commit();
      std::array<std::byte, 128> copy;
      if (receiver.recv_into(copy, Duration::zero()).size != 100) return false;
    }
    return true;
  };
  bool good = round();
  forbid_system_calls();
  for (int i = 0; i < 50; ++i) good = good && round();
  ::syscall(SYS_exit_group, good ? 0 : 1);
  std::abort();
}

TEST_P(Cost, a_message_costs_no_allocation) {
  std::uint64_t before = 0;
  auto receiver = bind(GetParam());
  auto sender = connect(GetParam());
  std::array<std::byte, 64> message{};
  for (int i = 0; i < 20'000; ++i) {
    if (i == 100) before = allocations;
    ASSERT_EQ(sender.send(message), SendStatus::sent);
    ASSERT_TRUE(receiver.recv());
  }
  EXPECT_EQ(allocations, before);
}

TEST_P(Cost, a_message_costs_no_system_call) {
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
  GTEST_SKIP() << "the sanitizers make system calls of their own";
#endif
  // In a child of its own, which does everything itself: a parent's handles do not work there.
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) exchange_without_system_calls(GetParam());
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status)) << "killed by signal " << WTERMSIG(status)
                                 << " (31: it made a system call)";
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

INSTANTIATE_TEST_SUITE_P(Local, Cost, testing::Values("inproc:cost", "shm:penstock-cost-test"),
                         [](const auto& test) { return std::string(test.param).substr(0, 3); });

}  // namespace
}  // namespace penstock
