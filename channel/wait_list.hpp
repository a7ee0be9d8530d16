// Who waits for one end of a channel, and how they are woken: threads, coroutines, selects, and
// event loops by their descriptors.
//
// Who writes what: the list and its nodes whoever holds the mutex; `waiting_` likewise, and read
// without it by whoever has made something available.
//
// Invariants: a waiter adds itself, then tries once more what it waits for; who makes something
// available does so, then looks whether somebody waits. One of the two sees the other, by
// sequentially consistent operations on `waiting_`, or by the barrier that the waiter makes for all
// (barrier.hpp). Where what is waited for comes from another process, its end of the channel is the
// list's WaitSource, and sees to it that the other side tells. A waiter that was chosen and leaves
// without what it waited for has another one chosen. So no wake-up is lost.
//
// Lifetime: a node lives in its waiter, and is removed before it goes.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <mutex>

#include "penstock/transport/clock.hpp"

namespace penstock::v2 {

/// What wakes a chosen waiter; run with no lock held. May be nothing.
struct Wake {
  void (*run)(void* what) noexcept = nullptr;
  void* what = nullptr;
};

/// Somebody who waits in one list or in several.
class Waiter {
 public:
  /// Called with a list's mutex held. False: has been chosen already, by another list. Not a
  /// virtual function: a list may call it while the waiter is being destroyed, until that has
  /// removed it.
  using Choose = bool (*)(Waiter& self, Wake& wake) noexcept;

  /// `prompt`: once chosen it looks as soon as it has a CPU.
  explicit Waiter(Choose how, bool prompt = false) noexcept : choose_(how), prompt_(prompt) {}
  Waiter(const Waiter&) = delete;
  Waiter& operator=(const Waiter&) = delete;
  Waiter(Waiter&&) = delete;
  Waiter& operator=(Waiter&&) = delete;
  [[nodiscard]] bool choose(Wake& wake) noexcept { return choose_(*this, wake); }
  [[nodiscard]] bool prompt() const noexcept { return prompt_; }

 protected:
  ~Waiter() = default;

 private:
  const Choose choose_;
  const bool prompt_;
};

/// A waiter's place in one list.
struct WaitNode {
  explicit WaitNode(Waiter& who) noexcept : waiter(&who) {}
  Waiter* waiter;
  WaitNode* before = nullptr;
  WaitNode* after = nullptr;
  bool queued = false;
  bool on_its_way = false;  // chosen, and has neither left nor come back
};

/// What a list's waiters wait for, where that does not look into the list by itself.
class WaitSource {
 public:
  WaitSource() = default;
  WaitSource(const WaitSource&) = delete;
  WaitSource& operator=(const WaitSource&) = delete;
  WaitSource(WaitSource&&) = delete;
  WaitSource& operator=(WaitSource&&) = delete;
  // Called with no lock held.

  /// One who waits was added: from when this returns on the list is woken for news.
  virtual void arm() noexcept = 0;
  /// The list was to be woken, and nobody was left in it.
  virtual void woke_nobody() noexcept = 0;

 protected:
  ~WaitSource() = default;
};

/// Thread-safe.
class WaitList {
 public:
  /// `barriers`: waiters make a barrier for all, so that awaited() needs none.
  explicit WaitList(bool barriers) noexcept : barriers_(barriers) {}
  explicit WaitList(WaitSource& source) noexcept : barriers_(false), source_(&source) {}

  /// Somebody is to be chosen. To be called after what they wait for was made available. Not true
  /// while a thread that was chosen is on its way: it sees what is there when it comes, and has the
  /// next one chosen if there is more. (Where there are barriers it would have to make one.)
  [[nodiscard, gnu::always_inline]] bool awaited() noexcept {
    std::atomic_signal_fence(std::memory_order_seq_cst);  // for the compiler
    if (waiting_.load(std::memory_order_relaxed) == 0) [[likely]]
      return false;
    return barriers_ || awaited_in_order();
  }
  /// Chooses and wakes up to `count` of those who wait, the longest first.
  void wake(std::size_t count) noexcept;
  /// All who wait now; not those among them who wait again.
  void wake_all() noexcept;

  /// Queues `node`, unless it is queued; true: it was not, and what is waited for must be tried
  /// again. SYNC awaited (waiter)
  bool add(WaitNode& node) noexcept;
  /// False: it was not queued any more. After this nobody knows of the node.
  bool remove(WaitNode& node) noexcept;

 private:
  [[nodiscard]] bool awaited_in_order() noexcept {
    // SYNC awaited (waker): what was made available is seen by a waiter that this does not see.
    const auto waiting = waiting_.fetch_add(0, std::memory_order_seq_cst);
    return (waiting & kCount) != 0 && (waiting & kOnItsWay) == 0;
  }
  void unlink(WaitNode& node) noexcept;
  void arrived(WaitNode& node) noexcept;

  /// Counted among those who wait where there are no barriers: then a look at the number is enough
  /// to see that it must be read in order.
  static constexpr std::uint32_t kNoBarriers = std::uint32_t{1} << 31U;
  /// A thread was chosen and has not come yet. Only where there are neither barriers nor a source.
  static constexpr std::uint32_t kOnItsWay = std::uint32_t{1} << 30U;
  static constexpr std::uint32_t kCount = kOnItsWay - 1;

  const bool barriers_;
  WaitSource* const source_ = nullptr;
  std::atomic<std::uint32_t> waiting_{barriers_ ? 0 : kNoBarriers};
  std::mutex mutex_;  // guards both below
  WaitNode* first_ = nullptr;
  WaitNode* last_ = nullptr;
};

/// A waiter's stay in a list. One that leaves early and was chosen meanwhile has another one
/// chosen.
class Queued {
 public:
  Queued(WaitList& list, Waiter& waiter) noexcept : list_(list), node_(waiter) {
    (void)list_.add(node_);
  }
  Queued(const Queued&) = delete;
  Queued& operator=(const Queued&) = delete;
  Queued(Queued&&) = delete;
  Queued& operator=(Queued&&) = delete;
  ~Queued() {
    if (!left_ && !list_.remove(node_)) list_.wake(1);
  }
  /// To be followed by trying what was waited for: it may have been chosen for that.
  void leave() noexcept {
    left_ = true;
    (void)list_.remove(node_);
  }

 private:
  WaitList& list_;
  WaitNode node_;
  bool left_ = false;
};

/// A thread that waits.
class WaitingThread final : public Waiter {
 public:
  WaitingThread() noexcept;
  /// Sleeps until it is chosen. False: the deadline came first.
  [[nodiscard]] bool sleep(TimePoint deadline) noexcept;

 private:
  // SYNC chosen: what the waker did before happens-before the sleeper goes on. A futex word.
  std::atomic<std::uint32_t> chosen_{0};
};

}  // namespace penstock::v2
