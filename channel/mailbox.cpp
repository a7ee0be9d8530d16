#include "penstock/channel/mailbox.hpp"

#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "penstock/channel/async.hpp"
#include "penstock/channel/park.hpp"
#include "penstock/channel/settings.hpp"
#include "penstock/channel/spin.hpp"
#include "penstock/transport/registry.hpp"

namespace penstock::inline v1 {
namespace {

std::atomic<SourceId> g_next_source{1};  // relaxed: only uniqueness matters

/// Messages that one inlet may hand out before the next has its turn.
constexpr std::uint32_t kBurst = 32;
/// A receiver looks into the rings of so many remote senders, of the others at the tails.
constexpr std::size_t kMostHotInlets = 8;
/// After so many takes from those, the one whose turn it is may change places with one of the
/// former that is idle: likely it is the busiest.
constexpr std::uint32_t kTakesBeforeReview = 256;
/// A receiver that sleeps hears so many remote senders itself, the others through the engine: each
/// costs it some system calls.
constexpr std::size_t kMostListened = 4;
/// Before a receiver that waits for its word to land gives its CPU away.
constexpr int kLooksBeforeSleep = 1000;

}  // namespace

Mailbox::Mailbox(MessageType type)
    : type_(std::move(type)), wake_fd_(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) {
  if (!wake_fd_) throw_errno("receiver: eventfd", errno);
}

Mailbox::~Mailbox() {
  close();
  // relaxed: nobody else is left
  if (known_.load(std::memory_order_relaxed) && here()) Engine::get().unwatch(wake_fd_.get());
}

void Mailbox::bind(std::string_view text, const BindOptions& defaults) {
  if (!here())
    throw SetupError(Errc::forked,
                     "this receiver belongs to the parent process: bind anew in the child");
  auto given = Uri::parse(text);
  const auto transport = find_transport(given.scheme);
  FromEnvironment(std::move(given), *transport).run([&](const Uri& uri) {
    bind(uri, *transport, bind_settings(uri, *transport, defaults));
  });
}

void Mailbox::bind(const Uri& uri, Transport& transport, const BindOptions& options) {
  // Before the first sender comes: how it wakes this receiver depends on it.
  spin_ns_.store(options.spin.count(), std::memory_order_relaxed);
  publishing_.store(options.publish, std::memory_order_relaxed);
  // Declared before the lock, so that it goes after the unlocking where this fails: its destruction
  // waits for handshakes under way, which take the mutex.
  auto listener = transport.listen(uri,
                                   {options.capacity,
                                    options.window,
                                    options.liveness,
                                    {options.target_delay, options.min_window},
                                    options.max_message,
                                    type_},
                                   shared_from_this());
  const std::unique_lock lock(mutex_);
  if (closed_.load(std::memory_order_relaxed))
    throw SetupError(Errc::bad_uri, uri.text() + ": this receiver is closed: bind a new one");
  persistent_ = persistent_ || options.persistent;
  listeners_.push_back(std::move(listener));
}

std::vector<std::string> Mailbox::uris() const {
  const std::lock_guard lock(mutex_);
  std::vector<std::string> uris;
  for (const auto& listener : listeners_) uris.push_back(listener->uri());
  return uris;
}

PublishMode Mailbox::mode_for_next() const noexcept {
  switch (publishing_.load(std::memory_order_relaxed)) {
    case Publishing::tail: return PublishMode::tail;
    case Publishing::immediate: return PublishMode::immediate;
    case Publishing::hot:
    case Publishing::turns: return PublishMode::hot;
    case Publishing::automatic: break;
  }
  const std::lock_guard lock(mutex_);
  const auto hot = std::ranges::count_if(inlets_, [](const auto& i) { return i->hot(); });
  return static_cast<std::size_t>(hot) < kMostHotInlets ? PublishMode::hot : PublishMode::tail;
}

/// One that is scanned is busy: those that are looked at all the time should be the busy ones.
void Mailbox::promote(Inlet& busy) noexcept {
  if (publishing_.load(std::memory_order_relaxed) != Publishing::automatic) return;
  const std::lock_guard lock(mutex_);
  std::size_t hot = 0;
  Inlet* idle = nullptr;
  for (const auto& inlet : inlets_) {
    if (!inlet->hot()) continue;
    ++hot;
    if (!inlet->was_busy()) idle = inlet.get();
  }
  if (hot < kMostHotInlets) {
    busy.ask(PublishMode::hot);
  } else if (idle != nullptr) {
    idle->ask(PublishMode::tail);  // its place is free once it has heeded that
  }
}

bool Mailbox::add(InletParts parts) {
  auto inlet = std::make_shared<Inlet>(
      std::move(parts), g_next_source.fetch_add(1, std::memory_order_relaxed), weak_from_this(),
      spin_ns_.load(std::memory_order_relaxed) != 0, tails_);
  inlet->start(mode_for_next(), publishing_.load(std::memory_order_relaxed));
  {
    const std::lock_guard lock(mutex_);
    if (!closed_.load(std::memory_order_relaxed)) {
      inlets_.push_back(inlet);
      had_sender_ = true;
      fold_counters();
      counters_.push_back(inlet->counters());
      version_.fetch_add(1, std::memory_order_release);  // SYNC inlets
      inlet.reset();
    }
  }
  if (inlet) {
    inlet->shut();
    return false;
  }
  notify();
  return true;
}

void Mailbox::refused(const std::string& why) {
  constexpr std::size_t kMaxText = 500;
  std::string text = why.substr(0, kMaxText);
  // Parts of it may be the peer's.
  std::ranges::replace_if(
      text, [](char c) { return static_cast<unsigned char>(c) < ' '; }, ' ');
  const std::lock_guard lock(mutex_);
  ++refused_;
  last_refusal_ = std::move(text);
}

void Mailbox::notify() noexcept {
  const std::uint64_t one = 1;
  // A full counter wakes as well.
  [[maybe_unused]] const auto written = ::write(wake_fd_.get(), &one, sizeof one);
}

void Mailbox::refresh(Senders& senders) noexcept {
  const std::lock_guard lock(mutex_);
  senders.polled.clear();
  senders.by_place.clear();
  senders.scanned = 0;
  // Before the inlets are asked. SYNC inlets, rearranged
  senders.version = version_.load(std::memory_order_acquire);
  for (const auto& inlet : inlets_) {
    if (!inlet->scanned()) {
      senders.polled.push_back(inlet);
      continue;
    }
    const auto place = inlet->tail_place();
    if (place >= senders.by_place.size()) senders.by_place.resize(place + 1);
    senders.by_place[place] = inlet;
    ++senders.scanned;
  }
}

bool Mailbox::drop(const std::shared_ptr<Inlet>& inlet) noexcept {
  {
    const std::lock_guard lock(mutex_);
    if (std::erase(inlets_, inlet) == 0) return false;  // another clone did
    version_.fetch_add(1, std::memory_order_release);   // SYNC inlets
  }
  forget_watched();
  inlet->retire();
  notify();  // other clones may be asleep, and this may have been the last sender
  return true;
}

Mailbox::Turn Mailbox::report_loss(const std::shared_ptr<Inlet>& lost, Message& out) noexcept {
  auto aside = std::make_unique<Aside>(Aside{lost->loss(), nullptr});
  if (!drop(lost)) return Turn::again;  // another clone reports it
  out.status_ = RecvStatus::peer_lost;
  out.source_ = lost->id();
  out.aside_ = std::move(aside);
  return Turn::taken;
}

inline Mailbox::Turn Mailbox::look_at(Drain& drain, const std::shared_ptr<Inlet>& inlet,
                                      Message& out, Met& met) noexcept {
  switch (inlet->look(out, met.held, drain.run, drain.most)) {
    case Look::message:
      drain.burst += drain.run == nullptr ? 1 : static_cast<std::uint32_t>(drain.run->size());
      return Turn::taken;
    case Look::closed: (void)drop(std::shared_ptr(inlet)); return Turn::again;
    case Look::lost: return report_loss(std::shared_ptr(inlet), out);
    case Look::view_limit: met.full = met.limit = true; break;
    case Look::view_gap:
      met.full = true;
      // Another clone is slow with an old message: wait for it. Alone, this thread would wait for
      // itself. relaxed: whoever leaves wakes the others
      if (receivers_.load(std::memory_order_relaxed) == 1) met.limit = true;
      break;
    case Look::asked:
      inlet->offer_memory();
      drain.unsettled = true;
      return Turn::again;
    case Look::unsettled: drain.unsettled = true; break;
    case Look::nothing: break;
  }
  return Turn::nothing;
}

Mailbox::Turn Mailbox::look_around(Drain& drain, Message& out) noexcept {
  if (drain.version != version_.load(std::memory_order_acquire)) refresh(drain);  // SYNC inlets
  Met met;
  const auto polled = drain.polled.size();
  const auto count = polled + (drain.scanned != 0 ? 1 : 0);
  for (std::size_t looked = 0; looked < count; ++looked) {
    if (drain.turn >= count) drain.turn = 0;
    const auto turn = drain.turn < polled ? look_at(drain, drain.polled[drain.turn], out, met)
                                          : look_at_scanned(drain, out, met);
    if (turn == Turn::taken && drain.burst >= kBurst) {
      drain.burst = 0;
      ++drain.turn;
    }
    if (turn != Turn::nothing) return turn;
    drain.burst = 0;
    ++drain.turn;
  }
  if (met.held) return Turn::again;
  if (met.limit) {
    out.status_ = RecvStatus::view_limit;
    return Turn::taken;
  }
  return Turn::nothing;
}

Mailbox::Turn Mailbox::look_at_scanned(Drain& drain, Message& out, Met& met) noexcept {
  const auto start = drain.place;
  for (const auto& [from, to] : {std::pair(start, TailTable::kNone), std::pair(0UL, start)}) {
    for (auto place = tails_->next_news(from, to); place != TailTable::kNone;
         place = tails_->next_news(place + 1, to)) {
      const auto& inlet = drain.at(place);
      if (!inlet) continue;  // the version tells of it soon
      const auto begun = tails_->begin_look(place);
      Met here;
      const auto turn = look_at(drain, inlet, out, here);
      if (turn == Turn::nothing && !here.held && !here.full && inlet->whole(begun.line)) {
        tails_->drained(place, begun.line);
      } else if (begun.marked) {
        tails_->mark(place);
      }
      drain.place = place;
      if (turn == Turn::taken) {
        if (drain.burst >= kBurst) drain.place = place + 1;
        if (++drain.takes % kTakesBeforeReview == 0) promote(*inlet);
      }
      if (turn != Turn::nothing) return turn;
      met.held = met.held || here.held;
      met.limit = met.limit || here.limit;
    }
  }
  return Turn::nothing;
}

bool Mailbox::all_closed() const noexcept {
  const std::lock_guard lock(mutex_);
  return closed_.load(std::memory_order_relaxed) ||
         (had_sender_ && inlets_.empty() && !persistent_);
}

Message Mailbox::receive(Drain& drain, Duration timeout) noexcept {
  Message out;
  if (!here()) {
    out.status_ = RecvStatus::forked;
    return out;
  }
  if (const auto turn = look_around(drain, out); turn != Turn::taken)
    await(drain, timeout, turn, out);
  if (drain.in_vain && out) {
    drain.in_vain = false;
    ++messages_awaited;
    if (std::exchange(drain.armed, false)) wake_up(drain);
  }
  if (std::exchange(drain.unsettled, false) && !out) pass_on();
  return out;
}

void Mailbox::receive_many(Drain& drain, Duration timeout, std::size_t most,
                           Messages& out) noexcept {
  drain.run = &out;
  drain.most = most;
  out.first_ = receive(drain, timeout);
  drain.run = nullptr;
}

void Mailbox::await(Drain& drain, Duration timeout, Turn turn, Message& out) noexcept {
  const bool once = timeout <= timeout.zero();
  if (turn == Turn::nothing) drain.in_vain = true;
  // Who polls comes here again and again.
  if (once && turn == Turn::nothing && !drain.none() && !closed_.load(std::memory_order_relaxed))
    return;
  const auto deadline = once ? TimePoint{} : deadline_after(timeout);
  Backoff others;
  for (;; turn = look_around(drain, out)) {
    Spinner spinner(Duration(spin_ns_.load(std::memory_order_relaxed)), deadline);
    for (;; turn = look_around(drain, out)) {
      if (turn == Turn::taken) return;
      if (turn == Turn::again) {
        // Another thread holds a token.
        if (others.wait() && !once && Clock::now() >= deadline) break;
        continue;
      }
      others = {};
      if ((drain.none() || closed_.load(std::memory_order_relaxed)) && all_closed()) {
        out.status_ = RecvStatus::closed;
        return;
      }
      if (once || !spinner.again()) break;
    }
    if (once || Clock::now() >= deadline) {
      out.status_ = once ? RecvStatus::empty : RecvStatus::timed_out;
      return;
    }
    park(drain, deadline);
  }
}

bool Mailbox::has_news(const Senders& senders) const noexcept {
  // A new sender raises the version and writes to the descriptor.
  return senders.version != version_.load(std::memory_order_acquire) ||  // SYNC inlets
         std::ranges::any_of(senders.polled, [](const auto& inlet) { return inlet->has_news(); }) ||
         scanned_has_news(senders);
}

template <class Visit>
void Mailbox::for_each_awake(const Senders& senders, Visit&& visit) const noexcept {
  if (senders.scanned == 0) return;
  for (auto place = tails_->next_awake(0); place != TailTable::kNone;
       place = tails_->next_awake(place + 1))
    if (const auto& inlet = senders.at(place)) visit(*inlet);
}

bool Mailbox::scanned_has_news(const Senders& senders) const noexcept {
  if (senders.scanned == 0) return false;
  bool news = false;
  for_each_awake(senders, [&](Inlet& inlet) { news = news || inlet.has_news(); });
  for (auto place = tails_->next_news(0); !news && place != TailTable::kNone;
       place = tails_->next_news(place + 1))
    if (const auto& inlet = senders.at(place)) news = inlet->has_news();
  return news;
}

bool Mailbox::fall_asleep(const Drain& drain, TimePoint deadline) noexcept {
  auto barrier = BarrierScope::none;
  for (const auto& inlet : drain.polled) barrier = std::max(barrier, inlet->arm(Landing::awaited));
  for_each_awake(drain, [](Inlet& inlet) { (void)inlet.arm(Landing::awaited); });
  barrier_for_all(barrier);  // SYNC receiver-sleep (receiver): in place of the senders' own
  // Remote senders know of it when the write that says so has landed there. Meanwhile keep looking:
  // one whose network is cut must not keep the others' messages waiting.
  const auto all_armed = [&] {
    // Every one of them is asked: that takes what came for it.
    auto waiting = std::ranges::count_if(drain.polled, [](const auto& i) { return !i->armed(); });
    for_each_awake(drain, [&](Inlet& inlet) { waiting += inlet.armed() ? 0 : 1; });
    return waiting == 0;
  };
  for (int looks = 0; !all_armed(); ++looks) {
    if (has_news(drain) || Clock::now() >= deadline) return false;
    if (looks < kLooksBeforeSleep) {
      cpu_relax();
      continue;
    }
    pollfd wait{wake_fd_.get(), POLLIN, 0};
    if (::poll(&wait, 1, 1) > 0) return false;
  }
  return !has_news(drain);  // SYNC receiver-sleep (receiver): the last look, after the senders know
}

void Mailbox::park(Drain& drain, TimePoint deadline) noexcept {
  parked_.fetch_add(1, std::memory_order_seq_cst);  // SYNC parked
  std::array<pollfd, 1 + kMostListened> waits{{{wake_fd_.get(), POLLIN, 0}}};
  std::array<Inlet*, kMostListened> inlets{};
  std::size_t count = 0;
  for (const auto& inlet : drain.polled) {
    if (count == kMostListened) break;
    const int fd = inlet->listen();
    if (fd < 0) continue;
    inlets[count] = inlet.get();
    waits[++count] = {fd, POLLIN, 0};
  }
  bool woken = true;  // by the mailbox's descriptor
  if (fall_asleep(drain, deadline)) {
    parks_.fetch_add(1, std::memory_order_relaxed);
    ::poll(waits.data(), 1 + count, poll_timeout(deadline));
    woken = waits[0].revents != 0;
  }
  for (std::size_t i = 0; i < count; ++i) inlets[i]->listened(waits[i + 1].revents != 0);
  if (woken) quiet();
  wake_up(drain);
}

void Mailbox::quiet() noexcept {
  std::uint64_t count = 0;
  [[maybe_unused]] const auto got = ::read(wake_fd_.get(), &count, sizeof count);
}

void Mailbox::wake_up(const Senders& senders) noexcept {
  if (parked_.fetch_sub(1, std::memory_order_seq_cst) == 1 && !readable_.awaited())
    for (const auto& inlet : senders.polled) inlet->disarm();
  // SYNC parked: others count themselves, then arm; this disarms, then looks at the count. Both
  // sequentially consistent, so one whose arming was undone here is seen here.
  pass_on();
}

// ── Sleeping without a thread ────────────────────────────────────────────────────────────────────

v2::WaitList& Mailbox::readable() {
  if (!known_.load(std::memory_order_acquire)) {  // SYNC known
    const std::lock_guard lock(watch_mutex_);
    if (!known_.load(std::memory_order_relaxed)) {  // relaxed: under the mutex
      Engine::get().watch(wake_fd_.get(), 0, shared_from_this());
      known_.store(true, std::memory_order_release);  // SYNC known
    }
  }
  return readable_;
}

/// Has every sender wake us from now on; of remote ones, the engine looks once they know.
void Mailbox::watch_all() noexcept {
  if (watched_.version != version_.load(std::memory_order_acquire))  // SYNC inlets
    refresh(watched_);
  auto barrier = BarrierScope::none;
  for (const auto& inlet : watched_.polled)
    barrier = std::max(barrier, inlet->arm(Landing::left_to_engine));
  for_each_awake(watched_, [](Inlet& inlet) { (void)inlet.arm(Landing::left_to_engine); });
  barrier_for_all(barrier);  // SYNC receiver-sleep (receiver): in place of the senders' own
}

/// An inlet that has ended is not to be kept for this.
void Mailbox::forget_watched() noexcept {
  Senders old;  // goes after the unlocking
  const std::lock_guard lock(watch_mutex_);
  std::swap(old, watched_);
}

bool Mailbox::arm(Drain& drain) noexcept {
  if (!here()) return false;
  // What comes from here on makes it readable anew; what came before is seen below.
  quiet();
  if (!std::exchange(drain.armed, true)) parked_.fetch_add(1, std::memory_order_seq_cst);
  drain.in_vain = true;
  bool news = false;
  {
    const std::lock_guard lock(watch_mutex_);
    watch_all();
    news = has_news(watched_);
  }
  // SYNC inlets: there may be senders that this clone has not looked at yet.
  if (!news && drain.version == version_.load(std::memory_order_acquire) && !all_closed())
    return true;
  drain.armed = false;
  wake_up(drain);
  return false;
}

void Mailbox::arm() noexcept {
  const std::lock_guard lock(watch_mutex_);
  if (!std::exchange(watching_, true)) Engine::get().rewatch(wake_fd_.get(), EPOLLIN);
  watch_all();
  if (v2::ThreadShare::used_up()) notify();
}

void Mailbox::pass_on() noexcept {
  // SYNC parked
  if (parked_.load(std::memory_order_seq_cst) == 0 && !readable_.awaited()) return;
  bool news = false;
  {
    const std::lock_guard lock(watch_mutex_);
    watch_all();
    news = has_news(watched_);
  }
  if (news || all_closed()) notify();
}

void Mailbox::on_ready(std::uint32_t /*events*/) noexcept {
  {
    const std::lock_guard lock(watch_mutex_);
    if (!readable_.awaited()) {
      // The wake-up is others', or nobody's.
      watching_ = false;
      Engine::get().rewatch(wake_fd_.get(), 0);
      return;
    }
  }
  quiet();
  const v2::ThreadShare share;
  readable_.wake(1);
}

void Mailbox::close() noexcept {
  if (!here()) return;  // a child's copy; its parent's mutex may have been held
  std::vector<std::unique_ptr<Listener>> listeners;
  std::vector<std::shared_ptr<Inlet>> inlets;
  {
    const std::lock_guard lock(mutex_);
    closed_.store(true, std::memory_order_relaxed);
    listeners.swap(listeners_);
    inlets.swap(inlets_);
    version_.fetch_add(1, std::memory_order_release);  // SYNC inlets
  }
  listeners.clear();  // waits for handshakes under way: they call add(), which takes the mutex
  for (const auto& inlet : inlets) inlet->shut();
  forget_watched();
  notify();
}

bool Mailbox::join_others() noexcept {
  auto count = receivers_.load(std::memory_order_relaxed);
  // relaxed: a count; one that has reached zero stays there
  while (count != 0 &&
         !receivers_.compare_exchange_weak(count, count + 1, std::memory_order_relaxed)) {
  }
  return count != 0;
}

std::size_t Mailbox::senders() const noexcept {
  const std::lock_guard lock(mutex_);
  return inlets_.size();
}

void Mailbox::leave(Drain& drain) noexcept {
  if (drain.armed && here()) wake_up(drain);
  // SYNC receivers: what other clones did happens-before the closing
  const auto before = receivers_.fetch_sub(1, std::memory_order_acq_rel);
  if (before == 1) {
    close();
  } else if (before == 2 && here()) {
    // The last one no longer waits for others (Look::view_gap), and must look again.
    version_.fetch_add(1, std::memory_order_release);  // SYNC inlets
    notify();
  }
}

void Mailbox::fold_counters() noexcept {
  std::erase_if(counters_, [this](const auto& counters) {
    if (counters.use_count() != 1) return false;
    past_messages_ += counters->messages.load(std::memory_order_relaxed);
    past_bytes_ += counters->bytes.load(std::memory_order_relaxed);
    return true;
  });
}

ReceiverStats Mailbox::stats() const {
  ReceiverStats stats;
  const std::lock_guard lock(mutex_);
  stats.parks = parks_.load(std::memory_order_relaxed);
  stats.refused = refused_;
  stats.last_refusal = last_refusal_;
  stats.messages = past_messages_;
  stats.bytes = past_bytes_;
  for (const auto& counters : counters_) {
    stats.messages += counters->messages.load(std::memory_order_relaxed);
    stats.bytes += counters->bytes.load(std::memory_order_relaxed);
  }
  for (const auto& inlet : inlets_) stats.sources.push_back(inlet->stats());
  return stats;
}

}  // namespace penstock::inline v1
