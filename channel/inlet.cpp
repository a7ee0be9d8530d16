#include "penstock/channel/inlet.hpp"

#include <sys/epoll.h>

#include <algorithm>
#include <exception>
#include <utility>

#include "penstock/channel/park.hpp"
#include "penstock/channel/spin.hpp"

namespace penstock::inline v1 {
namespace {

/// Credit is returned when this part of the window was consumed; the batch that somebody waits for
/// is kBatchPart.
constexpr std::uint64_t kLazyPart = 4;
/// The longest hot record that is looked at; a sender's own bound is not larger.
constexpr std::uint64_t kMaxHot = 2048;
/// Publishing::turns.
constexpr std::uint64_t kMessagesPerTurn = 16;
constexpr std::uint8_t kTicksToAnswer = 2;
/// The engine looks whether somebody still listens, the less often the longer somebody does.
constexpr auto kLongReturn = std::chrono::milliseconds(40);
/// Messages between two sleeps (note_nap()): as good as none, and sleeps of that kind in a row; as
/// good as no sleep.
constexpr std::uint64_t kFewMessages = 2;
constexpr std::uint32_t kManyNaps = 8;
constexpr std::uint64_t kManyMessages = 64;
/// Credit lines on their way, before their completions are looked for.
constexpr std::uint64_t kManyCredits = 32;
/// A line of a few bytes lands at once, but its machine may be paused in between.
constexpr auto kTornDeadline = std::chrono::seconds(10);

}  // namespace

Inlet::Inlet(InletParts parts, SourceId id, std::weak_ptr<InletSink> sink, bool barriers,
             std::shared_ptr<TailTable> tails)
    : id_(id),
      sink_(std::move(sink)),
      memory_(parts.ring),
      ring_(memory_),
      prover_(memory_.key),
      control_(*memory_.control),
      barrier_(parts.remote.link || !barriers || !enrolled_ ? BarrierScope::none
               : parts.connection                           ? BarrierScope::machine
                                                            : BarrierScope::process),
      window_(parts.window),
      flow_(parts.flow.target_delay > Duration::zero()
                ? std::make_unique<FlowWindow>(std::min(parts.flow.min_window, parts.window),
                                               parts.window, parts.flow.target_delay)
                : nullptr),
      assembly_(parts.max_message > RingProducer::max_payload(parts.window)
                    ? std::make_unique<Assembly>(parts.max_message)
                    : nullptr),
      peer_(std::move(parts.peer)),
      connection_(std::move(parts.connection)),
      bell_(std::move(parts.bell)),
      room_frames_(parts.room_frames),
      tails_(std::move(tails)),
      place_(std::move(parts.tail)),
      link_(std::move(parts.remote.link)),
      granted_window_(flow_ ? flow_->window() : window_),
      limit_(window_),
      reported_limit_(window_),
      answered_limit_(window_),
      path_(std::move(parts.path)) {
  if (link_) {
    ordered_ = link_->limits().ordered_writes;
    if (parts.remote.landings && assembly_)
      landings_ = std::make_unique<Landings>(parts.max_message);
    return;
  }
  // relaxed: a sender that does not see it makes full barriers
  if (barrier_ != BarrierScope::none)
    control_.receiver_barriers.store(1, std::memory_order_relaxed);
  // relaxed: before the first limit
  control_.window.store(granted_window_, std::memory_order_relaxed);
  control_.window_lives.store(flow_ ? 1 : 0, std::memory_order_relaxed);
  (void)grant(control_, 0, limit_);  // nobody waits yet
}

Inlet::~Inlet() {
  if (connection_) connection_->stop();
  if (!birth_.here()) {
    (void)link_.release();  // a child must not touch its parent's device
    return;
  }
  if (link_) Engine::get().unwatch(link_->event_fd());
}

void Inlet::start(PublishMode mode, Publishing asked) {
  if (connection_) connection_->start(weak_from_this());
  if (!link_) return;
  with_token([&] {
    mode_ = former_ = ordered_ ? mode : PublishMode::immediate;
    turns_ = asked == Publishing::turns && ordered_;
    chooses_ = asked == Publishing::automatic && ordered_;
    note_mode();
    link_->arm(!ordered_, true);
    report_remote(std::nullopt);
  });
  Engine::get().watch(link_->event_fd(), EPOLLIN, shared_from_this());
}

void Inlet::await_token() noexcept {
  for (Backoff backoff; !token_.try_lock();) backoff.wait();
}

template <class Work>
void Inlet::with_token(Work&& work) noexcept {
  if (!token_.try_lock()) await_token();
  work();
  token_.unlock();
}

void Inlet::notify() noexcept {
  if (const auto sink = sink_.lock()) sink->notify();
}

// ── Reading ──────────────────────────────────────────────────────────────────────────────────────

void Inlet::ask(PublishMode mode) noexcept {
  with_token([&] {
    if (!shut_) change_mode(mode);
  });
}

void Inlet::change_mode(PublishMode mode) noexcept {
  if (mode == mode_ || !heeded() || !ordered_) return;
  mode_ = mode;
  quiet_until_ = 0;
  ++mode_changes_;
  note_mode();
  // An idle sender looks when it is told to.
  report_remote(static_cast<std::uint32_t>(Immediate::credit));
}

void Inlet::note_mode() noexcept {
  const bool scanned = heeded() && mode_ == PublishMode::tail;
  // relaxed: written with the token held only
  if (scanned == scanned_.load(std::memory_order_relaxed)) return;
  rests_ = false;
  tails_->set_awake(place_.index, true);
  tails_->watch(place_.index, scanned);
  tails_->mark(place_.index);
  scanned_.store(scanned, std::memory_order_release);  // SYNC rearranged
  if (const auto sink = sink_.lock()) sink->rearranged();
}

/// Before the next sleep the sender is to hear something.
void Inlet::stir() noexcept {
  if (!std::exchange(rests_, false)) return;
  tails_->set_awake(place_.index, true);
}

/// It hears nothing new before the next sleep.
void Inlet::rest() noexcept {
  // relaxed: written with the token held only
  if (rests_ || !scanned_.load(std::memory_order_relaxed) || !arming_landed() ||
      armed_at_ != (next_ | 1U) || reported_ != head_)
    return;
  rests_ = true;
  tails_->set_awake(place_.index, false);
}

/// An immediate says up to where everything has landed. Where the tail line is read as well, that
/// may be ahead of it, and by more than a window where the completion comes late: which of the two
/// is ahead is told like serial numbers of RFC 1982, by the nearer half of the range.
void Inlet::heard_of_tail(std::uint32_t immediate) noexcept {
  const auto ahead = distance_ahead(immediate, tail_);
  if (ahead <= reported_ + window_ - tail_) {
    tail_ += ahead;
  } else if (immediates_only() || ahead < kImmediateRange / 2) {
    lose("its tail lies beyond the credit it was granted: it breaks the protocol");
  }
}

void Inlet::read_tail_line() noexcept {
  if (immediates_only()) return;
  const auto tail = read_tail(*place_.line, ring_.key());
  torn_ = !tail;
  if (torn_) {
    // A write is landing: look again, and above all do not sleep, because the wake-up for what this
    // hides may be spent (tests/models/wake.pml).
    const auto now = Clock::now();
    if (torn_since_ == TimePoint{}) torn_since_ = now;
    if (now - torn_since_ > kTornDeadline)
      lose("its tail line does not come whole: it breaks the protocol");
    return;
  }
  torn_since_ = {};
  if (*tail <= tail_) return;
  if (*tail > reported_ + window_ || *tail % kRecordAlign != 0)
    return lose("its tail lies beyond the credit it was granted: it breaks the protocol");
  tail_ = *tail;
}

Inspection Inlet::inspect_landed(Record& out) noexcept {
  const auto seen = ring_.inspect(next_, tail_, out);
  if (seen != Inspection::absent) return seen;
  // A record that was published hot carries a proof in place of the mark.
  auto& h = ring_.header(next_);
  const auto word = load_shared(h.word);
  const auto mark = load_shared(h.mark);
  if ((header_flags(word) & kSelfProved) == 0 || !ring_.decode(next_, word, tail_, out) ||
      prover_.prove(next_, word, out.payload, out.length) != mark)
    return Inspection::malformed;  // the tail says that it has landed
  return Inspection::record;
}

Inspection Inlet::inspect_hot(Record& out) noexcept {
  auto& h = ring_.header(next_);
  const auto word = load_shared(h.word);
  if ((header_flags(word) & kSelfProved) == 0) return Inspection::absent;
  const auto mark = load_shared(h.mark);
  // Whatever is wrong here means "too early": these may be old bytes, or half of the new ones.
  if (record_size(header_length(word)) > kMaxHot ||
      !ring_.decode(next_, word, reported_ + window_, out) ||
      prover_.prove(next_, word, out.payload, out.length) != mark)
    return Inspection::absent;
  return Inspection::record;
}

Inspection Inlet::next_record(Record& out) noexcept {
  if (!link_) return ring_.inspect(next_, head_ + window_, out);
  if (next_ >= tail_ && listens()) {
    polls_.polled();
    tend();  // a question may have come, too
  }
  return next_landed(out);
}

Inspection Inlet::next_landed(Record& out) noexcept {
  if (next_ >= tail_) read_tail_line();
  if (next_ < tail_) return inspect_landed(out);
  return may_use(PublishMode::hot) ? inspect_hot(out) : Inspection::absent;
}

void Inlet::skip_to(Cursor end) noexcept {
  next_ = end;
  stir();
  // Room that was never handed out goes back together with the message before it.
  if (first_view_ == next_view_) {
    head_ = end;
  } else {
    views_[(next_view_ - 1) % kMaxViews].end = end;
  }
}

/// A message of a stream: without flags, and known to have landed.
inline bool Inlet::take_plain(Message& out) noexcept {
  const Cursor bound = link_ ? tail_ : head_ + window_;
  std::uint64_t length = 0;
  if (next_ >= bound || shut_ || finished_ || next_view_ - first_view_ == kMaxViews ||
      !ring_.plain(next_, bound, length))
    return false;
  hand_out({next_, next_ + record_size(length), ring_.at(next_) + sizeof(RecordHeader),
            static_cast<std::uint32_t>(length), 0},
           out);
  return true;
}

void Inlet::hand_out(const Record& record, Message& out) noexcept {
  next_ = record.end;
  stir();
  views_[next_view_ % kMaxViews] = {record.end, record.length, 1, false};
  out.inlet_ = this;
  out.data_ = record.payload;
  out.size_ = record.length;
  out.source_ = id_;
  out.view_ = next_view_++;
  ++held_views_;
  out.status_ = RecvStatus::received;
  if (link_ && next_ >= tail_) ++messages_awaited;  // the last there is
}

Look Inlet::take(Message& out) noexcept { return take_plain(out) ? Look::message : take_any(out); }

Look Inlet::take_any(Message& out) noexcept {
  if (finished_) return Look::closed;
  if (shut_) return Look::nothing;
  // SYNC gone: read before the ring, so that a record committed before the end is not missed.
  const bool left = !link_ && control_.sender_gone.load(std::memory_order_acquire) != 0;
  const bool gone = left || gone_.load(std::memory_order_acquire);
  const Cursor begin = next_;
  // A sender may drop reservations as fast as they are skipped: only those that it can have made by
  // now keep the other senders waiting.
  const Cursor enough = head_ + window_;
  for (;;) {
    if (next_view_ - first_view_ == kMaxViews) {
      view_awaited_ = true;
      return held_views_ == kMaxViews ? Look::view_limit : Look::view_gap;
    }
    Record record;
    switch (next_record(record)) {
      case Inspection::malformed:
        lose("it wrote a record whose header lies about its length: it breaks the protocol");
        return Look::lost;
      case Inspection::absent:
        if (left) lose("it gave up: its linger time ran out before all it had to send found room");
        if (gone) return Look::lost;
        if (flow_)
          found_nothing();
        else if (blocked_)
          report(false);
        // Behind where the sender was told to wake, or at a tail line that is landing and may hide
        // what the wake-up was for.
        return link_ && (next_ != begin || torn_) ? Look::unsettled : Look::nothing;
      case Inspection::record: break;
    }
    if ((record.flags & kFin) != 0) {
      skip_to(record.end);
      finished_ = true;
      report(true);
      return Look::closed;
    }
    if ((record.flags & (kPadding | kTombstone | kInPieces)) != 0) {
      const auto got = (record.flags & kInPieces) != 0 ? assemble(record, out) : Look::nothing;
      if (got == Look::lost) return got;
      skip_to(record.end);
      report(false);
      if (got != Look::nothing) return got;
      if (next_ < enough) continue;
      if (link_) tails_->mark(place_.index);  // there may be more
      return Look::unsettled;
    }
    hand_out(record, out);
    return Look::message;
  }
}

// A message that came in pieces is no part of the ring any more when it is handed out: it counts as
// consumed, and however many are held, the next one has all of the ring.
Look Inlet::assemble(const Record& record, Message& out) noexcept {
  if (landings_) {
    if ((record.flags & kLanding) != 0) return take_landing(record, out);
    if ((record.flags & kFirst) != 0) landings_->give_up();
  }
  switch (assembly_ ? assembly_->take(record) : Assembly::Step::malformed) {
    case Assembly::Step::more: return Look::nothing;
    case Assembly::Step::whole:
      hand_out(assembly_->hand_out(), assembly_->size(), out);
      return Look::message;
    case Assembly::Step::malformed:
      lose("it sent pieces that make no message which may come: it breaks the protocol");
      break;
    case Assembly::Step::no_memory:
      lose("no memory is left here for its message of " + std::to_string(assembly_->size()) +
           " bytes: bind with a smaller max_message, or hold fewer");
  }
  return Look::lost;
}

void Inlet::hand_out(std::unique_ptr<Aside> message, std::uint64_t size, Message& out) noexcept {
  out.aside_ = std::move(message);
  out.data_ = out.aside_->bytes.get();
  out.size_ = size;
  out.source_ = id_;
  out.status_ = RecvStatus::received;
  count(1, size);
}

// ── Landings ─────────────────────────────────────────────────────────────────────────────────────

Look Inlet::take_landing(const Record& record, Message& out) noexcept {
  switch (landings_->take(record)) {
    case Landings::Step::asked: assembly_->give_up(); return Look::asked;
    case Landings::Step::landed: {
      std::uint64_t size = 0;
      auto message = landings_->hand_out(size);
      hand_out(std::move(message), size, out);
      counters_->landings.fetch_add(1, std::memory_order_relaxed);
      return Look::message;
    }
    case Landings::Step::malformed: break;
  }
  lose("it says that a message landed, or is to, which cannot be: it breaks the protocol");
  return Look::lost;
}

void Inlet::offer_memory() noexcept {
  Landings::Ask ask;
  with_token([&] { ask = landings_->asked(); });
  auto offer = landings_->find_memory(*link_, ask);
  with_token([&] {
    if (shut_ || retired_) return;
    offer_ = landings_->answer(offer, ring_.key());
    post_offer();
  });
  offer.memory.reset();  // what is not wanted any more: before its memory goes
}

void Inlet::post_offer() noexcept {
  RemoteWrite write;
  write.source = reinterpret_cast<const std::byte*>(&offer_);
  write.length = sizeof offer_;
  write.offset = kOfferOffset;
  write.copied = true;
  offer_due_ = false;
  switch (link_->post(std::span(&write, 1), static_cast<std::uint32_t>(Immediate::offered),
                      cookie_ + 1)) {
    case PostStatus::failed: return connection_->suspect(link_->error());
    case PostStatus::no_room:
      // Room comes with a completion, of which the engine hears too.
      report_due_ = offer_due_ = true;
      link_->arm(true, true);
      return;
    case PostStatus::posted: ++cookie_;
  }
  work_stale_ = true;
}

/// As take_plain(), those that follow. On copies, which the writing of a run does not touch.
void Inlet::take_plain_run(Messages& run, std::size_t most, View& view) noexcept {
  const auto ring = ring_;
  const Cursor bound = link_ ? tail_ : head_ + window_;
  auto at = next_;
  auto count = run.count_;
  std::uint64_t bytes = 0;
  std::uint64_t length = 0;
  while (count != most && at < bound && ring.plain(at, bound, length)) {
    run.data_[count++] = {ring.at(at) + sizeof(RecordHeader), length};
    bytes += length;
    at += record_size(length);
  }
  view.messages += static_cast<std::uint32_t>(count - run.count_);
  view.bytes += bytes;
  view.end = next_ = at;
  run.count_ = count;
}

// What is no message ends the run; whatever is wrong is found by the next look.
void Inlet::take_more(const Message& first, Messages& run, std::size_t most) noexcept {
  run.data_[0] = first.data();
  run.count_ = 1;
  if (first.inlet_ == nullptr) return;  // nothing holds the room of others
  auto& view = views_[first.view_ % kMaxViews];
  take_plain_run(run, most, view);
  Record record;
  while (run.count_ != most && next_record(record) == Inspection::record &&
         (record.flags & (kFin | kPadding | kTombstone | kInPieces)) == 0) {
    run.data_[run.count_++] = {record.payload, record.length};
    next_ = view.end = record.end;
    view.bytes += record.length;
    ++view.messages;
  }
}

void Inlet::release(std::uint64_t view) noexcept {
  if (!birth_.here()) return;
  std::shared_ptr<Inlet> last;
  bool end = false;
  with_token([&] {
    views_[view % kMaxViews].released = true;
    --held_views_;
    advance_head();
    if (!view_awaited_ && !retired_ && !shut_) return;
    last = heed_release();
    end = last && !shut_;
  });
  if (end) shut();
}

/// What waits for a release. Itself, where nothing else keeps it and no message is held any more.
std::shared_ptr<Inlet> Inlet::heed_release() noexcept {
  if (view_awaited_ && next_view_ - first_view_ != kMaxViews) {
    view_awaited_ = false;
    notify();
  }
  if ((!retired_ && !shut_) || first_view_ != next_view_) return nullptr;
  return std::move(self_);
}

void Inlet::advance_head() noexcept {
  while (first_view_ != next_view_ && views_[first_view_ % kMaxViews].released) {
    const auto& view = views_[first_view_++ % kMaxViews];
    head_ = view.end;
    count(view.messages, view.bytes);
  }
  if (head_ >= quiet_until_) return report(false);
  if (reported_ != head_) stir();
}

// relaxed: the token's holder is the only writer
void Inlet::count(std::uint64_t messages, std::uint64_t bytes) noexcept {
  const auto add = [](std::atomic<std::uint64_t>& sum, std::uint64_t more) {
    sum.store(sum.load(std::memory_order_relaxed) + more, std::memory_order_relaxed);
  };
  add(counters_->messages, messages);
  add(counters_->bytes, bytes);
}

// ── Credit ───────────────────────────────────────────────────────────────────────────────────────

// Every release is seen by a sender that looks. What it is told of unasked it finds on a line that
// is seldom written.
void Inlet::report_local() noexcept {
  std::uint32_t waiting = 0;
  // SYNC sender-sleep (waker): that somebody sleeps is read after this was stored. Where senders
  // make a barrier, only the compiler must be told. relaxed: a promise that is never taken back
  if (control_.sender_barriers.load(std::memory_order_relaxed) != 0) {
    control_.consumed.store(head_, std::memory_order_release);  // SYNC credit
    std::atomic_signal_fence(std::memory_order_seq_cst);
    waiting = control_.senders_waiting.load(std::memory_order_relaxed);
  } else {
    control_.consumed.store(head_, std::memory_order_seq_cst);  // SYNC credit
    waiting = control_.senders_waiting.load(std::memory_order_seq_cst);
  }
  if (flow_) return report_local_living(waiting);
  const auto owed = head_ - reported_;
  if (owed < window_ / kBatchPart && (waiting & kSenderWantsAny) == 0) return;
  if (owed < window_ / kLazyPart && waiting == 0) return;
  reported_ = head_;
  if (grant(control_, head_, head_ + window_)) tell_sender();
}

// For senders that wait without a thread.
void Inlet::tell_sender() noexcept {
  if (bell_) bell_->ring();
  if (room_frames_) connection_->say_room();
}

void Inlet::report_local_living(std::uint32_t waiting) noexcept {
  const bool waits = (waiting & kSenderWaits) != 0;
  if (head_ - sampled_ >= granted_window_ / (waiting != 0 ? kBatchPart : kLazyPart)) {
    sample(waits);
  } else if ((waiting & kSenderWantsAny) == 0) {
    return;
  }
  if (head_ + granted_window_ <= limit_ && (waiting & kSenderFlushes) == 0) {
    // While the window shrinks a sender that waits for room is not woken in vain. But where the
    // receiver sleeps, nobody else comes to open the window.
    if (waits && dry()) found_nothing();
    return;
  }
  // Looked at often, so that the window follows; told seldom, since that costs both a line.
  if (head_ - reported_ < granted_window_ / kLazyPart && (waiting & kSenderWantsAny) == 0 && !dry())
    return;
  if (waits) held_back_ = limit_;
  reported_ = head_;
  limit_ = std::max(limit_, head_ + granted_window_);
  if (grant(control_, head_, limit_)) tell_sender();
}

void Inlet::report(bool always) noexcept {
  if (!link_) return report_local();
  if (!shut_) report_linked(always);
}

void Inlet::report_linked(bool always) noexcept {
  note_work();
  if (turns_ && counters_->messages.load(std::memory_order_relaxed) >= turn_at_) {
    turn_at_ += kMessagesPerTurn;
    change_mode(mode_ == PublishMode::immediate
                    ? PublishMode::tail
                    : static_cast<PublishMode>(static_cast<int>(mode_) + 1));
  }
  if (flow_) {
    if (head_ - sampled_ >= granted_window_ / (blocked_ ? kBatchPart : kLazyPart)) sample(blocked_);
    if (blocked_ && !opened_ && dry()) open_for_question();
  }
  const auto owed = head_ - reported_;
  if (blocked_ && (opened_ || answer_due(always))) {
    report_remote(static_cast<std::uint32_t>(Immediate::credit));
  } else if ((owed != 0 || limit_ > reported_limit_) &&
             (always || owed >= granted_window_ / kLazyPart)) {
    report_remote(std::nullopt);
  }
  if (reported_ != head_) stir();
  const bool unasked = !blocked_ && !turns_ && !flow_ && mode_ != PublishMode::immediate;
  quiet_until_ = unasked ? reported_ + granted_window_ / kLazyPart : 0;
}

/// A question is kept until there is something new to answer; where the window shrinks, that is
/// more than consumption. A receiver that has more to read answers when it would have told unasked,
/// if that is soon.
bool Inlet::answer_due(bool always) noexcept {
  if (head_ <= known_) return false;
  if (!flow_) return always || head_ - known_ >= window_ / kLazyPart || dry() || !put_off_answer();
  if (!always && head_ != next_ && head_ - known_ < granted_window_ / kBatchPart) return false;
  return known_ < answered_ || head_ + granted_window_ > answered_limit_ ||
         limit_ > answered_limit_ || dry();
}

/// The engine answers in a millisecond or two, unless somebody has by then. False where it cannot.
bool Inlet::put_off_answer() noexcept {
  // relaxed: raised with the token held only
  if (ticks_to_answer_.load(std::memory_order_relaxed) != 0) return true;
  if (!may_ask_engine()) return false;
  ticks_to_answer_.store(kTicksToAnswer, std::memory_order_seq_cst);  // SYNC attention
  Engine::get().attention(Attention::later);
  return true;
}

bool Inlet::may_ask_engine() noexcept {
  if (attended_) return true;
  try {
    Engine::get().attend(shared_from_this());
  } catch (const std::exception&) {
    return false;
  }
  return attended_ = true;
}

Attention Inlet::on_attention() noexcept { return std::max(answer_in_time(), arm_in_time()); }

Attention Inlet::answer_in_time() noexcept {
  // SYNC attention. The first tick comes at once.
  const auto ticks = ticks_to_answer_.load(std::memory_order_seq_cst);
  if (ticks == 0) return Attention::none;
  // Who has the token may have lost this CPU to this thread: the next tick does, too.
  if (ticks == 1 && !token_.try_lock()) return Attention::later;
  // relaxed: raised from 0 only
  ticks_to_answer_.store(static_cast<std::uint8_t>(ticks - 1), std::memory_order_relaxed);
  if (ticks > 1) return Attention::later;
  if (!shut_ && blocked_ && head_ > known_) report(true);
  token_.unlock();
  return Attention::none;
}

void Inlet::report_remote(std::optional<std::uint32_t> immediate) noexcept {
  if (!ordered_ && landed_cookie_ != cookie_) {
    // Two credit lines under way could mix for ever: the next goes when the last has landed.
    report_due_ = true;
    return;
  }
  // A receiver that is never out of work looks at rings only: its completions are taken here.
  if (cookie_ - landed_cookie_ >= kManyCredits) poll_link();
  CreditLine line{};
  line.consumed = head_;
  limit_ = std::max(limit_, head_ + granted_window_);
  line.limit = limit_;
  line.armed_at = immediates_only() ? tail_ : armed_at_;
  const bool taken = taken_too_many();
  if (taken && blocked_) immediate = static_cast<std::uint32_t>(Immediate::credit);
  line.mode = (sequence_ + 1) << 8U | static_cast<std::uint64_t>(mode_);
  line.check = ring_.key().credit_check(line);
  RemoteWrite write;
  write.source = reinterpret_cast<const std::byte*>(&line);
  write.length = sizeof line;
  write.copied = true;
  switch (link_->post(std::span(&write, 1), immediate, cookie_ + 1)) {
    case PostStatus::failed: return connection_->suspect(link_->error());
    case PostStatus::no_room:
      // Room comes with a completion, of which the engine hears too.
      report_due_ = true;
      link_->arm(true, true);
      return;
    case PostStatus::posted: break;
  }
  report_due_ = offer_due_;
  untold_ = 0;
  work_stale_ = true;
  ++sequence_;
  ++cookie_;
  ++credit_writes_;
  reported_ = head_;
  reported_limit_ = limit_;
  told_mode_ = mode_;
  if (immediate) told_aloud_ = tail_;
  if (told_armed_at_ != armed_at_) {
    told_armed_at_ = armed_at_;
    armed_cookie_ = cookie_;
    ++arming_writes_;
  } else if (taken) {
    ++arming_writes_;
  }
  if (immediate && (head_ > known_ || opened_)) {  // otherwise the question stays
    blocked_ = opened_ = false;
    known_ = answered_ = head_;
    answered_limit_ = limit_;
  }
}

// The sender holds publishes back that could find no receive: it must hear of those taken, though
// nothing is consumed.
bool Inlet::taken_too_many() const noexcept {
  return immediates_only() && untold_ >= link_->limits().receives / 4;
}

void Inlet::poll_link() noexcept {
  std::array<LinkEvent, 16> events;
  for (;;) {
    const auto count = link_->poll(events);
    work_stale_ = work_stale_ || count != 0;
    for (std::size_t i = 0; i < count; ++i) {
      switch (events[i].kind) {
        case LinkEvent::Kind::completed: landed_cookie_ = events[i].value; break;
        case LinkEvent::Kind::failed: connection_->suspect(link_->error()); return;
        case LinkEvent::Kind::immediate: {
          const auto value = static_cast<std::uint32_t>(events[i].value);
          const auto kind = static_cast<Immediate>(value & kImmediateKind);
          if (kind == Immediate::blocked) {
            // The sender knows of less than what was consumed, or of the same.
            blocked_ = true;
            quiet_until_ = 0;
            known_ =
                head_ - ((kImmediateRange - distance_ahead(value, head_)) & (kImmediateRange - 1));
            if (flow_) note_held_back();
            // It may be held back by its publishes, of which it did not hear that they were taken.
            if (immediates_only() && tail_ > told_aloud_) untold_ = link_->limits().receives;
          }
          if (kind == Immediate::landed && may_use(PublishMode::immediate)) {
            heard_of_tail(value);
            ++untold_;
          }
          if (kind == Immediate::adopted && !heeded()) {
            heard_of_tail(value);
            former_ = mode_;
            note_mode();
            if (immediates_only()) {
              torn_ = false;
              untold_ = link_->limits().receives;  // the line is to say at once what was taken
            }
          }
          break;
        }
      }
    }
    if (count < events.size()) return;
  }
}

void Inlet::take_events() noexcept {
  poll_link();
  if (shut_) return;
  if (report_due_ && (ordered_ || landed_cookie_ == cookie_)) {
    report_due_ = false;
    if (offer_due_) post_offer();
    report(true);
    if ((told_armed_at_ != armed_at_ || told_mode_ != mode_) && !report_due_)
      report_remote(std::nullopt);
  }
  if (taken_too_many() && !report_due_) report_remote(std::nullopt);
}

void Inlet::tend() noexcept {
  if (link_ && !shut_) take_events();
  advance_head();
  if (!work_stale_) return;
  const std::unique_lock lock(mutex_, std::try_to_lock);
  if (!lock) return;
  work_stale_ = false;
  const auto counters = link_->counters();
  if (counters.lost_rails != work_.lost_rails) path_ = link_->path();
  work_ = {.posts = counters.posts,
           .work_requests = counters.work_requests,
           .completions = counters.completions,
           .credit_writes = credit_writes_,
           .arming_writes = arming_writes_,
           .immediates = counters.immediates,
           .hot_publishes = 0,
           .lost_rails = counters.lost_rails,
           .mode_changes = mode_changes_,
           .mode = former_};
}

// ── The living window ────────────────────────────────────────────────────────────────────────────

/// A lower bound of what is in the ring and not handed out. Of a local ring only a sender that
/// waits tells: it has filled the window.
std::uint64_t Inlet::known_to_wait(bool waiting) noexcept {
  if (!link_) return waiting ? limit_ - std::min(limit_, next_) : 0;
  read_tail_line();
  return tail_ - std::min(tail_, next_);
}

bool Inlet::dry() noexcept {
  Record record;
  const auto seen = link_ ? next_landed(record) : next_record(record);
  return seen == Inspection::absent && !torn_;
}

void Inlet::sample(bool waiting) noexcept {
  sampled_ = head_;
  flow_->consumed(Clock::now(), head_, known_to_wait(waiting));
  move_window();
}

void Inlet::move_window() noexcept {
  granted_window_ = flow_->window();
  // relaxed: a sender adds it to what was consumed, and any value that it had is as good
  if (!link_) control_.window.store(granted_window_, std::memory_order_relaxed);
}

/// The ring is empty, and the window holds the sender back.
void Inlet::open_window() noexcept {
  flow_->starved(Clock::now(), head_);
  sampled_ = head_;
  move_window();
  // Not enough, and nothing has come since: a message needs more. All there is, this once.
  const bool again = std::exchange(opened_at_, next_) == next_;
  const auto limit = head_ + granted_window_;
  limit_ = again || limit <= limit_ ? head_ + window_ : limit;
}

/// The question comes after what the sender sent before it asked.
void Inlet::note_held_back() noexcept {
  read_tail_line();
  // Otherwise it waits for the end of a flush.
  held_back_ = tail_ > known_ + granted_window_ / 2 ? tail_ : 0;
}

/// Remote: the ring is empty, and the sender has asked.
void Inlet::open_for_question() noexcept {
  const auto held_back = std::exchange(held_back_, 0);
  const bool starved = held_back != 0 && next_ >= held_back && next_ <= held_back + kMaxHot;
  // Where there is room, what was consumed is the answer.
  if (!starved && head_ > known_ && limit_ >= next_ + granted_window_ / 2) return;
  if (limit_ < head_ + window_) open_window();
  opened_ = limit_ > answered_limit_;
}

void Inlet::found_nothing() noexcept {
  flow_->found_nothing();
  if (link_) {
    if (blocked_) return report(false);
    if (held_back_ == 0) return;
    const auto held_back = std::exchange(held_back_, 0);
    if (next_ < held_back || next_ > held_back + kMaxHot || limit_ == head_ + window_) return;
    open_window();  // it had its answer, but that took too long
    return report(true);
  }
  // relaxed: one who says so later has looked at an empty ring, or is seen before the sleep
  const bool waits = (control_.senders_waiting.load(std::memory_order_relaxed) & kSenderWaits) != 0;
  // It waited for what was granted near here, and nothing has come of that yet.
  const auto held_back = std::exchange(held_back_, 0);
  const bool starved = next_ <= held_back && next_ + granted_window_ / 2 > held_back;
  if ((!waits && !starved) || limit_ == head_ + window_) return;
  if (!starved && limit_ >= next_ + granted_window_ / 2 && opened_at_ != next_) {
    opened_at_ = next_;  // there is room, which it may have found by now; if not, it says so again
  } else {
    open_window();
  }
  reported_ = head_;
  if (grant(control_, head_, limit_)) tell_sender();
}

// ── Sleeping ─────────────────────────────────────────────────────────────────────────────────────

BarrierScope Inlet::arm(Landing landing) noexcept {
  if (!link_) {
    control_.receiver_armed.store(1, std::memory_order_seq_cst);  // SYNC receiver-sleep (receiver)
    return barrier_;
  }
  with_token([&] {
    if (shut_) return;
    hand_back();
    if (rests_) return;
    // Every publish wakes. What was consumed is told when the traffic has ended (on_time()).
    if (heard_by_receiver()) return;
    tend();
    if (shut_) return;
    if (immediates_only()) return report(true);
    const Cursor here = next_ | 1U;  // the low bit tells cursor 0 from "never"
    if (armed_at_ != here || reported_ != head_) {
      armed_at_ = here;
      report_remote(blocked_ && head_ > known_
                        ? std::optional(static_cast<std::uint32_t>(Immediate::credit))
                        : std::nullopt);
    }
    if (landing == Landing::left_to_engine && !arming_landed()) {
      landing_due_ = true;
      link_->arm(true, true);
      take_events();  // it may have landed just before
      landing_due_ = !arming_landed();
    }
    rest();
  });
  return BarrierScope::none;
}

bool Inlet::arming_landed() const noexcept {
  return shut_ || gone_.load(std::memory_order_relaxed) ||  // relaxed: who lost it notifies
         (told_armed_at_ == armed_at_ && landed_cookie_ >= armed_cookie_);
}

bool Inlet::armed() noexcept {
  if (!link_) return true;
  bool done = false;
  with_token([&] {
    // A question may have come: nobody else will hear of it, but for one who listens.
    if (!shut_ && !(heard_by_receiver() && arming_landed())) tend();
    done = arming_landed();
    rest();
  });
  return done;
}

bool Inlet::has_news() noexcept {
  bool news = false;
  with_token([&] {
    if (link_ && !shut_ && listens()) {
      take_events();
      report(false);
    }
    news = readable();
  });
  return news;
}

bool Inlet::readable() noexcept {
  if (shut_) return false;
  Record record;  // what the link tells was taken just before
  // Another clone has moved on since the sender was last told where to wake: it must be told anew.
  const bool stale = link_ && !immediates_only() && armed_at_ != (next_ | 1U);
  return stale || finished_ || gone_.load(std::memory_order_acquire) ||  // SYNC gone
         (!link_ && control_.sender_gone.load(std::memory_order_seq_cst) != 0) ||
         (next_view_ - first_view_ != kMaxViews &&
          ((link_ ? next_landed(record) : next_record(record)) != Inspection::absent || torn_ ||
           starving()));
}

/// SYNC receiver-sleep (receiver): as for records; a local sender that finds the window too small
/// wakes a receiver that sleeps.
bool Inlet::starving() const noexcept {
  return flow_ && !link_ && limit_ < head_ + window_ &&
         (control_.senders_waiting.load(std::memory_order_seq_cst) & kSenderWaits) != 0;
}

void Inlet::disarm() noexcept {
  // SYNC parked: sequentially consistent, before the count of the parked is looked at
  if (!link_) control_.receiver_armed.store(0, std::memory_order_seq_cst);
}

int Inlet::listen() noexcept {
  if (!link_) return -1;
  int fd = -1;
  with_token([&] {
    if (shut_ || listener_ == Listener::receiver) return;
    ++listens_;
    note_nap();
    if (listener_ == Listener::engine) take_over();
    fd = heard_fd_;
    listener_ = Listener::receiver;
    quieten();
    arm_link();
  });
  return fd;
}

/// From here on the engine hears of what need not be armed, or of nothing.
void Inlet::take_over() noexcept {
  heard_fd_ = link_->events_apart(true);
  if (heard_fd_ >= 0) return;
  heard_fd_ = link_->event_fd();
  Engine::get().rewatch(heard_fd_, 0);
}

void Inlet::listened(bool ready) noexcept {
  with_token([&] {
    listener_ = Listener::nobody;
    if (shut_) return;
    if (ready) {
      notified_ = true;
      take_events();
      heed_landing();
    }
    if (!timer_set_ && !(timer_set_ = set_timer())) hand_back();
  });
}

/// on_time() comes in a while. False: for want of memory it does not.
bool Inlet::set_timer() noexcept {
  try {
    Engine::get().call_at(Clock::now() + return_, shared_from_this());
    return true;
  } catch (const std::exception&) {
    return false;
  }
}

void Inlet::on_time(TimePoint /*now*/) noexcept {
  bool news = false;
  if (token_.try_lock()) {
    return_ = std::min(return_ * 2, kLongReturn);
    if (std::exchange(seen_listens_, listens_) == listens_ || shut_ || !set_timer())
      news = take_back();
    token_.unlock();
  } else if (!set_timer()) {  // who has the token may wait for this CPU: later, if that can be
    with_token([&] { news = take_back(); });
  }
  if (news) notify();
}

/// True: there is something to look at, of which nobody else tells.
bool Inlet::take_back() noexcept {
  timer_set_ = false;
  return_ = kReturn;
  if (shut_) return false;
  if (immediates_only()) report(true);
  if (listener_ != Listener::nobody) return false;
  hand_back();
  return readable();
}

/// A receiver that sleeps for nearly every message says so each time, in a write of its own, and
/// may find that the message was quicker. As immediates, messages wake it without being asked.
void Inlet::note_nap() noexcept {
  const auto messages = counters_->messages.load(std::memory_order_relaxed);
  const auto since = messages - std::exchange(napped_at_, messages);
  if (!chooses_ || since == 0) return;
  naps_ = since <= kFewMessages ? naps_ + 1 : 0;
  if (naps_ >= kManyNaps) change_mode(PublishMode::immediate);
}

/// ... but cost a busy one more than they save.
void Inlet::note_work() noexcept {
  if (!chooses_ || mode_ != PublishMode::immediate ||
      counters_->messages.load(std::memory_order_relaxed) - napped_at_ < kManyMessages)
    return;
  naps_ = 0;
  change_mode(PublishMode::hot);
}

/// The engine is to look at the link from here on, if nobody else does.
void Inlet::hand_back() noexcept {
  // relaxed: stored with the token
  if (listener_ == Listener::engine && unarmed_.load(std::memory_order_relaxed)) arm_link();
  if (listener_ != Listener::nobody) return;
  // What cannot be handed back, for want of memory, on_time() looks at.
  const bool apart = heard_fd_ != link_->event_fd();
  if (apart && link_->events_apart(false) < 0) {
    timer_set_ = timer_set_ || set_timer();
    return tend();
  }
  listener_ = Listener::engine;
  quieten();
  arm_link();
  tend();  // something may have come just before
  if (!apart) Engine::get().rewatch(heard_fd_, EPOLLIN);
}

void Inlet::arm_link() noexcept {
  unarmed_.store(false, std::memory_order_relaxed);  // relaxed: a tick more does no harm
  link_->arm(!ordered_ || report_due_ || landing_due_, true);
}

/// Where each message is an event of the link, it is left to a receiver that polls by itself, until
/// that goes to sleep.
void Inlet::arm_engine() noexcept {
  if (!polls_.begin() || !immediates_only() || !may_ask_engine()) return arm_link();
  unarmed_.store(true, std::memory_order_seq_cst);  // SYNC attention
  Engine::get().attention(Attention::later);
}

Attention Inlet::arm_in_time() noexcept {
  if (!unarmed_.load(std::memory_order_seq_cst)) return Attention::none;  // SYNC attention
  if (!token_.try_lock()) return Attention::later;                        // somebody looks
  bool news = false;
  if (shut_ || listener_ != Listener::engine) {
    unarmed_.store(false, std::memory_order_relaxed);  // relaxed: with the token
  } else if (polls_.tick()) {
    arm_link();
    tend();  // something may have come just before
    heed_landing();
    news = readable();
  }
  token_.unlock();
  if (news) notify();
  // relaxed: stored by this thread, or with the token by one who armed it
  return unarmed_.load(std::memory_order_relaxed) ? Attention::later : Attention::none;
}

/// What woke a receiver is taken before the next sleep: the message it was for comes first.
void Inlet::quieten() noexcept {
  if (std::exchange(notified_, false)) link_->disarm();
}

void Inlet::heed_landing() noexcept {
  landing_due_ = landing_due_ && !arming_landed();
  rest();
}

void Inlet::on_ready(std::uint32_t /*events*/) noexcept {
  bool news = false;
  with_token([&] {
    if (shut_) return;
    link_->disarm();
    if (listener_ == Listener::receiver) arm_link();
    if (listener_ == Listener::engine) arm_engine();
    work_stale_ = true;  // a lost rail is no event
    tend();
    heed_landing();
    news = readable();
  });
  if (news) notify();
}

// ── The end ──────────────────────────────────────────────────────────────────────────────────────

void Inlet::lose(const std::string& why) noexcept {
  {
    const std::lock_guard lock(mutex_);
    if (gone_.load(std::memory_order_relaxed)) return;  // relaxed: under the mutex
    reason_ = why;
    gone_.store(true, std::memory_order_release);  // SYNC gone
  }
  if (link_) tails_->mark(place_.index);
  notify();
}

void Inlet::on_goodbye(Cursor cursor) noexcept {
  with_token([&] {
    // The sender knows that everything up to here has landed; its own word of that may be slower.
    if (link_ && cursor > tail_ && cursor <= reported_ + window_ && cursor % kRecordAlign == 0)
      tail_ = cursor;
    // The ring's own last record comes before this is read as a loss. With the token: where the
    // record is not there, this is the reason, and not what lies in its place.
    goodbye_.store(true, std::memory_order_relaxed);
    lose("it said good-bye, but its last record never came");
  });
}

void Inlet::on_lost(const std::string& why) noexcept { lose(why); }

void Inlet::on_stalled(bool stalled) noexcept {
  stalled_.store(stalled, std::memory_order_relaxed);
}

void Inlet::retire() noexcept {
  bool now = false;
  with_token([&] {
    retired_ = true;
    if (link_) tails_->watch(place_.index, false);
    now = first_view_ == next_view_;
    if (!now) self_ = shared_from_this();
  });
  if (now) shut();
}

void Inlet::shut() noexcept {
  Cursor consumed = 0;
  with_token([&] {
    shut_ = true;
    quiet_until_ = 0;
    if (link_) tails_->watch(place_.index, false);
    consumed = head_;
    if (first_view_ != next_view_) self_ = shared_from_this();
  });
  control_.receiver_closed.store(1, std::memory_order_seq_cst);
  if (!link_) wake_senders(control_);
  if (bell_) bell_->ring();  // elsewhere the good-bye tells them
  if (connection_) {
    // A sender that was lost, or breaks the protocol, is not told that all is well.
    // SYNC gone. relaxed: stored before it
    if (!gone_.load(std::memory_order_acquire) || goodbye_.load(std::memory_order_relaxed))
      connection_->say_goodbye(FrameType::closed, consumed);
    connection_->stop();
  }
  // After the good-bye: a sender whose device finds it out says why, too.
  if (landings_) with_token([&] { landings_->give_up(); });
  if (link_) Engine::get().unwatch(link_->event_fd());
}

Loss Inlet::loss() const {
  const auto now = stats();
  const std::lock_guard lock(mutex_);
  return {now.progress, peer_ + ": " + reason_};
}

SourceStats Inlet::stats() const {
  SourceStats stats;
  stats.id = id_;
  stats.peer = peer_;
  stats.capacity = memory_.capacity;
  stats.window = window_;
  stats.flow = flow_ ? flow_->stats() : WindowStats{window_, window_, window_, 0, {}};
  {
    const std::lock_guard lock(mutex_);
    stats.path = path_;
    stats.work = work_;
    if (gone_.load(std::memory_order_relaxed)) {
      const bool said = goodbye_.load(std::memory_order_relaxed);
      stats.state = said ? PeerState::closed : PeerState::lost;
      if (!said) stats.path += ": " + reason_;
    } else if (stalled_.load(std::memory_order_relaxed)) {
      stats.state = PeerState::stalled;
    }
  }
  // What was released here is exact; that it was delivered and accepted follows.
  const auto consumed = counters_->messages.load(std::memory_order_relaxed);
  stats.progress = {consumed, consumed, consumed};
  stats.landings = counters_->landings.load(std::memory_order_relaxed);
  return stats;
}

}  // namespace penstock::inline v1
