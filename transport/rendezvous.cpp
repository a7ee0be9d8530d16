#include "penstock/transport/rendezvous.hpp"

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <mutex>
#include <thread>

#include "penstock/transport/fd.hpp"
#include "penstock/transport/fork.hpp"

namespace penstock::inline v1 {
namespace {

constexpr auto kHandshakeDeadline = std::chrono::seconds(10);
/// For one whose hello has come to get its turn: others' rings are made meanwhile.
constexpr auto kTurnDeadline = std::chrono::seconds(60);
constexpr auto kProofDeadline = std::chrono::seconds(5);
constexpr auto kProofTick = std::chrono::milliseconds(1);  // at the receiver
constexpr std::size_t kMaxPending = 512;                   // handshakes under way at one listener
constexpr std::size_t kMaxWelcomed = 64;  // of them, those for which there is a ring already
constexpr std::uint64_t kMaxWelcomedBytes = std::uint64_t{256} << 20U;  // in those rings
/// How long a welcome may stay unanswered while others wait for its place.
constexpr auto kPatience = std::chrono::seconds(5);
constexpr int kAcceptsPerCall = 64;  // so that a flood holds up nobody else
constexpr auto kAcceptPause = std::chrono::milliseconds(20);  // when descriptors ran out
constexpr std::size_t kMaxDescriptors = 4;                    // taken in one handshake
constexpr auto kAnswer = std::chrono::seconds(1);             // for one address to answer
constexpr auto kRetry = std::chrono::milliseconds(20);

/// A socket address of either family.
struct Address {
  sockaddr_storage storage{};
  socklen_t length = 0;
  [[nodiscard]] const sockaddr* get() const noexcept {
    return reinterpret_cast<const sockaddr*>(&storage);
  }
  [[nodiscard]] sockaddr* get() noexcept { return reinterpret_cast<sockaddr*>(&storage); }
};

Address local_address(const std::string& name) {
  Address address;
  sockaddr_un un{};
  un.sun_family = AF_UNIX;
  // The first byte stays zero: an abstract name, which vanishes with its last user.
  if (name.size() + 1 > sizeof un.sun_path)
    throw SetupError(Errc::bad_uri, "the name '" + name + "' is too long for a Unix socket");
  std::memcpy(un.sun_path + 1, name.data(), name.size());
  std::memcpy(&address.storage, &un, sizeof un);
  address.length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + name.size());
  return address;
}

std::vector<Address> resolve(const Endpoint& endpoint, bool passive) {
  if (!endpoint.local.empty()) return {local_address(endpoint.local)};
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_NUMERICSERV | (passive ? AI_PASSIVE : 0);
  addrinfo* found = nullptr;
  const int error = ::getaddrinfo(endpoint.host.empty() ? nullptr : endpoint.host.c_str(),
                                  std::to_string(endpoint.port).c_str(), &hints, &found);
  if (error != 0)
    throw SetupError(Errc::unreachable,
                     "cannot resolve host '" + endpoint.host + "': " + ::gai_strerror(error));
  std::vector<Address> addresses;
  for (const auto* info = found; info != nullptr; info = info->ai_next) {
    auto& address = addresses.emplace_back();
    std::memcpy(&address.storage, info->ai_addr, info->ai_addrlen);
    address.length = info->ai_addrlen;
  }
  ::freeaddrinfo(found);
  return addresses;
}

struct HostPort {
  std::string host;
  std::uint16_t port = 0;
};

HostPort numeric(const Address& address) {
  std::array<char, INET6_ADDRSTRLEN> text{};
  if (address.storage.ss_family == AF_INET) {
    const auto* in = reinterpret_cast<const sockaddr_in*>(&address.storage);
    ::inet_ntop(AF_INET, &in->sin_addr, text.data(), text.size());
    return {text.data(), ntohs(in->sin_port)};
  }
  if (address.storage.ss_family == AF_INET6) {
    const auto* in = reinterpret_cast<const sockaddr_in6*>(&address.storage);
    ::inet_ntop(AF_INET6, &in->sin6_addr, text.data(), text.size());
    std::string host = text.data();
    constexpr std::string_view kMapped = "::ffff:";
    if (host.starts_with(kMapped) && host.find('.') != std::string::npos)
      host = host.substr(kMapped.size());
    return {host, ntohs(in->sin6_port)};
  }
  return {};
}

StreamEnds ends_of(int socket, std::uint64_t peer_process) {
  Address local;
  Address peer;
  local.length = peer.length = sizeof(sockaddr_storage);
  if (::getsockname(socket, local.get(), &local.length) != 0 ||
      ::getpeername(socket, peer.get(), &peer.length) != 0)
    throw_errno("rendezvous: naming a connection's ends", errno);
  const auto peer_ends = numeric(peer);
  StreamEnds ends{numeric(local).host, peer_ends.host, {}};
  if (!peer_ends.host.empty()) {
    const bool v6 = peer_ends.host.find(':') != std::string::npos;
    ends.peer = (v6 ? "[" + peer_ends.host + "]" : peer_ends.host) + ":" +
                std::to_string(peer_ends.port) + " ";
  }
  ends.peer += "pid " + std::to_string(peer_process);
  return ends;
}

/// Who is at the other end of a Unix socket; the kernel says so. Of a listener: who bound it.
uid_t peer_user(int socket) {
  ucred peer{};
  socklen_t length = sizeof peer;
  if (::getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &length) != 0)
    throw_errno("rendezvous: SO_PEERCRED", errno);
  return peer.uid;
}

/// A receiver lets in its own user and root; one that runs as root lets in everybody.
void check_sender_user(int socket) {
  const auto user = peer_user(socket);
  if (user != ::geteuid() && user != 0 && ::geteuid() != 0)
    throw SetupError(Errc::handshake_failed,
                     "the sender runs as user " + std::to_string(user) + ", this process as " +
                         std::to_string(::geteuid()) + ": run both as one user");
}

/// A sender gives its messages to its own user and to root only, though it be root itself: abstract
/// names belong to whoever takes them first.
void check_receiver_user(int socket, const Uri& uri) {
  const auto user = peer_user(socket);
  if (user != ::geteuid() && user != 0)
    throw SetupError(
        Errc::handshake_failed,
        uri.text() + ": the receiver there runs as user " + std::to_string(user) +
            ", this process as " + std::to_string(::geteuid()) +
            ": run both as one user, or the receiver as root; if that one should not be "
            "there, end it or choose another name");
}

void send_frame(int socket, std::span<const std::byte> frame, std::span<const int> descriptors) {
  iovec piece{const_cast<std::byte*>(frame.data()), frame.size()};
  msghdr message{};
  message.msg_iov = &piece;
  message.msg_iovlen = 1;
  alignas(cmsghdr) std::array<char, CMSG_SPACE(kMaxDescriptors * sizeof(int))> control{};
  if (!descriptors.empty()) {
    message.msg_control = control.data();
    message.msg_controllen = CMSG_SPACE(descriptors.size_bytes());
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(descriptors.size_bytes());
    std::memcpy(CMSG_DATA(header), descriptors.data(), descriptors.size_bytes());
  }
  // Handshake messages are far smaller than any socket's buffer: whole or not at all.
  const auto sent = ::sendmsg(socket, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
  if (sent != static_cast<ssize_t>(frame.size()))
    throw SetupError(Errc::handshake_failed,
                     std::string("the peer broke the handshake off: ") +
                         (sent < 0 ? std::strerror(errno) : "its socket takes no more"));
}

/// Receives what is there; false at the end of the stream. Descriptors are taken or closed.
/// Throws SetupError{resource_limit} where this process had no room for them.
bool receive_some(int socket, FrameReader& reader, std::vector<Fd>& descriptors) {
  std::array<std::byte, 4096> bytes;
  iovec piece{bytes.data(), bytes.size()};
  msghdr message{};
  message.msg_iov = &piece;
  message.msg_iovlen = 1;
  alignas(cmsghdr) std::array<char, CMSG_SPACE(kMaxDescriptors * sizeof(int))> control{};
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  const auto got = ::recvmsg(socket, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  if (got < 0) {
    if (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR) return true;
    throw SetupError(Errc::handshake_failed,
                     std::string("the peer broke the handshake off: ") + std::strerror(errno));
  }
  for (cmsghdr* h = CMSG_FIRSTHDR(&message); h != nullptr; h = CMSG_NXTHDR(&message, h)) {
    if (h->cmsg_level != SOL_SOCKET || h->cmsg_type != SCM_RIGHTS) continue;
    const auto count = (h->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (std::size_t i = 0; i < count; ++i) {
      int fd = -1;
      std::memcpy(&fd, CMSG_DATA(h) + i * sizeof(int), sizeof fd);
      descriptors.emplace_back(fd);
    }
  }
  // Both cases cut the control message short; the kernel has closed what did not fit.
  if (descriptors.size() > kMaxDescriptors ||
      ((message.msg_flags & MSG_CTRUNC) != 0 && descriptors.size() == kMaxDescriptors))
    throw SetupError(Errc::handshake_failed,
                     "the peer sent more than " + std::to_string(kMaxDescriptors) + " descriptors");
  if ((message.msg_flags & MSG_CTRUNC) != 0)
    throw SetupError(
        Errc::resource_limit,
        "this process has no room for the descriptors of a channel: raise the limit of "
        "open files (ulimit -n, RLIMIT_NOFILE)");
  reader.append(std::span(bytes).first(static_cast<std::size_t>(got)));
  return got != 0;
}

void tune(int socket) {
  const int one = 1;
  ::setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);  // fails on Unix sockets: fine
}

/// What a hello must satisfy before anything is made for it.
void check_hello(const Hello& hello, const ListenerTraits& traits) {
  if (hello.version_min > kWireVersion || hello.version_max < kWireVersion)
    throw SetupError(Errc::version_mismatch,
                     "the sender speaks wire versions " + std::to_string(hello.version_min) +
                         " to " + std::to_string(hello.version_max) + ", the receiver " +
                         std::to_string(kWireVersion) + ": use the same penstock on both sides");
  if ((hello.features_required & ~kKnownFeatures) != 0)
    throw SetupError(Errc::feature_mismatch,
                     "the sender requires features that the receiver lacks: use the newer penstock "
                     "on both sides");
  if (hello.channel != traits.channel)
    throw SetupError(Errc::no_such_channel, "there is no channel '" + hello.channel +
                                                "' here, but '" + traits.channel + "'");
  check_types(hello.type, traits.type);
}

/// The first path in the hello that there is here.
const ListenerPath& choose_path(const Hello& hello, const ListenerTraits& traits) {
  for (const auto& wanted : hello.paths) {
    const auto found = std::ranges::find(traits.paths, wanted, &ListenerPath::scheme);
    if (found != traits.paths.end()) return *found;
  }
  std::string there;
  for (const auto& path : traits.paths) there += (there.empty() ? "'" : ", '") + path.scheme + "'";
  throw SetupError(Errc::feature_mismatch,
                   "the sender does not offer " +
                       (there.empty() ? "a path within this machine" : there) +
                       ", all there is here: connect with that scheme");
}

class StreamListener;

/// One handshake under way at a listener. Everything but halt() and stop() is called by the
/// engine's thread alone.
class Handshake final : public EngineHandler, public std::enable_shared_from_this<Handshake> {
 public:
  enum class State : std::uint8_t {
    silent,    ///< its hello has not come
    waiting,   ///< its hello waits until there is room for another ring; nothing is read meanwhile
    welcomed,  ///< it has a ring, and owes a ready
  };

  Handshake(Fd socket, std::weak_ptr<StreamListener> listener) noexcept
      : socket_(std::move(socket)), listener_(std::move(listener)) {}
  ~Handshake() override;
  void start();
  /// When it returns, no call of the engine is at work here and none will be, unless it is called
  /// from within one.
  void halt() noexcept;
  /// Halts it and closes what it has.
  void stop() noexcept;
  /// Turns the sender away, with this text.
  void refuse(StreamListener& listener, const char* why) noexcept;

  [[nodiscard]] State state() const noexcept { return state_; }
  [[nodiscard]] TimePoint welcomed_at() const noexcept { return welcomed_at_; }

  void on_ready(std::uint32_t events) noexcept override;
  void on_time(TimePoint now) noexcept override;

 private:
  template <class Step>
  void guarded(StreamListener& listener, Step&& step) noexcept;
  void parse(StreamListener& listener);
  void wait(TimePoint now);
  void greet(StreamListener& listener);
  void join(StreamListener& listener, const Frame& frame);
  void await_proof(StreamListener& listener, const Frame& frame);
  void progress();
  void admit(StreamListener& listener);
  void end(StreamListener& listener) noexcept;

  const Birth birth_;
  std::atomic<bool> stopped_ = false;  // relaxed: Engine::quiesce() orders it
  Fd socket_;  // of the engine's calls until they are quiesced, then stop()'s
  std::weak_ptr<StreamListener> listener_;
  State state_ = State::silent;
  TimePoint deadline_{};
  TimePoint welcomed_at_{};
  TimePoint presses_at_{};  // while waiting
  FrameReader reader_;
  std::vector<Fd> descriptors_;  // none is expected from a sender: whatever comes is closed
  Hello hello_;
  const ListenerPath* path_ = nullptr;  // in the listener's traits
  std::unique_ptr<Admission> admission_;
  bool proof_ = false;    // the sender is to prove the path, ...
  bool proving_ = false;  // and does
  StreamEnds ends_;
};

class StreamListener final : public EngineHandler,
                             public std::enable_shared_from_this<StreamListener> {
 public:
  StreamListener(Fd socket, std::string uri, ListenerTraits traits, std::shared_ptr<InletSink> sink,
                 bool local)
      : traits_(std::move(traits)),
        sink_(std::move(sink)),
        local_(local),
        places_(std::clamp<std::size_t>(
            kMaxWelcomedBytes / std::max(traits_.capacity, kMinCapacity), 1, kMaxWelcomed)),
        socket_(std::move(socket)),
        uri_(std::move(uri)) {}
  ~StreamListener() override { stop(); }

  void start() { Engine::get().watch(socket_.get(), EPOLLIN, shared_from_this()); }
  void stop() noexcept;
  [[nodiscard]] const std::string& uri() const noexcept { return uri_; }

  void on_ready(std::uint32_t events) noexcept override;
  void on_time(TimePoint now) noexcept override;

  // The rest is called by handshakes, on the engine thread.

  /// There is room for one more ring whose sender has not yet completed its handshake.
  [[nodiscard]] bool has_place() const noexcept {
    return count(Handshake::State::welcomed) < places_;
  }
  /// Somebody waits: ends the oldest handshake that has kept its place for too long, if there is
  /// one.
  void press(TimePoint now) noexcept;
  /// Lets the one that has waited for longest go on, if there is a place.
  void serve_waiting() noexcept;
  void forget(const std::shared_ptr<Handshake>& handshake) noexcept;

  const ListenerTraits traits_;
  const std::shared_ptr<InletSink> sink_;

 private:
  void take(Fd socket);
  void pause() noexcept;
  [[nodiscard]] std::size_t count(Handshake::State state) const noexcept;
  /// The one that has been in that state for longest, or null.
  [[nodiscard]] std::shared_ptr<Handshake> oldest(Handshake::State state) const noexcept;

  const Birth birth_;
  const bool local_;
  const std::size_t places_;
  std::atomic<bool> stopped_ = false;  // relaxed: Engine::quiesce() orders it
  Fd socket_;  // of the engine's calls until they are quiesced, then stop()'s
  const std::string uri_;
  mutable std::mutex mutex_;
  std::vector<std::shared_ptr<Handshake>> pending_;  // in the order in which they came; mutex_
};

void StreamListener::stop() noexcept {
  if (!birth_.here()) return;  // the parent's engine; a copy of its socket just closes
  stopped_.store(true, std::memory_order_relaxed);
  auto& engine = Engine::get();
  engine.quiesce(*this);
  if (socket_) engine.unwatch(socket_.get());
  socket_.reset();
  std::vector<std::shared_ptr<Handshake>> pending;
  {
    const std::lock_guard lock(mutex_);
    pending.swap(pending_);
  }
  // All of them before the first is closed: one may be at work on another.
  for (const auto& handshake : pending) handshake->halt();
  for (const auto& handshake : pending) handshake->stop();
}

void StreamListener::on_ready(std::uint32_t /*events*/) noexcept {
  if (stopped_.load(std::memory_order_relaxed)) return;
  for (int accepted = 0; accepted < kAcceptsPerCall; ++accepted) {
    Fd socket(::accept4(socket_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!socket) {
      if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) pause();
      return;
    }
    try {
      take(std::move(socket));
    } catch (const std::exception& e) {
      sink_->refused(e.what());
    }
  }
}

void StreamListener::pause() noexcept {
  // The connection stays in the backlog, and the descriptor ready: look away, not to spin on it.
  try {
    auto& engine = Engine::get();
    engine.call_at(Clock::now() + kAcceptPause, shared_from_this());
    engine.unwatch(socket_.get());
  } catch (const std::exception&) {
    // No memory for a timer: then it does spin, until there is.
  }
}

void StreamListener::on_time(TimePoint /*now*/) noexcept {
  if (stopped_.load(std::memory_order_relaxed)) return;
  try {
    start();
  } catch (const std::exception&) {
    pause();
  }
}

void StreamListener::take(Fd socket) {
  tune(socket.get());
  if (local_) check_sender_user(socket.get());
  const auto pending = [this] {
    const std::lock_guard lock(mutex_);
    return pending_.size();
  };
  if (pending() >= kMaxPending) {
    // Silence costs nothing, so silent ones must not keep out those that speak.
    if (const auto silent = oldest(Handshake::State::silent))
      silent->refuse(*this, "it said no hello, and others came: connect again");
  }
  if (pending() >= kMaxPending) {
    const std::string why = "too many senders connect to the receiver at once: connect again later";
    send_frame(socket.get(), encode(Reject{Errc::resource_limit, why}), {});
    throw SetupError(Errc::resource_limit, why);
  }
  auto handshake = std::make_shared<Handshake>(std::move(socket), weak_from_this());
  {
    const std::lock_guard lock(mutex_);
    pending_.push_back(handshake);
  }
  try {
    handshake->start();
  } catch (...) {
    forget(handshake);
    throw;
  }
}

std::size_t StreamListener::count(Handshake::State state) const noexcept {
  const std::lock_guard lock(mutex_);
  return static_cast<std::size_t>(
      std::ranges::count(pending_, state, [](const auto& h) { return h->state(); }));
}

std::shared_ptr<Handshake> StreamListener::oldest(Handshake::State state) const noexcept {
  const std::lock_guard lock(mutex_);
  std::shared_ptr<Handshake> oldest;
  for (const auto& handshake : pending_) {
    if (handshake->state() != state) continue;
    // Those that wait were not welcomed: the first that came is the oldest.
    if (!oldest || handshake->welcomed_at() < oldest->welcomed_at()) oldest = handshake;
  }
  return oldest;
}

void StreamListener::press(TimePoint now) noexcept {
  const auto slow = oldest(Handshake::State::welcomed);
  if (slow && now - slow->welcomed_at() >= kPatience)
    slow->refuse(*this, "it did not go on after the welcome, and others wait: connect again");
}

void StreamListener::forget(const std::shared_ptr<Handshake>& handshake) noexcept {
  {
    const std::lock_guard lock(mutex_);
    std::erase(pending_, handshake);
  }
  serve_waiting();
}

void StreamListener::serve_waiting() noexcept {
  if (!has_place()) return;
  const auto next = oldest(Handshake::State::waiting);
  if (!next) return;
  try {
    Engine::get().call_at(Clock::now(), next);
  } catch (const std::exception&) {
    // Then it looks for itself, before long.
  }
}

Handshake::~Handshake() {
  stop();
  if (!birth_.here()) (void)admission_.release();  // may hold a device, which is the parent's
}

void Handshake::start() {
  deadline_ = Clock::now() + kHandshakeDeadline;
  auto& engine = Engine::get();
  engine.watch(socket_.get(), EPOLLIN, shared_from_this());
  engine.call_at(deadline_, shared_from_this());
}

void Handshake::halt() noexcept {
  stopped_.store(true, std::memory_order_relaxed);
  Engine::get().quiesce(*this);
}

void Handshake::stop() noexcept {
  if (!birth_.here()) return;
  halt();
  if (socket_) Engine::get().unwatch(socket_.get());
  socket_.reset();
  admission_.reset();
}

void Handshake::end(StreamListener& listener) noexcept {
  stop();
  listener.forget(shared_from_this());
}

template <class Step>
void Handshake::guarded(StreamListener& listener, Step&& step) noexcept {
  try {
    step();
    return;
  } catch (const SetupError& e) {
    listener.sink_->refused(e.what());
    // A stranger gets no answer: it would not understand one.
    if (socket_ && (e.errc() != Errc::handshake_failed || state_ != State::silent)) {
      try {
        send_frame(socket_.get(), encode(Reject{e.errc(), e.what()}), {});
      } catch (const std::exception&) {  // it is gone: nothing to tell
      }
    }
  } catch (const std::exception& e) {
    listener.sink_->refused(e.what());
  }
  end(listener);
}

void Handshake::refuse(StreamListener& listener, const char* why) noexcept {
  guarded(listener, [&] { throw SetupError(Errc::resource_limit, why); });
}

void Handshake::on_time(TimePoint now) noexcept {
  if (stopped_.load(std::memory_order_relaxed)) return;
  const auto listener = listener_.lock();
  if (!listener) return;
  if (now >= deadline_) {
    guarded(*listener, [this] {
      if (state_ == State::waiting)
        throw SetupError(Errc::resource_limit,
                         "too many senders connect to the receiver at once: connect again later");
      throw SetupError(Errc::handshake_failed, "the handshake took too long");
    });
    return;
  }
  if (proving_) guarded(*listener, [this] { progress(); });
  if (state_ != State::waiting) return;
  guarded(*listener, [&] {
    if (listener->has_place()) {
      Engine::get().watch(socket_.get(), EPOLLIN, shared_from_this());
      greet(*listener);
      parse(*listener);
      listener->serve_waiting();
    } else if (now >= presses_at_) {
      wait(now);
      listener->press(now);
    }
  });
}

void Handshake::wait(TimePoint now) {
  if (state_ != State::waiting) deadline_ = now + kTurnDeadline;
  state_ = State::waiting;
  presses_at_ = now + kPatience;
  Engine::get().call_at(presses_at_, shared_from_this());
}

void Handshake::on_ready(std::uint32_t /*events*/) noexcept {
  if (stopped_.load(std::memory_order_relaxed)) return;
  const auto listener = listener_.lock();
  if (!listener) return;
  guarded(*listener, [&] {
    const bool open = receive_some(socket_.get(), reader_, descriptors_);
    descriptors_.clear();
    parse(*listener);
    if (!open && socket_)
      throw SetupError(Errc::handshake_failed, "the peer broke the handshake off");
  });
}

void Handshake::parse(StreamListener& listener) {
  while (socket_ && state_ != State::waiting) {
    const auto frame = reader_.next();
    if (!frame) return;
    if (state_ == State::welcomed) {
      proving_ ? await_proof(listener, *frame) : join(listener, *frame);
      continue;
    }
    if (frame->type != FrameType::hello)
      throw SetupError(Errc::handshake_failed, "the peer did not begin with a hello");
    hello_ = decode_hello(frame->body);
    check_hello(hello_, listener.traits_);
    if (!hello_.paths.empty() && hello_.paths.front() == kAnyPath) {
      send_frame(socket_.get(), encode(listener.traits_.offer), {});
      return end(listener);
    }
    path_ = &choose_path(hello_, listener.traits_);
    if (listener.has_place()) {
      greet(listener);
    } else {
      wait(Clock::now());
      Engine::get().unwatch(socket_.get());
    }
  }
}

void Handshake::greet(StreamListener& listener) {
  if (state_ == State::waiting) {
    deadline_ = Clock::now() + kHandshakeDeadline;
    Engine::get().call_at(deadline_, shared_from_this());
  }
  state_ = State::welcomed;
  welcomed_at_ = Clock::now();
  ends_ = ends_of(socket_.get(), hello_.process);
  admission_ = path_->admit();
  Welcome welcome;
  welcome.features = hello_.features_offered & kRoomFrames;
  welcome.session = hello_.session;
  welcome.incarnation = hello_.incarnation;
  welcome.path = path_->scheme;
  welcome.page_size = static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
  welcome.liveness_ns = static_cast<std::uint64_t>(listener.traits_.liveness.count());
  welcome.process = static_cast<std::uint64_t>(::getpid());
  std::vector<int> descriptors;
  admission_->welcome(hello_, ends_, welcome, descriptors);
  proof_ = (welcome.features & kProof) != 0;
  send_frame(socket_.get(), encode(welcome), descriptors);
}

void Handshake::join(StreamListener& listener, const Frame& frame) {
  if (frame.type == FrameType::reject) {
    const auto reject = decode_reject(frame.body);
    throw SetupError(reject.code, "the sender gave up: " + reject.text);
  }
  if (frame.type != FrameType::ready)
    throw SetupError(Errc::handshake_failed, "the peer did not follow its hello with a ready");
  admission_->join(decode_ready(frame.body));
  if (!proof_) return admit(listener);
  proving_ = true;
  send_frame(socket_.get(), encode_empty(FrameType::prove), {});
  progress();
}

void Handshake::await_proof(StreamListener& listener, const Frame& frame) {
  if (frame.type == FrameType::bye) return end(listener);  // it only wanted to know
  if (frame.type == FrameType::reject) {
    const auto reject = decode_reject(frame.body);
    throw SetupError(reject.code, "the sender gave up: " + reject.text);
  }
  if (frame.type != FrameType::proven)
    throw SetupError(Errc::handshake_failed, "the peer did not say that it proved the path");
  admit(listener);
}

/// Some links need both ends to look.
void Handshake::progress() {
  admission_->progress();
  Engine::get().call_at(Clock::now() + kProofTick, shared_from_this());
}

void Handshake::admit(StreamListener& listener) {
  proving_ = false;
  auto parts = admission_->complete();
  Engine::get().unwatch(socket_.get());
  parts.peer = ends_.peer;
  parts.room_frames = (hello_.features_offered & kRoomFrames) != 0;
  parts.connection = std::make_shared<Connection>(
      std::move(socket_),
      Connection::Timing{listener.traits_.liveness, liveness_of(hello_.liveness_ns)},
      std::move(reader_));
  // The go comes last: when connect() returns, the receiver counts this sender as there.
  const auto connection = parts.connection;
  if (listener.sink_->add(std::move(parts))) connection->say_go();
  end(listener);
}

/// Keeps a StreamListener, which the engine shares, as the one owner sees it.
class ListenerHandle final : public Listener {
 public:
  explicit ListenerHandle(std::shared_ptr<StreamListener> listener)
      : listener_(std::move(listener)) {}
  ~ListenerHandle() override { listener_->stop(); }
  [[nodiscard]] std::string uri() const override { return listener_->uri(); }

 private:
  std::shared_ptr<StreamListener> listener_;
};

Fd bind_and_listen(const Endpoint& endpoint, const Uri& uri) {
  int error = EADDRNOTAVAIL;
  for (const auto& address : resolve(endpoint, true)) {
    Fd socket(::socket(address.storage.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!socket) {
      error = errno;
      continue;
    }
    const int one = 1;
    if (endpoint.local.empty())
      ::setsockopt(socket.get(), SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (::bind(socket.get(), address.get(), address.length) == 0 &&
        ::listen(socket.get(), SOMAXCONN) == 0)
      return socket;
    error = errno;
  }
  if (error == EADDRINUSE)
    throw SetupError(Errc::address_in_use,
                     uri.text() + ": another receiver is bound there; choose another " +
                         (endpoint.local.empty() ? "port, or port 0 to have one picked" : "name"));
  if (error == EADDRNOTAVAIL)
    throw SetupError(Errc::system, uri.text() + ": no interface of this machine has the address " +
                                       endpoint.host +
                                       ": use one that `ip addr` lists, or 0.0.0.0");
  throw_errno(uri.text() + ": cannot listen", error);
}

/// TCP lets a socket connect to itself where the port that it was given is the one asked for.
bool is_its_own_peer(int socket) {
  Address local;
  Address peer;
  local.length = peer.length = sizeof(sockaddr_storage);
  if (::getsockname(socket, local.get(), &local.length) != 0 ||
      ::getpeername(socket, peer.get(), &peer.length) != 0)
    return false;  // what follows will tell
  return local.storage.ss_family != AF_UNIX && local.length == peer.length &&
         std::memcmp(&local.storage, &peer.storage, local.length) == 0;
}

/// A connected socket, or nothing when nobody listens there yet.
Fd try_connect(const Endpoint& endpoint, TimePoint deadline, std::string& why) {
  for (const auto& address : resolve(endpoint, false)) {
    Fd socket(::socket(address.storage.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!socket) throw_errno("rendezvous: socket", errno);
    int error = ::connect(socket.get(), address.get(), address.length) == 0 ? 0 : errno;
    if (error == EINPROGRESS) {
      pollfd wait{socket.get(), POLLOUT, 0};
      // Not the whole deadline: another address, or a later attempt, may be answered.
      if (::poll(&wait, 1, poll_timeout(std::min(deadline, Clock::now() + kAnswer))) <= 0) {
        why = "no answer";
        continue;
      }
      socklen_t length = sizeof error;
      ::getsockopt(socket.get(), SOL_SOCKET, SO_ERROR, &error, &length);
    }
    if (error == 0 && is_its_own_peer(socket.get())) {
      why = "nobody listens there";
      continue;
    }
    if (error == 0) {
      tune(socket.get());
      return socket;
    }
    why = std::strerror(error);
  }
  return {};
}

class SenderStream {
 public:
  SenderStream(Fd socket, const Uri& uri, TimePoint deadline)
      : socket_(std::move(socket)), uri_(uri), deadline_(deadline) {}

  void send(std::span<const std::byte> frame) { send_frame(socket_.get(), frame, {}); }

  /// The next message, which must be of `type`. A reject becomes the exception that it carries.
  Frame expect(FrameType type) {
    for (;;) {
      if (auto frame = reader_.next()) {
        if (frame->type == FrameType::reject) {
          const auto reject = decode_reject(frame->body);
          throw SetupError(reject.code, uri_.text() + ": the receiver refused: " + reject.text);
        }
        if (frame->type == FrameType::closed)
          throw SetupError(Errc::unreachable, "the receiver closed at this moment");
        if (frame->type != type)
          throw SetupError(Errc::handshake_failed, "the peer sent a message out of turn");
        return std::move(*frame);
      }
      pollfd wait{socket_.get(), POLLIN, 0};
      const int ready = ::poll(&wait, 1, poll_timeout(deadline_));
      if (ready == 0)
        throw SetupError(Errc::unreachable, "the receiver did not answer the handshake in time");
      if (ready > 0 && !receive_some(socket_.get(), reader_, descriptors))
        throw SetupError(Errc::handshake_failed, "the peer broke the handshake off");
    }
  }

  [[nodiscard]] int fd() const noexcept { return socket_.get(); }
  Fd take_socket() { return std::move(socket_); }
  FrameReader take_reader() { return std::move(reader_); }
  std::vector<Fd> descriptors;  // that came with what was received

 private:
  Fd socket_;
  const Uri& uri_;
  TimePoint deadline_;
  FrameReader reader_;
};

void check_welcome(const Welcome& welcome, const Uri& uri) {
  if (welcome.version != kWireVersion)
    throw SetupError(Errc::version_mismatch, uri.text() + ": the receiver chose wire version " +
                                                 std::to_string(welcome.version) +
                                                 ", unknown here");
  if ((welcome.features & ~kKnownFeatures) != 0)
    throw SetupError(Errc::feature_mismatch, uri.text() + ": the receiver uses unknown features");
  if (welcome.path != uri.scheme)
    throw SetupError(Errc::handshake_failed,
                     uri.text() + ": the receiver chose a path not offered");
  if (!std::has_single_bit(welcome.capacity) || welcome.capacity < kMinCapacity ||
      welcome.capacity > kMaxCapacity || welcome.window > welcome.capacity ||
      welcome.window < kMinCapacity / 4)
    throw SetupError(Errc::geometry_mismatch,
                     uri.text() + ": the receiver offers a ring of " +
                         std::to_string(welcome.capacity) + " bytes with a window of " +
                         std::to_string(welcome.window) + ", which this version cannot use");
}

}  // namespace

std::unique_ptr<Listener> listen_at(const Endpoint& endpoint, const Uri& uri, ListenerTraits traits,
                                    std::shared_ptr<InletSink> sink) {
  (void)Engine::get();  // throws now or never: what is made from here on stops without fail
  Fd socket = bind_and_listen(endpoint, uri);
  Uri bound = uri;
  bound.options.clear();
  if (endpoint.local.empty()) {
    Address address;
    address.length = sizeof(sockaddr_storage);
    if (::getsockname(socket.get(), address.get(), &address.length) != 0)
      throw_errno("rendezvous: getsockname", errno);
    const auto where = numeric(address);
    bound.port = where.port;
    if (bound.host.empty()) bound.host = where.host;
  }
  auto listener = std::make_shared<StreamListener>(
      std::move(socket), bound.text(), std::move(traits), std::move(sink), !endpoint.local.empty());
  listener->start();
  return std::make_unique<ListenerHandle>(std::move(listener));
}

namespace {

/// Connects, trying again until `deadline` while nobody listens there.
Fd reach(const Endpoint& endpoint, const Uri& uri, TimePoint deadline) {
  (void)Engine::get();  // throws now or never: what is made from here on stops without fail
  std::string why = "nobody listens there";
  Fd socket;
  while (!(socket = try_connect(endpoint, deadline, why))) {
    if (Clock::now() >= deadline)
      throw SetupError(Errc::unreachable, uri.text() +
                                              ": no receiver answered until the deadline (" + why +
                                              "): start it, or check the address and firewall");
    std::this_thread::sleep_for(
        std::min<std::chrono::nanoseconds>(kRetry, deadline - Clock::now()));
  }
  if (!endpoint.local.empty()) check_receiver_user(socket.get(), uri);
  return socket;
}

Hello hello_to(const Uri& uri, const OutletSettings& settings, const std::string& path) {
  Hello hello;
  if (::getrandom(hello.session.data(), hello.session.size(), 0) !=
      static_cast<ssize_t>(hello.session.size()))
    throw_errno("rendezvous: drawing a session id with getrandom", errno);
  hello.features_offered = kKnownFeatures;
  hello.channel = uri.name;
  hello.paths = {path};
  hello.page_size = static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
  hello.max_capacity = kMaxCapacity;
  hello.liveness_ns = static_cast<std::uint64_t>(settings.liveness.count());
  hello.type = settings.type;
  hello.process = static_cast<std::uint64_t>(::getpid());
  return hello;
}

/// Errors of what `step` does name the channel.
template <class Step>
auto named(const Uri& uri, Step&& step) {
  try {
    return step();
  } catch (const SetupError& e) {
    const std::string text = e.what();
    if (text.starts_with(uri.text())) throw;
    throw SetupError(e.errc(), uri.text() + ": " + text);
  }
}

TimePoint handshake_deadline(TimePoint deadline) {
  return std::max(deadline, Clock::now() + kHandshakeDeadline / 2);
}

}  // namespace

Offer ask_at(const Endpoint& endpoint, const Uri& uri, const OutletSettings& settings,
             TimePoint deadline) {
  SenderStream stream(reach(endpoint, uri, deadline), uri, handshake_deadline(deadline));
  return named(uri, [&] {
    stream.send(encode(hello_to(uri, settings, kAnyPath)));
    return decode_offer(stream.expect(FrameType::offer).body);
  });
}

OutletParts approach_at(const Endpoint& endpoint, const Uri& uri, const OutletSettings& settings,
                        TimePoint deadline, Approach& approach) {
  SenderStream stream(reach(endpoint, uri, deadline), uri, handshake_deadline(deadline));
  return named(uri, [&] {
    Hello hello = hello_to(uri, settings, uri.scheme);
    hello.rails = approach.rails();
    stream.send(encode(hello));
    const auto welcome = decode_welcome(stream.expect(FrameType::welcome).body);
    check_welcome(welcome, uri);
    const bool proves = (welcome.features & kProof) != 0;
    if (settings.trial && !proves)
      throw SetupError(Errc::feature_mismatch,
                       "the receiver's penstock is too old for a path to be tried out: connect");
    const auto ends = ends_of(stream.fd(), welcome.process);
    // The receiver's people want to know, too.
    const auto told = [&](auto&& step) {
      try {
        return step();
      } catch (const SetupError& e) {
        stream.send(encode(Reject{e.errc(), e.what()}));
        throw;
      }
    };
    stream.send(
        encode(told([&] { return approach.ready(welcome, ends, std::move(stream.descriptors)); })));
    if (proves) {
      (void)stream.expect(FrameType::prove);
      told([&] { approach.prove(Clock::now() + kProofDeadline); });
      stream.send(encode_empty(settings.trial ? FrameType::bye : FrameType::proven));
    }
    if (!settings.trial) (void)stream.expect(FrameType::go);
    auto parts = approach.complete();
    parts.peer = ends.peer;
    if (settings.trial) return parts;
    parts.window = welcome.window;
    parts.max_message = welcome.max_message;
    parts.room_frames = (welcome.features & kRoomFrames) != 0;
    parts.connection = std::make_shared<Connection>(
        stream.take_socket(),
        Connection::Timing{settings.liveness, liveness_of(welcome.liveness_ns)},
        stream.take_reader());
    return parts;
  });
}

Geometry agree(const InletSettings& settings, std::uint64_t default_capacity,
               std::uint64_t sender_max) {
  Geometry geometry{settings.capacity == 0 ? default_capacity : settings.capacity, settings.window};
  if (geometry.window == 0) geometry.window = geometry.capacity;
  // A whole number of records, so that the largest message fits even where it meets padding.
  geometry.window -= geometry.window % kRecordAlign;
  if (geometry.capacity > sender_max)
    throw SetupError(Errc::geometry_mismatch,
                     "the receiver's ring has " + std::to_string(geometry.capacity) +
                         " bytes, the sender mirrors at most " + std::to_string(sender_max) +
                         ": bind with a smaller ?capacity=");
  return geometry;
}

}  // namespace penstock::inline v1
