#include "penstock/channel/outlet.hpp"

#include <unistd.h>

#include <sys/epoll.h>

#include <algorithm>
#include <cstring>

#include "penstock/channel/async.hpp"
#include "penstock/channel/pack.hpp"
#include "penstock/channel/park.hpp"
#include "penstock/channel/receiver.hpp"
#include "penstock/transport/link_budget.hpp"

namespace penstock::inline v1 {
namespace {

/// A receiver that shares the futex word with this process can take sleepers away from it, so that
/// nothing wakes them, not even its own end (FUTEX_REQUEUE): they look by themselves now and then.
constexpr auto kLongestSleep = std::chrono::seconds(1);
/// A sender that waits takes credit in batches for so many looks, then any there is.
constexpr std::uint32_t kLooksForBatches = 1000;
/// What is published at once: as much as a receiver takes at once, and not so much that it waits
/// for the end while it could read the beginning.
constexpr std::size_t kMostInRun = Messages::kMost;
constexpr std::size_t kMostBytesInRun = std::size_t{16} * 1024;
/// A message in pieces: a piece takes so much of the window, so that several are on their way, ...
constexpr std::uint64_t kPiecesInWindow = 8;
/// ... and no more than this, after which larger ones gain nothing.
constexpr std::uint64_t kLargestPiece = std::uint64_t{256} * 1024;
/// Memory is asked for ahead of the message for so many bytes at most: they stay pinned at the
/// receiver when no such message comes, and asking takes less of the time of larger ones.
constexpr std::uint64_t kMostAhead = std::uint64_t{16} << 20U;

/// So many, from `first` on, are published at once; 0 where that one is longer than `longest`.
std::size_t run_length(const Records& records, std::size_t first, std::size_t longest) noexcept {
  const auto left = std::min(records.count - first, kMostInRun);
  if (records.scattered == nullptr)
    return records.each > longest
               ? 0
               : std::min(left, std::max<std::size_t>(kMostBytesInRun / records.each, 1));
  std::size_t length = 0;
  for (std::size_t bytes = 0; length != left; ++length) {
    const auto size = records.size(first + length);
    bytes += size;
    if (size > longest || (length != 0 && bytes > kMostBytesInRun)) break;
  }
  return length;
}

}  // namespace

Outlet::Outlet(OutletParts parts, const ConnectOptions& options)
    : options_(options),
      memory_(parts.ring),
      control_(*memory_.control),
      max_in_place_(RingProducer::max_payload(parts.window)),
      max_message_(std::max(max_in_place_, parts.max_message)),
      window_(parts.window),
      lands_(parts.remote.landings && parts.max_message > max_in_place_ &&
             options.landing != kLandingNever),
      longest_record_(
          lands_ ? std::min<std::size_t>(max_in_place_, Crossover(options.landing).least() - 1)
                 : max_in_place_),
      peer_(std::move(parts.peer)),
      path_(std::move(parts.path)),
      rejected_(std::move(parts.rejected)),
      receiver_wake_fd_(parts.receiver_wake_fd),
      bell_(parts.bell ? std::move(parts.bell) : std::make_shared<Bell>()),
      connection_(std::move(parts.connection)),
      ring_(memory_, parts.window),
      sleep_barrier_(parts.remote.link || options.spin == Duration::zero() || !enroll_in_barriers()
                         ? BarrierScope::none
                     : connection_ ? BarrierScope::machine
                                   : BarrierScope::process),
      crossover_(options.landing),
      receiver_tells_(parts.remote.link || !connection_ || parts.room_frames) {
  // relaxed: a receiver that does not see it makes full barriers
  if (sleep_barrier_ != BarrierScope::none)
    control_.sender_barriers.store(1, std::memory_order_relaxed);
  if (parts.remote.link)
    publisher_ = std::make_shared<Publisher>(std::move(parts.remote), memory_, parts.window, bell_);
}

void Outlet::start() {
  if (connection_) connection_->start(weak_from_this());
  if (!publisher_) return;
  publisher_->start([weak = weak_from_this()](const std::string& why) {
    if (const auto outlet = weak.lock()) outlet->connection_->suspect(why);
  });
}

Outlet::~Outlet() {
  if (connection_) connection_->stop();
  if (publisher_) publisher_->stop();
  // relaxed: nobody else is left
  if (listening_.load(std::memory_order_relaxed) && here()) Engine::get().unwatch(bell_->fd());
}

Tally* Outlet::join() {
  const std::lock_guard lock(mutex_);
  if (!tallies_.empty()) ring_.share();
  return tallies_.emplace_back(std::make_unique<Tally>()).get();
}

Tally* Outlet::join_others() {
  const std::lock_guard lock(mutex_);
  if (tallies_.empty()) return nullptr;
  ring_.share();
  return tallies_.emplace_back(std::make_unique<Tally>()).get();
}

std::size_t Outlet::clones() const noexcept {
  const std::lock_guard lock(mutex_);
  return tallies_.size();
}

void Outlet::leave(Tally* tally) noexcept {
  if (!here()) return;
  {
    const std::lock_guard lock(mutex_);
    const auto own = std::ranges::find(tallies_, tally, &std::unique_ptr<Tally>::get);
    const auto add = [](std::atomic<std::uint64_t>& sum, const std::atomic<std::uint64_t>& part) {
      sum.fetch_add(part.load(std::memory_order_relaxed), std::memory_order_relaxed);
    };
    add(retired_.messages, tally->messages);
    add(retired_.bytes, tally->bytes);
    add(retired_.stalls, tally->stalls);
    add(retired_.parks, tally->parks);
    tallies_.erase(own);
    if (!tallies_.empty()) return;
  }
  finish();
}

void Outlet::finish() noexcept {
  const auto deadline = deadline_after(options_.linger);
  bool said = say_last(deadline);
  if (publisher_)
    said = wait(kSenderFlushes, deadline, nullptr,
                [&](Credit) { return publisher_->delivered(ring_.tail()); }) &&
           said;
  if (said) {
    if (connection_) connection_->say_goodbye(FrameType::bye, ring_.tail());
  } else if (!connection_) {
    control_.sender_gone.store(1, std::memory_order_seq_cst);  // SYNC receiver-sleep
    wake_receiver();
  }
  // Without a good-bye the receiver sees a lost sender: nothing is lost silently.
  if (connection_) connection_->stop();
  if (publisher_) publisher_->stop();
}

SendStatus Outlet::refusal() const noexcept {
  // SYNC ended. The receiver's flag: relaxed, it guards nothing.
  switch (ended_.load(std::memory_order_acquire)) {
    case End::lost: return SendStatus::peer_lost;
    case End::closed: return SendStatus::closed;
    case End::open: break;
  }
  if (!publisher_ && control_.receiver_closed.load(std::memory_order_relaxed) != 0)
    return SendStatus::closed;
  return SendStatus::sent;
}

template <class Done>
bool Outlet::wait(SenderWait what, TimePoint deadline, Tally* tally, Done&& done) noexcept {
  // relaxed: counters of this thread's own
  const auto count = [](std::atomic<std::uint64_t>& n) {
    n.store(n.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
  };
  if (tally != nullptr) count(tally->stalls);
  for (;;) {
    // SYNC sender-sleep (sender): from here on the receiver tells us of credit. Set before
    // spinning too, because a receiver that is never out of work returns credit lazily.
    const auto epoch = control_.credit_epoch.load(std::memory_order_seq_cst);
    control_.senders_waiting.fetch_or(what, std::memory_order_seq_cst);
    if (publisher_ && what != kSenderLands) publisher_->ask_credit(what == kSenderWaits);
    say_waiting(what);
    Spinner spinner(options_.spin, deadline);
    bool answered = false;
    std::uint32_t looks = 0;
    do {
      if (publisher_) publisher_->progress();
      if (done(++looks < kLooksForBatches ? Credit::granted : Credit::any)) return true;
      if (refusal() != SendStatus::sent) return done(Credit::any);
      // An answer came and was not enough: ask again.
      answered = control_.credit_epoch.load(std::memory_order_seq_cst) != epoch;
    } while (!answered && spinner.again());
    if (Clock::now() >= deadline) return done(Credit::any);
    if (answered) continue;
    control_.senders_waiting.fetch_or(kSenderSleeps, std::memory_order_seq_cst);
    say_waiting(what);
    barrier_for_all(sleep_barrier_);     // SYNC sender-sleep: in place of the receiver's own
    if (done(Credit::any)) return true;  // what was consumed before the waker could see it
    if (tally != nullptr) count(tally->parks);
    futex_wait(control_.credit_epoch, epoch, std::min(deadline, Clock::now() + kLongestSleep));
  }
}

template <class Attempt>
SendStatus Outlet::claim_by(Duration timeout, Tally& tally, Attempt&& attempt) noexcept {
  if (const auto refused = refusal(); refused != SendStatus::sent) return refused;
  auto result = attempt(Credit::granted);
  if (result == ClaimResult::full && timeout > timeout.zero()) {
    if (!wait(kSenderWaits, deadline_after(timeout), &tally, [&](Credit credit) {
          result = attempt(credit);
          return result != ClaimResult::full;
        }))
      if (const auto refused = refusal(); refused != SendStatus::sent) return refused;
  } else if (result == ClaimResult::full && publisher_) {
    publisher_->progress();  // so that a loop of try_send needs nobody's help
    result = attempt(Credit::any);
    if (result == ClaimResult::full) publisher_->ask_credit(true);
  } else if (result == ClaimResult::full) {
    result = attempt(Credit::any);
    // relaxed: whoever set it before has said so, and the receiver looks at it before it sleeps
    if (result == ClaimResult::full && control_.window_lives.load(std::memory_order_relaxed) != 0 &&
        (control_.senders_waiting.load(std::memory_order_relaxed) & kSenderWaits) == 0) {
      control_.senders_waiting.fetch_or(kSenderWaits, std::memory_order_seq_cst);
      say_waiting(kSenderWaits);
    }
  }
  switch (result) {
    case ClaimResult::claimed: return SendStatus::sent;
    case ClaimResult::closed: return SendStatus::closed;
    case ClaimResult::full: break;
  }
  return timeout > timeout.zero() ? SendStatus::timed_out : SendStatus::full;
}

SendStatus Outlet::claim(std::size_t size, Duration timeout, Tally& tally, Claim& out) noexcept {
  if (!here()) return SendStatus::forked;
  if (size > longest_record_) return too_large();
  const auto length = static_cast<std::uint32_t>(size);
  return claim_by(timeout, tally, [&](Credit credit) { return ring_.claim(length, out, credit); });
}

SendStatus Outlet::claim_in_place(std::size_t size, Duration timeout, Tally& tally,
                                  Claim& out) noexcept {
  if (size <= longest_record_ || !here()) return claim(size, timeout, tally, out);
  if (size > max_in_place_) return too_large();
  const auto length = static_cast<std::uint32_t>(size);
  return claim_by(timeout, tally, [&](Credit credit) { return ring_.claim(length, out, credit); });
}

// ── Long messages ────────────────────────────────────────────────────────────────────────────────

SendStatus Outlet::send_long(std::span<const std::byte> message, Duration timeout,
                             Tally& tally) noexcept {
  if (!here()) return SendStatus::forked;
  const bool in_place = message.size() <= max_in_place_;
  if (message.size() > max_message_ || (timeout <= timeout.zero() && !in_place)) return too_large();
  const auto started = Clock::now();
  const bool waits = timeout > timeout.zero();
  auto status = SendStatus::sent;
  auto landed = Landed::refused;
  if (lands_ && waits && crossover_.lands(message.size())) {
    landed = land(message, deadline_after(timeout), tally, status);
    if (landed == Landed::refused) {
      crossover_.refused();
      if (timeout != kForever) timeout -= std::min<Duration>(Clock::now() - started, timeout);
    }
  }
  if (landed == Landed::refused) {
    if (in_place) {
      Claim claim;
      status = claim_in_place(message.size(), timeout, tally, claim);
      if (status == SendStatus::sent) {
        std::memcpy(claim.payload, message.data(), message.size());
        commit(claim, tally);
      }
    } else {
      Pieces pieces;
      status = send_pieces(message, pieces, timeout, tally);
    }
  }
  // The time may have been up when it was refused.
  if (status == SendStatus::full && waits) status = SendStatus::timed_out;
  if (lands_ && status == SendStatus::sent)
    crossover_.took(message.size(), landed == Landed::yes, Clock::now() - started);
  return status;
}

SendStatus Outlet::given_up() const noexcept {
  const auto refused = refusal();
  return refused == SendStatus::sent ? SendStatus::timed_out : refused;
}

bool Outlet::take_turn(Pieces& pieces) noexcept {
  // SYNC turn: what the one before claimed comes before ours
  if (pieces.outlet_ == nullptr && turn_taken_.exchange(true, std::memory_order_seq_cst))
    return false;
  pieces.outlet_ = this;
  return true;
}

/// The message did not land, for this reason. Without a wait there is no `full`.
Outlet::Landed Outlet::in_time(SendStatus& failure) noexcept {
  if (failure == SendStatus::full) failure = SendStatus::timed_out;
  return Landed::failed;
}

/// Has the receiver offer memory, writes there, and says so. refused: it goes through the ring.
Outlet::Landed Outlet::land(std::span<const std::byte> message, TimePoint deadline, Tally& tally,
                            SendStatus& failure) noexcept {
  // Destroyed from the last to the first: the turn ends when the device reads no more.
  Pieces pieces;
  const PinnedShare share(message.size());
  if (!share.taken()) return Landed::refused;
  const std::uint64_t size = message.size();
  Claim claim;
  bool answered = true;
  failure = claim_by(time_until(deadline), tally, [&](Credit credit) {
    if (!take_turn(pieces)) return ClaimResult::full;
    if (ahead_ == size) return ClaimResult::claimed;
    // One question at a time, so that no more answers are on their way than there is room for.
    answered = asked_ == 0 || publisher_->offer(asked_).has_value();
    return answered ? ring_.claim(sizeof(std::uint64_t), claim, credit) : ClaimResult::closed;
  });
  if (!answered) return Landed::refused;
  if (failure != SendStatus::sent) return in_time(failure);
  if (ahead_ != size) ask(claim, size);
  ahead_ = 0;
  const auto id = asked_;
  const auto source = publisher_->add_source(message);
  if (!source) return Landed::refused;
  std::optional<OfferLine> offer;
  if (!wait(kSenderLands, deadline, nullptr,
            [&](Credit) { return (offer = publisher_->offer(id)).has_value(); })) {
    failure = given_up();
    return Landed::failed;
  }
  if (offer->length == 0) return Landed::refused;
  if (offer->length != size) {
    connection_->suspect(
        "it offers memory of another size than it was asked for: it breaks the "
        "protocol");
    (void)wait(kSenderLands, deadline, nullptr, [](Credit) { return false; });
    failure = given_up();
    return Landed::failed;
  }
  // One that follows another of its size is likely to be followed by a third: the receiver finds
  // memory for that while this one travels.
  if (std::exchange(last_landed_, size) == size && size <= kMostAhead &&
      ring_.claim(sizeof size, claim, Credit::any) == ClaimResult::claimed) {
    ask(claim, size);
    ahead_ = size;
  }
  Flight flight(*source, *offer);
  if (!fly(flight, deadline)) {
    failure = given_up();
    return Landed::failed;
  }
  failure = claim_by(time_until(deadline), tally,
                     [&](Credit credit) { return ring_.claim(sizeof id, claim, credit); });
  if (failure != SendStatus::sent) return in_time(failure);
  std::memcpy(claim.payload, &id, sizeof id);
  publish(claim, kLast | kLanding, take_answer(tally));
  count(tally, 1, message.size());
  landings_.fetch_add(1, std::memory_order_relaxed);
  return Landed::yes;
}

void Outlet::ask(const Claim& claim, std::uint64_t size) noexcept {
  std::memcpy(claim.payload, &size, sizeof size);
  publish(claim, kFirst | kLanding, false);
  asked_ = claim.begin | 1U;
}

/// False: it was given up, and nothing of it is on its way any more, or the path is dead.
bool Outlet::fly(Flight& flight, TimePoint deadline) noexcept {
  const auto until = [&](TimePoint end, auto&& done) {
    return wait(kSenderLands, end, nullptr, [&](Credit) {
      publisher_->advance(flight);
      return done();
    });
  };
  if (until(deadline, [&] { return flight.landed(); })) return true;
  flight.stop();
  (void)until(TimePoint::max(), [&] { return flight.grounded() || flight.failed(); });
  return false;
}

SendStatus Outlet::send_pieces(std::span<const std::byte> message, Pieces& pieces, Duration timeout,
                               Tally& tally) noexcept {
  if (!here()) return SendStatus::forked;
  if (message.size() > max_message_) return too_large();
  const auto deadline = deadline_after(timeout);
  const auto left = [&] {
    return timeout == kForever || timeout <= timeout.zero() ? timeout : deadline - Clock::now();
  };
  Claim claim;
  if (!pieces.begun_) {
    const std::uint64_t size = message.size();
    const auto begun = claim_by(timeout, tally, [&](Credit credit) {
      return take_turn(pieces) ? ring_.claim(sizeof size, claim, credit) : ClaimResult::full;
    });
    if (begun != SendStatus::sent) return begun;
    std::memcpy(claim.payload, &size, sizeof size);
    publish(claim, kFirst, false);
    ahead_ = 0;  // what was offered is taken back
    pieces.begun_ = true;
  }
  const auto most =
      std::min<std::size_t>(std::min(window_ / kPiecesInWindow, kLargestPiece), max_in_place_);
  while (pieces.sent_ != message.size()) {
    const auto length = std::min(most, message.size() - pieces.sent_);
    const auto status = claim_by(left(), tally, [&](Credit credit) {
      return ring_.claim(static_cast<std::uint32_t>(length), claim, credit);
    });
    if (status != SendStatus::sent)
      return status == SendStatus::full && timeout > timeout.zero() ? SendStatus::timed_out
                                                                    : status;
    std::memcpy(claim.payload, message.data() + pieces.sent_, length);
    pieces.sent_ += length;
    const bool last = pieces.sent_ == message.size();
    publish(claim, last ? kLast : kFragment, last && take_answer(tally));
  }
  count(tally, 1, message.size());
  pieces.end();
  return SendStatus::sent;
}

void Pieces::end() noexcept {
  if (outlet_ != nullptr) std::exchange(outlet_, nullptr)->end_turn();
}

void Outlet::end_turn() noexcept {
  if (!here()) return;
  turn_taken_.store(false, std::memory_order_seq_cst);  // SYNC turn, sender-sleep (waker)
  wake_everybody();
}

Batch<SendStatus> Outlet::send_many(const Records& records, Duration timeout,
                                    Tally& tally) noexcept {
  Batch<SendStatus> batch{0, here() ? SendStatus::sent : SendStatus::forked};
  while (batch.status == SendStatus::sent && batch.count != records.count) {
    const auto first = batch.count;
    const bool waits = timeout > timeout.zero();
    const auto wanted = run_length(records, first, waits ? longest_record_ : max_in_place_);
    if (wanted == 0) {
      if (!waits || records.size(first) > max_message_) {
        batch.status = too_large();
        break;
      }
      batch.status = send_long(records.at(first), timeout, tally);
      if (batch.status == SendStatus::sent) ++batch.count;
      continue;
    }
    const auto length_of = [records, first](std::size_t i) {  // copies: read for each record
      return static_cast<std::uint32_t>(records.size(first + i));
    };
    Cursor begin = 0;
    Cursor end = 0;
    std::size_t run = wanted;
    batch.status = claim_by(timeout, tally, [&](Credit credit) {
      run = wanted;
      return ring_.claim_run(run, length_of, begin, end, credit);
    });
    if (batch.status != SendStatus::sent) break;
    auto* to = ring_.view().at(begin) + sizeof(RecordHeader);
    std::size_t bytes = 0;
    if (records.scattered == nullptr) {
      spread(to, record_size(records.each), records.packed + first * records.each, records.each,
             run);
      bytes = run * records.each;
    } else {
      for (const auto& message : std::span(records.scattered + first, run)) {
        if (!message.empty()) std::memcpy(to, message.data(), message.size());
        to += record_size(message.size());
        bytes += message.size();
      }
    }
    ring_.commit_run(run, length_of, begin);
    tell_receiver(begin, end, take_answer(tally));
    count(tally, run, bytes);
    batch.count += run;
  }
  return batch;
}

// Whoever asks for more than ever fits hears so, unless nothing is taken at all.
SendStatus Outlet::too_large() const noexcept {
  const auto refused = refusal();
  return refused == SendStatus::sent ? SendStatus::too_large : refused;
}

void Outlet::publish(const Claim& claim, std::uint8_t flags, bool answer) noexcept {
  ring_.commit(claim, flags);
  tell_receiver(claim.begin, claim.begin + record_size(claim.length), answer);
}

void Outlet::tell_receiver(Cursor begin, Cursor end, bool answer) noexcept {
  if (publisher_) {
    publisher_->kick(begin, end, answer);
  } else {
    wake_receiver();
  }
}

void Outlet::wake_receiver() noexcept {
  // SYNC receiver-sleep (sender): the record was committed before; either this sees the receiver
  // armed, or the receiver's last look sees the record.
  if (control_.receiver_armed.load(std::memory_order_seq_cst) == 0) return;
  if (control_.receiver_armed.exchange(0, std::memory_order_seq_cst) == 0) return;
  const std::uint64_t one = 1;
  // A full counter wakes as well.
  [[maybe_unused]] const auto written = ::write(receiver_wake_fd_.get(), &one, sizeof one);
}

// A receiver that finds its ring empty, and a sender that waits for room, opens its window.
// SYNC receiver-sleep (sender): that one waits was said before, sequentially consistent; either
// this sees the receiver armed, or the receiver's last look sees who waits (Inlet::starving()).
// relaxed: written before the first limit
void Outlet::say_waiting(SenderWait what) noexcept {
  if (!publisher_ && what == kSenderWaits &&
      control_.window_lives.load(std::memory_order_relaxed) != 0)
    wake_receiver();
}

void Outlet::commit(const Claim& claim, Tally& tally) noexcept {
  if (!here()) return;  // a child must not touch its parent's ring or device
  publish(claim, 0, take_answer(tally));
  count(tally, 1, claim.length);
}

// The first message after one that this thread had waited for: likely its answer.
bool Outlet::take_answer(Tally& tally) noexcept {
  return std::exchange(tally.messages_awaited, messages_awaited) != messages_awaited;
}

void Outlet::count(Tally& tally, std::uint64_t messages, std::uint64_t bytes) noexcept {
  // relaxed: this clone's thread is the only writer
  tally.bytes.store(tally.bytes.load(std::memory_order_relaxed) + bytes, std::memory_order_relaxed);
  // SYNC tally: a message that stats() counts is in the ring
  tally.messages.store(tally.messages.load(std::memory_order_relaxed) + messages,
                       std::memory_order_release);
}

void Outlet::abandon(const Claim& claim) noexcept {
  if (here()) publish(claim, kTombstone, false);
}

bool Outlet::say_last(TimePoint deadline) noexcept {
  const auto said = [this](Credit credit) { return try_say_last(credit); };
  return said(Credit::any) || wait(kSenderWaits, deadline, nullptr, said);
}

bool Outlet::try_say_last(Credit credit) noexcept {
  {
    const std::lock_guard lock(mutex_);
    if (fin_sent_) return true;
  }
  Claim last;
  const auto result = ring_.claim_last(last, credit);
  if (result == ClaimResult::full) return false;
  if (result == ClaimResult::claimed) {
    publish(last, kFin, false);
    wake_everybody();  // those who wait for room get `closed`
  }
  const std::lock_guard lock(mutex_);
  fin_sent_ = true;
  return true;
}

// What the receiver says, where it can be true: a record's place, not beyond what was claimed. The
// ring holds no more than its capacity, whatever is said.
Cursor Outlet::consumed() const noexcept {
  const auto credited = control_.consumed.load(std::memory_order_acquire);  // SYNC credit
  const auto last = final_consumed_.load(std::memory_order_acquire);        // SYNC ended
  const auto tail = ring_.tail();  // after the two, which lie before it
  const auto believed = [tail](Cursor said) {
    return said <= tail && said % kRecordAlign == 0 ? said : 0;
  };
  return std::max({believed(credited), believed(last), tail - std::min(tail, memory_.capacity)});
}

FlushStatus Outlet::refusal_to_flush() const noexcept {
  switch (refusal()) {
    case SendStatus::peer_lost: return FlushStatus::peer_lost;
    case SendStatus::closed: return FlushStatus::closed;
    default: return FlushStatus::timed_out;
  }
}

FlushStatus Outlet::flush_to(Cursor target, Duration timeout) noexcept {
  if (!here()) return FlushStatus::forked;
  const auto done = [&](Credit) { return consumed() >= target; };
  if (done(Credit::any) || wait(kSenderFlushes, deadline_after(timeout), nullptr, done))
    return FlushStatus::consumed;
  return refusal_to_flush();
}

FlushStatus Outlet::try_flush(Cursor target) noexcept {
  if (!here()) return FlushStatus::forked;
  if (publisher_) publisher_->progress();
  const auto refused = refusal_to_flush();  // before the look: a good-bye says how far
  return consumed() >= target ? FlushStatus::consumed : refused;
}

FlushStatus Outlet::close(Duration timeout) noexcept {
  if (!here()) return FlushStatus::forked;
  const auto deadline = deadline_after(timeout);
  if (!say_last(deadline)) return refusal_to_flush();
  return flush_to(last_message(),
                  deadline == TimePoint::max() ? kForever : deadline - Clock::now());
}

FlushStatus Outlet::try_close() noexcept {
  if (!here()) return FlushStatus::forked;
  return try_say_last(Credit::any) ? try_flush(last_message()) : refusal_to_flush();
}

void Outlet::end(End how, const std::string& why) noexcept {
  {
    const std::lock_guard lock(mutex_);
    if (ended_.load(std::memory_order_relaxed) != End::open) return;  // relaxed: under the mutex
    error_ = why;
    ended_.store(how, std::memory_order_release);  // SYNC ended
  }
  wake_everybody();
}

void Outlet::wake_everybody() noexcept {
  wake_senders(control_);
  bell_->ring();
}

// ── Waiting without a thread ─────────────────────────────────────────────────────────────────────

v2::WaitList& Outlet::writable() {
  if (!listening_.load(std::memory_order_acquire)) {  // SYNC listening
    const std::lock_guard lock(mutex_);
    if (!listening_.load(std::memory_order_relaxed)) {  // relaxed: under the mutex
      auto& engine = Engine::get();
      engine.watch(bell_->open(), EPOLLIN, shared_from_this());
      if (!receiver_tells_) engine.attend(shared_from_this());
      if (connection_) connection_->listen_closely();
      listening_.store(true, std::memory_order_release);  // SYNC listening
    }
  }
  return writable_;
}

void Outlet::arm() noexcept {
  if (receiver_tells_) {
    // SYNC sender-sleep (sender), as in wait(); the waiter looks once more after this.
    // For room or for consumption: both are told.
    control_.senders_waiting.fetch_or(kSenderWaits | kSenderFlushes | kSenderRests,
                                      std::memory_order_seq_cst);
    if (publisher_) publisher_->ask_credit(true);
    say_waiting(kSenderWaits);
    barrier_for_all(sleep_barrier_);
    // SYNC bell: a receiver in this process that closed may not have heard of it yet.
    if (!connection_ && control_.receiver_closed.load(std::memory_order_seq_cst) != 0)
      bell_->ring();
  } else {
    Engine::get().attention(Attention::later);  // SYNC attention: the waiter is in the list
  }
  if (v2::ThreadShare::used_up()) bell_->ring();
}

bool Outlet::arm(v2::WaitingFd& event, std::size_t size) noexcept {
  if (!here()) return false;
  event.wait_in(writable_);
  if (refusal() == SendStatus::sent && size <= max_in_place_ &&
      !ring_.may_claim(static_cast<std::uint32_t>(size)))
    return true;
  event.leave(writable_);
  return false;
}

void Outlet::disarm(v2::WaitingFd& event) noexcept {
  if (here()) event.leave(writable_);
}

void Outlet::on_ready(std::uint32_t /*events*/) noexcept {
  bell_->quiet();
  const v2::ThreadShare share;
  writable_.wake_all();
}

Attention Outlet::on_attention() noexcept {
  if (!writable_.awaited()) return Attention::none;  // SYNC attention
  // SYNC credit. Neither goes back, and either may rise alone.
  const auto credit = control_.limit.load(std::memory_order_acquire) +
                      control_.consumed.load(std::memory_order_acquire);
  if (std::exchange(seen_credit_, credit) != credit) bell_->ring();
  return Attention::later;
}

void Outlet::on_goodbye(Cursor consumed_cursor) noexcept {
  final_consumed_.store(consumed_cursor, std::memory_order_release);  // SYNC ended
  end(End::closed, {});
}

void Outlet::on_lost(const std::string& why) noexcept { end(End::lost, peer_ + ": " + why); }

void Outlet::on_stalled(bool stalled) noexcept {
  stalled_.store(stalled, std::memory_order_relaxed);
}

PeerState Outlet::state() const noexcept {
  switch (refusal()) {
    case SendStatus::peer_lost: return PeerState::lost;
    case SendStatus::closed: return PeerState::closed;
    default: break;
  }
  return stalled_.load(std::memory_order_relaxed) ? PeerState::stalled : PeerState::connected;
}

SenderStats Outlet::stats() const {
  SenderStats stats;
  stats.state = state();
  stats.peer = peer_;
  stats.path = path_;
  stats.rejected = rejected_;
  stats.capacity = memory_.capacity;
  stats.window = window_;
  stats.max_message = max_message_;
  stats.max_in_place = max_in_place_;
  stats.landings = landings_.load(std::memory_order_relaxed);
  if (lands_) stats.landing_from = crossover_.from();
  if (publisher_) {
    if (here()) publisher_->progress();  // credit that came without a wake-up
    stats.work = publisher_->stats();
    stats.path = publisher_->path();
  }
  {
    const std::lock_guard lock(mutex_);
    stats.error = error_;
    const auto sum = [&](std::atomic<std::uint64_t> Tally::*field) {
      auto total = (retired_.*field).load(std::memory_order_relaxed);
      for (const auto& tally : tallies_)
        total += (tally.get()->*field).load(std::memory_order_acquire);  // SYNC tally
      return total;
    };
    stats.progress.accepted = sum(&Tally::messages);
    stats.bytes = sum(&Tally::bytes);
    stats.stalls = sum(&Tally::stalls);
    stats.parks = sum(&Tally::parks);
  }
  // What is still in the ring has not been consumed; counted from what the receiver said last.
  const auto tail = ring_.tail();
  const auto unconsumed = ring_.view().count_messages(consumed(), tail);
  const auto undelivered =
      publisher_ ? ring_.view().count_messages(std::max(publisher_->completed(), consumed()), tail)
                 : 0;
  const auto accepted = stats.progress.accepted;
  stats.progress.consumed = accepted - std::min(accepted, unconsumed);
  stats.progress.delivered = accepted - std::min(accepted, undelivered);
  return stats;
}

}  // namespace penstock::inline v1
