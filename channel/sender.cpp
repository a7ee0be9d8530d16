#include "penstock/channel/sender.hpp"

#include <cstring>

#include "penstock/channel/outlet.hpp"
#include "penstock/channel/settings.hpp"
#include "penstock/transport/registry.hpp"

namespace penstock::inline v1 {

static_assert(kMessageAlign == kRecordAlign);

const char* to_string(SendStatus status) noexcept {
  switch (status) {
    case SendStatus::sent: return "sent";
    case SendStatus::full: return "full";
    case SendStatus::timed_out: return "timed out";
    case SendStatus::closed: return "closed";
    case SendStatus::peer_lost: return "peer lost";
    case SendStatus::too_large: return "message too large";
    case SendStatus::forked: return "handle of the parent process";
    case SendStatus::cancelled: return "cancelled";
    case SendStatus::not_encoded: return "not encoded as its codec had said";
  }
  return "unknown";
}

const char* to_string(FlushStatus status) noexcept {
  switch (status) {
    case FlushStatus::consumed: return "consumed";
    case FlushStatus::timed_out: return "timed out";
    case FlushStatus::closed: return "closed";
    case FlushStatus::peer_lost: return "peer lost";
    case FlushStatus::forked: return "handle of the parent process";
    case FlushStatus::cancelled: return "cancelled";
  }
  return "unknown";
}

const char* to_string(PeerState state) noexcept {
  switch (state) {
    case PeerState::connected: return "connected";
    case PeerState::stalled: return "stalled";
    case PeerState::closed: return "closed";
    case PeerState::lost: return "lost";
  }
  return "unknown";
}

const char* to_string(PublishMode mode) noexcept {
  switch (mode) {
    case PublishMode::tail: return "tail";
    case PublishMode::hot: return "hot";
    case PublishMode::immediate: return "immediate";
  }
  return "unknown";
}

Reservation::~Reservation() {
  if (data_ != nullptr) outlet_->abandon({cursor_, data_, static_cast<std::uint32_t>(size_)});
}

void Reservation::commit() noexcept {
  if (data_ == nullptr) return;
  outlet_->commit({cursor_, std::exchange(data_, nullptr), static_cast<std::uint32_t>(size_)},
                  *tally_);
  size_ = 0;
}

Sender::Sender(std::shared_ptr<Outlet> outlet, Tally* tally) noexcept
    : outlet_(std::move(outlet)), tally_(tally) {}

Sender::Sender() noexcept = default;

Sender::Sender(Sender&& other) noexcept
    : outlet_(std::move(other.outlet_)),
      tally_(std::exchange(other.tally_, nullptr)),
      executor_(std::move(other.executor_)),
      event_(std::move(other.event_)) {}

Sender& Sender::operator=(Sender&& other) noexcept {
  if (this != &other) {
    release();
    outlet_ = std::move(other.outlet_);
    tally_ = std::exchange(other.tally_, nullptr);
    executor_ = std::move(other.executor_);
    event_ = std::move(other.event_);
  }
  return *this;
}

Sender::~Sender() { release(); }

void Sender::release() noexcept {
  if (const auto event = std::move(event_)) outlet_->disarm(*event);
  if (const auto outlet = std::move(outlet_)) outlet->leave(std::exchange(tally_, nullptr));
}

SendStatus Sender::send(std::span<const std::byte> message) noexcept {
  return send_for(message, kForever);
}

SendStatus Sender::try_send(std::span<const std::byte> message) noexcept {
  return send_for(message, Duration::zero());
}

SendStatus Sender::send_for(std::span<const std::byte> message, Duration timeout) noexcept {
  if (!outlet_) return SendStatus::closed;
  Claim claim;
  if (const auto status = outlet_->claim(message.size(), timeout, *tally_, claim);
      status != SendStatus::sent)
    return status == SendStatus::too_large ? outlet_->send_long(message, timeout, *tally_) : status;
  if (!message.empty()) std::memcpy(claim.payload, message.data(), message.size());
  outlet_->commit(claim, *tally_);
  return SendStatus::sent;
}

namespace {

Records packed_records(std::span<const std::byte> packed, std::size_t each) noexcept {
  return {each == 0 ? 0 : packed.size() / each, packed.data(), each, nullptr};
}
Records scattered_records(std::span<const std::span<const std::byte>> messages) noexcept {
  return {messages.size(), nullptr, 0, messages.data()};
}

}  // namespace

Batch<SendStatus> Sender::send_all(const Records& records, Duration timeout) noexcept {
  if (!outlet_) return {0, SendStatus::closed};
  return outlet_->send_many(records, timeout, *tally_);
}

Batch<SendStatus> Sender::send_many(std::span<const std::span<const std::byte>> messages) noexcept {
  return send_all(scattered_records(messages), kForever);
}
Batch<SendStatus> Sender::try_send_many(
    std::span<const std::span<const std::byte>> messages) noexcept {
  return send_all(scattered_records(messages), Duration::zero());
}
Batch<SendStatus> Sender::send_many(std::span<const std::byte> packed, std::size_t each) noexcept {
  return send_all(packed_records(packed, each), kForever);
}
Batch<SendStatus> Sender::try_send_many(std::span<const std::byte> packed,
                                        std::size_t each) noexcept {
  return send_all(packed_records(packed, each), Duration::zero());
}

Reservation Sender::reserve_until(std::size_t size, Duration timeout) noexcept {
  Reservation room;
  if (!outlet_) return room;
  Claim claim;
  room.status_ = outlet_->claim_in_place(size, timeout, *tally_, claim);
  if (room.status_ != SendStatus::sent) return room;
  room.outlet_ = outlet_.get();
  room.tally_ = tally_;
  room.cursor_ = claim.begin;
  room.data_ = claim.payload;
  room.size_ = size;
  return room;
}

Reservation Sender::reserve(std::size_t size) noexcept { return reserve_until(size, kForever); }
Reservation Sender::try_reserve(std::size_t size) noexcept {
  return reserve_until(size, Duration::zero());
}
Reservation Sender::reserve_for(std::size_t size, Duration timeout) noexcept {
  return reserve_until(size, timeout);
}

bool SendStep::operator()(Sender& sender, SendStatus& out) noexcept {
  if (v2::ThreadShare::used_up()) return false;
  auto& outlet = *sender.outlet_;
  out = message.size() > outlet.max_in_place()
            ? outlet.send_pieces(message, pieces, Duration::zero(), *sender.tally_)
            : sender.try_send(message);
  v2::ThreadShare::use();
  return out != SendStatus::full;
}

v2::WaitList& SendStep::list(Sender& sender) { return *sender.wait_list(); }

bool ReserveStep::operator()(Sender& sender, Reservation& out) const noexcept {
  if (v2::ThreadShare::used_up()) return false;
  out = sender.try_reserve(size);
  v2::ThreadShare::use();
  return out.status() != SendStatus::full;
}

bool FlushStep::operator()(Sender& sender, FlushStatus& out) const noexcept {
  if (v2::ThreadShare::used_up()) return false;
  auto& outlet = *sender.outlet_;
  out = closes ? outlet.try_close() : outlet.try_flush(target);
  v2::ThreadShare::use();
  return out != FlushStatus::timed_out;
}

v2::Await<Sender, FlushStep> Sender::flush_async(std::stop_token stop) {
  return {outlet_ ? this : nullptr,
          executor_,
          std::move(stop),
          {outlet_ ? outlet_->flush_target() : 0, false}};
}

v2::Await<Sender, FlushStep> Sender::close_async(std::stop_token stop) {
  return {outlet_ ? this : nullptr, executor_, std::move(stop), {0, true}};
}

void Sender::run_on(v2::Executor executor) {
  executor_ = executor ? std::make_shared<const v2::Executor>(std::move(executor)) : nullptr;
}

v2::WaitList* Sender::wait_list() const { return outlet_ ? &outlet_->writable() : nullptr; }

int Sender::event_fd() {
  if (!outlet_) return -1;
  if (!event_) {
    (void)outlet_->writable();
    event_ = std::make_unique<v2::WaitingFd>();
  }
  return event_->get();
}

bool Sender::arm(std::size_t size) noexcept { return event_ && outlet_->arm(*event_, size); }

FlushStatus Sender::flush(Duration timeout) noexcept {
  return outlet_ ? outlet_->flush(timeout) : FlushStatus::closed;
}

FlushStatus Sender::close(Duration timeout) noexcept {
  return outlet_ ? outlet_->close(timeout) : FlushStatus::closed;
}

Sender Sender::clone() const {
  if (!outlet_) throw SetupError(Errc::bad_uri, "clone() of a sender that was moved from");
  if (!outlet_->here())
    throw SetupError(Errc::forked,
                     "this sender belongs to the parent process: connect anew in the child");
  return {outlet_, outlet_->join()};
}

WeakSender Sender::downgrade() const noexcept {
  WeakSender weak;
  weak.outlet_ = outlet_;
  return weak;
}

Sender WeakSender::upgrade() const {
  auto outlet = outlet_.lock();
  auto* const tally = outlet && outlet->here() ? outlet->join_others() : nullptr;
  return tally != nullptr ? Sender(std::move(outlet), tally) : Sender();
}

std::size_t Sender::sender_count() const noexcept { return outlet_ ? outlet_->clones() : 0; }

bool Sender::is_closed() const noexcept { return !outlet_ || outlet_->closed(); }

std::size_t Sender::max_message() const noexcept { return outlet_ ? outlet_->max_message() : 0; }

std::size_t Sender::max_in_place() const noexcept { return outlet_ ? outlet_->max_in_place() : 0; }

PeerState Sender::state() const noexcept { return outlet_ ? outlet_->state() : PeerState::closed; }

SenderStats Sender::stats() const { return outlet_ ? outlet_->stats() : SenderStats{}; }

Sender connect(std::string_view text, const ConnectOptions& defaults, const MessageType& type) {
  auto given = Uri::parse(text);
  const auto transport = find_transport(given.scheme);
  return FromEnvironment(std::move(given), *transport).run([&](const Uri& uri) -> Sender {
    const auto options = connect_settings(uri, *transport, defaults);
    auto outlet = std::make_shared<Outlet>(
        transport->connect(uri, {options.liveness, type}, deadline_after(options.deadline)),
        options);
    outlet->start();
    auto* tally = outlet->join();
    return {std::move(outlet), tally};
  });
}

}  // namespace penstock::inline v1
