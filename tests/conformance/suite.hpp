// The conformance suite's frame: a case is a pair of roles that know of each other only through the
// channel and a small stage, so one case runs unchanged on two threads, in two processes, and on
// two hosts. *_cases.cpp hold the contract; docs/contract.md says it in words.
#pragma once

#include <gtest/gtest.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <ostream>
#include <random>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "penstock/channel/channel.hpp"
#include "tests/conformance/stage.hpp"

namespace penstock::inline v1 {
// For GoogleTest's messages.
inline void PrintTo(SendStatus status, std::ostream* out) { *out << to_string(status); }
inline void PrintTo(FlushStatus status, std::ostream* out) { *out << to_string(status); }
inline void PrintTo(RecvStatus status, std::ostream* out) { *out << to_string(status); }
inline void PrintTo(PeerState state, std::ostream* out) { *out << to_string(state); }
inline void PrintTo(Errc code, std::ostream* out) { *out << make_error_code(code).message(); }
}  // namespace penstock::inline v1

namespace penstock::test {

enum class Topology : std::uint8_t { threads, processes, hosts };
[[nodiscard]] const char* to_string(Topology topology) noexcept;

/// A transport as a case sees it.
struct Target {
  std::string label;  ///< "rdma", "torn_unordered_seed2"
  std::string scheme;
  std::string options;  ///< for every URI: "seed=2&ordered=0"
  std::string host;     ///< numeric address to bind at; empty for transports without one
  Topology topology = Topology::threads;
  /// Its receivers have a name only.
  [[nodiscard]] bool by_name() const noexcept { return host.empty(); }
  /// Both ends use one ring.
  [[nodiscard]] bool local() const noexcept {
    return by_name() || (scheme == "auto" && topology != Topology::hosts);
  }
  /// Its links place their writes in order, so that receivers choose how senders publish.
  [[nodiscard]] bool ordered() const noexcept {
    return (scheme == "rdma" || scheme == "torn") && options.find("ordered=0") == std::string::npos;
  }
};

/// One side of a running case.
class Side {
 public:
  Side(Role role, const Target& target, Stage& stage, std::string scope);

  [[nodiscard]] const Target& target() const noexcept { return target_; }
  [[nodiscard]] bool one_process() const noexcept { return target_.topology == Topology::threads; }

  /// Where a receiver is to bind: never the same twice. `query` as in "capacity=4KiB&window=2KiB".
  [[nodiscard]] std::string fresh_uri(std::string_view query = {});
  /// `uri` without its options, plus `query` and the transport's own.
  [[nodiscard]] std::string with(std::string_view uri, std::string_view query) const;
  /// Binds a receiver and tells the other side where, under the name `tag`.
  [[nodiscard]] Receiver bind(std::string_view query = {}, const std::string& tag = "uri");
  /// Connects to what the other side bound under `tag`.
  [[nodiscard]] Sender connect(std::string_view query = {}, const std::string& tag = "uri");
  /// As long as it takes: the case's watchdog is the limit.
  [[nodiscard]] ConnectOptions patient() const;

  void put(const std::string& key, const std::string& value = "done");
  [[nodiscard]] std::string get(const std::string& key);
  /// Both sides wait here for each other.
  void meet(const std::string& where);
  /// What this side is doing now; the watchdog prints it.
  void note(const std::string& what);

  /// How often something is to be done where `times` is right on a fast machine; at least `least`.
  [[nodiscard]] std::uint64_t scaled(std::uint64_t times, std::uint64_t least = 1) const;

  /// Ends this process as kill -9 does, as soon as the other side says so. Waits for that.
  [[noreturn]] void die_when_told();
  void tell_to_die() { put("die"); }

 private:
  const Role role_;
  const Target& target_;
  Stage& stage_;
  const std::string scope_;
};

using RoleBody = void (*)(Side&);

struct Case {
  enum Where : std::uint8_t {
    threads = 1,
    processes = 2,
    hosts = 4,
    apart = 6,
    one_host = 3,
    anywhere = 7
  };
  const char* name;
  Where where;
  /// This side is run in a process of its own, which the case may kill.
  enum class Victim : std::uint8_t { none, receiver, sender } victim;
  RoleBody receiver;
  RoleBody sender;
};

/// Adds a case; to be used at namespace scope.
struct AddCase {
  AddCase(const char* name, RoleBody receiver, RoleBody sender, Case::Where where = Case::anywhere,
          Case::Victim victim = Case::Victim::none);
};

// Helpers of the cases.

/// `size` bytes that depend on `seed` and on their position.
[[nodiscard]] std::vector<std::byte> pattern(std::uint64_t seed, std::size_t size);
void fill_pattern(std::uint64_t seed, std::span<std::byte> to);
/// Whether `bytes` are pattern(seed, bytes.size()).
[[nodiscard]] bool has_pattern(std::uint64_t seed, std::span<const std::byte> bytes);

[[nodiscard]] inline std::span<const std::byte> bytes_of(std::string_view text) noexcept {
  return std::as_bytes(std::span(text.data(), text.size()));
}

/// A numbered message of one of several senders.
struct Numbered {
  std::uint64_t sender = 0;
  std::uint64_t number = 0;
  [[nodiscard]] std::span<const std::byte> bytes() const noexcept {
    return std::as_bytes(std::span(this, 1));
  }
  static Numbered from(const Message& message) {
    Numbered numbered;
    EXPECT_EQ(message.data().size(), sizeof(numbered));
    if (message.data().size() == sizeof(numbered)) {
      std::memcpy(&numbered, message.data().data(), sizeof(numbered));
    }
    return numbered;
  }
};

/// What became of a call that should have brought a message.
[[nodiscard]] inline std::string describe(const Message& message) {
  std::string text = to_string(message.status());
  if (message.loss() != nullptr) text += ": " + message.loss()->reason;
  return text;
}

/// Hands every message to `each` (which may keep it) until there is something else than a message,
/// and returns that.
template <class Each>
RecvStatus drain(Receiver& receiver, Each&& each) {
  while (true) {
    Message message = receiver.recv();
    if (!message) return message.status();
    each(std::move(message));
  }
}

/// Sends `message` again and again until there is no room; returns how often it was taken.
inline std::uint64_t fill_up(Sender& sender, std::span<const std::byte> message) {
  std::uint64_t taken = 0;
  SendStatus status = SendStatus::sent;
  while ((status = sender.try_send(message)) == SendStatus::sent) ++taken;
  EXPECT_EQ(status, SendStatus::full);
  return taken;
}

/// Checks that `action` throws SetupError with `expected` and a text that says something.
template <class Action>
void expect_setup_error(Errc expected, Action&& action, const std::string& what) {
  try {
    action();
    ADD_FAILURE() << what << ": no error";
  } catch (const SetupError& error) {
    EXPECT_EQ(error.errc(), expected) << what << ": " << error.what();
    EXPECT_GT(std::strlen(error.what()), 20U) << what;
  }
}

/// A random wait from nothing to somewhat above what going to sleep takes.
void dither(std::mt19937& random);

/// Waits until `condition` holds; the case's watchdog is the limit.
void wait_until(const std::function<bool()>& condition);

/// Waits until the receiver has taken everything that was sent, by looking only.
void wait_consumed(const Sender& sender);
/// The same for "is in the receiver's memory".
void wait_delivered(const Sender& sender);

}  // namespace penstock::test
