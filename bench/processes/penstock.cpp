// penstock's byte channels: shm: between processes, and inproc: between threads, which shm: is
// measured against.
#include <cstring>

#include "between.hpp"
#include "penstock/channel/channel.hpp"

namespace {

namespace ps = penstock::v1;

[[noreturn]] void broken(const char* why) { throw std::runtime_error(why); }

template <class Item, contest::Where where>
class Bytes {
 public:
  static constexpr bool kSenders = true;
  static constexpr contest::Where kWhere = where;

  /// A record is the item and a header, each filled up to 16 bytes.
  Bytes(std::size_t capacity, std::size_t /*senders*/)
      : uri_((where == contest::Where::processes ? "shm:" : "inproc:") + contest::fresh_name() +
             "?window=" + std::to_string(capacity * (16 + (sizeof(Item) + 15) / 16 * 16))) {}

  struct SendEnd {
    ps::Sender end;
    void send(const Item& item) {
      const auto status = end.send(std::as_bytes(std::span(&item, 1)));
      if (status != ps::SendStatus::sent) broken(to_string(status));
    }
    void send_many(std::span<const Item> items) {
      const auto batch = end.send_many(std::as_bytes(items), sizeof(Item));
      if (batch.count != items.size()) broken(to_string(batch.status));
    }
  };
  struct RecvEnd {
    ps::Receiver end;
    void receive(Item& item) {
      const auto message = end.recv();
      if (message.data().size() != sizeof item) broken(to_string(message.status()));
      std::memcpy(&item, message.data().data(), sizeof item);
    }
    std::size_t receive_many(std::span<Item> items) {
      const auto status = end.recv_many(batch, items.size());
      if (!batch) broken(to_string(status));
      auto* item = items.data();
      for (const auto message : batch) {
        if (message.size() != sizeof(Item)) broken("a message of another size");
        std::memcpy(item++, message.data(), sizeof(Item));
      }
      return batch.size();
    }
    ps::Messages batch{};
  };
  SendEnd sender(std::size_t /*number*/) { return {ps::connect(uri_)}; }
  RecvEnd receiver() { return {ps::bind(uri_), {}}; }

 private:
  std::string uri_;
};

template <class Item>
using Shm = Bytes<Item, contest::Where::processes>;
template <class Item>
using Inproc = Bytes<Item, contest::Where::threads>;

[[maybe_unused]] const bool entered = [] {
  contest::enter_between<Shm>("penstock-shm");
  contest::enter_between<Inproc>("penstock-inproc");
  return true;
}();

}  // namespace
