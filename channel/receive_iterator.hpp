// A receiver as a range.
#pragma once

#include <cstddef>
#include <iterator>

namespace penstock::v2 {

/// The messages of a `Receiver` as they come, until its recv() has none. An input iterator: each
/// message lives until the next one is asked for.
template <class Receiver, class T>
class ReceiveIterator {
 public:
  using value_type = T;
  using difference_type = std::ptrdiff_t;
  ReceiveIterator() = default;
  explicit ReceiveIterator(Receiver& receiver) : receiver_(&receiver), now_(receiver.recv()) {}
  [[nodiscard]] T& operator*() const noexcept { return *now_; }
  ReceiveIterator& operator++() {
    now_ = {};  // gives its room back before it waits
    now_ = receiver_->recv();
    return *this;
  }
  void operator++(int) { ++*this; }
  [[nodiscard]] bool operator==(std::default_sentinel_t) const noexcept { return !now_; }

 private:
  Receiver* receiver_ = nullptr;
  mutable decltype(receiver_->recv()) now_;
};

}  // namespace penstock::v2
