#include "penstock/transport/engine.hpp"

#include <pthread.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>

#include "penstock/transport/error.hpp"
#include "penstock/transport/fork.hpp"

namespace penstock::inline v1 {

std::atomic<std::uint32_t> fork_count{0};

namespace {

std::mutex g_mutex;
Engine* g_engine = nullptr;  // never deleted: its thread may outlive main()
bool g_by_hand = false;

void before_fork() noexcept { g_mutex.lock(); }
void after_fork_parent() noexcept { g_mutex.unlock(); }
void after_fork_child() noexcept {
  fork_count.fetch_add(1, std::memory_order_relaxed);  // relaxed: the child has one thread
  g_engine = nullptr;                                  // the parent's; its thread is not here
  g_mutex.unlock();
}

const int g_fork_handlers = ::pthread_atfork(before_fork, after_fork_parent, after_fork_child);

constexpr auto kLater = std::chrono::milliseconds(1);
constexpr auto kSoon = std::chrono::microseconds(200);
constexpr auto kLongestSleep = std::chrono::minutes(1);
constexpr std::uint64_t kWakeId = 0;
constexpr std::uint64_t kAlarmId = 1;

timespec to_timespec(std::chrono::nanoseconds time) noexcept {
  const auto whole = std::chrono::duration_cast<std::chrono::seconds>(time);
  return {whole.count(), (time - whole).count()};
}

}  // namespace

Engine& Engine::get() {
  const std::lock_guard lock(g_mutex);
  if (g_fork_handlers != 0) throw_errno("pthread_atfork", g_fork_handlers);
  if (g_engine == nullptr) g_engine = new Engine(!g_by_hand);
  return *g_engine;
}

void Engine::drive_by_hand() {
  const std::lock_guard lock(g_mutex);
  if (g_engine != nullptr && !g_by_hand)
    throw SetupError(
        Errc::system,
        "the engine thread runs already: call drive_by_hand() before the first channel");
  g_by_hand = true;
}

Engine::Engine(bool own_thread)
    : epoll_(::epoll_create1(EPOLL_CLOEXEC)), wake_fd_(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) {
  if (!epoll_) throw_errno("engine: epoll_create1", errno);
  if (!wake_fd_) throw_errno("engine: eventfd", errno);
  const auto add = [this](int fd, std::uint64_t id) {
    epoll_event event{};
    event.events = EPOLLIN;
    event.data.u64 = id;
    if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) != 0)
      throw_errno("engine: epoll_ctl", errno);
  };
  add(wake_fd_.get(), kWakeId);
  if (!own_thread) {
    alarm_ = Fd(::timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC));
    if (!alarm_) throw_errno("engine: timerfd_create", errno);
    add(alarm_.get(), kAlarmId);
    return;
  }
  // The application's signals are not for this thread.
  sigset_t all;
  sigset_t old;
  sigfillset(&all);
  ::pthread_sigmask(SIG_SETMASK, &all, &old);
  try {
    std::thread thread([this] { run(); });
    ::pthread_setname_np(thread.native_handle(), "penstock");
    thread.detach();
  } catch (const std::system_error& e) {
    ::pthread_sigmask(SIG_SETMASK, &old, nullptr);
    throw SetupError(Errc::resource_limit,
                     std::string("engine: its thread cannot be started (") + e.what() +
                         "): raise the limit of processes and threads (ulimit -u, pids cgroup)");
  }
  ::pthread_sigmask(SIG_SETMASK, &old, nullptr);
}

void Engine::wake() noexcept {
  const std::uint64_t one = 1;
  // A full counter is as good as a written one: the engine is awake or about to be.
  [[maybe_unused]] const auto written = ::write(wake_fd_.get(), &one, sizeof one);
}

void Engine::watch(int fd, std::uint32_t events, const std::shared_ptr<EngineHandler>& handler) {
  const std::lock_guard lock(mutex_);
  const std::uint64_t id = next_id_++;
  epoll_event event{};
  event.events = events;
  event.data.u64 = id;
  watches_[id] = {fd, handler, handler.get()};
  ids_[fd] = id;
  if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) != 0) {
    const int error = errno;
    watches_.erase(id);
    ids_.erase(fd);
    throw_errno("engine: watching a descriptor with epoll_ctl", error);
  }
}

void Engine::rewatch(int fd, std::uint32_t events) noexcept {
  const std::lock_guard lock(mutex_);
  const auto found = ids_.find(fd);
  if (found == ids_.end()) return;
  epoll_event event{};
  event.events = events;
  event.data.u64 = found->second;
  ::epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, fd, &event);
}

void Engine::unwatch(int fd) noexcept {
  std::unique_lock lock(mutex_);
  const auto found = ids_.find(fd);
  if (found == ids_.end()) return;
  const auto watch = watches_.find(found->second);
  const auto* handler = watch->second.identity;
  ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr);
  ids_.erase(found);
  watches_.erase(watch);
  await_call(lock, handler);
}

void Engine::quiesce(const EngineHandler& handler) noexcept {
  std::unique_lock lock(mutex_);
  await_call(lock, &handler);
}

void Engine::await_call(std::unique_lock<std::mutex>& lock, const EngineHandler* handler) noexcept {
  if (running_ != handler || on_engine_thread()) return;
  idle_.wait(lock, [&, call = calls_] { return running_ != handler || calls_ != call; });
}

void Engine::call_at(TimePoint when, const std::shared_ptr<EngineHandler>& handler) {
  bool sooner = false;
  {
    const std::lock_guard lock(mutex_);
    sooner = std::ranges::all_of(timers_, [&](const Timer& t) { return when < t.when; });
    timers_.push_back({when, handler});
  }
  if (sooner && !on_engine_thread()) wake();
}

void Engine::attend(const std::shared_ptr<EngineHandler>& handler) {
  const std::lock_guard lock(mutex_);
  std::erase_if(attended_, [](const auto& weak) { return weak.expired(); });
  attended_.push_back(handler);
}

void Engine::attention(Attention when) noexcept {
  // SYNC attention (requester): its reason was stored before, sequentially consistent.
  auto seen = attentive_.load(std::memory_order_seq_cst);
  while (seen < when)
    if (attentive_.compare_exchange_weak(seen, when, std::memory_order_seq_cst)) return wake();
}

template <class Work>
void Engine::call(std::shared_ptr<EngineHandler> handler, Work&& work) noexcept {
  {
    const std::lock_guard lock(mutex_);
    running_ = handler.get();
    ++calls_;
  }
  work(*handler);
  finish_call(std::move(handler));
}

void Engine::finish_call(std::shared_ptr<EngineHandler> handler) noexcept {
  handler.reset();  // may be the last reference: outside the lock
  const std::lock_guard lock(mutex_);
  running_ = nullptr;
  idle_.notify_all();
}

void Engine::run_ready(std::uint64_t id, std::uint32_t events) noexcept {
  std::shared_ptr<EngineHandler> handler;
  {
    // One critical section, so that unwatch() either comes before or waits.
    const std::lock_guard lock(mutex_);
    const auto found = watches_.find(id);
    if (found == watches_.end()) return;  // unwatched after epoll_wait returned
    handler = found->second.handler.lock();
    if (!handler) return;  // dying: its destructor unwatches
    running_ = handler.get();
    ++calls_;
  }
  handler->on_ready(events);
  finish_call(std::move(handler));
}

void Engine::run_timers() noexcept {
  const auto now = Clock::now();
  std::vector<std::shared_ptr<EngineHandler>> due;
  {
    const std::lock_guard lock(mutex_);
    std::erase_if(timers_, [&](const Timer& timer) {
      if (timer.when > now) return timer.handler.expired();
      if (auto handler = timer.handler.lock()) due.push_back(std::move(handler));
      return true;
    });
  }
  for (auto& handler : due) call(std::move(handler), [now](EngineHandler& h) { h.on_time(now); });
}

void Engine::run_attention() noexcept {
  // relaxed: attention() also wakes us
  if (attentive_.load(std::memory_order_relaxed) == Attention::none) return;
  const auto ask = [this] {
    std::vector<std::shared_ptr<EngineHandler>> handlers;
    {
      const std::lock_guard lock(mutex_);
      for (const auto& weak : attended_)
        if (auto handler = weak.lock()) handlers.push_back(std::move(handler));
    }
    auto wanted = Attention::none;
    for (auto& handler : handlers)
      call(std::move(handler),
           [&wanted](EngineHandler& h) { wanted = std::max(wanted, h.on_attention()); });
    return wanted;
  };
  const auto wanted = ask();
  // SYNC attention (engine): lowered first, then asked once more, where a request may have been
  // overlooked.
  attentive_.store(wanted, std::memory_order_seq_cst);
  if (wanted != Attention::none) return;
  if (const auto again = ask(); again != Attention::none)
    attentive_.store(again, std::memory_order_seq_cst);
}

TimePoint Engine::next_due() noexcept {
  const std::lock_guard lock(mutex_);
  auto due = TimePoint::max();
  for (const auto& timer : timers_) due = std::min(due, timer.when);
  // relaxed: a request after this load writes to the wake-up descriptor
  switch (attentive_.load(std::memory_order_relaxed)) {
    case Attention::none: break;
    case Attention::later: due = std::min(due, Clock::now() + kLater); break;
    case Attention::soon: due = std::min(due, Clock::now() + kSoon); break;
  }
  return due;
}

int Engine::wait(std::span<epoll_event> events, TimePoint until) noexcept {
  const auto left = std::max<std::chrono::nanoseconds>(until - Clock::now(), {});
  const auto size = static_cast<int>(events.size());
  if (!coarse_) {
    const auto timeout = to_timespec(left);
    const int count = ::epoll_pwait2(epoll_.get(), events.data(), size, &timeout, nullptr);
    // Linux before 5.11 has no such call, and some sandboxes forbid it.
    if (count >= 0 || (errno != ENOSYS && errno != EPERM)) return count;
    coarse_ = true;
  }
  // Rounded up: rounded down, the last part of a wait would be spun away.
  const auto ms = std::chrono::ceil<std::chrono::milliseconds>(left).count();
  return ::epoll_wait(epoll_.get(), events.data(), size, static_cast<int>(ms));
}

void Engine::arm_alarm() noexcept {
  itimerspec alarm{};  // zero: never
  if (const auto due = next_due(); due != TimePoint::max()) {
    // One that is past fires at once; so does the first moment of the clock, which zero would not.
    alarm.it_value = to_timespec(
        std::max<std::chrono::nanoseconds>(due.time_since_epoch(), std::chrono::nanoseconds(1)));
  }
  // Setting it also takes back that it has fired.
  ::timerfd_settime(alarm_.get(), TFD_TIMER_ABSTIME, &alarm, nullptr);
}

void Engine::run_once(std::chrono::nanoseconds at_most) noexcept {
  std::array<epoll_event, 64> events;
  const int count = wait(events, std::min(next_due(), Clock::now() + at_most));
  for (int i = 0; i < count; ++i) {
    const auto& event = events[static_cast<std::size_t>(i)];
    if (event.data.u64 == kWakeId) {
      std::uint64_t drained = 0;
      [[maybe_unused]] const auto got = ::read(wake_fd_.get(), &drained, sizeof drained);
    } else if (event.data.u64 != kAlarmId) {
      run_ready(event.data.u64, event.events);
    }
  }
  run_timers();
  run_attention();
}

void Engine::run() noexcept {
  runner_.store(std::this_thread::get_id(), std::memory_order_relaxed);
  for (;;) run_once(kLongestSleep);
}

void Engine::progress(std::chrono::milliseconds timeout) noexcept {
  runner_.store(std::this_thread::get_id(), std::memory_order_relaxed);
  run_once(std::clamp<std::chrono::milliseconds>(timeout, timeout.zero(), kLongestSleep));
  arm_alarm();
  runner_.store({}, std::memory_order_relaxed);
}

}  // namespace penstock::inline v1
