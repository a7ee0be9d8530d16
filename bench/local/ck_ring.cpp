// Concurrency Kit's ring (libck-dev).
#include "contest.hpp"

extern "C" {
struct contest_ring;
contest_ring* contest_ck_make(std::size_t slots, std::size_t item);
void contest_ck_free(contest_ring* ring);
bool contest_ck_send_spsc_item8(contest_ring* ring, void* value);
bool contest_ck_receive_spsc_item8(contest_ring* ring, void* value);
bool contest_ck_send_mpmc_item8(contest_ring* ring, void* value);
bool contest_ck_receive_mpmc_item8(contest_ring* ring, void* value);
bool contest_ck_send_spsc_item64(contest_ring* ring, void* value);
bool contest_ck_receive_spsc_item64(contest_ring* ring, void* value);
bool contest_ck_send_mpmc_item64(contest_ring* ring, void* value);
bool contest_ck_receive_mpmc_item64(contest_ring* ring, void* value);
}

namespace {

template <class Item, bool kSeveral>
class Ring {
 public:
  static constexpr bool kProducers = kSeveral;
  static constexpr bool kConsumers = kSeveral;
  static constexpr bool kStandsStill = kSeveral;
  // One slot stays empty, and their number is a power of two: it holds one item less.
  explicit Ring(std::size_t capacity) : ring_(contest_ck_make(capacity, sizeof(Item))) {}
  Ring(const Ring&) = delete;
  Ring& operator=(const Ring&) = delete;
  ~Ring() { contest_ck_free(ring_); }

  struct End {
    contest_ring* ring;
    void send(const Item& item) {
      constexpr auto call =
          sizeof(Item) == 8
              ? (kSeveral ? contest_ck_send_mpmc_item8 : contest_ck_send_spsc_item8)
              : (kSeveral ? contest_ck_send_mpmc_item64 : contest_ck_send_spsc_item64);
      auto* value = const_cast<Item*>(&item);
      for (contest::Patience patience; !call(ring, value);) patience.lose();
    }
    void receive(Item& item) {
      constexpr auto call =
          sizeof(Item) == 8
              ? (kSeveral ? contest_ck_receive_mpmc_item8 : contest_ck_receive_spsc_item8)
              : (kSeveral ? contest_ck_receive_mpmc_item64 : contest_ck_receive_spsc_item64);
      for (contest::Patience patience; !call(ring, &item);) patience.lose();
    }
  };
  End sender() { return {ring_}; }
  End receiver() { return {ring_}; }

 private:
  contest_ring* ring_;
};

template <class Item>
using CkSingle = Ring<Item, false>;
template <class Item>
using CkSeveral = Ring<Item, true>;

[[maybe_unused]] const bool entered = [] {
  contest::enter_all<CkSingle>("ck_ring-spsc");
  contest::enter_all<CkSeveral>("ck_ring-mpmc");
  return true;
}();

}  // namespace
