#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <new>

#include "penstock/loopback/loopback.hpp"
#include "penstock/transport/clock.hpp"
#include "penstock/transport/error.hpp"
#include "penstock/transport/fd.hpp"
#include "penstock/transport/rendezvous.hpp"

namespace penstock::inline v1 {
namespace {

/// The memfd: one page for the words that both ends touch, then the ring.
constexpr std::size_t kControlBytes = 4096;
static_assert(sizeof(RingControl) <= kControlBytes);
constexpr int kSeals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;

struct Mapping {
  Mapping(int fd, std::size_t bytes) : length(bytes) {
    // Populated now, so that no message pays for a page fault.
    void* memory =
        ::mmap(nullptr, length, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);
    if (memory == MAP_FAILED) throw_errno("shm: mapping the ring", errno);
    base = static_cast<std::byte*>(memory);
  }
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;
  Mapping(Mapping&&) = delete;
  Mapping& operator=(Mapping&&) = delete;
  ~Mapping() { ::munmap(base, length); }
  std::byte* base = nullptr;
  std::size_t length;
};

RingMemory ring_over(std::shared_ptr<Mapping> mapping, std::uint64_t capacity, RingControl* control,
                     const SessionKey& key) {
  RingMemory ring;
  ring.data = mapping->base + kControlBytes;
  ring.capacity = capacity;
  ring.control = control;
  ring.key = key;
  ring.owner = std::move(mapping);
  return ring;
}

class ShmAdmission final : public Admission {
 public:
  ShmAdmission(const InletSettings& settings, std::shared_ptr<InletSink> sink)
      : settings_(settings), sink_(std::move(sink)) {}

  void welcome(const Hello& hello, const StreamEnds& /*ends*/, Welcome& welcome,
               std::vector<int>& descriptors) override {
    const auto geometry = agree(settings_, kLocalCapacity, hello.max_capacity);
    const std::size_t length = kControlBytes + geometry.capacity;
    memory_ = Fd(::memfd_create("penstock-ring", MFD_CLOEXEC | MFD_ALLOW_SEALING));
    if (!memory_) throw_errno("shm: memfd_create", errno);
    // Allocated, not only sized: a machine without room says so here instead of by a SIGBUS later.
    if (::ftruncate(memory_.get(), static_cast<off_t>(length)) != 0 ||
        ::fallocate(memory_.get(), 0, 0, static_cast<off_t>(length)) != 0)
      throw SetupError(Errc::resource_limit,
                       "shm: no room for a ring of " + std::to_string(length) + " bytes (" +
                           std::strerror(errno) + "): bind with a smaller ?capacity=");
    if (::fcntl(memory_.get(), F_ADD_SEALS, kSeals) != 0)
      throw_errno("shm: sealing the ring", errno);
    auto mapping = std::make_shared<Mapping>(memory_.get(), length);
    auto* control = new (mapping->base) RingControl{};
    parts_.window = welcome.window = geometry.window;
    parts_.max_message = welcome.max_message = settings_.max_message;
    parts_.flow = settings_.flow;
    welcome.capacity = geometry.capacity;
    welcome.key = SessionKey::random();
    parts_.ring = ring_over(std::move(mapping), geometry.capacity, control, welcome.key);
    descriptors = {memory_.get(), sink_->wake_fd()};
  }

  void join(const Ready& /*ready*/) override {}

  InletParts complete() override {
    parts_.path = "shm";
    return std::move(parts_);
  }

 private:
  const InletSettings settings_;
  const std::shared_ptr<InletSink> sink_;
  Fd memory_;
  InletParts parts_;
};

class ShmApproach final : public Approach {
 public:
  Ready ready(const Welcome& welcome, const StreamEnds& /*ends*/, std::vector<Fd> fds) override {
    if (fds.size() != 2)
      throw SetupError(Errc::handshake_failed, "shm: the receiver sent " +
                                                   std::to_string(fds.size()) +
                                                   " descriptors instead of a ring and a wake-up");
    const std::size_t length = kControlBytes + welcome.capacity;
    struct stat status {};
    if (::fstat(fds[0].get(), &status) != 0 || status.st_size != static_cast<off_t>(length))
      throw SetupError(Errc::geometry_mismatch,
                       "shm: the receiver's memory has another size than it says");
    const int seals = ::fcntl(fds[0].get(), F_GET_SEALS);
    if (seals < 0 || (seals & (F_SEAL_SHRINK | F_SEAL_GROW)) != (F_SEAL_SHRINK | F_SEAL_GROW))
      throw SetupError(Errc::handshake_failed,
                       "shm: the receiver's memory is not sealed against shrinking");
    check_wake(fds[1].get());
    auto mapping = std::make_shared<Mapping>(fds[0].get(), length);
    auto* control = std::launder(reinterpret_cast<RingControl*>(mapping->base));
    parts_.ring = ring_over(std::move(mapping), welcome.capacity, control, welcome.key);
    wake_ = std::move(fds[1]);
    parts_.path = "shm";
    return {};
  }
  OutletParts complete() override {
    parts_.receiver_wake_fd = wake_.release();
    return std::move(parts_);
  }

 private:
  /// Writing to it must neither block nor raise SIGPIPE: no pipe, socket or file, which have a
  /// type, while an eventfd lies on an inode without one. Of the others like it none takes the
  /// write.
  static void check_wake(int fd) {
    struct stat status {};
    const int flags = ::fcntl(fd, F_GETFL);
    if (::fstat(fd, &status) != 0 || (status.st_mode & S_IFMT) != 0 || flags < 0 ||
        (flags & O_NONBLOCK) == 0)
      throw SetupError(Errc::handshake_failed,
                       "shm: the receiver's wake-up is no eventfd that never blocks");
  }

  Fd wake_;
  OutletParts parts_;
};

class Shm final : public Transport {
 public:
  [[nodiscard]] std::string_view scheme() const noexcept override { return "shm"; }
  [[nodiscard]] std::vector<std::string> option_names(const Uri& /*uri*/) const override {
    return {};
  }
  [[nodiscard]] ProbeReport probe() const override {
    const Fd fd(::memfd_create("penstock-probe", MFD_CLOEXEC | MFD_ALLOW_SEALING));
    if (fd) return {true, {}, "[]"};
    return {false,
            std::string("memfd_create: ") + std::strerror(errno) +
                ": allow the system call in this sandbox, or use inproc: between threads",
            "[]"};
  }

  [[nodiscard]] std::unique_ptr<Listener> listen(const Uri& uri, const InletSettings& settings,
                                                 std::shared_ptr<InletSink> sink) override {
    ListenerTraits traits{uri.name,
                          settings.liveness,
                          settings.type,
                          agree(settings, kLocalCapacity, kMaxCapacity).capacity,
                          {},
                          {{}, {uri.scheme}, {}}};
    traits.paths.push_back(
        {uri.scheme, [settings, sink] { return std::make_unique<ShmAdmission>(settings, sink); }});
    return listen_at(endpoint(uri), uri, std::move(traits), sink);
  }

  [[nodiscard]] OutletParts connect(const Uri& uri, const OutletSettings& settings,
                                    TimePoint deadline) override {
    if (settings.trial) {  // that it can be reached is all that there is to prove
      (void)ask_at(endpoint(uri), uri, settings, deadline);
      OutletParts parts;
      parts.path = "shm";
      return parts;
    }
    ShmApproach approach;
    return approach_at(endpoint(uri), uri, settings, deadline, approach);
  }

 private:
  static Endpoint endpoint(const Uri& uri) {
    if (uri.name.empty() || !uri.host.empty() || uri.port != 0)
      throw SetupError(Errc::bad_uri,
                       uri.text() + ": a shm channel has a name only, as in shm:orders");
    return {{}, 0, "penstock/" + uri.name};
  }
};

}  // namespace

std::shared_ptr<Transport> make_shm() { return std::make_shared<Shm>(); }

}  // namespace penstock::inline v1
