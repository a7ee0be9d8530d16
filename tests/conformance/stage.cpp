// The wire: a request is { operation, length of scope, of key, of value } and the three texts; the
// answer is { status, length } and a text. One connection a request, so that requests of several
// threads may wait at the same time; and one that stays open and says "I am here".

#include "tests/conformance/stage.hpp"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <system_error>
#include <utility>

namespace penstock::test {
namespace {

enum class Operation : std::uint32_t { put, replace, get, here };
enum class Status : std::uint32_t { ok, ended };

struct Request {
  Operation operation;
  Role role;
  std::uint32_t scope;
  std::uint32_t key;
  std::uint32_t value;
};
struct Answer {
  Status status;
  std::uint32_t length;
};

constexpr std::uint32_t kMaxText = 1U << 20U;

[[noreturn]] void fail(const char* what) {
  throw std::system_error(errno, std::generic_category(), std::string("stage: ") + what);
}

bool send_all(int socket, const void* data, std::size_t size) {
  const char* at = static_cast<const char*>(data);
  while (size > 0) {
    const ssize_t sent = ::send(socket, at, size, MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR) continue;
    if (sent <= 0) return false;
    at += sent;
    size -= static_cast<std::size_t>(sent);
  }
  return true;
}

bool receive_all(int socket, void* data, std::size_t size) {
  char* at = static_cast<char*>(data);
  while (size > 0) {
    const ssize_t got = ::recv(socket, at, size, 0);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return false;
    at += got;
    size -= static_cast<std::size_t>(got);
  }
  return true;
}

bool receive_text(int socket, std::uint32_t size, std::string& text) {
  if (size > kMaxText) return false;
  text.resize(size);
  return receive_all(socket, text.data(), size);
}

sockaddr_in parse_address(const std::string& text, std::uint16_t port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  if (::inet_pton(AF_INET, text.c_str(), &address.sin_addr) != 1) {
    throw std::invalid_argument("stage: not an IPv4 address: " + text);
  }
  return address;
}

class StageHere final : public Stage {
 public:
  StageHere(Board& board, std::string scope, Role role)
      : board_(board), scope_(std::move(scope)), role_(role) {}
  StageHere(const StageHere&) = delete;
  StageHere& operator=(const StageHere&) = delete;
  StageHere(StageHere&&) = delete;
  StageHere& operator=(StageHere&&) = delete;
  ~StageHere() override { board_.ended(scope_, role_); }
  void put(const std::string& key, const std::string& value) override {
    board_.put(scope_, key, value);
  }
  void replace(const std::string& key, const std::string& value) override {
    board_.replace(scope_, key, value);
  }
  [[nodiscard]] std::string get(const std::string& key) override {
    return board_.get(scope_, key, role_);
  }

 private:
  Board& board_;
  const std::string scope_;
  const Role role_;
};

class StageThere final : public Stage {
 public:
  StageThere(const std::string& address, std::string scope, Role role)
      : scope_(std::move(scope)), role_(role) {
    const std::size_t colon = address.rfind(':');
    if (colon == std::string::npos) throw std::invalid_argument("stage: no port in " + address);
    address_ = parse_address(address.substr(0, colon),
                             static_cast<std::uint16_t>(std::stoul(address.substr(colon + 1))));
    // The other host's test may not have started yet; the case's watchdog ends the wait.
    while ((presence_ = try_connect()) < 0)
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    say(presence_, Operation::here, {}, {});
  }
  StageThere(const StageThere&) = delete;
  StageThere& operator=(const StageThere&) = delete;
  StageThere(StageThere&&) = delete;
  StageThere& operator=(StageThere&&) = delete;
  ~StageThere() override { ::close(presence_); }

  void put(const std::string& key, const std::string& value) override {
    (void)ask(Operation::put, key, value);
  }
  void replace(const std::string& key, const std::string& value) override {
    (void)ask(Operation::replace, key, value);
  }
  [[nodiscard]] std::string get(const std::string& key) override {
    return ask(Operation::get, key, {});
  }

 private:
  [[nodiscard]] int try_connect() const {
    const int socket = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (socket < 0) fail("socket");
    if (::connect(socket, reinterpret_cast<const sockaddr*>(&address_), sizeof(address_)) == 0) {
      return socket;
    }
    ::close(socket);
    return -1;
  }

  void say(int socket, Operation operation, const std::string& key,
           const std::string& value) const {
    const Request request{operation, role_, static_cast<std::uint32_t>(scope_.size()),
                          static_cast<std::uint32_t>(key.size()),
                          static_cast<std::uint32_t>(value.size())};
    std::string all(reinterpret_cast<const char*>(&request), sizeof(request));
    all += scope_ + key + value;
    if (!send_all(socket, all.data(), all.size())) fail("send");
  }

  std::string ask(Operation operation, const std::string& key, const std::string& value) const {
    const int socket = try_connect();
    if (socket < 0) throw OtherSideEnded("the process that keeps the stage is gone");
    Answer answer{};
    std::string text;
    bool whole = false;
    try {
      say(socket, operation, key, value);
      whole =
          receive_all(socket, &answer, sizeof(answer)) && receive_text(socket, answer.length, text);
    } catch (...) {
      ::close(socket);
      throw;
    }
    ::close(socket);
    if (!whole) throw OtherSideEnded("the process that keeps the stage is gone");
    if (answer.status == Status::ended) throw OtherSideEnded(text);
    return text;
  }

  const std::string scope_;
  const Role role_;
  sockaddr_in address_{};
  int presence_ = -1;
};

std::string place(const std::string& scope, const std::string& key) { return scope + "\n" + key; }
std::string end_mark(Role role) { return std::string("ended/") + to_string(role); }

}  // namespace

const char* to_string(Role role) noexcept { return role == Role::receiver ? "receiver" : "sender"; }

void Board::put(const std::string& scope, const std::string& key, std::string value) {
  const std::lock_guard lock(mutex_);
  values_.emplace(place(scope, key), std::move(value));
  changed_.notify_all();
}

void Board::replace(const std::string& scope, const std::string& key, std::string value) {
  const std::lock_guard lock(mutex_);
  values_[place(scope, key)] = std::move(value);
  changed_.notify_all();
}

std::string Board::get(const std::string& scope, const std::string& key, Role role) {
  const std::string here = place(scope, key);
  const std::string end = place(scope, end_mark(other(role)));
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return values_.contains(here) || values_.contains(end); });
  const auto found = values_.find(here);
  if (found == values_.end()) {
    throw OtherSideEnded(std::string("the ") + to_string(other(role)) +
                         " side ended before it said '" + key + "'");
  }
  return found->second;
}

std::string Board::peek(const std::string& scope, const std::string& key) {
  const std::lock_guard lock(mutex_);
  const auto found = values_.find(place(scope, key));
  return found == values_.end() ? std::string() : found->second;
}

void Board::ended(const std::string& scope, Role role) { put(scope, end_mark(role), "ended"); }

void Board::forget(const std::string& scope) {
  const std::lock_guard lock(mutex_);
  std::erase_if(values_, [&](const auto& entry) { return entry.first.starts_with(scope + "\n"); });
}

std::unique_ptr<Stage> stage_here(Board& board, std::string scope, Role role) {
  return std::make_unique<StageHere>(board, std::move(scope), role);
}

std::unique_ptr<Stage> stage_at(const std::string& address, std::string scope, Role role) {
  return std::make_unique<StageThere>(address, std::move(scope), role);
}

BoardServer::BoardServer(Board& board, const std::string& host, std::uint16_t port)
    : board_(board), socket_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)), port_(port) {
  if (socket_ < 0) fail("socket");
  const int one = 1;
  ::setsockopt(socket_, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
  sockaddr_in address = parse_address(host, port);
  socklen_t length = sizeof(address);
  if (::bind(socket_, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0 ||
      ::listen(socket_, 64) != 0 ||
      ::getsockname(socket_, reinterpret_cast<sockaddr*>(&address), &length) != 0) {
    const int error = errno;
    ::close(socket_);
    errno = error;
    fail("listening");
  }
  port_ = ntohs(address.sin_port);
  acceptor_ = std::thread([this] {
    while (true) {
      const int connection = ::accept4(socket_, nullptr, nullptr, SOCK_CLOEXEC);
      if (connection < 0) {
        if (errno == EINTR || errno == ECONNABORTED) continue;
        return;  // the destructor has shut the socket down
      }
      {
        const std::lock_guard lock(mutex_);
        ++serving_;
      }
      std::thread([this, connection] {
        serve(connection);
        ::close(connection);
        const std::lock_guard lock(mutex_);  // held while notifying: *this may go right after
        --serving_;
        idle_.notify_all();
      }).detach();
    }
  });
}

BoardServer::~BoardServer() {
  ::shutdown(socket_, SHUT_RDWR);
  acceptor_.join();
  ::close(socket_);
  std::unique_lock lock(mutex_);
  idle_.wait(lock, [this] { return serving_ == 0; });
}

void BoardServer::serve(int connection) {
  Request request{};
  std::string scope;
  std::string key;
  std::string value;
  if (!receive_all(connection, &request, sizeof(request)) ||
      !receive_text(connection, request.scope, scope) ||
      !receive_text(connection, request.key, key) ||
      !receive_text(connection, request.value, value)) {
    return;
  }
  if (request.operation == Operation::here) {
    char end = 0;
    (void)receive_all(connection, &end, 1);
    board_.ended(scope, request.role);
    return;
  }
  Answer answer{Status::ok, 0};
  std::string text;
  switch (request.operation) {
    case Operation::put: board_.put(scope, key, value); break;
    case Operation::replace: board_.replace(scope, key, value); break;
    default: try { text = board_.get(scope, key, request.role);
      } catch (const OtherSideEnded& error) {
        answer.status = Status::ended;
        text = error.what();
      }
      break;
  }
  answer.length = static_cast<std::uint32_t>(text.size());
  (void)(send_all(connection, &answer, sizeof(answer)) &&
         send_all(connection, text.data(), text.size()));
}

}  // namespace penstock::test
