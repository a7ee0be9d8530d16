// One sender's ring at the receiver, and how far it has been read.
//
// Who writes what: the token's holder everything here (a receiving thread, a releasing thread or
// the engine); the sender or its device the ring and the tail line.
//
// Invariants: reported_ <= head_ <= next_; limit_, what was granted, only rises, and is at most
// head_ + window_, the largest window; for remote rings hot records, any number of them, may
// put next_ ahead of tail_; all of them within the credit granted. Cursors are kept here,
// privately; what lies in shared memory are copies, so a peer that writes there harms only itself.
//
// Lifetime: kept by its Mailbox while the sender may send, and by messages that are still held.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>

#include "penstock/channel/assembly.hpp"
#include "penstock/channel/barrier.hpp"
#include "penstock/channel/biased_lock.hpp"
#include "penstock/channel/byte_ring.hpp"
#include "penstock/channel/flow_window.hpp"
#include "penstock/channel/landings.hpp"
#include "penstock/channel/poll_watch.hpp"
#include "penstock/channel/proof.hpp"
#include "penstock/channel/receiver.hpp"
#include "penstock/channel/stats.hpp"
#include "penstock/channel/tail_table.hpp"
#include "penstock/transport/connection.hpp"
#include "penstock/transport/fork.hpp"

namespace penstock::inline v1 {

/// What a look into an inlet found.
enum class Look : std::uint8_t {
  nothing,
  unsettled,  ///< nothing, but who had armed before must arm anew
  message,
  view_limit,  ///< kMaxViews messages are held
  view_gap,    ///< fewer are held, but an old one is among them
  asked,       ///< the sender waits for memory to write a message to: offer_memory()
  closed,
  lost,
};

/// Who looks once more when the write that says "I sleep" has landed.
enum class Landing : std::uint8_t { awaited, left_to_engine };

/// What one sender's messages came to, once released. Written with the inlet's token, read by
/// stats(): relaxed throughout. Outlives the inlet, so that totals stay exact.
struct InletCounters {
  std::atomic<std::uint64_t> messages{0};
  std::atomic<std::uint64_t> bytes{0};
  std::atomic<std::uint64_t> landings{0};  // of the messages
};

class Inlet final : public ConnectionObserver,
                    public EngineHandler,
                    public std::enable_shared_from_this<Inlet> {
 public:
  /// `barriers`: a sleeping receiver makes a barrier for all, so that local senders need none.
  /// `tails`: where a remote sender's tail line lies.
  Inlet(InletParts parts, SourceId id, std::weak_ptr<InletSink> sink, bool barriers,
        std::shared_ptr<TailTable> tails);
  ~Inlet() override;
  /// `mode`: how a remote sender should publish at first, of what was asked for. Throws SetupError.
  void start(PublishMode mode, Publishing asked);
  /// Nothing but its tail line, or its mark, tells of news: it is looked at when those do.
  [[nodiscard]] bool scanned() const noexcept {
    return scanned_.load(std::memory_order_acquire);  // SYNC rearranged
  }
  [[nodiscard]] std::size_t tail_place() const noexcept { return place_.index; }
  /// A tail line that was written whole.
  [[nodiscard]] bool whole(const TailLine& line) const noexcept {
    return line.check == ring_.key().tail_check(line.tail);
  }
  /// A remote sender that may publish as it likes best, and is looked at all the time for that.
  [[nodiscard]] bool hot() const noexcept { return link_ && ordered_ && !scanned(); }
  /// Has brought messages since this was asked last. One thread at a time.
  [[nodiscard]] bool was_busy() noexcept {
    const auto messages = counters_->messages.load(std::memory_order_relaxed);
    return std::exchange(reviewed_, messages) != messages;
  }
  /// Asks a remote sender to publish otherwise from now on. No effect while it has not heeded the
  /// last wish, and where only `immediate` will do. Thread-safe.
  void ask(PublishMode mode) noexcept;

  /// Takes the next message, and into `run`, if there is one, also those that follow it, up to
  /// `most` in all. `held`: somebody else has the token; look again.
  [[nodiscard]] Look look(Message& out, bool& held, Messages* run, std::size_t most) noexcept {
    if (!token_.try_lock()) {
      held = true;
      return Look::nothing;
    }
    const Look seen = take(out);
    if (run != nullptr && seen == Look::message) take_more(out, *run, most);
    token_.unlock();
    return seen;
  }
  /// After Look::asked: finds memory and offers it, or says that there is none. Takes as long as
  /// pinning it does. Thread-safe.
  [[gnu::cold]] void offer_memory() noexcept;
  /// Gives back a message's room. Thread-safe.
  void release(std::uint64_t view) noexcept;

  /// Before the receiver sleeps: returns all credit and has the sender wake it. Waits for the
  /// token. The barrier that the receiver must make before it relies on that. Where the `landing`
  /// is awaited, the receiver looks once more when armed() says so.
  [[nodiscard]] BarrierScope arm(Landing landing) noexcept;
  /// The sender knows by now that it must wake us (remote: the write that says so has landed).
  [[nodiscard]] bool armed() noexcept;
  /// Something to look() at.
  [[nodiscard]] bool has_news() noexcept;
  /// The receiver is awake: need not be woken.
  void disarm() noexcept;
  /// Remote: a descriptor that a receiver polls for reading while it sleeps, so that what comes
  /// wakes it at once and not by way of the engine. To be called before arm(). -1: there is none,
  /// or somebody else has it.
  [[nodiscard]] int listen() noexcept;
  /// To be called after every listen() that gave a descriptor. `ready`: it was readable. The engine
  /// looks there again when nobody has listened for some milliseconds.
  void listened(bool ready) noexcept;

  /// The receiver closes: the sender is told, nothing is taken any more.
  void shut() noexcept;
  /// The inlet has ended: as shut(), once the messages still held are released.
  void retire() noexcept;

  [[nodiscard]] SourceId id() const noexcept { return id_; }
  [[nodiscard]] const std::shared_ptr<InletCounters>& counters() const noexcept {
    return counters_;
  }
  [[nodiscard]] Loss loss() const;
  [[nodiscard]] SourceStats stats() const;

  void on_goodbye(Cursor cursor) noexcept override;
  void on_lost(const std::string& why) noexcept override;
  void on_stalled(bool stalled) noexcept override;
  void on_ready(std::uint32_t events) noexcept override;
  void on_time(TimePoint now) noexcept override;
  Attention on_attention() noexcept override;

 private:
  /// Who polls the link's descriptor.
  enum class Listener : std::uint8_t {
    engine,
    receiver,  ///< asleep
    nobody,    ///< a receiver that is likely to sleep again soon
  };
  struct View {
    Cursor end = 0;
    std::uint64_t bytes = 0;
    std::uint32_t messages = 0;
    bool released = false;
  };

  // All below with the token held.
  [[nodiscard]] Inspection next_record(Record& out) noexcept;
  [[nodiscard]] Inspection next_landed(Record& out) noexcept;
  void read_tail_line() noexcept;
  void heard_of_tail(std::uint32_t immediate) noexcept;
  /// The sender may publish in this mode.
  [[nodiscard]] bool may_use(PublishMode mode) const noexcept {
    return mode_ == mode || former_ == mode;
  }
  [[nodiscard]] bool heeded() const noexcept { return mode_ == former_; }
  /// Every publish comes as an immediate, and wakes.
  [[nodiscard]] bool immediates_only() const noexcept {
    return heeded() && mode_ == PublishMode::immediate;
  }
  /// Nothing is read of a link that does not tell by immediates.
  [[nodiscard]] bool listens() const noexcept {
    return mode_ == PublishMode::immediate || !heeded();
  }
  /// It sleeps, or is about to, and is woken by whatever comes.
  [[nodiscard]] bool heard_by_receiver() const noexcept {
    return immediates_only() && listener_ == Listener::receiver;
  }
  [[nodiscard]] Inspection inspect_landed(Record& out) noexcept;
  [[nodiscard]] Inspection inspect_hot(Record& out) noexcept;
  [[nodiscard]] Look take(Message& out) noexcept;
  void take_more(const Message& first, Messages& run, std::size_t most) noexcept;
  void take_plain_run(Messages& run, std::size_t most, View& view) noexcept;
  [[nodiscard]] bool take_plain(Message& out) noexcept;
  [[nodiscard, gnu::noinline]] Look take_any(Message& out) noexcept;
  void hand_out(const Record& record, Message& out) noexcept;
  /// A record of a message in pieces. nothing: it is not whole yet.
  [[nodiscard, gnu::noinline]] Look assemble(const Record& record, Message& out) noexcept;
  [[nodiscard]] Look take_landing(const Record& record, Message& out) noexcept;
  void hand_out(std::unique_ptr<Aside> message, std::uint64_t size, Message& out) noexcept;
  void post_offer() noexcept;
  void skip_to(Cursor end) noexcept;
  void advance_head() noexcept;
  [[nodiscard, gnu::cold]] std::shared_ptr<Inlet> heed_release() noexcept;
  void count(std::uint64_t messages, std::uint64_t bytes) noexcept;
  void tend() noexcept;
  void note_mode() noexcept;
  void stir() noexcept;
  void rest() noexcept;
  void change_mode(PublishMode mode) noexcept;
  void report(bool always) noexcept;
  void report_local() noexcept;
  // Not inlined, so that local releases stay short.
  [[gnu::noinline]] void report_linked(bool always) noexcept;
  [[gnu::noinline]] void report_local_living(std::uint32_t waiting) noexcept;
  void sample(bool waiting) noexcept;
  void move_window() noexcept;
  [[gnu::noinline]] void found_nothing() noexcept;
  void open_window() noexcept;
  void open_for_question() noexcept;
  void note_held_back() noexcept;
  [[nodiscard]] bool starving() const noexcept;
  [[nodiscard]] bool answer_due(bool always) noexcept;
  [[nodiscard, gnu::noinline]] bool put_off_answer() noexcept;
  [[nodiscard]] bool may_ask_engine() noexcept;
  [[nodiscard]] Attention answer_in_time() noexcept;
  [[nodiscard]] Attention arm_in_time() noexcept;
  [[nodiscard]] bool dry() noexcept;
  [[nodiscard]] std::uint64_t known_to_wait(bool waiting) noexcept;
  void tell_sender() noexcept;
  void report_remote(std::optional<std::uint32_t> immediate) noexcept;
  [[nodiscard]] bool taken_too_many() const noexcept;
  [[nodiscard]] bool arming_landed() const noexcept;
  [[nodiscard]] bool readable() noexcept;
  void take_events() noexcept;
  void arm_link() noexcept;
  void arm_engine() noexcept;
  void quieten() noexcept;
  void heed_landing() noexcept;
  void take_over() noexcept;
  void hand_back() noexcept;
  [[nodiscard]] bool set_timer() noexcept;
  [[nodiscard]] bool take_back() noexcept;
  void note_nap() noexcept;
  void note_work() noexcept;
  void poll_link() noexcept;
  void lose(const std::string& why) noexcept;
  [[gnu::cold]] void await_token() noexcept;
  template <class Work>
  void with_token(Work&& work) noexcept;

  void notify() noexcept;

  const Birth birth_;
  const SourceId id_;
  const std::weak_ptr<InletSink> sink_;
  const RingMemory memory_;
  const RingView ring_;
  const Prover prover_;
  RingControl& control_;
  const bool enrolled_ = enroll_in_barriers();
  const BarrierScope barrier_;              // made before a sleep
  const std::uint64_t window_;              // the largest
  const std::unique_ptr<FlowWindow> flow_;  // null: the window stays what it is
  // With the token; null: no message may come in pieces.
  const std::unique_ptr<Assembly> assembly_;
  const std::string peer_;
  std::shared_ptr<Connection> connection_;
  const std::shared_ptr<Bell> bell_;  // null between processes
  const bool room_frames_;
  const std::shared_ptr<TailTable> tails_;
  const TailPlace place_;       // remote
  std::unique_ptr<Link> link_;  // null for local rings
  // With the token; null: no message may land.
  std::unique_ptr<Landings> landings_;
  // SYNC rearranged: before the sink is told
  std::atomic<bool> scanned_{false};

  /// The engine takes the link's events back when nobody has listened for one to two of these.
  static constexpr std::chrono::milliseconds kReturn{5};

  // Read by the receiving thread for every message: a line of its own.
  alignas(kLine) BiasedLock token_{enrolled_};
  Cursor next_ = 0;               // next to hand out
  Cursor head_ = 0;               // everything before it was released
  Cursor reported_ = 0;           // ... and the sender was told
  std::uint64_t granted_window_;  // the window now
  Cursor limit_;                  // granted up to here
  Cursor reported_limit_;         // ... and the sender was told (remote)
  // Remote: unless the sender asks, or is asked to publish otherwise, nothing is reported before
  // head_ is there.
  Cursor quiet_until_ = 0;
  Cursor tail_ = 0;               // remote: everything before it has landed
  std::uint64_t first_view_ = 0;  // oldest held
  std::uint64_t next_view_ = 0;
  std::uint64_t held_views_ = 0;
  bool view_awaited_ = false;  // a receiver waits for a release
  // Scanned only: the sender knows that the receiver sleeps, should it, and all that was consumed.
  bool rests_ = false;
  bool finished_ = false;  // the fin was read
  bool shut_ = false;
  bool retired_ = false;
  std::shared_ptr<Inlet> self_;  // while messages are held after the mailbox let go
  std::array<View, kMaxViews> views_{};

  // Remote.
  PublishMode mode_ = PublishMode::tail;    // that the sender was asked for
  PublishMode former_ = PublishMode::tail;  // in which it may publish until it has heeded that
  PublishMode told_mode_ = PublishMode::tail;
  std::uint64_t mode_changes_ = 0;
  std::uint64_t reviewed_ = 0;   // was_busy()'s own
  bool turns_ = false;           // the mode is to change often
  std::uint64_t turn_at_ = 0;    // when so many messages were released
  bool chooses_ = false;         // the mode follows the traffic
  std::uint32_t naps_ = 0;       // sleeps in a row for hardly a message each
  std::uint64_t napped_at_ = 0;  // ... the last one when so many messages were released
  bool torn_ = false;            // the last look at the tail line found it half written
  TimePoint torn_since_{};
  bool ordered_ = true;      // the link places its writes in order
  bool report_due_ = false;  // a credit line waits for the one before it to land; or an offer does
  bool offer_due_ = false;   // for room in the link
  OfferLine offer_{};        // the last one
  Cursor armed_at_ = 0;
  std::uint64_t sequence_ = 0;       // of credit lines
  std::uint64_t cookie_ = 0;         // of the last post
  std::uint64_t landed_cookie_ = 0;  // completed up to
  Cursor told_armed_at_ = 0;         // the armed_at_ of the last post
  std::uint64_t armed_cookie_ = 0;   // of the first credit line that said it
  bool landing_due_ = false;         // ... and the engine is to look when it has landed
  Listener listener_ = Listener::engine;
  int heard_fd_ = -1;                           // what a receiver polls
  bool notified_ = false;                       // ... was readable, and is still
  std::chrono::milliseconds return_ = kReturn;  // between two looks of on_time()
  bool work_stale_ = false;                     // work_, under the mutex, is older than the link's
  PollWatch polls_;                             // of a receiver, at the link
  std::uint64_t listens_ = 0;                   // so often a receiver listened
  std::uint64_t seen_listens_ = 0;              // ... when on_time() looked last
  bool timer_set_ = false;                      // on_time() is to come
  bool blocked_ = false;                        // the sender waits for credit
  bool attended_ = false;                       // by the engine
  Cursor known_ = 0;                            // consumption that the waiting sender knows of
  std::uint64_t credit_writes_ = 0;
  std::uint64_t arming_writes_ = 0;
  Cursor answered_ = 0;       // the consumption that the last answer told
  Cursor answered_limit_;     // ... and its limit
  std::uint32_t untold_ = 0;  // mode immediate: taken since the sender was told of it
  Cursor told_aloud_ = 0;     // the tail when it was told so that it would hear

  // A living window.
  Cursor sampled_ = 0;    // consumption at the last sample
  Cursor held_back_ = 0;  // the sender had to wait when it had sent about so much; 0: it had not
  Cursor opened_at_ = ~0ULL;  // next_ when the window was opened last
  bool opened_ = false;       // remote: an answer with a larger window is due

  const std::shared_ptr<InletCounters> counters_ = std::make_shared<InletCounters>();
  // SYNC attention: raised from 0 with the token held, lowered by the engine
  std::atomic<std::uint8_t> ticks_to_answer_{0};
  // SYNC attention: raised with the token held. The engine has yet to arm the link.
  std::atomic<bool> unarmed_{false};
  std::atomic<bool> stalled_{false};  // relaxed: a state for people
  std::atomic<bool> gone_{false};     // SYNC gone: reason_ before it; nothing more will be sent
  std::atomic<bool> goodbye_{false};  // relaxed: said good-bye; a state for people

  mutable std::mutex mutex_;  // guards all below
  std::string reason_;
  std::string path_;
  PathStats work_;
};

}  // namespace penstock::inline v1
