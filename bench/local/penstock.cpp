// penstock's typed channels: each topology, and waiting by sleeping.
#include "contest.hpp"
#include "penstock/channel/local_channel.hpp"

namespace {

using namespace penstock::v2;

template <class Item, Topology kTopology, Waiting kWaiting>
class Channel {
 public:
  static constexpr bool kProducers = several_producers(kTopology);
  static constexpr bool kConsumers = several_consumers(kTopology);

  explicit Channel(std::size_t capacity) : ends_(channel<Item, kTopology>(capacity, {kWaiting})) {}

  struct SendEnd {
    Sender<Item, kTopology> end;
    void send(const Item& item) { (void)end.send(item); }
    void send_many(std::span<const Item> items) { (void)end.send_many(items); }
  };
  struct RecvEnd {
    Receiver<Item, kTopology> end;
    void receive(Item& item) { item = *end.recv(); }
    std::size_t receive_many(std::span<Item> items) {
      return end.recv_many(items.begin(), items.size()).count;
    }
  };
  SendEnd sender() {
    if constexpr (kProducers) {
      return {ends_.sender.clone()};
    } else {
      return {std::move(ends_.sender)};
    }
  }
  RecvEnd receiver() {
    if constexpr (kConsumers) {
      return {ends_.receiver.clone()};
    } else {
      return {std::move(ends_.receiver)};
    }
  }

 private:
  Ends<Item, kTopology> ends_;
};

template <class Item>
using ChannelSpsc = Channel<Item, spsc, Waiting::adaptive>;
template <class Item>
using ChannelMpsc = Channel<Item, mpsc, Waiting::adaptive>;
template <class Item>
using ChannelMpmc = Channel<Item, mpmc, Waiting::adaptive>;
template <class Item>
using ChannelSpscBlock = Channel<Item, spsc, Waiting::block>;
template <class Item>
using ChannelMpscBlock = Channel<Item, mpsc, Waiting::block>;
template <class Item>
using ChannelMpmcBlock = Channel<Item, mpmc, Waiting::block>;

[[maybe_unused]] const bool entered = [] {
  contest::enter_all<ChannelSpsc>("penstock-spsc");
  contest::enter_all<ChannelMpsc>("penstock-mpsc");
  contest::enter_all<ChannelMpmc>("penstock-mpmc");
  contest::enter_all<ChannelSpscBlock>("penstock-spsc-block", true);
  contest::enter_all<ChannelMpscBlock>("penstock-mpsc-block", true);
  contest::enter_all<ChannelMpmcBlock>("penstock-mpmc-block", true);
  return true;
}();

}  // namespace
