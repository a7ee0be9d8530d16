// A Unix stream socket for each sender: items follow each other, so their size is all the framing
// it needs. A datagram socket (SOCK_SEQPACKET) costs the receiver a call for each item.
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <system_error>

#include "between.hpp"

namespace {

void check(bool well, const char* what) {
  if (!well) throw std::system_error(errno, std::generic_category(), what);
}

/// One connection; the ends are inherited by those who use them.
struct Pair {
  Pair() {
    check(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, end.data()) == 0, "socketpair");
  }
  Pair(const Pair&) = delete;
  Pair& operator=(const Pair&) = delete;
  Pair(Pair&& other) noexcept : end(std::exchange(other.end, {-1, -1})) {}
  Pair& operator=(Pair&&) = delete;
  ~Pair() {
    for (const int fd : end)
      if (fd >= 0) ::close(fd);
  }
  std::array<int, 2> end{};
};

/// What came of one connection and was not asked for yet.
class Incoming {
 public:
  explicit Incoming(int socket) : socket_(socket), bytes_(kBytes) {}

  [[nodiscard]] std::size_t size() const noexcept { return end_ - begin_; }
  void take(void* to, std::size_t size) noexcept {
    std::memcpy(to, bytes_.data() + begin_, size);
    begin_ += size;
  }
  /// Reads what is there. False: nothing.
  bool read() {
    std::memmove(bytes_.data(), bytes_.data() + begin_, size());
    end_ -= std::exchange(begin_, 0);
    const auto got = ::recv(socket_, bytes_.data() + end_, kBytes - end_, MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return false;
    check(got >= 0, "recv");
    if (got == 0) throw std::runtime_error("the sender is gone");
    end_ += static_cast<std::size_t>(got);
    return true;
  }

 private:
  static constexpr std::size_t kBytes = std::size_t{64} << 10;
  int socket_;
  std::vector<std::byte> bytes_;
  std::size_t begin_ = 0;
  std::size_t end_ = 0;
};

template <class Item>
class Stream {
 public:
  static constexpr bool kSenders = true;

  Stream(std::size_t /*capacity: the kernel's*/, std::size_t senders) : pairs_(senders) {}

  struct SendEnd {
    int socket;
    void send(const Item& item) { send_many({&item, 1}); }
    void send_many(std::span<const Item> items) {
      auto bytes = std::as_bytes(items);
      for (contest::Patience patience; !bytes.empty();) {
        const auto sent = ::send(socket, bytes.data(), bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent >= 0) {
          bytes = bytes.subspan(static_cast<std::size_t>(sent));
        } else {
          check(errno == EAGAIN || errno == EINTR, "send");
          patience.lose();
        }
      }
    }
  };
  struct RecvEnd {
    std::vector<Incoming> connections;
    std::size_t now = 0;
    void receive(Item& item) { (void)receive_many({&item, 1}); }
    std::size_t receive_many(std::span<Item> items) {
      for (contest::Patience patience; connections[now].size() < sizeof(Item);) {
        if (connections[now].read()) continue;
        now = (now + 1) % connections.size();
        patience.lose();
      }
      const auto count = std::min(items.size(), connections[now].size() / sizeof(Item));
      connections[now].take(items.data(), count * sizeof(Item));
      return count;
    }
  };
  SendEnd sender(std::size_t number) { return {pairs_[number].end[0]}; }
  RecvEnd receiver() {
    RecvEnd end;
    for (const auto& pair : pairs_) end.connections.emplace_back(pair.end[1]);
    return end;
  }

 private:
  std::vector<Pair> pairs_;
};

[[maybe_unused]] const bool entered = (contest::enter_between<Stream>("unix-stream"), true);

}  // namespace
