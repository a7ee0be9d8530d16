// The engine: one thread of the process that sleeps on the descriptors of control connections and
// links, so that nothing need be called for progress.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <thread>
#include <vector>

#include "penstock/transport/clock.hpp"
#include "penstock/transport/fd.hpp"

struct epoll_event;

namespace penstock::inline v1 {

/// When a handler wants to be called again.
enum class Attention : std::uint8_t {
  none,
  later,  ///< in about a millisecond
  soon,   ///< in about a fifth of one
};

/// Something that the engine calls. The engine holds weak references; it keeps the handler alive
/// while it calls it.
class EngineHandler {
 public:
  EngineHandler() = default;
  EngineHandler(const EngineHandler&) = delete;
  EngineHandler& operator=(const EngineHandler&) = delete;
  EngineHandler(EngineHandler&&) = delete;
  EngineHandler& operator=(EngineHandler&&) = delete;
  virtual ~EngineHandler() = default;

  /// A watched descriptor is ready (`events` as from epoll). Must not block.
  virtual void on_ready(std::uint32_t events) noexcept = 0;
  /// A timer asked for with call_at() is due.
  virtual void on_time(TimePoint now) noexcept { (void)now; }
  /// Called again and again while somebody has asked for attention. Returns when it wants the next.
  virtual Attention on_attention() noexcept { return Attention::none; }
};

class Engine {
 public:
  /// The engine of this process; started at the first call, never stopped. Throws SetupError.
  static Engine& get();
  /// From now on no thread is started: the application calls progress() when progress_fd() is
  /// readable. To be called before the first channel; throws SetupError otherwise.
  static void drive_by_hand();
  /// An epoll descriptor to poll for reading. Driven by hand, it is readable whenever progress()
  /// has something to do: a descriptor is ready, a timer (pings, deadlines) is due, or somebody
  /// asked for attention. No clock of the application's own is needed.
  [[nodiscard]] int progress_fd() const noexcept { return epoll_.get(); }
  /// Does what is due and returns at the latest after `timeout`. Only when driven by hand, and by
  /// one thread at a time, which counts as the engine's own meanwhile.
  void progress(std::chrono::milliseconds timeout) noexcept;

  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;
  Engine(Engine&&) = delete;
  Engine& operator=(Engine&&) = delete;
  ~Engine() = delete;

  /// Calls handler->on_ready() while `fd` has `events` (epoll, level-triggered). Throws SetupError.
  void watch(int fd, std::uint32_t events, const std::shared_ptr<EngineHandler>& handler);
  /// From now on `fd`, which is watched, counts as ready when it has `events`.
  void rewatch(int fd, std::uint32_t events) noexcept;
  /// When it returns, the handler is not running for `fd` and will not; except on the engine's own
  /// thread, where the handler may be the caller. To be called before the descriptor closes. Hold
  /// no lock that the handler takes.
  void unwatch(int fd) noexcept;
  /// When it returns, no call of the handler that was running is running any more; at once on the
  /// engine's own thread, where the handler may be the caller. It forbids no later call: timers and
  /// attention have no other end than the handler's own. So a handler that is to be stopped first
  /// notes that it is, and every call looks at that note first. What was noted before this is seen
  /// by every call that begins after it. Hold no lock that the handler takes.
  void quiesce(const EngineHandler& handler) noexcept;
  /// Calls handler->on_time() once at `when`.
  void call_at(TimePoint when, const std::shared_ptr<EngineHandler>& handler);
  /// From now on attention() may be asked for it.
  void attend(const std::shared_ptr<EngineHandler>& handler);
  /// Asks that on_attention() of every handler is called so soon, again and again until none wants
  /// it. Cheap when that is going on already; wakes the engine otherwise.
  void attention(Attention when) noexcept;

 private:
  struct Watch {
    int fd;
    std::weak_ptr<EngineHandler> handler;
    const EngineHandler* identity;  // of the handler, which may be dying
  };
  struct Timer {
    TimePoint when;
    std::weak_ptr<EngineHandler> handler;
  };

  explicit Engine(bool own_thread);
  void run() noexcept;
  void run_once(std::chrono::nanoseconds at_most) noexcept;
  void run_ready(std::uint64_t id, std::uint32_t events) noexcept;
  void run_timers() noexcept;
  void run_attention() noexcept;
  template <class Work>
  void call(std::shared_ptr<EngineHandler> handler, Work&& work) noexcept;
  void finish_call(std::shared_ptr<EngineHandler> handler) noexcept;
  void await_call(std::unique_lock<std::mutex>& lock, const EngineHandler* handler) noexcept;
  /// The next timer or attention tick; TimePoint::max() when there is none.
  [[nodiscard]] TimePoint next_due() noexcept;
  [[nodiscard]] int wait(std::span<epoll_event> events, TimePoint until) noexcept;
  void arm_alarm() noexcept;
  [[nodiscard]] bool on_engine_thread() const noexcept {
    return std::this_thread::get_id() == runner_.load(std::memory_order_relaxed);
  }
  void wake() noexcept;

  Fd epoll_;
  Fd wake_fd_;
  Fd alarm_;             // by hand only: a timerfd that makes epoll_ readable when something is due
  bool coarse_ = false;  // the engine's thread only: the kernel has no epoll_pwait2
  // relaxed everywhere: a thread only compares it with itself
  std::atomic<std::thread::id> runner_{};

  std::mutex mutex_;  // guards all below
  std::condition_variable idle_;
  std::map<std::uint64_t, Watch> watches_;
  std::map<int, std::uint64_t> ids_;
  std::uint64_t next_id_ = 2;               // 0 and 1: wake_fd_ and alarm_
  const EngineHandler* running_ = nullptr;  // which one is being called
  std::uint64_t calls_ = 0;                 // of all handlers, the running one included
  std::vector<Timer> timers_;
  std::vector<std::weak_ptr<EngineHandler>> attended_;

  // SYNC attention: a requester stores its reason, then reads this; the engine clears this, then
  // reads the reasons. Both sequentially consistent, so one of the two sees the other.
  std::atomic<Attention> attentive_{Attention::none};
};

}  // namespace penstock::inline v1
