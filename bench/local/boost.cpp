// Boost.Lockfree.
#include <boost/lockfree/queue.hpp>
#include <boost/lockfree/spsc_queue.hpp>

#include "contest.hpp"

namespace {

template <class Item>
class Spsc {
 public:
  static constexpr bool kProducers = false;
  static constexpr bool kConsumers = false;
  explicit Spsc(std::size_t capacity) : queue_(capacity) {}

  struct End {
    boost::lockfree::spsc_queue<Item>* queue;
    void send(const Item& item) {
      for (contest::Patience patience; !queue->push(item);) patience.lose();
    }
    void send_many(std::span<const Item> items) {
      for (contest::Patience patience; !items.empty();) {
        const auto count = queue->push(items.data(), items.size());
        items = items.subspan(count);
        if (count == 0) patience.lose();
      }
    }
    void receive(Item& item) {
      for (contest::Patience patience; !queue->pop(item);) patience.lose();
    }
    std::size_t receive_many(std::span<Item> items) {
      for (contest::Patience patience;; patience.lose())
        if (const auto count = queue->pop(items.data(), items.size())) return count;
    }
  };
  End sender() { return {&queue_}; }
  End receiver() { return {&queue_}; }

 private:
  boost::lockfree::spsc_queue<Item> queue_;
};

template <class Item>
class Mpmc {
 public:
  static constexpr bool kProducers = true;
  static constexpr bool kConsumers = true;
  explicit Mpmc(std::size_t capacity) : queue_(capacity) {}

  struct End {
    boost::lockfree::queue<Item>* queue;
    void send(const Item& item) {
      for (contest::Patience patience; !queue->bounded_push(item);) patience.lose();
    }
    void receive(Item& item) {
      for (contest::Patience patience; !queue->pop(item);) patience.lose();
    }
  };
  End sender() { return {&queue_}; }
  End receiver() { return {&queue_}; }

 private:
  boost::lockfree::queue<Item> queue_;
};

[[maybe_unused]] const bool entered = [] {
  contest::enter_all<Spsc>("boost-spsc_queue");
  contest::enter_all<Mpmc>("boost-queue");
  return true;
}();

}  // namespace
