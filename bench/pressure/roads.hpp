// What the load is put on: penstock's channels.
#pragma once

#include <cstring>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>

#include "../common/parts.hpp"
#include "load.hpp"
#include "penstock/channel/channel.hpp"
#include "penstock/channel/local_channel.hpp"

namespace pressure {

template <class Status>
void check_sent(Status status) {
  if (status != Status::sent) throw std::runtime_error(to_string(status));
}

/// A byte channel at a URI, as its defaults are: inproc: between threads, others between processes.
class ByteRoad {
 public:
  explicit ByteRoad(std::string uri) : uri_(std::move(uri)) {}

  struct SendEnd {
    penstock::v1::Sender end;
    void send(const Item& item) { check_sent(end.send(std::as_bytes(std::span(&item, 1)))); }
  };
  struct RecvEnd {
    penstock::v1::Receiver end;
    /// False: the sender has closed.
    bool receive(Item& item) {
      const auto message = end.recv();
      if (message.data().size() != sizeof item) return over(message);
      std::memcpy(&item, message.data().data(), sizeof item);
      return true;
    }
    static bool over(const penstock::v1::Message& message) {
      if (message.status() == penstock::v1::RecvStatus::closed) return false;
      const auto* loss = message.loss();
      throw std::runtime_error(loss != nullptr ? loss->reason : to_string(message.status()));
    }
  };
  [[nodiscard]] contest::Where where() const {
    return uri_.starts_with("inproc:") ? contest::Where::threads : contest::Where::processes;
  }
  RecvEnd receiver() { return {penstock::v1::bind(uri_)}; }
  SendEnd sender() { return {penstock::v1::connect(uri_)}; }

 private:
  std::string uri_;
};

/// A typed channel between threads.
class TypedRoad {
 public:
  TypedRoad() : ends_(penstock::v2::channel<Item, penstock::v2::spsc>(kCapacity)) {}

  struct SendEnd {
    penstock::v2::Sender<Item, penstock::v2::spsc> end;
    void send(const Item& item) { check_sent(end.send(item)); }
  };
  struct RecvEnd {
    penstock::v2::Receiver<Item, penstock::v2::spsc> end;
    bool receive(Item& item) {
      const auto received = end.recv();
      if (received) item = *received;
      return static_cast<bool>(received);
    }
  };
  [[nodiscard]] contest::Where where() const { return contest::Where::threads; }
  RecvEnd receiver() { return {std::move(ends_.receiver)}; }
  SendEnd sender() { return {std::move(ends_.sender)}; }

 private:
  static constexpr std::size_t kCapacity = 8192;  // as many bytes as a byte channel has by default
  penstock::v2::Ends<Item, penstock::v2::spsc> ends_;
};

}  // namespace pressure
