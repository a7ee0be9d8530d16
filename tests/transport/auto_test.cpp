// auto: which path is taken, and what is said of the others. Between hosts: ../softroce/auto_test.
#include "penstock/transport/auto_transport.hpp"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <cstring>
#include <memory>
#include <string>
#include <thread>

#include "penstock/channel/channel.hpp"
#include "penstock/transport/clock.hpp"
#include "penstock/transport/error.hpp"
#include "penstock/transport/fd.hpp"
#include "penstock/transport/handshake.hpp"
#include "penstock/transport/registry.hpp"
#include "tests/child.hpp"
#include "tests/transport/torn_link.hpp"

namespace penstock {
namespace {

using namespace std::chrono_literals;

// Where nothing is said, UCX is loaded. It hooks into the memory calls of the process, those of a
// thread that ends too, and there ThreadSanitizer crashes.
#if defined(__SANITIZE_THREAD__)
constexpr bool kThreadSanitizer = true;
const std::string kPaths = "paths=inproc,shm";
#else
constexpr bool kThreadSanitizer = false;
const std::string kPaths;
#endif
const std::string kAnywhere = "auto://127.0.0.1:0/x?" + kPaths;

class AutoTest : public testing::Test {
 protected:
  static void SetUpTestSuite() { register_links(std::make_shared<test::TornLinkProvider>()); }

  /// What is bound there, with other paths, and other options.
  static std::string at(const Receiver& receiver, const std::string& query) {
    return receiver.uris().at(0) + "?" + query;
  }
  static SetupError error_of(const std::string& uri) {
    try {
      (void)penstock::connect(uri, {.deadline = 2s});
    } catch (const SetupError& e) {
      return e;
    }
    ADD_FAILURE() << uri << ": no error";
    return {Errc::system, ""};
  }
  static void expect_passes(Sender& sender, Receiver& receiver) {
    const std::string text = "through";
    ASSERT_EQ(sender.send(std::as_bytes(std::span(text))), SendStatus::sent);
    const auto message = receiver.recv();
    ASSERT_EQ(message.status(), RecvStatus::received);
    EXPECT_EQ(message.data().size(), text.size());
  }
};

bool has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

TEST_F(AutoTest, within_a_process_it_is_inproc) {
  auto receiver = penstock::bind(kAnywhere);
  auto sender = penstock::connect(at(receiver, kPaths));
  EXPECT_EQ(sender.stats().path, "inproc");
  EXPECT_EQ(sender.stats().rejected, "");
  EXPECT_EQ(receiver.stats().sources.at(0).path, "inproc");
  expect_passes(sender, receiver);
}

TEST_F(AutoTest, between_processes_of_a_host_it_is_shm) {
  if (kThreadSanitizer) GTEST_SKIP() << "no threads in a child of fork()";
  auto receiver = penstock::bind(kAnywhere);
  const int status = test::run_in_child([&] {
    auto sender = penstock::connect(receiver.uris().at(0));
    const auto stats = sender.stats();
    const std::string text = stats.path + "; " + stats.rejected;
    return text == "shm; inproc: the receiver is in another process" &&
           sender.send(std::as_bytes(std::span(text))) == SendStatus::sent;
  });
  EXPECT_EQ(status, 0);
  EXPECT_EQ(receiver.recv().status(), RecvStatus::received);
  EXPECT_EQ(receiver.stats().refused, 0U);
}

TEST_F(AutoTest, the_order_of_paths_is_the_senders) {
  auto receiver = bind("auto://127.0.0.1:0/x?paths=inproc,shm,torn&seed=1");
  auto sender = penstock::connect(at(receiver, "paths=torn,inproc&seed=1"));
  EXPECT_TRUE(has(sender.stats().path, "torn")) << sender.stats().path;
  EXPECT_EQ(sender.stats().rejected, "");
  expect_passes(sender, receiver);
}

TEST_F(AutoTest, what_only_one_end_has_is_left_out_and_said) {
  auto receiver = bind("auto://127.0.0.1:0/x?paths=nosuch,shm");
  auto sender = penstock::connect(at(receiver, "paths=inproc,nosuch,other,shm"));
  const auto stats = sender.stats();
  EXPECT_EQ(stats.path, "shm");
  EXPECT_TRUE(
      stats.rejected.starts_with("inproc: the receiver does not offer it; nosuch: the "
                                 "receiver lacks it: no transport 'nosuch'"))
      << stats.rejected;
  EXPECT_TRUE(has(stats.rejected, "other: the receiver does not offer it")) << stats.rejected;
}

TEST_F(AutoTest, a_path_through_which_nothing_gets_is_left_out) {
  auto receiver = bind("auto://127.0.0.1:0/x?paths=shm,torn");
  auto sender = penstock::connect(at(receiver, "paths=torn,shm&fail_after=0"));
  EXPECT_EQ(sender.stats().path, "shm");
  EXPECT_TRUE(has(sender.stats().rejected, "nothing gets through to the peer"))
      << sender.stats().rejected;
  expect_passes(sender, receiver);
  EXPECT_EQ(receiver.stats().sources.size(), 1U) << "the other was never counted as a sender";
}

TEST_F(AutoTest, where_none_is_left_all_reasons_are_said) {
  auto receiver = bind("auto://127.0.0.1:0/x?paths=shm,torn");
  const auto error = error_of(at(receiver, "paths=inproc,torn&fail_after=0"));
  EXPECT_EQ(error.errc(), Errc::unreachable);
  for (const auto* part :
       {"inproc: the receiver does not offer it", "torn: ", "nothing gets through"})
    EXPECT_TRUE(has(error.what(), part)) << error.what();
}

TEST_F(AutoTest, none_that_can_be_had_is_an_error_of_bind) {
  try {
    (void)bind("auto://127.0.0.1:0/x?paths=nosuch,other");
    FAIL();
  } catch (const SetupError& e) {
    EXPECT_EQ(e.errc(), Errc::transport_unavailable);
    EXPECT_TRUE(has(e.what(), "nosuch: no transport") && has(e.what(), "other: no transport"))
        << e.what();
  }
}

TEST_F(AutoTest, who_knows_the_path_need_not_ask) {
  auto receiver = bind("auto://127.0.0.1:0/x?paths=shm,torn");
  auto uri = receiver.uris().at(0);
  auto sender = penstock::connect(uri.replace(0, 4, "torn"));
  expect_passes(sender, receiver);
}

TEST_F(AutoTest, a_receiver_of_one_path_can_be_asked) {
  auto receiver = bind("torn://127.0.0.1:0/x");
  auto uri = receiver.uris().at(0);
  auto sender = penstock::connect(uri.replace(0, 4, "auto") + "?paths=inproc,shm,torn");
  EXPECT_EQ(sender.stats().rejected,
            "inproc: the receiver does not offer it; shm: the receiver does not offer it");
  expect_passes(sender, receiver);
}

TEST_F(AutoTest, what_concerns_the_channel_is_an_error_at_once) {
  auto receiver = penstock::bind(kAnywhere);
  auto uri = receiver.uris().at(0);
  EXPECT_EQ(error_of(uri + "y?" + kPaths).errc(), Errc::no_such_channel);
  EXPECT_EQ(error_of("auto:x?" + kPaths).errc(), Errc::bad_uri);
  for (const auto* paths : {"", "shm,,torn", "shm,shm", "auto"})
    EXPECT_EQ(error_of(uri + "?paths=" + paths).errc(), Errc::bad_uri) << paths;
  std::string many = "?paths=shm";
  for (int i = 1; i <= 16; ++i) many += ",x" + std::to_string(i);
  EXPECT_EQ(error_of(uri + many).errc(), Errc::bad_uri) << "one more than there may be";
  const auto error = error_of(uri + "?path=shm&" + kPaths);
  EXPECT_EQ(error.errc(), Errc::bad_uri);
  EXPECT_TRUE(has(error.what(), "did you mean 'paths'?")) << error.what();
}

TEST_F(AutoTest, as_many_paths_as_there_may_be_fit_into_an_offer) {
  std::string many = "paths=shm";
  for (int i = 1; i < 16; ++i) many += ",x" + std::to_string(i);
  auto receiver = penstock::bind("auto://127.0.0.1:0/x?" + many);
  auto sender = penstock::connect(at(receiver, "paths=x15,shm"));
  EXPECT_EQ(sender.stats().path, "shm");
  EXPECT_TRUE(has(sender.stats().rejected, "x15: the receiver lacks it: no transport 'x15'"))
      << sender.stats().rejected;
}

TEST_F(AutoTest, a_second_receiver_at_the_port_is_refused) {
  auto receiver = penstock::bind(kAnywhere);
  try {
    (void)penstock::bind(at(receiver, kPaths));
    FAIL();
  } catch (const SetupError& e) {
    EXPECT_EQ(e.errc(), Errc::address_in_use) << e.what();
  }
}

TEST_F(AutoTest, a_trial_leaves_no_trace) {
  auto receiver = bind("auto://127.0.0.1:0/x?paths=inproc,shm,torn");
  for (const auto* path : {"inproc", "shm", "torn"}) {
    const auto uri = Uri::parse(at(receiver, std::string("paths=") + path));
    const auto parts =
        find_transport("auto")->connect(uri, {.liveness = 10s, .trial = true}, Clock::now() + 5s);
    EXPECT_TRUE(has(parts.path, path)) << parts.path;
    EXPECT_FALSE(parts.ring.data != nullptr && parts.connection);
  }
  EXPECT_EQ(receiver.try_recv().status(), RecvStatus::empty) << "no sender has come and gone";
  EXPECT_EQ(receiver.sender_count(), 0U);
  EXPECT_EQ(receiver.stats().refused, 0U) << receiver.stats().last_refusal;
}

// By a listener that offers what it likes.
TEST_F(AutoTest, a_place_of_another_form_is_not_gone_to) {
  for (const std::string place : {"", "orders", "auto/0123456789abcdef0123456789ABCDEF",
                                  "auto/0123456789abcdef0123456789abcdef0", "auto/../../orders"}) {
    const Fd listening(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t length = sizeof address;
    auto* const name = reinterpret_cast<sockaddr*>(&address);
    ASSERT_EQ(::bind(listening.get(), name, length), 0);
    ASSERT_EQ(::listen(listening.get(), 1), 0);
    ASSERT_EQ(::getsockname(listening.get(), name, &length), 0);
    auto orders = bind("shm:orders");
    std::jthread answering([&] {
      const Fd socket(::accept4(listening.get(), nullptr, nullptr, SOCK_CLOEXEC));
      const auto frame = encode(Offer{place, {"inproc", "shm"}, {"shm: \x01", "nonsense"}});
      EXPECT_GT(::send(socket.get(), frame.data(), frame.size(), MSG_NOSIGNAL), 0);
      char byte = 0;
      while (::recv(socket.get(), &byte, 1, 0) > 0) {
      }
    });
    const auto error = error_of("auto://127.0.0.1:" + std::to_string(ntohs(address.sin_port)) +
                                "/orders?" + kPaths);
    EXPECT_EQ(error.errc(), Errc::unreachable) << error.what();
    EXPECT_EQ(orders.sender_count(), 0U);
  }
}

}  // namespace
}  // namespace penstock
