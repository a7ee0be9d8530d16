#include <condition_variable>
#include <cstdlib>
#include <map>
#include <mutex>
#include <new>

#include "penstock/loopback/loopback.hpp"
#include "penstock/transport/clock.hpp"
#include "penstock/transport/error.hpp"
#include "penstock/transport/fd.hpp"
#include "penstock/transport/rendezvous.hpp"

#include <fcntl.h>

namespace penstock::inline v1 {
namespace {

/// A ring on the heap, shared by both ends.
struct HeapRing {
  explicit HeapRing(std::uint64_t capacity)
      : data(static_cast<std::byte*>(std::aligned_alloc(kLine, capacity))) {
    if (data == nullptr) throw std::bad_alloc();
    // Touched now, so that no message pays for a page fault; and no stale bytes as marks.
    std::memset(data, 0, capacity);
  }
  HeapRing(const HeapRing&) = delete;
  HeapRing& operator=(const HeapRing&) = delete;
  HeapRing(HeapRing&&) = delete;
  HeapRing& operator=(HeapRing&&) = delete;
  ~HeapRing() { std::free(data); }

  RingControl control{};
  std::byte* data;
};

struct Names {
  struct Entry {
    InletSettings settings;
    std::shared_ptr<InletSink> sink;
  };
  std::mutex mutex;
  std::condition_variable bound;
  std::map<std::string, Entry, std::less<>> entries;
};

class InprocListener final : public Listener {
 public:
  InprocListener(std::shared_ptr<Names> names, const Uri& uri) : names_(std::move(names)), name_(uri.name) {}
  ~InprocListener() override {
    const std::lock_guard lock(names_->mutex);
    names_->entries.erase(name_);
  }
  [[nodiscard]] std::string uri() const override { return "inproc:" + name_; }

 private:
  std::shared_ptr<Names> names_;
  const std::string name_;
};

class Inproc final : public Transport {
 public:
  [[nodiscard]] std::string_view scheme() const noexcept override { return "inproc"; }
  [[nodiscard]] std::vector<std::string> option_names() const override { return {}; }
  [[nodiscard]] ProbeReport probe() const override { return {true, {}, "[]"}; }

  [[nodiscard]] std::unique_ptr<Listener> listen(const Uri& uri, const InletSettings& settings,
                                                 std::shared_ptr<InletSink> sink) override {
    check(uri);
    {
      const std::lock_guard lock(names_->mutex);
      if (!names_->entries.emplace(uri.name, Names::Entry{settings, std::move(sink)}).second)
        throw SetupError(Errc::address_in_use,
                         uri.text() + ": another receiver is bound there; choose another name");
    }
    names_->bound.notify_all();
    return std::make_unique<InprocListener>(names_, uri);
  }

  [[nodiscard]] OutletParts connect(const Uri& uri, std::chrono::nanoseconds /*liveness*/,
                                    TimePoint deadline) override {
    check(uri);
    std::unique_lock lock(names_->mutex);
    const auto bound = [&] { return names_->entries.contains(uri.name); };
    if (deadline == TimePoint::max()) {
      names_->bound.wait(lock, bound);
    } else if (!names_->bound.wait_until(lock, deadline, bound)) {
      throw SetupError(Errc::unreachable, uri.text() + ": no receiver was bound in this process until "
                                                       "the deadline: bind it, or use shm: between "
                                                       "processes");
    }
    const auto entry = names_->entries.find(uri.name)->second;
    lock.unlock();  // the sink takes its own lock

    const auto geometry = agree(entry.settings, kLocalCapacity, kMaxCapacity);
    auto memory = std::make_shared<HeapRing>(geometry.capacity);
    RingMemory ring;
    ring.data = memory->data;
    ring.capacity = geometry.capacity;
    ring.control = &memory->control;
    ring.key = SessionKey::random();
    ring.owner = std::move(memory);

    OutletParts outlet;
    outlet.ring = ring;
    outlet.window = geometry.window;
    outlet.peer = outlet.path = "inproc";
    Fd wake(::fcntl(entry.sink->wake_fd(), F_DUPFD_CLOEXEC, 0));
    if (!wake) throw_errno(uri.text() + ": duplicating the receiver's eventfd", errno);
    InletParts inlet;
    inlet.ring = std::move(ring);
    inlet.window = geometry.window;
    inlet.peer = inlet.path = "inproc";
    if (!entry.sink->add(std::move(inlet)))
      throw SetupError(Errc::unreachable, uri.text() + ": the receiver closed at this moment");
    outlet.receiver_wake_fd = wake.release();
    return outlet;
  }

 private:
  static void check(const Uri& uri) {
    if (uri.name.empty() || !uri.host.empty() || uri.port != 0)
      throw SetupError(Errc::bad_uri, uri.text() + ": an inproc channel has a name only, as in inproc:orders");
  }

  std::shared_ptr<Names> names_ = std::make_shared<Names>();
};

}  // namespace

std::shared_ptr<Transport> make_inproc() { return std::make_shared<Inproc>(); }

}  // namespace penstock::inline v1
