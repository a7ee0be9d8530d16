// Finding each other, and what is said when that does not work. Coming and going many times.
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <thread>

#include "tests/conformance/suite.hpp"

namespace penstock::test {
namespace {

using std::chrono::milliseconds;

// A URI that was bound a moment ago and is not now.
std::string free_uri(Side& side) {
  const Receiver receiver = penstock::bind(side.fresh_uri());
  return receiver.uris().at(0);
}

const AddCase waits{"connect_waits_for_a_receiver_that_comes_later",
                    [](Side& side) {
                      const std::string uri = free_uri(side);
                      side.put("uri", uri);
                      (void)side.get("connecting");
                      std::this_thread::sleep_for(milliseconds(50));
                      Receiver receiver = penstock::bind(side.with(uri, {}));
                      EXPECT_EQ(receiver.recv().text(), "x");
                      EXPECT_EQ(receiver.recv().status(), RecvStatus::closed);
                    },
                    [](Side& side) {
                      const std::string uri = side.get("uri");
                      side.put("connecting");
                      Sender sender = penstock::connect(side.with(uri, {}), side.patient());
                      EXPECT_EQ(sender.send(bytes_of("x")), SendStatus::sent);
                    }};

const AddCase gives_up{"connect_gives_up_at_its_deadline",
                       [](Side& side) { side.put("uri", free_uri(side)); },
                       [](Side& side) {
                         const std::string uri = side.with(side.get("uri"), "deadline=150ms");
                         const auto before = std::chrono::steady_clock::now();
                         expect_setup_error(
                             Errc::unreachable, [&] { (void)penstock::connect(uri); }, uri);
                         EXPECT_GE(std::chrono::steady_clock::now() - before, milliseconds(140));
                       }};

const AddCase unknown_name{
    "connect_is_told_when_there_is_no_such_channel",
    [](Side& side) {
      Receiver receiver = side.bind();
      EXPECT_EQ(receiver.recv().text(), "x") << "the others go on";
      EXPECT_EQ(receiver.recv().status(), RecvStatus::closed);
      EXPECT_EQ(receiver.stats().refused > 0, !side.target().by_name());
    },
    [](Side& side) {
      const std::string good = side.get("uri");
      const std::string bad =
          side.with(good.substr(0, good.find('?')) + "-other", "deadline=200ms");
      // Where a name is an address, nobody is there; where a port is shared,
      // its owner says so.
      const Errc expected = side.target().by_name() ? Errc::unreachable : Errc::no_such_channel;
      expect_setup_error(
          expected, [&] { (void)penstock::connect(bad); }, bad);
      Sender sender = side.connect();
      EXPECT_EQ(sender.send(bytes_of("x")), SendStatus::sent);
    }};

const AddCase in_use{"bind_says_that_the_address_is_in_use",
                     [](Side& side) {
                       Receiver receiver = side.bind();
                       const std::string uri = side.with(receiver.uris().at(0), {});
                       expect_setup_error(
                           Errc::address_in_use, [&] { (void)penstock::bind(uri); }, uri);
                       expect_setup_error(
                           Errc::address_in_use, [&] { receiver.bind(uri); }, uri);
                       side.put("tried");
                       EXPECT_EQ(receiver.recv().text(), "x");
                       receiver = Receiver();
                       // And is free again at once.
                       const Receiver next = penstock::bind(uri);
                       EXPECT_EQ(next.uris().size(), 1U);
                     },
                     [](Side& side) {
                       Sender sender = side.connect();
                       (void)side.get("tried");
                       EXPECT_EQ(sender.send(bytes_of("x")), SendStatus::sent);
                       wait_until([&] { return sender.state() == PeerState::closed; });
                     }};

const AddCase bad_uris{
    "refuses_bad_uris_and_options",
    [](Side& side) {
      const auto refuses = [&](Errc code, const std::string& uri) {
        expect_setup_error(
            code, [&] { (void)penstock::bind(uri); }, "bind " + uri);
        expect_setup_error(
            code, [&] { (void)penstock::connect(uri); }, "connect " + uri);
      };
      const std::string& scheme = side.target().scheme;
      for (const std::string& uri :
           {std::string(), std::string("orders"), std::string(":orders"), std::string("://"),
            scheme + "://host:99999/a", scheme + "://host:port/a", scheme + "://[::1/a",
            scheme + (side.target().by_name() ? ":" : "://127.0.0.1:70000/a")}) {
        refuses(Errc::bad_uri, uri);
      }
      refuses(Errc::unknown_scheme, "pigeon:orders");
      for (const char* option :
           {"capacity=3000", "capacity=1KiB", "capacity=1TiB", "capacity=", "capacity=x",
            "capacity=99999999999999999999", "capacity=8KiB&window=16KiB", "window=1",
            "spin=5parsecs", "spin=", "persistent=maybe", "liveness=0", "capcity=4KiB"}) {
        const std::string uri = side.fresh_uri(option);
        expect_setup_error(
            Errc::bad_uri, [&] { (void)penstock::bind(uri); }, uri);
      }
      for (const char* option : {"deadline=x", "linger=1y", "liveness=1ns", "dedline=1s"}) {
        const std::string uri = side.fresh_uri(option);
        expect_setup_error(
            Errc::bad_uri, [&] { (void)penstock::connect(uri); }, uri);
      }
    },
    [](Side&) {}};

std::size_t descriptors() {
  return static_cast<std::size_t>(std::distance(
      std::filesystem::directory_iterator("/proc/self/fd"), std::filesystem::directory_iterator()));
}

std::size_t resident_bytes() {
  std::ifstream statm("/proc/self/statm");
  std::size_t size = 0;
  std::size_t resident = 0;
  statm >> size >> resident;
  return resident * static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
}

// Verbs objects of the whole machine: "0: rxe0: qp 1 cq 2 …". Empty where that cannot be asked.
std::string verbs_objects() {
  std::FILE* pipe =
      ::popen("rdma resource show 2>/dev/null | sed 's/ ctx [0-9]*//; s/ srq [0-9]*//'", "r");
  if (pipe == nullptr) return {};
  std::string text;
  std::array<char, 256> buffer{};
  while (std::fgets(buffer.data(), buffer.size(), pipe) != nullptr) text += buffer.data();
  ::pclose(pipe);
  return text;
}

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kMemoryIsOurs = false;  // sanitizers keep freed memory and shadow
#else
constexpr bool kMemoryIsOurs = true;
#endif

// Measured after some warm-up and again at the end.
struct Usage {
  std::size_t descriptors = test::descriptors();
  std::size_t memory = resident_bytes();
};

void expect_no_growth(const Usage& before, std::uint64_t cycles) {
  // What is given up late (control connections, by the engine) is given up.
  wait_until([&] { return descriptors() <= before.descriptors; });
  const std::size_t allowed = std::max<std::size_t>(std::size_t{8} << 20U, cycles * 16 * 1024);
  if (kMemoryIsOurs) {
    EXPECT_LE(resident_bytes(), before.memory + allowed);
  }
}

const AddCase cycles{
    "comes_and_goes_a_thousand_times_without_growing",
    [](Side& side) {
      Receiver receiver = side.bind("persistent=1&capacity=64KiB");
      const std::uint64_t warm_up = 20;
      const std::uint64_t rounds = side.scaled(1'000, 50);
      const auto receive = [&](std::uint64_t count) {
        for (std::uint64_t i = 0; i < count; ++i) {
          const Message message = receiver.recv();
          ASSERT_TRUE(message) << describe(message);
          EXPECT_TRUE(has_pattern(1, message.data()));
          EXPECT_EQ(message.data().size(), 20'000U);
        }
      };
      const auto alone = [&] {
        // The last sender's inlet goes when its end has been read.
        EXPECT_EQ(receiver.try_recv().status(), RecvStatus::empty);
        return receiver.stats().sources.empty();
      };
      receive(warm_up);
      (void)side.get("warm");
      wait_until(alone);
      const Usage before;
      const std::string objects = side.target().scheme == "rdma" ? verbs_objects() : std::string();
      side.meet("go");
      receive(rounds);
      (void)side.get("gone");
      wait_until(alone);
      expect_no_growth(before, rounds);
      if (side.target().scheme == "rdma") {
        wait_until([&] { return verbs_objects() == objects; });
      }
    },
    [](Side& side) {
      const std::uint64_t warm_up = 20;
      const std::uint64_t rounds = side.scaled(1'000, 50);
      const auto message = pattern(1, 20'000);
      const auto cycle = [&](std::uint64_t count) {
        for (std::uint64_t i = 0; i < count; ++i) {
          Sender sender = side.connect();
          ASSERT_EQ(sender.send(message), SendStatus::sent);
          if (i % 2 == 0) {
            EXPECT_EQ(sender.close(), FlushStatus::consumed) << sender.stats().error;
          }
        }
      };
      cycle(warm_up);
      side.put("warm");
      side.meet("go");
      const Usage before;
      cycle(rounds);
      if (!side.one_process()) expect_no_growth(before, rounds);
      side.put("gone");
    }};

const AddCase binds{"binds_and_closes_many_times_without_growing",
                    [](Side& side) {
                      const auto cycle = [&](std::uint64_t count) {
                        for (std::uint64_t i = 0; i < count; ++i) {
                          Receiver receiver = penstock::bind(side.fresh_uri("capacity=64KiB"));
                          Sender sender = penstock::connect(side.with(receiver.uris().at(0), {}));
                          EXPECT_EQ(sender.send(bytes_of("x")), SendStatus::sent);
                          if (i % 2 == 0) {
                            EXPECT_EQ(receiver.recv().text(), "x");
                          }
                        }
                      };
                      cycle(10);
                      const Usage before;
                      const std::uint64_t rounds = side.scaled(200, 10);
                      cycle(rounds);
                      expect_no_growth(before, rounds);
                    },
                    [](Side&) {}};

}  // namespace
}  // namespace penstock::test
