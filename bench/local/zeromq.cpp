// ZeroMQ's inproc transport: its ends sleep.
#include <zmq.hpp>

#include <atomic>
#include <cstring>

#include "contest.hpp"

namespace {

template <class Item>
class Inproc {
 public:
  static constexpr bool kProducers = true;
  static constexpr bool kConsumers = false;
  explicit Inproc(std::size_t capacity)
      : capacity_(static_cast<int>(capacity / 2)), pull_(context_, zmq::socket_type::pull) {
    static std::atomic<int> count{0};
    address_ = "inproc://contest" + std::to_string(count++);
    pull_.set(zmq::sockopt::rcvhwm, capacity_);
    pull_.bind(address_);
  }

  struct SendEnd {
    zmq::socket_t socket;
    void send(const Item& item) { socket.send(zmq::buffer(&item, sizeof item)); }
  };
  struct RecvEnd {
    zmq::socket_t* socket;
    void receive(Item& item) { (void)socket->recv(zmq::buffer(&item, sizeof item)); }
  };
  SendEnd sender() {
    zmq::socket_t push(context_, zmq::socket_type::push);
    push.set(zmq::sockopt::sndhwm, capacity_);
    push.set(zmq::sockopt::linger, 0);
    push.connect(address_);
    return {std::move(push)};
  }
  RecvEnd receiver() { return {&pull_}; }

 private:
  zmq::context_t context_{0};  // inproc needs no I/O thread
  int capacity_;               // of each end
  std::string address_;
  zmq::socket_t pull_;
};

[[maybe_unused]] const bool entered = (contest::enter_all<Inproc>("zeromq-inproc", true), true);

}  // namespace
