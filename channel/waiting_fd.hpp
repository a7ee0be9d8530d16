// An event loop that waits in a list, by a descriptor.
#pragma once

#include "penstock/channel/wait_list.hpp"
#include "penstock/transport/bell.hpp"

namespace penstock::v2 {

/// A descriptor that becomes readable when it is chosen. Not thread-safe, but for being chosen. Of
/// one list; must leave it before it goes.
class WaitingFd final : public Waiter {
 public:
  /// Throws SetupError.
  WaitingFd()
      : Waiter([](Waiter& self, Wake& /*wake*/) noexcept {
          // With the list's mutex held, so it is not being destroyed.
          static_cast<WaitingFd&>(self).bell_.ring();
          return true;
        }) {
    (void)bell_.open();
  }
  [[nodiscard]] int get() const noexcept { return bell_.fd(); }
  void wait_in(WaitList& list) noexcept {
    bell_.quiet();
    (void)list.add(node_);
  }
  void leave(WaitList& list) noexcept { (void)list.remove(node_); }

 private:
  Bell bell_;
  WaitNode node_{*this};
};

}  // namespace penstock::v2
