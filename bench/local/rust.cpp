// Rust's async-channel and crossbeam-channel, by their blocking calls: their ends sleep.
#include "contest.hpp"

extern "C" {
void* async_make8(std::size_t capacity);
void async_free8(void* both);
void async_send8(void* both, const void* item);
void async_receive8(void* both, void* item);
void* async_make64(std::size_t capacity);
void async_free64(void* both);
void async_send64(void* both, const void* item);
void async_receive64(void* both, void* item);
void* crossbeam_make8(std::size_t capacity);
void crossbeam_free8(void* both);
void crossbeam_send8(void* both, const void* item);
void crossbeam_receive8(void* both, void* item);
void* crossbeam_make64(std::size_t capacity);
void crossbeam_free64(void* both);
void crossbeam_send64(void* both, const void* item);
void crossbeam_receive64(void* both, void* item);
}

namespace {

struct Calls {
  void* (*make)(std::size_t);
  void (*free)(void*);
  void (*send)(void*, const void*);
  void (*receive)(void*, void*);
};
constexpr Calls kAsync8{async_make8, async_free8, async_send8, async_receive8};
constexpr Calls kAsync64{async_make64, async_free64, async_send64, async_receive64};
constexpr Calls kCrossbeam8{crossbeam_make8, crossbeam_free8, crossbeam_send8, crossbeam_receive8};
constexpr Calls kCrossbeam64{crossbeam_make64, crossbeam_free64, crossbeam_send64,
                             crossbeam_receive64};

template <class Item, const Calls& k8, const Calls& k64>
class Rust {
  static constexpr const Calls& kCalls = sizeof(Item) == 8 ? k8 : k64;

 public:
  static constexpr bool kProducers = true;
  static constexpr bool kConsumers = true;
  explicit Rust(std::size_t capacity) : both_(kCalls.make(capacity)) {}
  Rust(const Rust&) = delete;
  Rust& operator=(const Rust&) = delete;
  ~Rust() { kCalls.free(both_); }

  struct End {
    void* both;
    void send(const Item& item) { kCalls.send(both, &item); }
    void receive(Item& item) { kCalls.receive(both, &item); }
  };
  End sender() { return {both_}; }
  End receiver() { return {both_}; }

 private:
  void* both_;
};

template <class Item>
using Async = Rust<Item, kAsync8, kAsync64>;
template <class Item>
using Crossbeam = Rust<Item, kCrossbeam8, kCrossbeam64>;

[[maybe_unused]] const bool entered = [] {
  contest::enter_all<Async>("rust-async-channel", true);
  contest::enter_all<Crossbeam>("rust-crossbeam-channel", true);
  return true;
}();

}  // namespace
