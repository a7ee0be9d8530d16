// penstock's byte channels: shm: between processes, and inproc: between threads, which shm: is
// measured against.
#include "../local/byte_ends.hpp"
#include "between.hpp"

namespace {

template <class Item, contest::Where where>
class Bytes {
 public:
  static constexpr bool kSenders = true;
  static constexpr contest::Where kWhere = where;

  Bytes(std::size_t capacity, std::size_t /*senders*/)
      : uri_(contest::byte_channel<Item>(where == contest::Where::processes ? "shm" : "inproc",
                                         capacity)) {}

  contest::BatchingByteSendEnd<Item> sender(std::size_t /*number*/) {
    return contest::BatchingByteSendEnd<Item>(penstock::connect(uri_));
  }
  contest::ByteRecvEnd<Item> receiver() { return contest::ByteRecvEnd<Item>(penstock::bind(uri_)); }

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
