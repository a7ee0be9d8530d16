#include "penstock/channel/receiver.hpp"

#include <algorithm>
#include <cstring>

#include "penstock/channel/mailbox.hpp"
#include "penstock/transport/error.hpp"

namespace penstock::inline v1 {

const char* to_string(RecvStatus status) noexcept {
  switch (status) {
    case RecvStatus::received: return "received";
    case RecvStatus::empty: return "empty";
    case RecvStatus::timed_out: return "timed out";
    case RecvStatus::closed: return "closed";
    case RecvStatus::peer_lost: return "peer lost";
    case RecvStatus::too_small: return "buffer too small";
    case RecvStatus::view_limit: return "too many messages held";
    case RecvStatus::forked: return "handle of the parent process";
    case RecvStatus::cancelled: return "cancelled";
    case RecvStatus::not_decoded: return "no message of this type";
  }
  return "unknown";
}

void Message::give_back() noexcept {
  if (inlet_ != nullptr) {
    std::exchange(inlet_, nullptr)->release(view_);
  } else {
    aside_.reset();
  }
  data_ = nullptr;
  size_ = 0;
}

Receiver::Receiver(std::shared_ptr<Mailbox> mailbox)
    : mailbox_(std::move(mailbox)), drain_(std::make_unique<Drain>()) {
  mailbox_->join();
}

Receiver::Receiver() noexcept = default;
Receiver::Receiver(Receiver&&) noexcept = default;

Receiver& Receiver::operator=(Receiver&& other) noexcept {
  if (this != &other) {
    release();
    mailbox_ = std::move(other.mailbox_);
    drain_ = std::move(other.drain_);
    executor_ = std::move(other.executor_);
  }
  return *this;
}

Receiver::~Receiver() { release(); }

void Receiver::release() noexcept {
  const auto drain = std::move(drain_);
  if (const auto mailbox = std::move(mailbox_)) mailbox->leave(*drain);
}

void Receiver::bind(std::string_view uri, const BindOptions& options) {
  if (!mailbox_) throw SetupError(Errc::bad_uri, "bind() on a receiver that was moved from");
  mailbox_->bind(uri, options);
}

std::vector<std::string> Receiver::uris() const {
  return mailbox_ ? mailbox_->uris() : std::vector<std::string>{};
}

Message Receiver::recv_until(Duration timeout) noexcept {
  if (mailbox_) return drain_->kept ? std::move(drain_->kept) : mailbox_->receive(*drain_, timeout);
  return RecvStep::closed();
}

Message Receiver::recv() noexcept { return recv_until(kForever); }
Message Receiver::try_recv() noexcept { return recv_until(Duration::zero()); }

Message Receiver::recv_for(Duration timeout) noexcept {
  auto message = recv_until(timeout);
  if (message.status_ == RecvStatus::empty) message.status_ = RecvStatus::timed_out;
  return message;
}

RecvStatus Receiver::recv_many(Messages& out, std::size_t most, Duration timeout) noexcept {
  out.release();
  if (!mailbox_) {
    out.first_.status_ = RecvStatus::closed;
  } else if (drain_->kept) {
    out.first_ = std::move(drain_->kept);
    out.data_[out.count_++] = out.first_.data();
  } else {
    mailbox_->receive_many(*drain_, timeout, std::clamp<std::size_t>(most, 1, Messages::kMost),
                           out);
    if (out.first_.status_ == RecvStatus::empty && timeout > timeout.zero())
      out.first_.status_ = RecvStatus::timed_out;
  }
  return out.status();
}

Received Receiver::recv_into(std::span<std::byte> buffer, Duration timeout) noexcept {
  if (!mailbox_) return {RecvStatus::closed, 0, 0};
  auto message = recv_for(timeout);
  if (!message) return {message.status(), 0, message.source()};
  const Received received{RecvStatus::received, message.data().size(), message.source()};
  if (received.size > buffer.size()) {
    drain_->kept = std::move(message);
    return {RecvStatus::too_small, received.size, received.source};
  }
  if (received.size != 0) std::memcpy(buffer.data(), message.data().data(), received.size);
  return received;
}

bool RecvStep::operator()(Receiver& receiver, Message& out) noexcept {
  if (v2::ThreadShare::used_up()) return false;
  out = receiver.try_recv();
  v2::ThreadShare::use();
  return out.status() != RecvStatus::empty;
}

v2::WaitList& RecvStep::list(Receiver& receiver) { return *receiver.wait_list(); }

bool RecvStep::more(Receiver& receiver) noexcept { return receiver.more(); }

Message RecvStep::closed() noexcept {
  Message none;
  none.status_ = RecvStatus::closed;
  return none;
}

void Receiver::run_on(v2::Executor executor) {
  executor_ = executor ? std::make_shared<const v2::Executor>(std::move(executor)) : nullptr;
}

int Receiver::event_fd() const noexcept { return mailbox_ ? mailbox_->wake_fd() : -1; }

bool Receiver::arm() noexcept { return mailbox_ && !drain_->kept && mailbox_->arm(*drain_); }

v2::WaitList* Receiver::wait_list() const { return mailbox_ ? &mailbox_->readable() : nullptr; }

bool Receiver::more() noexcept {
  if (mailbox_) mailbox_->pass_on();
  return false;
}

void Receiver::close() noexcept {
  if (mailbox_) mailbox_->close();
}

Receiver Receiver::clone() const {
  if (!mailbox_) throw SetupError(Errc::bad_uri, "clone() of a receiver that was moved from");
  if (!mailbox_->here())
    throw SetupError(Errc::forked,
                     "this receiver belongs to the parent process: bind anew in the child");
  return Receiver(mailbox_);
}

WeakReceiver Receiver::downgrade() const noexcept {
  WeakReceiver weak;
  weak.mailbox_ = mailbox_;
  return weak;
}

Receiver WeakReceiver::upgrade() const {
  Receiver receiver;
  auto mailbox = mailbox_.lock();
  if (!mailbox || !mailbox->here()) return receiver;
  auto drain = std::make_unique<Drain>();
  if (!mailbox->join_others()) return receiver;
  receiver.mailbox_ = std::move(mailbox);
  receiver.drain_ = std::move(drain);
  return receiver;
}

std::size_t Receiver::sender_count() const noexcept { return mailbox_ ? mailbox_->senders() : 0; }
std::size_t Receiver::receiver_count() const noexcept {
  return mailbox_ ? mailbox_->receivers() : 0;
}
bool Receiver::is_closed() const noexcept { return !mailbox_ || mailbox_->all_closed(); }

ReceiverStats Receiver::stats() const { return mailbox_ ? mailbox_->stats() : ReceiverStats{}; }

Receiver bind(std::string_view uri, const BindOptions& options, const MessageType& type) {
  Receiver receiver(std::make_shared<Mailbox>(type));
  receiver.bind(uri, options);
  return receiver;
}

}  // namespace penstock::inline v1
