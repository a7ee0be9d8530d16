// ZeroMQ's ipc transport. Each end has an I/O thread behind it.
#include <memory>
#include <zmq.hpp>

#include "between.hpp"

namespace {

template <class Item>
class Ipc {
 public:
  static constexpr bool kSenders = true;

  Ipc(std::size_t capacity, std::size_t /*senders*/)
      : address_("ipc://@" + contest::fresh_name()), capacity_(static_cast<int>(capacity / 2)) {}

  struct SendEnd {
    std::unique_ptr<zmq::context_t> context;
    zmq::socket_t socket;
    void send(const Item& item) {
      socket.send(zmq::buffer(&item, sizeof item), zmq::send_flags::none);
    }
  };
  struct RecvEnd {
    std::unique_ptr<zmq::context_t> context;
    zmq::socket_t socket;
    void receive(Item& item) { (void)socket.recv(zmq::buffer(&item, sizeof item)); }
  };
  SendEnd sender(std::size_t /*number*/) {
    auto end = open<SendEnd>(zmq::socket_type::push);
    end.socket.set(zmq::sockopt::sndhwm, capacity_);
    end.socket.set(zmq::sockopt::linger, 0);
    end.socket.connect(address_);
    return end;
  }
  RecvEnd receiver() {
    auto end = open<RecvEnd>(zmq::socket_type::pull);
    end.socket.set(zmq::sockopt::rcvhwm, capacity_);
    end.socket.bind(address_);
    return end;
  }

 private:
  template <class End>
  End open(zmq::socket_type type) {
    auto context = std::make_unique<zmq::context_t>(1);
    zmq::socket_t socket(*context, type);
    return {std::move(context), std::move(socket)};
  }

  std::string address_;
  int capacity_;  // of each end
};

[[maybe_unused]] const bool entered = (contest::enter_between<Ipc>("zeromq-ipc"), true);

}  // namespace
