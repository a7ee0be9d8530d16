// The ucx link: two links of one process, joined to each other, and a stranger that knows where one
// of them listens.
#include "penstock/rdma/ucx/ucx_link.hpp"

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "penstock/rdma/ucx/context.hpp"
#include "penstock/rdma/ucx/ucx_provider.hpp"
#include "penstock/transport/error.hpp"

namespace penstock::ucx {
namespace {

using Kind = LinkEvent::Kind;
using Bytes = std::vector<std::byte>;

constexpr std::chrono::seconds kWatchdog{30};

bool says(const std::string& text, std::string_view part) {
  return text.find(part) != std::string::npos;
}

/// As a post travels (ucx_link.hpp).
struct Piece {
  std::uint64_t offset;
  std::uint32_t region;
  std::uint32_t length;
};
struct Head {
  std::array<std::uint64_t, 2> secret;
  std::uint64_t number;
  std::uint64_t placed;
  std::uint32_t has_immediate;
  std::uint32_t immediate;
  Piece piece;
};

/// What describe() says of a link's end.
struct Described {
  explicit Described(const Bytes& bytes) {
    std::memcpy(secret.data(), bytes.data() + 4, sizeof secret);
    std::uint32_t length = 0;
    std::memcpy(&length, bytes.data() + 20, sizeof length);
    address.assign(bytes.begin() + 24, bytes.begin() + 24 + length);
  }
  std::array<std::uint64_t, 2> secret{};
  Bytes address;
};

/// Uses UCX by itself, and sends posts that it makes up.
class Stranger {
 public:
  Stranger(const std::string& transports, const Bytes& address)
      : context_(Context::get(transports)) {
    ucp_worker_params_t worker{};
    worker.field_mask = UCP_WORKER_PARAM_FIELD_THREAD_MODE;
    worker.thread_mode = UCS_THREAD_MODE_SINGLE;
    EXPECT_EQ(::ucp_worker_create(context_->get(), &worker, &worker_), UCS_OK);
    ucp_ep_params_t endpoint{};
    endpoint.field_mask = UCP_EP_PARAM_FIELD_REMOTE_ADDRESS;
    endpoint.address = reinterpret_cast<const ucp_address_t*>(address.data());
    EXPECT_EQ(::ucp_ep_create(worker_, &endpoint, &endpoint_), UCS_OK);
  }
  Stranger(const Stranger&) = delete;
  Stranger& operator=(const Stranger&) = delete;
  Stranger(Stranger&&) = delete;
  Stranger& operator=(Stranger&&) = delete;
  ~Stranger() { ::ucp_worker_destroy(worker_); }

  /// While `target`, of this thread too, looks at what comes.
  void send(Link& target, const void* head, std::size_t head_length, const Bytes& body,
            unsigned id = 1) {
    ucp_request_param_t params{};
    params.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS;
    params.flags = UCP_AM_SEND_FLAG_EAGER;
    auto* const request =
        ::ucp_am_send_nbx(endpoint_, id, head, head_length, body.data(), body.size(), &params);
    ASSERT_FALSE(UCS_PTR_IS_ERR(request));
    const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(100);
    while (std::chrono::steady_clock::now() < end) {
      ::ucp_worker_progress(worker_);
      LinkEvent event{};
      if (target.poll(std::span(&event, 1)) != 0) events.push_back(event);
    }
    if (request != nullptr) ::ucp_request_free(request);
  }

  std::vector<LinkEvent> events;  // of the target

 private:
  const std::shared_ptr<Context> context_;
  ucp_worker_h worker_ = nullptr;
  ucp_ep_h endpoint_ = nullptr;
};

/// `a` writes from its mirror into `b`'s ring. The parameter: the transports of UCX.
class UcxLinkTest : public testing::TestWithParam<const char*> {
 protected:
  std::unique_ptr<Link> open(std::vector<LinkRegion> regions) {
    return UcxProvider().open({.local_host = "127.0.0.1",
                               .peer_host = "127.0.0.1",
                               .options = std::string("tls=") + GetParam(),
                               .regions = std::move(regions)});
  }
  void SetUp() override {
    for (std::size_t i = 0; i < mirror_.size(); ++i) mirror_[i] = static_cast<std::byte>(i % 251);
    a_ = open({{mirror_.data(), mirror_.size(), false}});
    b_ = open({{ring_.data(), ring_.size(), true}});
  }
  void join() {
    const Bytes a = a_->describe();
    a_->connect(b_->describe());
    b_->connect(a);
  }
  [[nodiscard]] RemoteWrite write(std::size_t at, std::uint32_t length) const {
    return {.source = mirror_.data() + at, .length = length, .region = 0, .offset = at};
  }
  /// The next event of `link`, while the other end looks, too; keeps what that sees.
  LinkEvent next(Link& link) {
    LinkEvent event{};
    Link& other = &link == a_.get() ? *b_ : *a_;
    auto& kept = &link == a_.get() ? of_b_ : of_a_;
    auto& mine = &link == a_.get() ? of_a_ : of_b_;
    const auto end = std::chrono::steady_clock::now() + kWatchdog;
    while (mine.empty() && link.poll(std::span(&event, 1)) == 0) {
      LinkEvent seen{};
      if (other.poll(std::span(&seen, 1)) != 0) kept.push_back(seen);
      if (std::chrono::steady_clock::now() > end) {
        ADD_FAILURE() << "no event within the watchdog's time";
        return {.kind = Kind::failed, .value = ~0ULL};
      }
    }
    if (mine.empty()) return event;
    event = mine.front();
    mine.erase(mine.begin());
    return event;
  }
  void expect(Link& link, Kind kind, std::uint64_t value) {
    const LinkEvent event = next(link);
    EXPECT_EQ(event.kind, kind) << link.error();
    EXPECT_EQ(event.value, value);
  }
  static bool readable(const Link& link, int milliseconds = 0) {
    pollfd fd{.fd = link.event_fd(), .events = POLLIN, .revents = 0};
    return ::poll(&fd, 1, milliseconds) == 1;
  }
  /// `b` is told of a post by someone who holds its secret.
  std::string error_after(Head head, const Bytes& body, std::size_t head_length = sizeof(Head)) {
    join();
    const Described described(b_->describe());
    head.secret = described.secret;
    Stranger stranger(GetParam(), described.address);
    stranger.send(*b_, &head, head_length, body);
    EXPECT_FALSE(stranger.events.empty());
    for (const LinkEvent& event : stranger.events) EXPECT_EQ(event.kind, Kind::failed);
    EXPECT_EQ(ring_, Bytes(ring_.size()));
    return b_->error();
  }

  Bytes mirror_ = Bytes(1U << 20U);
  Bytes ring_ = Bytes(1U << 20U);
  std::unique_ptr<Link> a_;
  std::unique_ptr<Link> b_;
  std::vector<LinkEvent> of_a_;
  std::vector<LinkEvent> of_b_;
};

TEST_P(UcxLinkTest, writes_of_every_size_have_landed_when_their_immediate_comes) {
  join();
  std::uint64_t cookie = 0;
  for (const std::uint32_t length : {1U, 63U, 4096U, 65'537U, 1U << 20U}) {
    std::ranges::fill(ring_, std::byte{0});
    const RemoteWrite one = write(mirror_.size() - length, length);
    ++cookie;
    ASSERT_EQ(a_->post(std::span(&one, 1), 7, cookie), PostStatus::posted);
    expect(*b_, Kind::immediate, 7);
    EXPECT_EQ(std::memcmp(ring_.data() + one.offset, one.source, length), 0) << length;
    expect(*a_, Kind::completed, cookie);
  }
}

TEST_P(UcxLinkTest, writes_of_one_post_land_where_each_belongs) {
  join();
  std::vector<RemoteWrite> writes;
  for (std::size_t i = 0; i < a_->limits().max_writes; ++i) writes.push_back(write(i * 4096, 100));
  writes.back().copied = true;
  writes.back().length = kMaxCopied;
  ASSERT_EQ(a_->post(writes, 1, 1), PostStatus::posted);
  expect(*b_, Kind::immediate, 1);
  for (const RemoteWrite& one : writes)
    EXPECT_EQ(std::memcmp(ring_.data() + one.offset, one.source, one.length), 0);
  EXPECT_EQ(ring_[100], std::byte{0});
  expect(*a_, Kind::completed, 1);
}

TEST_P(UcxLinkTest, says_when_there_is_no_room_and_takes_more_when_there_is) {
  join();
  const RemoteWrite one = write(0, 64);
  std::uint64_t posted = 0;
  while (a_->post(std::span(&one, 1), {}, posted + 1) == PostStatus::posted) ++posted;
  EXPECT_GT(posted, 0U);
  while (next(*a_).value != posted) {
  }
  EXPECT_EQ(a_->post(std::span(&one, 1), {}, posted + 1), PostStatus::posted);
}

TEST_P(UcxLinkTest, its_descriptor_tells_of_what_is_armed_for_and_is_silent_otherwise) {
  join();
  ASSERT_EQ(a_->post({}, 1, 1), PostStatus::posted);
  expect(*b_, Kind::immediate, 1);
  expect(*a_, Kind::completed, 1);
  for (int i = 0; i < 3; ++i) {
    b_->disarm();
    EXPECT_FALSE(readable(*b_)) << "nobody asked";
    b_->arm(false, true);
    LinkEvent event{};
    while (b_->poll(std::span(&event, 1)) != 0) {
    }
  }
  ASSERT_EQ(a_->post({}, 2, 2), PostStatus::posted);
  EXPECT_TRUE(readable(*b_, 10'000));
  expect(*b_, Kind::immediate, 2);
  expect(*a_, Kind::completed, 2);
  b_->disarm();
  ASSERT_EQ(a_->post({}, 3, 3), PostStatus::posted);
  EXPECT_FALSE(readable(*b_, 20)) << "nobody asked";
  expect(*b_, Kind::immediate, 3);
}

TEST_P(UcxLinkTest, its_descriptor_stays_readable_when_another_thread_takes_the_event) {
  join();
  b_->arm(false, true);
  ASSERT_EQ(a_->post({}, 1, 1), PostStatus::posted);
  expect(*b_, Kind::immediate, 1);
  EXPECT_TRUE(readable(*b_)) << "a sleeper would not wake";
  b_->disarm();
  EXPECT_FALSE(readable(*b_));
}

TEST_P(UcxLinkTest, refuses_to_write_outside_of_what_the_peer_described) {
  join();
  const RemoteWrite beyond{
      .source = mirror_.data(), .length = 64, .region = 0, .offset = ring_.size() - 63};
  EXPECT_EQ(a_->post(std::span(&beyond, 1), {}, 1), PostStatus::failed);
  EXPECT_TRUE(says(a_->error(), "outside")) << a_->error();
}

TEST_P(UcxLinkTest, a_stranger_without_the_secret_changes_nothing) {
  join();
  const Described described(b_->describe());
  Stranger stranger(GetParam(), described.address);
  const Head wrong{.secret = {described.secret[0], described.secret[1] + 1},
                   .number = 1,
                   .placed = 0,
                   .has_immediate = 1,
                   .immediate = 9,
                   .piece = {.offset = 0, .region = 0, .length = 8}};
  for (const std::size_t length : {std::size_t{0}, std::size_t{1}, sizeof wrong})
    stranger.send(*b_, &wrong, length, Bytes(8, std::byte{1}));
  EXPECT_TRUE(stranger.events.empty());
  EXPECT_EQ(ring_, Bytes(ring_.size()));
  const RemoteWrite one = write(0, 64);
  ASSERT_EQ(a_->post(std::span(&one, 1), 5, 1), PostStatus::posted);
  expect(*b_, Kind::immediate, 5);
}

TEST_P(UcxLinkTest, a_peer_that_writes_outside_fails_it) {
  const auto error = error_after({.secret = {},
                                  .number = 1,
                                  .placed = 0,
                                  .has_immediate = 0,
                                  .immediate = 0,
                                  .piece = {.offset = ring_.size() - 7, .region = 0, .length = 8}},
                                 Bytes(8, std::byte{1}));
  EXPECT_TRUE(says(error, "outside of the memory")) << error;
}

TEST_P(UcxLinkTest, a_peer_that_names_no_region_of_it_fails_it) {
  const auto error = error_after({.secret = {},
                                  .number = 1,
                                  .placed = 0,
                                  .has_immediate = 0,
                                  .immediate = 0,
                                  .piece = {.offset = 0, .region = 1, .length = 8}},
                                 Bytes(8, std::byte{1}));
  EXPECT_TRUE(says(error, "outside of the memory")) << error;
}

TEST_P(UcxLinkTest, a_post_out_of_order_fails_it) {
  const auto error = error_after({.secret = {},
                                  .number = 2,
                                  .placed = 0,
                                  .has_immediate = 0,
                                  .immediate = 0,
                                  .piece = {.offset = 0, .region = 0, .length = 8}},
                                 Bytes(8, std::byte{1}));
  EXPECT_TRUE(says(error, "out of order")) << error;
}

TEST_P(UcxLinkTest, places_that_do_not_match_the_body_fail_it) {
  const auto error = error_after({.secret = {},
                                  .number = 1,
                                  .placed = 0,
                                  .has_immediate = 0,
                                  .immediate = 0,
                                  .piece = {.offset = 0, .region = 0, .length = 64}},
                                 Bytes(8, std::byte{1}));
  EXPECT_TRUE(says(error, "do not match")) << error;
}

TEST_P(UcxLinkTest, a_head_that_is_cut_short_fails_it) {
  const auto error = error_after({.secret = {},
                                  .number = 1,
                                  .placed = 0,
                                  .has_immediate = 0,
                                  .immediate = 0,
                                  .piece = {.offset = 0, .region = 0, .length = 8}},
                                 Bytes(8, std::byte{1}), sizeof(Head) - 1);
  EXPECT_TRUE(says(error, "cut short")) << error;
}

TEST_P(UcxLinkTest, a_word_of_what_was_never_posted_fails_it_and_one_cut_short_is_dropped) {
  join();
  const Described described(b_->describe());
  struct {
    std::array<std::uint64_t, 2> secret;
    std::uint64_t placed;
    std::uint64_t asks;
  } word{.secret = described.secret, .placed = 1, .asks = 1};
  Stranger stranger(GetParam(), described.address);
  stranger.send(*b_, &word, sizeof word - 1, {}, 2);
  EXPECT_TRUE(stranger.events.empty());
  stranger.send(*b_, &word, sizeof word, {}, 2);
  ASSERT_EQ(stranger.events.size(), 1U);
  EXPECT_EQ(stranger.events[0].kind, Kind::failed);
  EXPECT_TRUE(says(b_->error(), "what was not posted")) << b_->error();
}

TEST_P(UcxLinkTest, a_peer_that_says_to_have_placed_more_fails_it) {
  join();
  const Described described(b_->describe());
  const Head head{.secret = described.secret,
                  .number = 1,
                  .placed = 1,
                  .has_immediate = 0,
                  .immediate = 0,
                  .piece = {.offset = 0, .region = 0, .length = 8}};
  Stranger stranger(GetParam(), described.address);
  stranger.send(*b_, &head, sizeof head, Bytes(8));
  ASSERT_EQ(stranger.events.size(), 1U);
  EXPECT_EQ(stranger.events[0].kind, Kind::failed);
  EXPECT_TRUE(says(b_->error(), "what was not posted")) << b_->error();
}

TEST_P(UcxLinkTest, a_description_that_is_none_is_refused_and_leaves_it_usable) {
  const Bytes good = b_->describe();
  for (std::size_t length = 0; length < 24; ++length)
    EXPECT_THROW(a_->connect(std::span(good).first(length)), SetupError);
  EXPECT_THROW(a_->connect(std::span(good).first(good.size() - 1)), SetupError);
  Bytes longer = good;
  longer.push_back(std::byte{0});
  EXPECT_THROW(a_->connect(longer), SetupError);
  Bytes other = good;
  other[0] ^= std::byte{1};
  try {
    a_->connect(other);
    ADD_FAILURE() << "another version was taken";
  } catch (const SetupError& error) {
    EXPECT_EQ(error.errc(), Errc::version_mismatch);
  }
  join();
  ASSERT_EQ(a_->post({}, 1, 1), PostStatus::posted);
  expect(*b_, Kind::immediate, 1);
}

std::string first_transport(const testing::TestParamInfo<const char*>& param) {
  const std::string transports = param.param;
  return transports.substr(0, transports.find(','));
}
INSTANTIATE_TEST_SUITE_P(Over, UcxLinkTest, testing::Values("tcp,self", "shm,self"),
                         first_transport);
TEST(UcxContextTest, is_kept_for_later_links_and_not_by_a_child_process) {
  const auto* const kept = Context::get("tcp,self")->get();
  EXPECT_EQ(Context::get("tcp,self")->get(), kept);
  EXPECT_NE(Context::get("self")->get(), kept);
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) ::_exit(Context::get("tcp,self")->get() == kept ? 1 : 0);
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

// A link that sent much at once left 2 MiB behind (docs/adr/017-ucx.md).
TEST(UcxContextTest, does_not_grow_with_links_that_sent_much) {
  const auto resident = [] {
    std::ifstream file("/proc/self/statm");
    long size = 0;
    long pages = 0;
    file >> size >> pages;
    return pages * ::sysconf(_SC_PAGESIZE);
  };
  constexpr int kLinks = 40;
  constexpr std::uint32_t kMuch = 64 * 1024;
  Bytes mirror(kMuch);
  Bytes ring(kMuch);
  const auto use_one = [&] {
    const LinkConfig config{.local_host = "127.0.0.1",
                            .peer_host = "127.0.0.1",
                            .options = "tls=tcp,self",
                            .regions = {{ring.data(), ring.size(), true}}};
    const auto a = UcxProvider().open(config);
    const auto b = UcxProvider().open(config);
    a->connect(b->describe());
    b->connect(a->describe());
    const RemoteWrite write{.source = mirror.data(), .length = kMuch, .region = 0, .offset = 0};
    ASSERT_EQ(a->post(std::span(&write, 1), 1, 0), PostStatus::posted);
    const auto end = std::chrono::steady_clock::now() + kWatchdog;
    for (LinkEvent event{}; b->poll(std::span(&event, 1)) == 0;) {
      ASSERT_LT(std::chrono::steady_clock::now(), end);
      (void)a->poll(std::span(&event, 1));
    }
  };
  const auto held = Context::get("tcp,self");
  for (int i = 0; i < kLinks; ++i) use_one();
  const auto before = resident();
  for (int i = 0; i < kLinks; ++i) use_one();
  EXPECT_LT(resident() - before, kLinks * (long{1} << 20U) / 2);
}

TEST(UcxProviderTest, transports_that_there_are_not_are_an_error_that_says_so) {
  try {
    UcxProvider().check("tls=nothere");
    ADD_FAILURE() << "it was taken";
  } catch (const SetupError& error) {
    EXPECT_EQ(error.errc(), Errc::transport_unavailable);
    EXPECT_TRUE(says(error.what(), "nothere")) << error.what();
    EXPECT_TRUE(says(error.what(), "ucx_info -d")) << error.what();
  }
}

TEST(UcxProviderTest, ends_without_a_transport_in_common_are_told_what_each_lacks) {
  Bytes memory(4096);
  const std::vector<LinkRegion> regions{{memory.data(), memory.size(), true}};
  const auto a = UcxProvider().open({.local_host = "127.0.0.1",
                                     .peer_host = "127.0.0.1",
                                     .options = "tls=self",
                                     .regions = regions});
  const auto b = UcxProvider().open({.local_host = "127.0.0.1",
                                     .peer_host = "127.0.0.1",
                                     .options = "tls=tcp",
                                     .regions = regions});
  try {
    a->connect(b->describe());
    ADD_FAILURE() << "it was taken";
  } catch (const SetupError& error) {
    EXPECT_EQ(error.errc(), Errc::unreachable);
    EXPECT_TRUE(says(error.what(), "in common")) << error.what();
  }
}

// The next ones are run by tests/softroce, where there is such a device.

TEST(UcxOverSoftRoce, takes_tcp_by_itself_and_refuses_verbs) {
  Bytes memory(4096);
  const auto link = UcxProvider().open({.local_host = "127.0.0.1",
                                        .peer_host = "127.0.0.1",
                                        .options = {},
                                        .regions = {{memory.data(), memory.size(), true}}});
  EXPECT_EQ(link->path(), "ucx tcp");
  for (const char* tls : {"tls=rc_verbs", "tls=tcp,ud", "tls=all"}) {
    try {
      UcxProvider().check(tls);
      ADD_FAILURE() << tls << " was taken";
    } catch (const SetupError& error) {
      EXPECT_EQ(error.errc(), Errc::transport_unavailable);
      EXPECT_TRUE(says(error.what(), "a device in software")) << error.what();
      EXPECT_TRUE(says(error.what(), "UCX_NET_DEVICES")) << error.what();
    }
  }
}

class UcxLinkOverSoftRoce : public UcxLinkTest {
 protected:
  void SetUp() override {
    ASSERT_NE(std::getenv("PENSTOCK_RDMA_DEVICE"), nullptr);
    const std::string device = std::getenv("PENSTOCK_RDMA_DEVICE");
    ASSERT_EQ(::setenv("UCX_NET_DEVICES", (device + ":1").c_str(), 1), 0);
    UcxLinkTest::SetUp();
  }
  void TearDown() override { ::unsetenv("UCX_NET_DEVICES"); }
};

// UCX by itself drops all that comes from there (docs/adr/017-ucx.md).
TEST_P(UcxLinkOverSoftRoce, carries_posts_where_the_device_is_named) {
  join();
  const std::array<RemoteWrite, 2> writes{write(0, 100'000), write(500'000, 64)};
  ASSERT_EQ(a_->post(writes, 5, 7), PostStatus::posted);
  expect(*b_, Kind::immediate, 5);
  expect(*a_, Kind::completed, 7);
  for (const auto& one : writes)
    EXPECT_EQ(std::memcmp(ring_.data() + one.offset, one.source, one.length), 0);
}

INSTANTIATE_TEST_SUITE_P(By, UcxLinkOverSoftRoce, testing::Values("rc,self", "ud,self"),
                         first_transport);

}  // namespace
}  // namespace penstock::ucx
