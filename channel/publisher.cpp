#include "penstock/channel/publisher.hpp"

#include <sys/epoll.h>

#include <algorithm>
#include <bit>

#include "penstock/channel/park.hpp"
#include "penstock/channel/spin.hpp"
#include "penstock/transport/few.hpp"

namespace penstock::inline v1 {
namespace {

/// While something is in flight, this much must wait before the next publish: small records travel
/// together, large ones keep the device busy.
constexpr std::uint64_t kWorthPosting = 64UL * 1024;
/// One publish is at most this long, and this part of the ring: its beginning is consumed while its
/// end travels, and the ring is filled again while others travel.
constexpr std::uint64_t kMaxPublish = 1024UL * 1024;
constexpr std::uint64_t kPublishPart = 4;
/// Pacing: after so many posts that followed each other at once, records are held back, for at most
/// so many times what a post takes.
constexpr std::uint32_t kStreak = 4;
constexpr std::uint64_t kMaxHold = 16;
constexpr std::uint64_t kManyRecords = 8;
constexpr std::uint64_t kManyLargeRecords = 4;
/// So few go while a publish is on its way, if they come so many posts' time after the last.
constexpr std::uint64_t kFewRecords = 4;
constexpr std::uint64_t kLongAfter = 2;
/// Producers whose records are held back look at the clock once for so many bytes.
constexpr std::uint64_t kBytesPerLook = 1024;
/// Writes handed over in one post.
constexpr std::size_t kMaxWrites = 16;
/// For the engine to take the token, a few milliseconds, before it looks after others.
constexpr int kMostTries = 125;
/// A hot record, header included, is at most this long: the receiver hashes it on every look.
constexpr std::uint64_t kMaxHot = 2048;

}  // namespace

Publisher::Publisher(LinkEnd end, const RingMemory& memory, std::uint64_t window,
                     std::shared_ptr<Bell> bell)
    : owner_(memory.owner),
      link_(std::move(end.link)),
      credit_line_(*reinterpret_cast<const CreditLine*>(end.credit)),
      offer_line_(*reinterpret_cast<const OfferLine*>(end.credit + kOfferOffset)),
      ring_(memory),
      control_(*memory.control),
      bell_(std::move(bell)),
      prover_(memory.key),
      limits_(link_->limits()),
      window_(window),
      max_publish_(std::min(kMaxPublish, ring_.capacity() / kPublishPart)),
      path_(link_->path()) {
  credit_.limit = window;
  control_.limit.store(window, std::memory_order_relaxed);  // relaxed: nobody else knows us yet
}

Publisher::~Publisher() {
  stop();
  // A device must not be touched from a child process: its parent still uses it.
  if (!birth_.here()) (void)link_.release();
}

void Publisher::start(std::function<void(const std::string&)> failed) {
  failed_ = std::move(failed);
  auto& engine = Engine::get();
  engine.attend(shared_from_this());
  token_.run([this] {
    link_->arm(false, true);
    advance();
  });
  engine.watch(link_->event_fd(), EPOLLIN, shared_from_this());
}

void Publisher::stop() noexcept {
  if (birth_.here()) Engine::get().unwatch(link_->event_fd());
}

void Publisher::kick(Cursor begin, Cursor end, bool answer) noexcept {
  if (answer) answers_.store(true, std::memory_order_relaxed);  // relaxed: SYNC token orders it
  // SYNC leftover (producer). relaxed: hints, the engine comes in any case
  if (!answer && left_over_.load(std::memory_order_seq_cst) &&
      end < worth_at_.load(std::memory_order_relaxed) &&
      (begin / kBytesPerLook == end / kBytesPerLook ||
       cycles() < due_at_.load(std::memory_order_relaxed)))
    return;
  token_.run([this] { look(); });
}

void Publisher::progress() noexcept {
  token_.try_run([this] { look(); });
}

void Publisher::ask_credit(bool room) noexcept {
  if (room) wants_room_.store(true, std::memory_order_relaxed);
  wants_credit_.store(true, std::memory_order_relaxed);  // relaxed: SYNC token orders it
  token_.run([this] { look(); });
}

void Publisher::look() noexcept {
  polls_.polled();
  advance();
}

void Publisher::on_ready(std::uint32_t /*events*/) noexcept {
  // The holder may have lost its CPU, to this thread perhaps; the descriptor stays ready.
  Backoff backoff;
  for (int tries = 0; tries < kMostTries; ++tries) {
    if (token_.try_run([this] {
          link_->disarm();
          arm_engine();
          advance();
        }))
      return;
    backoff.wait();
  }
}

Attention Publisher::on_attention() noexcept {
  if (!unattended_.load(std::memory_order_seq_cst)) return Attention::none;  // SYNC attention
  // relaxed: hints, as for a producer, which posts while its stream goes on
  if (left_over_.load(std::memory_order_relaxed) &&
      cycles() < due_at_.load(std::memory_order_relaxed))
    return Attention::soon;
  token_.try_run([this] {
    if (unarmed_ && polls_.tick()) arm_link();
    advance();
  });
  return left_over_.load(std::memory_order_relaxed) ? Attention::soon : Attention::later;
}

/// Where each credit line is an event of the link, it is left to senders that poll by themselves,
/// while none waits.
void Publisher::arm_engine() noexcept {
  // relaxed: who begins to wait asks for credit, which arms it
  unarmed_ = polls_.begin() && !limits_.ordered_writes &&
             control_.senders_waiting.load(std::memory_order_relaxed) == 0;
  if (!unarmed_) arm_link();
}

void Publisher::arm_link() noexcept {
  unarmed_ = false;
  link_->arm(flight_awaited_, true);
}

// A device takes a post in no time and works on it by itself: while it does, records gather. Some
// (soft-RoCE in one machine) do all of their work within the call, so that the link looks idle
// again after every single record and a stream would go out one by one. Where posts follow each
// other with hardly any time between, records are therefore held back until a publish is worth it,
// or for a few times what a post takes; the engine posts what a stream leaves at its end. A record
// that comes alone is posted at once, and so is one that its thread sends after it waited for a
// message, or took the last there was: of two that play ping-pong, each is awake when the other's
// post returns, and may have answered by then.
void Publisher::pace(std::uint64_t started, std::uint64_t records, std::uint64_t bytes) noexcept {
  const auto now = cycles();
  streak_ = started - last_post_end_ < post_cost_ / 4 ? streak_ + 1 : 0;
  post_cost_ = now - started;
  last_post_end_ = now;
  if (hold_ != 0) {
    if (records <= 1) {
      hold_ = 0;
      streak_ = 0;
    } else if (bytes >= kWorthPosting) {
      hold_ = post_cost_;  // as long as the next would wait for this one on any device
    } else if (records < kManyRecords || posted_ == frontier_) {
      hold_ = std::min(hold_ * 2, post_cost_ * kMaxHold);
    }
  } else if (streak_ >= kStreak) {
    hold_ = post_cost_ * 2;
  }
  // What takes longer was a pause of this process.
  hold_ = std::min(hold_, cycles_per_ms());
}

bool Publisher::held_back() const noexcept {
  // A difference: a clock that is set back holds nothing for long. relaxed: who waits asks, in
  // order
  return cycles() - last_post_end_ < hold_ &&
         control_.senders_waiting.load(std::memory_order_relaxed) == 0;
}

void Publisher::advance() noexcept {
  if (failed_once_) return;
  // Who waits may fall asleep.
  if (unarmed_ && wants_credit_.load(std::memory_order_relaxed)) arm_link();
  bool armed = false;
  for (;;) {
    // SYNC leftover (holder); relaxed: only holders write it
    if (left_over_.load(std::memory_order_relaxed))
      left_over_.store(false, std::memory_order_seq_cst);
    const bool answer = answers_.load(std::memory_order_relaxed);
    if (answer) {
      answers_.store(false, std::memory_order_relaxed);
      hold_ = 0;
      streak_ = 0;
    }
    // First the record, for which the receiver may wait: of an idle link nothing has completed.
    const bool idle = hold_ == 0 && (answer || in_flight_head_ == in_flight_tail_);
    if (!idle) take_events();
    // A line that is known already says nothing: what else moves the limit can wait for the post.
    if (!idle || !is_credit(credit_line_, credit_)) {
      take_credit();
      adopt();
    }
    walk();
    const auto started = answer ? 0 : cycles();
    const auto before = posted_;
    std::uint64_t records = 0;
    while (!failed_once_ && may_post(answer)) {
      const auto waiting = waiting_records_;
      if (!post_next()) break;
      records += waiting;
      walk();
    }
    if (records != 0) {
      if (!answer) pace(started, records, posted_ - before);
    } else if (posted_ == frontier_) {
      hold_ = 0;  // a stream has ended
    }
    // Where a device works within the call, what was posted is complete: nobody need look after it.
    if (idle || records != 0) {
      take_events();
      take_credit();
    }
    adopt();
    if (failed_once_) return;
    signal_sleeper();
    if (posted_ < frontier_ && in_flight_head_ == in_flight_tail_ && !held_back()) {
      // Held back by the peer's receives.
      wants_credit_.store(true, std::memory_order_relaxed);
    } else if (credit_.consumed == frontier_ && !window_too_small()) {
      wants_credit_.store(false,
                          std::memory_order_relaxed);  // nothing is out that could be credited
    }
    // Asked only once something is out there to be consumed, or the window is all that is missing;
    // until then the wish is kept.
    if (wants_credit_.load(std::memory_order_relaxed) && !asked_ &&
        (credit_.consumed < posted_ || window_too_small())) {
      asked_ = post({}, static_cast<std::uint32_t>(Immediate::blocked) | low_bits(credit_.consumed),
                    posted_);
      if (asked_) wants_credit_.store(false, std::memory_order_relaxed);
    }
    if (failed_once_) return;
    const bool left = posted_ < frontier_;
    if (left && records != 0 && may_post(answer)) continue;  // what completed has made way for more
    if (left && !armed) {
      link_->arm(true, true);  // then once more around: an event may have come just before
      armed = true;
      unarmed_ = false;
      continue;
    }
    if (left || hold_ != 0) {
      // relaxed: read after left_over_, and a hint only
      due_at_.store(cycles() + std::min(std::max(hold_, post_cost_), cycles_per_ms()),
                    std::memory_order_relaxed);
      worth_at_.store(posted_ + max_publish_, std::memory_order_relaxed);
      left_over_.store(true, std::memory_order_seq_cst);
    }
    break;
  }
  show_counters();
  // Completions that nobody waits for, records held back: the engine looks after them; the former
  // for the sake of a receiver that fell asleep between the publish and its landing. Likewise a
  // credit line that was landing.
  const bool held = hold_ != 0;
  const bool unasked = wants_credit_.load(std::memory_order_relaxed) && !asked_;
  const bool pending = held || unasked || in_flight_head_ != in_flight_tail_ || torn_ || unarmed_;
  // SYNC attention; relaxed: only holders write it
  if (pending || unattended_.load(std::memory_order_relaxed))
    unattended_.store(pending, std::memory_order_seq_cst);
  if (pending) Engine::get().attention(held ? Attention::soon : Attention::later);
}

void Publisher::take_events() noexcept {
  // A sender that lingers waits for completions.
  if (reap() && wake_waiting(control_)) bell_->ring();
}

bool Publisher::reap() noexcept {
  std::array<LinkEvent, 8> events;
  bool any = false;
  for (;;) {
    const auto count = link_->poll(events);
    for (std::size_t i = 0; i < count; ++i) {
      const auto& event = events[i];
      switch (event.kind) {
        case LinkEvent::Kind::completed: {
          landed_cookie_ = event.value;
          while (in_flight_head_ != in_flight_tail_ &&
                 in_flight_[in_flight_head_ % kMaxInFlight].cookie <= event.value) {
            // SYNC completed; sequentially consistent because of SYNC sender-sleep
            completed_.store(in_flight_[in_flight_head_ % kMaxInFlight].end,
                             std::memory_order_seq_cst);
            ++in_flight_head_;
          }
          any = true;
          break;
        }
        case LinkEvent::Kind::immediate:
          any = true;  // its news is in the credit line
          if (static_cast<Immediate>(event.value & kImmediateKind) == Immediate::credit)
            asked_ = false;
          break;
        case LinkEvent::Kind::failed: fail(link_->error()); return true;
      }
    }
    if (count < events.size()) return any;
  }
}

// ── Landings ─────────────────────────────────────────────────────────────────────────────────────

std::unique_ptr<LinkMemory> Publisher::add_source(std::span<const std::byte> message) noexcept {
  // Only read there.
  return link_->add_memory({const_cast<std::byte*>(message.data()), message.size(), false});
}

std::optional<OfferLine> Publisher::offer(std::uint64_t id) const noexcept {
  const auto line = read_offer(offer_line_, ring_.key());
  return line && line->id == id ? line : std::nullopt;
}

void Publisher::advance(Flight& flight) noexcept {
  for (Backoff backoff; !token_.try_run([&] {
         write_more(flight);
         advance();
       });)
    backoff.wait();
}

void Publisher::write_more(Flight& flight) noexcept {
  flight_awaited_ = false;
  for (bool armed = false;;) {
    take_events();
    flight.failed_ = failed_once_;
    if (failed_once_) return;
    auto& cookies = flight.cookies_;
    while (!flight.grounded() && cookies[flight.first_ % cookies.size()] <= landed_cookie_)
      ++flight.first_;
    while (flight.written_ != flight.length_ && flight.next_ - flight.first_ != cookies.size()) {
      const auto length = std::min<std::uint64_t>(
          {flight.length_ - flight.written_, Flight::kMostBytes, limits_.max_write});
      const auto status = link_->land({.source = flight.source_,
                                       .offset = flight.written_,
                                       .length = static_cast<std::uint32_t>(length),
                                       .place = flight.place_},
                                      cookie_ + 1);
      if (status == PostStatus::no_room) break;
      if (status == PostStatus::failed) return fail(link_->error());
      cookies[flight.next_++ % cookies.size()] = ++cookie_;
      flight.written_ += length;
    }
    // relaxed: set by the thread that waits, before it came here
    const bool sleeps =
        (control_.senders_waiting.load(std::memory_order_relaxed) & kSenderWantsAny) != 0;
    if (armed || flight.landed() || !sleeps) return;
    link_->arm(true, true);  // then once more around: an event may have come just before
    armed = flight_awaited_ = true;
  }
}

void Publisher::take_credit() noexcept {
  torn_ = false;
  if (!is_credit(credit_line_, credit_)) take_credit_line();
  if (failed_once_) return;
  const auto limit = std::min(credit_.limit, completed() + ring_.capacity());
  // relaxed: written with the token held only
  if (limit != control_.limit.load(std::memory_order_relaxed) ||
      credit_.consumed != control_.consumed.load(std::memory_order_relaxed)) {
    if (grant(control_, credit_.consumed, limit)) bell_->ring();
  }
}

void Publisher::take_credit_line() noexcept {
  const auto line = read_credit(credit_line_, ring_.key());
  torn_ = !line && load_shared(credit_line_.mode) != 0;  // all zero until the first one lands
  if (line && line->mode >> 8U > credit_.mode >> 8U) {
    // A checked line comes from the receiver itself: what does not fit together is its fault.
    if (line->consumed < credit_.consumed || line->consumed > posted_ ||
        line->consumed % kRecordAlign != 0 || line->limit < credit_.limit ||
        line->limit > line->consumed + ring_.capacity() || (line->armed_at & ~1ULL) > posted_)
      return fail("the receiver's credit makes no sense (consumed " +
                  std::to_string(line->consumed) + " of " + std::to_string(posted_) +
                  " sent): it breaks the protocol");
    if (line->limit > credit_.limit) wants_room_.store(false, std::memory_order_relaxed);
    credit_ = *line;
  }
}

/// The receiver wants to be told otherwise: from here on, and it hears from where on, after all
/// that was published before.
void Publisher::adopt() noexcept {
  const auto line = credit_.mode >> 8U;
  if (line == 0) return;
  const auto wanted = static_cast<PublishMode>(credit_.mode & 0xFFU);
  if (wanted == mode_ || written_ != posted_) return;
  // The first line says how to begin. A later one may have overtaken it.
  if (told_how() || line != 1) {
    if (!post({}, static_cast<std::uint32_t>(Immediate::adopted) | low_bits(posted_), posted_))
      return;  // when something has completed
  }
  if (told_how()) ++mode_changes_;
  mode_ = wanted;
}

/// A sender waits for room, everything it sent is consumed, and still there is not enough.
bool Publisher::window_too_small() const noexcept {
  return wants_room_.load(std::memory_order_relaxed) && credit_.consumed == posted_ &&
         posted_ == frontier_ && credit_.limit < credit_.consumed + window_;
}

/// For each record of a stream: short, on copies that a store to a ring does not touch.
void Publisher::walk() noexcept {
  const auto ring = ring_;
  const auto most = posted_ + max_publish_;
  const auto bound = posted_ + ring.capacity();
  auto at = frontier_;
  std::uint64_t word = 0;
  while (at < most && ring.committed(at, word)) {
    const auto size = record_size(header_length(word));
    if (size > std::min(ring.room(at), bound - at)) break;  // our own producers make none such
    if ((header_flags(word) & kPadding) != 0) padding_ = at;
    last_record_ = at;
    last_word_ = word;
    ++waiting_records_;
    at += size;
  }
  frontier_ = at;
}

bool Publisher::worth_posting(std::uint64_t waiting) const noexcept {
  return waiting >= max_publish_ ||
         (waiting >= kWorthPosting && waiting_records_ >= kManyLargeRecords);
}

bool Publisher::may_post(bool answer) const noexcept {
  const auto waiting = frontier_ - posted_;
  if (waiting == 0 || !told_how()) return false;
  if (hold_ != 0 && !worth_posting(waiting) && held_back()) return false;
  const auto flying = in_flight_tail_ - in_flight_head_;
  if (mode_ == PublishMode::immediate) {
    // Every publish takes one of the receiver's receives until the receiver says that it has posted
    // it anew; half are kept for it to be slow, and for the other immediates.
    const auto taken = std::max(credit_.consumed, credit_.armed_at);
    const auto out =
        std::ranges::count_if(in_flight_, [&](const InFlight& f) { return f.end > taken; });
    if (static_cast<std::uint32_t>(out) >=
        std::min<std::uint32_t>(limits_.receives / 2, kMaxInFlight))
      return false;
  }
  if (flying == 0) return true;
  if (flying == kMaxInFlight || posted_ - completed() >= ring_.capacity()) return false;
  // An answer, or a few records that come long after the last post, are no stream that would gather
  // while that is on its way.
  if (waiting_records_ <= kFewRecords &&
      (answer || cycles() - last_post_end_ > post_cost_ * kLongAfter))
    return true;
  return waiting >= std::min(kWorthPosting, ring_.capacity() / 4);
}

bool Publisher::sleeper_waits(Cursor end) const noexcept {
  // One wake-up at a time, so that the peer's receives are bounded: the next when it has landed.
  const bool landed = in_flight_head_ == in_flight_tail_ ||
                      in_flight_[in_flight_head_ % kMaxInFlight].cookie > wake_cookie_;
  return landed && credit_.armed_at != 0 && credit_.armed_at != signalled_ &&
         end > (credit_.armed_at & ~1ULL);
}

bool Publisher::hot_possible() const noexcept {
  return mode_ == PublishMode::hot && waiting_records_ == 1 && in_flight_head_ == in_flight_tail_ &&
         (header_flags(last_word_) & kPadding) == 0 &&
         record_size(header_length(last_word_)) <= std::min<std::uint64_t>(limits_.packet, kMaxHot);
}

void Publisher::prove_last() const noexcept {
  auto& h = ring_.header(last_record_);
  const auto length = header_length(last_word_);
  const auto word =
      header_word(length, static_cast<std::uint8_t>(header_flags(last_word_) | kSelfProved));
  const auto* payload = ring_.at(last_record_) + sizeof(RecordHeader);
  // relaxed: committed records are this thread's alone until they are posted
  std::atomic_ref(h.word).store(word, std::memory_order_relaxed);
  std::atomic_ref(h.mark).store(prover_.prove(last_record_, word, payload, length),
                                std::memory_order_relaxed);
}

bool Publisher::post_next() noexcept {
  const Cursor end = frontier_;
  const bool hot = written_ == posted_ && hot_possible();
  if (hot) prove_last();
  Few<RemoteWrite, kMaxWrites> writes;
  const auto most = std::min<std::size_t>(limits_.max_writes, kMaxWrites) - 1;  // one for the tail
  Cursor to = written_;
  while (to < end) {
    if (writes.size() ==
        most) {  // a long publish on a device of short writes: data ahead of its tail
      if (!post(writes.all(), std::nullopt, posted_)) return false;
      written_ = to;
      writes.clear();
    }
    // Of a padding record only the header is looked at.
    const auto stop = padding_ >= to && padding_ < end ? padding_ + sizeof(RecordHeader) : end;
    const auto length = std::min({stop - to, ring_.room(to), std::uint64_t{limits_.max_write}});
    writes.add({.source = ring_.at(to),
                .length = static_cast<std::uint32_t>(length),
                .region = kRingRegion,
                .offset = to & (ring_.capacity() - 1)});
    to += length;
    if (to == stop && stop != end) to += ring_.room(to) % ring_.capacity();
  }
  std::optional<std::uint32_t> immediate;
  TailLine tail;
  const bool wakes = mode_ != PublishMode::immediate && sleeper_waits(end);
  if (mode_ == PublishMode::immediate) {
    immediate = static_cast<std::uint32_t>(Immediate::landed) | low_bits(end);
  } else {
    if (wakes) immediate = static_cast<std::uint32_t>(Immediate::wake);
    if (!hot) {
      tail = {end, ring_.key().tail_check(end)};
      writes.add({.source = reinterpret_cast<const std::byte*>(&tail),
                  .length = sizeof tail,
                  .region = kTailRegion,
                  .copied = true});
    }
  }
  if (!post(writes.all(), immediate, end)) return false;
  if (wakes) signalled();
  if (hot) ++hot_;
  posted_ = written_ = end;
  waiting_records_ = 0;
  return true;
}

bool Publisher::post(std::span<const RemoteWrite> writes, std::optional<std::uint32_t> immediate,
                     Cursor end) noexcept {
  if (in_flight_tail_ - in_flight_head_ == kMaxInFlight) return false;
  switch (link_->post(writes, immediate, cookie_ + 1)) {
    case PostStatus::no_room: return false;
    case PostStatus::failed: fail(link_->error()); return false;
    case PostStatus::posted: break;
  }
  in_flight_[in_flight_tail_++ % kMaxInFlight] = {++cookie_, end};
  return true;
}

void Publisher::signal_sleeper() noexcept {
  // In immediate mode every publish wakes.
  if (mode_ == PublishMode::immediate) return;
  if (sleeper_waits(posted_) && post({}, static_cast<std::uint32_t>(Immediate::wake), posted_))
    signalled();
}

void Publisher::signalled() noexcept {
  signalled_ = credit_.armed_at;
  wake_cookie_ = cookie_;
}

void Publisher::fail(const std::string& why) noexcept {
  if (std::exchange(failed_once_, true)) return;
  left_over_.store(true, std::memory_order_relaxed);  // nothing is posted any more
  unattended_.store(false, std::memory_order_relaxed);
  show_counters();
  failed_(why);
}

void Publisher::show_counters() noexcept {
  const auto counters = link_->counters();
  const auto show = [](auto& shown, auto value) { shown.store(value, std::memory_order_relaxed); };
  show(shown_.posts, counters.posts);
  show(shown_.work_requests, counters.work_requests);
  show(shown_.completions, counters.completions);
  show(shown_.immediates, counters.immediates);
  // relaxed: this is the only writer
  if (counters.lost_rails != shown_.lost_rails.load(std::memory_order_relaxed)) {
    show(shown_.lost_rails, counters.lost_rails);
    const std::lock_guard lock(mutex_);
    path_ = link_->path();
  }
  show(shown_.hot, hot_);
  show(shown_.mode_changes, mode_changes_);
  show(shown_.mode, mode_.value_or(PublishMode::tail));
}

std::string Publisher::path() const {
  const std::lock_guard lock(mutex_);
  return path_;
}

PathStats Publisher::stats() const {
  const auto shown = [](const auto& value) { return value.load(std::memory_order_relaxed); };
  return {.posts = shown(shown_.posts),
          .work_requests = shown(shown_.work_requests),
          .completions = shown(shown_.completions),
          .credit_writes = 0,
          .arming_writes = 0,
          .immediates = shown(shown_.immediates),
          .hot_publishes = shown(shown_.hot),
          .lost_rails = shown(shown_.lost_rails),
          .mode_changes = shown(shown_.mode_changes),
          .mode = shown(shown_.mode)};
}

}  // namespace penstock::inline v1
