#include "penstock/channel/wait_list.hpp"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <utility>

#include "penstock/channel/barrier.hpp"
#include "penstock/channel/park.hpp"

namespace penstock::v2 {

void WaitList::unlink(WaitNode& node) noexcept {
  (node.before != nullptr ? node.before->after : first_) = node.after;
  (node.after != nullptr ? node.after->before : last_) = node.before;
  node.before = node.after = nullptr;
  node.queued = false;
  waiting_.fetch_sub(1, std::memory_order_relaxed);  // relaxed: with the mutex held
}

void WaitList::arrived(WaitNode& node) noexcept {
  if (!std::exchange(node.on_its_way, false)) return;
  // SYNC awaited (waiter): what a waker made available that saw this one on its way, is seen now.
  waiting_.fetch_and(~kOnItsWay, std::memory_order_seq_cst);
}

bool WaitList::add(WaitNode& node) noexcept {
  {
    const std::lock_guard lock(mutex_);
    if (node.queued) return false;
    arrived(node);
    node.before = last_;
    node.queued = true;
    (last_ != nullptr ? last_->after : first_) = &node;
    last_ = &node;
    waiting_.fetch_add(1, std::memory_order_seq_cst);  // SYNC awaited (waiter)
  }
  if (barriers_) barrier_for_all(BarrierScope::process);
  if (source_ != nullptr) source_->arm();
  return true;
}

bool WaitList::remove(WaitNode& node) noexcept {
  const std::lock_guard lock(mutex_);
  if (!node.queued) {
    arrived(node);
    return false;
  }
  unlink(node);
  return true;
}

void WaitList::wake(std::size_t count) noexcept {
  std::array<Wake, 16> wakes;
  std::size_t woken = 0;
  while (woken < count) {
    std::size_t chosen = 0;
    bool more = true;
    {
      const std::lock_guard lock(mutex_);
      while (chosen < std::min(count - woken, wakes.size())) {
        auto* node = first_;
        more = node != nullptr;
        if (!more) break;
        unlink(*node);
        wakes[chosen] = {};
        // Before it is chosen, after which it may go.
        const bool prompt = !barriers_ && source_ == nullptr && node->waiter->prompt();
        node->on_its_way = prompt;
        if (!node->waiter->choose(wakes[chosen])) {
          node->on_its_way = false;
          continue;
        }
        ++chosen;
        if (prompt) waiting_.fetch_or(kOnItsWay, std::memory_order_relaxed);  // with the mutex held
      }
    }
    for (std::size_t i = 0; i < chosen; ++i)
      if (wakes[i].run != nullptr) wakes[i].run(wakes[i].what);
    woken += chosen;
    if (!more) break;
  }
  if (woken == 0 && count != 0 && source_ != nullptr) source_->woke_nobody();
}

void WaitList::wake_all() noexcept {
  std::size_t all = 0;
  {
    // One who comes after this sees what it is woken for.
    const std::lock_guard lock(mutex_);
    // relaxed: written with the mutex held
    all = waiting_.load(std::memory_order_relaxed) & kCount;
  }
  wake(all);
}

WaitingThread::WaitingThread() noexcept
    : Waiter(
          [](Waiter& self, Wake& wake) noexcept {
            auto& chosen = static_cast<WaitingThread&>(self).chosen_;
            if (chosen.exchange(1, std::memory_order_acq_rel) != 0) return false;  // SYNC chosen
            // The thread may go on, and this object with it, as soon as the mutex is released: what
            // remains is an address, and a wake-up there does no harm to whoever sleeps there then.
            wake = {[](void* word) noexcept {
                      ::syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, 1, nullptr, nullptr, 0);
                    },
                    &chosen};
            return true;
          },
          true) {}

bool WaitingThread::sleep(TimePoint deadline) noexcept {
  while (chosen_.load(std::memory_order_acquire) == 0) {  // SYNC chosen
    if (deadline != TimePoint::max() && Clock::now() >= deadline) return false;
    futex_wait(chosen_, 0, deadline, FUTEX_WAIT_PRIVATE);
  }
  return true;
}

}  // namespace penstock::v2
