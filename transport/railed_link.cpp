#include "penstock/transport/railed_link.hpp"

#include <sys/epoll.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <new>
#include <utility>

#include "penstock/transport/error.hpp"
#include "penstock/transport/few.hpp"
#include "penstock/transport/record.hpp"

namespace penstock::inline v1 {
namespace {

/// Data of one post that is worth spreading, and the least that one rail gets of it. Alone it must
/// be more: its tail has to wait for the other rail's completion.
constexpr std::uint64_t kWorthSpreading = 64UL * 1024;
constexpr std::uint64_t kWorthSpreadingAlone = 256UL * 1024;
constexpr std::uint64_t kLeastPiece = 64UL * 1024;
/// Pieces end at multiples of this.
constexpr std::uint64_t kGrain = 4096;
/// A rail with nothing to do is looked at once in so many times.
constexpr std::uint64_t kSweepsPerLook = 16;
/// Pieces of a post for each rail: the faster one gets more of the next.
constexpr std::uint64_t kPiecesPerRail = 2;

// The rails' own immediate: bits 0-7 the rails that are destroyed, 8-23 how many immediates were
// taken, modulo 2^16.
constexpr std::uint32_t kRailBits = 8;
constexpr std::uint32_t kTakenMask = 0xFFFF;
static_assert(kMaxRails <= kRailBits);

constexpr std::uint32_t bit(std::size_t rail) noexcept { return 1U << rail; }

}  // namespace

RailedLink::RailedLink(std::vector<std::unique_ptr<Link>> rails)
    : events_fd_(::epoll_create1(EPOLL_CLOEXEC)) {
  if (!events_fd_) throw_errno("rails: epoll_create1", errno);
  limits_ = rails.front()->limits();
  for (auto& link : rails) {
    const auto limits = link->limits();
    limits_.max_writes = std::min(limits_.max_writes, limits.max_writes);
    limits_.max_write = std::min(limits_.max_write, limits.max_write);
    limits_.packet = std::min(limits_.packet, limits.packet);
    limits_.receives = std::min(limits_.receives, limits.receives);
    limits_.ordered_writes = limits_.ordered_writes && limits.ordered_writes;
    epoll_event event{};
    event.events = EPOLLIN;
    event.data.u64 = rails_.size();
    if (::epoll_ctl(events_fd_.get(), EPOLL_CTL_ADD, link->event_fd(), &event) != 0)
      throw_errno("rails: epoll_ctl", errno);
    auto& rail = rails_.emplace_back();
    rail.path = link->path();
    rail.link = std::move(link);
  }
  limits_.max_writes = std::min<std::uint32_t>(limits_.max_writes, kMaxWrites);
  // A rail brings at most one immediate of the rails' own for each that is lost.
  const auto own = static_cast<std::uint32_t>(rails_.size());
  if (limits_.receives < own + 2)
    throw SetupError(Errc::transport_unavailable,
                     "rails: the device takes too few immediates for so many: ask for fewer");
  limits_.receives = std::min<std::uint32_t>(limits_.receives - own, kMostUntaken);
  limits_.landings = false;
}

std::vector<std::byte> RailedLink::describe() const {
  const auto& rail = rails_[primary_];
  return rail.link ? rail.link->describe() : std::vector<std::byte>{};
}

void RailedLink::connect(std::span<const std::byte> /*peer*/) {
  throw SetupError(Errc::handshake_failed, "rails: they are joined one by one, before");
}

std::size_t RailedLink::living() const noexcept {
  return rails_.size() - static_cast<std::size_t>(std::popcount(lost_));
}

// ── Posting ──────────────────────────────────────────────────────────────────────────────────────

/// Bytes of data in front of a last write that tells of them; 0: they go whole. Where only an
/// immediate proves what came before it, that is so on one rail alone.
std::uint64_t RailedLink::worth_spreading(std::span<const RemoteWrite> writes) const noexcept {
  if (writes.size() < 2 || !limits_.ordered_writes || living() < 2 || !writes.back().copied)
    return 0;
  std::uint64_t bytes = 0;
  for (const auto& write : writes.first(writes.size() - 1)) {
    if (write.copied) return 0;
    bytes += write.length;
  }
  return bytes >= (head_ == tail_ ? kWorthSpreadingAlone : kWorthSpreading) ? bytes : 0;
}

void RailedLink::add_piece(const RemoteWrite& write) noexcept {
  auto& piece = piece_at(next_piece_++);
  piece = {.write = write};
  if (!write.copied) return;
  auto& copy = copies_[next_copy_++ % kMaxCopies];
  std::memcpy(copy.data(), write.source, std::min<std::size_t>(write.length, copy.size()));
  piece.write.source = copy.data();
}

PostStatus RailedLink::post(std::span<const RemoteWrite> writes,
                            std::optional<std::uint32_t> immediate, std::uint64_t cookie) noexcept {
  if (failed_) return PostStatus::failed;
  const auto data = worth_spreading(writes);
  const auto each =
      std::max(kLeastPiece, (data / (kPiecesPerRail * rails_.size()) + kGrain) & ~(kGrain - 1));
  const auto most_pieces = writes.size() * 2 + kPiecesPerRail * rails_.size();
  if (writes.size() > limits_.max_writes || (writes.empty() && !immediate)) {
    fail(
        "rails: a post was refused before it left: it has more writes than limits() allow, or "
        "none");
    return PostStatus::failed;
  }
  if (tail_ - head_ == kMaxPosts || next_piece_ - first_piece_ + most_pieces > kMaxPieces ||
      next_copy_ - first_copy_ + writes.size() > kMaxCopies)
    return PostStatus::no_room;

  auto& post = post_at(tail_);
  post = {.cookie = cookie, .first_piece = next_piece_};
  if (data != 0) {
    for (const auto& write : writes.first(writes.size() - 1)) {
      for (std::uint64_t at = 0; at < write.length;) {
        // Up to a multiple of the grain at the other end.
        const auto end = (write.offset + at + each) & ~(kGrain - 1);
        const auto length = std::min<std::uint64_t>(end - write.offset, write.length) - at;
        add_piece({.source = write.source + at,
                   .length = static_cast<std::uint32_t>(length),
                   .region = write.region,
                   .offset = write.offset + at});
        at += length;
      }
    }
    post.bulk = static_cast<std::uint32_t>(next_piece_ - post.first_piece);
    writes = writes.last(1);
  }
  for (const auto& write : writes) add_piece(write);
  post.core = static_cast<std::uint32_t>(writes.size());
  post.next_copy = next_copy_;
  if (immediate) {
    post.number = ++numbered_;
    history_[post.number % kHistory] = *immediate;
  }
  ++tail_;

  pump();
  if (waits() && !failed_) {
    // Where a device works within the call, the data is there already; otherwise whoever has the
    // event descriptor is to come back.
    sweep();
    pump();
    if (waits() && !failed_) {
      arm_rails();
      sweep();
      pump();
    }
  }
  return failed_ ? PostStatus::failed : PostStatus::posted;
}

void RailedLink::pump() noexcept {
  // Whoever fails meanwhile changes where things go.
  for (auto before = ~lost_; before != lost_ && !failed_;) {
    before = lost_;
    if (tell() && !fenced_off() && resolve() && resend()) {
      push_bulk();
      push_cores();
    }
    retire();
  }
}

PostStatus RailedLink::hand_over(std::size_t rail, std::span<const RemoteWrite> writes,
                                 std::optional<std::uint32_t> immediate) noexcept {
  auto& r = rails_[rail];
  if (r.next_batch - r.first_batch == kMaxBatches) return PostStatus::no_room;
  const auto status = r.link->post(writes, immediate, r.cookie + 1);
  if (status == PostStatus::failed) lose(rail, r.link->error());
  if (status != PostStatus::posted) return status;
  std::uint64_t bytes = 0;
  for (const auto& write : writes) bytes += write.length;
  r.batches[r.next_batch++ % kMaxBatches] = {++r.cookie, bytes};
  r.bytes += bytes;
  return status;
}

bool RailedLink::tell() noexcept {
  if (told_ == lost_) return true;
  const auto news = static_cast<std::uint32_t>(Immediate::rails) | lost_ |
                    (static_cast<std::uint32_t>(inbox_tail_) & kTakenMask) << kRailBits;
  const auto lost = lost_;
  if (hand_over(primary_, {}, news) != PostStatus::posted) return false;
  told_ = lost;
  return true;
}

/// After the loss of the primary: which of its immediates were taken. Those of posts that go out
/// again travel with them.
bool RailedLink::resolve() noexcept {
  if (!unresolved_) return true;
  const auto untaken = (handed_over_ - peer_took_low_) & kTakenMask;
  if (untaken > kMostUntaken || handed_over_ - untaken < peer_took_ || untaken > handed_over_) {
    fail("rails: the other end has taken immediates that were never sent: it breaks the protocol");
    return false;
  }
  peer_took_ = handed_over_ - untaken;
  resend_ = peer_took_ + 1;
  resend_end_ = numbered_ + 1;
  for (auto i = tail_; i-- > next_core_;)
    if (post_at(i).number != 0) resend_end_ = post_at(i).number;
  unresolved_ = false;
  return true;
}

bool RailedLink::resend() noexcept {
  for (; resend_ < resend_end_; ++resend_)
    if (hand_over(primary_, {}, history_[resend_ % kHistory]) != PostStatus::posted) return false;
  return true;
}

void RailedLink::push_bulk() noexcept {
  while (next_bulk_ < tail_ && push_bulk_of(post_at(next_bulk_))) ++next_bulk_;
}

std::size_t RailedLink::idlest() const noexcept {
  auto best = primary_;
  for (std::size_t i = 0; i < rails_.size(); ++i)
    if (rails_[i].link && rails_[i].bytes < rails_[best].bytes) best = i;
  return best;
}

bool RailedLink::push_bulk_of(Post& post) noexcept {
  const auto end = post.first_piece + post.bulk;
  const auto each = [&](auto&& what) {
    for (auto i = post.first_piece; i < end; ++i) what(piece_at(i));
  };
  each([&](Piece& piece) {
    if (piece.rail != kNoRail) return;
    piece.rail = idlest();
    piece.cookie = ~0ULL;  // no post has it yet
    rails_[piece.rail].bytes += piece.write.length;
  });
  bool all = true;
  for (std::size_t i = 0; i < rails_.size(); ++i) {
    auto& rail = rails_[i];
    Few<RemoteWrite, kMaxWrites> writes;
    std::uint64_t bytes = 0;
    const auto flush = [&] {
      if (writes.size() == 0) return;
      const auto cookie = rail.cookie + 1;
      rail.bytes -= bytes;
      const auto status = hand_over(i, writes.all(), std::nullopt);
      if (status != PostStatus::posted) all = false;
      if (status == PostStatus::no_room)
        each([&](Piece& piece) {
          if (piece.rail == i && piece.cookie == cookie) piece.rail = kNoRail;
        });
      writes.clear();
      bytes = 0;
    };
    each([&](Piece& piece) {
      if (piece.rail != i || piece.cookie != ~0ULL || !rail.link) return;
      piece.cookie = rail.cookie + 1;
      writes.add(piece.write);
      bytes += piece.write.length;
      if (writes.size() == limits_.max_writes) flush();
    });
    flush();
  }
  return all;
}

/// Nothing of the post's data lands after what is posted on the primary now.
bool RailedLink::bulk_is_ahead(const Post& post) noexcept {
  for (auto i = post.first_piece; i < post.first_piece + post.bulk; ++i) {
    const auto& piece = piece_at(i);
    if (piece.rail != primary_ && !completed(piece)) return false;
  }
  return true;
}

void RailedLink::push_cores() noexcept {
  for (; next_core_ < next_bulk_ && !fenced_off(); ++next_core_) {
    auto& post = post_at(next_core_);
    if (!bulk_is_ahead(post)) return;
    Few<RemoteWrite, kMaxWrites> writes;
    for (std::uint64_t i = 0; i < post.core; ++i)
      writes.add(piece_at(post.first_piece + post.bulk + i).write);
    std::optional<std::uint32_t> immediate;
    if (post.number > peer_took_) immediate = history_[post.number % kHistory];
    post.core_rail = primary_;
    post.core_cookie = 0;  // all that it had to say was taken
    if (writes.size() == 0 && !immediate) continue;
    if (hand_over(primary_, writes.all(), immediate) != PostStatus::posted) return;
    post.core_cookie = rails_[primary_].cookie;
    handed_over_ = std::max(handed_over_, post.number);
  }
}

/// Takes posts that are complete out of the queue.
void RailedLink::retire() noexcept {
  for (; head_ < next_core_; ++head_) {
    const auto& post = post_at(head_);
    if (!core_completed(post)) return;
    done_cookie_ = post.cookie;
    first_piece_ = post.first_piece + post.bulk + post.core;
    first_copy_ = post.next_copy;
  }
}

// ── What comes ───────────────────────────────────────────────────────────────────────────────────

/// Of a rail that is not the primary and has nothing on its way, only news and its end may come;
/// those make the event descriptor readable.
void RailedLink::sweep() noexcept {
  const bool all = std::exchange(look_at_all_, false) || ++sweeps_ % kSweepsPerLook == 0;
  for (std::size_t i = 0; i < rails_.size(); ++i)
    if (all || i == primary_ || rails_[i].first_batch != rails_[i].next_batch) sweep(i);
}

void RailedLink::sweep(std::size_t rail) noexcept {
  auto& r = rails_[rail];
  while (r.link && !failed_) {
    std::array<LinkEvent, 16> events;
    const auto room = std::min<std::size_t>(events.size(), kInbox - (inbox_tail_ - inbox_head_));
    if (room == 0) return;  // when the caller has taken some
    const auto count = r.link->poll(std::span(events).first(room));
    for (std::size_t i = 0; i < count && r.link; ++i) {
      const auto value = events[i].value;
      switch (events[i].kind) {
        case LinkEvent::Kind::completed: take_completed(r, value); break;
        case LinkEvent::Kind::immediate:
          if ((value & kImmediateKind) == static_cast<std::uint32_t>(Immediate::rails)) {
            hear(static_cast<std::uint32_t>(value));
          } else {
            inbox_[inbox_tail_++ % kInbox] = static_cast<std::uint32_t>(value);
          }
          break;
        case LinkEvent::Kind::failed: lose(rail, r.link->error()); break;
      }
    }
    if (count < room) return;
  }
}

void RailedLink::take_completed(Rail& rail, std::uint64_t cookie) noexcept {
  rail.completed = cookie;
  for (; rail.first_batch != rail.next_batch; ++rail.first_batch) {
    const auto& batch = rail.batches[rail.first_batch % kMaxBatches];
    if (batch.cookie > cookie) return;
    rail.bytes -= batch.bytes;
  }
}

void RailedLink::hear(std::uint32_t news) noexcept {
  const auto gone = news & ((1U << kRailBits) - 1);
  if (gone >> rails_.size() != 0)
    return fail("rails: the other end has lost rails that there are not: it breaks the protocol");
  if ((gone & ~peer_lost_) == 0) return;  // older than what is known
  peer_lost_ |= gone;
  peer_took_low_ = news >> kRailBits & kTakenMask;
  for (std::size_t i = 0; i < rails_.size(); ++i) {
    if ((gone & bit(i)) == 0) continue;
    sweep(i);  // it may know more
    lose(i, "the other end has lost it");
  }
}

void RailedLink::lose(std::size_t rail, std::string_view why) noexcept {
  auto& r = rails_[rail];
  if (!r.link) return;
  try {
    r.why = why;
  } catch (const std::bad_alloc&) {
    r.why.clear();  // path() makes do
  }
  const auto counters = r.link->counters();
  past_.posts += counters.posts;
  past_.work_requests += counters.work_requests;
  past_.completions += counters.completions;
  past_.immediates += counters.immediates;
  ++past_.lost_rails;
  ::epoll_ctl(events_fd_.get(), EPOLL_CTL_DEL, r.link->event_fd(), nullptr);
  r.link.reset();
  lost_ |= bit(rail);
  if (living() == 0) {
    failed_ = true;
    return;
  }
  // What it had not completed goes out again.
  for (auto i = head_; i < tail_; ++i) {
    auto& post = post_at(i);
    for (auto k = post.first_piece; k < post.first_piece + post.bulk; ++k) {
      auto& piece = piece_at(k);
      if (piece.rail != rail || completed(piece)) continue;
      piece.rail = kNoRail;
      next_bulk_ = std::min(next_bulk_, i);
    }
  }
  if (rail != primary_) return;
  for (auto i = head_; i < next_core_; ++i) {
    if (!core_completed(post_at(i))) next_core_ = i;
  }
  unresolved_ = true;
  primary_ = static_cast<std::size_t>(std::countr_one(lost_));
}

void RailedLink::fail(std::string_view why) noexcept {
  failed_ = true;
  try {
    broken_ = why;
  } catch (const std::bad_alloc&) {
    broken_.clear();  // error() makes do
  }
}

std::size_t RailedLink::poll(std::span<LinkEvent> events) noexcept {
  if (failure_reported_) return 0;
  std::size_t count = 0;
  if (!failed_) {
    sweep();
    pump();
  }
  if (done_cookie_ != reported_ && count < events.size()) {
    reported_ = done_cookie_;
    events[count++] = {LinkEvent::Kind::completed, done_cookie_};
  }
  while (inbox_head_ != inbox_tail_ && count < events.size())
    events[count++] = {LinkEvent::Kind::immediate, inbox_[inbox_head_++ % kInbox]};
  if (failed_ && count < events.size()) {
    failure_reported_ = true;
    events[count++] = {LinkEvent::Kind::failed, 0};
  }
  return count;
}

// ── Waiting ──────────────────────────────────────────────────────────────────────────────────────

void RailedLink::arm(bool completions, bool immediates) noexcept {
  wants_completions_ = completions;
  wants_immediates_ = immediates;
  arm_rails();
}

/// What waits for another rail goes on at its completions and at news of the other end.
void RailedLink::arm_rails() noexcept {
  const bool waiting = waits();
  look_at_all_ = true;  // something may have come just before
  for (auto& rail : rails_)
    if (rail.link) rail.link->arm(wants_completions_ || waiting, wants_immediates_ || waiting);
}

void RailedLink::disarm() noexcept {
  wants_completions_ = wants_immediates_ = false;
  look_at_all_ = true;
  std::array<epoll_event, kMaxRails> ready;
  const int count = ::epoll_wait(events_fd_.get(), ready.data(), static_cast<int>(ready.size()), 0);
  for (int i = 0; i < count; ++i)
    if (const auto& rail = rails_[ready[static_cast<std::size_t>(i)].data.u64]; rail.link)
      rail.link->disarm();
}

// ── For people ───────────────────────────────────────────────────────────────────────────────────

std::string RailedLink::error() const {
  std::string text = broken_;
  for (const auto& rail : rails_) {
    if (rail.why.empty()) continue;
    if (!text.empty()) text += "; ";
    text += rail.why;
  }
  return text.empty() ? "rails: all were lost, and memory ran out for the reasons" : text;
}

LinkCounters RailedLink::counters() const noexcept {
  auto sum = past_;
  for (const auto& rail : rails_) {
    if (!rail.link) continue;
    const auto counters = rail.link->counters();
    sum.posts += counters.posts;
    sum.work_requests += counters.work_requests;
    sum.completions += counters.completions;
    sum.immediates += counters.immediates;
  }
  return sum;
}

std::string RailedLink::path() const {
  std::string text;
  for (const auto& rail : rails_) {
    if (!text.empty()) text += "; ";
    text += rail.path;
    if (!rail.link) text += " lost: " + (rail.why.empty() ? "for want of memory" : rail.why);
  }
  return text;
}

}  // namespace penstock::inline v1
