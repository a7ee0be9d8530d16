// Typed channels between threads of one process.
//
//   auto [tx, rx] = penstock::v2::channel<Order, penstock::v2::mpsc>(1024);
//   tx.send(Order{…});
//   for (Order& order : rx) …                       // until every sender is gone
#pragma once

#include <algorithm>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <memory>
#include <optional>
#include <ranges>
#include <stop_token>
#include <type_traits>
#include <utility>

#include "penstock/channel/await.hpp"
#include "penstock/channel/local.hpp"
#include "penstock/channel/receive_iterator.hpp"

namespace penstock::v2 {

template <class T, Topology kTopology>
struct ReserveStep;

/// The two ends of a new channel.
template <class T, Topology kTopology>
struct Ends {
  Sender<T, kTopology> sender;
  Receiver<T, kTopology> receiver;
};

/// A received message, or why there is none.
template <class T>
class Received {
 public:
  Received() = default;
  explicit Received(RecvStatus status) noexcept : status_(status) {}

  [[nodiscard]] RecvStatus status() const noexcept { return status_; }
  explicit operator bool() const noexcept { return value_.has_value(); }
  /// Only where there is one.
  [[nodiscard]] T& operator*() & noexcept { return *value_; }
  [[nodiscard]] const T& operator*() const& noexcept { return *value_; }
  [[nodiscard]] T&& operator*() && noexcept { return *std::move(value_); }
  [[nodiscard]] T* operator->() noexcept { return &*value_; }
  [[nodiscard]] const T* operator->() const noexcept { return &*value_; }

 private:
  template <class, Topology>
  friend class Receiver;
  template <class, Topology>
  friend struct RecvStep;

  std::optional<T> value_;
  RecvStatus status_ = RecvStatus::empty;
};

/// What force_send() did.
template <class T>
struct Forced {
  SendStatus status = SendStatus::closed;
  std::optional<T> evicted;  ///< the oldest message, where the channel was full
};

/// Room for one message, to be made in place. Dropped without commit() it is given back. Not
/// thread-safe; must not outlive its Sender.
template <class T, Topology kTopology>
class Room {
 public:
  Room() = default;
  Room(Room&& other) noexcept
      : local_(std::exchange(other.local_, nullptr)),
        position_(other.position_),
        made_(std::exchange(other.made_, false)),
        status_(other.status_) {}
  Room& operator=(Room&& other) noexcept {
    if (this != &other) {
      drop();
      local_ = std::exchange(other.local_, nullptr);
      position_ = other.position_;
      made_ = std::exchange(other.made_, false);
      status_ = other.status_;
    }
    return *this;
  }
  Room(const Room&) = delete;
  Room& operator=(const Room&) = delete;
  ~Room() { drop(); }

  /// `sent`: there is room.
  [[nodiscard]] SendStatus status() const noexcept { return status_; }
  explicit operator bool() const noexcept { return local_ != nullptr; }
  /// Makes the message, in place of one made before. Only where there is room.
  template <class... Args>
  T& emplace(Args&&... args) {
    if (std::exchange(made_, false)) std::destroy_at(local_->place(position_));
    T* made = std::construct_at(local_->place(position_), std::forward<Args>(args)...);
    made_ = true;
    return *made;
  }
  /// Sends what was made; where nothing was, gives the room back and says false.
  bool commit() noexcept {
    if (!made_) {
      drop();
      return false;
    }
    made_ = false;
    const auto local = std::exchange(local_, nullptr);
    local->publish(position_);
    local->told(1);
    return true;
  }

 private:
  friend class Sender<T, kTopology>;
  friend struct ReserveStep<T, kTopology>;
  void drop() noexcept {
    const auto local = std::exchange(local_, nullptr);
    if (local == nullptr || !local->here()) return;
    if (std::exchange(made_, false)) std::destroy_at(local->place(position_));
    local->abandon(position_);
    local->told(1);
  }

  Local<T, kTopology>* local_ = nullptr;
  std::uint64_t position_ = 0;
  bool made_ = false;
  SendStatus status_ = SendStatus::closed;
};

/// What co_await waits for at the ends of an in-process channel.
template <class T, Topology kTopology, class Step>
using LocalAwait = Await<Local<T, kTopology>, Step>;

/// One try of recv_async().
template <class T, Topology kTopology>
struct RecvStep {
  using Result = Received<T>;
  [[nodiscard]] bool operator()(Local<T, kTopology>& local, Result& out) {
    out.status_ = local.try_recv([&](T&& value) { out.value_.emplace(std::move(value)); });
    return out.status_ != RecvStatus::empty;
  }
  [[nodiscard]] static WaitList& list(Local<T, kTopology>& local) { return local.readable(); }
  [[nodiscard]] static bool more(const Local<T, kTopology>& local) {
    return local.ring().size() != 0;
  }
  static void cancelled(Result& out) { out.status_ = RecvStatus::cancelled; }
  [[nodiscard]] static Result closed() { return Result(RecvStatus::closed); }
};

/// One try of send_async(): the value is left alone unless it is sent.
template <class T, Topology kTopology, class U>
struct SendStep {
  using Result = SendStatus;
  U&& value;
  [[nodiscard]] bool operator()(Local<T, kTopology>& local, Result& out) {
    out = local.try_send(std::forward<U>(value));
    return out != SendStatus::full;
  }
  [[nodiscard]] static WaitList& list(Local<T, kTopology>& local) { return local.writable(); }
  [[nodiscard]] static bool more(const Local<T, kTopology>& local) {
    return local.ring().has_room();
  }
  static void cancelled(Result& out) { out = SendStatus::cancelled; }
  [[nodiscard]] static Result closed() { return SendStatus::closed; }
};

/// One try of reserve_async().
template <class T, Topology kTopology>
struct ReserveStep {
  using Result = Room<T, kTopology>;
  [[nodiscard]] bool operator()(Local<T, kTopology>& local, Result& out) {
    std::size_t count = 1;
    out.status_ = local.try_claim(out.position_, count);
    if (out.status_ == SendStatus::sent) out.local_ = &local;
    return out.status_ != SendStatus::full;
  }
  [[nodiscard]] static WaitList& list(Local<T, kTopology>& local) { return local.writable(); }
  [[nodiscard]] static bool more(const Local<T, kTopology>& local) {
    return local.ring().has_room();
  }
  static void cancelled(Result& out) { out.status_ = SendStatus::cancelled; }
  [[nodiscard]] static Result closed() { return {}; }
};

/// A sender that does not keep its channel open.
template <class T, Topology kTopology>
class WeakSender {
 public:
  WeakSender() = default;
  /// An empty sender where the last one is gone.
  [[nodiscard]] Sender<T, kTopology> upgrade() const noexcept
      requires(several_producers(kTopology));

 private:
  friend class Sender<T, kTopology>;
  std::shared_ptr<Local<T, kTopology>> local_;
};

/// A receiver that does not keep its channel open.
template <class T, Topology kTopology>
class WeakReceiver {
 public:
  WeakReceiver() = default;
  /// An empty receiver where the last one is gone.
  [[nodiscard]] Receiver<T, kTopology> upgrade() const noexcept
      requires(several_consumers(kTopology));

 private:
  friend class Receiver<T, kTopology>;
  std::shared_ptr<Local<T, kTopology>> local_;
};

/// What the two ends of a channel have in common. Thread-safety: run_on() as sending and receiving,
/// the rest from any thread while nobody moves or destroys the end.
template <class T, Topology kTopology>
class LocalEnd {
 public:
  explicit operator bool() const noexcept { return local_ != nullptr; }

  /// Messages sent and not received, those among them whose senders have not published yet.
  [[nodiscard]] std::size_t len() const noexcept { return local_ ? local_->ring().size() : 0; }
  [[nodiscard]] bool is_empty() const noexcept { return len() == 0; }
  /// try_send() would say `full`, or closed.
  [[nodiscard]] bool is_full() const noexcept { return !local_ || !local_->ring().has_room(); }
  [[nodiscard]] std::size_t capacity() const noexcept {
    return local_ ? local_->ring().capacity() : 0;
  }
  [[nodiscard]] std::size_t sender_count() const noexcept { return local_ ? local_->senders() : 0; }
  [[nodiscard]] std::size_t receiver_count() const noexcept {
    return local_ ? local_->receivers() : 0;
  }
  [[nodiscard]] bool same_channel(const LocalEnd& other) const noexcept {
    return local_ == other.local_;
  }
  /// No message will be added. There may be some left.
  [[nodiscard]] bool is_closed() const noexcept { return !local_ || local_->closed(); }
  [[nodiscard]] ChannelStats stats() const noexcept {
    return local_ ? local_->stats() : ChannelStats{};
  }

  /// Where this end's coroutines run from now on; empty: within the call of whoever has what they
  /// wait for.
  void run_on(Executor executor) {
    executor_ = executor ? std::make_shared<const Executor>(std::move(executor)) : nullptr;
  }

 protected:
  LocalEnd() = default;
  explicit LocalEnd(std::shared_ptr<Local<T, kTopology>> local) noexcept
      : local_(std::move(local)) {}

  std::shared_ptr<Local<T, kTopology>> local_;
  std::shared_ptr<const Executor> executor_;
};

/// Sends messages, in order. What is not sent is left alone, with whoever wanted to send it.
///
/// Thread-safety: one thread at a time per Sender; with several producers give each a clone().
/// Errors: statuses; what T's constructor throws comes through, and nothing is sent. An empty or
/// moved-from sender says `closed`. After set-up nothing is allocated, and no system call made but
/// to sleep or to wake. A line of its own, as v1's.
template <class T, Topology kTopology>
class alignas(kLine) Sender : public LocalEnd<T, kTopology> {
  using End = LocalEnd<T, kTopology>;
  using End::executor_;
  using End::local_;

 public:
  Sender() = default;
  Sender(Sender&&) noexcept = default;
  Sender& operator=(Sender&& other) noexcept {
    if (this != &other) {
      leave();
      End::operator=(std::move(other));
    }
    return *this;
  }
  Sender(const Sender&) = delete;
  Sender& operator=(const Sender&) = delete;
  /// The last one to go closes the channel; what was sent can still be received.
  ~Sender() { leave(); }

  /// Waits for room. A negative timeout is as zero.
  template <class U = T>
  requires std::is_constructible_v<T, U&&> SendStatus send(U&& value) {
    return local_ ? local_->send(TimePoint::max(), std::forward<U>(value)) : SendStatus::closed;
  }
  /// `full`, rather than waiting.
  template <class U = T>
  requires std::is_constructible_v<T, U&&> SendStatus try_send(U&& value) {
    return local_ ? local_->try_send(std::forward<U>(value)) : SendStatus::closed;
  }
  template <class U = T>
  requires std::is_constructible_v<T, U&&> SendStatus send_for(U&& value, Duration timeout) {
    return send_until(std::forward<U>(value), deadline_after(timeout));
  }
  template <class U = T>
  requires std::is_constructible_v<T, U&&> SendStatus send_until(U&& value, TimePoint deadline) {
    if (!local_) return SendStatus::closed;
    const auto status = local_->send(deadline, std::forward<U>(value));
    return status == SendStatus::full ? SendStatus::timed_out : status;
  }
  /// Never waits: where the channel is full, the oldest message makes room. `full` only where that
  /// one was claimed and is not published yet. `value` is left alone unless it is sent.
  Forced<T> force_send(T&& value) requires(several_consumers(kTopology)) {
    Forced<T> forced;
    if (local_)
      forced.status = local_->force(std::move(value), [&](T&& oldest) noexcept {
        forced.evicted.emplace(std::move(oldest));
      });
    return forced;
  }

  /// Room for a message to be made in place.
  [[nodiscard]] Room<T, kTopology> reserve() noexcept { return reserve_until(TimePoint::max()); }
  [[nodiscard]] Room<T, kTopology> try_reserve() noexcept {
    return reserve_until(TimePoint::min());
  }
  [[nodiscard]] Room<T, kTopology> reserve_for(Duration timeout) noexcept {
    return reserve_until(deadline_after(timeout));
  }

  /// Sends the elements, one claim for as many as there is room for: copies, or, of a container
  /// given as an rvalue, the elements themselves. Waits for room until all are sent; try_send_many
  /// sends what there is room for now. The first `count` were sent, also when an element's
  /// constructor throws; what was not sent is left alone.
  template <std::ranges::sized_range Range>
  Batch<SendStatus> send_many(Range&& range) {
    return send_range(std::forward<Range>(range), TimePoint::max());
  }
  template <std::ranges::sized_range Range>
  Batch<SendStatus> try_send_many(Range&& range) {
    return send_range(std::forward<Range>(range), TimePoint::min());
  }

  /// For co_await at once: `co_await tx.send_async(std::move(value))`. Suspends the coroutine until
  /// there is room; it is resumed by the thread that made the room, within its call, or on the
  /// executor. `cancelled` once a stop was requested, and then nothing was sent. A suspended
  /// coroutine may be destroyed, on the thread where it would be resumed.
  template <class U = T>
  requires std::is_constructible_v<T, U&&> LocalAwait<T, kTopology, SendStep<T, kTopology, U>>
  send_async(U&& value, std::stop_token stop = {}) {
    return {local_.get(), executor_, std::move(stop), {std::forward<U>(value)}};
  }
  /// As send_async(), for room.
  LocalAwait<T, kTopology, ReserveStep<T, kTopology>> reserve_async(std::stop_token stop = {}) {
    return {local_.get(), executor_, std::move(stop), {}};
  }

  /// Waits until everything that was sent before has been received.
  FlushStatus flush(Duration timeout = kForever) noexcept {
    return local_ ? local_->flush(deadline_after(timeout)) : FlushStatus::closed;
  }
  /// For all clones: their sends get `closed` from now on. What was sent can still be received.
  void close() noexcept {
    if (local_ && local_->here()) local_->close_sending();
  }

  [[nodiscard]] Sender clone() const noexcept requires(several_producers(kTopology)) {
    if (local_) local_->add_sender();
    return Sender(local_);
  }
  [[nodiscard]] WeakSender<T, kTopology> downgrade() const noexcept {
    WeakSender<T, kTopology> weak;
    weak.local_ = local_;
    return weak;
  }

  /// Where it waits for room (select.hpp); null where it has no channel.
  [[nodiscard]] WaitList* wait_list() const noexcept {
    return local_ ? &local_->writable() : nullptr;
  }
  /// There is more room, for another one who waits.
  [[nodiscard]] bool more() const noexcept { return !End::is_full(); }

 private:
  friend class Receiver<T, kTopology>;
  friend class WeakSender<T, kTopology>;
  template <class U, Topology t>
  friend Ends<U, t> channel(std::size_t, const ChannelOptions&);

  /// Counted already.
  explicit Sender(std::shared_ptr<Local<T, kTopology>> local) noexcept : End(std::move(local)) {}

  [[nodiscard]] Room<T, kTopology> reserve_until(TimePoint deadline) noexcept {
    Room<T, kTopology> room;
    if (!local_) return room;
    std::size_t count = 1;
    room.status_ = local_->claim(deadline, room.position_, count);
    if (room.status_ == SendStatus::sent) {
      room.local_ = local_.get();
    } else if (room.status_ == SendStatus::full && deadline != TimePoint::min()) {
      room.status_ = SendStatus::timed_out;
    }
    return room;
  }

  template <class Range>
  Batch<SendStatus> send_range(Range&& range, TimePoint deadline) {
    Batch<SendStatus> batch{0, SendStatus::closed};
    if (!local_) return batch;
    std::size_t left = std::ranges::size(range);
    auto element = std::ranges::begin(range);
    batch.status = SendStatus::sent;
    while (left != 0) {
      std::uint64_t position = 0;
      std::size_t count = left;
      batch.status = local_->claim(deadline, position, count);
      if (batch.status != SendStatus::sent) return batch;
      left -= count;
      for (Claimed claimed(*local_, position, count, batch.count); claimed.left() != 0;)
        claimed.template fill<!std::is_lvalue_reference_v<Range> &&
                              !std::ranges::view<std::remove_cvref_t<Range>>>(element);
    }
    return batch;
  }

  /// Places of a batch. When a constructor throws, what was made is sent and the rest given back.
  class Claimed {
   public:
    /// `sent` is counted up.
    Claimed(Local<T, kTopology>& local, std::uint64_t first, std::size_t count,
            std::size_t& sent) noexcept
        : local_(local),
          first_(first),
          made_(first),
          end_(first + count),
          count_(count),
          sent_(sent) {}
    Claimed(const Claimed&) = delete;
    Claimed& operator=(const Claimed&) = delete;
    Claimed(Claimed&&) = delete;
    Claimed& operator=(Claimed&&) = delete;
    ~Claimed() {
      publish();
      if (made_ != end_) local_.abandon(made_, end_ - made_);
      local_.told(count_);
    }
    [[nodiscard]] std::size_t left() const noexcept { return end_ - made_; }
    /// Makes messages of the elements from `element` on, and sends them.
    template <bool kMove, class Element>
    void fill(Element& element) {
      const auto end = made_ + std::min(left(), kRun);
      while (made_ != end) {
        const auto some = std::min<std::size_t>(end - made_, local_.adjacent(made_));
        T* place = local_.place(made_);
        if constexpr (IteratorOverBytes<Element, T>) {
          copy_values<SlotRing<T, kTopology>::kEach>(place, std::to_address(element), some);
          element += static_cast<std::iter_difference_t<Element>>(some);
          made_ += some;
        } else {
          for (const auto stop = made_ + some; made_ != stop; ++made_, ++place, ++element) {
            if constexpr (kMove) {
              std::construct_at(place, std::ranges::iter_move(element));
            } else {
              std::construct_at(place, *element);
            }
          }
        }
      }
      publish();
    }

   private:
    /// Of a long batch receivers get the first ones while the last ones are being made.
    static constexpr std::size_t kRun = 64;
    void publish() noexcept {
      if (made_ == first_) return;
      local_.publish(first_, made_ - first_);
      sent_ += made_ - first_;
      first_ = made_;
    }

    Local<T, kTopology>& local_;
    std::uint64_t first_;  // the first one not sent
    std::uint64_t made_;
    const std::uint64_t end_;
    const std::size_t count_;
    std::size_t& sent_;
  };

  void leave() noexcept {
    if (const auto local = std::move(local_)) local->drop_sender();
  }
};

/// Receives messages.
///
/// Thread-safety: one thread at a time per Receiver; with several consumers give each a clone(),
/// and each message goes to exactly one of them. Errors: statuses. With one consumer a message
/// whose move constructor throws stays in the channel, and the exception comes through.
template <class T, Topology kTopology>
class alignas(kLine) Receiver : public LocalEnd<T, kTopology> {
  using End = LocalEnd<T, kTopology>;
  using End::executor_;
  using End::local_;

 public:
  Receiver() = default;
  Receiver(Receiver&&) noexcept = default;
  Receiver& operator=(Receiver&& other) noexcept {
    if (this != &other) {
      leave();
      End::operator=(std::move(other));
    }
    return *this;
  }
  Receiver(const Receiver&) = delete;
  Receiver& operator=(const Receiver&) = delete;
  /// The last one to go closes the channel; what is left in it is destroyed.
  ~Receiver() { leave(); }

  [[nodiscard]] Received<T> recv() { return recv_at(TimePoint::max(), RecvStatus::timed_out); }
  [[nodiscard]] Received<T> try_recv() {
    Received<T> out(RecvStatus::closed);
    if (local_)
      out.status_ = local_->try_recv([&](T&& value) { out.value_.emplace(std::move(value)); });
    return out;
  }
  /// A negative timeout is as zero.
  [[nodiscard]] Received<T> recv_for(Duration timeout) {
    return recv_until(deadline_after(timeout));
  }
  [[nodiscard]] Received<T> recv_until(TimePoint deadline) {
    return recv_at(deadline, RecvStatus::timed_out);
  }

  /// Moves up to `count` messages to `out`: waits for the first one, then takes what is there.
  template <std::output_iterator<T&&> Out>
  Batch<RecvStatus> recv_many(Out out, std::size_t count) {
    return recv_batch(out, count, TimePoint::max());
  }
  template <std::output_iterator<T&&> Out>
  Batch<RecvStatus> try_recv_many(Out out, std::size_t count) {
    return recv_batch(out, count, TimePoint::min());
  }

  /// For co_await. Suspends the coroutine until there is a message; it is resumed by the thread
  /// that sends it, within its call, or on the executor. `cancelled` once a stop was requested, and
  /// then nothing was received. A suspended coroutine may be destroyed, on the thread where it
  /// would be resumed: no message goes with it.
  LocalAwait<T, kTopology, RecvStep<T, kTopology>> recv_async(std::stop_token stop = {}) {
    return {local_.get(), executor_, std::move(stop), {}};
  }

  /// Senders get `closed`; what is left is destroyed. For all clones.
  void close() noexcept {
    if (local_ && local_->here()) local_->close_receiving();
  }

  [[nodiscard]] Receiver clone() const noexcept requires(several_consumers(kTopology)) {
    if (local_) local_->add_receiver();
    return Receiver(local_);
  }
  [[nodiscard]] WeakReceiver<T, kTopology> downgrade() const noexcept {
    WeakReceiver<T, kTopology> weak;
    weak.local_ = local_;
    return weak;
  }

  /// Where it waits for messages (select.hpp); null where it has no channel.
  [[nodiscard]] WaitList* wait_list() const noexcept {
    return local_ ? &local_->readable() : nullptr;
  }
  /// There are more messages, for another one who waits.
  [[nodiscard]] bool more() const noexcept { return !End::is_empty(); }

  /// The messages as they come, until the channel is closed and drained. An input range: each
  /// message lives until the next one is asked for.
  using Iterator = ReceiveIterator<Receiver, T>;
  [[nodiscard]] Iterator begin() { return Iterator(*this); }
  [[nodiscard]] std::default_sentinel_t end() const noexcept { return {}; }

 private:
  friend class Sender<T, kTopology>;
  friend class WeakReceiver<T, kTopology>;
  template <class U, Topology t>
  friend Ends<U, t> channel(std::size_t, const ChannelOptions&);

  /// Counted already.
  explicit Receiver(std::shared_ptr<Local<T, kTopology>> local) noexcept : End(std::move(local)) {}

  [[nodiscard]] Received<T> recv_at(TimePoint deadline, RecvStatus late) {
    Received<T> out(RecvStatus::closed);
    if (!local_) return out;
    out.status_ = local_->recv(deadline, [&](T&& value) { out.value_.emplace(std::move(value)); });
    if (out.status_ == RecvStatus::empty) out.status_ = late;
    return out;
  }

  template <class Out>
  Batch<RecvStatus> recv_batch(Out& out, std::size_t count, TimePoint deadline) {
    Batch<RecvStatus> batch{0, RecvStatus::closed};
    if (!local_) return batch;
    batch.status = deadline == TimePoint::min()
                       ? local_->try_recv_many(count, out, batch.count)
                       : local_->recv_many(deadline, count, out, batch.count);
    return batch;
  }

  void leave() noexcept {
    if (const auto local = std::move(local_)) local->drop_receiver();
  }
};

/// A channel between threads that holds up to `capacity` messages (rounded up to a power of two).
/// Throws SetupError: a capacity of 0 or above kMaxSlots, or no memory.
template <class T, Topology kTopology = mpmc>
[[nodiscard]] Ends<T, kTopology> channel(std::size_t capacity, const ChannelOptions& options = {}) {
  static_assert(kTopology != remote, "bind<T>(uri) and connect<T>(uri) are for that");
  const auto slots = checked_capacity(capacity);
  std::shared_ptr<Local<T, kTopology>> local;
  try {
    local = std::make_shared<Local<T, kTopology>>(slots, options);
  } catch (const std::bad_alloc&) {
    no_memory_for(slots, sizeof(T));
  }
  local->add_sender();
  local->add_receiver();
  return {Sender<T, kTopology>(local), Receiver<T, kTopology>(local)};
}

template <class T, Topology kTopology>
Sender<T, kTopology> WeakSender<T, kTopology>::upgrade() const noexcept
    requires(several_producers(kTopology)) {
  return local_ && local_->revive_sender() ? Sender<T, kTopology>(local_) : Sender<T, kTopology>();
}

template <class T, Topology kTopology>
Receiver<T, kTopology> WeakReceiver<T, kTopology>::upgrade() const noexcept
    requires(several_consumers(kTopology)) {
  return local_ && local_->revive_receiver() ? Receiver<T, kTopology>(local_)
                                             : Receiver<T, kTopology>();
}

}  // namespace penstock::v2
