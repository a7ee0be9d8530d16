// Who writes what: everything here is guarded by the engine's mutex, but for each link's `inside_`.
// Lifetime: a link keeps the engine alive; the engine knows its links until their destructors have
// taken them out under the mutex, which is the fence: no byte lands without the mutex.

#include "tests/transport/torn_link.hpp"

#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <mutex>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <utility>

#include "penstock/transport/error.hpp"

namespace penstock::test {
namespace {

using Tick = std::uint64_t;

constexpr LinkLimits kLimits{.max_writes = 4,
                             .max_write = 64 * 1024,
                             .packet = 1024,
                             .receives = 16,
                             .ordered_writes = true,
                             .landings = true};
constexpr std::size_t kQueue = 64;   // items in flight on one link
constexpr std::size_t kStep = 4096;  // bytes that land at most while the mutex is held

[[noreturn]] void broken(const std::string& what) {
  std::fprintf(stderr, "torn link: the contract of Link is broken: %s\n", what.c_str());
  std::abort();
}

// A device's stores are invisible to the sanitizers and to the memory model; so are these.
[[gnu::noinline, gnu::no_sanitize_thread]] void place_bytes(std::byte* to, const std::byte* from,
                                                            std::size_t length) {
  volatile std::byte* target = to;
  const volatile std::byte* source = from;
  for (std::size_t i = 0; i < length; ++i) target[i] = source[i];
}

struct Piece {
  std::uint32_t offset;
  std::uint32_t length;
};

class Dice {
 public:
  explicit Dice(std::uint64_t seed) : random_(seed) {}
  std::uint64_t below(std::uint64_t bound) { return random_() % bound; }
  bool one_in(std::uint64_t n) { return below(n) == 0; }
  std::mt19937_64& random() { return random_; }

 private:
  std::mt19937_64 random_;
};

void cut_bytes(std::vector<Piece>& pieces, std::uint32_t from, std::uint32_t to) {
  for (; from < to; ++from) pieces.push_back({from, 1});
}

// Runs of random lengths; some short stretches (both ends, and places in between where headers of
// records may be) byte by byte.
std::vector<Piece> cut(std::uint32_t length, Dice& dice) {
  std::vector<Piece> pieces;
  if (dice.one_in(4)) {
    for (std::uint32_t at = 0; at < length; at += kStep) {
      pieces.push_back({at, std::min<std::uint32_t>(kStep, length - at)});
    }
    return pieces;
  }
  const bool fine = dice.one_in(2);
  const std::uint32_t longest = std::clamp<std::uint32_t>(length / 8, 1, kStep);
  std::uint32_t at = 0;
  while (at < length) {
    const bool edge = at == 0 || length - at <= 16 || dice.one_in(8);
    const auto run =
        static_cast<std::uint32_t>(fine && edge ? 16 + dice.below(17) : 1 + dice.below(longest));
    const std::uint32_t end = std::min(length, at + run);
    if (fine && edge) {
      cut_bytes(pieces, at, end);
    } else {
      pieces.push_back({at, end - at});
    }
    at = end;
  }
  switch (dice.below(4)) {
    case 0: break;
    case 1: std::reverse(pieces.begin(), pieces.end()); break;
    default: std::shuffle(pieces.begin(), pieces.end(), dice.random()); break;
  }
  return pieces;
}

// One thing on its way from a link to its peer.
struct Item {
  enum class Kind : std::uint8_t { write, immediate, completion };
  Kind kind = Kind::write;
  std::uint64_t value = 0;  // of an immediate or a completion
  RemoteWrite write{};
  // Of a landing: memory that was added to the two ends, found when it is needed, as a device does.
  std::uint64_t from_memory = 0;
  LandingPlace place{};
  std::vector<std::byte> copy{};
  std::vector<Piece> pieces{};
  std::size_t landed = 0;  // pieces
  [[nodiscard]] bool done() const { return kind == Kind::write && landed == pieces.size(); }
};

struct Later {
  Tick due;
  LinkEvent event;
};

struct Options {
  std::uint64_t seed = 1;
  bool ordered = true;
  bool slow = false;
  std::uint64_t fail_after = UINT64_MAX;
  bool overrun_fails = false;
  bool landings = true;
  std::uint64_t rails = 1;
  std::optional<std::uint64_t> lose;
};

std::uint64_t number(std::string_view key, std::string_view value) {
  std::uint64_t result = 0;
  const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), result);
  if (error != std::errc{} || end != value.data() + value.size()) {
    throw SetupError(Errc::bad_uri, "torn: option " + std::string(key) + "=" + std::string(value) +
                                        " is not a number");
  }
  return result;
}

Options parse(std::string_view query) {
  Options options;
  while (!query.empty()) {
    const std::size_t end = std::min(query.find('&'), query.size());
    const std::string_view pair = query.substr(0, end);
    query.remove_prefix(std::min(query.size(), end + 1));
    const std::size_t equals = std::min(pair.find('='), pair.size());
    const std::string_view key = pair.substr(0, equals);
    const std::string_view value = pair.substr(std::min(pair.size(), equals + 1));
    if (key == "seed") options.seed = number(key, value);
    if (key == "ordered") options.ordered = number(key, value) != 0;
    if (key == "pace") options.slow = value == "slow";
    if (key == "overrun") options.overrun_fails = value == "fail";
    if (key == "fail_after") options.fail_after = number(key, value);
    if (key == "can_land") options.landings = number(key, value) != 0;
    if (key == "rails") options.rails = number(key, value);
    if (key == "lose") options.lose = number(key, value);
  }
  return options;
}

}  // namespace

class TornLink;

class TornMemory final : public LinkMemory {
 public:
  TornMemory(std::shared_ptr<TornEngine> engine, std::uint64_t link, const LinkRegion& region);
  TornMemory(const TornMemory&) = delete;
  TornMemory& operator=(const TornMemory&) = delete;
  TornMemory(TornMemory&&) = delete;
  TornMemory& operator=(TornMemory&&) = delete;
  ~TornMemory() override;
  [[nodiscard]] LandingPlace place() const noexcept override {
    return {reinterpret_cast<std::uint64_t>(region_.base), key_};
  }
  [[nodiscard]] std::uint64_t key() const { return key_; }

 private:
  const std::shared_ptr<TornEngine> engine_;
  const std::uint64_t link_;
  const LinkRegion region_;
  std::uint64_t key_ = 0;
};

class TornEngine {
 public:
  TornEngine() : thread_([this] { run(); }) {}
  TornEngine(const TornEngine&) = delete;
  TornEngine& operator=(const TornEngine&) = delete;
  TornEngine(TornEngine&&) = delete;
  TornEngine& operator=(TornEngine&&) = delete;
  ~TornEngine() {
    {
      const std::lock_guard lock(mutex);
      stop_ = true;
    }
    work_.notify_one();
    thread_.join();
  }

  void has_work() { work_.notify_one(); }
  TornLink* find(std::uint64_t id) {
    const auto found = links.find(id);
    return found == links.end() ? nullptr : found->second;
  }

  std::mutex mutex;
  std::map<std::uint64_t, TornLink*> links;
  std::uint64_t next_id = 1;
  std::uint64_t next_key = 1000;
  Tick now = 0;

 private:
  void run();

  std::condition_variable work_;
  bool stop_ = false;
  std::thread thread_;
};

class TornLink final : public Link {
 public:
  TornLink(std::shared_ptr<TornEngine> engine, LinkConfig config, const Options& options)
      : engine_(std::move(engine)),
        config_(std::move(config)),
        options_(options),
        event_fd_(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)),
        apart_fd_(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)),
        dice_(0) {
    if (event_fd_ < 0 || apart_fd_ < 0) throw_errno("torn: eventfd", errno);
    for (const LinkRegion& region : config_.regions) {
      if (region.remote_write) exposed_.push_back(region);
    }
    const std::lock_guard lock(engine_->mutex);
    id_ = engine_->next_id++;
    dice_ = Dice(options_.seed * 1'000'003 + id_);
    engine_->links.emplace(id_, this);
  }

  TornLink(const TornLink&) = delete;
  TornLink& operator=(const TornLink&) = delete;
  TornLink(TornLink&&) = delete;
  TornLink& operator=(TornLink&&) = delete;

  ~TornLink() override {
    {
      const std::lock_guard lock(engine_->mutex);
      engine_->links.erase(id_);
      if (TornLink* peer = engine_->find(peer_); peer != nullptr && peer->peer_ == id_) {
        peer->fail_later("its peer, link " + std::to_string(id_) + ", is gone");
      }
    }
    ::close(event_fd_);
    ::close(apart_fd_);
  }

  [[nodiscard]] std::vector<std::byte> describe() const override {
    std::vector<std::byte> blob(sizeof(id_));
    std::memcpy(blob.data(), &id_, sizeof(id_));
    return blob;
  }

  void connect(std::span<const std::byte> peer) override {
    const Inside inside(*this);
    std::uint64_t id = 0;
    if (peer.size() != sizeof(id)) {
      throw SetupError(Errc::handshake_failed, "torn: the peer's description is no link id");
    }
    std::memcpy(&id, peer.data(), sizeof(id));
    const std::lock_guard lock(engine_->mutex);
    if (engine_->find(id) == nullptr) {
      throw SetupError(Errc::handshake_failed, "torn: there is no link " + std::to_string(id) +
                                                   " in this process (any more)");
    }
    peer_ = id;
  }

  [[nodiscard]] LinkLimits limits() const noexcept override {
    LinkLimits limits = kLimits;
    limits.ordered_writes = options_.ordered;
    limits.landings = options_.landings;
    return limits;
  }

  [[nodiscard]] PostStatus post(std::span<const RemoteWrite> writes,
                                std::optional<std::uint32_t> immediate,
                                std::uint64_t cookie) noexcept override {
    const Inside inside(*this);
    if (writes.empty() && !immediate) broken("post() of nothing");
    if (writes.size() > kLimits.max_writes) broken("more writes in a post than max_writes");
    const std::lock_guard lock(engine_->mutex);
    if (peer_ == 0) broken("post() before connect()");
    if (cookie < next_cookie_) broken("cookies do not rise");
    if (failed_) return PostStatus::failed;
    if (counters_.posts >= options_.fail_after) {
      fail_later("fail_after=" + std::to_string(options_.fail_after) + " asked for it");
      if (TornLink* other = engine_->find(peer_)) other->fail_later("its peer failed");
      return PostStatus::failed;
    }
    if (queue_.size() + writes.size() + 2 > kQueue) return PostStatus::no_room;
    TornLink* peer = engine_->find(peer_);
    for (const RemoteWrite& write : writes) check(write, peer);
    if (immediate && peer != nullptr && ++peer->on_their_way_ > kLimits.receives) {
      if (!options_.overrun_fails)
        broken("more immediates on their way than the peer's limits allow");
      fail_later("its peer has no receive for its immediate");
      return PostStatus::failed;
    }
    next_cookie_ = cookie + 1;
    ++counters_.posts;
    counters_.work_requests += writes.size() + (writes.empty() ? 1 : 0);
    for (const RemoteWrite& write : writes) {
      Item& item = queue_.emplace_back(Item{.kind = Item::Kind::write, .write = write});
      if (write.copied) {
        item.copy.assign(write.source, write.source + write.length);
        item.write.source = item.copy.data();
      }
      item.pieces = cut(write.length, dice_);
    }
    if (immediate) {
      ++counters_.immediates;
      queue_.push_back(Item{.kind = Item::Kind::immediate, .value = *immediate});
    }
    queue_.push_back(Item{.kind = Item::Kind::completion, .value = cookie});
    if (dice_.one_in(4)) paused_until_ = engine_->now + pause();
    engine_->has_work();
    return PostStatus::posted;
  }

  [[nodiscard]] std::unique_ptr<LinkMemory> add_memory(const LinkRegion& memory) noexcept override {
    if (!options_.landings) return nullptr;
    return std::make_unique<TornMemory>(engine_, id_, memory);
  }

  [[nodiscard]] PostStatus land(const LandingWrite& write, std::uint64_t cookie) noexcept override {
    const Inside inside(*this);
    if (write.length == 0 || write.length > kLimits.max_write) broken("length of a landing");
    const std::lock_guard lock(engine_->mutex);
    if (peer_ == 0) broken("land() before connect()");
    if (cookie < next_cookie_) broken("cookies do not rise");
    if (failed_) return PostStatus::failed;
    if (counters_.posts >= options_.fail_after) {
      fail_later("fail_after=" + std::to_string(options_.fail_after) + " asked for it");
      if (TornLink* other = engine_->find(peer_)) other->fail_later("its peer failed");
      return PostStatus::failed;
    }
    if (queue_.size() + 2 > kQueue) return PostStatus::no_room;
    const auto key = static_cast<const TornMemory*>(write.source)->key();
    const auto source = added_.find(key);
    if (source == added_.end()) broken("a landing's source was not added to its link");
    if (write.offset > source->second.length || write.length > source->second.length - write.offset)
      broken("a landing's source goes outside of its memory");
    next_cookie_ = cookie + 1;
    ++counters_.posts;
    ++counters_.work_requests;
    Item& item = queue_.emplace_back(Item{.kind = Item::Kind::write,
                                          .write = {.source = source->second.base + write.offset,
                                                    .length = write.length,
                                                    .offset = write.offset},
                                          .from_memory = key,
                                          .place = write.place});
    item.pieces = cut(write.length, dice_);
    queue_.push_back(Item{.kind = Item::Kind::completion, .value = cookie});
    engine_->has_work();
    return PostStatus::posted;
  }

  [[nodiscard]] std::size_t poll(std::span<LinkEvent> events) noexcept override {
    const Inside inside(*this);
    const std::lock_guard lock(engine_->mutex);
    std::size_t count = 0;
    while (count < events.size()) {
      const bool immediates_first = dice_.one_in(2);
      std::deque<LinkEvent>& first = immediates_first ? immediates_ : completions_;
      std::deque<LinkEvent>& second = immediates_first ? completions_ : immediates_;
      std::deque<LinkEvent>& from = first.empty() ? second : first;
      if (from.empty()) break;
      events[count] = from.front();
      from.pop_front();
      if (events[count].kind == LinkEvent::Kind::immediate) --on_their_way_;
      if (events[count].kind == LinkEvent::Kind::completed) ++counters_.completions;
      ++count;
    }
    if (count < events.size() && failure_visible_ && !failure_reported_) {
      failure_reported_ = true;
      events[count++] = {LinkEvent::Kind::failed, 0};
    }
    return count;
  }

  void arm(bool completions, bool immediates) noexcept override {
    const Inside inside(*this);
    const std::lock_guard lock(engine_->mutex);
    armed_completions_ = completions;
    armed_immediates_ = immediates;
  }

  void disarm() noexcept override {
    const Inside inside(*this);
    const std::lock_guard lock(engine_->mutex);
    // Nothing to take after a wake-up that was not one.
    (void)take(event_fd_);
    (void)take(apart_fd_);
    armed_completions_ = armed_immediates_ = false;
    // A wake-up that is still on its way may be forgotten: the caller arms again and polls. Or it
    // comes later, for nothing.
    if (dice_.one_in(2)) wake_due_.reset();
  }

  [[nodiscard]] int event_fd() const noexcept override { return event_fd_; }

  /// Now and then it cannot, as a device's link may run out of memory for it.
  [[nodiscard]] int events_apart(bool apart) noexcept override {
    const Inside inside(*this);
    const std::lock_guard lock(engine_->mutex);
    if (dice_.one_in(4)) return -1;
    const bool told = take(told_by());
    apart_ = apart;
    if (told) wake(told_by());  // what was there already comes along
    return apart_fd_;
  }

  [[nodiscard]] std::string error() const override {
    const std::lock_guard lock(engine_->mutex);
    return why_;
  }
  [[nodiscard]] LinkCounters counters() const noexcept override {
    const std::lock_guard lock(engine_->mutex);
    return counters_;
  }
  [[nodiscard]] std::string path() const override {
    return "torn link " + std::to_string(id_) + ", seed " + std::to_string(options_.seed) +
           (options_.ordered ? ", ordered" : ", unordered");
  }

  // Below: called by the engine and by peers, with the mutex held.

  [[nodiscard]] bool has_work() const {
    return !queue_.empty() || !later_.empty() || wake_due_ || (fail_due_ && !failure_visible_);
  }

  // Moves things on a little. Says whether a pause of the whole engine would be welcome.
  bool step() {
    const Tick now = engine_->now;
    if (fail_due_ && !failure_visible_ && *fail_due_ <= now && later_.empty()) {
      failure_visible_ = true;
      if (armed_completions_ || armed_immediates_) wake_later();
    }
    if (!later_.empty() && later_.front().due <= now) show(later_.front().event);
    if (wake_due_ && *wake_due_ <= now) {
      wake_due_.reset();
      wake(told_by());
    }
    if (dice_.one_in(512)) wake(told_by());
    if (paused_until_ > now || queue_.empty() || failed_) return false;
    TornLink* peer = engine_->find(peer_);
    if (peer == nullptr) {
      fail_later("its peer, link " + std::to_string(peer_) + ", is gone");
      return false;
    }
    if (peer->peer_ != id_) return false;  // not connected yet
    land_some(*peer);
    if (dice_.one_in(options_.slow ? 2 : 8)) paused_until_ = now + pause();
    return dice_.one_in(options_.slow ? 16 : 256);
  }

  /// Memory that was added beside the regions.
  std::map<std::uint64_t, LinkRegion> added_;

  [[nodiscard]] TornLinkProvider::End describe_end() const {
    TornLinkProvider::End end{.id = id_, .peer = peer_};
    for (const LinkRegion& region : exposed_) end.regions.push_back(region.length);
    for (const auto& [key, memory] : added_) end.added += memory.length;
    return end;
  }

  bool poke(std::uint32_t region, std::uint64_t offset, std::span<const std::byte> bytes) {
    if (region >= exposed_.size() || offset > exposed_[region].length ||
        bytes.size() > exposed_[region].length - offset) {
      return false;
    }
    place_bytes(exposed_[region].base + offset, bytes.data(), bytes.size());
    return true;
  }

 private:
  // Two calls at a time are the caller's mistake.
  class Inside {
   public:
    explicit Inside(TornLink& link) : link_(link) {
      // SYNC torn-inside: none intended; the flag only finds calls that overlap.
      if (link_.inside_.exchange(true, std::memory_order_relaxed)) broken("two calls at a time");
    }
    Inside(const Inside&) = delete;
    Inside& operator=(const Inside&) = delete;
    Inside(Inside&&) = delete;
    Inside& operator=(Inside&&) = delete;
    ~Inside() { link_.inside_.store(false, std::memory_order_relaxed); }

   private:
    TornLink& link_;
  };

  void check(const RemoteWrite& write, const TornLink* peer) const {
    if (write.length == 0 || write.length > kLimits.max_write) broken("length of a write");
    if (write.copied) {
      if (write.length > kMaxCopied) broken("a copied write is longer than kMaxCopied");
    } else if (std::none_of(config_.regions.begin(), config_.regions.end(),
                            [&](const LinkRegion& region) {
                              return write.source >= region.base &&
                                     write.source + write.length <= region.base + region.length;
                            })) {
      broken("a write's source is in no region of its link");
    }
    if (peer != nullptr && (write.region >= peer->exposed_.size() ||
                            write.offset > peer->exposed_[write.region].length ||
                            write.length > peer->exposed_[write.region].length - write.offset)) {
      broken("a write goes outside of what the peer exposes");
    }
  }

  /// Where a write goes; null: nowhere, and both ends have failed.
  std::byte* target_of(const Item& item, TornLink& peer) {
    if (item.from_memory == 0) return peer.exposed_[item.write.region].base + item.write.offset;
    if (!added_.contains(item.from_memory)) {
      fail_later("local protection error: a landing's source was taken away");
      peer.fail_later("its peer failed");
      return nullptr;
    }
    const auto [address, key, unused, unused_too] = item.place;
    const auto target = peer.added_.find(key);
    if (target == peer.added_.end() || !target->second.remote_write ||
        address != reinterpret_cast<std::uint64_t>(target->second.base) ||
        item.write.offset > target->second.length ||
        item.write.length > target->second.length - item.write.offset) {
      fail_later("remote access error: a landing goes where its peer offers nothing");
      peer.fail_later("its peer wrote where it may not");
      return nullptr;
    }
    return target->second.base + item.write.offset;
  }

  void land_some(TornLink& peer) {
    std::size_t at = 0;
    // What LinkLimits::ordered_writes promises of immediates.
    if (options_.ordered && peer.has_hidden_immediate()) return;
    if (!options_.ordered) {
      // Any write that is not done, or the front.
      std::vector<std::size_t> choice;
      for (std::size_t i = 0; i < queue_.size(); ++i) {
        if (i == 0 || (queue_[i].kind == Item::Kind::write && !queue_[i].done()))
          choice.push_back(i);
      }
      at = choice[dice_.below(choice.size())];
    }
    Item& item = queue_[at];
    if (item.kind == Item::Kind::write) {
      std::byte* const target = target_of(item, peer);
      if (target == nullptr) return;
      const std::size_t budget = dice_.below(kStep);
      std::size_t bytes = 0;
      while (!item.done() && bytes <= budget) {
        const Piece piece = item.pieces[item.landed++];
        place_bytes(target + piece.offset, item.write.source + piece.offset, piece.length);
        bytes += piece.length;
        if (dice_.one_in(16)) break;
      }
    }
    while (!queue_.empty() && (queue_.front().kind != Item::Kind::write || queue_.front().done())) {
      const Item& front = queue_.front();
      if (front.kind == Item::Kind::immediate) {
        peer.deliver({LinkEvent::Kind::immediate, front.value});
      } else if (front.kind == Item::Kind::completion) {
        deliver({LinkEvent::Kind::completed, front.value});
      }
      queue_.pop_front();
      if (dice_.one_in(4)) break;
    }
  }

  [[nodiscard]] bool has_hidden_immediate() const {
    return std::any_of(later_.begin(), later_.end(), [](const Later& later) {
      return later.event.kind == LinkEvent::Kind::immediate;
    });
  }

  void deliver(LinkEvent event) {
    Tick due = engine_->now + (dice_.one_in(2) ? 0 : pause());
    // Events of one end become visible in the order in which they came.
    if (!later_.empty()) due = std::max(due, later_.back().due);
    later_.push_back({due, event});
  }

  void show(LinkEvent event) {
    later_.pop_front();
    const bool immediate = event.kind == LinkEvent::Kind::immediate;
    (immediate ? immediates_ : completions_).push_back(event);
    if (immediate ? armed_immediates_ : armed_completions_) wake_later();
  }

  void wake_later() {
    armed_completions_ = armed_immediates_ = false;
    wake_due_ = engine_->now + (dice_.one_in(2) ? 0 : pause());
  }

  [[nodiscard]] int told_by() const { return apart_ ? apart_fd_ : event_fd_; }

  static void wake(int fd) {
    const std::uint64_t one = 1;
    // A counter at its limit is readable anyway.
    while (::write(fd, &one, sizeof(one)) < 0 && errno == EINTR) {
    }
  }

  /// True: it was readable.
  static bool take(int fd) {
    std::uint64_t value = 0;
    while (::read(fd, &value, sizeof(value)) < 0)
      if (errno != EINTR) return false;
    return true;
  }

  void fail_later(const std::string& why) {
    if (failed_) return;
    failed_ = true;
    why_ = "torn link " + std::to_string(id_) + ": " + why;
    queue_.clear();
    fail_due_ = engine_->now + pause();
    engine_->has_work();
  }

  // Mostly short, rarely long.
  Tick pause() {
    const Tick most = dice_.one_in(64) ? 2000 : dice_.one_in(8) ? 100 : 8;
    return 1 + dice_.below(options_.slow ? most * 4 : most);
  }

  const std::shared_ptr<TornEngine> engine_;
  const LinkConfig config_;
  const Options options_;
  const int event_fd_;
  const int apart_fd_;
  std::uint64_t id_ = 0;
  std::uint64_t peer_ = 0;
  std::vector<LinkRegion> exposed_;
  Dice dice_;
  std::atomic<bool> inside_{false};

  std::deque<Item> queue_;
  Tick paused_until_ = 0;
  std::uint64_t next_cookie_ = 0;
  std::uint32_t on_their_way_ = 0;  // immediates to this end, until poll() has taken them

  std::deque<Later> later_;
  std::deque<LinkEvent> completions_;
  std::deque<LinkEvent> immediates_;
  bool apart_ = false;
  bool armed_completions_ = false;
  bool armed_immediates_ = false;
  std::optional<Tick> wake_due_;

  bool failed_ = false;
  std::optional<Tick> fail_due_;
  bool failure_visible_ = false;
  bool failure_reported_ = false;
  std::string why_;
  LinkCounters counters_;
};

TornMemory::TornMemory(std::shared_ptr<TornEngine> engine, std::uint64_t link,
                       const LinkRegion& region)
    : engine_(std::move(engine)), link_(link), region_(region) {
  const std::lock_guard lock(engine_->mutex);
  key_ = engine_->next_key++;
  engine_->find(link_)->added_.emplace(key_, region_);
}

TornMemory::~TornMemory() {
  const std::lock_guard lock(engine_->mutex);
  TornLink* link = engine_->find(link_);
  if (link == nullptr) broken("memory outlives the link that it was added to");
  link->added_.erase(key_);
}

void TornEngine::run() {
  Dice dice(1);
  std::unique_lock lock(mutex);
  while (!stop_) {
    bool busy = false;
    bool rest = false;
    ++now;
    for (const auto& [id, link] : links) {
      if (!link->has_work()) continue;
      busy = true;
      // Now and then one link is left behind the others.
      if (!dice.one_in(4)) rest |= link->step();
    }
    if (!busy) {
      work_.wait(lock);
      continue;
    }
    lock.unlock();
    if (rest) {
      std::this_thread::sleep_for(std::chrono::microseconds(dice.below(200)));
    } else {
      std::this_thread::yield();
    }
    lock.lock();
  }
}

TornLinkProvider::TornLinkProvider() : engine_(std::make_shared<TornEngine>()) {}

std::vector<std::string> TornLinkProvider::option_names() const {
  return {"seed", "ordered", "pace", "fail_after", "overrun", "can_land", "rails", "lose"};
}

ProbeReport TornLinkProvider::probe() const {
  return {.available = true, .reason = {}, .json = "[]"};
}

std::vector<std::string> TornLinkProvider::rails(const std::string& options,
                                                 const std::string& /*local_host*/) const {
  const Options parsed = parse(options);
  std::vector<std::string> rails;
  for (std::uint64_t i = 0; i < parsed.rails; ++i)
    rails.push_back(parsed.lose.value_or(i) == i
                        ? options
                        : options + "&fail_after=" + std::to_string(UINT64_MAX));
  return rails;
}

std::unique_ptr<Link> TornLinkProvider::open(const LinkConfig& config) {
  return std::make_unique<TornLink>(engine_, config, parse(config.options));
}

std::vector<TornLinkProvider::End> TornLinkProvider::ends() const {
  const std::lock_guard lock(engine_->mutex);
  std::vector<End> ends;
  for (const auto& [id, link] : engine_->links) ends.push_back(link->describe_end());
  return ends;
}

bool TornLinkProvider::poke(std::uint64_t id, std::uint32_t region, std::uint64_t offset,
                            std::span<const std::byte> bytes) {
  const std::lock_guard lock(engine_->mutex);
  TornLink* link = engine_->find(id);
  return link != nullptr && link->poke(region, offset, bytes);
}

}  // namespace penstock::test
