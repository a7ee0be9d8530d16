// penstock's byte channels between two threads, 64-byte items: one at a time, batches of 32, and
// sent one at a time but received together.
#include "byte_ends.hpp"
#include "contest.hpp"

namespace {

using Item = contest::Item<64>;

enum class Scheme : std::uint8_t { inproc, shm };

template <Scheme kScheme, template <class> class SendEnd>
class Bytes {
 public:
  explicit Bytes(std::size_t capacity)
      : uri_(contest::byte_channel<Item>(kScheme == Scheme::shm ? "shm" : "inproc", capacity)) {}

  // The receiver is asked for first.
  SendEnd<Item> sender() { return SendEnd<Item>(penstock::connect(uri_)); }
  contest::ByteRecvEnd<Item> receiver() { return contest::ByteRecvEnd<Item>(penstock::bind(uri_)); }

 private:
  std::string uri_;
};

template <Scheme kScheme>
void enter_bytes(const std::string& name) {
  constexpr std::uint64_t kFirst = 20'000;
  const auto carried = [&]<class Channel>(const std::string& work, bool batches) {
    contest::enter(work + "/64B", name, kFirst, [batches](std::uint64_t count) {
      return contest::carry<Channel, Item>({1, 1, batches}, count);
    });
  };
  using OneByOne = Bytes<kScheme, contest::ByteSendEnd>;
  using Batching = Bytes<kScheme, contest::BatchingByteSendEnd>;
  carried.template operator()<OneByOne>("1to1", false);
  carried.template operator()<OneByOne>("1to1-received32", true);
  carried.template operator()<Batching>("1to1-batch32", true);
}

[[maybe_unused]] const bool entered = [] {
  enter_bytes<Scheme::inproc>("penstock-bytes-inproc");
  enter_bytes<Scheme::shm>("penstock-bytes-shm");
  return true;
}();

}  // namespace
