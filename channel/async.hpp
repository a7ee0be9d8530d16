// Waiting without a thread: what a coroutine awaits until a message, or room for one, is there.
//
// Who writes what: a wait has one owner at a time, who alone touches it: the coroutine before it is
// suspended, then nobody, then whoever took it over (the sender or receiver that chose it, the
// thread that requested a stop, the task on the executor). `state_` says whether it has one, and
// whether something happened meanwhile.
//
// Invariants: whoever takes a wait over tries what is waited for and resumes the coroutine in one
// go, on the thread where the coroutine runs: no message is held between the two, so destroying a
// suspended coroutine loses none. One that was chosen and ends without what it waited for has
// another one chosen.
//
// Lifetime: in the coroutine's frame. A task on the executor that comes too late finds its ticket
// empty.
#pragma once

#include <atomic>
#include <coroutine>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <stop_token>
#include <utility>

#include "penstock/channel/wait_list.hpp"

namespace penstock::v2 {

/// Runs a task later, on the thread or threads where a program's coroutines run. Called by any
/// thread that sends, receives or requests a stop. Must not throw, must not run the task at once,
/// and must work for as long as such threads use the channel.
using Executor = std::function<void(std::function<void()>)>;

/// A place among those whom one thread is to resume, a circle; alone while it is in none.
struct AsyncTurn {
  AsyncTurn* before = this;
  AsyncTurn* after = this;
};

/// How long coroutines may keep a thread that has work of its own, the engine's: so many awaits
/// that need not wait. What would be had by the next one is left, and the coroutine suspended,
/// until the thread comes around again. One object at a time on a thread; without one there is no
/// limit.
class ThreadShare {
 public:
  ThreadShare() noexcept { left_ = kAwaits; }
  ThreadShare(const ThreadShare&) = delete;
  ThreadShare& operator=(const ThreadShare&) = delete;
  ThreadShare(ThreadShare&&) = delete;
  ThreadShare& operator=(ThreadShare&&) = delete;
  ~ThreadShare() { left_ = kNoLimit; }

  /// This thread is one that must not be kept.
  [[nodiscard]] static bool shared() noexcept { return left_ != kNoLimit; }
  [[nodiscard]] static bool used_up() noexcept { return left_ == 0; }
  static void use() noexcept {
    if (left_ > 0) --left_;
  }

 private:
  static constexpr int kAwaits = 128;
  static constexpr int kNoLimit = -1;
  static thread_local constinit int left_;
};

/// One suspended await. Not thread-safe but as said above.
class AsyncWait : public Waiter, private AsyncTurn {
 public:
  /// `executor`: null where the coroutine is to be resumed by whoever has what it waits for: by its
  /// thread, within its call. One after another: what such a coroutine wakes in turn is resumed
  /// after it, so that no number of them takes more of the stack than one.
  AsyncWait(const std::shared_ptr<const Executor>& executor, std::stop_token stop) noexcept
      : Waiter([](Waiter& self, Wake& wake) noexcept {
          auto& wait = static_cast<AsyncWait&>(self);
          if (wait.take_over()) wake = wait.dispatch();
          return true;  // an owner sees the news
        }),
        executor_(executor),
        stop_(std::move(stop)) {}

 protected:
  ~AsyncWait();

  /// Tries what is waited for; true: it is over, one way or the other.
  [[nodiscard]] virtual bool attempt() noexcept = 0;
  /// It is over because a stop was requested.
  virtual void cancel() noexcept = 0;
  /// What is waited for was had; is there more, for another one in the list?
  [[nodiscard]] virtual bool more() noexcept = 0;

  /// `list`: of those who wait for the same. False: it is over, nothing was suspended.
  [[nodiscard]] bool suspend(WaitList& list, std::coroutine_handle<> coroutine);
  [[nodiscard]] bool stop_requested() const noexcept { return stop_.stop_requested(); }

 private:
  enum State : std::uint8_t { kOwned = 1, kNews = 2 };
  struct OnStop {
    AsyncWait* wait;
    void operator()() const noexcept { wait->happened(); }
  };
  /// What the executor gets instead of the wait, which may go before.
  struct Ticket {
    Ticket(AsyncWait* of, std::shared_ptr<const Executor> runs_on) noexcept
        : wait(of), executor(std::move(runs_on)) {}
    std::atomic<AsyncWait*> wait;
    std::shared_ptr<const Executor> executor;
    std::shared_ptr<Ticket> on_its_way;  // the owner's: keeps itself until it is posted
  };

  /// Takes the wait over; false: it has an owner, who will see.
  [[nodiscard]] bool take_over() noexcept;
  void happened() noexcept;
  /// As the owner: what has the wait looked at where the coroutine runs.
  [[nodiscard]] Wake dispatch() noexcept;
  /// As the owner: true: it is over. False: it is nobody's, and may be gone.
  [[nodiscard]] bool look() noexcept;
  void look_and_resume() noexcept;
  static void take_turns() noexcept;

  const std::shared_ptr<const Executor>& executor_;
  const std::stop_token stop_;
  std::atomic<std::uint8_t> state_{kOwned};  // SYNC owner: what one did is seen by the next
  WaitList* list_ = nullptr;
  WaitNode node_{*this};
  std::coroutine_handle<> coroutine_;
  std::shared_ptr<Ticket> ticket_;  // with an executor
  std::optional<std::stop_callback<OnStop>> on_stop_;
};

}  // namespace penstock::v2
