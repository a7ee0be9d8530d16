// moodycamel's queues (libreaderwriterqueue-dev, libconcurrentqueue-dev).
#include <concurrentqueue/concurrentqueue.h>
#include <readerwriterqueue/readerwriterqueue.h>

#include "contest.hpp"

namespace {

template <class Item>
class ReaderWriter {
 public:
  static constexpr bool kProducers = false;
  static constexpr bool kConsumers = false;
  explicit ReaderWriter(std::size_t capacity) : queue_(capacity) {}

  struct End {
    moodycamel::ReaderWriterQueue<Item>* queue;
    void send(const Item& item) {
      for (contest::Patience patience; !queue->try_enqueue(item);) patience.lose();
    }
    void receive(Item& item) {
      for (contest::Patience patience; !queue->try_dequeue(item);) patience.lose();
    }
  };
  End sender() { return {&queue_}; }
  End receiver() { return {&queue_}; }

 private:
  moodycamel::ReaderWriterQueue<Item> queue_;
};

/// Not bounded: its try_enqueue() counts memory blocks, which the first producers keep for
/// themselves, so that later ones never get any. Its producers never wait, then.
template <class Item>
class Concurrent {
  using Queue = moodycamel::ConcurrentQueue<Item>;

 public:
  static constexpr bool kProducers = true;
  static constexpr bool kConsumers = true;
  explicit Concurrent(std::size_t capacity) : queue_(capacity, kMostProducers, 0) {}

  struct SendEnd {
    Queue* queue;
    moodycamel::ProducerToken token;
    void send(const Item& item) { queue->enqueue(token, item); }
    void send_many(std::span<const Item> items) {
      queue->enqueue_bulk(token, items.data(), items.size());
    }
  };
  struct RecvEnd {
    Queue* queue;
    moodycamel::ConsumerToken token;
    void receive(Item& item) {
      for (contest::Patience patience; !queue->try_dequeue(token, item);) patience.lose();
    }
    std::size_t receive_many(std::span<Item> items) {
      for (contest::Patience patience;; patience.lose())
        if (const auto count = queue->try_dequeue_bulk(token, items.data(), items.size()))
          return count;
    }
  };
  SendEnd sender() { return {&queue_, moodycamel::ProducerToken(queue_)}; }
  RecvEnd receiver() { return {&queue_, moodycamel::ConsumerToken(queue_)}; }

 private:
  static constexpr std::size_t kMostProducers = 16;
  Queue queue_;
};

[[maybe_unused]] const bool entered = [] {
  contest::enter_all<ReaderWriter>("moodycamel-ReaderWriterQueue");
  contest::enter_all<Concurrent>("moodycamel-ConcurrentQueue");
  return true;
}();

}  // namespace
