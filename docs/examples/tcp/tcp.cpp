// A transport over plain TCP sockets, as docs/write-a-transport.md explains it.
//
// Two sockets for a link: each end dials the other's listening socket, writes to the socket that it
// dialled and reads from the one that it accepted. A post is a head, the places that its bytes
// belong to, and the bytes; the reader puts them there, straight from the socket, and says how many
// posts it has placed. Nothing lands but in poll().
#include <netdb.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>
#include <penstock/transport/error.hpp>
#include <penstock/transport/plugin_export.hpp>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace {

using namespace penstock;

constexpr std::size_t kMostPosts = 64;
constexpr std::size_t kMostPlaces = 15;
constexpr std::size_t kMostRegions = 4;
constexpr std::size_t kInbox = 64;  // immediates that were not taken yet; the contract asks for 32
constexpr std::size_t kGuests = 4;
constexpr std::size_t kBuffer = 65'536;

// ── What travels; integers as the CPU has them, little-endian ────────────────────────────────────

using Secret = std::array<std::uint64_t, 2>;

/// The other end needs it to dial, and to show that it is the one that was told so.
struct Description {
  std::uint32_t version = 1;
  std::uint32_t port = 0;
  Secret secret{};
  std::uint64_t region_count = 0;
  std::array<std::uint64_t, kMostRegions> lengths{};  // of the regions that may be written
};

struct Head {
  std::uint64_t placed;  // so many of the other end's posts have been placed
  std::uint32_t places;
  std::uint32_t kind;  // a Kind
  std::uint32_t immediate;
  std::uint32_t reserved;
};
enum Kind : std::uint32_t { kWord = 0, kPost = 1, kPostWithImmediate = 2 };

struct Place {
  std::uint64_t offset;
  std::uint32_t region;
  std::uint32_t length;
};

// ── Sockets ──────────────────────────────────────────────────────────────────────────────────────

[[noreturn]] void refuse(Errc code, const std::string& what, int error) {
  throw SetupError(code, "tcp: " + what + ": " + std::strerror(error));
}

class Socket {
 public:
  Socket() = default;
  explicit Socket(int fd) : fd_(fd) {}
  Socket(Socket&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Socket& operator=(Socket&& other) noexcept {
    if (fd_ >= 0) ::close(fd_);
    fd_ = std::exchange(other.fd_, -1);
    return *this;
  }
  ~Socket() {
    if (fd_ >= 0) ::close(fd_);
  }
  [[nodiscard]] int get() const { return fd_; }
  explicit operator bool() const { return fd_ >= 0; }

 private:
  int fd_ = -1;
};

struct Address {
  sockaddr_storage bytes{};
  socklen_t length = sizeof(sockaddr_storage);
  [[nodiscard]] sockaddr* get() { return reinterpret_cast<sockaddr*>(&bytes); }
};

/// penstock has looked names up already: `host` is a number.
Address address_of(const std::string& host, std::uint16_t port) {
  addrinfo hints{};
  hints.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  if (::getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &found) != 0)
    throw SetupError(Errc::bad_uri, "tcp: '" + host + "' is no address");
  Address address;
  std::memcpy(&address.bytes, found->ai_addr, found->ai_addrlen);
  address.length = found->ai_addrlen;
  ::freeaddrinfo(found);
  return address;
}

Socket listen_at(const std::string& host) {
  Address address = address_of(host, 0);
  Socket socket(::socket(address.bytes.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!socket || ::bind(socket.get(), address.get(), address.length) != 0 ||
      ::listen(socket.get(), 4) != 0)
    refuse(Errc::system, "listening at " + host, errno);
  return socket;
}

std::uint16_t port_of(const Socket& socket) {
  Address address;
  if (::getsockname(socket.get(), address.get(), &address.length) != 0)
    refuse(Errc::system, "getsockname", errno);
  return ntohs(
      reinterpret_cast<sockaddr_in&>(address.bytes).sin_port);  // at one place in both families
}

/// The other end listens already: this does not wait for its program.
Socket dial(const std::string& host, std::uint16_t port) {
  Address address = address_of(host, port);
  Socket socket(::socket(address.bytes.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const timeval patience{.tv_sec = 5, .tv_usec = 0};
  const int on = 1;
  if (!socket ||
      ::setsockopt(socket.get(), SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience) != 0 ||
      ::connect(socket.get(), address.get(), address.length) != 0 ||
      ::setsockopt(socket.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) != 0)
    refuse(Errc::unreachable, "dialling " + host + " port " + std::to_string(port), errno);
  return socket;
}

// ── The link ─────────────────────────────────────────────────────────────────────────────────────

class TcpLink final : public Link {
 public:
  explicit TcpLink(const LinkConfig& config)
      : peer_host_(config.peer_host),
        listener_(listen_at(config.local_host)),
        port_(port_of(listener_)),
        posts_(kMostPosts) {
    for (const LinkRegion& region : config.regions)
      if (region.remote_write) regions_.push_back(region);
    if (regions_.size() > kMostRegions)
      throw SetupError(Errc::feature_mismatch, "tcp: too many regions");
    if (::getrandom(secret_.data(), sizeof secret_, 0) != sizeof secret_)
      refuse(Errc::system, "getrandom", errno);
    events_ = Socket(::epoll_create1(EPOLL_CLOEXEC));
    bell_ = Socket(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!events_ || !bell_) refuse(Errc::system, "epoll and eventfd", errno);
    watch(bell_, EPOLL_CTL_ADD, EPOLLIN);
    watch(listener_, EPOLL_CTL_ADD, EPOLLIN);
  }

  [[nodiscard]] std::vector<std::byte> describe() const override {
    Description mine{.port = port_, .secret = secret_, .region_count = regions_.size()};
    for (std::size_t i = 0; i < regions_.size(); ++i) mine.lengths[i] = regions_[i].length;
    const auto bytes = std::as_bytes(std::span(&mine, 1));
    return {bytes.begin(), bytes.end()};
  }

  void connect(std::span<const std::byte> peer) override {
    Description theirs;
    if (peer.size() != sizeof theirs)
      throw SetupError(Errc::handshake_failed, "tcp: the peer's description is cut short");
    std::memcpy(&theirs, peer.data(), sizeof theirs);
    if (theirs.version != 1 || theirs.region_count > kMostRegions)
      throw SetupError(Errc::version_mismatch, "tcp: the peer speaks another version");
    out_ = dial(peer_host_, static_cast<std::uint16_t>(theirs.port));
    if (::send(out_.get(), &theirs.secret, sizeof theirs.secret, MSG_NOSIGNAL) != sizeof secret_)
      refuse(Errc::unreachable, "greeting the peer", errno);
    peer_ = theirs;
    watch(out_, EPOLL_CTL_ADD, 0);
  }

  [[nodiscard]] LinkLimits limits() const noexcept override {
    return {.max_writes = kMostPlaces,
            .max_write = 1U << 20U,
            .packet = 4096,
            .receives = 32,
            .ordered_writes = false};  // what is not polled for does not land
  }

  [[nodiscard]] PostStatus post(std::span<const RemoteWrite> writes,
                                std::optional<std::uint32_t> immediate,
                                std::uint64_t cookie) noexcept override {
    if (failed_) return PostStatus::failed;
    if (!out_ || writes.size() > kMostPlaces ||
        !std::ranges::all_of(writes, [&](const RemoteWrite& w) { return allowed(w); })) {
      fail("a write lies outside of what the peer described");
      return PostStatus::failed;
    }
    if (posted_ - finished_ == kMostPosts) return PostStatus::no_room;
    Post& post = posts_[posted_++ % kMostPosts];
    post.cookie = cookie;
    post.head = {.placed = 0,
                 .places = static_cast<std::uint32_t>(writes.size()),
                 .kind = immediate ? kPostWithImmediate : kPost,
                 .immediate = immediate.value_or(0),
                 .reserved = 0};
    for (std::size_t i = 0; i < writes.size(); ++i) {
      const RemoteWrite& write = writes[i];
      post.places[i] = {.offset = write.offset, .region = write.region, .length = write.length};
      // Other sources stay as they are until the post is complete.
      const std::byte* source = write.source;
      if (write.copied)
        source = static_cast<std::byte*>(std::memcpy(post.copies[i].data(), source, write.length));
      post.sources[i] = source;
    }
    ++counters_.posts;
    counters_.work_requests += std::max<std::size_t>(writes.size(), 1);
    if (immediate) ++counters_.immediates;
    write_out();
    return failed_ ? PostStatus::failed : PostStatus::posted;
  }

  [[nodiscard]] std::size_t poll(std::span<LinkEvent> events) noexcept override {
    if (failure_told_) return 0;
    if (!failed_) {
      if (!in_) accept_peer();
      while (in_ && !failed_ && inbox_tail_ - inbox_head_ < kInbox && read_in()) {
      }
      write_out();
    }
    std::size_t count = 0;
    while (inbox_head_ != inbox_tail_ && count < events.size())
      events[count++] = {LinkEvent::Kind::immediate, inbox_[inbox_head_++ % kInbox]};
    if (reported_ != finished_ && count < events.size()) {
      reported_ = finished_;
      events[count++] = {LinkEvent::Kind::completed, posts_[(finished_ - 1) % kMostPosts].cookie};
    }
    if (failed_ && count < events.size()) {
      failure_told_ = true;
      events[count++] = {LinkEvent::Kind::failed, 0};
    }
    return count;
  }

  // The sockets are in the epoll set all the time, for a wake-up too many does no harm. One too few
  // does: when another thread has read what came, the bell still tells who waits.
  void arm(bool completions, bool immediates) noexcept override {
    completions_armed_ = completions;
    immediates_armed_ = immediates;
    if (failed_) ring();
  }
  void disarm() noexcept override {
    completions_armed_ = immediates_armed_ = false;
    std::uint64_t count = 0;
    (void)!::read(bell_.get(), &count, sizeof count);
  }
  [[nodiscard]] int event_fd() const noexcept override { return events_.get(); }

  [[nodiscard]] std::string error() const override { return failure_; }
  [[nodiscard]] LinkCounters counters() const noexcept override { return counters_; }
  [[nodiscard]] std::string path() const override { return "tcp to " + peer_host_; }

 private:
  struct Post {
    std::uint64_t cookie = 0;
    Head head{};
    std::array<Place, kMostPlaces> places{};
    std::array<const std::byte*, kMostPlaces> sources{};
    std::array<std::array<std::byte, kMaxCopied>, kMostPlaces> copies{};
  };

  [[nodiscard]] bool allowed(const RemoteWrite& write) const {
    return write.region < peer_.region_count && write.offset <= peer_.lengths[write.region] &&
           write.length <= peer_.lengths[write.region] - write.offset;
  }

  void watch(const Socket& socket, int how, std::uint32_t events) {
    epoll_event event{};
    event.events = events;
    if (::epoll_ctl(events_.get(), how, socket.get(), &event) != 0)
      refuse(Errc::system, "epoll_ctl", errno);
  }
  void ring() const noexcept {
    const std::uint64_t one = 1;
    (void)!::write(bell_.get(), &one, sizeof one);
  }
  void tell_of(bool armed) noexcept {
    if (!armed) return;
    completions_armed_ = immediates_armed_ = false;
    ring();
  }

  // ── Writing ──

  /// As much as the socket takes: what is begun, then a word or the next post.
  void write_out() noexcept {
    while (!failed_ && out_) {
      if (pending_.empty() && !begin_next()) break;
      msghdr message{};
      message.msg_iov = pending_.data();
      message.msg_iovlen = pending_.size();
      const ssize_t sent = ::sendmsg(out_.get(), &message, MSG_NOSIGNAL | MSG_DONTWAIT);
      if (sent < 0 && errno == EINTR) continue;
      if (sent < 0 && errno == EAGAIN) return wait_for_room(true);
      if (sent < 0) return fail(std::strerror(errno));
      skip(static_cast<std::size_t>(sent));
    }
    wait_for_room(false);
  }
  bool begin_next() noexcept {
    if (written_ != posted_) {
      Post& post = posts_[written_++ % kMostPosts];
      post.head.placed = told_ = placed_;
      add(&post.head, sizeof post.head);
      add(post.places.data(), post.head.places * sizeof(Place));
      for (std::size_t i = 0; i < post.head.places; ++i)
        add(post.sources[i], post.places[i].length);
      return true;
    }
    if (told_ == placed_) return false;
    word_ = {.placed = placed_, .places = 0, .kind = kWord, .immediate = 0, .reserved = 0};
    told_ = placed_;
    add(&word_, sizeof word_);
    return true;
  }
  void add(const void* bytes, std::size_t length) noexcept {
    if (length == 0) return;
    iovecs_[iovec_count_++] = {.iov_base = const_cast<void*>(bytes), .iov_len = length};
    pending_ = std::span(iovecs_).first(iovec_count_);
  }
  void skip(std::size_t bytes) noexcept {
    while (!pending_.empty() && bytes >= pending_.front().iov_len) {
      bytes -= pending_.front().iov_len;
      pending_ = pending_.subspan(1);
    }
    if (pending_.empty()) {
      iovec_count_ = 0;
    } else {
      iovec& first = pending_.front();
      first = {.iov_base = static_cast<std::byte*>(first.iov_base) + bytes,
               .iov_len = first.iov_len - bytes};
    }
  }
  void wait_for_room(bool waits) noexcept {
    if (std::exchange(waits_for_room_, waits) == waits) return;
    epoll_event event{};
    event.events = waits ? EPOLLOUT : 0U;
    if (::epoll_ctl(events_.get(), EPOLL_CTL_MOD, out_.get(), &event) != 0) fail("epoll_ctl");
  }

  // ── Reading ──

  /// Who dialled shows the secret first. Strangers are let go: at once where they show something
  /// else, and those that stay silent when others come.
  void accept_peer() noexcept {
    Socket guest(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (guest) {
      epoll_event event{};
      event.events = EPOLLIN | EPOLLET;  // what stays unread wakes nobody again
      if (::epoll_ctl(events_.get(), EPOLL_CTL_ADD, guest.get(), &event) != 0)
        return fail("epoll_ctl");
      guests_[next_guest_++ % kGuests] = std::move(guest);
    }
    for (Socket& one : guests_) {
      Secret shown{};
      const ssize_t got = one ? ::recv(one.get(), &shown, sizeof shown, MSG_PEEK) : -1;
      if (got < 0 || (got > 0 && got < static_cast<ssize_t>(sizeof shown))) continue;
      if (got == 0 || shown != secret_) {
        one = Socket();
        continue;
      }
      (void)!::recv(one.get(), &shown, sizeof shown, 0);
      in_ = std::move(one);
      epoll_event event{};
      event.events = EPOLLIN;
      if (::epoll_ctl(events_.get(), EPOLL_CTL_MOD, in_.get(), &event) != 0) fail("epoll_ctl");
      listener_ = Socket();  // nobody else is awaited
      guests_ = {};
      return;
    }
  }

  /// One step: false where it must wait for the socket.
  bool read_in() noexcept {
    if (place_ < head_.places && have_places_) return read_body();
    if (!have_head_) {
      if (!take(&head_, sizeof head_)) return false;
      if (head_.places > kMostPlaces || head_.kind > kPostWithImmediate) {
        fail("it sent what is no post: it breaks the protocol");
        return false;
      }
      have_head_ = true;
    }
    if (!have_places_) {
      if (!take(places_.data(), head_.places * sizeof(Place))) return false;
      for (const Place& place : std::span(places_).first(head_.places)) {
        if (place.region < regions_.size() && place.offset <= regions_[place.region].length &&
            place.length <= regions_[place.region].length - place.offset)
          continue;
        fail("it writes outside of the memory that it was given: it breaks the protocol");
        return false;
      }
      have_places_ = true;
      place_ = placed_of_place_ = 0;
      if (head_.places != 0) return true;
    }
    finish_message();
    return true;
  }
  /// Straight into its place.
  bool read_body() noexcept {
    const Place& place = places_[place_];
    std::byte* to = regions_[place.region].base + place.offset + placed_of_place_;
    const std::size_t left = place.length - placed_of_place_;
    std::size_t got = std::min(left, buffer_end_ - buffer_begin_);
    std::memcpy(to, buffer_.data() + buffer_begin_, got);
    buffer_begin_ += got;
    if (got == 0 && left != 0) {
      const auto received =
          receive(left >= kBuffer / 4 ? std::span(to, left) : std::span<std::byte>());
      if (!received) return false;
      got = *received;
    }
    placed_of_place_ += got;
    if (placed_of_place_ == place.length) {
      ++place_;
      placed_of_place_ = 0;
      if (place_ == head_.places) finish_message();
    }
    return true;
  }
  void finish_message() noexcept {
    if (head_.placed < finished_ || head_.placed > written_)
      return fail("it says that it placed what was not posted: it breaks the protocol");
    if (head_.placed != finished_) {
      counters_.completions += head_.placed - finished_;
      finished_ = head_.placed;
      tell_of(completions_armed_);
    }
    if (head_.kind != kWord) ++placed_;
    if (head_.kind == kPostWithImmediate) {
      inbox_[inbox_tail_++ % kInbox] = head_.immediate;
      tell_of(immediates_armed_);
    }
    have_head_ = have_places_ = false;
    head_.places = 0;
    place_ = 0;
  }
  /// From the buffer, filling it where need be: all of it or nothing.
  bool take(void* to, std::size_t length) noexcept {
    while (buffer_end_ - buffer_begin_ < length)
      if (!receive({})) return false;
    std::memcpy(to, buffer_.data() + buffer_begin_, length);
    buffer_begin_ += length;
    return true;
  }
  /// Into `to`, or where that is empty into the buffer: then 0 is a success, too.
  std::optional<std::size_t> receive(std::span<std::byte> to) noexcept {
    const bool buffered = to.empty();
    if (buffered) {
      std::memmove(buffer_.data(), buffer_.data() + buffer_begin_, buffer_end_ - buffer_begin_);
      buffer_end_ -= std::exchange(buffer_begin_, 0);
      to = std::span(buffer_).subspan(buffer_end_);
    }
    const ssize_t got = ::recv(in_.get(), to.data(), to.size(), 0);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return {};
    if (got <= 0) {
      fail(got == 0 ? "the peer closed its socket" : std::strerror(errno));
      return {};
    }
    if (!buffered) return static_cast<std::size_t>(got);
    buffer_end_ += static_cast<std::size_t>(got);
    return 0;
  }

  void fail(const std::string& what) noexcept {
    if (std::exchange(failed_, true)) return;
    failure_ = "tcp: " + what;
    ring();
  }

  const std::string peer_host_;
  std::vector<LinkRegion> regions_;  // that the peer may write
  Secret secret_{};
  Socket events_;
  Socket bell_;
  Socket listener_;
  std::uint16_t port_;                  // where it listens
  std::array<Socket, kGuests> guests_;  // have yet to show the secret
  std::size_t next_guest_ = 0;
  Socket in_;
  Socket out_;
  Description peer_;

  std::vector<Post> posts_;  // a ring; the counts below only rise
  std::uint64_t posted_ = 0;
  std::uint64_t written_ = 0;   // begun, at least
  std::uint64_t finished_ = 0;  // the peer has placed them
  std::uint64_t reported_ = 0;
  std::uint64_t placed_ = 0;  // of the peer's
  std::uint64_t told_ = 0;
  Head word_{};
  std::array<iovec, kMostPlaces + 2> iovecs_{};
  std::size_t iovec_count_ = 0;
  std::span<iovec> pending_;  // of them, not sent yet
  bool waits_for_room_ = false;

  Head head_{};
  std::array<Place, kMostPlaces> places_{};
  bool have_head_ = false;
  bool have_places_ = false;
  std::size_t place_ = 0;  // the one being read
  std::size_t placed_of_place_ = 0;
  std::vector<std::byte> buffer_ = std::vector<std::byte>(kBuffer);
  std::size_t buffer_begin_ = 0;
  std::size_t buffer_end_ = 0;
  std::array<std::uint32_t, kInbox> inbox_{};
  std::uint64_t inbox_head_ = 0;
  std::uint64_t inbox_tail_ = 0;

  bool completions_armed_ = false;
  bool immediates_armed_ = false;
  bool failed_ = false;
  bool failure_told_ = false;
  std::string failure_;
  LinkCounters counters_;
};

class TcpProvider final : public LinkProvider {
 public:
  [[nodiscard]] std::string_view scheme() const noexcept override { return "tcp"; }
  [[nodiscard]] std::vector<std::string> option_names() const override { return {}; }
  [[nodiscard]] ProbeReport probe() const override {
    return {.available = true, .reason = {}, .json = "[]"};
  }
  [[nodiscard]] std::unique_ptr<Link> open(const LinkConfig& config) override {
    return std::make_unique<TcpLink>(config);
  }
};

}  // namespace

PENSTOCK_EXPORT_TRANSPORT(TcpProvider)
