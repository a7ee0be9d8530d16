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
#include <bit>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <set>
#include <thread>

#include "penstock/transport/fd.hpp"

namespace penstock::inline v1 {
namespace {

constexpr auto kHandshakeDeadline = std::chrono::seconds(10);
constexpr std::size_t kMaxPending = 256;     // handshakes under way at one listener
constexpr std::size_t kMaxDescriptors = 4;   // taken from one message
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
    throw SetupError(Errc::unreachable, "cannot resolve host '" + endpoint.host +
                                            "': " + ::gai_strerror(error));
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

/// On this machine only the same user (or root) is let in; this is asked of the kernel.
void check_credentials(int socket) {
  ucred peer{};
  socklen_t length = sizeof peer;
  if (::getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &length) != 0)
    throw_errno("rendezvous: SO_PEERCRED", errno);
  if (peer.uid != ::geteuid() && peer.uid != 0 && ::geteuid() != 0)
    throw SetupError(Errc::handshake_failed, "the peer runs as user " + std::to_string(peer.uid) +
                                                 ", this process as " + std::to_string(::geteuid()) +
                                                 ": run both as one user");
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
                     "the sender speaks wire versions " + std::to_string(hello.version_min) + " to " +
                         std::to_string(hello.version_max) + ", the receiver " +
                         std::to_string(kWireVersion) + ": use the same penstock on both sides");
  if ((hello.features_required & ~kKnownFeatures) != 0)
    throw SetupError(Errc::feature_mismatch,
                     "the sender requires features that the receiver lacks: use the newer penstock "
                     "on both sides");
  if (hello.fingerprint != kBytesFingerprint)
    throw SetupError(Errc::type_mismatch, "the receiver takes bytes, the sender sends a type");
  if (hello.channel != traits.channel)
    throw SetupError(Errc::no_such_channel, "there is no channel '" + hello.channel + "' here, but '" +
                                                traits.channel + "'");
  if (std::ranges::find(hello.paths, traits.scheme) == hello.paths.end())
    throw SetupError(Errc::handshake_failed, "the sender does not offer '" + traits.scheme + "'");
}

class StreamListener;

/// One handshake under way at a listener; a handler of the engine.
class Handshake final : public EngineHandler, public std::enable_shared_from_this<Handshake> {
 public:
  Handshake(Fd socket, std::weak_ptr<StreamListener> listener) noexcept
      : socket_(std::move(socket)), listener_(std::move(listener)) {}
  ~Handshake() override { stop(); }
  void start();
  void stop() noexcept;
  void on_ready(std::uint32_t events) noexcept override;
  void on_time(TimePoint now) noexcept override;

 private:
  void step(StreamListener& listener);
  void greet(StreamListener& listener, const Frame& frame);
  void admit(StreamListener& listener, const Frame& frame);
  void end(StreamListener& listener) noexcept;

  std::mutex mutex_;  // guards socket_'s closing
  Fd socket_;
  std::weak_ptr<StreamListener> listener_;
  FrameReader reader_;
  std::vector<Fd> descriptors_;  // none is expected from a sender: whatever comes is closed
  std::unique_ptr<Admission> admission_;
  StreamEnds ends_;
  std::uint64_t peer_liveness_ = 0;
};

class StreamListener final : public EngineHandler, public std::enable_shared_from_this<StreamListener> {
 public:
  StreamListener(Fd socket, std::string uri, ListenerTraits traits, std::shared_ptr<InletSink> sink,
                 bool local)
      : traits_(std::move(traits)), sink_(std::move(sink)), local_(local), socket_(std::move(socket)),
        uri_(std::move(uri)) {}
  ~StreamListener() override { stop(); }

  void start() { Engine::get().watch(socket_.get(), EPOLLIN, shared_from_this()); }
  void stop() noexcept {
    if (!birth_.here()) return;
    if (socket_) Engine::get().unwatch(socket_.get());
    socket_.reset();
    std::set<std::shared_ptr<Handshake>> pending;
    {
      const std::lock_guard lock(mutex_);
      pending.swap(pending_);
    }
    for (const auto& handshake : pending) handshake->stop();
  }
  [[nodiscard]] const std::string& uri() const noexcept { return uri_; }

  void on_ready(std::uint32_t /*events*/) noexcept override {
    for (;;) {
      Fd socket(::accept4(socket_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
      if (!socket) {
        // Out of descriptors: the connection stays in the backlog; do not spin on it.
        if (errno == EMFILE || errno == ENFILE) std::this_thread::sleep_for(std::chrono::milliseconds(5));
        return;
      }
      try {
        tune(socket.get());
        if (local_) check_credentials(socket.get());
        auto handshake = std::make_shared<Handshake>(std::move(socket), weak_from_this());
        {
          const std::lock_guard lock(mutex_);
          if (pending_.size() >= kMaxPending)
            throw SetupError(Errc::resource_limit, "too many handshakes at once");
          pending_.insert(handshake);
        }
        handshake->start();
      } catch (const std::exception& e) {
        sink_->refused(e.what());
      }
    }
  }

  void forget(const std::shared_ptr<Handshake>& handshake) noexcept {
    const std::lock_guard lock(mutex_);
    pending_.erase(handshake);
  }

  const ListenerTraits traits_;
  const std::shared_ptr<InletSink> sink_;
  const bool local_;

 private:
  const Birth birth_;
  Fd socket_;
  const std::string uri_;
  std::mutex mutex_;
  std::set<std::shared_ptr<Handshake>> pending_;
};

void Handshake::start() {
  auto& engine = Engine::get();
  engine.watch(socket_.get(), EPOLLIN, shared_from_this());
  engine.call_at(Clock::now() + kHandshakeDeadline, shared_from_this());
}

void Handshake::stop() noexcept {
  int socket = -1;
  {
    const std::lock_guard lock(mutex_);
    socket = socket_.get();
  }
  if (socket >= 0) Engine::get().unwatch(socket);
  const std::lock_guard lock(mutex_);
  socket_.reset();
  admission_.reset();
}

void Handshake::end(StreamListener& listener) noexcept {
  stop();
  listener.forget(shared_from_this());
}

void Handshake::on_time(TimePoint /*now*/) noexcept {
  const std::lock_guard lock(mutex_);
  if (socket_) ::shutdown(socket_.get(), SHUT_RDWR);  // on_ready() does the rest
}

void Handshake::on_ready(std::uint32_t /*events*/) noexcept {
  const auto listener = listener_.lock();
  if (!listener || !socket_) return;
  try {
    step(*listener);
    return;
  } catch (const SetupError& e) {
    listener->sink_->refused(e.what());
    // A stranger gets no answer: it would not understand one.
    if (e.errc() != Errc::handshake_failed || admission_) {
      try {
        send_frame(socket_.get(), encode(Reject{e.errc(), e.what()}), {});
      } catch (const std::exception&) {  // it is gone: nothing to tell
        end(*listener);
        return;
      }
    }
  } catch (const std::exception& e) {
    listener->sink_->refused(e.what());
  }
  end(*listener);
}

void Handshake::step(StreamListener& listener) {
  const bool open = receive_some(socket_.get(), reader_, descriptors_);
  descriptors_.clear();
  while (socket_) {
    const auto frame = reader_.next();
    if (!frame) break;
    if (!admission_) {
      greet(listener, *frame);
    } else {
      admit(listener, *frame);
    }
  }
  if (!open && socket_)
    throw SetupError(Errc::handshake_failed, "the peer broke the handshake off");
}

void Handshake::greet(StreamListener& listener, const Frame& frame) {
  if (frame.type != FrameType::hello)
    throw SetupError(Errc::handshake_failed, "the peer did not begin with a hello");
  const auto hello = decode_hello(frame.body);
  check_hello(hello, listener.traits_);
  peer_liveness_ = hello.liveness_ns;
  ends_ = ends_of(socket_.get(), hello.process);
  admission_ = listener.traits_.admit();
  Welcome welcome;
  welcome.session = hello.session;
  welcome.incarnation = hello.incarnation;
  welcome.path = listener.traits_.scheme;
  welcome.page_size = static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
  welcome.liveness_ns = static_cast<std::uint64_t>(listener.traits_.liveness.count());
  welcome.process = static_cast<std::uint64_t>(::getpid());
  std::vector<int> descriptors;
  admission_->welcome(hello, ends_, welcome, descriptors);
  send_frame(socket_.get(), encode(welcome), descriptors);
}

void Handshake::admit(StreamListener& listener, const Frame& frame) {
  if (frame.type != FrameType::ready)
    throw SetupError(Errc::handshake_failed, "the peer did not follow its hello with a ready");
  auto parts = admission_->complete(decode_ready(frame.body));
  Engine::get().unwatch(socket_.get());
  parts.peer = ends_.peer;
  parts.connection = std::make_shared<Connection>(
      std::move(socket_),
      Connection::Timing{listener.traits_.liveness, std::chrono::nanoseconds(peer_liveness_)},
      std::move(reader_));
  // The go comes last: when connect() returns, the receiver counts this sender as there.
  const auto connection = parts.connection;
  if (listener.sink_->add(std::move(parts))) connection->say_go();
  end(listener);
}

/// Keeps a StreamListener, which the engine shares, as the one owner sees it.
class ListenerHandle final : public Listener {
 public:
  explicit ListenerHandle(std::shared_ptr<StreamListener> listener) : listener_(std::move(listener)) {}
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
    if (endpoint.local.empty()) ::setsockopt(socket.get(), SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
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
                                       endpoint.host + ": use one that `ip addr` lists, or 0.0.0.0");
  throw_errno(uri.text() + ": cannot listen", error);
}

/// A connected socket, or nothing when nobody listens there yet.
Fd try_connect(const Endpoint& endpoint, TimePoint deadline, std::string& why) {
  for (const auto& address : resolve(endpoint, false)) {
    Fd socket(::socket(address.storage.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!socket) throw_errno("rendezvous: socket", errno);
    int error = ::connect(socket.get(), address.get(), address.length) == 0 ? 0 : errno;
    if (error == EINPROGRESS) {
      pollfd wait{socket.get(), POLLOUT, 0};
      if (::poll(&wait, 1, poll_timeout(deadline)) <= 0) {
        why = "no answer";
        return {};
      }
      socklen_t length = sizeof error;
      ::getsockopt(socket.get(), SOL_SOCKET, SO_ERROR, &error, &length);
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
  std::vector<Fd> descriptors;

 private:
  Fd socket_;
  const Uri& uri_;
  TimePoint deadline_;
  FrameReader reader_;
};

void check_welcome(const Welcome& welcome, const Uri& uri) {
  if (welcome.version != kWireVersion)
    throw SetupError(Errc::version_mismatch, uri.text() + ": the receiver chose wire version " +
                                                 std::to_string(welcome.version) + ", unknown here");
  if ((welcome.features & ~kKnownFeatures) != 0)
    throw SetupError(Errc::feature_mismatch, uri.text() + ": the receiver uses unknown features");
  if (welcome.path != uri.scheme)
    throw SetupError(Errc::handshake_failed, uri.text() + ": the receiver chose a path not offered");
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
  auto listener = std::make_shared<StreamListener>(std::move(socket), bound.text(), std::move(traits),
                                                   std::move(sink), !endpoint.local.empty());
  listener->start();
  return std::make_unique<ListenerHandle>(std::move(listener));
}

OutletParts approach_at(const Endpoint& endpoint, const Uri& uri, std::chrono::nanoseconds liveness,
                        TimePoint deadline, Approach& approach) {
  std::string why = "nobody listens there";
  Fd socket;
  while (!(socket = try_connect(endpoint, deadline, why))) {
    if (Clock::now() >= deadline)
      throw SetupError(Errc::unreachable, uri.text() + ": no receiver answered until the deadline (" +
                                              why + "): start it, or check the address and firewall");
    std::this_thread::sleep_for(std::min<std::chrono::nanoseconds>(kRetry, deadline - Clock::now()));
  }
  if (!endpoint.local.empty()) check_credentials(socket.get());
  Hello hello;
  if (::getrandom(hello.session.data(), hello.session.size(), 0) !=
      static_cast<ssize_t>(hello.session.size()))
    throw_errno("rendezvous: drawing a session id with getrandom", errno);
  hello.channel = uri.name;
  hello.paths = {uri.scheme};
  hello.page_size = static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
  hello.max_capacity = kMaxCapacity;
  hello.liveness_ns = static_cast<std::uint64_t>(liveness.count());
  hello.process = static_cast<std::uint64_t>(::getpid());
  SenderStream stream(std::move(socket), uri, std::max(deadline, Clock::now() + kHandshakeDeadline / 2));
  try {
    stream.send(encode(hello));
    const auto welcome = decode_welcome(stream.expect(FrameType::welcome).body);
    check_welcome(welcome, uri);
    const auto ends = ends_of(stream.fd(), welcome.process);
    stream.send(encode(approach.ready(welcome, ends, std::move(stream.descriptors))));
    (void)stream.expect(FrameType::go);
    auto parts = approach.complete();
    parts.window = welcome.window;
    parts.peer = ends.peer;
    parts.connection = std::make_shared<Connection>(
        stream.take_socket(),
        Connection::Timing{liveness, std::chrono::nanoseconds(welcome.liveness_ns)},
        stream.take_reader());
    return parts;
  } catch (const SetupError& e) {
    const std::string text = e.what();
    if (text.starts_with(uri.text())) throw;
    throw SetupError(e.errc(), uri.text() + ": " + text);
  }
}

Geometry agree(const InletSettings& settings, std::uint64_t default_capacity, std::uint64_t sender_max) {
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
