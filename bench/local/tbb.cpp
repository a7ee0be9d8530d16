// oneTBB's concurrent_bounded_queue: its ends sleep.
#include <tbb/concurrent_queue.h>

#include "contest.hpp"

namespace {

template <class Item>
class Bounded {
 public:
  static constexpr bool kProducers = true;
  static constexpr bool kConsumers = true;
  explicit Bounded(std::size_t capacity) {
    queue_.set_capacity(static_cast<std::ptrdiff_t>(capacity));
  }

  struct End {
    tbb::concurrent_bounded_queue<Item>* queue;
    void send(const Item& item) { queue->push(item); }
    void receive(Item& item) { queue->pop(item); }
  };
  End sender() { return {&queue_}; }
  End receiver() { return {&queue_}; }

 private:
  tbb::concurrent_bounded_queue<Item> queue_;
};

[[maybe_unused]] const bool entered =
    (contest::enter_all<Bounded>("tbb-concurrent_bounded_queue", true), true);

}  // namespace
