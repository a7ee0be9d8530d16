// The remote half of a sender: gets the mirror's committed records into the receiver's ring, and
// the receiver's credit back.
//
// Who writes what: whoever holds the token writes everything here but the flags named below; the
// device writes the credit line.
//
// Invariants: completed_ <= posted_ <= frontier_ <= the ring's claim cursor, and credited <=
// posted_: a record may be consumed before its completion is seen. So mirror space is used again
// only when the receiver has credited it and the device has completed the write from it. The last
// publish is always seen: by a receiver that looks, or by one that sleeps (the wake-up protocol,
// tests/models/wake.pml).
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "penstock/channel/byte_ring.hpp"
#include "penstock/channel/poll_watch.hpp"
#include "penstock/channel/proof.hpp"
#include "penstock/channel/stats.hpp"
#include "penstock/channel/token.hpp"
#include "penstock/transport/engine.hpp"
#include "penstock/transport/fork.hpp"

namespace penstock::inline v1 {

/// The writes of one message into the memory that was offered for it. The sender's thread that
/// makes it looks at it between calls, nobody else.
class Flight {
 public:
  Flight(const LinkMemory& source, const OfferLine& offer) noexcept
      : source_(&source), place_(offer.place), length_(offer.length) {}
  /// All of it is in the receiver's memory.
  [[nodiscard]] bool landed() const noexcept { return written_ == length_ && grounded(); }
  /// Nothing of it is on its way.
  [[nodiscard]] bool grounded() const noexcept { return first_ == next_; }
  [[nodiscard]] bool failed() const noexcept { return failed_; }
  /// No more is written.
  void stop() noexcept { length_ = written_; }

 private:
  friend class Publisher;
  // So large that a device loses nothing between two, and so few that short messages of others,
  // which wait for those before them, and who gives up do not wait long.
  static constexpr std::uint64_t kMostBytes = std::uint64_t{1} << 20U;
  static constexpr std::uint32_t kMostWrites = 2;

  const LinkMemory* source_;
  LandingPlace place_;
  std::uint64_t length_;
  std::uint64_t written_ = 0;  // handed over
  std::array<std::uint64_t, kMostWrites> cookies_{};
  std::uint32_t first_ = 0;  // on its way
  std::uint32_t next_ = 0;
  bool failed_ = false;
};

class Publisher final : public EngineHandler, public std::enable_shared_from_this<Publisher> {
 public:
  /// `bell`: rung for senders that wait without a thread.
  Publisher(LinkEnd end, const RingMemory& memory, std::uint64_t window,
            std::shared_ptr<Bell> bell);
  ~Publisher() override;

  /// `failed` is called once, with the reason, by whoever finds the link dead. Throws SetupError.
  void start(std::function<void(const std::string&)> failed);
  /// No call is running or will be when it returns.
  void stop() noexcept;

  /// Records were committed from `begin` to `end`. Posts them, or sees to it that somebody will; at
  /// once where they may be an `answer`. Thread-safe.
  void kick(Cursor begin, Cursor end, bool answer) noexcept;
  /// For a thread that waits: takes completions and credit, posts what can be. Thread-safe.
  void progress() noexcept;
  /// Asks the receiver for credit as soon as it has some; for `room`, also where nothing is out
  /// that could be credited, since a smaller window may not give it. Thread-safe.
  void ask_credit(bool room) noexcept;
  /// Everything up to `cursor` is in the receiver's memory. Thread-safe.
  [[nodiscard]] bool delivered(Cursor cursor) const noexcept {
    return completed_.load(std::memory_order_seq_cst) >= cursor;  // SYNC completed, sender-sleep
  }
  [[nodiscard]] Cursor completed() const noexcept {
    return completed_.load(std::memory_order_acquire);  // SYNC completed
  }
  [[nodiscard]] PathStats stats() const;
  /// The path in words, as it is now. Thread-safe.
  [[nodiscard]] std::string path() const;

  // Messages that land. All thread-safe; one flight at a time.

  /// Has the device read `message` from where it is. Null: it cannot. Takes as long as pinning it
  /// does.
  [[nodiscard]] std::unique_ptr<LinkMemory> add_source(std::span<const std::byte> message) noexcept;
  /// The answer to the record at `id` - 1, once it is there.
  [[nodiscard]] std::optional<OfferLine> offer(std::uint64_t id) const noexcept;
  /// Looks what has landed, and writes more. Where somebody is about to sleep, the engine wakes him
  /// for what lands.
  [[gnu::cold]] void advance(Flight& flight) noexcept;

  void on_ready(std::uint32_t events) noexcept override;
  Attention on_attention() noexcept override;

 private:
  struct InFlight {
    std::uint64_t cookie = 0;
    Cursor end = 0;
  };
  static constexpr std::uint64_t kMaxInFlight = 32;  // publishes

  // All below with the token held.
  void look() noexcept;
  void advance() noexcept;
  void take_events() noexcept;
  bool reap() noexcept;
  void take_credit() noexcept;
  [[gnu::noinline]] void take_credit_line() noexcept;
  [[nodiscard]] bool window_too_small() const noexcept;
  void walk() noexcept;
  [[nodiscard]] bool may_post(bool answer) const noexcept;
  /// The first credit line has come: it says in which form the receiver sees what is published.
  [[nodiscard]] bool told_how() const noexcept { return mode_.has_value(); }
  void adopt() noexcept;
  void arm_engine() noexcept;
  void arm_link() noexcept;
  bool post_next() noexcept;
  bool post(std::span<const RemoteWrite> writes, std::optional<std::uint32_t> immediate,
            Cursor end) noexcept;
  void signal_sleeper() noexcept;
  void signalled() noexcept;
  void write_more(Flight& flight) noexcept;
  [[nodiscard]] bool sleeper_waits(Cursor end) const noexcept;
  [[nodiscard]] bool hot_possible() const noexcept;
  void prove_last() const noexcept;
  void fail(const std::string& why) noexcept;
  void show_counters() noexcept;
  void pace(std::uint64_t started, std::uint64_t records, std::uint64_t bytes) noexcept;
  [[nodiscard]] bool held_back() const noexcept;
  [[nodiscard]] bool worth_posting(std::uint64_t waiting) const noexcept;

  const Birth birth_;
  const std::shared_ptr<void> owner_;  // of the memory that the link writes: outlives it
  std::unique_ptr<Link> link_;
  const CreditLine& credit_line_;
  const OfferLine& offer_line_;
  const RingView ring_;
  RingControl& control_;
  const std::shared_ptr<Bell> bell_;
  const Prover prover_;
  const LinkLimits limits_;
  const std::uint64_t window_;                      // the largest
  const std::uint64_t max_publish_;                 // bytes at once, one record more at most
  std::function<void(const std::string&)> failed_;  // set before anybody else knows us
  ProgressToken token_;

  // With the token held.
  Cursor frontier_ = 0;                // committed up to here, as far as seen
  std::uint32_t waiting_records_ = 0;  // in [posted_, frontier_)
  Cursor last_record_ = 0;             // the last one seen before frontier_, and its header
  std::uint64_t last_word_ = 0;
  Cursor padding_ = ~0ULL;  // of the last padding record; [posted_, frontier_) has at most one
  Cursor posted_ = 0;       // published, tail and all
  Cursor written_ = 0;      // data handed over; ahead of posted_ only within one publish
  std::array<InFlight, kMaxInFlight> in_flight_{};
  std::uint64_t in_flight_head_ = 0;  // oldest
  std::uint64_t in_flight_tail_ = 0;  // next free
  std::uint64_t cookie_ = 0;
  std::uint64_t landed_cookie_ = 0;  // completed up to
  bool flight_awaited_ = false;      // somebody sleeps until more of it has landed
  PollWatch polls_;                  // of the sender's threads
  bool unarmed_ = false;             // the engine is not woken meanwhile (arm_engine())
  CreditLine credit_{};              // the newest accepted
  std::optional<PublishMode> mode_;  // as the receiver knows, or will when it reads on
  std::uint64_t mode_changes_ = 0;
  Cursor signalled_ = 0;           // the armed_at for which an immediate was sent
  std::uint64_t wake_cookie_ = 0;  // of the last wake-up sent
  bool torn_ = false;              // the last look at the credit line found it half written
  bool asked_ = false;             // a `blocked` is out and was not answered yet
  bool failed_once_ = false;
  std::uint64_t hot_ = 0;
  // Pacing, in cycles (pace()).
  std::uint64_t last_post_end_ = 0;
  std::uint64_t post_cost_ = 0;
  std::uint64_t hold_ = 0;
  std::uint32_t streak_ = 0;

  std::atomic<Cursor> completed_{0};  // SYNC completed: stored with the token, read by anyone
  // SYNC leftover: set by a holder that leaves records behind and has armed the link, so that
  // the engine will post them; cleared before the next holder looks at the ring. A producer
  // commits, then reads it. Sequentially consistent: either the holder sees the record or the
  // producer sees the flag down.
  alignas(kLine) std::atomic<bool> left_over_{false};
  // Until a record ends there, or it is due, producers leave the posting to others. Relaxed: hints.
  std::atomic<Cursor> worth_at_{0};
  std::atomic<std::uint64_t> due_at_{0};  // cycles: when a producer looks itself; relaxed: a hint
  // SYNC attention: stored before Engine::attention(), read by on_attention()
  std::atomic<bool> unattended_{false};
  // SYNC token: set before run()
  std::atomic<bool> wants_credit_{false};
  std::atomic<bool> wants_room_{false};  // until the limit rises
  std::atomic<bool> answers_{false};     // what waits is not to be held back

  /// For stats(). Relaxed: written with the token held.
  struct Shown {
    std::atomic<std::uint64_t> posts{0};
    std::atomic<std::uint64_t> work_requests{0};
    std::atomic<std::uint64_t> completions{0};
    std::atomic<std::uint64_t> immediates{0};
    std::atomic<std::uint64_t> lost_rails{0};
    std::atomic<std::uint64_t> hot{0};
    std::atomic<std::uint64_t> mode_changes{0};
    std::atomic<PublishMode> mode{PublishMode::tail};
  };
  Shown shown_;
  mutable std::mutex mutex_;  // guards the one below
  std::string path_;
};

}  // namespace penstock::inline v1
