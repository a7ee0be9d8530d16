// DPDK's rte_ring, without the rest of DPDK.
#include <rte_ring.h>
#include <rte_ring_elem.h>

#include <cstdlib>
#include <new>

#include "contest.hpp"

namespace {

template <class Item, bool kSeveral>
class Ring {
 public:
  static constexpr bool kProducers = kSeveral;
  static constexpr bool kConsumers = kSeveral;
  static constexpr bool kStandsStill = kSeveral;
  explicit Ring(std::size_t capacity) {
    // One slot stays empty.
    const auto slots = static_cast<unsigned>(capacity * 2);
    const auto bytes = static_cast<std::size_t>(rte_ring_get_memsize_elem(sizeof(Item), slots));
    memory_ = std::aligned_alloc(RTE_CACHE_LINE_SIZE, bytes);
    if (memory_ == nullptr) throw std::bad_alloc();
    ring_ = static_cast<rte_ring*>(memory_);
    if (rte_ring_init(ring_, "contest", slots, kSeveral ? 0U : RING_F_SP_ENQ | RING_F_SC_DEQ) != 0)
      std::abort();
    // Exactly the capacity, as the others have.
    ring_->capacity = static_cast<std::uint32_t>(capacity);
  }
  Ring(const Ring&) = delete;
  Ring& operator=(const Ring&) = delete;
  ~Ring() { std::free(memory_); }

  struct End {
    rte_ring* ring;
    void send(const Item& item) {
      for (contest::Patience patience;
           rte_ring_enqueue_elem(ring, const_cast<Item*>(&item), sizeof item) != 0;)
        patience.lose();
    }
    void send_many(std::span<const Item> items) {
      for (contest::Patience patience; !items.empty();) {
        const auto count = rte_ring_enqueue_burst_elem(
            ring, items.data(), sizeof(Item), static_cast<unsigned>(items.size()), nullptr);
        items = items.subspan(count);
        if (count == 0) patience.lose();
      }
    }
    void receive(Item& item) {
      for (contest::Patience patience; rte_ring_dequeue_elem(ring, &item, sizeof item) != 0;)
        patience.lose();
    }
    std::size_t receive_many(std::span<Item> items) {
      for (contest::Patience patience;; patience.lose())
        if (const auto count = rte_ring_dequeue_burst_elem(
                ring, items.data(), sizeof(Item), static_cast<unsigned>(items.size()), nullptr))
          return count;
    }
  };
  End sender() { return {ring_}; }
  End receiver() { return {ring_}; }

 private:
  void* memory_ = nullptr;
  rte_ring* ring_ = nullptr;
};

template <class Item>
using RteSingle = Ring<Item, false>;
template <class Item>
using RteSeveral = Ring<Item, true>;

[[maybe_unused]] const bool entered = [] {
  contest::enter_all<RteSingle>("dpdk-rte_ring-sp-sc");
  contest::enter_all<RteSeveral>("dpdk-rte_ring-mp-mc");
  return true;
}();

}  // namespace
