// The receiving end of a channel.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <stop_token>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "penstock/channel/await.hpp"
#include "penstock/channel/options.hpp"
#include "penstock/channel/stats.hpp"
#include "penstock/channel/status.hpp"
#include "penstock/transport/line.hpp"
#include "penstock/transport/message_type.hpp"

namespace penstock::inline v1 {

class Inlet;
class Mailbox;
class Receiver;
class Spare;
class WeakReceiver;
struct Drain;
struct RecvStep;

/// How a lost sender ended.
struct Loss {
  Progress progress;   ///< consumed is exact; accepted and delivered are lower bounds
  std::string reason;  ///< for a person
};

/// Gives back the memory of a message that lies beside the ring.
struct FreeAside {
  std::shared_ptr<Spare> spare{};  ///< where it came from; null: from the heap
  std::size_t length = 0;
  void operator()(std::byte* bytes) const noexcept;
};

/// What few messages have.
struct Aside {
  Loss loss;                                      ///< for peer_lost
  std::unique_ptr<std::byte[], FreeAside> bytes;  ///< of a message that lies beside the ring
};

/// Messages of one sender that may be held unreleased at a time.
inline constexpr std::size_t kMaxViews = 256;

/// A received message, read in place from the ring, or why there is none. Destroying or releasing
/// it gives the ring space back to the sender; messages may be released in any order and may
/// outlive the Receiver. One that was longer than a piece lies in memory of its own, and its ring
/// space was given back before. Not thread-safe, but may be moved to another thread.
class Message {
 public:
  Message() = default;
  Message(Message&& other) noexcept
      : inlet_(std::exchange(other.inlet_, nullptr)),
        data_(std::exchange(other.data_, nullptr)),
        size_(std::exchange(other.size_, 0)),
        source_(other.source_),
        view_(other.view_),
        status_(std::exchange(other.status_, RecvStatus::empty)),
        aside_(std::move(other.aside_)) {}
  Message& operator=(Message&& other) noexcept {
    if (this != &other) {
      release();
      inlet_ = std::exchange(other.inlet_, nullptr);
      data_ = std::exchange(other.data_, nullptr);
      size_ = std::exchange(other.size_, 0);
      source_ = other.source_;
      view_ = other.view_;
      status_ = std::exchange(other.status_, RecvStatus::empty);
      aside_ = std::move(other.aside_);
    }
    return *this;
  }
  Message(const Message&) = delete;
  Message& operator=(const Message&) = delete;
  ~Message() {
    if (inlet_ != nullptr) give_back();
  }

  [[nodiscard]] RecvStatus status() const noexcept { return status_; }
  explicit operator bool() const noexcept { return status_ == RecvStatus::received; }
  /// At a multiple of 16 bytes; valid until release(). A remote peer that misbehaves can change
  /// these bytes at any time: decode from a copy where it is not trusted.
  [[nodiscard]] std::span<const std::byte> data() const noexcept { return {data_, size_}; }
  [[nodiscard]] std::string_view text() const noexcept {
    return {reinterpret_cast<const char*>(data_), size_};
  }
  /// The sender it came from (also set for peer_lost).
  [[nodiscard]] SourceId source() const noexcept { return source_; }
  /// For peer_lost.
  [[nodiscard]] const Loss* loss() const noexcept {
    return status_ == RecvStatus::peer_lost && aside_ ? &aside_->loss : nullptr;
  }
  /// data() is empty afterwards.
  void release() noexcept {
    if (data_ != nullptr) give_back();
  }

 private:
  friend class Mailbox;
  friend class Receiver;
  friend class Inlet;
  friend struct RecvStep;
  void give_back() noexcept;

  Inlet* inlet_ = nullptr;  // keeps itself alive while messages are held
  const std::byte* data_ = nullptr;
  std::size_t size_ = 0;
  SourceId source_ = 0;
  std::uint64_t view_ = 0;
  RecvStatus status_ = RecvStatus::empty;
  std::unique_ptr<Aside> aside_;
};

/// Messages of one sender that were received together, read in place, or why there are none.
/// Destroying, releasing or receiving into it gives their ring space back. Not thread-safe.
class Messages {
 public:
  /// The most that are received together.
  static constexpr std::size_t kMost = 64;
  using Iterator = const std::span<const std::byte>*;

  /// What recv_many() said of the last ones.
  [[nodiscard]] RecvStatus status() const noexcept { return first_.status(); }
  explicit operator bool() const noexcept { return static_cast<bool>(first_); }
  [[nodiscard]] std::size_t size() const noexcept { return count_; }
  /// As Message::data(), in the order in which they were sent.
  [[nodiscard]] std::span<const std::byte> operator[](std::size_t i) const noexcept {
    return data_[i];
  }
  [[nodiscard]] Iterator begin() const noexcept { return data_.data(); }
  [[nodiscard]] Iterator end() const noexcept { return data_.data() + count_; }
  [[nodiscard]] SourceId source() const noexcept { return first_.source(); }
  /// For peer_lost.
  [[nodiscard]] const Loss* loss() const noexcept { return first_.loss(); }
  void release() noexcept {
    first_.release();
    count_ = 0;
  }

 private:
  friend class Inlet;
  friend class Mailbox;
  friend class Receiver;
  Message first_;  // holds the room of all
  std::size_t count_ = 0;
  std::array<std::span<const std::byte>, kMost> data_;
};

/// What recv_into() did: `size` bytes were copied (or, for too_small, would be needed).
struct Received {
  RecvStatus status = RecvStatus::empty;
  std::size_t size = 0;
  SourceId source = 0;
  explicit operator bool() const noexcept { return status == RecvStatus::received; }
};

/// One try of recv_async().
struct RecvStep {
  using Result = Message;
  [[nodiscard]] bool operator()(Receiver& receiver, Message& out) noexcept;
  [[nodiscard]] static v2::WaitList& list(Receiver& receiver);
  [[nodiscard]] static bool more(Receiver& receiver) noexcept;
  static void cancelled(Message& out) noexcept { out.status_ = RecvStatus::cancelled; }
  [[nodiscard]] static Message closed() noexcept;
};

/// Receives messages from any number of senders, fairly.
///
/// Thread-safety: one thread at a time per Receiver; give each thread a clone(). Clones share the
/// senders; each message goes to exactly one of them. A line of its own, as Sender has.
class alignas(kLine) Receiver {
 public:
  Receiver() noexcept;
  Receiver(Receiver&&) noexcept;
  Receiver& operator=(Receiver&&) noexcept;
  Receiver(const Receiver&) = delete;
  Receiver& operator=(const Receiver&) = delete;
  /// The last clone to go closes.
  ~Receiver();

  explicit operator bool() const noexcept { return mailbox_ != nullptr; }

  /// Binds another URI to this receiver. Throws SetupError.
  void bind(std::string_view uri, const BindOptions& options = {});
  /// Where it is bound, with the port that was picked where none was given.
  [[nodiscard]] std::vector<std::string> uris() const;

  [[nodiscard]] Message recv() noexcept;
  [[nodiscard]] Message try_recv() noexcept;
  [[nodiscard]] Message recv_for(Duration timeout) noexcept;
  /// Releases what `out` holds, waits for a message, and takes those that follow it and are there,
  /// up to `most` in all: of one sender, and given back together, so that each costs a fraction of
  /// what recv() takes. Waits like recv_for.
  RecvStatus recv_many(Messages& out, std::size_t most = Messages::kMost,
                       Duration timeout = kForever) noexcept;
  /// Copies the next message out and releases it. Waits like recv_for.
  [[nodiscard]] Received recv_into(std::span<std::byte> buffer,
                                   Duration timeout = kForever) noexcept;

  /// For co_await at once: `co_await rx.recv_async()`. Suspends the coroutine until recv() would
  /// have returned; it is resumed on the executor, or by the engine's thread, which it must not
  /// keep: no waiting there, no long work. `cancelled` once a stop was requested, and then nothing
  /// was received. A suspended coroutine may be destroyed, on the thread where it would be resumed:
  /// no message goes with it. While it is suspended the receiver must stay where it is, unused.
  /// Throws SetupError where no engine can be started.
  v2::Await<Receiver, RecvStep> recv_async(std::stop_token stop = {}) {
    return {mailbox_ ? this : nullptr, executor_, std::move(stop), {}};
  }
  /// Where this receiver's coroutines run from now on; empty: on the engine's thread. May be called
  /// once more when a coroutine has gone, for nothing: it is to own what it uses.
  void run_on(v2::Executor executor);

  /// For an event loop: a descriptor to poll for reading. All clones have the same one; it stays
  /// open while one of them lives, and is neither read nor closed by the application. -1 where
  /// there is no channel.
  ///
  /// It becomes readable only after arm() has said true. Then, and when arm() says false, call
  /// try_recv() until it says `empty`, and arm() again: so no wake-up is lost. It may be readable
  /// for no reason, or though another clone has received the message meanwhile.
  [[nodiscard]] int event_fd() const noexcept;
  /// True: there is nothing to receive, and event_fd() becomes readable when there is. False:
  /// try_recv() again. Does not wait.
  [[nodiscard]] bool arm() noexcept;

  /// Where it waits for messages (select.hpp); null where it has no channel. Throws SetupError
  /// where no engine can be started.
  [[nodiscard]] v2::WaitList* wait_list() const;
  /// For one who waited there and goes on: sees to it that the others hear of what is left. False:
  /// nobody need be woken by the caller.
  bool more() noexcept;

  /// Turns every sender away: they get `closed`. Messages not received yet are dropped (the
  /// senders' progress shows how many were consumed). Messages held stay valid.
  void close() noexcept;

  /// Another receiver of the same channel, for another thread. Throws SetupError{forked}.
  [[nodiscard]] Receiver clone() const;
  [[nodiscard]] WeakReceiver downgrade() const noexcept;
  /// Senders connected now, and lost ones not yet reported.
  [[nodiscard]] std::size_t sender_count() const noexcept;
  /// Clones there are, this one among them.
  [[nodiscard]] std::size_t receiver_count() const noexcept;
  [[nodiscard]] bool same_channel(const Receiver& other) const noexcept {
    return mailbox_ == other.mailbox_;
  }
  /// Nothing more will come: this receiver was closed, or all senders have gone and it is not
  /// persistent.
  [[nodiscard]] bool is_closed() const noexcept;
  /// May be called at any time; takes locks, allocates.
  [[nodiscard]] ReceiverStats stats() const;

 private:
  friend class WeakReceiver;
  friend Receiver bind(std::string_view, const BindOptions&, const MessageType&);
  explicit Receiver(std::shared_ptr<Mailbox> mailbox);
  [[nodiscard]] Message recv_until(Duration timeout) noexcept;
  void release() noexcept;

  std::shared_ptr<Mailbox> mailbox_;
  std::unique_ptr<Drain> drain_;  // this clone's own view of the senders
  std::shared_ptr<const v2::Executor> executor_;
};

/// A receiver that does not keep its channel open.
class WeakReceiver {
 public:
  WeakReceiver() = default;
  /// A new clone; an empty receiver where the last one is gone. Throws std::bad_alloc.
  [[nodiscard]] Receiver upgrade() const;

 private:
  friend class Receiver;
  std::weak_ptr<Mailbox> mailbox_;
};

/// A receiver bound at `uri`, for senders of this `type` only. Throws SetupError.
[[nodiscard]] Receiver bind(std::string_view uri, const BindOptions& options = {},
                            const MessageType& type = {});

}  // namespace penstock::inline v1
