// penstock-verbs-baseline: what a straightforward, careful program gets out of plain verbs.
//
// The figures that penstock's rdma transport is measured against, taken in the same run: one RDMA
// WRITE a message with a window of them in flight, and the ping-pong of two polling processes. Two
// processes exchange queue pair addresses over TCP; the connecting one measures and reports.
//
//   throughput  WRITEs of one size, each signalled, rotating over a 4 MiB buffer (larger for larger
//               messages), inline where they fit. The rate is that of completions within the timed
//               window, after a tenth of it as warm-up; the other side sleeps.
//               Signalling only every 32nd is no option: on soft-RoCE it made no difference.
//               Several senders are threads with a queue pair and memory each, and their rates add
//               up: each measures for the same time from the same moment.
//   latency     one WRITE each way; the receiver polls its last byte. That assumes that the bytes
//               of one WRITE land in order, which devices need not promise, so it is a bound to
//               compare with and no protocol to copy. Figures are full round trips.
//   event       one WRITE_WITH_IMM each way; the receiver sleeps on its completion channel.
//
// Both ends must be of one architecture: the exchange is plain structs. Every wait but that for a
// client is bounded: 10 s for a listener to appear, 30 s without any completion or answer.

#include <arpa/inet.h>
#include <fmt/format.h>
#include <infiniband/verbs.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <atomic>
#include <barrier>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <future>
#include <iostream>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <random>
#include <span>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

namespace {

using Clock = std::chrono::steady_clock;
using Seconds = std::chrono::duration<double>;
using nlohmann::json;

constexpr std::chrono::seconds kConnectPatience{10};
constexpr std::chrono::seconds kSilenceLimit{30};
constexpr std::uint64_t kSmallestArea = 4U << 20U;
constexpr std::uint32_t kLargestMessage = 1U << 30U;
constexpr std::uint32_t kMostInFlight = 16384;
constexpr std::uint32_t kMostSenders = 256;
constexpr std::uint32_t kInlineWanted = 256;
constexpr std::uint32_t kReceives = 16;
constexpr std::uint32_t kLongestRun = 3600;  // seconds a size
constexpr double kWarmUpShare = 0.1;

enum class Mode : std::uint32_t { throughput, latency, event };
const std::map<std::string, Mode> kModes{
    {"throughput", Mode::throughput}, {"latency", Mode::latency}, {"event", Mode::event}};

struct Options {
  std::string connect, listen, device, json_file;
  std::uint32_t port = 0;  // 0: any
  int gid_index = -1;      // -1: by rule
  std::uint32_t runs = 1;
  bool until_eof = false;
  std::uint32_t senders = 1;
  std::vector<std::uint32_t> sizes{64, 4096, 65536};
  double seconds = 2;
  std::string mode_name = "throughput";
  std::uint32_t in_flight = 64;
  std::uint32_t post_list = 1;
};

// What goes over the control connection: the client's Plan, an Endpoint each way, then for each
// size its Step and the server's Step in answer, before and after the work. Size 0 ends.
constexpr std::uint64_t kMagic = 0x32'6573'6162'7276;
struct Plan {
  std::uint64_t magic = kMagic;
  std::uint64_t area_bytes = 0;
  std::uint64_t seconds = 0;
  Mode mode{};
  std::uint32_t in_flight = 0;
};
struct Endpoint {
  std::uint32_t queue_pair, psn, rkey;
  ibv_mtu mtu;
  std::uint64_t address;
  ibv_gid gid;
  std::uint32_t lid;
};
struct Step {
  std::uint32_t size = 0;
};

void report_error(const std::string& what) {
  std::cerr << "penstock-verbs-baseline: " + what + '\n';
}

void check(int error, const std::string& call) {
  if (error != 0) throw std::system_error(error, std::generic_category(), call);
}
template <class T>
T* made(T* object, const std::string& call) {
  if (object == nullptr) check(errno, call);
  return object;
}

template <auto Release>
struct Releaser {
  void operator()(auto* object) const noexcept { Release(object); }
};
template <class T, auto Release>
using Owned = std::unique_ptr<T, Releaser<Release>>;

// A TCP socket whose calls block for a bounded time.
class Socket {
 public:
  explicit Socket(int fd) : fd_(fd) { check(fd < 0 ? errno : 0, "socket"); }
  Socket(Socket&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Socket& operator=(Socket&&) = delete;
  ~Socket() {
    if (fd_ >= 0) ::close(fd_);
  }
  int fd() const { return fd_; }

  void limit_waits(std::chrono::seconds limit) {
    const timeval time{.tv_sec = std::max<std::chrono::seconds::rep>(limit.count(), 1),
                       .tv_usec = 0};
    set(SOL_SOCKET, SO_RCVTIMEO, time);
    set(SOL_SOCKET, SO_SNDTIMEO, time);
  }
  template <class T>
  void set(int level, int option, const T& value) {
    check(setsockopt(fd_, level, option, &value, sizeof value) != 0 ? errno : 0, "setsockopt");
  }
  template <class T>
  void send(const T& value) {
    if (::send(fd_, &value, sizeof value, MSG_NOSIGNAL) != sizeof value) {
      throw std::runtime_error("control connection: the peer has gone");
    }
  }
  template <class T>
  T receive() {
    T value;
    if (::recv(fd_, &value, sizeof value, MSG_WAITALL) != sizeof value) {
      throw std::runtime_error("control connection: the peer has gone or is silent");
    }
    return value;
  }
  bool peer_gone() const {
    pollfd entry{.fd = fd_, .events = POLLRDHUP, .revents = 0};
    return ::poll(&entry, 1, 0) > 0;
  }
  sockaddr_storage local_address() const {
    sockaddr_storage address{};
    socklen_t length = sizeof address;
    check(getsockname(fd_, reinterpret_cast<sockaddr*>(&address), &length) != 0 ? errno : 0,
          "getsockname");
    return address;
  }

 private:
  int fd_;
};

Owned<addrinfo, freeaddrinfo> resolve(const std::string& address, int flags) {
  const std::size_t colon = address.rfind(':');
  if (colon == std::string::npos) throw std::runtime_error(address + " is not HOST:PORT");
  std::string host = address.substr(0, colon);
  if (host.starts_with('[') && host.ends_with(']')) host = host.substr(1, host.size() - 2);
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = flags;
  addrinfo* found = nullptr;
  const int status = getaddrinfo(host.c_str(), address.c_str() + colon + 1, &hints, &found);
  if (status != 0) throw std::runtime_error(address + ": " + gai_strerror(status));
  return Owned<addrinfo, freeaddrinfo>(found);
}

Socket connect_to(const std::string& address) {
  for (const auto deadline = Clock::now() + kConnectPatience;;) {
    const auto target = resolve(address, 0);
    Socket socket(::socket(target->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
    socket.limit_waits(std::chrono::ceil<std::chrono::seconds>(deadline - Clock::now()));
    if (connect(socket.fd(), target->ai_addr, target->ai_addrlen) == 0) {
      socket.limit_waits(kSilenceLimit);
      socket.set(IPPROTO_TCP, TCP_NODELAY, 1);
      return socket;
    }
    if (Clock::now() >= deadline) check(errno, "connect to " + address + " (is it listening?)");
    std::this_thread::sleep_for(std::chrono::milliseconds{50});
  }
}

Socket listen_on(const std::string& address) {
  const auto target = resolve(address, AI_PASSIVE);
  Socket socket(::socket(target->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
  socket.set(SOL_SOCKET, SO_REUSEADDR, 1);
  const bool bound = bind(socket.fd(), target->ai_addr, target->ai_addrlen) == 0 &&
                     listen(socket.fd(), SOMAXCONN) == 0;
  check(bound ? 0 : errno, "listen on " + address);
  return socket;
}

std::string gid_text(const ibv_gid& gid) {
  char text[INET6_ADDRSTRLEN] = "";
  inet_ntop(AF_INET6, gid.raw, text, sizeof text);
  return text;
}

// The IPv6 address of a socket address, IPv4-mapped where it is of IPv4: the form of a RoCE v2 GID.
ibv_gid as_gid(const sockaddr_storage& address) {
  ibv_gid gid{};
  if (address.ss_family == AF_INET) {
    gid.raw[10] = gid.raw[11] = 0xff;
    std::memcpy(gid.raw + 12, &reinterpret_cast<const sockaddr_in&>(address).sin_addr, 4);
  } else {
    std::memcpy(gid.raw, &reinterpret_cast<const sockaddr_in6&>(address).sin6_addr, 16);
  }
  return gid;
}

struct Device {
  std::shared_ptr<ibv_context> context;
  std::string name;
  ibv_gid_entry gid{};
  ibv_port_attr port{};
};

// The device, port and GID that `options` ask for; otherwise the GID of `local`, the control
// connection's own address; otherwise the first RoCE v2 one of an IPv4 address, or InfiniBand port.
Device open_device(const Options& options, const ibv_gid& local) {
  int count = 0;
  const Owned<ibv_device*, ibv_free_device_list> devices(ibv_get_device_list(&count));
  Device best;
  int best_rank = 0;
  for (int i = 0; i < count; ++i) {
    const std::string name = ibv_get_device_name(devices.get()[i]);
    if (!options.device.empty() && options.device != name) continue;
    const std::shared_ptr<ibv_context> context(
        made(ibv_open_device(devices.get()[i]), name + ": ibv_open_device"), ibv_close_device);
    std::vector<ibv_gid_entry> table(1024);
    const ssize_t entries = ibv_query_gid_table(context.get(), table.data(), table.size(), 0);
    check(entries < 0 ? static_cast<int>(-entries) : 0, name + ": ibv_query_gid_table");
    table.resize(static_cast<std::size_t>(entries));
    for (const ibv_gid_entry& entry : table) {
      if (options.port != 0 && entry.port_num != options.port) continue;
      int rank = 0;
      if (options.gid_index >= 0) {
        rank = entry.gid_index == static_cast<std::uint32_t>(options.gid_index) ? 1 : 0;
      } else if (entry.gid_type == IBV_GID_TYPE_ROCE_V2 && entry.ndev_ifindex != 0) {
        const bool is_ipv4 = IN6_IS_ADDR_V4MAPPED(reinterpret_cast<const in6_addr*>(&entry.gid));
        const bool is_local = std::memcmp(&entry.gid, &local, sizeof local) == 0;
        rank = is_local ? 2 : (is_ipv4 ? 1 : 0);
      } else if (entry.gid_type == IBV_GID_TYPE_IB) {
        rank = 1;
      }
      if (rank > best_rank) {
        best = {.context = context, .name = name, .gid = entry, .port = {}};
        best_rank = rank;
      }
    }
  }
  if (best_rank == 0) {
    throw std::runtime_error(fmt::format(
        "no RDMA device (of {}) has the GID asked for, or a RoCE v2 one of an IPv4 address, or is "
        "InfiniBand: make "
        "one (rdma link add rxe0 type rxe netdev eth0), give its network device an IPv4 address, "
        "or pass --device, --port and --gid-index",
        count));
  }
  const auto port_number = static_cast<std::uint8_t>(best.gid.port_num);
  check(ibv_query_port(best.context.get(), port_number, &best.port), best.name + ": query port");
  if (best.port.state != IBV_PORT_ACTIVE) {
    throw std::runtime_error(fmt::format("{} port {} is {}: bring its network device up", best.name,
                                         port_number, ibv_port_state_str(best.port.state)));
  }
  return best;
}

// A connected RC queue pair, and an outgoing and an incoming area of memory.
class Link {
 public:
  Link(Socket& control, const Options& options, const Plan& plan)
      : control_(control),
        device_(open_device(options, as_gid(control.local_address()))),
        area_bytes_(plan.area_bytes),
        events_(plan.mode == Mode::event) {
    create(plan.in_flight);
    connect();
  }

  // Posts a chain of `count` signalled sends.
  void post(ibv_send_wr& first, std::uint32_t count) {
    ibv_send_wr* bad = nullptr;
    check(ibv_post_send(queue_pair_.get(), &first, &bad), "ibv_post_send");
    outstanding_ += count;
  }

  // Takes what sends have completed, spinning for one if there is none.
  std::uint32_t await_sends() {
    for (Silence silence;; silence.turn(*this)) {
      if (const std::uint32_t count = reap(); count != 0) return count;
    }
  }
  void drain() {
    while (outstanding_ > 0) await_sends();
  }
  std::uint32_t outstanding() const { return outstanding_; }
  std::uint64_t area_bytes() const { return area_bytes_; }

  ibv_sge sge(std::uint64_t offset, std::uint32_t size) const {
    return {.addr = reinterpret_cast<std::uintptr_t>(memory_.get()) + offset,
            .length = size,
            .lkey = region_->lkey};
  }
  ibv_send_wr write(ibv_sge& sge, std::uint64_t offset) const {
    ibv_send_wr request{};
    request.sg_list = &sge;
    request.num_sge = 1;
    request.opcode = IBV_WR_RDMA_WRITE;
    request.send_flags = IBV_SEND_SIGNALED;
    if (sge.length <= inline_limit_) request.send_flags |= IBV_SEND_INLINE;
    request.wr.rdma.remote_addr = peer_.address + offset;
    request.wr.rdma.rkey = peer_.rkey;
    return request;
  }

  // A ball is a message whose last byte (event mode: whose immediate) carries `tag`.
  void send_ball(std::uint32_t size, std::uint8_t tag) {
    memory_.get()[size - 1] = tag;
    ibv_sge sge = this->sge(0, size);
    ibv_send_wr request = write(sge, 0);
    if (events_) {
      request.opcode = IBV_WR_RDMA_WRITE_WITH_IMM;
      request.imm_data = htonl(tag);
    }
    post(request, 1);
    // Event mode reaps when the answer is in: spinning for the acknowledgement is what it avoids.
    if (!events_) drain();
  }
  std::uint8_t await_ball(std::uint32_t size) {
    if (events_) return await_immediate();
    // Acquire pairs with the device's store of the WRITE's last byte, as far as it orders them.
    const std::atomic_ref<std::uint8_t> last(memory_.get()[area_bytes_ + size - 1]);
    for (Silence silence;; silence.turn(*this)) {
      if (const std::uint8_t tag = last.load(std::memory_order_acquire); tag != last_tag_) {
        return last_tag_ = tag;
      }
    }
  }
  // Before a size's first ball, while the peer sends none.
  void forget_balls() {
    std::memset(memory_.get() + area_bytes_, 0, area_bytes_);
    last_tag_ = 0;
  }

  json describe() const {
    return {{"device", device_.name},
            {"port", device_.gid.port_num},
            {"gid_index", device_.gid.gid_index},
            {"gid", gid_text(device_.gid.gid)},
            {"mtu", 128U << static_cast<unsigned>(path_mtu_)},
            {"inline", inline_limit_}};
  }

 private:
  // Bounds a spinning loop; now and then it looks at the clock and at the control connection.
  class Silence {
   public:
    void turn(const Link& link) {
      if ((++turns_ & ((1U << 18U) - 1)) != 0) [[likely]]
        return;
      const auto now = Clock::now();
      if (!since_) since_ = now;
      if (link.control_.peer_gone()) throw std::runtime_error("the peer has gone");
      if (now - *since_ > kSilenceLimit) throw std::runtime_error("nothing completes any more");
    }

   private:
    std::uint64_t turns_ = 0;
    std::optional<Clock::time_point> since_;
  };

  void create(std::uint32_t in_flight) {
    ibv_context* const context = device_.context.get();
    domain_.reset(made(ibv_alloc_pd(context), device_.name + ": ibv_alloc_pd"));
    const std::uint64_t bytes = 2 * area_bytes_;
    memory_.reset(made(static_cast<std::uint8_t*>(std::aligned_alloc(4096, bytes)), "memory"));
    std::memset(memory_.get(), 0, bytes);
    region_.reset(made(ibv_reg_mr(domain_.get(), memory_.get(), bytes,
                                  IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE),
                       fmt::format("{}: ibv_reg_mr of {} KiB (does ulimit -l allow it?)",
                                   device_.name, bytes / 1024)));
    if (events_) channel_.reset(made(ibv_create_comp_channel(context), "ibv_create_comp_channel"));
    const auto depth = static_cast<int>(in_flight);
    send_queue_.reset(made(ibv_create_cq(context, depth, nullptr, nullptr, 0), "ibv_create_cq"));
    receive_queue_.reset(
        made(ibv_create_cq(context, kReceives, nullptr, channel_.get(), 0), "ibv_create_cq"));

    ibv_qp_init_attr attributes{};
    for (std::uint32_t inline_bytes = kInlineWanted;; inline_bytes /= 2) {
      attributes = {};
      attributes.send_cq = send_queue_.get();
      attributes.recv_cq = receive_queue_.get();
      attributes.qp_type = IBV_QPT_RC;
      attributes.cap = {.max_send_wr = in_flight,
                        .max_recv_wr = kReceives,
                        .max_send_sge = 1,
                        .max_recv_sge = 1,
                        .max_inline_data = inline_bytes};
      queue_pair_.reset(ibv_create_qp(domain_.get(), &attributes));
      if (queue_pair_ || inline_bytes == 0) break;
    }
    made(queue_pair_.get(), fmt::format("ibv_create_qp for {} in flight", in_flight));
    inline_limit_ = attributes.cap.max_inline_data;
  }

  void connect() {
    const auto port_number = static_cast<std::uint8_t>(device_.gid.port_num);
    ibv_qp_attr init{};
    init.qp_state = IBV_QPS_INIT;
    init.port_num = port_number;
    init.qp_access_flags = IBV_ACCESS_REMOTE_WRITE;
    modify(init, IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS);
    if (events_) {
      for (std::uint32_t i = 0; i < kReceives; ++i) post_receive();
    }
    const std::uint32_t psn = std::random_device{}() & 0xff'ffffU;
    control_.send(Endpoint{.queue_pair = queue_pair_->qp_num,
                           .psn = psn,
                           .rkey = region_->rkey,
                           .mtu = device_.port.active_mtu,
                           .address = reinterpret_cast<std::uintptr_t>(memory_.get()) + area_bytes_,
                           .gid = device_.gid.gid,
                           .lid = device_.port.lid});
    peer_ = control_.receive<Endpoint>();
    path_mtu_ = std::min(peer_.mtu, device_.port.active_mtu);

    ibv_qp_attr receive{};
    receive.qp_state = IBV_QPS_RTR;
    receive.path_mtu = path_mtu_;
    receive.dest_qp_num = peer_.queue_pair;
    receive.rq_psn = peer_.psn;
    receive.max_dest_rd_atomic = 1;
    receive.min_rnr_timer = 12;
    receive.ah_attr.port_num = port_number;
    if (device_.port.link_layer == IBV_LINK_LAYER_INFINIBAND) {
      receive.ah_attr.dlid = static_cast<std::uint16_t>(peer_.lid);
    } else {
      receive.ah_attr.is_global = 1;
      receive.ah_attr.grh.dgid = peer_.gid;
      receive.ah_attr.grh.sgid_index = static_cast<std::uint8_t>(device_.gid.gid_index);
      receive.ah_attr.grh.hop_limit = 64;
    }
    modify(receive, IBV_QP_STATE | IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN | IBV_QP_RQ_PSN |
                        IBV_QP_MAX_DEST_RD_ATOMIC | IBV_QP_MIN_RNR_TIMER);
    ibv_qp_attr send{};
    send.qp_state = IBV_QPS_RTS;
    send.timeout = 14;
    send.retry_cnt = send.rnr_retry = 7;
    send.sq_psn = psn;
    send.max_rd_atomic = 1;
    modify(send, IBV_QP_STATE | IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY |
                     IBV_QP_SQ_PSN | IBV_QP_MAX_QP_RD_ATOMIC);
    // Neither end sends before the other can receive.
    control_.send(Step{});
    control_.receive<Step>();
  }

  void modify(ibv_qp_attr& attributes, int mask) {
    check(ibv_modify_qp(queue_pair_.get(), &attributes, mask),
          fmt::format("{}: ibv_modify_qp to state {}, peer GID {}", device_.name,
                      static_cast<int>(attributes.qp_state), gid_text(peer_.gid)));
  }

  void post_receive() {
    ibv_recv_wr request{};
    ibv_recv_wr* bad = nullptr;
    check(ibv_post_recv(queue_pair_.get(), &request, &bad), "ibv_post_recv");
  }

  std::uint32_t reap() {
    ibv_wc completions[16];
    const std::uint32_t count = poll(*send_queue_, completions);
    outstanding_ -= count;
    return count;
  }

  std::uint32_t poll(ibv_cq& queue, std::span<ibv_wc> completions) {
    const int count = ibv_poll_cq(&queue, static_cast<int>(completions.size()), completions.data());
    check(count < 0 ? errno : 0, "ibv_poll_cq");
    for (int i = 0; i < count; ++i) {
      const ibv_wc& each = completions[static_cast<std::size_t>(i)];
      if (each.status == IBV_WC_SUCCESS) [[likely]]
        continue;
      throw std::runtime_error(fmt::format(
          "{}: queue pair {} to {} at GID {}: {} (vendor_err {:#x})", device_.name, each.qp_num,
          peer_.queue_pair, gid_text(peer_.gid), ibv_wc_status_str(each.status), each.vendor_err));
    }
    return static_cast<std::uint32_t>(count);
  }

  std::uint8_t await_immediate() {
    for (bool armed = false;; armed = !armed) {
      // Sends first: when one fails the receives are flushed after it, and its status is the cause.
      reap();
      ibv_wc completion{};
      if (poll(*receive_queue_, {&completion, 1}) == 1) {
        post_receive();
        return static_cast<std::uint8_t>(ntohl(completion.imm_data));
      }
      if (!armed) {
        // What completed before the arming raises no event: poll once more before sleeping.
        check(ibv_req_notify_cq(receive_queue_.get(), 0), "ibv_req_notify_cq");
        continue;
      }
      pollfd entries[]{{.fd = channel_->fd, .events = POLLIN, .revents = 0},
                       {.fd = control_.fd(), .events = POLLRDHUP, .revents = 0}};
      constexpr std::chrono::milliseconds kLimit = kSilenceLimit;
      ::poll(entries, 2, static_cast<int>(kLimit.count()));
      if (entries[0].revents == 0) throw std::runtime_error("the peer has gone or is silent");
      ibv_cq* queue = nullptr;
      void* context = nullptr;
      check(ibv_get_cq_event(channel_.get(), &queue, &context) != 0 ? errno : 0, "get CQ event");
      ibv_ack_cq_events(queue, 1);
    }
  }

  Socket& control_;
  Device device_;
  std::uint64_t area_bytes_;
  bool events_;
  std::uint8_t last_tag_ = 0;
  std::uint32_t inline_limit_ = 0;
  std::uint32_t outstanding_ = 0;
  Endpoint peer_{};
  ibv_mtu path_mtu_{};
  Owned<ibv_pd, ibv_dealloc_pd> domain_;
  Owned<ibv_comp_channel, ibv_destroy_comp_channel> channel_;
  Owned<ibv_cq, ibv_destroy_cq> send_queue_, receive_queue_;
  Owned<std::uint8_t, std::free> memory_;
  Owned<ibv_mr, ibv_dereg_mr> region_;
  Owned<ibv_qp, ibv_destroy_qp> queue_pair_;
};

json measure_throughput(Link& link, const Options& options, std::uint32_t size) {
  const std::uint32_t chain = options.post_list;
  std::vector<ibv_sge> sges(chain);
  std::vector<ibv_send_wr> writes(chain);
  for (std::uint32_t i = 0; i < chain; ++i) {
    sges[i] = link.sge(0, size);
    writes[i] = link.write(sges[i], 0);
    if (i > 0) writes[i - 1].next = &writes[i];
  }
  const std::uint64_t local = sges[0].addr;
  const std::uint64_t remote = writes[0].wr.rdma.remote_addr;

  // The clock may be a system call away: it is read about every 64 KiB, at most every 64 messages.
  const std::uint64_t clock_interval = std::clamp(65536U / size, 1U, 64U);
  std::uint64_t offset = 0;
  const auto run_for = [&](double seconds) -> json {
    std::uint64_t messages = 0;
    std::uint64_t posts = 0;
    std::uint64_t next_look = 0;
    for (const auto start = Clock::now();;) {
      for (; link.outstanding() + chain <= options.in_flight; ++posts) {
        for (std::uint32_t i = 0; i < chain; ++i) {
          sges[i].addr = local + offset;
          writes[i].wr.rdma.remote_addr = remote + offset;
          offset += size;
          if (offset + size > link.area_bytes()) offset = 0;
        }
        link.post(writes[0], chain);
      }
      messages += link.await_sends();
      if (messages < next_look) continue;
      next_look = messages + clock_interval;
      const double elapsed = Seconds(Clock::now() - start).count();
      if (elapsed < seconds) continue;
      const double rate = static_cast<double>(messages) / elapsed;
      return {{"messages_per_s", rate}, {"mb_per_s", rate * size / 1e6},  {"messages", messages},
              {"posts", posts},         {"work_requests", posts * chain}, {"seconds", elapsed}};
    }
  };
  run_for(kWarmUpShare * options.seconds);
  json result = run_for(options.seconds);
  link.drain();
  return result;
}

// Tags 1 to 254 take turns, so that what the last round left is never taken for this one's.
constexpr std::uint8_t kLastBall = 255;
std::uint8_t tag_of(std::uint64_t round) { return static_cast<std::uint8_t>(1 + round % 254); }

json measure_round_trips(Link& link, const Options& options, std::uint32_t size) {
  std::vector<double> microseconds;
  microseconds.reserve(1U << 20U);
  const auto start = Clock::now();
  const auto warm = start + Seconds(kWarmUpShare * options.seconds);
  const auto end = warm + Seconds(options.seconds);
  auto before = start;
  for (std::uint64_t round = 0; before < end || microseconds.empty(); ++round) {
    link.send_ball(size, tag_of(round));
    if (link.await_ball(size) != tag_of(round)) throw std::runtime_error("a message out of turn");
    const auto now = Clock::now();
    if (before >= warm) microseconds.push_back(Seconds(now - before).count() * 1e6);
    before = now;
  }
  link.send_ball(size, kLastBall);
  link.drain();
  std::sort(microseconds.begin(), microseconds.end());
  const auto quantile = [&](double q) {
    return microseconds[static_cast<std::size_t>(q * static_cast<double>(microseconds.size() - 1))];
  };
  double sum = 0;
  for (const double each : microseconds) sum += each;
  // As far as there are samples.
  json distribution = json::array();
  for (const double share :
       {0.0, 0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.995, 0.999, 0.9995, 0.9999})
    if ((1 - share) * static_cast<double>(microseconds.size()) >= 1)
      distribution.push_back({share, quantile(share)});
  return {{"p50_us", quantile(0.5)},
          {"p99_us", quantile(0.99)},
          {"min_us", microseconds.front()},
          {"mean_us", sum / static_cast<double>(microseconds.size())},
          {"quantiles_us", std::move(distribution)},
          {"round_trips", microseconds.size()}};
}

void serve(Socket control, const Options& options) {
  control.limit_waits(kSilenceLimit);
  control.set(IPPROTO_TCP, TCP_NODELAY, 1);
  const auto plan = control.receive<Plan>();
  if (plan.magic != kMagic || plan.area_bytes > kLargestMessage || plan.in_flight == 0 ||
      plan.in_flight > kMostInFlight || plan.mode > Mode::event || plan.seconds > kLongestRun + 1) {
    throw std::runtime_error("the peer is no penstock-verbs-baseline of this version");
  }
  Link link(control, options, plan);
  control.limit_waits(kSilenceLimit + 2 * std::chrono::seconds(plan.seconds));
  for (;;) {
    const auto step = control.receive<Step>();
    if (step.size == 0) return;
    if (step.size > plan.area_bytes) throw std::runtime_error("a size beyond the plan");
    link.forget_balls();
    control.send(step);
    while (plan.mode != Mode::throughput) {
      const std::uint8_t tag = link.await_ball(step.size);
      if (tag == kLastBall) break;
      link.send_ball(step.size, tag);
    }
    control.receive<Step>();
    control.send(step);
  }
}

// The next client's connection, or none once standard input has ended, where that counts.
std::optional<Socket> accept_client(const Socket& listener, bool until_eof) {
  for (;;) {
    pollfd entries[]{{.fd = listener.fd(), .events = POLLIN, .revents = 0},
                     {.fd = until_eof ? STDIN_FILENO : -1, .events = POLLIN, .revents = 0}};
    check(::poll(entries, 2, -1) < 0 ? errno : 0, "poll");
    char text[64];
    if (entries[1].revents != 0 && ::read(STDIN_FILENO, text, sizeof text) <= 0) return {};
    if (entries[0].revents != 0) {
      return Socket(accept4(listener.fd(), nullptr, nullptr, SOCK_CLOEXEC));
    }
  }
}

int listen_for_clients(const Options& options) {
  const Socket listener = listen_on(options.listen);
  const auto bound = listener.local_address();
  std::cout << "listening on port " << ntohs(reinterpret_cast<const sockaddr_in&>(bound).sin_port)
            << std::endl;
  // The senders of one client are served at once; which connections are of one is not known here.
  std::vector<std::future<bool>> served;
  bool all_well = true;
  const auto settle = [&](std::future<bool>& each) { all_well = each.get() && all_well; };
  for (std::uint32_t run = 0; options.until_eof || run < options.runs; ++run) {
    auto client = accept_client(listener, options.until_eof);
    if (!client) break;
    std::erase_if(served, [&](std::future<bool>& each) {
      const bool over = each.wait_for(Clock::duration::zero()) == std::future_status::ready;
      if (over) settle(each);
      return over;
    });
    served.push_back(
        std::async(std::launch::async, [&options, run, socket = std::move(*client)]() mutable {
          try {
            serve(std::move(socket), options);
            return true;
          } catch (const std::exception& error) {
            report_error(fmt::format("client {}: {}", run + 1, error.what()));
            return false;
          }
        }));
  }
  for (auto& each : served) settle(each);
  return all_well ? EXIT_SUCCESS : EXIT_FAILURE;
}

// Where the senders wait for each other. One that ends, or fails, is waited for no more.
class Start {
 public:
  explicit Start(std::barrier<>& line) : line_(line) {}
  Start(const Start&) = delete;
  Start& operator=(const Start&) = delete;
  ~Start() { line_.arrive_and_drop(); }
  void wait() { line_.arrive_and_wait(); }

 private:
  std::barrier<>& line_;
};

// One sender's part: the device, and a result for each size.
json measure_alone(const Options& options, std::barrier<>& line) {
  Start start(line);
  Socket control = connect_to(options.connect);
  constexpr std::uint64_t kPage = 4096;
  const std::uint64_t largest = *std::max_element(options.sizes.begin(), options.sizes.end());
  const Plan plan{.area_bytes = std::max(kSmallestArea, (largest + kPage - 1) / kPage * kPage),
                  .seconds = static_cast<std::uint64_t>(options.seconds) + 1,
                  .mode = kModes.at(options.mode_name),
                  .in_flight = options.in_flight};
  control.send(plan);
  Link link(control, options, plan);
  json results = json::array();
  for (const std::uint32_t size : options.sizes) {
    link.forget_balls();
    control.send(Step{size});
    control.receive<Step>();
    start.wait();
    json result = plan.mode == Mode::throughput ? measure_throughput(link, options, size)
                                                : measure_round_trips(link, options, size);
    control.send(Step{size});
    control.receive<Step>();
    result["mode"] = options.mode_name;
    result["size"] = size;
    results.push_back(std::move(result));
  }
  control.send(Step{});
  json report = link.describe();
  report["results"] = std::move(results);
  return report;
}

json measure(const Options& options) {
  std::barrier line(options.senders);
  std::vector<std::future<json>> others;
  for (std::uint32_t i = 1; i < options.senders; ++i) {
    others.push_back(std::async(std::launch::async, [&] { return measure_alone(options, line); }));
  }
  json report = measure_alone(options, line);
  for (auto& each : others) {
    const json other = each.get();
    for (std::size_t i = 0; i < options.sizes.size(); ++i) {
      json& sum = report["results"][i];
      for (const char* name : {"messages_per_s", "mb_per_s"}) {
        sum[name] = sum.at(name).get<double>() + other["results"][i].at(name).get<double>();
      }
      for (const char* name : {"messages", "posts", "work_requests"}) {
        sum[name] =
            sum.at(name).get<std::uint64_t>() + other["results"][i].at(name).get<std::uint64_t>();
      }
    }
  }
  report["program"] = "penstock-verbs-baseline";
  report["senders"] = options.senders;
  report["in_flight"] = options.in_flight;
  report["post_list"] = options.post_list;
  return report;
}

void print(const json& report) {
  fmt::print("{} GID index {} ({}), MTU {}, inline {}\n", report["device"].get<std::string>(),
             report["gid_index"].get<int>(), report["gid"].get<std::string>(),
             report["mtu"].get<int>(), report["inline"].get<int>());
  for (const json& each : report["results"]) {
    const auto value = [&](const char* name) { return each.at(name).get<double>(); };
    if (each.contains("mb_per_s")) {
      fmt::print("{:>9} B {:>12.0f} messages/s {:>10.2f} MB/s\n", each["size"].get<int>(),
                 value("messages_per_s"), value("mb_per_s"));
    } else {
      fmt::print("{:>9} B round trip p50 {:.1f} us, p99 {:.1f}, min {:.1f}, mean {:.1f}\n",
                 each["size"].get<int>(), value("p50_us"), value("p99_us"), value("min_us"),
                 value("mean_us"));
    }
  }
}

int run(int argc, char** argv) {
  Options options;
  CLI::App app("Throughput and round trips of plain RDMA verbs between two processes");
  auto* const connect = app.add_option("address", options.connect, "HOST:PORT to connect to");
  auto* const listen = app.add_option("--listen", options.listen, "HOST:PORT to serve on");
  listen->excludes(connect);
  app.add_option("--device", options.device, "RDMA device (default: by its GID)");
  app.add_option("--port", options.port, "port of the device")->check(CLI::Range(1, 255));
  app.add_option("--gid-index", options.gid_index, "index of the GID")->check(CLI::Range(0, 255));
  auto* const runs =
      app.add_option("--runs", options.runs, "clients to serve before exiting, each sender one")
          ->needs(listen);
  app.add_flag("--until-eof", options.until_eof, "serve until standard input ends")
      ->needs(listen)
      ->excludes(runs);
  app.add_option("--senders", options.senders,
                 "threads that send at once, each with a queue pair (throughput only)")
      ->check(CLI::Range(1U, kMostSenders));
  app.add_option("--sizes", options.sizes, "message sizes in bytes")
      ->delimiter(',')
      ->check(CLI::Range(1U, kLargestMessage));
  app.add_option("--seconds", options.seconds, "time a size")
      ->check(CLI::Range(0.01, 1.0 * kLongestRun));
  app.add_option("--mode", options.mode_name, "throughput, latency or event")
      ->check(CLI::IsMember(kModes));
  app.add_option("--in-flight", options.in_flight, "messages outstanding")
      ->check(CLI::Range(1U, kMostInFlight));
  app.add_option("--post-list", options.post_list, "messages a post")
      ->check(CLI::Range(1U, kMostInFlight));
  app.add_option("--json", options.json_file, "write the result there (-: standard output)");
  CLI11_PARSE(app, argc, argv);
  if (!options.listen.empty()) return listen_for_clients(options);
  if (options.connect.empty() || options.post_list > options.in_flight) {
    throw std::runtime_error("give HOST:PORT or --listen, and no --post-list above --in-flight");
  }
  if (options.senders > 1 && options.mode_name != "throughput") {
    throw std::runtime_error("round trips are one sender's: give --senders with throughput only");
  }
  const json report = measure(options);
  if (options.json_file != "-") print(report);
  if (!options.json_file.empty()) {
    std::ofstream file;
    if (options.json_file != "-") file.open(options.json_file);
    (options.json_file == "-" ? std::cout : file) << report.dump(2) << std::endl;
    if (options.json_file != "-" && !file) check(errno, options.json_file);
  }
  return EXIT_SUCCESS;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const std::exception& error) {
    report_error(error.what());
    return EXIT_FAILURE;
  }
}
