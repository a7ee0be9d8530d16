// What the senders and receivers of one in-process channel share: its ring, who waits, who is left.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <thread>
#include <utility>

#include "penstock/channel/barrier.hpp"
#include "penstock/channel/options.hpp"
#include "penstock/channel/slot_ring.hpp"
#include "penstock/channel/spin.hpp"
#include "penstock/channel/status.hpp"
#include "penstock/channel/wait_list.hpp"
#include "penstock/channel/watch.hpp"
#include "penstock/transport/clock.hpp"
#include "penstock/transport/error.hpp"
#include "penstock/transport/fork.hpp"
#include "penstock/transport/line.hpp"

namespace penstock::v2 {

/// How a thread waits that finds a channel full or empty.
enum class Waiting : std::uint8_t {
  spin,      ///< looks for ever: for threads with a CPU of their own
  adaptive,  ///< looks for ChannelOptions::spin, then sleeps
  block,     ///< sleeps at once; each message then pays a full barrier so that sleeping is cheap
};

/// Settings of an in-process channel.
struct ChannelOptions {
  Waiting waiting = Waiting::adaptive;
  /// For `adaptive`; kForever is as `spin`, zero or less as `block`.
  Duration spin = kDefaultSpin;
  /// Above 0, with one receiver: of the capacity so much is used that a message that was accepted
  /// waits for about so long, however slow the receiver (docs/flow-control.md).
  Duration target_delay{};
};

/// Work and state of an in-process channel; of a moment that may be over.
struct ChannelStats {
  std::uint64_t sent = 0;      ///< places claimed, given back ones among them
  std::uint64_t received = 0;  ///< places taken
  std::size_t capacity = 0;
  std::size_t senders = 0;
  std::size_t receivers = 0;
  std::uint64_t send_stalls = 0;  ///< sends that found no room
  std::uint64_t send_parks = 0;   ///< ... and slept
  std::uint64_t recv_parks = 0;   ///< receives that slept
  /// Messages that cannot be received because their senders stand still between claiming a place
  /// and publishing it, with later messages behind them. More than 0 for long: look at the threads.
  std::size_t unpublished = 0;
  WindowStats flow;  ///< in messages; without a target_delay the capacity, and nothing measured
};

/// The largest number of messages that a channel may hold.
inline constexpr std::size_t kMaxSlots = std::size_t{1} << 31U;

/// Throws SetupError{bad_option}: 0, or more than kMaxSlots. Otherwise the next power of two.
[[nodiscard]] std::size_t checked_capacity(std::size_t capacity);
/// Throws SetupError{bad_option}: negative, or with several consumers.
[[nodiscard]] Duration checked_target(Duration target, Topology topology);
/// Throws SetupError{resource_limit}.
[[noreturn]] void no_memory_for(std::size_t capacity, std::size_t bytes_each);

/// Thread-safety: as SlotRing's for sending and receiving; the rest from any thread.
template <class T, Topology kTopology>
class Local {
 public:
  Local(std::size_t capacity, const ChannelOptions& options)
      : spin_(options.waiting == Waiting::spin ? kForever
              : sleeps_soon(options)           ? kBriefly
                                               : options.spin),
        barriers_(!sleeps_soon(options) && enroll_in_barriers()),
        ring_(capacity, checked_target(options.target_delay, kTopology)) {}

  // ── Sending ──────────────────────────────────────────────────────────────────────────────────

  /// Makes a message of `args`, which are left alone unless it is sent.
  template <class... Args>
  [[nodiscard]] SendStatus try_send(Args&&... args) {
    if (const auto refused = refusal_to_send(); refused != SendStatus::sent) return refused;
    return sent(ring_.push(Credit::any, std::forward<Args>(args)...), 1);
  }

  template <class... Args>
  [[nodiscard]] SendStatus send(TimePoint deadline, Args&&... args) {
    if (const auto refused = refusal_to_send(); refused != SendStatus::sent) return refused;
    const auto status = sent(ring_.push(Credit::granted, std::forward<Args>(args)...), 1);
    if (status != SendStatus::full) return status;
    return await_room(deadline, [&](Credit credit) {
      return sent(ring_.push(credit, std::forward<Args>(args)...), 1);
    });
  }

  /// As try_send(), but the oldest message makes room, and goes to `take`.
  template <class Take>
  [[nodiscard]] SendStatus force(T&& value, Take&& take) noexcept {
    if (const auto refused = refusal_to_send(); refused != SendStatus::sent) return refused;
    return sent(ring_.force(std::move(value), take), 1);
  }

  /// As claim(), without waiting.
  [[nodiscard]] SendStatus try_claim(std::uint64_t& first, std::size_t& count) noexcept {
    if (const auto refused = refusal_to_send(); refused != SendStatus::sent) return refused;
    return status_of(ring_.claim(first, count, Credit::any));
  }
  /// Claims up to `count` places; at least one if the answer is `sent`.
  [[nodiscard]] SendStatus claim(TimePoint deadline, std::uint64_t& first,
                                 std::size_t& count) noexcept {
    const auto attempt = [&, wanted = count](Credit credit) {
      if (const auto refused = refusal_to_send(); refused != SendStatus::sent) return refused;
      count = wanted;
      return status_of(ring_.claim(first, count, credit));
    };
    const auto status = attempt(Credit::granted);
    return status == SendStatus::full ? await_room(deadline, attempt) : status;
  }
  [[nodiscard]] T* place(std::uint64_t position) noexcept { return ring_.place(position); }
  /// How many places from `position` on lie one behind the other.
  [[nodiscard]] std::size_t adjacent(std::uint64_t position) const noexcept {
    return ring_.adjacent(position);
  }
  /// Publishes claimed places that follow each other, or gives them back. The receivers are to be
  /// told by told().
  void publish(std::uint64_t first, std::size_t count = 1) noexcept { ring_.publish(first, count); }
  void abandon(std::uint64_t first, std::size_t count = 1) noexcept { ring_.abandon(first, count); }
  void told(std::size_t count) noexcept {
    if (readable_.awaited()) readable_.wake(count);
  }

  // ── Receiving ────────────────────────────────────────────────────────────────────────────────

  template <class Take>
  [[nodiscard]] RecvStatus try_recv(Take take) {
    if (!here()) return RecvStatus::forked;
    if (ring_.pop(take, [this] { return receiving_ended(); })) [[likely]] {
      if (writable_.awaited() && ring_.has_room()) writable_.wake(1);
      return RecvStatus::received;
    }
    return empty_or_closed([this, take] { return ring_.pop(take); });
  }

  template <class Take>
  [[nodiscard]] RecvStatus recv(TimePoint deadline, Take take) {
    const auto status = try_recv(take);
    if (status != RecvStatus::empty) [[likely]]
      return status;
    return await_message(deadline, [this, take] { return try_recv(take); });
  }

  /// Moves up to `count` messages to `out`, as many as are there; `taken` is to be 0 before. What
  /// is there is moved though the answer be `closed`.
  template <class Out>
  [[nodiscard]] RecvStatus try_recv_many(std::size_t count, Out& out, std::size_t& taken) {
    if (const auto refused = refusal_to_receive(); refused != RecvStatus::received) return refused;
    const auto take = [&] {
      const auto some = ring_.pop_many(count - taken, out);
      taken += some;
      if (some != 0 && writable_.awaited() && ring_.has_room()) writable_.wake(some);
      return taken == count;
    };
    if (take()) [[likely]]
      return RecvStatus::received;
    const auto status = empty_or_closed(take);
    return status == RecvStatus::empty && taken != 0 ? RecvStatus::received : status;
  }

  /// As try_recv_many(), but waits for the first one.
  template <class Out>
  [[nodiscard]] RecvStatus recv_many(TimePoint deadline, std::size_t count, Out& out,
                                     std::size_t& taken) {
    const auto status = try_recv_many(count, out, taken);
    if (status != RecvStatus::empty) [[likely]]
      return status;
    return await_message(deadline, [&] { return try_recv_many(count, out, taken); });
  }

  // ── Ends ─────────────────────────────────────────────────────────────────────────────────────

  /// Nothing is sent any more. With one producer: by its thread.
  void close_sending() noexcept {
    ring_.close();
    ends_.fetch_or(kSendingEnded, std::memory_order_release);  // SYNC ends
    readable_.wake_all();
    writable_.wake_all();
  }
  /// Nothing is received any more; what is left is destroyed. As a consumer.
  void close_receiving() noexcept {
    ends_.fetch_or(kReceivingEnded, std::memory_order_release);  // SYNC ends
    if constexpr (several_producers(kTopology)) ring_.close();
    ring_.clear();
    readable_.wake_all();
    writable_.wake_all();
  }
  /// No message is accepted any more.
  [[nodiscard]] bool closed() const noexcept {
    return ends_.load(std::memory_order_acquire) != 0;  // SYNC ends
  }

  // A count that has reached zero stays there.
  void add_sender() noexcept { senders_.fetch_add(1, std::memory_order_relaxed); }
  void add_receiver() noexcept { receivers_.fetch_add(1, std::memory_order_relaxed); }
  [[nodiscard]] bool revive_sender() noexcept { return revive(senders_); }
  [[nodiscard]] bool revive_receiver() noexcept { return revive(receivers_); }
  void drop_sender() noexcept {
    // SYNC senders: what other clones sent happens-before the closing
    if (senders_.fetch_sub(1, std::memory_order_acq_rel) == 1 && birth_.here()) close_sending();
  }
  void drop_receiver() noexcept {
    // SYNC receivers: what other clones took happens-before the closing
    if (receivers_.fetch_sub(1, std::memory_order_acq_rel) == 1 && birth_.here()) close_receiving();
  }

  [[nodiscard]] std::size_t senders() const noexcept {
    return senders_.load(std::memory_order_relaxed);
  }
  [[nodiscard]] std::size_t receivers() const noexcept {
    return receivers_.load(std::memory_order_relaxed);
  }
  [[nodiscard]] bool here() const noexcept { return birth_.here(); }
  [[nodiscard]] const SlotRing<T, kTopology>& ring() const noexcept { return ring_; }
  [[nodiscard]] WaitList& readable() noexcept { return readable_; }
  [[nodiscard]] WaitList& writable() noexcept { return writable_; }

  [[nodiscard]] ChannelStats stats() const noexcept {
    ChannelStats stats;
    stats.sent = ring_.tail();
    stats.received = ring_.head();
    stats.capacity = ring_.capacity();
    stats.senders = senders();
    stats.receivers = receivers();
    stats.send_stalls = send_stalls_.load(std::memory_order_relaxed);
    stats.send_parks = send_parks_.load(std::memory_order_relaxed);
    stats.recv_parks = recv_parks_.load(std::memory_order_relaxed);
    stats.unpublished = ring_.unpublished();
    stats.flow = ring_.flow();
    return stats;
  }

  /// Waits until everything that was sent before has been received: looks for it every millisecond
  /// once the time for spinning is over.
  [[nodiscard]] FlushStatus flush(TimePoint deadline) noexcept {
    if (!here()) return FlushStatus::forked;
    const auto target = ring_.tail();
    Spinner spinner(spin_, deadline);
    for (;;) {
      if (static_cast<std::int64_t>(ring_.head() - target) >= 0) return FlushStatus::consumed;
      if (refusal_to_receive() != RecvStatus::received) return FlushStatus::closed;
      if (spinner.again()) continue;
      const auto now = Clock::now();
      if (now >= deadline) return FlushStatus::timed_out;
      // Seldom called: receivers are not made to look for it with every message.
      std::this_thread::sleep_for(std::min<Duration>(deadline - now, std::chrono::milliseconds(1)));
    }
  }

 private:
  enum End : std::uint32_t { kSendingEnded = 1, kReceivingEnded = 2 };
  /// A sender that waits takes room in batches for so many looks, then any there is.
  static constexpr int kLooksForBatches = 1000;

  /// About as long as it takes to fall asleep and to be woken.
  static constexpr Duration kBriefly = std::chrono::microseconds(10);
  [[nodiscard]] static bool sleeps_soon(const ChannelOptions& options) noexcept {
    return options.waiting == Waiting::block ||
           (options.waiting == Waiting::adaptive && options.spin <= Duration::zero());
  }

  [[nodiscard]] static SendStatus status_of(ClaimResult result) noexcept {
    switch (result) {
      case ClaimResult::claimed: return SendStatus::sent;
      case ClaimResult::closed: return SendStatus::closed;
      case ClaimResult::full: break;
    }
    return SendStatus::full;
  }
  [[nodiscard]] SendStatus sent(ClaimResult result, std::size_t count) noexcept {
    if (result == ClaimResult::claimed) told(count);
    return status_of(result);
  }

  [[nodiscard]] SendStatus refusal_to_send() const noexcept {
    if (!here()) return SendStatus::forked;
    return closed() ? SendStatus::closed : SendStatus::sent;
  }
  [[nodiscard]] bool receiving_ended() const noexcept {
    return (ends_.load(std::memory_order_acquire) & kReceivingEnded) != 0;  // SYNC ends
  }
  [[nodiscard]] RecvStatus refusal_to_receive() const noexcept {
    if (!here()) return RecvStatus::forked;
    return receiving_ended() ? RecvStatus::closed : RecvStatus::received;
  }

  /// `take` says whether it got all that was wanted.
  template <class Take>
  [[nodiscard, gnu::noinline]] RecvStatus empty_or_closed(Take take) {
    // Looked at on a line of its own: the tail's is the producers'.
    const auto ends = ends_.load(std::memory_order_acquire);  // SYNC ends
    if (ends == 0) return RecvStatus::empty;
    if ((ends & kReceivingEnded) != 0) return RecvStatus::closed;
    // What was sent before the end may have come after the first look.
    if (take()) return RecvStatus::received;
    return ring_.drained() ? RecvStatus::closed : RecvStatus::empty;
  }

  /// Tries again and again until `attempt` says something else than `not_yet`, spinning, then
  /// sleeping in `list`. After a sleep that ended well, `more` says whether the next one in the
  /// list has reason to be woken.
  template <class Status, class Attempt, class More>
  [[nodiscard]] Status await(WaitList& list, std::atomic<std::uint64_t>& parks, Status not_yet,
                             TimePoint deadline, Attempt attempt, More&& more) {
    Watch watch(spin_, deadline);
    int looks = 0;
    do {
      const auto status = attempt(++looks < kLooksForBatches ? Credit::granted : Credit::any);
      if (status != not_yet) return status;
    } while (watch.again());
    while (Clock::now() < deadline) {
      WaitingThread thread;
      Queued place(list, thread);
      if (const auto status = attempt(Credit::any); status != not_yet) return status;
      parks.fetch_add(1, std::memory_order_relaxed);
      (void)thread.sleep(deadline);
      place.leave();
      if (const auto status = attempt(Credit::any); status != not_yet) {
        if (more()) list.wake(1);
        return status;
      }
    }
    return attempt(Credit::any);
  }

  // What waits is not inlined, so that what does not, is.
  template <class Attempt>
  [[nodiscard, gnu::noinline]] SendStatus await_room(TimePoint deadline, Attempt attempt) {
    send_stalls_.fetch_add(1, std::memory_order_relaxed);
    // With one consumer room comes in batches anyhow.
    if constexpr (several_consumers(kTopology)) look_away_since(full_at_, ring_.tail());
    return await(
        writable_, send_parks_, SendStatus::full, deadline,
        [&](Credit credit) {
          const auto refused = refusal_to_send();
          return refused == SendStatus::sent ? attempt(credit) : refused;
        },
        [&] { return ring_.has_room(); });
  }

  template <class Attempt>
  [[nodiscard, gnu::noinline]] RecvStatus await_message(TimePoint deadline, Attempt attempt) {
    look_away_since(empty_at_, ring_.head());
    return await(
        readable_, recv_parks_, RecvStatus::empty, deadline, [&](Credit) { return attempt(); },
        [&] { return ring_.size() != 0; });
  }

  static void look_away_since(std::atomic<std::uint64_t>& last, std::uint64_t now) noexcept {
    look_away(now - last.load(std::memory_order_relaxed));
    last.store(now, std::memory_order_relaxed);
  }

  [[nodiscard]] static bool revive(std::atomic<std::size_t>& count) noexcept {
    auto now = count.load(std::memory_order_relaxed);
    while (now != 0 && !count.compare_exchange_weak(now, now + 1, std::memory_order_relaxed)) {
    }
    return now != 0;
  }

  const Birth birth_;
  const Duration spin_;
  const bool barriers_;
  // SYNC ends: what was sent or taken before an end is seen by who sees it. Seldom written.
  std::atomic<std::uint32_t> ends_{0};
  SlotRing<T, kTopology> ring_;
  // Each read by the other side for every message, seldom written.
  alignas(kLine) WaitList readable_{barriers_};
  alignas(kLine) WaitList writable_{barriers_};
  // relaxed: hints. The head when a receiver last found nothing, the tail when a sender last found
  // no room.
  alignas(kLine) std::atomic<std::uint64_t> empty_at_{0};
  alignas(kLine) std::atomic<std::uint64_t> full_at_{0};
  // relaxed: statistics
  alignas(kLine) std::atomic<std::uint64_t> send_stalls_{0};
  std::atomic<std::uint64_t> send_parks_{0};
  std::atomic<std::uint64_t> recv_parks_{0};
  std::atomic<std::size_t> senders_{0};
  std::atomic<std::size_t> receivers_{0};
};

}  // namespace penstock::v2
