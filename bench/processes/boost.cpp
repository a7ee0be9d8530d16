// Boost.Interprocess: a queue under a lock in shared memory.
#include <boost/interprocess/ipc/message_queue.hpp>
#include <memory>

#include "between.hpp"

namespace {

namespace ipc = boost::interprocess;

template <class Item>
class MessageQueue {
 public:
  static constexpr bool kSenders = true;

  MessageQueue(std::size_t capacity, std::size_t /*senders*/)
      : name_(contest::fresh_name()),
        queue_(ipc::create_only, name_.c_str(), capacity, sizeof(Item)) {}
  MessageQueue(const MessageQueue&) = delete;
  MessageQueue& operator=(const MessageQueue&) = delete;
  MessageQueue(MessageQueue&&) = delete;
  MessageQueue& operator=(MessageQueue&&) = delete;
  ~MessageQueue() { ipc::message_queue::remove(name_.c_str()); }

  struct End {
    std::unique_ptr<ipc::message_queue> queue;
    void send(const Item& item) {
      for (contest::Patience patience; !queue->try_send(&item, sizeof item, 0);) patience.lose();
    }
    void receive(Item& item) {
      std::size_t size = 0;
      unsigned priority = 0;
      for (contest::Patience patience; !queue->try_receive(&item, sizeof item, size, priority);)
        patience.lose();
      if (size != sizeof item) throw std::runtime_error("a message of another size");
    }
  };
  End sender(std::size_t /*number*/) { return open(); }
  End receiver() { return open(); }

 private:
  End open() { return {std::make_unique<ipc::message_queue>(ipc::open_only, name_.c_str())}; }

  std::string name_;
  ipc::message_queue queue_;
};

[[maybe_unused]] const bool entered =
    (contest::enter_between<MessageQueue>("boost-message_queue"), true);

}  // namespace
