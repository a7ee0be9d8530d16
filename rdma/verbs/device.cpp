#include "penstock/rdma/verbs/device.hpp"

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>

#include <algorithm>
#include <cerrno>
#include <map>
#include <system_error>
#include <utility>

namespace penstock::inline v1::verbs {
namespace {

struct OpenDevices {
  std::mutex mutex;
  // The kernel does not use an index twice, so a device that came back under its old name is a new
  // one. The process is part of the key because a child must not share its parent's contexts.
  std::map<std::pair<pid_t, int>, std::weak_ptr<Device>> by_index;
};

OpenDevices& open_devices() {
  static OpenDevices devices;
  return devices;
}

}  // namespace

std::shared_ptr<Device> Device::open(ibv_device* device) {
  OpenDevices& open = open_devices();
  const int index = ::ibv_get_device_index(device);
  const std::scoped_lock lock(open.mutex);
  std::erase_if(open.by_index, [](const auto& entry) { return entry.second.expired(); });
  if (index >= 0) {
    const auto found = open.by_index.find({::getpid(), index});
    if (found != open.by_index.end())
      if (auto shared = found->second.lock(); shared && !shared->lost()) return shared;
  }
  ibv_context* context = ::ibv_open_device(device);
  if (context == nullptr)
    throw std::system_error(errno, std::generic_category(), "ibv_open_device");
  auto opened = std::make_shared<Device>(device, context);
  if (index >= 0) open.by_index.insert_or_assign({::getpid(), index}, opened);
  return opened;
}

Device::Device(ibv_device* device, ibv_context* context)
    : context_(context), name_(::ibv_get_device_name(device)) {
  const int flags = ::fcntl(context_->async_fd, F_GETFL);
  if (flags < 0 || ::fcntl(context_->async_fd, F_SETFL, flags | O_NONBLOCK) < 0) {
    const int error = errno;
    static_cast<void>(::ibv_close_device(context_));
    throw std::system_error(error, std::generic_category(), "fcntl");
  }
}

Device::~Device() {
  if (ours()) static_cast<void>(::ibv_close_device(context_));
}

void Device::take_events() noexcept {
  ibv_async_event event{};
  while (::ibv_get_async_event(context_, &event) == 0) {
    apply(event);
    ::ibv_ack_async_event(&event);
  }
  // The kernel ends the stream of events of a device that was taken away.
  if ((errno == EIO || errno == ENODEV) && !lost_.exchange(true, std::memory_order_relaxed))
    announce();
}

void Device::apply(const ibv_async_event& event) noexcept {
  switch (event.event_type) {
    case IBV_EVENT_DEVICE_FATAL:
      lost_.store(true, std::memory_order_relaxed);  // relaxed: see lost()
      break;
    case IBV_EVENT_PORT_ERR:
    case IBV_EVENT_PORT_ACTIVE: {
      const auto port = std::uint64_t{1} << (static_cast<unsigned>(event.element.port_num) % 64U);
      if (event.event_type == IBV_EVENT_PORT_ERR)
        ports_down_.fetch_or(port, std::memory_order_relaxed);  // relaxed: see port_down()
      else
        ports_down_.fetch_and(~port, std::memory_order_relaxed);
      break;
    }
    case IBV_EVENT_QP_FATAL:
    case IBV_EVENT_QP_REQ_ERR:
    case IBV_EVENT_QP_ACCESS_ERR:
    case IBV_EVENT_CQ_ERR: {
      const std::scoped_lock lock(mutex_);
      for (DeviceWatch* w : watches_) {
        const bool concerned =
            event.event_type == IBV_EVENT_CQ_ERR
                ? event.element.cq == w->send_queue || event.element.cq == w->receive_queue
                : event.element.qp == w->queue_pair;
        int none = -1;
        // relaxed: read after the generation has risen (SYNC device-news)
        if (concerned)
          w->event.compare_exchange_strong(none, event.event_type, std::memory_order_relaxed);
      }
      break;
    }
    case IBV_EVENT_GID_CHANGE:
    case IBV_EVENT_LID_CHANGE:
    case IBV_EVENT_PKEY_CHANGE:
    case IBV_EVENT_CLIENT_REREGISTER: break;  // links look themselves whether it concerns them
    default: return;
  }
  announce();
}

void Device::announce() noexcept {
  // SYNC device-news (writer): pairs with generation()
  generation_.fetch_add(1, std::memory_order_release);
  const std::scoped_lock lock(mutex_);
  for (const DeviceWatch* w : watches_) static_cast<void>(::eventfd_write(w->news.get(), 1));
}

bool Device::give_carrier_to(DeviceWatch& watch) noexcept {
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.fd = async_fd();
  if (::epoll_ctl(watch.events, EPOLL_CTL_ADD, async_fd(), &event) != 0) return false;
  carrier_ = &watch;
  return true;
}

void Device::watch(DeviceWatch& watch) {
  watch.news = Fd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  epoll_event event{};
  event.events = EPOLLIN | EPOLLET;
  event.data.fd = watch.news.get();
  if (!watch.news || ::epoll_ctl(watch.events, EPOLL_CTL_ADD, watch.news.get(), &event) != 0)
    throw std::system_error(errno, std::generic_category(), "eventfd");
  const std::scoped_lock lock(mutex_);
  watches_.push_back(&watch);
  if (carrier_ == nullptr && !give_carrier_to(watch)) {
    const int error = errno;
    watches_.pop_back();
    throw std::system_error(error, std::generic_category(), "epoll_ctl");
  }
}

void Device::unwatch(DeviceWatch& watch) noexcept {
  const std::scoped_lock lock(mutex_);
  std::erase(watches_, &watch);
  if (carrier_ != &watch) return;
  static_cast<void>(::epoll_ctl(watch.events, EPOLL_CTL_DEL, async_fd(), nullptr));
  carrier_ = nullptr;
  // Fails for want of memory only, and then the next may do.
  for (DeviceWatch* next : watches_)
    if (give_carrier_to(*next)) return;
}

}  // namespace penstock::inline v1::verbs
