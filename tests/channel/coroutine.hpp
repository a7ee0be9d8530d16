// The least of a coroutine library, for tests.
#pragma once

#include <atomic>
#include <coroutine>
#include <cstddef>
#include <deque>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <utility>

#include "penstock/channel/async.hpp"

namespace penstock::test {

/// A coroutine that starts at once; destroying the object destroys it, wherever it is suspended.
class Task {
 public:
  struct promise_type {
    Task get_return_object() {
      return Task(std::coroutine_handle<promise_type>::from_promise(*this));
    }
    std::suspend_never initial_suspend() noexcept { return {}; }
    /// Says that it is done once nothing touches the frame any more.
    struct Final {
      [[nodiscard]] bool await_ready() noexcept { return false; }
      void await_suspend(std::coroutine_handle<promise_type> coroutine) noexcept {
        coroutine.promise().done.store(true, std::memory_order_release);
      }
      void await_resume() noexcept {}
    };
    Final final_suspend() noexcept { return {}; }
    void return_void() noexcept {}
    void unhandled_exception() noexcept { std::terminate(); }
    std::atomic<bool> done{false};
  };

  Task() = default;
  explicit Task(std::coroutine_handle<promise_type> coroutine) : coroutine_(coroutine) {}
  Task(Task&& other) noexcept : coroutine_(std::exchange(other.coroutine_, nullptr)) {}
  Task& operator=(Task&& other) noexcept {
    std::swap(coroutine_, other.coroutine_);
    return *this;
  }
  Task(const Task&) = delete;
  Task& operator=(const Task&) = delete;
  ~Task() {
    if (coroutine_) coroutine_.destroy();
  }
  [[nodiscard]] bool done() const {
    return !coroutine_ || coroutine_.promise().done.load(std::memory_order_acquire);
  }

 private:
  std::coroutine_handle<promise_type> coroutine_;
};

/// Tasks of an executor, run by whoever calls run(). The executor may outlive it.
class Loop {
 public:
  [[nodiscard]] v2::Executor executor() {
    return [weak = std::weak_ptr(queue_)](std::function<void()> task) {
      const auto queue = weak.lock();
      if (!queue) return;
      const std::lock_guard lock(queue->mutex);
      queue->tasks.push_back(std::move(task));
    };
  }
  /// Runs what is there; how many there were.
  std::size_t run() {
    std::deque<std::function<void()>> tasks;
    {
      const std::lock_guard lock(queue_->mutex);
      tasks.swap(queue_->tasks);
    }
    for (auto& task : tasks) task();
    return tasks.size();
  }

 private:
  struct Queue {
    std::mutex mutex;
    std::deque<std::function<void()>> tasks;
  };
  const std::shared_ptr<Queue> queue_ = std::make_shared<Queue>();
};

}  // namespace penstock::test
