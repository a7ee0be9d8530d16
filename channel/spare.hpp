// Memory for the messages of one sender that land beside its ring: whole pages, of which one
// stretch is kept when it is given back, so that a stream of messages costs no page faults.
//
// It holds zeros, or what that sender has sent before. So a sender that says to have written what
// it has not gets nothing of anybody else's handed out.
#pragma once

#include <cstddef>
#include <memory>
#include <mutex>

#include "penstock/channel/receiver.hpp"

namespace penstock::inline v1 {

/// Thread-safe. Kept by an inlet, and by the messages that lie in its memory.
class Spare : public std::enable_shared_from_this<Spare> {
 public:
  using Bytes = std::unique_ptr<std::byte[], FreeAside>;

  Spare() = default;
  Spare(const Spare&) = delete;
  Spare& operator=(const Spare&) = delete;
  Spare(Spare&&) = delete;
  Spare& operator=(Spare&&) = delete;
  ~Spare();

  /// At least `size` bytes, page-aligned; null where there is no memory.
  [[nodiscard]] Bytes take(std::size_t size) noexcept;

 private:
  friend struct FreeAside;
  void give_back(std::byte* bytes, std::size_t length) noexcept;

  std::mutex mutex_;  // guards all below
  std::byte* kept_ = nullptr;
  std::size_t kept_length_ = 0;
};

}  // namespace penstock::inline v1
