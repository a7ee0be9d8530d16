#include "penstock/rdma/verbs/verbs_link.hpp"

#include <arpa/inet.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <net/if.h>
#include <sys/epoll.h>
#include <sys/random.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <new>
#include <utility>

#include "penstock/rdma/verbs/failure.hpp"
#include "penstock/transport/error.hpp"

namespace penstock::inline v1::verbs {
namespace {

constexpr int kBatch = 16;                  // completions taken from a queue at a time
constexpr unsigned kAcknowledgeAfter = 64;  // each acknowledgement takes a lock
constexpr std::uint32_t kReceivesPromised = kReceives / 2;

// Of the reliable connection, in the InfiniBand specification's encodings. An unanswered write is
// repeated seven times, an acknowledgement timeout apart (some devices take up to four times that).
// rdma_rxe takes seven for ever, and fewer also for packets that come out of order, progress or
// not: a network that reorders would end the link. So an end is made here, too.
constexpr std::uint8_t kRetries = 7;
/// Nothing is acknowledged for so many acknowledgement timeouts: the peer is gone. Of a long post
/// the end is awaited, which a slow network that others share brings late: one more for each piece.
constexpr std::uint64_t kTimeoutsToTheEnd = 32;
constexpr std::uint64_t kBytesPerTimeout = 16384;
constexpr std::chrono::nanoseconds kAckTimeoutUnit{4096};
constexpr std::uint32_t kLooksPerClock = 64;
/// What lies between two looks at the clock counts for so much: a process that was stopped, or a
/// machine, has to find what came meanwhile.
constexpr std::chrono::milliseconds kMostSilence{250};
constexpr std::uint8_t kRnrTimer = 12;   // 0.64 ms
constexpr std::uint8_t kRnrRetries = 6;  // 7 would be for ever
constexpr std::uint8_t kHopLimit = 64;

[[noreturn]] void refuse(Errc code, const std::string& text) {
  throw SetupError(code, "rdma: " + text);
}

Errc code_of(int error) noexcept {
  switch (error) {
    case ENOMEM:
    case EMFILE:
    case ENFILE:
    case ENOSPC: return Errc::resource_limit;
    default: return Errc::system;
  }
}

std::uint32_t random_psn() {
  std::uint32_t value = 0;
  if (::getrandom(&value, sizeof value, 0) != sizeof value) throw_errno("rdma: getrandom", errno);
  return value & 0xff'ffffU;
}

std::uint32_t at_most(std::uint32_t value, int limit) noexcept {
  return limit > 0 ? std::min(value, static_cast<std::uint32_t>(limit)) : value;
}

/// Where it may be, the kernel copies registered pages for the children of fork(). Where libibverbs
/// hides them from children instead, a child would miss whatever else lies on the pages of a
/// message, so there only memory of our own is registered.
bool registers_any_memory() noexcept {
  static const bool safe = ::ibv_is_fork_initialized() == IBV_FORK_UNNEEDED;
  return safe;
}

class VerbsMemory final : public LinkMemory {
 public:
  VerbsMemory(std::shared_ptr<Device> device, const LinkRegion& region, RegionPtr registered)
      : device_(std::move(device)), region_(region), registered_(std::move(registered)) {}
  VerbsMemory(const VerbsMemory&) = delete;
  VerbsMemory& operator=(const VerbsMemory&) = delete;
  VerbsMemory(VerbsMemory&&) = delete;
  VerbsMemory& operator=(VerbsMemory&&) = delete;
  ~VerbsMemory() override {
    if (!device_->ours()) static_cast<void>(registered_.release());  // the parent's
  }
  [[nodiscard]] LandingPlace place() const noexcept override {
    return {address(), registered_->rkey};
  }
  [[nodiscard]] bool holds(std::uint64_t offset, std::uint64_t length) const noexcept {
    return offset <= region_.length && length <= region_.length - offset;
  }
  [[nodiscard]] std::uint64_t address() const noexcept {
    return reinterpret_cast<std::uint64_t>(region_.base);
  }
  [[nodiscard]] std::uint32_t local_key() const noexcept { return registered_->lkey; }

 private:
  const std::shared_ptr<Device> device_;
  const LinkRegion region_;
  RegionPtr registered_;
};

}  // namespace

VerbsLink::VerbsLink(const PathChoice& path, std::vector<LinkRegion> regions,
                     const QueuePairWish& wish)
    : device_(path.device->device),
      port_(*path.port),
      partition_(path.partition),
      travel_(path.travel),
      mtu_(std::min(path.travel.mtu.value_or(IBV_MTU_4096), path.port->attr.active_mtu)),
      ordered_(
          path.travel.ordered_writes.value_or(places_writes_in_order(path.device->attr.vendor_id))),
      regions_(std::move(regions)),
      first_psn_(random_psn()),
      // A failed queue pair completes every request, those not signalled too, and no completion
      // queue may overrun: with one of its own for each direction none can.
      depth_(at_most(at_most(wish.send_requests, path.device->attr.max_qp_wr),
                     path.device->attr.max_cqe - 1)),
      packet_(mtu_bytes(mtu_)) {
  if (path.gid != nullptr) gid_ = *path.gid;
  domain_.reset(::ibv_alloc_pd(device_->context()));
  if (!domain_)
    refuse(code_of(errno), fmt::format("cannot make a protection domain on {}: {}", device_->name(),
                                       std::strerror(errno)));
  channel_.reset(::ibv_create_comp_channel(device_->context()));
  if (!channel_)
    refuse(code_of(errno), fmt::format("cannot make a completion channel on {}: {}",
                                       device_->name(), std::strerror(errno)));
  sends_ = make_queue(depth_ + 1);
  receives_ = make_queue(kReceives + 1);
  register_regions();
  make_queue_pair(wish);
  chain_receives();
  if (const int error = post_receives(kReceives); error != 0)
    refuse(code_of(error),
           fmt::format("cannot post receives on {}: {}", device_->name(), std::strerror(error)));
  unfinished_.resize(std::bit_ceil(depth_));
  room_ = depth_;
  watch_descriptors();
}

VerbsLink::~VerbsLink() {
  if (!device_->ours()) {
    abandon();
    return;
  }
  device_->unwatch(watch_);
  queue_pair_.reset();
  for (Queue* q : {&sends_, &receives_})
    ::ibv_ack_cq_events(q->queue.get(), std::exchange(q->unacknowledged, 0));
}

/// In a child after fork(): the objects are the parent's, and destroying them would take them away
/// from it.
void VerbsLink::abandon() noexcept {
  static_cast<void>(queue_pair_.release());
  static_cast<void>(staging_registered_.release());
  for (RegionPtr& r : registered_) static_cast<void>(r.release());
  static_cast<void>(receives_.queue.release());
  static_cast<void>(sends_.queue.release());
  static_cast<void>(channel_.release());
  static_cast<void>(domain_.release());
}

VerbsLink::Queue VerbsLink::make_queue(std::uint32_t entries) {
  Queue made;
  made.queue.reset(
      ::ibv_create_cq(device_->context(), static_cast<int>(entries), nullptr, channel_.get(), 0));
  if (!made.queue)
    refuse(code_of(errno), fmt::format("cannot make a completion queue of {} entries on {}: {}",
                                       entries, device_->name(), std::strerror(errno)));
  return made;
}

void VerbsLink::register_regions() {
  const auto exposed = std::ranges::count_if(regions_, &LinkRegion::remote_write);
  if (static_cast<std::size_t>(exposed) > kMaxRegions)
    refuse(Errc::resource_limit,
           fmt::format("a link exposes at most {} memory regions, not {}", kMaxRegions, exposed));
  std::size_t all_bytes = 0;
  for (const LinkRegion& r : regions_) all_bytes += r.length;
  for (const LinkRegion& r : regions_) {
    const int access = IBV_ACCESS_LOCAL_WRITE | (r.remote_write ? IBV_ACCESS_REMOTE_WRITE : 0);
    RegionPtr region(::ibv_reg_mr(domain_.get(), r.base, r.length, static_cast<unsigned>(access)));
    if (!region)
      throw SetupError(code_of(errno),
                       registration_text(device_->name(), r.length, all_bytes, errno));
    registered_.push_back(std::move(region));
  }
}

void VerbsLink::make_queue_pair(const QueuePairWish& wish) {
  ibv_qp_init_attr attributes{};
  int error = EINVAL;
  // Devices refuse to make a queue pair with more inline data than they can carry.
  for (const std::uint32_t inline_bytes : {wish.inline_bytes, kMaxCopied, 0U}) {
    if (inline_bytes > wish.inline_bytes) continue;
    attributes = {};
    attributes.send_cq = sends_.queue.get();
    attributes.recv_cq = receives_.queue.get();
    attributes.qp_type = IBV_QPT_RC;
    attributes.cap = {.max_send_wr = depth_,
                      .max_recv_wr = kReceives,
                      .max_send_sge = 1,
                      .max_recv_sge = 1,
                      .max_inline_data = inline_bytes};
    queue_pair_.reset(::ibv_create_qp(domain_.get(), &attributes));
    if (queue_pair_) break;
    error = errno;
  }
  if (!queue_pair_)
    refuse(error == EINVAL ? Errc::transport_unavailable : code_of(error),
           fmt::format("cannot make a queue pair with {} send and {} receive requests on {}: {}",
                       depth_, kReceives, device_->name(), std::strerror(error)));
  inline_bytes_ = attributes.cap.max_inline_data;

  if (inline_bytes_ < kMaxCopied) {
    staging_.resize(std::size_t{depth_} * kMaxCopied);
    constexpr int access = IBV_ACCESS_LOCAL_WRITE;  // int: ibv_reg_mr() is a macro
    staging_registered_.reset(
        ::ibv_reg_mr(domain_.get(), staging_.data(), staging_.size(), access));
    if (!staging_registered_)
      throw SetupError(code_of(errno),
                       registration_text(device_->name(), staging_.size(), staging_.size(), errno));
  }

  ibv_qp_attr state{};
  state.qp_state = IBV_QPS_INIT;
  state.pkey_index = partition_.index;
  state.port_num = port_.number;
  state.qp_access_flags = IBV_ACCESS_REMOTE_WRITE;
  change_state(state, IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS, "INIT");
}

void VerbsLink::change_state(ibv_qp_attr& attributes, int mask, std::string_view state) {
  if (const int error = ::ibv_modify_qp(queue_pair_.get(), &attributes, mask | IBV_QP_STATE);
      error != 0)
    refuse(code_of(error), fmt::format("queue pair {:#x} on {} does not go to {}: {}",
                                       queue_pair_->qp_num, where(), state, std::strerror(error)));
}

void VerbsLink::chain_receives() noexcept {
  for (std::size_t i = 0; i + 1 < receive_chain_.size(); ++i)
    receive_chain_[i].next = &receive_chain_[i + 1];
}

void VerbsLink::watch_descriptors() {
  events_fd_ = Fd(::epoll_create1(EPOLL_CLOEXEC));
  const int flags = ::fcntl(channel_->fd, F_GETFL);
  if (!events_fd_ || flags < 0 || ::fcntl(channel_->fd, F_SETFL, flags | O_NONBLOCK) != 0)
    refuse(code_of(errno),
           fmt::format("cannot make an event descriptor: {}", std::strerror(errno)));
  const auto cannot_watch = [&](int error) {
    refuse(code_of(error),
           fmt::format("cannot watch {} for events: {}", device_->name(), std::strerror(error)));
  };
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.fd = channel_->fd;
  if (::epoll_ctl(events_fd_.get(), EPOLL_CTL_ADD, channel_->fd, &event) != 0) cannot_watch(errno);
  seen_generation_ = device_->generation();
  watch_.queue_pair = queue_pair_.get();
  watch_.send_queue = sends_.queue.get();
  watch_.receive_queue = receives_.queue.get();
  watch_.events = events_fd_.get();
  try {
    device_->watch(watch_);
  } catch (const std::system_error& e) {
    cannot_watch(e.code().value());
  }
}

std::vector<std::byte> VerbsLink::describe() const {
  Description d{.link_layer = port_.attr.link_layer,
                .mtu = static_cast<std::uint8_t>(mtu_),
                .traffic_class = travel_.traffic_class.value_or(0),
                .service_level = travel_.service_level.value_or(0),
                .lid = port_.attr.lid,
                .pkey_index = partition_.index,
                .pkey = partition_.key,
                .queue_pair = queue_pair_->qp_num,
                .first_psn = first_psn_,
                .gid_type = gid_ ? gid_->type : GidType::infiniband,
                .gid = gid_ ? gid_->gid : ibv_gid{},
                .regions = {}};
  for (std::size_t i = 0; i < regions_.size(); ++i)
    if (regions_[i].remote_write)
      d.regions.push_back({.address = reinterpret_cast<std::uint64_t>(regions_[i].base),
                           .length = regions_[i].length,
                           .key = registered_[i]->rkey});
  return encode(d);
}

void VerbsLink::connect(std::span<const std::byte> peer) {
  if (peer_) refuse(Errc::system, "connect() was called twice on one link");
  Description d = decode(peer);
  const auto cannot = [&](std::string_view why) {
    refuse(Errc::unreachable, fmt::format("{} cannot reach {}, queue pair {:#x}: {}", where(),
                                          gid_text(d.gid), d.queue_pair, why));
  };
  const bool ethernet = port_.attr.link_layer == IBV_LINK_LAYER_ETHERNET;
  if (d.link_layer != port_.attr.link_layer)
    cannot(
        fmt::format("its port is {}, this one {}: choose ports of one network with "
                    "?device=, ?port= or ?gid_index=",
                    link_layer_text(d.link_layer), link_layer_text(port_.attr.link_layer)));
  if (partition_of(d.pkey) != partition_of(partition_.key))
    cannot(fmt::format(
        "it is in partition {:#x}, this one in {:#x}: choose one for both with ?pkey=", d.pkey,
        partition_.key));
  if (!full_member(d.pkey) && !full_member(partition_.key))
    cannot(fmt::format("both are limited members of partition {:#x}, and one must be a full one",
                       d.pkey));
  if (ethernet && ipv4_mapped(d.gid) != ipv4_mapped(gid_->gid))
    cannot("one end has an IPv4 and the other an IPv6 address: choose with ?gid_index=");
  if (ethernet && d.gid_type != gid_->type)
    cannot(fmt::format("it speaks {}, this end {}: choose with ?gid_index=",
                       gid_type_text(d.gid_type), gid_type_text(gid_->type)));
  if (!ethernet && gid_ && !empty_gid(d.gid) &&
      d.gid.global.subnet_prefix != gid_->gid.global.subnet_prefix)
    cannot("it is in another InfiniBand subnet, and routes between them are not looked up here");

  // Where this end has no wish of its own it follows the peer's, so one URI is enough for both.
  const std::uint8_t traffic_class = travel_.traffic_class.value_or(d.traffic_class);
  const bool global = ethernet || d.lid == 0 || traffic_class != 0 ||
                      (port_.attr.flags & IBV_QPF_GRH_REQUIRED) != 0;
  if (global && (!gid_ || empty_gid(d.gid))) cannot("one of the two has no GID");
  const auto mtu = std::min<unsigned>(d.mtu, mtu_);
  ibv_qp_attr a{};
  a.qp_state = IBV_QPS_RTR;
  a.path_mtu = static_cast<ibv_mtu>(mtu);
  a.dest_qp_num = d.queue_pair;
  a.rq_psn = d.first_psn;
  a.max_dest_rd_atomic = 0;  // nobody reads here
  a.min_rnr_timer = kRnrTimer;
  a.ah_attr.dlid = d.lid;
  a.ah_attr.sl = travel_.service_level.value_or(d.service_level);
  a.ah_attr.port_num = port_.number;
  if (global) {
    a.ah_attr.is_global = 1;
    a.ah_attr.grh.dgid = d.gid;
    a.ah_attr.grh.sgid_index = static_cast<std::uint8_t>(gid_->index);
    a.ah_attr.grh.hop_limit = kHopLimit;
    a.ah_attr.grh.traffic_class = traffic_class;
  }
  if (const int error =
          ::ibv_modify_qp(queue_pair_.get(), &a,
                          IBV_QP_STATE | IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN |
                              IBV_QP_RQ_PSN | IBV_QP_MAX_DEST_RD_ATOMIC | IBV_QP_MIN_RNR_TIMER);
      error != 0)
    cannot(
        fmt::format("{}: check the route between the two addresses, or choose others with "
                    "?device= or ?gid_index=",
                    std::strerror(error)));
  a = {};
  a.qp_state = IBV_QPS_RTS;
  a.timeout = travel_.ack_timeout;
  a.retry_cnt = kRetries;
  a.rnr_retry = kRnrRetries;
  a.sq_psn = first_psn_;
  a.max_rd_atomic = 0;
  change_state(a,
               IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY | IBV_QP_SQ_PSN |
                   IBV_QP_MAX_QP_RD_ATOMIC,
               "RTS");
  packet_ = mtu_bytes(mtu);
  peer_ = std::move(d);
}

LinkLimits VerbsLink::limits() const noexcept {
  return {.max_writes = std::min(kMaxWritesPerPost, depth_ - 1),
          .max_write = port_.attr.max_msg_sz,
          .packet = packet_,
          .receives = kReceivesPromised,
          .ordered_writes = ordered_,
          .landings = registers_any_memory()};
}

const ibv_mr* VerbsLink::registration_of(const RemoteWrite& write) const noexcept {
  const auto from = reinterpret_cast<std::uintptr_t>(write.source);
  const auto* registered = registered_.data();
  for (const auto& region : regions_) {
    const auto offset = from - reinterpret_cast<std::uintptr_t>(region.base);  // or far beyond it
    if (offset <= region.length && write.length <= region.length - offset) return registered->get();
    ++registered;
  }
  return nullptr;
}

bool VerbsLink::allowed(const RemoteWrite& write) const noexcept {
  if (write.region >= peer_->regions.size()) return false;
  const std::uint64_t length = peer_->regions[write.region].length;
  if (write.offset > length || write.length > length - write.offset) return false;
  if (write.length > port_.attr.max_msg_sz) return false;
  return write.copied ? write.length <= kMaxCopied : registration_of(write) != nullptr;
}

void VerbsLink::fill(ibv_send_wr& request, ibv_sge& piece, const RemoteWrite& write,
                     std::uint64_t position) noexcept {
  const ExposedRegion& target = peer_->regions[write.region];
  request.wr.rdma = {.remote_addr = target.address + write.offset, .rkey = target.key};
  piece = {
      .addr = reinterpret_cast<std::uint64_t>(write.source), .length = write.length, .lkey = 0};
  if (write.length <= inline_bytes_) {
    request.send_flags = IBV_SEND_INLINE;
  } else if (write.copied) {
    std::byte* slot = staging_.data() + (position % depth_) * kMaxCopied;
    std::memcpy(slot, write.source, write.length);
    piece.addr = reinterpret_cast<std::uint64_t>(slot);
    piece.lkey = staging_registered_->lkey;
  } else {
    piece.lkey = registration_of(write)->lkey;
  }
  request.sg_list = &piece;
  request.num_sge = write.length == 0 ? 0 : 1;
}

PostStatus VerbsLink::post(std::span<const RemoteWrite> writes,
                           std::optional<std::uint32_t> immediate, std::uint64_t cookie) noexcept {
  if (failed_) return PostStatus::failed;
  if (!peer_ || writes.size() > std::min(kMaxWritesPerPost, depth_ - 1) ||
      (writes.empty() && !immediate) ||
      !std::ranges::all_of(writes, [&](const RemoteWrite& w) { return allowed(w); })) {
    fail([&] {
      return fmt::format(
          "rdma: a write to {} ({}) was refused before it left: it lies outside the "
          "memory that the two ends described",
          peer_text(), where());
    });
    return PostStatus::failed;
  }
  const auto count = static_cast<std::uint32_t>(std::max<std::size_t>(writes.size(), 1));
  if (count > room_) return PostStatus::no_room;

  std::array<ibv_send_wr, kMaxWritesPerPost> requests;
  std::array<ibv_sge, kMaxWritesPerPost> pieces;
  for (std::uint32_t i = 0; i < count; ++i) {
    auto& request = requests[i];
    // Not the rest of it, which is for other kinds of requests, and as long again.
    request.next = nullptr;
    request.sg_list = nullptr;
    request.num_sge = 0;
    request.opcode = IBV_WR_RDMA_WRITE;
    request.send_flags = 0;
    request.imm_data = 0;
    request.wr_id = 0;
    request.wr.rdma = {};
    if (i > 0) requests[i - 1].next = &request;
    if (!writes.empty()) fill(request, pieces[i], writes[i], position_ + i);
  }
  ibv_send_wr& last = requests[count - 1];
  if (immediate) {
    last.opcode = IBV_WR_RDMA_WRITE_WITH_IMM;
    last.imm_data = htonl(*immediate);
  }
  const auto status = hand_over(requests[0], last, count, cookie);
  if (immediate && status == PostStatus::posted) ++counters_.immediates;
  return status;
}

/// The chain from `first` to `last`, of `count` requests, for which there is room.
inline PostStatus VerbsLink::hand_over(ibv_send_wr& first, ibv_send_wr& last, std::uint32_t count,
                                       std::uint64_t cookie) noexcept {
  last.wr_id = cookie;
  last.send_flags |= IBV_SEND_SIGNALED;
  ibv_send_wr* refused = nullptr;
  if (const int error = ::ibv_post_send(queue_pair_.get(), &first, &refused); error != 0) {
    fail_call("ibv_post_send", error);
    return PostStatus::failed;
  }
  std::uint64_t bytes = 0;
  for (const ibv_send_wr* request = &first; request != nullptr; request = request->next)
    if (request->num_sge != 0) bytes += request->sg_list->length;
  unfinished(next_unfinished_++) = {.cookie = cookie, .requests = count, .bytes = bytes};
  room_ -= count;
  position_ += count;
  ++counters_.posts;
  counters_.work_requests += count;
  return PostStatus::posted;
}

std::unique_ptr<LinkMemory> VerbsLink::add_memory(const LinkRegion& memory) noexcept {
  if (!registers_any_memory() || memory.length == 0) return nullptr;
  // A source may lie where nobody may write.
  const unsigned access =
      memory.remote_write ? unsigned{IBV_ACCESS_LOCAL_WRITE} | IBV_ACCESS_REMOTE_WRITE : 0U;
  RegionPtr registered(::ibv_reg_mr(domain_.get(), memory.base, memory.length, access));
  if (!registered) return nullptr;
  try {
    return std::make_unique<VerbsMemory>(device_, memory, std::move(registered));
  } catch (const std::bad_alloc&) {
    return nullptr;
  }
}

PostStatus VerbsLink::land(const LandingWrite& write, std::uint64_t cookie) noexcept {
  if (failed_) return PostStatus::failed;
  const auto& source = static_cast<const VerbsMemory&>(*write.source);
  const auto [address, key, unused, unused_too] = write.place;
  if (!peer_ || !source.holds(write.offset, write.length) || write.length == 0 ||
      write.length > port_.attr.max_msg_sz) {
    fail([&] {
      return fmt::format(
          "rdma: a landing at {} ({}) was refused before it left: it lies outside "
          "the memory of its message",
          peer_text(), where());
    });
    return PostStatus::failed;
  }
  if (room_ == 0) return PostStatus::no_room;
  ibv_sge piece{
      .addr = source.address() + write.offset, .length = write.length, .lkey = source.local_key()};
  ibv_send_wr request{};
  request.opcode = IBV_WR_RDMA_WRITE;
  request.wr.rdma = {.remote_addr = address + write.offset,
                     .rkey = static_cast<std::uint32_t>(key)};
  request.sg_list = &piece;
  request.num_sge = 1;
  return hand_over(request, request, 1, cookie);
}

std::optional<std::uint64_t> VerbsLink::poll_sends() noexcept {
  std::optional<std::uint64_t> finished;
  std::array<ibv_wc, kBatch> completions;
  int count = kBatch;
  while (count == kBatch && !failed_) {
    count = ::ibv_poll_cq(sends_.queue.get(), kBatch, completions.data());
    if (count < 0) {
      fail_call("ibv_poll_cq", -count);
      break;
    }
    counters_.completions += static_cast<std::uint64_t>(count);
    for (int i = 0; i < count; ++i) {
      const ibv_wc& completion = completions[static_cast<std::size_t>(i)];
      if (completion.status != IBV_WC_SUCCESS) {
        fail_completion("write to", completion);
        break;  // what follows was flushed for the same cause
      }
      if (first_unfinished_ == next_unfinished_) {
        fail(
            [&] { return fmt::format("rdma: {} completed a write that was not posted", where()); });
        break;
      }
      room_ += unfinished(first_unfinished_++).requests;
      finished = completion.wr_id;
    }
  }
  return finished;
}

std::size_t VerbsLink::poll_receives(std::span<LinkEvent> events) noexcept {
  std::array<ibv_wc, kBatch> completions;
  const int wanted = static_cast<int>(std::min<std::size_t>(events.size(), kBatch));
  if (wanted == 0) return 0;
  const int count = ::ibv_poll_cq(receives_.queue.get(), wanted, completions.data());
  if (count < 0) {
    fail_call("ibv_poll_cq", -count);
    return 0;
  }
  counters_.completions += static_cast<std::uint64_t>(count);
  std::size_t taken = 0;
  for (; taken < static_cast<std::size_t>(count); ++taken) {
    const ibv_wc& completion = completions[taken];
    if (completion.status != IBV_WC_SUCCESS) {
      // A flushed receive is seldom the cause: that is in the send queue, or an event.
      static_cast<void>(poll_sends());
      device_->take_events();
      look_at_device();
      fail_completion("receive from", completion);
      return taken;
    }
    events[taken] = {.kind = LinkEvent::Kind::immediate, .value = ntohl(completion.imm_data)};
  }
  if (taken > 0)
    if (const int error = post_receives(static_cast<std::uint32_t>(taken)); error != 0)
      fail_call("ibv_post_recv", error);
  return taken;
}

int VerbsLink::post_receives(std::uint32_t count) noexcept {
  // The chain is cut after `count` for the call: every receive is alike.
  ibv_recv_wr* const rest = std::exchange(receive_chain_[count - 1].next, nullptr);
  ibv_recv_wr* refused = nullptr;
  const int error = ::ibv_post_recv(queue_pair_.get(), receive_chain_.data(), &refused);
  receive_chain_[count - 1].next = rest;
  return error;
}

std::size_t VerbsLink::poll(std::span<LinkEvent> events) noexcept {
  if (events.empty() || failure_reported_) return 0;
  std::size_t count = 0;
  if (!failed_) {
    if (const auto finished = first_unfinished_ == next_unfinished_ ? std::nullopt : poll_sends())
      events[count++] = {.kind = LinkEvent::Kind::completed, .value = *finished};
    if (!failed_) count += poll_receives(events.subspan(count));
    if (first_unfinished_ != next_unfinished_) listen_for_silence();
    look_at_device();
  }
  if (failed_ && count < events.size()) {
    failure_reported_ = true;
    events[count++] = {.kind = LinkEvent::Kind::failed, .value = 0};
  }
  return count;
}

void VerbsLink::listen_for_silence() noexcept {
  if (std::exchange(awaited_, first_unfinished_) != first_unfinished_) silence_ = {};
  if (++looks_ % kLooksPerClock != 0) return;
  const auto now = Clock::now();
  silence_ +=
      std::min<std::chrono::nanoseconds>(now - std::exchange(listened_at_, now), kMostSilence);
  const auto timeouts = kTimeoutsToTheEnd + unfinished(first_unfinished_).bytes / kBytesPerTimeout;
  const auto most = kAckTimeoutUnit * (std::int64_t{1} << travel_.ack_timeout) *
                    static_cast<std::int64_t>(timeouts);
  if (silence_ < most) return;
  fail([&] {
    return fmt::format(
        "rdma: nothing that was written to {} was acknowledged for {:.1f} s on {}, {}: {}",
        peer_text(), std::chrono::duration<double>(silence_).count(), where(), queue_pairs(),
        likely_cause(IBV_WC_RETRY_EXC_ERR, port_.attr.link_layer == IBV_LINK_LAYER_ETHERNET));
  });
}

void VerbsLink::look_at_device() noexcept {
  const std::uint32_t generation = device_->generation();
  if (generation == seen_generation_) return;
  seen_generation_ = generation;
  if (device_->lost()) {
    fail([&] {
      return fmt::format(
          "rdma: {} was removed or failed as a whole, and with it the link to {} "
          "({}); see the kernel's log (dmesg)",
          device_->name(), peer_text(), where());
    });
    return;
  }
  if (const int event = watch_.event.load(std::memory_order_relaxed); event >= 0) {
    const auto type = static_cast<ibv_event_type>(event);
    fail([&] {
      return fmt::format("rdma: the link to {} failed on {}, {}: {}: {}", peer_text(), where(),
                         queue_pairs(), ::ibv_event_type_str(type), event_cause(type));
    });
    return;
  }
  if (gid_ && !gid_->netdev.empty() && ::if_nametoindex(gid_->netdev.c_str()) == 0)
    fail([&] {
      return fmt::format(
          "rdma: the network device {} was removed under {}, and with it the link "
          "to {}",
          gid_->netdev, where(), peer_text());
    });
}

void VerbsLink::arm(bool completions, bool immediates) noexcept {
  if (completions) arm(sends_);
  if (immediates) arm(receives_);
}

void VerbsLink::arm(Queue& queue) noexcept {
  // A notification that was asked for and not taken is still to come, or there to be read.
  if (queue.armed) return;
  if (const int error = ::ibv_req_notify_cq(queue.queue.get(), 0); error != 0)
    fail_call("ibv_req_notify_cq", error);
  else
    queue.armed = true;
}

int VerbsLink::events_apart(bool apart) noexcept {
  // Watched for nothing it would still wake who sleeps at events_fd_.
  epoll_event event{.events = EPOLLIN, .data = {.fd = channel_->fd}};
  const int operation = apart ? EPOLL_CTL_DEL : EPOLL_CTL_ADD;
  const bool done = ::epoll_ctl(events_fd_.get(), operation, channel_->fd, &event) == 0;
  return done ? channel_->fd : -1;
}

void VerbsLink::disarm() noexcept {
  if (take_notifications()) return;  // what is there besides makes it readable still
  std::array<epoll_event, 3> ready;
  const int count = ::epoll_wait(events_fd_.get(), ready.data(), ready.size(), 0);
  for (int i = 0; i < count; ++i)
    if (ready[static_cast<std::size_t>(i)].data.fd == device_->async_fd()) device_->take_events();
}

/// True: there was one.
bool VerbsLink::take_notifications() noexcept {
  bool any = false;
  while (sends_.armed || receives_.armed) {  // there are no others
    ibv_cq* queue = nullptr;
    void* context = nullptr;
    if (::ibv_get_cq_event(channel_.get(), &queue, &context) != 0) break;
    any = true;
    Queue& q = queue == sends_.queue.get() ? sends_ : receives_;
    q.armed = false;
    if (++q.unacknowledged >= kAcknowledgeAfter)
      ::ibv_ack_cq_events(queue, std::exchange(q.unacknowledged, 0));
  }
  return any;
}

std::string VerbsLink::where() const {
  std::string text = fmt::format("{} port {}", device_->name(), port_.number);
  if (port_.attr.link_layer == IBV_LINK_LAYER_INFINIBAND)
    text += fmt::format(" LID {}", port_.attr.lid);
  else
    text += fmt::format(" GID {} ({})", gid_->index, gid_text(gid_->gid));
  return text;
}

std::string VerbsLink::peer_text() const {
  if (!peer_) return "nobody yet";
  return port_.attr.link_layer == IBV_LINK_LAYER_INFINIBAND ? fmt::format("LID {}", peer_->lid)
                                                            : gid_text(peer_->gid);
}

std::string VerbsLink::queue_pairs() const {
  return peer_ ? fmt::format("queue pair {:#x} -> {:#x}", queue_pair_->qp_num, peer_->queue_pair)
               : fmt::format("queue pair {:#x}", queue_pair_->qp_num);
}

std::string VerbsLink::path() const {
  return fmt::format("{} queue pair {}, packets of {} bytes", where(), queue_pair_->qp_num,
                     packet_);
}

std::string VerbsLink::error() const {
  if (failed_ && failure_.empty())
    return "rdma: the link failed, and memory ran out for the reason";
  return failure_;
}

QueuePairFacts VerbsLink::queue_pair_facts() const noexcept {
  return {
      .inline_bytes = inline_bytes_,
      .data_in_order = ::ibv_query_qp_data_in_order(queue_pair_.get(), IBV_WR_RDMA_WRITE, 0) != 0};
}

template <typename MakeText>
void VerbsLink::fail(MakeText make_text) noexcept {
  if (std::exchange(failed_, true)) return;
  try {
    failure_ = make_text() + circumstances();
  } catch (const std::bad_alloc&) {
    return;  // error() says so
  }
}

std::string VerbsLink::circumstances() const {
  std::string text;
  device_->take_events();
  if (device_->port_down(port_.number))
    text += fmt::format("; port {} of {} is down", port_.number, device_->name());
  ibv_gid gid{};
  if (gid_ &&
      ::ibv_query_gid(device_->context(), port_.number, static_cast<int>(gid_->index), &gid) == 0 &&
      !same_gid(gid, gid_->gid))
    text += fmt::format("; {} has lost its address {}", device_->name(), gid_text(gid_->gid));
  return text;
}

void VerbsLink::fail_completion(std::string_view what, const ibv_wc& completion) noexcept {
  fail([&] {
    return fmt::format(
        "rdma: {} {} failed on {}, {}: {} (status {}, vendor {:#x}): {}", what, peer_text(),
        where(), queue_pairs(), ::ibv_wc_status_str(completion.status),
        static_cast<int>(completion.status), completion.vendor_err,
        likely_cause(completion.status, port_.attr.link_layer == IBV_LINK_LAYER_ETHERNET));
  });
}

void VerbsLink::fail_call(std::string_view call, int error) noexcept {
  fail([&] {
    const bool gone = error == ENODEV || error == EIO;
    return fmt::format("rdma: {} for the link to {} failed on {}, {}: {}{}", call, peer_text(),
                       where(), queue_pairs(), std::strerror(error),
                       gone ? ": the device was removed, or failed as a whole" : "");
  });
}

}  // namespace penstock::inline v1::verbs
