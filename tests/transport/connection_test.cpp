#include "penstock/transport/connection.hpp"

#include <gtest/gtest.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

namespace penstock {
namespace {

using namespace std::chrono_literals;

class Observer final : public ConnectionObserver {
 public:
  void on_goodbye(Cursor cursor) noexcept override {
    const std::lock_guard lock(mutex_);
    EXPECT_FALSE(stopped_) << "told after stop()";
    goodbye_ = cursor;
    changed_.notify_all();
  }
  void on_lost(const std::string& why) noexcept override {
    const std::lock_guard lock(mutex_);
    EXPECT_FALSE(stopped_) << "told after stop()";
    lost_ = why;
    changed_.notify_all();
  }
  void on_stalled(bool /*stalled*/) noexcept override {
    const std::lock_guard lock(mutex_);
    EXPECT_FALSE(stopped_) << "told after stop()";
  }
  void on_room() noexcept override {
    ++rooms;
    rooms.notify_all();
  }

  std::atomic<int> rooms = 0;

  /// The connection's stop() has returned.
  void stopped() {
    const std::lock_guard lock(mutex_);
    stopped_ = true;
  }
  Cursor wait_goodbye() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return goodbye_ || lost_; });
    EXPECT_FALSE(lost_) << *lost_;
    return goodbye_.value_or(0);
  }
  std::string wait_lost() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return goodbye_ || lost_; });
    EXPECT_TRUE(lost_);
    return lost_.value_or("");
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool stopped_ = false;
  std::optional<Cursor> goodbye_;
  std::optional<std::string> lost_;
};

/// A connection, and the socket at its other end.
struct Pair {
  explicit Pair(Connection::Timing timing = {10s, 10s}) {
    std::array<int, 2> ends{};
    EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()), 0);
    peer = Fd(ends[1]);
    end = Fd(::dup(ends[0]));
    connection = std::make_shared<Connection>(Fd(ends[0]), timing, FrameReader());
  }
  void say(std::span<const std::byte> bytes) const {
    (void)::send(peer.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
  }
  Fd peer;
  Fd end;  // the connection's own, once more
  std::shared_ptr<Connection> connection;
  std::shared_ptr<Observer> observer = std::make_shared<Observer>();
};

TEST(Connection, a_flood_of_pings_holds_up_neither_other_handlers_nor_the_good_bye) {
  class Ticker final : public EngineHandler, public std::enable_shared_from_this<Ticker> {
   public:
    void on_ready(std::uint32_t /*events*/) noexcept override {}
    void on_time(TimePoint now) noexcept override {
      ++ticks;
      ticks.notify_all();
      Engine::get().call_at(now + 1ms, shared_from_this());
    }
    std::atomic<int> ticks = 0;
  };
  std::vector<std::byte> pings;
  for (int i = 0; i < 5'000; ++i) {
    const auto ping = encode_empty(FrameType::ping);
    pings.insert(pings.end(), ping.begin(), ping.end());
  }
  Pair pair;
  pair.connection->start(pair.observer);
  std::atomic<bool> enough = false;
  std::jthread flood([&] {
    while (!enough) pair.say(pings);
    pair.say(encode_goodbye(FrameType::bye, 4711));
  });
  const auto ticker = std::make_shared<Ticker>();
  Engine::get().call_at(Clock::now(), ticker);
  for (int seen = 0; seen < 50; seen = ticker->ticks) ticker->ticks.wait(seen);
  enough = true;
  EXPECT_EQ(pair.observer->wait_goodbye(), 4711U);
  pair.connection->stop();
}

TEST(Connection, one_call_reads_no_more_than_its_share) {
  // While the engine is held up, this thread makes its call.
  class Hold final : public EngineHandler {
   public:
    void on_ready(std::uint32_t /*events*/) noexcept override {}
    void on_time(TimePoint /*now*/) noexcept override {
      held = true;
      held.notify_all();
      release.wait(false);
    }
    std::atomic<bool> held = false;
    std::atomic<bool> release = false;
  };
  Pair pair;
  const auto ping = encode_empty(FrameType::ping);
  constexpr std::size_t kPings = 5'000;
  std::vector<std::byte> pings;
  for (std::size_t i = 0; i < kPings; ++i) pings.insert(pings.end(), ping.begin(), ping.end());
  pair.say(pings);
  const auto hold = std::make_shared<Hold>();
  Engine::get().call_at(Clock::now(), hold);
  hold->held.wait(false);
  pair.connection->start(pair.observer);
  pair.connection->on_ready(0);
  int left = 0;
  EXPECT_EQ(::ioctl(pair.end.get(), FIONREAD, &left), 0);
  EXPECT_GE(static_cast<std::size_t>(left), pings.size() - 16 * 1024);
  EXPECT_LT(static_cast<std::size_t>(left), pings.size());
  hold->release = true;
  hold->release.notify_all();
  pair.say(encode_goodbye(FrameType::bye, 1));
  EXPECT_EQ(pair.observer->wait_goodbye(), 1U);
  pair.connection->stop();
}

TEST(Connection, tells_of_room_and_never_blocks_on_it) {
  Pair pair({1h, 1h});
  pair.connection->start(pair.observer);
  pair.connection->listen_closely();
  pair.say(encode_empty(FrameType::room));
  pair.observer->rooms.wait(0);
  // To a peer that does not read.
  for (int i = 0; i < 10'000; ++i) pair.connection->say_room();
  std::array<std::byte, kEmptySize> frame{};
  ASSERT_EQ(::recv(pair.peer.get(), frame.data(), frame.size(), MSG_WAITALL),
            static_cast<ssize_t>(frame.size()));
  EXPECT_EQ(frame, encode_empty(FrameType::room)) << "what came first is still to be read";
  pair.connection->stop();
}

TEST(Connection, a_frame_over_the_limit_ends_it_at_its_header) {
  Pair pair;
  pair.connection->start(pair.observer);
  const FrameHeader header{kFrameMagic, static_cast<std::uint16_t>(FrameType::ping), 0,
                           kMaxFrame + 1};
  pair.say(std::as_bytes(std::span(&header, 1)));
  EXPECT_NE(pair.observer->wait_lost().find("over the limit"), std::string::npos);
  pair.connection->stop();
}

TEST(Connection, other_bytes_end_it) {
  Pair pair;
  pair.connection->start(pair.observer);
  pair.say(std::as_bytes(std::span("GET / HTTP/1.1")));
  (void)pair.observer->wait_lost();
  pair.connection->stop();
}

TEST(Connection, what_came_with_the_handshake_is_read) {
  std::array<int, 2> ends{};
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()), 0);
  const Fd peer(ends[1]);
  FrameReader rest;
  rest.append(encode_goodbye(FrameType::closed, 42));
  const auto connection =
      std::make_shared<Connection>(Fd(ends[0]), Connection::Timing{1s, 1s}, std::move(rest));
  const auto observer = std::make_shared<Observer>();
  connection->start(observer);
  const auto ping = encode_empty(FrameType::ping);
  ASSERT_EQ(::send(peer.get(), ping.data(), ping.size(), 0), static_cast<ssize_t>(ping.size()));
  EXPECT_EQ(observer->wait_goodbye(), 42U);
  connection->stop();
}

TEST(Connection, silence_ends_it_though_the_peer_asks_for_no_pings) {
  Pair pair({20ms, liveness_of(~std::uint64_t{0})});
  pair.connection->start(pair.observer);
  EXPECT_NE(pair.observer->wait_lost().find("nothing was heard"), std::string::npos);
  pair.connection->stop();
}

/// How often the engine's thread has gone to sleep.
std::uint64_t sleeps_of_the_engine() {
  for (const auto& task : std::filesystem::directory_iterator("/proc/self/task")) {
    std::string name;
    std::getline(std::ifstream(task.path() / "comm") >> std::ws, name);
    if (name != "penstock") continue;
    std::ifstream status(task.path() / "status");
    for (std::string word; status >> word;)
      if (word == "voluntary_ctxt_switches:") {
        std::uint64_t count = 0;
        status >> count;
        return count;
      }
  }
  ADD_FAILURE() << "there is no engine";
  return 0;
}

TEST(Connection, a_hundred_idle_ones_wake_their_process_as_seldom_as_one) {
  const Connection::Timing timing{10s, 10s};
  std::vector<std::shared_ptr<Connection>> connections;
  std::vector<std::shared_ptr<Observer>> observers;
  for (int i = 0; i < 100; ++i) {
    std::array<int, 2> ends{};
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()), 0);
    for (const int end : ends) {
      auto& observer = observers.emplace_back(std::make_shared<Observer>());
      connections.emplace_back(std::make_shared<Connection>(Fd(end), timing, FrameReader()))
          ->start(observer);
    }
  }
  std::this_thread::sleep_for(200ms);  // the first look at each
  const auto start = Clock::now();
  const auto before = sleeps_of_the_engine();
  std::this_thread::sleep_for(4s);
  const auto sleeps = sleeps_of_the_engine() - before;
  const auto ticks = (Clock::now() - start) / 1250ms + 1;
  EXPECT_LE(sleeps, static_cast<std::uint64_t>(2 * ticks));
  for (const auto& connection : connections) connection->stop();
}

TEST(Connection, its_end_is_heard_though_another_process_has_a_copy_of_the_socket) {
  Pair pair({1h, 1h});  // `end` is such a copy
  pair.connection->start(pair.observer);
  pair.connection->stop();
  std::byte byte{};
  EXPECT_EQ(::recv(pair.peer.get(), &byte, 1, 0), 0);
}

TEST(Connection, tells_nothing_after_stop_whoever_stops_it) {
  // Timers every millisecond, messages, the end of the stream and two who stop it, all at once.
  for (int round = 0; round < 300; ++round) {
    Pair pair({10ms, 10ms});
    pair.connection->start(pair.observer);
    std::jthread peer([&] {
      const auto ping = encode_empty(FrameType::ping);
      for (int i = 0; i < round % 16; ++i) pair.say(ping);
      if (round % 3 == 0) pair.say(encode_goodbye(FrameType::bye, 1));
      if (round % 3 == 1) ::shutdown(pair.peer.get(), SHUT_RDWR);
    });
    const auto stop = [&] {
      if (round % 5 == 0) std::this_thread::sleep_for(1ms);
      pair.connection->say_goodbye(FrameType::closed, 2);
      pair.connection->stop();
      pair.observer->stopped();
    };
    std::jthread one(stop);
    std::jthread two(stop);
  }
}

}  // namespace
}  // namespace penstock
