// Typed channels that a URI names: between threads, processes and hosts.
//
//   auto rx = penstock::v2::bind<Order>("rdma://0.0.0.0:7000/orders");
//   auto tx = penstock::v2::connect<Order>("rdma://192.0.2.7:7000/orders");
//   tx.send(Order{…});
//   for (Order& order : rx) …                       // until every sender is gone
//
// Each is a byte channel (v1) and a codec: one whose ends disagree about the type is not set up.
#pragma once

#include <algorithm>
#include <cstddef>
#include <iterator>
#include <memory>
#include <optional>
#include <ranges>
#include <span>
#include <stop_token>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "penstock/channel/await.hpp"
#include "penstock/channel/channel.hpp"
#include "penstock/channel/codec.hpp"
#include "penstock/channel/local_channel.hpp"
#include "penstock/channel/receive_iterator.hpp"
#include "penstock/channel/topology.hpp"
#include "penstock/transport/clock.hpp"

namespace penstock::v2 {

/// A received message, or why there is none, and from whom. Where the codec's T refers to the bytes
/// (std::string_view), they stay in the ring, and are the sender's room, until this is gone.
template <class T>
class ReceivedFrom {
 public:
  ReceivedFrom() = default;
  explicit ReceivedFrom(RecvStatus status) noexcept : status_(status) {}
  /// Of an in-process channel: from nobody in particular.
  explicit ReceivedFrom(Received<T> received) : status_(received.status()) {
    if (received) value_.emplace(*std::move(received));
  }

  [[nodiscard]] RecvStatus status() const noexcept { return status_; }
  explicit operator bool() const noexcept { return value_.has_value(); }
  /// Only where there is one.
  [[nodiscard]] T& operator*() & noexcept { return *value_; }
  [[nodiscard]] const T& operator*() const& noexcept { return *value_; }
  [[nodiscard]] T&& operator*() && noexcept { return *std::move(value_); }
  [[nodiscard]] T* operator->() noexcept { return &*value_; }
  [[nodiscard]] const T* operator->() const noexcept { return &*value_; }
  /// Also for peer_lost and not_decoded.
  [[nodiscard]] SourceId source() const noexcept { return source_; }
  /// For peer_lost.
  [[nodiscard]] const Loss* loss() const noexcept { return message_.loss(); }

 private:
  friend class Receiver<T, remote>;
  v1::Message message_;
  std::optional<T> value_;
  SourceId source_ = 0;
  RecvStatus status_ = RecvStatus::empty;
};

template <class T>
struct RemoteReserveStep;

/// Room for one message in the channel's own memory, to be made in place. Dropped without commit()
/// it is given back. Not thread-safe; must not outlive its Sender.
template <class T>
requires(codec::plain<T>()) class Room<T, remote> {
 public:
  Room() = default;

  /// `sent`: there is room.
  [[nodiscard]] SendStatus status() const noexcept { return room_.status(); }
  explicit operator bool() const noexcept { return static_cast<bool>(room_); }
  /// Makes the message, in place of one made before. Only where there is room.
  template <class... Args>
  T& emplace(Args&&... args) {
    static_assert(alignof(T) <= kMessageAlign, "it would not lie as T must: use send()");
    T* made =
        std::construct_at(reinterpret_cast<T*>(room_.data().data()), std::forward<Args>(args)...);
    made_ = true;
    return *made;
  }
  /// Sends what was made; where nothing was, gives the room back and says false.
  bool commit() noexcept {
    const bool made = std::exchange(made_, false) && room_;
    if (made) {
      room_.commit();
    } else {
      room_ = Reservation();
    }
    return made;
  }

 private:
  friend class Sender<T, remote>;
  friend struct RemoteReserveStep<T>;
  explicit Room(Reservation room) noexcept : room_(std::move(room)) {}
  Reservation room_;
  bool made_ = false;
};

/// One try of send_async().
template <class T>
struct RemoteSendStep {
  using Result = SendStatus;
  const T& value;
  std::vector<std::byte> encoded{};            ///< where it is too long to go in one piece
  std::optional<v1::SendStep> in_pieces = {};  ///< that
  [[nodiscard]] bool operator()(Sender<T, remote>& sender, Result& out) {
    if (in_pieces) return (*in_pieces)(sender.bytes_, out);
    if (ThreadShare::used_up()) return false;
    out = sender.try_send(value);
    if (out == SendStatus::too_large && Codec<T>::size(value) <= sender.max_message()) {
      out = sender.encode(value, encoded);
      if (out != SendStatus::sent) return true;
      in_pieces.emplace(v1::SendStep{encoded});
      return (*in_pieces)(sender.bytes_, out);
    }
    ThreadShare::use();
    return out != SendStatus::full;
  }
  [[nodiscard]] static WaitList& list(Sender<T, remote>& sender) { return *sender.wait_list(); }
  [[nodiscard]] static bool more(Sender<T, remote>& sender) { return sender.more(); }
  static void cancelled(Result& out) { out = SendStatus::cancelled; }
  [[nodiscard]] static Result closed() { return SendStatus::closed; }
};

/// One try of reserve_async().
template <class T>
struct RemoteReserveStep {
  using Result = Room<T, remote>;
  [[nodiscard]] bool operator()(Sender<T, remote>& sender, Result& out) const {
    return v1::ReserveStep{sizeof(T)}(sender.bytes_, out.room_);
  }
  [[nodiscard]] static WaitList& list(Sender<T, remote>& sender) { return *sender.wait_list(); }
  [[nodiscard]] static bool more(Sender<T, remote>& sender) { return sender.more(); }
  static void cancelled(Result& out) { v1::ReserveStep::cancelled(out.room_); }
  [[nodiscard]] static Result closed() { return {}; }
};

/// Sends messages, in order, to one receiver.
///
/// Thread-safety: one thread at a time per Sender; give each a clone(). Errors: statuses; what the
/// codec throws comes through, and nothing is sent. An empty or moved-from sender says `closed`.
/// Costs what v1::Sender costs, and the codec.
template <class T>
class Sender<T, remote> {
  static_assert(Sendable<T>, "specialise penstock::v2::Codec<T> (channel/codec.hpp)");

 public:
  Sender() = default;

  explicit operator bool() const noexcept { return static_cast<bool>(bytes_); }

  /// Waits for room. A negative timeout is as zero. A value whose bytes do not go in one piece is
  /// sent in pieces, with the calls that may wait (v1::Sender::send()).
  SendStatus send(const T& value) { return send_within(value, kForever); }
  /// `full`, rather than waiting.
  SendStatus try_send(const T& value) { return send_within(value, Duration::zero()); }
  SendStatus send_for(const T& value, Duration timeout) {
    return late(send_within(value, std::max(timeout, Duration::zero())));
  }
  SendStatus send_until(const T& value, TimePoint deadline) {
    return send_for(value, time_until(deadline));
  }

  /// Sends the elements together, as v1::Sender::send_many(). The first `count` were sent, also
  /// when the codec throws at a later one. Plain types that lie one after another are copied with
  /// the CPU's widest vectors.
  template <std::ranges::input_range Range>
  Batch<SendStatus> send_many(const Range& range) {
    return send_range(range, kForever);
  }
  template <std::ranges::input_range Range>
  Batch<SendStatus> try_send_many(const Range& range) {
    return send_range(range, Duration::zero());
  }

  /// Room in place: reserve waits, try_reserve does not.
  [[nodiscard]] Room<T, remote> reserve() noexcept requires(codec::plain<T>()) {
    return Room<T, remote>(bytes_.reserve(sizeof(T)));
  }
  [[nodiscard]] Room<T, remote> try_reserve() noexcept requires(codec::plain<T>()) {
    return Room<T, remote>(bytes_.try_reserve(sizeof(T)));
  }
  [[nodiscard]] Room<T, remote> reserve_for(Duration timeout) noexcept requires(codec::plain<T>()) {
    return Room<T, remote>(bytes_.reserve_for(sizeof(T), timeout));
  }

  /// For co_await, an event loop and select: as v1::Sender's. `value` must live until it is sent.
  Await<Sender, RemoteSendStep<T>> send_async(const T& value, std::stop_token stop = {}) {
    return {bytes_ ? this : nullptr, executor_, std::move(stop), {value}};
  }
  Await<Sender, RemoteReserveStep<T>> reserve_async(std::stop_token stop = {}) requires(
      codec::plain<T>()) {
    return {bytes_ ? this : nullptr, executor_, std::move(stop), {}};
  }
  void run_on(Executor executor) {
    executor_ = executor ? std::make_shared<const Executor>(std::move(executor)) : nullptr;
  }
  [[nodiscard]] int event_fd() { return bytes_.event_fd(); }
  [[nodiscard]] bool arm(const T& value) { return bytes_.arm(Codec<T>::size(value)); }
  [[nodiscard]] WaitList* wait_list() const { return bytes_.wait_list(); }
  bool more() noexcept { return bytes_.more(); }

  /// As v1::Sender's.
  FlushStatus flush(Duration timeout = kForever) noexcept { return bytes_.flush(timeout); }
  FlushStatus close(Duration timeout = kForever) noexcept { return bytes_.close(timeout); }
  [[nodiscard]] bool is_closed() const noexcept { return bytes_.is_closed(); }
  [[nodiscard]] PeerState state() const noexcept { return bytes_.state(); }
  [[nodiscard]] SenderStats stats() const { return bytes_.stats(); }
  [[nodiscard]] std::size_t sender_count() const noexcept { return bytes_.sender_count(); }
  [[nodiscard]] bool same_channel(const Sender& other) const noexcept {
    return bytes_.same_channel(other.bytes_);
  }
  /// Messages accepted and not consumed. Linear in what is in the ring.
  [[nodiscard]] std::size_t len() const {
    const auto progress = bytes_.stats().progress;
    return static_cast<std::size_t>(progress.accepted - progress.consumed);
  }
  [[nodiscard]] bool is_empty() const { return len() == 0; }
  /// Bytes, as the codec makes them.
  [[nodiscard]] std::size_t max_message() const noexcept { return bytes_.max_message(); }

  /// Another sender into the same ring, for another thread. Throws SetupError{forked} or
  /// std::bad_alloc.
  [[nodiscard]] Sender clone() const { return Sender(bytes_.clone()); }
  [[nodiscard]] WeakSender<T, remote> downgrade() const noexcept;

 private:
  friend class WeakSender<T, remote>;
  friend struct RemoteSendStep<T>;
  friend struct RemoteReserveStep<T>;
  template <class U>
  friend Sender<U, remote> connect(std::string_view, const ConnectOptions&);
  explicit Sender(v1::Sender bytes) noexcept : bytes_(std::move(bytes)) {}

  [[nodiscard]] SendStatus send_within(const T& value, Duration timeout) {
    const std::size_t size = Codec<T>::size(value);
    auto room = bytes_.reserve_for(size, timeout);
    if (room.status() == SendStatus::too_large && size <= bytes_.max_message() &&
        timeout > timeout.zero()) {
      std::vector<std::byte> encoded;
      const auto made = encode(value, encoded);
      return made == SendStatus::sent ? bytes_.send_for(encoded, timeout) : made;
    }
    if (!room) return room.status();
    if (Codec<T>::encode(value, room.data()) != size) return SendStatus::not_encoded;
    room.commit();
    return SendStatus::sent;
  }
  /// Elsewhere than in the ring, for a value that goes in pieces.
  [[nodiscard]] static SendStatus encode(const T& value, std::vector<std::byte>& bytes) {
    bytes.resize(Codec<T>::size(value));
    return Codec<T>::encode(value, bytes) == bytes.size() ? SendStatus::sent
                                                          : SendStatus::not_encoded;
  }
  template <class Range>
  [[nodiscard]] Batch<SendStatus> send_range(const Range& range, Duration timeout) {
    if constexpr (codec::plain<T>() && std::ranges::contiguous_range<const Range> &&
                  std::ranges::sized_range<const Range> &&
                  std::is_same_v<std::ranges::range_value_t<const Range>, T>) {
      const auto packed =
          std::as_bytes(std::span(std::ranges::data(range), std::ranges::size(range)));
      return timeout == kForever ? bytes_.send_many(packed, sizeof(T))
                                 : bytes_.try_send_many(packed, sizeof(T));
    } else {
      Batch<SendStatus> batch{0, SendStatus::sent};
      for (const T& value : range) {
        batch.status = send_within(value, timeout);
        if (batch.status != SendStatus::sent) break;
        ++batch.count;
      }
      return batch;
    }
  }
  [[nodiscard]] static SendStatus late(SendStatus status) noexcept {
    return status == SendStatus::full ? SendStatus::timed_out : status;
  }

  v1::Sender bytes_;
  std::shared_ptr<const Executor> executor_;
};

/// One try of recv_async().
template <class T>
struct RemoteRecvStep {
  using Result = ReceivedFrom<T>;
  [[nodiscard]] bool operator()(Receiver<T, remote>& receiver, Result& out) {
    if (ThreadShare::used_up()) return false;
    out = receiver.try_recv();
    ThreadShare::use();
    return out.status() != RecvStatus::empty;
  }
  [[nodiscard]] static WaitList& list(Receiver<T, remote>& receiver) {
    return *receiver.wait_list();
  }
  [[nodiscard]] static bool more(Receiver<T, remote>& receiver) { return receiver.more(); }
  static void cancelled(Result& out) { out = Result(RecvStatus::cancelled); }
  [[nodiscard]] static Result closed() { return Result(RecvStatus::closed); }
};

/// Receives messages from any number of senders, fairly.
///
/// Thread-safety: one thread at a time per Receiver; give each a clone(), and each message goes to
/// exactly one of them. Errors: statuses; what the codec throws comes through, and the message is
/// there again for the next call.
template <class T>
class Receiver<T, remote> {
  static_assert(Sendable<T>, "specialise penstock::v2::Codec<T> (channel/codec.hpp)");

 public:
  Receiver() = default;

  explicit operator bool() const noexcept { return static_cast<bool>(bytes_); }

  /// Binds another URI to this receiver. Throws SetupError.
  void bind(std::string_view uri, const BindOptions& options = {}) { bytes_.bind(uri, options); }
  /// Where it is bound, with the port that was picked where none was given.
  [[nodiscard]] std::vector<std::string> uris() const { return bytes_.uris(); }

  [[nodiscard]] ReceivedFrom<T> recv() {
    return decode([this] { return bytes_.recv(); });
  }
  [[nodiscard]] ReceivedFrom<T> try_recv() {
    return decode([this] { return bytes_.try_recv(); });
  }
  /// A negative timeout is as zero.
  [[nodiscard]] ReceivedFrom<T> recv_for(Duration timeout) {
    return decode([&] { return bytes_.recv_for(std::max(timeout, Duration::zero())); });
  }
  [[nodiscard]] ReceivedFrom<T> recv_until(TimePoint deadline) {
    return recv_for(time_until(deadline));
  }

  /// Puts up to `count` messages into `out`: waits for the first one, then takes what is there.
  /// `status` says why not more; of a lost sender, or of bytes that are no T, only recv() says
  /// whose.
  template <std::output_iterator<T&&> Out>
  requires(!codec::views<T>()) Batch<RecvStatus> recv_many(Out out, std::size_t count) {
    return recv_batch(out, count, kForever);
  }
  template <std::output_iterator<T&&> Out>
  requires(!codec::views<T>()) Batch<RecvStatus> try_recv_many(Out out, std::size_t count) {
    return recv_batch(out, count, Duration::zero());
  }

  /// For co_await, an event loop and select: as v1::Receiver's.
  Await<Receiver, RemoteRecvStep<T>> recv_async(std::stop_token stop = {}) {
    return {bytes_ ? this : nullptr, executor_, std::move(stop), {}};
  }
  void run_on(Executor executor) {
    executor_ = executor ? std::make_shared<const Executor>(std::move(executor)) : nullptr;
  }
  [[nodiscard]] int event_fd() const noexcept { return bytes_.event_fd(); }
  [[nodiscard]] bool arm() noexcept { return !failed_ && (!run_ || run_->over()) && bytes_.arm(); }
  [[nodiscard]] WaitList* wait_list() const { return bytes_.wait_list(); }
  bool more() noexcept { return bytes_.more(); }

  /// Turns every sender away: they get `closed`.
  void close() noexcept { bytes_.close(); }
  [[nodiscard]] bool is_closed() const noexcept { return bytes_.is_closed(); }
  [[nodiscard]] ReceiverStats stats() const { return bytes_.stats(); }
  [[nodiscard]] std::size_t sender_count() const noexcept { return bytes_.sender_count(); }
  [[nodiscard]] std::size_t receiver_count() const noexcept { return bytes_.receiver_count(); }
  [[nodiscard]] bool same_channel(const Receiver& other) const noexcept {
    return bytes_.same_channel(other.bytes_);
  }

  /// Another receiver of the same channel, for another thread. Throws SetupError{forked}.
  [[nodiscard]] Receiver clone() const { return Receiver(bytes_.clone()); }
  [[nodiscard]] WeakReceiver<T, remote> downgrade() const noexcept;

  /// The messages as they come, until every sender has gone. An input range: each message lives
  /// until the next one is asked for. Whatever is no message (a lost peer, bytes that cannot be
  /// decoded) ends it too: use recv() where that must be told apart.
  using Iterator = ReceiveIterator<Receiver, T>;
  [[nodiscard]] Iterator begin() { return Iterator(*this); }
  [[nodiscard]] std::default_sentinel_t end() const noexcept { return {}; }

 private:
  friend class WeakReceiver<T, remote>;
  template <class U>
  friend Receiver<U, remote> bind(std::string_view, const BindOptions&);
  explicit Receiver(v1::Receiver bytes) noexcept : bytes_(std::move(bytes)) {}

  /// Messages that were received together, and which one is next.
  struct Run {
    Messages messages;
    std::size_t next = 0;
    [[nodiscard]] bool over() const noexcept { return next >= messages.size(); }
  };

  template <class Out>
  [[nodiscard]] Batch<RecvStatus> recv_batch(Out& out, std::size_t count, Duration timeout) {
    if (!run_) run_ = std::make_unique<Run>();
    Batch<RecvStatus> batch{0, RecvStatus::received};
    for (; batch.count != count; ++batch.count) {
      if (failed_) {
        auto one = recv();
        batch.status = one.status();
        if (!one) break;
        *out = *std::move(one);
        ++out;
        continue;
      }
      if (run_->over()) {
        run_->next = 0;
        const auto status = bytes_.recv_many(run_->messages, count - batch.count,
                                             batch.count == 0 ? timeout : Duration::zero());
        if (status != RecvStatus::received) {
          if (batch.count == 0 || status != RecvStatus::empty) batch.status = status;
          break;
        }
      }
      // Where the codec throws, the message is the next one again.
      auto value = Codec<T>::decode(readable(run_->messages[run_->next]));
      ++run_->next;
      if (!value) {
        batch.status = RecvStatus::not_decoded;
        break;
      }
      *out = *std::move(value);
      ++out;
    }
    if (run_->over()) run_->messages.release();
    return batch;
  }

  template <class Next>
  [[nodiscard]] ReceivedFrom<T> decode(Next&& next) {
    if (run_ && !run_->over()) return decode_from_run();
    ReceivedFrom<T> out;
    out.message_ = failed_ ? std::move(failed_) : next();
    out.status_ = out.message_.status();
    out.source_ = out.message_.source();
    if (out.status_ != RecvStatus::received) return out;
    try {
      out.value_ = Codec<T>::decode(readable(out.message_.data()));
    } catch (...) {
      failed_ = std::move(out.message_);
      throw;
    }
    if (!out.value_) out.status_ = RecvStatus::not_decoded;
    if (!codec::views<T>() || !out.value_) out.message_.release();
    return out;
  }

  [[nodiscard]] ReceivedFrom<T> decode_from_run() {
    ReceivedFrom<T> out(RecvStatus::received);
    out.source_ = run_->messages.source();
    out.value_ = Codec<T>::decode(readable(run_->messages[run_->next]));
    ++run_->next;
    if (!out.value_) out.status_ = RecvStatus::not_decoded;
    if (run_->over()) run_->messages.release();
    return out;
  }

  [[nodiscard]] std::span<const std::byte> readable(std::span<const std::byte> bytes) {
    if constexpr (codec::reads_once<T>() || codec::views<T>()) {
      return bytes;
    } else {
      copy_.assign(bytes.begin(), bytes.end());
      return copy_;
    }
  }

  v1::Receiver bytes_;
  std::shared_ptr<const Executor> executor_;
  std::unique_ptr<Run> run_;     // made by the first recv_many()
  v1::Message failed_;           // one that could not be decoded for want of something
  std::vector<std::byte> copy_;  // keeps its memory
};

/// A sender that does not keep its channel open.
template <class T>
class WeakSender<T, remote> {
 public:
  WeakSender() = default;
  /// An empty sender where the last one is gone. Throws std::bad_alloc.
  [[nodiscard]] Sender<T, remote> upgrade() const { return Sender<T, remote>(bytes_.upgrade()); }

 private:
  friend class Sender<T, remote>;
  v1::WeakSender bytes_;
};

/// A receiver that does not keep its channel open.
template <class T>
class WeakReceiver<T, remote> {
 public:
  WeakReceiver() = default;
  /// An empty receiver where the last one is gone. Throws std::bad_alloc.
  [[nodiscard]] Receiver<T, remote> upgrade() const {
    return Receiver<T, remote>(bytes_.upgrade());
  }

 private:
  friend class Receiver<T, remote>;
  v1::WeakReceiver bytes_;
};

template <class T>
WeakSender<T, remote> Sender<T, remote>::downgrade() const noexcept {
  WeakSender<T, remote> weak;
  weak.bytes_ = bytes_.downgrade();
  return weak;
}

template <class T>
WeakReceiver<T, remote> Receiver<T, remote>::downgrade() const noexcept {
  WeakReceiver<T, remote> weak;
  weak.bytes_ = bytes_.downgrade();
  return weak;
}

/// A receiver of T bound at `uri`. Throws SetupError.
template <class T>
[[nodiscard]] Receiver<T, remote> bind(std::string_view uri, const BindOptions& options = {}) {
  return Receiver<T, remote>(v1::bind(uri, options, Codec<T>::type()));
}

/// Connects to the receiver of T bound at `uri`; waits for it until the deadline. Throws
/// SetupError; type_mismatch where it takes another type.
template <class T>
[[nodiscard]] Sender<T, remote> connect(std::string_view uri, const ConnectOptions& options = {}) {
  return Sender<T, remote>(v1::connect(uri, options, Codec<T>::type()));
}

}  // namespace penstock::v2
