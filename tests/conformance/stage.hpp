// How the two sides of a conformance case speak beside the channel: a small board of keys and
// values that both can write and wait on, in memory or over TCP.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>

namespace penstock::test {

enum class Role : std::uint8_t { receiver, sender };
[[nodiscard]] const char* to_string(Role role) noexcept;
[[nodiscard]] constexpr Role other(Role role) noexcept {
  return role == Role::receiver ? Role::sender : Role::receiver;
}

/// The other side has ended, so what get() waits for will never come.
class OtherSideEnded : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// The board. Thread-safe. Keys belong to a scope (a case); the first value of a key stays, except
/// with replace().
class Board {
 public:
  void put(const std::string& scope, const std::string& key, std::string value);
  void replace(const std::string& scope, const std::string& key, std::string value);
  /// Waits for the key. Throws OtherSideEnded when the other side of `role` ends before it is
  /// there.
  [[nodiscard]] std::string get(const std::string& scope, const std::string& key, Role role);
  /// The value now, or nothing.
  [[nodiscard]] std::string peek(const std::string& scope, const std::string& key);
  void ended(const std::string& scope, Role role);
  void forget(const std::string& scope);

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<std::string, std::string> values_;
};

/// One side's view of the board, for one case. Thread-safe.
class Stage {
 public:
  Stage() = default;
  Stage(const Stage&) = delete;
  Stage& operator=(const Stage&) = delete;
  Stage(Stage&&) = delete;
  Stage& operator=(Stage&&) = delete;
  virtual ~Stage() = default;

  virtual void put(const std::string& key, const std::string& value) = 0;
  virtual void replace(const std::string& key, const std::string& value) = 0;
  [[nodiscard]] virtual std::string get(const std::string& key) = 0;
};

/// A board in this process.
[[nodiscard]] std::unique_ptr<Stage> stage_here(Board& board, std::string scope, Role role);
/// A board behind a BoardServer at `address` ("host:port"). While the stage lives the server knows
/// that the side is there; when the process dies it counts as ended. Waits for the server to be up.
[[nodiscard]] std::unique_ptr<Stage> stage_at(const std::string& address, std::string scope,
                                              Role role);

/// Lets other processes use a board.
class BoardServer {
 public:
  /// Port 0 picks one. Throws std::system_error.
  BoardServer(Board& board, const std::string& host, std::uint16_t port);
  BoardServer(const BoardServer&) = delete;
  BoardServer& operator=(const BoardServer&) = delete;
  BoardServer(BoardServer&&) = delete;
  BoardServer& operator=(BoardServer&&) = delete;
  ~BoardServer();
  [[nodiscard]] std::uint16_t port() const noexcept { return port_; }

 private:
  void serve(int connection);

  Board& board_;
  int socket_;
  std::uint16_t port_;
  std::mutex mutex_;
  std::condition_variable idle_;
  int serving_ = 0;
  std::thread acceptor_;
};

}  // namespace penstock::test
