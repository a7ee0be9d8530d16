// The ends of penstock's byte channels, as rivals have them.
#pragma once

#include <cstring>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>

#include "contest.hpp"
#include "penstock/channel/channel.hpp"

namespace contest {

/// A channel that no other of this machine is, with room for `capacity` records: an item and a
/// header, each filled up to 16 bytes.
template <class Item>
[[nodiscard]] std::string byte_channel(const std::string& scheme, std::size_t capacity) {
  return scheme + ":" + fresh_name() +
         "?window=" + std::to_string(capacity * (16 + (sizeof(Item) + 15) / 16 * 16));
}

template <class Item>
class ByteSendEnd {
 public:
  explicit ByteSendEnd(penstock::Sender end) noexcept : end_(std::move(end)) {}
  void send(const Item& item) {
    const auto status = end_.send(std::as_bytes(std::span(&item, 1)));
    if (status != penstock::SendStatus::sent) throw std::runtime_error(to_string(status));
  }

 protected:
  penstock::Sender end_;
};

/// In batches, too.
template <class Item>
class BatchingByteSendEnd : public ByteSendEnd<Item> {
 public:
  using ByteSendEnd<Item>::ByteSendEnd;
  void send_many(std::span<const Item> items) {
    const auto batch = this->end_.send_many(std::as_bytes(items), sizeof(Item));
    if (batch.count != items.size()) throw std::runtime_error(to_string(batch.status));
  }
};

template <class Item>
class ByteRecvEnd {
 public:
  explicit ByteRecvEnd(penstock::Receiver end) noexcept : end_(std::move(end)) {}

  void receive(Item& item) {
    const auto message = end_.recv();
    if (!message) throw std::runtime_error(to_string(message.status()));
    copy(message.data(), item);
  }
  std::size_t receive_many(std::span<Item> items) {
    const auto status = end_.recv_many(batch_, items.size());
    if (!batch_) throw std::runtime_error(to_string(status));
    auto item = items.begin();
    for (const auto& message : batch_) copy(message, *item++);
    return batch_.size();
  }

 private:
  static void copy(std::span<const std::byte> message, Item& item) {
    if (message.size() != sizeof item) throw std::runtime_error("a message of another size");
    std::memcpy(&item, message.data(), sizeof item);
  }

  penstock::Receiver end_;
  penstock::Messages batch_;
};

}  // namespace contest
