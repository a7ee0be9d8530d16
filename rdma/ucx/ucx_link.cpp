#include "penstock/rdma/ucx/ucx_link.hpp"

#include <fmt/format.h>
#include <sys/epoll.h>
#include <sys/random.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "penstock/transport/error.hpp"

namespace penstock::inline v1::ucx {
namespace {

constexpr unsigned kPostId = 1;
constexpr unsigned kWordId = 2;
constexpr std::uint32_t kMaxWrite = 1U << 20U;
/// Hot records, which this bounds, are not sent over such a link.
constexpr std::uint32_t kPacket = 4096;
constexpr std::uint32_t kReceives = 64;
/// One call of poll() has the worker go on so many times at most.
constexpr int kMostProgress = 32;
/// Peers that answer each other need not be told of every single post.
constexpr std::chrono::microseconds kTellAfter{1000};
/// One that polls for a completion asks for it when it should have been told long ago.
constexpr std::chrono::microseconds kAskAfter{2000};
/// So many are told of at once: more than a channel leaves without a credit line.
constexpr std::uint64_t kUntold = 24;
/// Polls for each look at the clock.
constexpr std::uint32_t kPollsPerClock = 8;

// The description, little-endian as everything here: secret, length of the worker's address, the
// address, number of regions, and the length of each.
class Writer {
 public:
  template <class T>
  void number(T value) {
    raw(&value, sizeof value);
  }
  void raw(const void* from, std::size_t length) {
    const auto* bytes = static_cast<const std::byte*>(from);
    bytes_.insert(bytes_.end(), bytes, bytes + length);
  }
  std::vector<std::byte> take() { return std::move(bytes_); }

 private:
  std::vector<std::byte> bytes_;
};

class Reader {
 public:
  explicit Reader(std::span<const std::byte> bytes) : rest_(bytes) {}
  template <class T>
  T number() {
    T value{};
    const auto from = raw(sizeof value);
    std::memcpy(&value, from.data(), sizeof value);
    return value;
  }
  std::span<const std::byte> raw(std::size_t length) {
    if (length > rest_.size())
      throw SetupError(Errc::handshake_failed, "ucx: the peer's description was cut short");
    const auto taken = rest_.first(length);
    rest_ = rest_.subspan(length);
    return taken;
  }
  [[nodiscard]] bool at_end() const noexcept { return rest_.empty(); }

 private:
  std::span<const std::byte> rest_;
};

constexpr std::uint32_t kDescription = 0x31584355;  // "UCX1"
constexpr std::size_t kMostRegions = 8;
constexpr std::size_t kMostDescription = 4096;  // Link::describe()

std::vector<LinkRegion> writable(std::vector<LinkRegion> regions) {
  std::erase_if(regions, [](const auto& region) { return !region.remote_write; });
  return regions;
}

}  // namespace

UcxLink::UcxLink(std::shared_ptr<Context> context, std::vector<LinkRegion> regions)
    : context_(std::move(context)), regions_(writable(std::move(regions))), posts_(kMostPosts) {
  if (::getrandom(secret_.data(), sizeof secret_, 0) != static_cast<ssize_t>(sizeof secret_))
    throw_errno("ucx: drawing a secret with getrandom", errno);
  const ErrorLog::Scope listening(log_);
  try {
    make_worker();
    watch_descriptors();
  } catch (...) {
    close();
    throw;
  }
}

UcxLink::~UcxLink() { close(); }

void UcxLink::make_worker() {
  ucp_worker_params_t params{};
  params.field_mask = UCP_WORKER_PARAM_FIELD_THREAD_MODE;
  params.thread_mode = UCS_THREAD_MODE_SERIALIZED;
  if (const auto status = ::ucp_worker_create(context_->get(), &params, &worker_);
      status != UCS_OK) {
    worker_ = nullptr;
    refuse(Errc::resource_limit, "a worker cannot be made", status);
  }
  using Parameters = const ucp_am_recv_param_t*;
  take_messages(kPostId, [](void* self, const void* head, std::size_t head_length, void* body,
                            std::size_t length, Parameters how) noexcept {
    auto& link = *static_cast<UcxLink*>(self);
    if ((how->recv_attr & UCP_AM_RECV_ATTR_FLAG_RNDV) == 0)
      link.place({static_cast<const std::byte*>(head), head_length},
                 {static_cast<const std::byte*>(body), length});
    return UCS_OK;
  });
  take_messages(kWordId, [](void* self, const void* head, std::size_t head_length, void* /*body*/,
                            std::size_t /*length*/, Parameters /*how*/) noexcept {
    static_cast<UcxLink*>(self)->heed_word({static_cast<const std::byte*>(head), head_length});
    return UCS_OK;
  });
}

void UcxLink::take_messages(unsigned id, ucp_am_recv_callback_t handler) {
  ucp_am_handler_param_t params{};
  params.field_mask = UCP_AM_HANDLER_PARAM_FIELD_ID | UCP_AM_HANDLER_PARAM_FIELD_CB |
                      UCP_AM_HANDLER_PARAM_FIELD_ARG;
  params.id = id;
  params.cb = handler;
  params.arg = this;
  if (const auto status = ::ucp_worker_set_am_recv_handler(worker_, &params); status != UCS_OK)
    refuse(Errc::transport_unavailable, "it takes no active messages", status);
}

void UcxLink::watch_descriptors() {
  if (const auto status = ::ucp_worker_get_efd(worker_, &worker_fd_); status != UCS_OK)
    refuse(Errc::transport_unavailable, "the chosen transports cannot wake a sleeper", status);
  events_fd_ = Fd(::epoll_create1(EPOLL_CLOEXEC));
  if (!events_fd_) throw_errno("ucx: epoll_create1", errno);
  for (const int fd : {worker_fd_, bell_.open()}) {
    epoll_event event{};
    event.events = fd == worker_fd_ ? 0U : EPOLLIN;
    if (::epoll_ctl(events_fd_.get(), EPOLL_CTL_ADD, fd, &event) != 0)
      throw_errno("ucx: epoll_ctl", errno);
  }
}

void UcxLink::watch_worker(bool watched) noexcept {
  if (std::exchange(worker_watched_, watched) == watched) return;
  epoll_event event{};
  event.events = watched ? EPOLLIN : 0U;
  if (::epoll_ctl(events_fd_.get(), EPOLL_CTL_MOD, worker_fd_, &event) != 0)
    fail("epoll_ctl refused to watch its worker");
}

void UcxLink::close() noexcept {
  const ErrorLog::Scope listening(log_);
  if (endpoint_ != nullptr && may_be_forced_) {  // else it goes with the worker
    ucp_request_param_t params{};
    params.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS;
    params.flags = UCP_EP_CLOSE_FLAG_FORCE;
    auto* const request = ::ucp_ep_close_nbx(endpoint_, &params);
    if (UCS_PTR_IS_PTR(request)) {
      while (::ucp_request_check_status(request) == UCS_INPROGRESS) ::ucp_worker_progress(worker_);
      ::ucp_request_free(request);
    }
  }
  if (word_under_way_ != nullptr) ::ucp_request_free(word_under_way_);
  events_fd_.reset();
  if (worker_ != nullptr) ::ucp_worker_destroy(worker_);
}

std::vector<std::byte> UcxLink::describe() const {
  Writer out;
  out.number(kDescription);
  out.number(secret_);
  ucp_address_t* address = nullptr;
  std::size_t length = 0;
  if (const auto status = ::ucp_worker_get_address(worker_, &address, &length); status != UCS_OK)
    refuse(Errc::system, "the worker has no address", status);
  out.number(static_cast<std::uint32_t>(length));
  out.raw(address, length);
  ::ucp_worker_release_address(worker_, address);
  out.number(static_cast<std::uint32_t>(regions_.size()));
  for (const auto& region : regions_) out.number(std::uint64_t{region.length});
  auto description = out.take();
  if (description.size() > kMostDescription)
    throw SetupError(
        Errc::resource_limit,
        fmt::format("ucx: the addresses of this machine's devices take {} bytes, and {} fit into a "
                    "handshake: choose fewer, by ?tls= or UCX_NET_DEVICES",
                    length, kMostDescription));
  return description;
}

void UcxLink::connect(std::span<const std::byte> peer) {
  Reader in(peer);
  if (in.number<std::uint32_t>() != kDescription)
    throw SetupError(Errc::version_mismatch, "ucx: the peer describes its end in another way");
  const auto secret = in.number<Secret>();
  const auto address = in.raw(in.number<std::uint32_t>());
  const auto count = in.number<std::uint32_t>();
  if (count > kMostRegions)
    throw SetupError(Errc::handshake_failed, "ucx: the peer describes too many regions");
  std::vector<std::uint64_t> regions;
  for (std::uint32_t i = 0; i < count; ++i) regions.push_back(in.number<std::uint64_t>());
  if (!in.at_end())
    throw SetupError(Errc::handshake_failed, "ucx: the peer's description is too long");

  const ErrorLog::Scope listening(log_);
  auto status = make_endpoint(address, UCP_ERR_HANDLING_MODE_PEER);
  if (status == UCS_ERR_UNREACHABLE) {
    log_ = {};
    // Shared memory does not tell of a peer's end: the control connection will.
    status = make_endpoint(address, UCP_ERR_HANDLING_MODE_NONE);
    may_be_forced_ = false;
  }
  if (status != UCS_OK)
    refuse(Errc::unreachable,
           "there is no way to the peer: see that both ends may use a transport in common (?tls=, "
           "UCX_TLS, UCX_NET_DEVICES)",
           status);
  peer_secret_ = secret;
  peer_regions_ = std::move(regions);
}

ucs_status_t UcxLink::make_endpoint(std::span<const std::byte> address,
                                    ucp_err_handling_mode_t errors) {
  ucp_ep_params_t params{};
  params.field_mask = UCP_EP_PARAM_FIELD_REMOTE_ADDRESS | UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE |
                      UCP_EP_PARAM_FIELD_ERR_HANDLER;
  params.address = reinterpret_cast<const ucp_address_t*>(address.data());
  params.err_mode = errors;
  params.err_handler.cb = [](void* self, ucp_ep_h /*endpoint*/, ucs_status_t status) {
    static_cast<UcxLink*>(self)->fail(status);
  };
  params.err_handler.arg = this;
  const auto status = ::ucp_ep_create(worker_, &params, &endpoint_);
  if (status != UCS_OK) endpoint_ = nullptr;
  return status;
}

LinkLimits UcxLink::limits() const noexcept {
  return {.max_writes = kMostPieces,
          .max_write = kMaxWrite,
          .packet = kPacket,
          .receives = kReceives,
          .ordered_writes = false,
          .landings = false};
}

bool UcxLink::allowed(const RemoteWrite& write) const noexcept {
  return write.region < peer_regions_.size() && write.offset <= peer_regions_[write.region] &&
         write.length <= peer_regions_[write.region] - write.offset &&
         (!write.copied || write.length <= kMaxCopied);
}

PostStatus UcxLink::post(std::span<const RemoteWrite> writes,
                         std::optional<std::uint32_t> immediate, std::uint64_t cookie) noexcept {
  if (failed_) return PostStatus::failed;
  if (endpoint_ == nullptr || writes.size() > kMostPieces ||
      !std::ranges::all_of(writes, [&](const RemoteWrite& w) { return allowed(w); })) {
    fail("a write was refused before it left: it lies outside the memory that the peer described");
    return PostStatus::failed;
  }
  if (posted_ - finished_ == kMostPosts) return PostStatus::no_room;
  Post& post = posts_[posted_ % kMostPosts];
  post.cookie = cookie;
  post.head.secret = peer_secret_;
  post.head.number = posted_ + 1;
  post.head.placed = placed_;
  post.head.has_immediate = immediate ? 1 : 0;
  post.head.immediate = immediate.value_or(0);
  for (std::size_t i = 0; i < writes.size(); ++i) {
    const auto& write = writes[i];
    post.head.pieces[i] = {.offset = write.offset, .region = write.region, .length = write.length};
    const std::byte* source = write.source;
    if (write.copied) {
      std::memcpy(post.copies[i].data(), write.source, write.length);
      source = post.copies[i].data();
    }
    post.body[i] = {.buffer = const_cast<std::byte*>(source), .length = write.length};
  }
  const ErrorLog::Scope listening(log_);
  auto* const request =
      begin(kPostId, &post.head, offsetof(Head, pieces) + writes.size() * sizeof(Piece),
            post.body.data(), writes.size());
  if (UCS_PTR_IS_ERR(request)) {
    fail(UCS_PTR_STATUS(request));
    return PostStatus::failed;
  }
  if (request != nullptr) ::ucp_request_free(request);  // nobody waits for it, but for the peer
  ++posted_;
  told_ = placed_;
  untold_since_ = {};
  tell_now_ = false;
  ++counters_.posts;
  counters_.work_requests += std::max<std::size_t>(writes.size(), 1);
  if (immediate) ++counters_.immediates;
  return PostStatus::posted;
}

ucs_status_ptr_t UcxLink::begin(unsigned id, const void* head, std::size_t head_length,
                                const ucp_dt_iov_t* body, std::size_t pieces) noexcept {
  ucp_request_param_t params{};
  params.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS;
  params.flags = UCP_AM_SEND_FLAG_EAGER;
  if (pieces == 0) return ::ucp_am_send_nbx(endpoint_, id, head, head_length, nullptr, 0, &params);
  if (pieces == 1)
    return ::ucp_am_send_nbx(endpoint_, id, head, head_length, body->buffer, body->length, &params);
  params.op_attr_mask |= UCP_OP_ATTR_FIELD_DATATYPE;
  params.datatype = ucp_dt_make_iov();
  return ::ucp_am_send_nbx(endpoint_, id, head, head_length, body, pieces, &params);
}

// Whatever comes is a stranger's until it shows the secret; what does is the peer's fault.
void UcxLink::place(std::span<const std::byte> head, std::span<const std::byte> body) noexcept {
  Head message;
  constexpr std::size_t kLeast = offsetof(Head, pieces);
  if (head.size() < kLeast || head.size() > sizeof message) return;
  std::memcpy(&message, head.data(), head.size());
  if (message.secret != secret_ || failed_) return;
  if ((head.size() - kLeast) % sizeof(Piece) != 0 || message.number != placed_ + 1)
    return fail("a post came out of order, or cut short");
  const auto pieces = std::span(message.pieces).first((head.size() - kLeast) / sizeof(Piece));
  std::uint64_t sum = 0;
  for (const auto& piece : pieces) {
    if (piece.region >= regions_.size() || piece.offset > regions_[piece.region].length ||
        piece.length > regions_[piece.region].length - piece.offset)
      return fail(
          "the peer writes outside of the memory that it was given: it breaks the protocol");
    sum += piece.length;
  }
  if (sum != body.size()) return fail("a post's places do not match its length");
  for (const auto& piece : pieces) {
    std::memcpy(regions_[piece.region].base + piece.offset, body.data(), piece.length);
    body = body.subspan(piece.length);
  }
  ++placed_;
  heed_placed(message.placed);
  if (message.has_immediate == 0) return;
  if (inbox_tail_ - inbox_head_ == kInbox)
    return fail("more immediates came than there is room for: the peer breaks the protocol");
  inbox_[inbox_tail_++ % kInbox] = message.immediate;
  tell_of(immediates_armed_);
}

void UcxLink::heed_word(std::span<const std::byte> head) noexcept {
  Word word{};
  if (head.size() != sizeof word) return;
  std::memcpy(&word, head.data(), sizeof word);
  if (word.secret != secret_ || failed_) return;
  if (word.asks != 0) tell_now_ = true;
  heed_placed(word.placed);
}

void UcxLink::heed_placed(std::uint64_t number) noexcept {
  if (number < finished_ || number > posted_)
    return fail("the peer says that it placed what was not posted: it breaks the protocol");
  if (number == finished_) return;
  counters_.completions += number - finished_;
  finished_ = number;
  finished_cookie_ = posts_[(finished_ - 1) % kMostPosts].cookie;
  unfinished_since_ = {};
  tell_of(completions_armed_);
}

/// Says what was placed, where it is due, and asks, where that is.
void UcxLink::tell() noexcept {
  const bool due = tell_now_ || placed_ - told_ >= kUntold;
  const bool asks = asks_ && finished_ != posted_;
  if ((!due && !asks) || endpoint_ == nullptr || failed_) return;
  if (word_under_way_ != nullptr) {
    if (::ucp_request_check_status(word_under_way_) == UCS_INPROGRESS) return;
    ::ucp_request_free(std::exchange(word_under_way_, nullptr));
  }
  word_ = {.secret = peer_secret_, .placed = placed_, .asks = asks ? 1U : 0U};
  told_ = placed_;
  untold_since_ = {};
  tell_now_ = asks_ = false;
  auto* const request = begin(kWordId, &word_, sizeof word_, nullptr, 0);
  if (UCS_PTR_IS_ERR(request)) return fail(UCS_PTR_STATUS(request));
  word_under_way_ = request;
}

/// What is due since long.
void UcxLink::look_at_clock() noexcept {
  const auto now = Clock::now();
  const auto waited = [now](TimePoint& since) {
    if (since == TimePoint{}) since = now;
    return now - since;
  };
  if (placed_ != told_ && waited(untold_since_) >= kTellAfter) tell_now_ = true;
  if (finished_ != posted_ && waited(unfinished_since_) >= kAskAfter) ask();
}

/// Once for all that was posted until now.
void UcxLink::ask() noexcept {
  if (asked_ == posted_ || finished_ == posted_) return;
  asked_ = posted_;
  asks_ = true;
  tell();
}

std::size_t UcxLink::poll(std::span<LinkEvent> events) noexcept {
  if (failure_reported_) return 0;
  if (!failed_) {
    const ErrorLog::Scope listening(log_);
    // What has come is handed on first: the worker's descriptor tells of the rest.
    for (int i = 0;
         i < kMostProgress && inbox_head_ == inbox_tail_ && ::ucp_worker_progress(worker_) != 0;
         ++i) {
    }
    if ((placed_ != told_ || finished_ != posted_) && ++polls_ % kPollsPerClock == 0)
      look_at_clock();
    tell();
  }
  std::size_t count = 0;
  while (inbox_head_ != inbox_tail_ && count < events.size())
    events[count++] = {.kind = LinkEvent::Kind::immediate, .value = inbox_[inbox_head_++ % kInbox]};
  if (reported_ != finished_ && count < events.size()) {
    reported_ = finished_;
    events[count++] = {.kind = LinkEvent::Kind::completed, .value = finished_cookie_};
  }
  if (failed_ && count < events.size()) {
    failure_reported_ = true;
    events[count++] = {.kind = LinkEvent::Kind::failed, .value = 0};
  }
  return count;
}

// Whoever polls takes what the worker's descriptor tells of; one who waits for event_fd() is to
// hear of it nevertheless, by the bell.
void UcxLink::arm(bool completions, bool immediates) noexcept {
  if (failed_) return bell_.ring();
  completions_armed_ = completions;
  immediates_armed_ = immediates;
  const ErrorLog::Scope listening(log_);
  if (completions) ask();
  const auto status = ::ucp_worker_arm(worker_);
  // Something is there already, and no descriptor will tell of it.
  if (status == UCS_ERR_BUSY) return bell_.ring();
  if (status != UCS_OK) return fail(status);
  watch_worker(true);
}

void UcxLink::disarm() noexcept {
  completions_armed_ = immediates_armed_ = false;
  watch_worker(false);
  bell_.quiet();
}

void UcxLink::tell_of(bool& armed) noexcept {
  if (!armed) return;
  completions_armed_ = immediates_armed_ = false;
  bell_.ring();
}

std::string UcxLink::path() const {
  return fmt::format("ucx {}", context_->transports().empty() ? "(its choice of transports)"
                                                              : context_->transports());
}

void UcxLink::refuse(Errc code, const char* what, ucs_status_t status) const {
  throw SetupError(code, fmt::format("ucx: {}: {}", what, reason(status, log_)));
}

void UcxLink::fail(ucs_status_t status) noexcept {
  if (failed_) return;
  try {
    fail(reason(status, log_));
  } catch (const std::exception&) {
    fail(::ucs_status_string(status));
  }
}

void UcxLink::fail(std::string_view what) noexcept {
  if (std::exchange(failed_, true)) return;
  bell_.ring();
  try {
    failure_ = fmt::format("ucx: {}", what);
  } catch (const std::exception&) {
    return;
  }
}

}  // namespace penstock::inline v1::ucx
