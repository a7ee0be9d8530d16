// The listening side against senders made by hand, and the sending side against such receivers.
#include "penstock/transport/rendezvous.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstring>
#include <mutex>
#include <optional>
#include <random>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "penstock/transport/registry.hpp"
#include "tests/child.hpp"

namespace penstock {
namespace {

using namespace std::chrono_literals;
constexpr int kWatchdogMs = 60'000;

Endpoint fresh_endpoint() {
  static std::atomic<int> count{0};
  return {
      {}, 0, "penstock/rendezvous-" + std::to_string(::getpid()) + "-" + std::to_string(++count)};
}

Uri uri_of(const Endpoint& endpoint) {
  return Uri::parse("shm:" + endpoint.local.substr(std::string_view("penstock/").size()));
}

std::pair<sockaddr_un, socklen_t> address_of(const Endpoint& endpoint) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path + 1, endpoint.local.data(), endpoint.local.size());
  return {address,
          static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + endpoint.local.size())};
}

/// One end of a control connection, made by hand.
class Peer {
 public:
  explicit Peer(Fd socket) : socket_(std::move(socket)) {}
  explicit Peer(const Endpoint& endpoint)
      : socket_(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    dial(endpoint);
  }
  void dial(const Endpoint& endpoint) {
    const auto [address, length] = address_of(endpoint);
    EXPECT_EQ(::connect(socket_.get(), reinterpret_cast<const sockaddr*>(&address), length), 0)
        << std::strerror(errno);
  }
  void say(std::span<const std::byte> bytes, std::span<const int> descriptors = {}) const {
    iovec piece{const_cast<std::byte*>(bytes.data()), bytes.size()};
    msghdr message{};
    message.msg_iov = &piece;
    message.msg_iovlen = 1;
    alignas(cmsghdr) std::array<char, CMSG_SPACE(16 * sizeof(int))> control{};
    if (!descriptors.empty()) {
      message.msg_control = control.data();
      message.msg_controllen = CMSG_SPACE(descriptors.size_bytes());
      cmsghdr* header = CMSG_FIRSTHDR(&message);
      header->cmsg_level = SOL_SOCKET;
      header->cmsg_type = SCM_RIGHTS;
      header->cmsg_len = CMSG_LEN(descriptors.size_bytes());
      std::memcpy(CMSG_DATA(header), descriptors.data(), descriptors.size_bytes());
    }
    (void)::sendmsg(socket_.get(), &message, MSG_NOSIGNAL);
  }
  /// The next message but pings; nothing at the end of the stream.
  std::optional<Frame> hear() {
    for (;;) {
      if (auto frame = reader_.next()) {
        if (frame->type == FrameType::ping) continue;
        return frame;
      }
      pollfd wait{socket_.get(), POLLIN, 0};
      if (::poll(&wait, 1, kWatchdogMs) != 1) {
        ADD_FAILURE() << "no answer";
        return std::nullopt;
      }
      std::array<std::byte, 4096> some;
      const auto got = ::recv(socket_.get(), some.data(), some.size(), 0);
      if (got <= 0) return std::nullopt;
      reader_.append(std::span(some).first(static_cast<std::size_t>(got)));
    }
  }
  [[nodiscard]] bool heard_anything() const {
    pollfd wait{socket_.get(), POLLIN, 0};
    return ::poll(&wait, 1, 0) == 1;
  }
  Reject hear_reject() {
    const auto frame = hear();
    if (frame && frame->type == FrameType::reject) return decode_reject(frame->body);
    ADD_FAILURE() << "no reject";
    return {};
  }
  FrameType hear_type() {
    const auto frame = hear();
    if (frame) return frame->type;
    ADD_FAILURE() << "the connection has ended";
    return {};
  }
  void hang_up() { socket_.reset(); }

 private:
  Fd socket_;
  FrameReader reader_;
};

Hello hello_to(const Endpoint& endpoint) {
  Hello hello;
  hello.channel = uri_of(endpoint).name;
  hello.paths = {"shm"};
  hello.page_size = 4096;
  hello.max_capacity = kMaxCapacity;
  hello.liveness_ns = 10'000'000'000;
  return hello;
}

class Sink final : public InletSink {
 public:
  bool add(InletParts parts) override {
    EXPECT_FALSE(over_) << "called after the listener's destruction";
    if (slow_) std::this_thread::sleep_for(1ms);
    const std::lock_guard lock(mutex_);
    if (!slow_) parts_.push_back(std::move(parts));
    ++added_;
    EXPECT_FALSE(over_) << "the listener's destruction did not wait";
    return true;
  }
  void refused(const std::string& why) override {
    EXPECT_FALSE(over_) << "called after the listener's destruction";
    const std::lock_guard lock(mutex_);
    reasons_ += why + "\n";
    ++refused_;
    changed_.notify_all();
  }
  [[nodiscard]] TailPlace tail_place() override { return {}; }
  void rearranged() noexcept override {}
  void notify() noexcept override {}
  [[nodiscard]] int wake_fd() const noexcept override { return wake_fd_.get(); }

  void wait_refused(int count) {
    std::unique_lock lock(mutex_);
    EXPECT_TRUE(changed_.wait_for(lock, std::chrono::milliseconds(kWatchdogMs),
                                  [&] { return refused_ >= count; }));
  }
  /// The last one.
  [[nodiscard]] std::optional<InletParts> take() {
    const std::lock_guard lock(mutex_);
    if (parts_.empty()) return std::nullopt;
    std::optional<InletParts> last(std::move(parts_.back()));
    parts_.pop_back();
    return last;
  }
  [[nodiscard]] int added() {
    const std::lock_guard lock(mutex_);
    return added_;
  }
  [[nodiscard]] int refused() {
    const std::lock_guard lock(mutex_);
    return refused_;
  }
  [[nodiscard]] std::string reasons() {
    const std::lock_guard lock(mutex_);
    return reasons_;
  }

  std::atomic<bool> over_ = false;  // the listener is gone
  bool slow_ = false;

 private:
  const Fd wake_fd_{::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)};
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<InletParts> parts_;
  std::string reasons_;
  int added_ = 0;
  int refused_ = 0;
};

struct Counts {
  std::atomic<int> now = 0;
  std::atomic<int> most = 0;
  std::atomic<int> progress = 0;
  std::atomic<bool> fails = false;  // the path, when it is to be proven
};

/// An admission without a ring, counted as long as it is there.
class CountedAdmission final : public Admission {
 public:
  explicit CountedAdmission(Counts& counts) : counts_(counts) {
    const int now = ++counts_.now;
    if (now > counts_.most) counts_.most = now;  // made by the engine thread only
  }
  CountedAdmission(const CountedAdmission&) = delete;
  CountedAdmission& operator=(const CountedAdmission&) = delete;
  CountedAdmission(CountedAdmission&&) = delete;
  CountedAdmission& operator=(CountedAdmission&&) = delete;
  ~CountedAdmission() override { --counts_.now; }
  void welcome(const Hello& hello, const StreamEnds& /*ends*/, Welcome& welcome,
               std::vector<int>& /*descriptors*/) override {
    welcome.capacity = welcome.window = 4096;
    welcome.features |= hello.features_offered & kProof;
  }
  void join(const Ready& /*ready*/) override {}
  void progress() override {
    ++counts_.progress;
    if (counts_.fails) throw SetupError(Errc::unreachable, "the path fails");
  }
  InletParts complete() override { return {}; }

 private:
  Counts& counts_;
};

class ListenerTest : public testing::Test {
 protected:
  void listen(std::uint64_t capacity = 4096) {
    ListenerTraits traits;
    traits.channel = uri_of(endpoint_).name;
    traits.liveness = 10s;
    traits.capacity = capacity;
    traits.offer = {"auto/7", {"shm"}, {}};
    traits.paths.push_back({"shm", [this] { return std::make_unique<CountedAdmission>(counts_); }});
    listener_ = listen_at(endpoint_, uri_of(endpoint_), std::move(traits), sink_);
  }
  void TearDown() override {
    listener_.reset();
    sink_->over_ = true;
    EXPECT_EQ(counts_.now, 0) << "whatever was made for a handshake goes with it";
  }
  /// A whole handshake.
  void join() {
    Peer peer(endpoint_);
    peer.say(encode(hello_to(endpoint_)));
    ASSERT_EQ(peer.hear_type(), FrameType::welcome);
    peer.say(encode(Ready{}));
    EXPECT_EQ(peer.hear_type(), FrameType::go);
  }

  const Endpoint endpoint_ = fresh_endpoint();
  const std::shared_ptr<Sink> sink_ = std::make_shared<Sink>();
  Counts counts_;
  std::unique_ptr<Listener> listener_;
};

TEST_F(ListenerTest, lets_a_sender_in) {
  listen();
  join();
  EXPECT_EQ(sink_->added(), 1);
}

TEST_F(ListenerTest, uses_the_features_that_both_know) {
  listen();
  for (const std::uint64_t offered : {std::uint64_t{0}, ~std::uint64_t{0}}) {
    Peer peer(endpoint_);
    auto hello = hello_to(endpoint_);
    hello.features_offered = offered;
    peer.say(encode(hello));
    const auto welcome = peer.hear();
    ASSERT_TRUE(welcome && welcome->type == FrameType::welcome);
    // Landings are for the transport to add, where its link can do them.
    EXPECT_EQ(decode_welcome(welcome->body).features, offered & (kRoomFrames | kProof));
    peer.say(encode(Ready{}));
    if (offered != 0) {
      EXPECT_EQ(peer.hear_type(), FrameType::prove);
      peer.say(encode_empty(FrameType::proven));
    }
    EXPECT_EQ(peer.hear_type(), FrameType::go);
    const auto parts = sink_->take();
    ASSERT_TRUE(parts);
    EXPECT_EQ(parts->room_frames, offered != 0);
  }
}

TEST_F(ListenerTest, tells_who_asks_what_it_has_and_counts_it_not) {
  listen();
  Peer peer(endpoint_);
  auto hello = hello_to(endpoint_);
  hello.paths = {kAnyPath, "shm"};
  peer.say(encode(hello));
  const auto frame = peer.hear();
  ASSERT_TRUE(frame && frame->type == FrameType::offer);
  const auto offer = decode_offer(frame->body);
  EXPECT_EQ(offer.place, "auto/7");
  EXPECT_EQ(offer.paths, std::vector<std::string>{"shm"});
  EXPECT_FALSE(peer.hear()) << "that is all";
  join();
  EXPECT_EQ(counts_.most, 1) << "no ring was made for the question";
  EXPECT_EQ(sink_->refused(), 0);
}

TEST_F(ListenerTest, tells_nothing_to_one_that_asks_for_another_channel) {
  listen();
  Peer peer(endpoint_);
  auto hello = hello_to(endpoint_);
  hello.paths = {kAnyPath};
  hello.channel = "another";
  peer.say(encode(hello));
  EXPECT_EQ(peer.hear_reject().code, Errc::no_such_channel);
}

/// A sender that has been asked to prove its path.
class ProofTest : public ListenerTest {
 protected:
  void SetUp() override {
    listen();
    peer_.emplace(endpoint_);
    auto hello = hello_to(endpoint_);
    hello.features_offered = kKnownFeatures;
    peer_->say(encode(hello));
    ASSERT_EQ(peer_->hear_type(), FrameType::welcome);
    peer_->say(encode(Ready{}));
    ASSERT_EQ(peer_->hear_type(), FrameType::prove);
  }
  std::optional<Peer> peer_;
};

TEST_F(ProofTest, the_receiver_looks_while_it_lasts) {
  const int seen = counts_.progress;
  while (counts_.progress < seen + 3) std::this_thread::sleep_for(1ms);
  EXPECT_EQ(sink_->added(), 0);
  peer_->say(encode_empty(FrameType::proven));
  EXPECT_EQ(peer_->hear_type(), FrameType::go);
  EXPECT_EQ(sink_->added(), 1);
}

TEST_F(ProofTest, one_that_only_wanted_to_know_goes_without_a_trace) {
  peer_->say(encode_empty(FrameType::bye));
  EXPECT_FALSE(peer_->hear());
  join();
  EXPECT_EQ(sink_->added(), 1);
  EXPECT_EQ(sink_->refused(), 0);
}

TEST_F(ProofTest, its_failure_at_the_receiver_is_told) {
  counts_.fails = true;
  EXPECT_EQ(peer_->hear_reject().text, "the path fails");
  sink_->wait_refused(1);
}

TEST_F(ProofTest, its_failure_at_the_sender_is_told) {
  peer_->say(encode(Reject{Errc::unreachable, "no packet came back"}));
  sink_->wait_refused(1);
  EXPECT_NE(sink_->reasons().find("no packet came back"), std::string::npos);
}

TEST_F(ProofTest, whatever_else_comes_ends_it) {
  peer_->say(encode(Ready{}));
  EXPECT_EQ(peer_->hear_reject().code, Errc::handshake_failed);
  join();
  EXPECT_EQ(sink_->added(), 1);
}

TEST_F(ListenerTest, random_bytes_are_turned_away) {
  listen();
  std::mt19937 random(1);
  constexpr int kStrangers = 100;
  for (int i = 0; i < kStrangers; ++i) {
    std::vector<std::byte> noise(1 + random() % 3'000);
    for (auto& byte : noise) byte = static_cast<std::byte>(random());
    Peer stranger(endpoint_);
    stranger.say(noise);
    stranger.hang_up();
  }
  sink_->wait_refused(kStrangers);
  join();
}

TEST_F(ListenerTest, a_frame_over_the_limit_is_refused_at_its_header) {
  listen();
  for (const std::uint32_t length : {kMaxFrame + 1, 0xFFFF'FFFFU}) {
    Peer stranger(endpoint_);
    const FrameHeader header{kFrameMagic, static_cast<std::uint16_t>(FrameType::hello), 0, length};
    stranger.say(std::as_bytes(std::span(&header, 1)));
    EXPECT_FALSE(stranger.hear()) << "a stranger gets no answer";
  }
  join();
}

TEST_F(ListenerTest, descriptors_that_nobody_asked_for_are_closed) {
  listen();
  const Fd pipe_end(::eventfd(0, EFD_CLOEXEC));
  Peer stranger(endpoint_);
  const std::vector<int> three(3, pipe_end.get());
  stranger.say(encode(hello_to(endpoint_)), three);
  EXPECT_EQ(stranger.hear_type(), FrameType::welcome);
  Peer greedy(endpoint_);
  const std::vector<int> many(12, pipe_end.get());
  greedy.say(encode(hello_to(endpoint_)), many);
  EXPECT_FALSE(greedy.hear());
  EXPECT_NE(sink_->reasons().find("more than 4 descriptors"), std::string::npos)
      << sink_->reasons();
  join();
}

TEST_F(ListenerTest, a_sender_that_does_not_offer_the_path_is_told_so) {
  listen();
  auto hello = hello_to(endpoint_);
  hello.paths = {"rdma", "ucx"};
  Peer peer(endpoint_);
  peer.say(encode(hello));
  const auto reject = peer.hear_reject();
  EXPECT_EQ(reject.code, Errc::feature_mismatch);
  EXPECT_NE(reject.text.find("does not offer 'shm'"), std::string::npos) << reject.text;
}

TEST_F(ListenerTest, liveness_times_beyond_reason_are_served_all_the_same) {
  EXPECT_EQ(liveness_of(0), 10ms);
  EXPECT_EQ(liveness_of(500'000'000), 500ms);
  EXPECT_EQ(liveness_of(~std::uint64_t{0}), 1h);
  EXPECT_EQ(liveness_of(std::uint64_t{1} << 63U), 1h);
}

/// Both ends of hundreds of connections are in this process.
void raise_descriptors() {
  rlimit files{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &files), 0);
  files.rlim_cur = files.rlim_max;
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &files), 0);
}

TEST_F(ListenerTest, silent_connections_do_not_keep_senders_out) {
  raise_descriptors();
  listen();
  std::vector<Peer> silent;
  for (int i = 0; i < 600; ++i) silent.emplace_back(endpoint_);
  join();
  sink_->wait_refused(89);  // 600 and one, of which 512 may be there at a time
  for (int i = 0; i < 600; ++i) silent.emplace_back(endpoint_);
  join();
}

TEST_F(ListenerTest, many_at_once_all_get_in_though_few_have_rings_meanwhile) {
  listen();
  std::vector<Peer> peers;
  for (int i = 0; i < 200; ++i) {
    peers.emplace_back(endpoint_);
    peers.back().say(encode(hello_to(endpoint_)));
  }
  for (auto& peer : peers) {
    ASSERT_EQ(peer.hear_type(), FrameType::welcome);
    peer.say(encode(Ready{}));
    ASSERT_EQ(peer.hear_type(), FrameType::go);
  }
  EXPECT_EQ(sink_->added(), 200);
  EXPECT_LE(counts_.most, 64);
}

TEST_F(ListenerTest, large_rings_leave_room_for_fewer_at_once) {
  listen(kMaxCapacity);
  std::vector<Peer> peers;
  for (int i = 0; i < 20; ++i) {
    peers.emplace_back(endpoint_);
    peers.back().say(encode(hello_to(endpoint_)));
  }
  for (auto& peer : peers) {
    ASSERT_EQ(peer.hear_type(), FrameType::welcome);
    peer.say(encode(Ready{}));
    ASSERT_EQ(peer.hear_type(), FrameType::go);
  }
  EXPECT_LE(counts_.most, 2);
}

TEST_F(ListenerTest, senders_that_stop_after_their_hello_do_not_keep_others_out) {
  listen();
  std::vector<Peer> stuck;
  for (int i = 0; i < 64; ++i) {
    stuck.emplace_back(endpoint_);
    stuck.back().say(encode(hello_to(endpoint_)));
    ASSERT_EQ(stuck.back().hear_type(), FrameType::welcome);
  }
  join();
  EXPECT_EQ(stuck.front().hear_reject().code, Errc::resource_limit);
  EXPECT_FALSE(stuck.back().heard_anything()) << "only as many as there is need for";
  EXPECT_LE(counts_.most, 64);
}

TEST_F(ListenerTest, when_all_have_said_hello_the_next_is_told_to_come_later) {
  raise_descriptors();
  listen();
  std::vector<Peer> peers;
  const auto come = [&] {
    peers.emplace_back(endpoint_);
    peers.back().say(encode(hello_to(endpoint_)));
  };
  for (int i = 0; i < 512; ++i) come();
  // One too many each; at first it may be one whose hello was not read yet that goes.
  const auto told = [&] { return sink_->reasons().find("too many senders") != std::string::npos; };
  for (int i = 1; i <= 200 && !told(); ++i) {
    come();
    sink_->wait_refused(i);
    std::this_thread::sleep_for(std::chrono::milliseconds(1));  // so that it reads what was said
  }
  ASSERT_TRUE(told());
  EXPECT_EQ(peers.back().hear_reject().code, Errc::resource_limit);
}

TEST_F(ListenerTest, goes_on_when_descriptors_are_there_again) {
  listen();
  Peer waiting(Fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)));
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &before), 0);
  const rlimit none{3, before.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &none), 0);
  waiting.dial(endpoint_);
  waiting.say(encode(hello_to(endpoint_)));
  std::this_thread::sleep_for(50ms);
  const bool heard = waiting.heard_anything();
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &before), 0);
  EXPECT_FALSE(heard);
  EXPECT_EQ(waiting.hear_type(), FrameType::welcome);
}

TEST_F(ListenerTest, nothing_reaches_the_sink_once_the_listener_is_gone) {
  for (int round = 0; round < 100; ++round) {
    listen();
    sink_->slow_ = true;
    std::atomic<bool> over = false;
    std::jthread coming([&] {
      std::vector<Peer> peers;
      for (int i = 0; i < 8 && !over; ++i) {
        Fd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
        const auto [address, length] = address_of(endpoint_);
        if (::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), length) != 0)
          return;
        auto& peer = peers.emplace_back(std::move(socket));
        peer.say(encode(hello_to(endpoint_)));
        peer.say(encode(Ready{}));  // taken as soon as the welcome is out
        if (i % 3 == 0) (void)peer.hear();
      }
    });
    while (round % 2 == 0 && sink_->added() <= round / 2) std::this_thread::yield();
    listener_.reset();
    sink_->over_ = true;
    over = true;
    coming.join();
    EXPECT_EQ(counts_.now, 0);
    sink_->over_ = false;
  }
}

TEST_F(ListenerTest, a_forked_child_leaves_it_to_its_parent) {
  listen();
  Peer waiting(endpoint_);
  waiting.say(encode(hello_to(endpoint_)));
  ASSERT_EQ(waiting.hear_type(), FrameType::welcome);
  EXPECT_EQ(test::run_in_child([&] {
              listener_.reset();
              return true;
            }),
            0);
  waiting.say(encode(Ready{}));
  EXPECT_EQ(waiting.hear_type(), FrameType::go);
  join();
}

// ── inproc ──────────────────────────────────────────────────────────────────────────────────────

TEST(InprocListener, destruction_waits_for_calls_into_the_sink) {
  const auto transport = find_transport("inproc");
  const auto uri = Uri::parse("inproc:slow-sink");
  for (int round = 0; round < 20; ++round) {
    const auto sink = std::make_shared<Sink>();
    sink->slow_ = true;
    auto listener = transport->listen(uri, {4096, 0, 10s}, sink);
    std::jthread connecting([&] {
      try {
        const auto parts = transport->connect(uri, {10s}, Clock::now());
        ::close(parts.receiver_wake_fd);
      } catch (const SetupError& e) {
        EXPECT_EQ(e.errc(), Errc::unreachable);  // it was gone already
      }
    });
    if (round % 2 == 0) std::this_thread::sleep_for(std::chrono::microseconds(50 * round));
    listener.reset();
    sink->over_ = true;
  }
}

TEST(InprocListener, a_forked_child_has_names_of_its_own) {
  const auto transport = find_transport("inproc");
  const auto uri = Uri::parse("inproc:forked");
  const auto sink = std::make_shared<Sink>();
  auto listener = transport->listen(uri, {4096, 0, 10s}, sink);
  EXPECT_EQ(test::run_in_child([&] {
              listener.reset();
              const auto own = transport->listen(uri, {4096, 0, 10s}, std::make_shared<Sink>());
              const auto parts = transport->connect(uri, {10s}, Clock::now());
              return parts.ring.data != nullptr;
            }),
            0);
  const auto parts = transport->connect(uri, {10s}, Clock::now());
  ::close(parts.receiver_wake_fd);
  EXPECT_EQ(sink->added(), 1);
}

// ── Receivers made by hand ──────────────────────────────────────────────────────────────────────

int memory_of(std::size_t size, int seals) {
  const int fd = ::memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  EXPECT_EQ(::ftruncate(fd, static_cast<off_t>(size)), 0);
  EXPECT_EQ(::fcntl(fd, F_ADD_SEALS, seals), 0);
  return fd;
}

class FakeReceiver : public testing::Test {
 protected:
  static constexpr std::size_t kRing = 4096;
  static constexpr std::size_t kLength = 4096 + kRing;
  static constexpr int kSeals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;

  FakeReceiver() : listening_(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    const auto [address, length] = address_of(endpoint_);
    EXPECT_EQ(::bind(listening_.get(), reinterpret_cast<const sockaddr*>(&address), length), 0);
    EXPECT_EQ(::listen(listening_.get(), 8), 0);
  }

  /// Welcomes a sender with these descriptors; gives the error that it gets, if there is one.
  std::optional<SetupError> connect_to(std::vector<Fd> descriptors,
                                       const std::function<void()>& before = {}) {
    std::jthread receiving([&] {
      Peer peer(Fd(::accept4(listening_.get(), nullptr, nullptr, SOCK_CLOEXEC)));
      const auto hello = peer.hear();
      if (!hello) return;
      Welcome welcome;
      welcome.path = "shm";
      welcome.capacity = welcome.window = kRing;
      welcome.liveness_ns = 0;
      std::vector<int> fds;
      for (const auto& fd : descriptors) fds.push_back(fd.get());
      if (before) before();
      peer.say(encode(welcome), fds);
      if (!peer.hear()) return;
      peer.say(encode_empty(FrameType::go));
    });
    try {
      const auto parts =
          find_transport("shm")->connect(uri_of(endpoint_), {10s}, Clock::now() + 60s);
      ::close(parts.receiver_wake_fd);
      return std::nullopt;
    } catch (const SetupError& e) {
      return e;
    }
  }
  static std::vector<Fd> fds(int ring, int wake) {
    std::vector<Fd> all;
    all.emplace_back(ring);
    all.emplace_back(wake);
    return all;
  }
  static int wake() { return ::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC); }
  void expect_refused(std::vector<Fd> descriptors, Errc code, const std::string& text) {
    const auto error = connect_to(std::move(descriptors));
    ASSERT_TRUE(error);
    EXPECT_EQ(error->errc(), code) << error->what();
    EXPECT_NE(std::string(error->what()).find(text), std::string::npos) << error->what();
  }

  const Endpoint endpoint_ = fresh_endpoint();
  Fd listening_;
};

TEST_F(FakeReceiver, with_what_it_should_send_is_accepted) {
  const auto error = connect_to(fds(memory_of(kLength, kSeals), wake()));
  EXPECT_FALSE(error) << error->what();
}

TEST_F(FakeReceiver, with_memory_of_another_size_is_refused) {
  expect_refused(fds(memory_of(kLength - 4096, kSeals), wake()), Errc::geometry_mismatch,
                 "another size");
  expect_refused(fds(memory_of(kLength + 4096, kSeals), wake()), Errc::geometry_mismatch,
                 "another size");
}

TEST_F(FakeReceiver, with_memory_that_may_shrink_is_refused) {
  expect_refused(fds(memory_of(kLength, F_SEAL_GROW), wake()), Errc::handshake_failed,
                 "not sealed");
  char name[] = "/tmp/penstock-test-XXXXXX";
  const int file = ::mkstemp(name);
  ::unlink(name);
  ASSERT_EQ(::ftruncate(file, kLength), 0);
  expect_refused(fds(file, wake()), Errc::handshake_failed, "not sealed");
}

TEST_F(FakeReceiver, with_a_wake_up_that_could_block_or_kill_is_refused) {
  std::array<int, 2> ends{};
  ASSERT_EQ(::pipe2(ends.data(), O_CLOEXEC | O_NONBLOCK), 0);
  ::close(ends[0]);
  expect_refused(fds(memory_of(kLength, kSeals), ends[1]), Errc::handshake_failed, "eventfd");
  expect_refused(fds(memory_of(kLength, kSeals), ::eventfd(0, EFD_CLOEXEC)), Errc::handshake_failed,
                 "eventfd");
  expect_refused(fds(memory_of(kLength, kSeals), memory_of(kLength, kSeals)),
                 Errc::handshake_failed, "eventfd");
}

TEST_F(FakeReceiver, with_another_count_of_descriptors_is_refused) {
  expect_refused({}, Errc::handshake_failed, "0 descriptors");
  auto three = fds(memory_of(kLength, kSeals), wake());
  three.emplace_back(wake());
  expect_refused(std::move(three), Errc::handshake_failed, "3 descriptors");
  std::vector<Fd> many;
  for (int i = 0; i < 10; ++i) many.emplace_back(wake());
  expect_refused(std::move(many), Errc::handshake_failed, "more than 4 descriptors");
}

TEST_F(FakeReceiver, a_sender_out_of_descriptors_says_so) {
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &before), 0);
  const auto error = connect_to(fds(memory_of(kLength, kSeals), wake()), [&] {
    const rlimit none{3, before.rlim_max};
    EXPECT_EQ(::setrlimit(RLIMIT_NOFILE, &none), 0);
  });
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &before), 0);
  ASSERT_TRUE(error);
  EXPECT_EQ(error->errc(), Errc::resource_limit) << error->what();
  EXPECT_NE(std::string(error->what()).find("RLIMIT_NOFILE"), std::string::npos) << error->what();
}

TEST(ForeignReceiver, gets_nothing_even_from_root) {
  if (::geteuid() != 0) GTEST_SKIP() << "only root can take another user's part";
  const auto endpoint = fresh_endpoint();
  constexpr uid_t kSomebody = 12345;
  std::array<int, 2> bound{};
  ASSERT_EQ(::pipe2(bound.data(), O_CLOEXEC), 0);
  const Fd ready(bound[0]);
  Fd done(bound[1]);
  const auto [address, length] = address_of(endpoint);
  const pid_t child = ::fork();
  if (child == 0) {
    const int socket = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const bool listens = ::setresuid(kSomebody, kSomebody, kSomebody) == 0 &&
                         ::bind(socket, reinterpret_cast<const sockaddr*>(&address), length) == 0 &&
                         ::listen(socket, 8) == 0;
    if (!listens || ::write(done.get(), "x", 1) != 1) ::_exit(1);
    ::alarm(60);
    for (;;) ::pause();
  }
  done.reset();
  char byte = 0;
  ASSERT_EQ(::read(ready.get(), &byte, 1), 1);
  try {
    (void)find_transport("shm")->connect(uri_of(endpoint), {10s}, Clock::now() + 60s);
    ADD_FAILURE() << "connected";
  } catch (const SetupError& e) {
    EXPECT_EQ(e.errc(), Errc::handshake_failed);
    EXPECT_NE(std::string(e.what()).find("12345"), std::string::npos) << e.what();
  }
  ::kill(child, SIGKILL);
  ::waitpid(child, nullptr, 0);
}

}  // namespace
}  // namespace penstock
