// Ends of typed channels of any kind behind one type each: in-process ones of every topology, and
// those that a URI names. For an application that decides at run time, or keeps templates out of
// its own interfaces; each call costs an indirect one more.
#pragma once

#include <memory>
#include <type_traits>
#include <utility>

#include "penstock/channel/local_channel.hpp"
#include "penstock/channel/remote_channel.hpp"

namespace penstock::v2 {

/// A sender of any kind of channel. Thread-safety and errors are the kind's own; an empty one says
/// `closed`.
template <class T>
class AnySender {
 public:
  AnySender() = default;
  template <Topology kTopology>
  AnySender(Sender<T, kTopology> sender)  // NOLINT(google-explicit-constructor): it is one
      : kind_(std::make_unique<Of<kTopology>>(std::move(sender))) {}

  explicit operator bool() const noexcept { return kind_ != nullptr; }

  /// As the kind's. Where the channel is in this process the value is moved there, and only if the
  /// answer is `sent`; else its bytes go.
  SendStatus send(T&& value) { return send_until(std::move(value), TimePoint::max()); }
  SendStatus try_send(T&& value) {
    return kind_ ? kind_->try_send(std::move(value)) : SendStatus::closed;
  }
  SendStatus send_for(T&& value, Duration timeout) {
    return send_until(std::move(value), deadline_after(timeout));
  }
  SendStatus send_until(T&& value, TimePoint deadline) {
    return kind_ ? kind_->send_until(std::move(value), deadline) : SendStatus::closed;
  }
  SendStatus send(const T& value) requires std::copy_constructible<T> { return send(T(value)); }
  SendStatus try_send(const T& value) requires std::copy_constructible<T> {
    return try_send(T(value));
  }

  FlushStatus flush(Duration timeout = kForever) {
    return kind_ ? kind_->flush(timeout) : FlushStatus::closed;
  }
  void close() {
    if (kind_) kind_->close();
  }
  [[nodiscard]] bool is_closed() const { return !kind_ || kind_->is_closed(); }
  /// Messages sent and not received.
  [[nodiscard]] std::size_t len() const { return kind_ ? kind_->len() : 0; }
  [[nodiscard]] std::size_t sender_count() const { return kind_ ? kind_->sender_count() : 0; }
  /// An empty one where the kind has one sender only (spsc, spmc).
  [[nodiscard]] AnySender clone() const { return kind_ ? kind_->clone() : AnySender(); }

 private:
  struct Kind {
    Kind() = default;
    Kind(const Kind&) = delete;
    Kind& operator=(const Kind&) = delete;
    Kind(Kind&&) = delete;
    Kind& operator=(Kind&&) = delete;
    virtual ~Kind() = default;
    virtual SendStatus try_send(T&& value) = 0;
    virtual SendStatus send_until(T&& value, TimePoint deadline) = 0;
    virtual FlushStatus flush(Duration timeout) = 0;
    virtual void close() = 0;
    [[nodiscard]] virtual bool is_closed() const = 0;
    [[nodiscard]] virtual std::size_t len() const = 0;
    [[nodiscard]] virtual std::size_t sender_count() const = 0;
    [[nodiscard]] virtual AnySender clone() const = 0;
  };
  template <Topology kTopology>
  struct Of final : Kind {
    explicit Of(Sender<T, kTopology> from) : sender(std::move(from)) {}
    SendStatus try_send(T&& value) override { return sender.try_send(std::move(value)); }
    SendStatus send_until(T&& value, TimePoint deadline) override {
      // Without end it takes no look at the clock.
      return deadline == TimePoint::max() ? sender.send(std::move(value))
                                          : sender.send_until(std::move(value), deadline);
    }
    FlushStatus flush(Duration timeout) override { return sender.flush(timeout); }
    void close() override { (void)sender.close(); }
    [[nodiscard]] bool is_closed() const override { return sender.is_closed(); }
    [[nodiscard]] std::size_t len() const override { return sender.len(); }
    [[nodiscard]] std::size_t sender_count() const override { return sender.sender_count(); }
    [[nodiscard]] AnySender clone() const override {
      if constexpr (requires { sender.clone(); }) {
        return AnySender(sender.clone());
      } else {
        return AnySender();
      }
    }
    Sender<T, kTopology> sender;
  };

  std::unique_ptr<Kind> kind_;
};

/// A receiver of any kind of channel. Thread-safety and errors are the kind's own; an empty one
/// says `closed`.
template <class T>
class AnyReceiver {
 public:
  AnyReceiver() = default;
  template <Topology kTopology>
  AnyReceiver(Receiver<T, kTopology> receiver)  // NOLINT(google-explicit-constructor): it is one
      : kind_(std::make_unique<Of<kTopology>>(std::move(receiver))) {}

  explicit operator bool() const noexcept { return kind_ != nullptr; }

  [[nodiscard]] ReceivedFrom<T> recv() { return recv_until(TimePoint::max()); }
  [[nodiscard]] ReceivedFrom<T> try_recv() {
    return kind_ ? kind_->try_recv() : ReceivedFrom<T>(RecvStatus::closed);
  }
  [[nodiscard]] ReceivedFrom<T> recv_for(Duration timeout) {
    return recv_until(deadline_after(timeout));
  }
  [[nodiscard]] ReceivedFrom<T> recv_until(TimePoint deadline) {
    return kind_ ? kind_->recv_until(deadline) : ReceivedFrom<T>(RecvStatus::closed);
  }

  void close() {
    if (kind_) kind_->close();
  }
  [[nodiscard]] bool is_closed() const { return !kind_ || kind_->is_closed(); }
  [[nodiscard]] std::size_t receiver_count() const { return kind_ ? kind_->receiver_count() : 0; }
  /// An empty one where the kind has one receiver only (spsc, mpsc).
  [[nodiscard]] AnyReceiver clone() const { return kind_ ? kind_->clone() : AnyReceiver(); }

 private:
  struct Kind {
    Kind() = default;
    Kind(const Kind&) = delete;
    Kind& operator=(const Kind&) = delete;
    Kind(Kind&&) = delete;
    Kind& operator=(Kind&&) = delete;
    virtual ~Kind() = default;
    [[nodiscard]] virtual ReceivedFrom<T> try_recv() = 0;
    [[nodiscard]] virtual ReceivedFrom<T> recv_until(TimePoint deadline) = 0;
    virtual void close() = 0;
    [[nodiscard]] virtual bool is_closed() const = 0;
    [[nodiscard]] virtual std::size_t receiver_count() const = 0;
    [[nodiscard]] virtual AnyReceiver clone() const = 0;
  };
  template <Topology kTopology>
  struct Of final : Kind {
    explicit Of(Receiver<T, kTopology> from) : receiver(std::move(from)) {}
    [[nodiscard]] ReceivedFrom<T> try_recv() override {
      return ReceivedFrom<T>(receiver.try_recv());
    }
    [[nodiscard]] ReceivedFrom<T> recv_until(TimePoint deadline) override {
      return ReceivedFrom<T>(deadline == TimePoint::max() ? receiver.recv()
                                                          : receiver.recv_until(deadline));
    }
    void close() override { receiver.close(); }
    [[nodiscard]] bool is_closed() const override { return receiver.is_closed(); }
    [[nodiscard]] std::size_t receiver_count() const override { return receiver.receiver_count(); }
    [[nodiscard]] AnyReceiver clone() const override {
      if constexpr (requires { receiver.clone(); }) {
        return AnyReceiver(receiver.clone());
      } else {
        return AnyReceiver();
      }
    }
    Receiver<T, kTopology> receiver;
  };

  std::unique_ptr<Kind> kind_;
};

}  // namespace penstock::v2
