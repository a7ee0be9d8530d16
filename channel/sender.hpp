// The sending end of a channel.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <stop_token>
#include <string_view>
#include <utility>

#include "penstock/channel/await.hpp"
#include "penstock/channel/options.hpp"
#include "penstock/channel/pieces.hpp"
#include "penstock/channel/stats.hpp"
#include "penstock/channel/status.hpp"
#include "penstock/transport/line.hpp"
#include "penstock/transport/message_type.hpp"

namespace penstock::v2 {
class WaitingFd;
}

namespace penstock::inline v1 {

class Outlet;
class Sender;
class WeakSender;
struct Records;
struct Tally;

/// Messages lie in the channel's memory at multiples of so many bytes.
inline constexpr std::size_t kMessageAlign = 16;

/// Room for one message in the channel's own memory, to be filled in place. Dropping it gives the
/// room back. Must not outlive its Sender; not thread-safe.
class Reservation {
 public:
  Reservation() = default;
  Reservation(Reservation&& other) noexcept { swap(other); }
  Reservation& operator=(Reservation&& other) noexcept {
    Reservation(std::move(other)).swap(*this);
    return *this;
  }
  Reservation(const Reservation&) = delete;
  Reservation& operator=(const Reservation&) = delete;
  ~Reservation();

  /// sent: the room is there and data() may be filled. Otherwise why there is none.
  [[nodiscard]] SendStatus status() const noexcept { return status_; }
  explicit operator bool() const noexcept { return data_ != nullptr; }
  /// At a multiple of 16 bytes. Contents are unspecified until written.
  [[nodiscard]] std::span<std::byte> data() const noexcept { return {data_, size_}; }
  /// Publishes the message. The reservation is empty afterwards.
  void commit() noexcept;

 private:
  friend class Sender;
  friend struct ReserveStep;
  void swap(Reservation& other) noexcept {
    std::swap(outlet_, other.outlet_);
    std::swap(tally_, other.tally_);
    std::swap(cursor_, other.cursor_);
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    std::swap(status_, other.status_);
  }

  Outlet* outlet_ = nullptr;
  Tally* tally_ = nullptr;
  std::uint64_t cursor_ = 0;
  std::byte* data_ = nullptr;
  std::size_t size_ = 0;
  SendStatus status_ = SendStatus::closed;
};

/// One try of send_async().
struct SendStep {
  using Result = SendStatus;
  std::span<const std::byte> message;
  Pieces pieces{};  ///< where it is too long to go in one
  [[nodiscard]] bool operator()(Sender& sender, SendStatus& out) noexcept;
  [[nodiscard]] static v2::WaitList& list(Sender& sender);
  [[nodiscard]] static bool more(const Sender& /*sender*/) noexcept { return false; }
  static void cancelled(SendStatus& out) noexcept { out = SendStatus::cancelled; }
  [[nodiscard]] static SendStatus closed() noexcept { return SendStatus::closed; }
};

/// One try of reserve_async().
struct ReserveStep {
  using Result = Reservation;
  std::size_t size;
  [[nodiscard]] bool operator()(Sender& sender, Reservation& out) const noexcept;
  [[nodiscard]] static v2::WaitList& list(Sender& sender) { return SendStep::list(sender); }
  [[nodiscard]] static bool more(const Sender& /*sender*/) noexcept { return false; }
  static void cancelled(Reservation& out) noexcept { out.status_ = SendStatus::cancelled; }
  [[nodiscard]] static Reservation closed() noexcept { return {}; }
};

/// One try of flush_async() and close_async().
struct FlushStep {
  using Result = FlushStatus;
  std::uint64_t target;
  bool closes;
  [[nodiscard]] bool operator()(Sender& sender, FlushStatus& out) const noexcept;
  [[nodiscard]] static v2::WaitList& list(Sender& sender) { return SendStep::list(sender); }
  [[nodiscard]] static bool more(const Sender& /*sender*/) noexcept { return false; }
  static void cancelled(FlushStatus& out) noexcept { out = FlushStatus::cancelled; }
  [[nodiscard]] static FlushStatus closed() noexcept { return FlushStatus::closed; }
};

/// Sends messages, in order, to one receiver.
///
/// Thread-safety: one thread at a time per Sender; give each thread a clone(). Sending allocates
/// nothing, takes no lock, and makes a system call only to wake or to sleep. No member but
/// connect() and clone() throws. A line of its own, so that what lies beside it, written by another
/// thread (the receiver's message, where one function holds both ends), costs it nothing.
class alignas(kLine) Sender {
 public:
  Sender() noexcept;
  Sender(Sender&&) noexcept;
  Sender& operator=(Sender&&) noexcept;
  Sender(const Sender&) = delete;
  Sender& operator=(const Sender&) = delete;
  /// The last clone to go says good-bye to the receiver and waits, for at most the linger time,
  /// until everything sent is in the receiver's memory.
  ~Sender();

  explicit operator bool() const noexcept { return outlet_ != nullptr; }

  /// Waits until there is room. Each takes `message` (0 to max_message() bytes) into the channel;
  /// it may be changed when the call returns. One longer than max_in_place() goes in pieces, with
  /// the calls that may wait; without waiting it is too_large. Remotely, long ones may be written
  /// from where they are into memory of the receiver's (ConnectOptions::landing). Where that fails,
  /// or times out, midway, it was not sent; a timeout is exceeded by the writes under way, 2 MiB at
  /// most.
  SendStatus send(std::span<const std::byte> message) noexcept;
  SendStatus try_send(std::span<const std::byte> message) noexcept;
  SendStatus send_for(std::span<const std::byte> message, Duration timeout) noexcept;

  /// Sends messages together: each run of up to 64 is claimed and published at once, so that a
  /// message costs a fraction of what send() takes. Waits for room until all are sent;
  /// try_send_many() sends what there is room for now. The first `count` were sent, and `status`
  /// says why not more.
  Batch<SendStatus> send_many(std::span<const std::span<const std::byte>> messages) noexcept;
  Batch<SendStatus> try_send_many(std::span<const std::span<const std::byte>> messages) noexcept;
  /// The same for messages of one size, `each`, which lie one after another: copied with the CPU's
  /// widest vectors. What is left over at the end is no message.
  Batch<SendStatus> send_many(std::span<const std::byte> packed, std::size_t each) noexcept;
  Batch<SendStatus> try_send_many(std::span<const std::byte> packed, std::size_t each) noexcept;

  /// Room for `size` bytes, at most max_in_place(): reserve waits, try_reserve does not.
  [[nodiscard]] Reservation reserve(std::size_t size) noexcept;
  [[nodiscard]] Reservation try_reserve(std::size_t size) noexcept;
  [[nodiscard]] Reservation reserve_for(std::size_t size, Duration timeout) noexcept;

  /// For co_await at once: `co_await tx.send_async(message)`. Suspends the coroutine until there is
  /// room; it is resumed on the executor, or by the engine's thread, which it must not keep: no
  /// waiting there, no long work. `cancelled` once a stop was requested, and then nothing was sent.
  /// A suspended coroutine may be destroyed, on the thread where it would be resumed. While it is
  /// suspended the sender must stay where it is, unused, and `message` as it is. Throws SetupError
  /// where no engine can be started.
  v2::Await<Sender, SendStep> send_async(std::span<const std::byte> message,
                                         std::stop_token stop = {}) {
    return {outlet_ ? this : nullptr, executor_, std::move(stop), {message}};
  }
  /// As send_async(), for room.
  v2::Await<Sender, ReserveStep> reserve_async(std::size_t size, std::stop_token stop = {}) {
    return {outlet_ ? this : nullptr, executor_, std::move(stop), {size}};
  }
  /// As flush() and close(), for co_await. Where a coroutine must not wait in a destructor, it
  /// closes first: the last clone's then has nothing to wait for.
  v2::Await<Sender, FlushStep> flush_async(std::stop_token stop = {});
  v2::Await<Sender, FlushStep> close_async(std::stop_token stop = {});
  /// Where this sender's coroutines run from now on; empty: on the engine's thread. May be called
  /// once more when a coroutine has gone, for nothing: it is to own what it uses.
  void run_on(v2::Executor executor);

  /// For an event loop: a descriptor to poll for reading, of this clone, made by the first call. It
  /// is neither read nor closed by the application. -1 where there is no channel. Throws
  /// SetupError.
  ///
  /// It becomes readable only after arm() has said true. Then, and when arm() says false, try to
  /// send, and where that says `full` arm() again: so no wake-up is lost. It may be readable for no
  /// reason.
  [[nodiscard]] int event_fd();
  /// True: there is no room for a message of `size` bytes, and event_fd() becomes readable when
  /// there is more. False: try to send; or event_fd() was never called. Does not wait.
  [[nodiscard]] bool arm(std::size_t size) noexcept;

  /// Where it waits for room (select.hpp); null where it has no channel. All who wait there are
  /// woken for any room. Throws SetupError where no engine can be started.
  [[nodiscard]] v2::WaitList* wait_list() const;
  /// For one who waited there and goes on: nobody else need be woken.
  [[nodiscard]] static bool more() noexcept { return false; }

  /// Waits until the receiver has consumed everything that this channel's senders sent before.
  FlushStatus flush(Duration timeout = kForever) noexcept;
  /// Says good-bye for all clones (their sends then get `closed`), then as flush().
  FlushStatus close(Duration timeout = kForever) noexcept;

  /// Another sender into the same ring, for another thread. Throws SetupError{forked} or
  /// std::bad_alloc. Order holds for each clone on its own.
  [[nodiscard]] Sender clone() const;
  [[nodiscard]] WeakSender downgrade() const noexcept;
  /// Clones there are, this one among them.
  [[nodiscard]] std::size_t sender_count() const noexcept;
  [[nodiscard]] bool same_channel(const Sender& other) const noexcept {
    return outlet_ == other.outlet_;
  }
  /// Nothing is accepted any more: one of the two sides has closed, or the receiver is lost.
  [[nodiscard]] bool is_closed() const noexcept;

  /// Bytes; what the receiver takes (BindOptions::max_message), at least max_in_place().
  [[nodiscard]] std::size_t max_message() const noexcept;
  /// Bytes of a message that goes in one piece.
  [[nodiscard]] std::size_t max_in_place() const noexcept;
  [[nodiscard]] PeerState state() const noexcept;
  /// May be called at any time; takes locks, allocates.
  [[nodiscard]] SenderStats stats() const;

 private:
  friend class WeakSender;
  friend Sender connect(std::string_view, const ConnectOptions&, const MessageType&);
  friend struct SendStep;
  friend struct FlushStep;
  Sender(std::shared_ptr<Outlet> outlet, Tally* tally) noexcept;
  Batch<SendStatus> send_all(const Records& records, Duration timeout) noexcept;
  [[nodiscard]] Reservation reserve_until(std::size_t size, Duration timeout) noexcept;
  void release() noexcept;

  std::shared_ptr<Outlet> outlet_;
  Tally* tally_ = nullptr;  // this clone's own counters, owned by the outlet
  std::shared_ptr<const v2::Executor> executor_;
  std::unique_ptr<v2::WaitingFd> event_;
};

/// A sender that does not keep its channel open.
class WeakSender {
 public:
  WeakSender() = default;
  /// A new clone; an empty sender where the last one is gone. Throws std::bad_alloc.
  [[nodiscard]] Sender upgrade() const;

 private:
  friend class Sender;
  std::weak_ptr<Outlet> outlet_;
};

/// Connects to the receiver bound at `uri`, which must take this `type`; waits for it until the
/// deadline. Throws SetupError.
[[nodiscard]] Sender connect(std::string_view uri, const ConnectOptions& options = {},
                             const MessageType& type = {});

}  // namespace penstock::inline v1
