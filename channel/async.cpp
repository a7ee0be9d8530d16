#include "penstock/channel/async.hpp"

namespace penstock::v2 {

namespace {

/// Those whom this thread is to resume, and is it at it?
thread_local constinit AsyncTurn turns{nullptr, nullptr};
thread_local constinit bool taking_turns = false;

void queue(AsyncTurn& turn) noexcept {
  if (turns.after == nullptr) turns = {&turns, &turns};  // this thread's first
  turn.before = turns.before;
  turn.after = &turns;
  turn.before->after = turn.after->before = &turn;
}

void leave(AsyncTurn& turn) noexcept {
  turn.before->after = turn.after;
  turn.after->before = turn.before;
  turn.before = turn.after = &turn;
}

}  // namespace

thread_local constinit int ThreadShare::left_ = kNoLimit;

AsyncWait::~AsyncWait() {
  if (list_ == nullptr) return;  // was never suspended
  on_stop_.reset();              // waits for one that runs
  if (take_over()) {
    // The coroutine is destroyed while it waits. A waker that has unlinked it, and found it owned
    // by this, believes that it sees the news.
    if (!list_->remove(node_)) list_->wake(1);
    return;
  }
  if (!coroutine_) return;  // it was resumed
  // Its task has not run yet, perhaps not even been posted, and must not find it. Where it was
  // chosen, it was for nothing.
  if (ticket_) ticket_->wait.store(nullptr, std::memory_order_release);  // SYNC ticket
  leave(*this);
  if (!list_->remove(node_)) list_->wake(1);
}

bool AsyncWait::take_over() noexcept {
  // SYNC owner
  return (state_.fetch_or(kOwned | kNews, std::memory_order_acq_rel) & kOwned) == 0;
}

void AsyncWait::happened() noexcept {
  if (!take_over()) return;
  const auto wake = dispatch();
  wake.run(wake.what);
}

Wake AsyncWait::dispatch() noexcept {
  if (!ticket_) {
    queue(*this);
    return {[](void*) noexcept { take_turns(); }, nullptr};
  }
  ticket_->on_its_way = ticket_;
  return {[](void* raw) noexcept {
            const auto ticket = std::move(static_cast<Ticket*>(raw)->on_its_way);
            (*ticket->executor)([ticket] {
              // SYNC ticket: the coroutine may have been destroyed meanwhile
              if (auto* wait = ticket->wait.load(std::memory_order_acquire))
                wait->look_and_resume();
            });
          },
          ticket_.get()};
}

void AsyncWait::take_turns() noexcept {
  if (taking_turns) return;
  taking_turns = true;
  while (turns.after != &turns) {
    auto& turn = *turns.after;
    leave(turn);
    static_cast<AsyncWait&>(turn).look_and_resume();
  }
  taking_turns = false;
}

void AsyncWait::look_and_resume() noexcept {
  if (!look()) return;
  std::exchange(coroutine_, nullptr).resume();
}

bool AsyncWait::look() noexcept {
  for (;;) {
    // relaxed: taking over has ordered; what comes from here on sets it again
    state_.fetch_and(static_cast<std::uint8_t>(~kNews), std::memory_order_relaxed);
    const bool had = attempt();
    if (had || stop_.stop_requested()) {
      const bool was_queued = list_->remove(node_);
      if (!had) cancel();
      // Chosen for nothing, or the next one has a reason, too.
      if (had ? more() : !was_queued) list_->wake(1);
      return true;
    }
    if (list_->add(node_)) continue;
    std::uint8_t owned = kOwned;
    // SYNC owner. relaxed when it fails: news
    if (state_.compare_exchange_strong(owned, 0, std::memory_order_release,
                                       std::memory_order_relaxed))
      return false;
  }
}

bool AsyncWait::suspend(WaitList& list, std::coroutine_handle<> coroutine) {
  coroutine_ = coroutine;
  if (executor_) ticket_ = std::make_shared<Ticket>(this, executor_);
  list_ = &list;
  if (stop_.stop_possible()) on_stop_.emplace(stop_, OnStop{this});
  if (!look()) return true;
  coroutine_ = nullptr;
  return false;
}

}  // namespace penstock::v2
