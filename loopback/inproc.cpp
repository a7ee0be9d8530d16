#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <new>

#include "penstock/loopback/loopback.hpp"
#include "penstock/transport/clock.hpp"
#include "penstock/transport/error.hpp"
#include "penstock/transport/fd.hpp"
#include "penstock/transport/fork.hpp"
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
    int calls = 0;  // into the sink, under way
  };
  const Birth birth{};
  std::mutex mutex;
  std::condition_variable bound;
  std::condition_variable idle;
  std::map<std::string, std::shared_ptr<Entry>, std::less<>> entries;
};

/// The names of this process. A child gets names of its own: the parent's receivers are not there,
/// and another thread may have held the mutex while it forked.
Names& names() {
  // SYNC names: a Names is made before it is published. Never deleted: listeners keep references.
  static std::atomic<Names*> current{nullptr};
  auto* seen = current.load(std::memory_order_acquire);
  while (seen == nullptr || !seen->birth.here()) {
    auto fresh = std::make_unique<Names>();
    if (current.compare_exchange_strong(seen, fresh.get(), std::memory_order_acq_rel))
      seen = fresh.release();
  }
  return *seen;
}

class InprocListener final : public Listener {
 public:
  InprocListener(Names& names, const Uri& uri) : names_(names), name_(uri.name) {}
  ~InprocListener() override {
    if (!names_.birth.here()) return;     // the parent's: its mutex may be held for ever
    std::shared_ptr<Names::Entry> entry;  // goes after the unlocking, and with it maybe the sink
    std::unique_lock lock(names_.mutex);
    const auto found = names_.entries.find(name_);
    entry = std::move(found->second);
    names_.entries.erase(found);
    names_.idle.wait(lock, [&] { return entry->calls == 0; });
  }
  [[nodiscard]] std::string uri() const override { return "inproc:" + name_; }

 private:
  Names& names_;
  const std::string name_;
};

/// Keeps a listener's destruction waiting while its sink is called.
class SinkCall {
 public:
  /// With the mutex held.
  SinkCall(Names& names, std::shared_ptr<Names::Entry> entry) noexcept
      : names_(names), entry_(std::move(entry)) {
    ++entry_->calls;
  }
  SinkCall(const SinkCall&) = delete;
  SinkCall& operator=(const SinkCall&) = delete;
  SinkCall(SinkCall&&) = delete;
  SinkCall& operator=(SinkCall&&) = delete;
  ~SinkCall() {
    const std::lock_guard lock(names_.mutex);
    if (--entry_->calls == 0) names_.idle.notify_all();
  }
  [[nodiscard]] const Names::Entry& operator*() const noexcept { return *entry_; }

 private:
  Names& names_;
  const std::shared_ptr<Names::Entry> entry_;
};

class Inproc final : public Transport {
 public:
  [[nodiscard]] std::string_view scheme() const noexcept override { return "inproc"; }
  [[nodiscard]] std::vector<std::string> option_names(const Uri& /*uri*/) const override {
    return {};
  }
  [[nodiscard]] ProbeReport probe() const override { return {true, {}, "[]"}; }

  void check(const Uri& uri) const override {
    if (uri.name.empty() || !uri.host.empty() || uri.port != 0)
      throw SetupError(Errc::bad_uri,
                       uri.text() + ": an inproc channel has a name only, as in inproc:orders");
  }

  [[nodiscard]] std::unique_ptr<Listener> listen(const Uri& uri, const InletSettings& settings,
                                                 std::shared_ptr<InletSink> sink) override {
    check(uri);
    auto& here = names();
    auto entry = std::make_shared<Names::Entry>(Names::Entry{settings, std::move(sink)});
    {
      const std::lock_guard lock(here.mutex);
      if (!here.entries.emplace(uri.name, std::move(entry)).second)
        throw SetupError(Errc::address_in_use,
                         uri.text() + ": another receiver is bound there; choose another name");
    }
    here.bound.notify_all();
    return std::make_unique<InprocListener>(here, uri);
  }

  [[nodiscard]] OutletParts connect(const Uri& uri, const OutletSettings& wanted,
                                    TimePoint deadline) override {
    check(uri);
    auto& here = names();
    std::unique_lock lock(here.mutex);
    const auto bound = [&] { return here.entries.contains(uri.name); };
    if (deadline == TimePoint::max()) {
      here.bound.wait(lock, bound);
    } else if (!here.bound.wait_until(lock, deadline, bound)) {
      throw SetupError(Errc::unreachable, uri.text() +
                                              ": no receiver was bound in this process until "
                                              "the deadline: bind it, or use shm: between "
                                              "processes");
    }
    const SinkCall call(here, here.entries.find(uri.name)->second);
    lock.unlock();  // the sink takes its own lock
    const auto& settings = (*call).settings;
    const auto& sink = (*call).sink;
    try {
      check_types(wanted.type, settings.type);
    } catch (const SetupError& e) {
      throw SetupError(e.errc(), uri.text() + ": " + e.what());
    }

    OutletParts outlet;
    outlet.peer = outlet.path = "inproc";
    if (wanted.trial) return outlet;

    const auto geometry = agree(settings, kLocalCapacity, kMaxCapacity);
    auto memory = std::make_shared<HeapRing>(geometry.capacity);
    RingMemory ring;
    ring.data = memory->data;
    ring.capacity = geometry.capacity;
    ring.control = &memory->control;
    ring.key = SessionKey::random();
    ring.owner = std::move(memory);

    outlet.ring = ring;
    outlet.window = geometry.window;
    outlet.max_message = settings.max_message;
    outlet.bell = std::make_shared<Bell>();
    Fd wake(::fcntl(sink->wake_fd(), F_DUPFD_CLOEXEC, 0));
    if (!wake) throw_errno(uri.text() + ": duplicating the receiver's eventfd", errno);
    InletParts inlet;
    inlet.ring = std::move(ring);
    inlet.window = geometry.window;
    inlet.max_message = settings.max_message;
    inlet.flow = settings.flow;
    inlet.peer = inlet.path = "inproc";
    inlet.bell = outlet.bell;
    if (!sink->add(std::move(inlet)))
      throw SetupError(Errc::unreachable, uri.text() + ": the receiver closed at this moment");
    outlet.receiver_wake_fd = wake.release();
    return outlet;
  }
};

}  // namespace

std::shared_ptr<Transport> make_inproc() { return std::make_shared<Inproc>(); }

}  // namespace penstock::inline v1
