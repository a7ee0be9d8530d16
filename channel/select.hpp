// Waiting for the first of several channels.
//
//   penstock::v2::select(on_recv(orders, [](auto order) {…}),
//                        on_send(replies, reply, [](SendStatus status) {…}));
#pragma once

#include <array>
#include <cstddef>
#include <memory>
#include <optional>
#include <span>
#include <type_traits>
#include <utility>

#include "penstock/channel/local_channel.hpp"

namespace penstock::v2 {

/// One thing that a select waits for.
class SelectCase {
 public:
  SelectCase() = default;
  SelectCase(const SelectCase&) = delete;
  SelectCase& operator=(const SelectCase&) = delete;
  SelectCase(SelectCase&&) = delete;
  SelectCase& operator=(SelectCase&&) = delete;
  virtual ~SelectCase() = default;

  /// True: it happened, or its channel has ended.
  [[nodiscard]] virtual bool attempt() = 0;
  /// Tells whoever gave the case of what happened.
  virtual void handle() = 0;
  /// Who waits for the same; null: attempt() is true anyhow.
  [[nodiscard]] virtual WaitList* list() noexcept = 0;
  /// There is more of it, for another one in the list.
  [[nodiscard]] virtual bool more() noexcept = 0;
};

/// Waits until one of `cases` happened, handles it and gives its index; nothing where the deadline
/// came first, or at once where there is no case. Among those that can happen each has the same
/// chance. An end that is closed counts as happened: leave it out of the next select.
///
/// Errors: what a message's constructor or the handler throws. Linear in the cases.
std::optional<std::size_t> select_until(TimePoint deadline, std::span<SelectCase* const> cases);

/// A message from `receiver`, typed or of bytes: `handler` gets what try_recv() gives.
template <class Receiver, class Handler>
class OnRecv final : public SelectCase {
 public:
  OnRecv(Receiver& receiver, Handler handler)
      : receiver_(receiver), list_(receiver.wait_list()), handler_(std::move(handler)) {}
  [[nodiscard]] bool attempt() override {
    got_ = receiver_.try_recv();
    return got_.status() != RecvStatus::empty;
  }
  void handle() override { handler_(std::move(got_)); }
  [[nodiscard]] WaitList* list() noexcept override { return list_; }
  [[nodiscard]] bool more() noexcept override { return receiver_.more(); }

 private:
  Receiver& receiver_;
  WaitList* const list_;
  Handler handler_;
  decltype(std::declval<Receiver&>().try_recv()) got_;
};

/// Room at `sender` for `value`, which is left alone unless it is sent: `handler` gets the status.
template <class Sender, class U, class Handler>
class OnSend final : public SelectCase {
 public:
  OnSend(Sender& sender, U&& value, Handler handler)
      : sender_(sender),
        list_(sender.wait_list()),
        value_(std::forward<U>(value)),
        handler_(std::move(handler)) {}
  [[nodiscard]] bool attempt() override {
    status_ = sender_.try_send(std::forward<U>(value_));
    return status_ != SendStatus::full;
  }
  void handle() override { handler_(status_); }
  [[nodiscard]] WaitList* list() noexcept override { return list_; }
  [[nodiscard]] bool more() noexcept override { return sender_.more(); }

 private:
  Sender& sender_;
  WaitList* const list_;
  // A temporary that copies for nothing (a span) is kept: the case may outlive it.
  std::conditional_t<std::is_trivially_copyable_v<U>, U, U&&> value_;
  Handler handler_;
  SendStatus status_ = SendStatus::full;
};

template <class Receiver, class Handler>
[[nodiscard]] OnRecv<Receiver, Handler> on_recv(Receiver& receiver, Handler handler) {
  return {receiver, std::move(handler)};
}
template <class Sender, class U, class Handler>
[[nodiscard]] OnSend<Sender, U, Handler> on_send(Sender& sender, U&& value, Handler handler) {
  return {sender, std::forward<U>(value), std::move(handler)};
}

namespace detail {
template <class... Cases>
std::optional<std::size_t> select_among(TimePoint deadline, Cases&... cases) {
  static_assert(sizeof...(Cases) != 0, "select over nothing would wait for ever");
  const std::array<SelectCase*, sizeof...(Cases)> all{std::addressof(cases)...};
  return select_until(deadline, all);
}
}  // namespace detail

template <class... Cases>
std::size_t select(Cases&&... cases) {
  return *detail::select_among(TimePoint::max(), cases...);
}
/// A negative timeout is as zero.
template <class... Cases>
std::optional<std::size_t> select_for(Duration timeout, Cases&&... cases) {
  return detail::select_among(deadline_after(timeout), cases...);
}
/// Without waiting.
template <class... Cases>
std::optional<std::size_t> try_select(Cases&&... cases) {
  return detail::select_among(TimePoint::min(), cases...);
}

}  // namespace penstock::v2
