#include "penstock/transport/engine.hpp"

#include <gtest/gtest.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdlib>
#include <functional>
#include <mutex>
#include <string>
#include <thread>

namespace penstock {
namespace {

using std::chrono::milliseconds;
constexpr int kWatchdogMs = 60'000;

/// Opens once, for whoever waits.
class Gate {
 public:
  void open() {
    const std::lock_guard lock(mutex_);
    open_ = true;
    opened_.notify_all();
  }
  void wait() {
    std::unique_lock lock(mutex_);
    opened_.wait(lock, [this] { return open_; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable opened_;
  bool open_ = false;
};

class Handler final : public EngineHandler {
 public:
  void on_ready(std::uint32_t /*events*/) noexcept override {
    if (ready) ready();
  }
  void on_time(TimePoint /*now*/) noexcept override {
    if (time) time();
  }
  Attention on_attention() noexcept override { return attention ? attention() : Attention::none; }

  std::function<void()> ready;
  std::function<void()> time;
  std::function<Attention()> attention;
};

int readable_descriptor() { return ::eventfd(1, EFD_NONBLOCK | EFD_CLOEXEC); }

enum class By { descriptor, timer, attention };

class Quiesce : public testing::TestWithParam<By> {
 protected:
  /// Sees to it that the engine calls `work` through the handler, once.
  void have_called(const std::shared_ptr<Handler>& handler, const std::function<void()>& work) {
    auto& engine = Engine::get();
    switch (GetParam()) {
      case By::descriptor:
        fd_ = Fd(readable_descriptor());
        handler->ready = [this, work] {
          Engine::get().unwatch(fd_.get());
          work();
        };
        engine.watch(fd_.get(), EPOLLIN, handler);
        break;
      case By::timer:
        handler->time = work;
        engine.call_at(Clock::now(), handler);
        break;
      case By::attention:
        handler->attention = [called = false, work]() mutable {
          if (!std::exchange(called, true)) work();
          return Attention::none;
        };
        engine.attend(handler);
        engine.attention(Attention::soon);
        break;
    }
  }

 private:
  Fd fd_;
};

TEST_P(Quiesce, waits_for_the_call_that_is_running) {
  const auto handler = std::make_shared<Handler>();
  Gate entered;
  Gate leave;
  std::atomic<bool> left = false;
  have_called(handler, [&] {
    entered.open();
    leave.wait();
    left = true;
  });
  entered.wait();
  std::atomic<bool> returned = false;
  std::jthread waiting([&] {
    Engine::get().quiesce(*handler);
    EXPECT_TRUE(left);
    returned = true;
  });
  std::this_thread::sleep_for(milliseconds(20));
  EXPECT_FALSE(returned);
  leave.open();
}

TEST_P(Quiesce, does_not_wait_for_other_handlers) {
  const auto running = std::make_shared<Handler>();
  const auto idle = std::make_shared<Handler>();
  Gate entered;
  Gate leave;
  have_called(running, [&] {
    entered.open();
    leave.wait();
  });
  entered.wait();
  Engine::get().quiesce(*idle);
  leave.open();
  Engine::get().quiesce(*running);
}

TEST_P(Quiesce, returns_at_once_within_the_call) {
  const auto handler = std::make_shared<Handler>();
  Gate done;
  have_called(handler, [&] {
    Engine::get().quiesce(*handler);
    done.open();
  });
  done.wait();
  Engine::get().quiesce(*handler);
}

INSTANTIATE_TEST_SUITE_P(Engine, Quiesce, testing::Values(By::descriptor, By::timer, By::attention),
                         [](const auto& param) {
                           switch (param.param) {
                             case By::descriptor: return "descriptor";
                             case By::timer: return "timer";
                             case By::attention: return "attention";
                           }
                           return "";
                         });

// What follows needs an engine of its own, so each runs in a process of its own.

class EngineProcess : public testing::Test {
 protected:
  void SetUp() override { GTEST_FLAG_SET(death_test_style, "threadsafe"); }
};

[[noreturn]] void fail(const std::string& why) {
  std::fputs((why + "\n").c_str(), stderr);
  std::_Exit(1);
}

/// Progresses when the descriptor says so, and only then, until `done`.
void drive_until(const std::function<bool()>& done) {
  auto& engine = Engine::get();
  while (!done()) {
    pollfd wait{engine.progress_fd(), POLLIN, 0};
    if (::poll(&wait, 1, kWatchdogMs) != 1) fail("progress_fd() did not become readable");
    engine.progress(milliseconds(0));
  }
}

bool is_readable() {
  pollfd wait{Engine::get().progress_fd(), POLLIN, 0};
  return ::poll(&wait, 1, 0) == 1;
}

[[noreturn]] void drive_timers_and_attention() {
  Engine::drive_by_hand();
  auto& engine = Engine::get();
  const auto handler = std::make_shared<Handler>();
  int times = 0;
  handler->time = [&] {
    if (++times < 3) engine.call_at(Clock::now() + milliseconds(5), handler);
  };
  engine.call_at(Clock::now() + milliseconds(20), handler);
  // Handed to the engine by another thread, later than the first.
  std::thread([&] { engine.call_at(Clock::now() + milliseconds(30), handler); }).join();
  drive_until([&] { return times >= 4; });

  int looks = 0;
  handler->attention = [&] {
    ++looks;
    return looks < 3 ? Attention::later : looks < 6 ? Attention::soon : Attention::none;
  };
  engine.attend(handler);
  engine.attention(Attention::later);
  drive_until([&] { return looks >= 6; });

  while (is_readable()) engine.progress(milliseconds(0));  // a wake-up may be left
  std::this_thread::sleep_for(milliseconds(5));
  if (is_readable()) fail("progress_fd() is readable though nothing is due");
  std::_Exit(0);
}

TEST_F(EngineProcess, driven_by_hand_says_when_timers_and_attention_are_due) {
  EXPECT_EXIT(drive_timers_and_attention(), testing::ExitedWithCode(0), "");
}

/// From now on the system call fails with `error` in this thread and those that it starts.
void forbid(long number, int error) {
  std::array<sock_filter, 4> program{{
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, static_cast<unsigned>(number), 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | static_cast<unsigned>(error)),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  }};
  const sock_fprog filter{static_cast<unsigned short>(program.size()), program.data()};
  if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
      ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter, 0, 0) != 0)
    std::_Exit(77);  // not allowed here
}

[[noreturn]] void run_without_epoll_pwait2(int error) {
  forbid(SYS_epoll_pwait2, error);
  auto& engine = Engine::get();
  const auto handler = std::make_shared<Handler>();
  Gate ready;
  Gate time;
  std::atomic<int> looks = 0;
  Gate attention;
  const Fd fd(readable_descriptor());
  handler->ready = [&] {
    engine.unwatch(fd.get());
    ready.open();
  };
  handler->time = [&] { time.open(); };
  handler->attention = [&] {
    if (++looks < 3) return Attention::soon;
    attention.open();
    return Attention::none;
  };
  engine.watch(fd.get(), EPOLLIN, handler);
  ready.wait();
  engine.call_at(Clock::now() + std::chrono::microseconds(1500), handler);
  time.wait();
  engine.attend(handler);
  engine.attention(Attention::soon);
  attention.wait();
  std::_Exit(0);
}

bool exited_well(int status) {
  return WIFEXITED(status) && (WEXITSTATUS(status) == 0 || WEXITSTATUS(status) == 77);
}

TEST_F(EngineProcess, runs_where_the_kernel_has_no_epoll_pwait2) {
  EXPECT_EXIT(run_without_epoll_pwait2(ENOSYS), exited_well, "");
}

TEST_F(EngineProcess, runs_where_a_sandbox_forbids_epoll_pwait2) {
  EXPECT_EXIT(run_without_epoll_pwait2(EPERM), exited_well, "");
}

}  // namespace
}  // namespace penstock
