#include "penstock/transport/connection.hpp"

#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

namespace penstock::inline v1 {
namespace {

constexpr int kPingsPerDeadline = 8;
constexpr int kStalledPart = 4;
/// How long after a path failed its peer's good-bye may come.
constexpr auto kGrace = std::chrono::milliseconds(100);
/// Read in one call at most, so that a flood holds up nobody else: the engine calls again.
constexpr std::size_t kReadSize = 4096;
constexpr int kReadsPerCall = 4;
constexpr std::uint32_t kHangUp = EPOLLRDHUP;

std::string seconds(std::chrono::nanoseconds time) {
  const auto ms = std::chrono::duration_cast<std::chrono::milliseconds>(time).count();
  return ms % 1000 == 0 ? std::to_string(ms / 1000) + " s" : std::to_string(ms) + " ms";
}

}  // namespace

Connection::Connection(Fd socket, Timing timing, FrameReader rest) noexcept
    : socket_(std::move(socket)), timing_(timing), reader_(std::move(rest)) {}

Connection::~Connection() { stop(); }

void Connection::start(std::weak_ptr<ConnectionObserver> observer) {
  observer_ = std::move(observer);
  last_heard_ = Clock::now();
  schedule(last_heard_);
  // Once for what came with the handshake's last message.
  Engine::get().watch(socket_.get(), EPOLLIN | kHangUp, shared_from_this());
}

void Connection::stop() noexcept {
  if (!birth_.here()) return;  // the parent's engine, and a copy of its socket: just let it close
  {
    const std::lock_guard lock(mutex_);
    done_ = true;
  }
  auto& engine = Engine::get();
  engine.quiesce(*this);
  // From here on the engine's calls leave the socket alone, and another stop() finds it taken.
  Fd socket;
  {
    const std::lock_guard lock(mutex_);
    socket = std::move(socket_);
  }
  if (!socket) return;
  engine.unwatch(socket.get());
  // A child may have a copy of it: the peer is to hear of the end all the same.
  (void)::shutdown(socket.get(), SHUT_WR);
}

void Connection::listen_closely() noexcept {
  const std::lock_guard lock(mutex_);
  if (std::exchange(closely_, true) || done_ || !socket_) return;
  Engine::get().rewatch(socket_.get(), EPOLLIN | kHangUp);
}

/// Engine thread only.
void Connection::listen(bool closely) noexcept {
  const std::lock_guard lock(mutex_);
  closely = closely || closely_;
  if (std::exchange(listening_, closely) == closely || done_ || !socket_) return;
  Engine::get().rewatch(socket_.get(), closely ? EPOLLIN | kHangUp : kHangUp);
}

void Connection::say_go() noexcept { send(encode_empty(FrameType::go)); }

void Connection::say_room() noexcept { send(encode_empty(FrameType::room)); }

void Connection::say_goodbye(FrameType type, Cursor cursor) noexcept {
  send(encode_goodbye(type, cursor));
}

void Connection::send(std::span<const std::byte> frame) noexcept {
  const std::lock_guard lock(mutex_);
  if (!socket_) return;
  // A short write is impossible for so few bytes but for a full buffer, and then nothing is written
  // or the peer is stuck anyway: it will notice by silence.
  [[maybe_unused]] const auto sent =
      ::send(socket_.get(), frame.data(), frame.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
}

void Connection::suspect(const std::string& why) noexcept {
  const auto now = Clock::now();
  {
    const std::lock_guard lock(mutex_);
    if (done_ || !suspicion_.empty()) return;
    suspicion_ = why;
    suspected_at_ = now;
  }
  try {
    Engine::get().call_at(now + kGrace, shared_from_this());
  } catch (const std::exception&) {
    // Then the next ping's timer sees to it.
  }
}

void Connection::schedule(TimePoint now) {
  const auto period = std::min(timing_.own, timing_.peer) / kPingsPerDeadline;
  const auto step = std::max<std::chrono::nanoseconds>(period, std::chrono::milliseconds(1));
  // Of all connections at the same time.
  Engine::get().call_at(TimePoint((now.time_since_epoch() / step + 1) * step), shared_from_this());
}

void Connection::lost(const std::string& why) noexcept {
  {
    const std::lock_guard lock(mutex_);
    if (done_) return;
    done_ = true;
  }
  Engine::get().unwatch(socket_.get());
  if (const auto observer = observer_.lock()) observer->on_lost(why);
}

bool Connection::over() noexcept {
  const std::lock_guard lock(mutex_);
  return done_;
}

Connection::Heard Connection::read_some() {
  std::array<std::byte, kReadSize> bytes;
  for (;;) {
    const auto got = ::recv(socket_.get(), bytes.data(), bytes.size(), MSG_DONTWAIT);
    if (got > 0) {
      last_heard_ = Clock::now();
      reader_.append(std::span(bytes).first(static_cast<std::size_t>(got)));
      return Heard::something;
    }
    if (got < 0 && errno == EINTR) continue;
    if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return Heard::nothing;
    if (got == 0) errno = 0;
    return Heard::end;
  }
}

bool Connection::take_frames(ConnectionObserver& observer) {
  while (const auto frame = reader_.next()) {
    switch (frame->type) {
      case FrameType::ping: break;
      case FrameType::room: observer.on_room(); break;
      case FrameType::bye:
      case FrameType::closed: {
        const Cursor cursor = decode_goodbye(frame->body);
        {
          const std::lock_guard lock(mutex_);
          if (std::exchange(done_, true)) return false;
        }
        Engine::get().unwatch(socket_.get());
        observer.on_goodbye(cursor);
        return false;
      }
      default:
        lost("it sent message " + std::to_string(static_cast<int>(frame->type)) + " out of turn");
        return false;
    }
  }
  return true;
}

/// What was suspected says more: the peer may have found the same.
std::string Connection::reason_of_end(int error) {
  {
    const std::lock_guard lock(mutex_);
    if (!suspicion_.empty()) return suspicion_;
  }
  return error == ECONNRESET
             ? "its control connection was reset: the process has died"
             : "its control connection was closed without a good-bye: the process has ended, was "
               "killed, or has given up the way between the two";
}

void Connection::read_all(ConnectionObserver& observer) {
  for (int reads = 0; reads < kReadsPerCall; ++reads) {
    const auto heard = read_some();
    const int error = errno;
    if (heard == Heard::something && stalled_) {
      stalled_ = false;
      observer.on_stalled(false);
    }
    // What was there before is looked at too: it may have come with the handshake's last message.
    if (!take_frames(observer)) return;
    if (heard == Heard::nothing) return listen(false);
    if (heard == Heard::end) return lost(reason_of_end(error));
  }
  listen(true);  // there is more
}

void Connection::on_ready(std::uint32_t /*events*/) noexcept {
  if (over()) return;
  try {
    if (const auto observer = observer_.lock()) read_all(*observer);
  } catch (const std::exception& e) {
    lost(e.what());
  }
}

void Connection::on_time(TimePoint now) noexcept {
  std::string suspicion;
  {
    const std::lock_guard lock(mutex_);
    if (done_ || !socket_) return;
    if (!suspicion_.empty() && now - suspected_at_ >= kGrace) suspicion = suspicion_;
  }
  if (!suspicion.empty()) {
    on_ready(0);  // the good-bye may be waiting
    return lost(suspicion);
  }
  send(encode_empty(FrameType::ping));
  on_ready(0);
  if (over()) return;
  const auto silent = Clock::now() - last_heard_;
  if (silent >= timing_.own)
    return lost("nothing was heard of it for " + seconds(timing_.own) +
                ": it is stopped, or the network between is cut");
  if (!stalled_ && silent >= timing_.own / kStalledPart) {
    stalled_ = true;
    if (const auto observer = observer_.lock()) observer->on_stalled(true);
  }
  try {
    schedule(now);
  } catch (const std::exception& e) {
    lost(e.what());
  }
}

}  // namespace penstock::inline v1
