// One channel's sending end in this process, shared by its Sender clones.
//
// Who writes what: producers the ring (RingProducer); the engine `ended_` and `stalled_` when the
// control connection brings news; each clone its own Tally.
//
// Waiting without a thread: who waits in the list has the receiver told (kSenderRests). What comes
// of that (the bell from a receiver in this process or from the publisher, `room` on the control
// connection) reaches the engine, which wakes all in the list: each waits for room of its own size.
// A receiver that cannot tell is looked at every millisecond.
//
// Lifetime: kept by the Senders; the engine holds weak references.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "penstock/channel/byte_ring.hpp"
#include "penstock/channel/crossover.hpp"
#include "penstock/channel/options.hpp"
#include "penstock/channel/pieces.hpp"
#include "penstock/channel/publisher.hpp"
#include "penstock/channel/sender.hpp"
#include "penstock/channel/waiting_fd.hpp"
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

/// Messages to be sent together: either of one size, one after another, or wherever they are.
struct Records {
  std::size_t count = 0;
  const std::byte* packed = nullptr;
  std::size_t each = 0;
  const std::span<const std::byte>* scattered = nullptr;

  [[nodiscard]] std::size_t size(std::size_t i) const noexcept {
    return scattered == nullptr ? each : scattered[i].size();
  }
  [[nodiscard]] std::span<const std::byte> at(std::size_t i) const noexcept {
    return scattered == nullptr ? std::span(packed + i * each, each) : scattered[i];
  }
};

class Outlet final : public ConnectionObserver,
                     public EngineHandler,
                     public v2::WaitSource,
                     public std::enable_shared_from_this<Outlet> {
 public:
  Outlet(OutletParts parts, const ConnectOptions& options);
  ~Outlet() override;
  /// Throws SetupError.
  void start();

  /// Adds a clone. Throws std::bad_alloc.
  [[nodiscard]] Tally* join();
  /// As join(), but null where no clone is left.
  [[nodiscard]] Tally* join_others();
  /// A clone goes; the last one says good-bye and lingers.
  void leave(Tally* tally) noexcept;

  /// Room for a message of `size` bytes, waiting for it until `timeout` is over. too_large: also
  /// for one that may land: send_long().
  [[nodiscard]] SendStatus claim(std::size_t size, Duration timeout, Tally& tally,
                                 Claim& out) noexcept;
  /// As claim(), but for any that fits into the ring in one piece.
  [[nodiscard]] SendStatus claim_in_place(std::size_t size, Duration timeout, Tally& tally,
                                          Claim& out) noexcept;
  void commit(const Claim& claim, Tally& tally) noexcept;
  /// Sends the records in runs, each claimed and published at once. Waits until all are sent, or,
  /// with a timeout of zero, not at all.
  [[nodiscard]] Batch<SendStatus> send_many(const Records& records, Duration timeout,
                                            Tally& tally) noexcept;
  void abandon(const Claim& claim) noexcept;
  /// Sends a message that claim() has no room for, in the way that is quickest.
  [[nodiscard, gnu::cold]] SendStatus send_long(std::span<const std::byte> message,
                                                Duration timeout, Tally& tally) noexcept;
  /// Sends what is left of a message that is longer than max_in_place(): waits for room until
  /// `timeout` is over. Where that was not enough (full, timed_out) it may be called again with the
  /// same two, or the pieces go, and the message was not sent.
  [[nodiscard]] SendStatus send_pieces(std::span<const std::byte> message, Pieces& pieces,
                                       Duration timeout, Tally& tally) noexcept;
  void end_turn() noexcept;

  [[nodiscard]] FlushStatus flush(Duration timeout) noexcept {
    return flush_to(flush_target(), timeout);
  }
  [[nodiscard]] FlushStatus close(Duration timeout) noexcept;
  /// What a flush waits for that begins now.
  [[nodiscard]] Cursor flush_target() const noexcept { return ring_.tail(); }
  // Without waiting: timed_out where there is more to wait for.
  [[nodiscard]] FlushStatus try_flush(Cursor target) noexcept;
  [[nodiscard]] FlushStatus try_close() noexcept;

  /// Where coroutines, selects and event loops wait for room. Throws SetupError where there can be
  /// no engine.
  [[nodiscard]] v2::WaitList& writable();
  /// Sender::arm(), for a clone that has called writable().
  [[nodiscard]] bool arm(v2::WaitingFd& event, std::size_t size) noexcept;
  void disarm(v2::WaitingFd& event) noexcept;

  [[nodiscard]] bool here() const noexcept { return birth_.here(); }
  [[nodiscard]] std::size_t max_message() const noexcept { return max_message_; }
  [[nodiscard]] std::size_t max_in_place() const noexcept { return max_in_place_; }
  [[nodiscard]] PeerState state() const noexcept;
  [[nodiscard]] std::size_t clones() const noexcept;
  /// Nothing is accepted any more.
  [[nodiscard]] bool closed() const noexcept {
    return refusal() != SendStatus::sent || ring_.closed();
  }
  [[nodiscard]] SenderStats stats() const;

  void on_goodbye(Cursor consumed) noexcept override;
  void on_lost(const std::string& why) noexcept override;
  void on_stalled(bool stalled) noexcept override;
  void on_room() noexcept override { bell_->ring(); }
  void on_ready(std::uint32_t events) noexcept override;
  Attention on_attention() noexcept override;
  void arm() noexcept override;
  void woke_nobody() noexcept override {}

 private:
  /// What became of a message that was to land.
  enum class Landed : std::uint8_t { yes, refused, failed };
  enum class End : std::uint8_t { open, closed, lost };

  /// Tries to claim, again and again until `timeout` is over; `attempt` is told which credit to
  /// use.
  template <class Attempt>
  [[nodiscard]] SendStatus claim_by(Duration timeout, Tally& tally, Attempt&& attempt) noexcept;
  [[nodiscard]] bool take_turn(Pieces& pieces) noexcept;
  [[nodiscard]] static Landed in_time(SendStatus& failure) noexcept;
  [[nodiscard]] Landed land(std::span<const std::byte> message, TimePoint deadline, Tally& tally,
                            SendStatus& failure) noexcept;
  void ask(const Claim& claim, std::uint64_t size) noexcept;
  [[nodiscard]] bool fly(Flight& flight, TimePoint deadline) noexcept;
  [[nodiscard]] SendStatus given_up() const noexcept;
  void publish(const Claim& claim, std::uint8_t flags, bool answer) noexcept;
  void tell_receiver(Cursor begin, Cursor end, bool answer) noexcept;
  [[nodiscard]] static bool take_answer(Tally& tally) noexcept;
  void count(Tally& tally, std::uint64_t messages, std::uint64_t bytes) noexcept;
  void wake_receiver() noexcept;
  /// Wakes a local receiver whose window may be what a sender waits for.
  void say_waiting(SenderWait what) noexcept;
  void end(End how, const std::string& why) noexcept;
  [[nodiscard]] SendStatus refusal() const noexcept;
  [[nodiscard]] SendStatus too_large() const noexcept;
  /// Looks, spins, sleeps until `done`, which is told which credit to use, says so (true), or until
  /// the deadline or the peer's end.
  template <class Done>
  bool wait(SenderWait what, TimePoint deadline, Tally* tally, Done&& done) noexcept;
  [[nodiscard]] FlushStatus refusal_to_flush() const noexcept;
  [[nodiscard]] bool say_last(TimePoint deadline) noexcept;
  [[nodiscard]] bool try_say_last(Credit credit) noexcept;
  /// Once the good-bye is said. It is no message: a receiver that has taken all of them need not
  /// look again.
  [[nodiscard]] Cursor last_message() const noexcept { return ring_.tail() - sizeof(RecordHeader); }
  [[nodiscard]] FlushStatus flush_to(Cursor target, Duration timeout) noexcept;
  [[nodiscard]] Cursor consumed() const noexcept;
  void wake_everybody() noexcept;
  void finish() noexcept;

  const Birth birth_;
  const ConnectOptions options_;
  const RingMemory memory_;
  RingControl& control_;
  const std::size_t max_in_place_;
  const std::size_t max_message_;
  const std::uint64_t window_;
  const bool lands_;  // messages may land
  // The longest message that goes as a record of the ring, whatever is quicker.
  const std::size_t longest_record_;
  const std::string peer_;
  const std::string path_;
  const std::string rejected_;
  const Fd receiver_wake_fd_;
  const std::shared_ptr<Bell> bell_;
  std::shared_ptr<Connection> connection_;
  std::shared_ptr<Publisher> publisher_;  // null for local rings

  // Read for every message, seldom written.
  std::atomic<End> ended_{End::open};      // SYNC ended: `error_` and `final_consumed_` before it
  std::atomic<bool> stalled_{false};       // relaxed: a state for people
  std::atomic<Cursor> final_consumed_{0};  // what the receiver's good-bye said
  RingProducer ring_;
  const BarrierScope sleep_barrier_;

  std::atomic<bool> turn_taken_{false};  // SYNC turn: one message's pieces, then the next one's
  // Of whose turn it is:
  std::uint64_t asked_ = 0;        // the last question for memory; 0: none
  std::uint64_t ahead_ = 0;        // bytes for which that was asked before there was a message
  std::uint64_t last_landed_ = 0;  // bytes of the last one that was to land
  Crossover crossover_;
  std::atomic<std::uint64_t> landings_{0};  // relaxed: a statistic

  const bool receiver_tells_;
  std::atomic<bool> listening_{false};  // SYNC listening: the engine to the bell
  v2::WaitList writable_{*this};
  std::uint64_t seen_credit_ = 0;  // where the receiver does not tell; the engine's

  mutable std::mutex mutex_;  // guards all below
  bool fin_sent_ = false;
  std::string error_;
  std::vector<std::unique_ptr<Tally>> tallies_;
  Tally retired_;  // sums of the clones that are gone
};

}  // namespace penstock::inline v1
