// One channel's sending end in this process, shared by its Sender clones.
//
// Who writes what: producers the ring (RingProducer); the engine `ended_` and `stalled_` when the
// control connection brings news; each clone its own Tally.
//
// Lifetime: kept by the Senders; the engine holds weak references.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "penstock/channel/byte_ring.hpp"
#include "penstock/channel/options.hpp"
#include "penstock/channel/publisher.hpp"
#include "penstock/channel/sender.hpp"
#include "penstock/transport/connection.hpp"
#include "penstock/transport/fd.hpp"

namespace penstock::inline v1 {

/// One clone's counters. Written by its thread only, read by stats(): relaxed throughout.
struct alignas(kLine) Tally {
  std::atomic<std::uint64_t> messages{0};
  std::atomic<std::uint64_t> bytes{0};
  std::atomic<std::uint64_t> stalls{0};
  std::atomic<std::uint64_t> parks{0};
  std::uint64_t messages_awaited = 0;  // by the clone's thread, at the clone's last message
};

class Outlet final : public ConnectionObserver, public std::enable_shared_from_this<Outlet> {
 public:
  Outlet(OutletParts parts, const ConnectOptions& options);
  ~Outlet() override;
  /// Throws SetupError.
  void start();

  /// Adds a clone. Throws std::bad_alloc.
  [[nodiscard]] Tally* join();
  /// A clone goes; the last one says good-bye and lingers.
  void leave(Tally* tally) noexcept;

  /// Room for `size` bytes, waiting for it until `timeout` is over.
  [[nodiscard]] SendStatus claim(std::size_t size, Duration timeout, Tally& tally,
                                 Claim& out) noexcept;
  void commit(const Claim& claim, Tally& tally) noexcept;
  void abandon(const Claim& claim) noexcept;

  [[nodiscard]] FlushStatus flush(Duration timeout) noexcept {
    return flush_to(ring_.tail(), timeout);
  }
  [[nodiscard]] FlushStatus close(Duration timeout) noexcept;

  [[nodiscard]] bool here() const noexcept { return birth_.here(); }
  [[nodiscard]] std::size_t max_message() const noexcept { return max_message_; }
  [[nodiscard]] PeerState state() const noexcept;
  [[nodiscard]] SenderStats stats() const;

  void on_goodbye(Cursor consumed) noexcept override;
  void on_lost(const std::string& why) noexcept override;
  void on_stalled(bool stalled) noexcept override;

 private:
  enum class End : std::uint8_t { open, closed, lost };

  void publish(const Claim& claim, std::uint8_t flags, bool answer) noexcept;
  void wake_receiver() noexcept;
  /// Wakes a local receiver whose window may be what a sender waits for.
  void say_waiting(SenderWait what) noexcept;
  void end(End how, const std::string& why) noexcept;
  [[nodiscard]] SendStatus refusal() const noexcept;
  /// Looks, spins, sleeps until `done`, which is told which credit to use, says so (true), or until
  /// the deadline or the peer's end.
  template <class Done>
  bool wait(SenderWait what, TimePoint deadline, Tally* tally, Done&& done) noexcept;
  [[nodiscard]] bool say_last(TimePoint deadline) noexcept;
  [[nodiscard]] FlushStatus flush_to(Cursor target, Duration timeout) noexcept;
  [[nodiscard]] Cursor consumed() const noexcept;
  void finish() noexcept;

  const Birth birth_;
  const ConnectOptions options_;
  const RingMemory memory_;
  RingControl& control_;
  const std::size_t max_message_;
  const std::uint64_t window_;
  const std::string peer_;
  const std::string path_;
  const Fd receiver_wake_fd_;
  std::shared_ptr<Connection> connection_;
  std::shared_ptr<Publisher> publisher_;  // null for local rings

  // Read for every message, seldom written.
  std::atomic<End> ended_{End::open};      // SYNC ended: `error_` and `final_consumed_` before it
  std::atomic<bool> stalled_{false};       // relaxed: a state for people
  std::atomic<Cursor> final_consumed_{0};  // what the receiver's good-bye said
  RingProducer ring_;
  const BarrierScope sleep_barrier_;

  mutable std::mutex mutex_;  // guards all below
  bool fin_sent_ = false;
  std::string error_;
  std::vector<std::unique_ptr<Tally>> tallies_;
  Tally retired_;  // sums of the clones that are gone
};

}  // namespace penstock::inline v1
