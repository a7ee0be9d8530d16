// A receiver's senders, and where it sleeps. Shared by Receiver clones.
//
// One eventfd wakes all: threads that sleep in recv(), event loops that armed a clone, and, while
// somebody waits in the list, the engine, which wakes one of those. Whoever takes a wake-up from
// the eventfd either finds nothing new, with everything armed, or passes it on to the others.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "penstock/channel/inlet.hpp"
#include "penstock/channel/options.hpp"
#include "penstock/channel/receiver.hpp"
#include "penstock/channel/wait_list.hpp"
#include "penstock/transport/clock.hpp"
#include "penstock/transport/engine.hpp"
#include "penstock/transport/fd.hpp"
#include "penstock/transport/fork.hpp"
#include "penstock/transport/transport.hpp"

namespace penstock::inline v1 {

/// A copy of the mailbox's senders, good while the version holds.
struct Senders {
  std::vector<std::shared_ptr<Inlet>> polled;    ///< to be looked at each time
  std::vector<std::shared_ptr<Inlet>> by_place;  ///< scanned, by the place of their tail lines
  std::size_t scanned = 0;                       ///< how many of those there are
  std::uint64_t version = 0;

  [[nodiscard]] bool none() const noexcept { return polled.empty() && scanned == 0; }
  /// Null: nobody that is known yet.
  [[nodiscard]] const std::shared_ptr<Inlet>& at(std::size_t place) const noexcept {
    static const std::shared_ptr<Inlet> nobody;
    return place < by_place.size() ? by_place[place] : nobody;
  }
};

/// What one Receiver clone remembers between calls.
struct Drain : Senders {
  std::size_t turn = 0;     ///< whose turn it is: one that is polled, or those that are scanned
  std::size_t place = 0;    ///< and which of those
  std::uint32_t burst = 0;  ///< messages it has had
  std::uint32_t takes = 0;  ///< from scanned ones
  Messages* run = nullptr;  ///< where receive_many() wants what follows a message
  std::size_t most = 1;     ///< ... and how many at most
  bool in_vain = false;     ///< the last look found nothing
  bool unsettled = false;   ///< Look::unsettled
  bool armed = false;       ///< it waits by the descriptor; only while in_vain
  Message kept;             ///< one that did not fit recv_into()'s buffer
};

class Mailbox final : public InletSink,
                      public EngineHandler,
                      public v2::WaitSource,
                      public std::enable_shared_from_this<Mailbox> {
 public:
  /// `type`: what its senders must send.
  explicit Mailbox(MessageType type);
  ~Mailbox() override;

  /// Throws SetupError.
  void bind(std::string_view uri, const BindOptions& options);
  /// The same with options that are settled.
  void bind(const Uri& uri, Transport& transport, const BindOptions& options);
  [[nodiscard]] std::vector<std::string> uris() const;

  /// The next message, or why there is none. A timeout of zero looks once.
  [[nodiscard]] Message receive(Drain& drain, Duration timeout) noexcept;
  /// As receive(), into `out`, which holds nothing; up to `most`, at least 1.
  void receive_many(Drain& drain, Duration timeout, std::size_t most, Messages& out) noexcept;
  void close() noexcept;

  /// Receiver::arm().
  [[nodiscard]] bool arm(Drain& drain) noexcept;
  /// Where coroutines and selects wait. Throws SetupError where there can be no engine.
  [[nodiscard]] v2::WaitList& readable();
  /// Somebody was woken and has taken what it wanted: sees to it that the others are woken for what
  /// is left, and for what comes.
  void pass_on() noexcept;

  void join() noexcept { receivers_.fetch_add(1, std::memory_order_relaxed); }  // relaxed: counts
  /// False: no receiver is left.
  [[nodiscard]] bool join_others() noexcept;
  void leave(Drain& drain) noexcept;
  [[nodiscard]] std::size_t senders() const noexcept;
  [[nodiscard]] std::size_t receivers() const noexcept {
    return receivers_.load(std::memory_order_relaxed);
  }
  [[nodiscard]] bool all_closed() const noexcept;

  [[nodiscard]] bool here() const noexcept { return birth_.here(); }
  [[nodiscard]] ReceiverStats stats() const;

  bool add(InletParts parts) override;
  [[nodiscard]] TailPlace tail_place() override { return tails_->take(); }
  void rearranged() noexcept override {
    version_.fetch_add(1, std::memory_order_release);  // SYNC inlets, rearranged
  }
  void refused(const std::string& why) override;
  void notify() noexcept override;
  [[nodiscard]] int wake_fd() const noexcept override { return wake_fd_.get(); }

  void on_ready(std::uint32_t events) noexcept override;
  void arm() noexcept override;
  void woke_nobody() noexcept override { notify(); }  // whoever else sleeps on the descriptor

 private:
  enum class Turn : std::uint8_t { nothing, taken, again };
  /// What a round of looks met besides.
  struct Met {
    bool held = false;   ///< a token
    bool limit = false;  ///< of held messages
    bool full = false;   ///< an inlet can hand out no more before some are released
  };

  void refresh(Senders& senders) noexcept;
  void await(Drain& drain, Duration timeout, Turn turn, Message& out) noexcept;
  [[nodiscard, gnu::cold]] Turn report_loss(const std::shared_ptr<Inlet>& lost,
                                            Message& out) noexcept;
  [[nodiscard]] Turn look_around(Drain& drain, Message& out) noexcept;
  [[nodiscard, gnu::always_inline]] Turn look_at(Drain& drain, const std::shared_ptr<Inlet>& inlet,
                                                 Message& out, Met& met) noexcept;
  [[nodiscard, gnu::noinline]] Turn look_at_scanned(Drain& drain, Message& out, Met& met) noexcept;
  void promote(Inlet& busy) noexcept;
  template <class Visit>
  void for_each_awake(const Senders& senders, Visit&& visit) const noexcept;
  [[nodiscard]] bool drop(const std::shared_ptr<Inlet>& inlet) noexcept;
  void park(Drain& drain, TimePoint deadline) noexcept;
  [[nodiscard]] bool has_news(const Senders& senders) const noexcept;
  [[nodiscard]] bool scanned_has_news(const Senders& senders) const noexcept;
  [[nodiscard]] bool fall_asleep(const Drain& drain, TimePoint deadline) noexcept;
  void quiet() noexcept;
  void watch_all() noexcept;
  void forget_watched() noexcept;
  void wake_up(const Senders& senders) noexcept;
  void fold_counters() noexcept;
  [[nodiscard]] PublishMode mode_for_next() const noexcept;

  const Birth birth_;
  const MessageType type_;
  const Fd wake_fd_;
  std::atomic<std::int64_t> spin_ns_{0};                       // relaxed: a setting
  std::atomic<Publishing> publishing_{Publishing::automatic};  // relaxed: a setting
  const std::shared_ptr<TailTable> tails_ = std::make_shared<TailTable>();
  std::atomic<std::uint32_t> receivers_{0};
  // SYNC parked: threads that sleep and clones that are armed; counted before the last look
  std::atomic<std::uint32_t> parked_{0};
  std::atomic<bool> closed_{false};  // relaxed: the mutex orders what matters
  // SYNC inlets: raised after the list has changed, under the mutex; read before a look
  std::atomic<std::uint64_t> version_{1};
  std::atomic<std::uint64_t> parks_{0};  // relaxed: a statistic

  v2::WaitList readable_{*this};
  std::atomic<bool> known_{false};  // SYNC known: by the engine
  std::mutex watch_mutex_;          // guards the two below; taken before mutex_
  bool watching_ = false;           // the engine looks at wake_fd_
  Senders watched_;                 // whom those who sleep without a thread wait for

  mutable std::mutex mutex_;  // guards all below
  std::vector<std::unique_ptr<Listener>> listeners_;
  std::vector<std::shared_ptr<Inlet>> inlets_;
  bool persistent_ = false;
  bool had_sender_ = false;
  std::uint64_t refused_ = 0;
  std::string last_refusal_;
  std::vector<std::shared_ptr<InletCounters>> counters_;  // of all inlets, until folded into:
  std::uint64_t past_messages_ = 0;
  std::uint64_t past_bytes_ = 0;
};

}  // namespace penstock::inline v1
