// Verbs objects with owners, and the device contexts of this process, shared by its links.
#pragma once

#include <infiniband/verbs.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "penstock/transport/fd.hpp"

namespace penstock::inline v1::verbs {

/// Deletes a verbs object. A failure to do so has no remedy, and means that the device is gone.
template <auto Destroy>
struct Destroyer {
  template <typename T>
  void operator()(T* object) const noexcept {
    static_cast<void>(Destroy(object));
  }
};
template <typename T, auto Destroy>
using Owned = std::unique_ptr<T, Destroyer<Destroy>>;

using DomainPtr = Owned<ibv_pd, ibv_dealloc_pd>;
using RegionPtr = Owned<ibv_mr, ibv_dereg_mr>;
using ChannelPtr = Owned<ibv_comp_channel, ibv_destroy_comp_channel>;
using QueuePtr = Owned<ibv_cq, ibv_destroy_cq>;
using QueuePairPtr = Owned<ibv_qp, ibv_destroy_qp>;
using DeviceListPtr = Owned<ibv_device*, ibv_free_device_list>;

/// What a link wants to hear about from its device.
struct DeviceWatch {
  ibv_qp* queue_pair = nullptr;
  ibv_cq* send_queue = nullptr;
  ibv_cq* receive_queue = nullptr;
  int events = -1;  ///< the link's epoll set
  Fd news;          ///< an eventfd in it, written with every event, never read: edge-triggered
  /// The first fatal event of one of them, -1 while there is none.
  std::atomic<int> event{-1};
};

/// An open device. There is one per device in the process, kept while somebody uses it.
///
/// Asynchronous events are per context, and one link carries the context's descriptor in its epoll
/// set: the kernel bounds how many sets within sets may hold one descriptor (500). Whichever link
/// finds events takes them for all, raises the generation, and makes every link's event descriptor
/// readable.
///
/// Thread-safe. In a child after fork() it is inert: what it holds belongs to the parent.
class Device {
 public:
  /// Opens `device`, or shares the context that is open already. Throws std::system_error.
  static std::shared_ptr<Device> open(ibv_device* device);

  Device(ibv_device* device, ibv_context* context);
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;
  Device(Device&&) = delete;
  Device& operator=(Device&&) = delete;
  ~Device();

  [[nodiscard]] ibv_context* context() const noexcept { return context_; }
  [[nodiscard]] const std::string& name() const noexcept { return name_; }
  /// False in a child of the process that opened it.
  [[nodiscard]] bool ours() const noexcept { return ::getpid() == process_; }
  /// True once the device reported a fatal error or went away: no call on it can succeed.
  [[nodiscard]] bool lost() const noexcept {
    return lost_.load(std::memory_order_relaxed);  // relaxed: a flag that carries nothing else
  }
  /// Ports that went down and did not come up again, a bit for each of the first 63.
  [[nodiscard]] bool port_down(std::uint8_t port) const noexcept {
    // relaxed: only words for an error text hang on it
    return ((ports_down_.load(std::memory_order_relaxed) >> (port % 64U)) & 1U) != 0;
  }

  /// Rises with every event that may concern a link.
  // SYNC device-news (reader): what the event changed is seen once its generation is
  [[nodiscard]] std::uint32_t generation() const noexcept {
    return generation_.load(std::memory_order_acquire);
  }
  [[nodiscard]] int async_fd() const noexcept { return context_->async_fd; }
  /// Takes the events that are there. One system call when there are none.
  void take_events() noexcept;

  /// Throws std::system_error.
  void watch(DeviceWatch& watch);
  void unwatch(DeviceWatch& watch) noexcept;

 private:
  void apply(const ibv_async_event& event) noexcept;
  void announce() noexcept;
  [[nodiscard]] bool give_carrier_to(DeviceWatch& watch) noexcept;

  ibv_context* context_;
  std::string name_;
  pid_t process_ = ::getpid();
  std::atomic<std::uint32_t> generation_{0};
  std::atomic<std::uint64_t> ports_down_{0};
  std::atomic<bool> lost_{false};
  std::mutex mutex_;  // guards the two below
  std::vector<DeviceWatch*> watches_;
  const DeviceWatch* carrier_ = nullptr;  // whose epoll set has the context's descriptor
};

}  // namespace penstock::inline v1::verbs
