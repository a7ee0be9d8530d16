// How far a message has got that is too long to go in one piece.
#pragma once

#include <cstddef>
#include <utility>

namespace penstock::inline v1 {

class Outlet;

/// A sender's turn to send such a message: they go one after another. Ends with this; then the
/// receiver drops what it has of a message that is not whole. Not thread-safe; the outlet outlives
/// it.
class Pieces {
 public:
  Pieces() = default;
  Pieces(Pieces&& other) noexcept
      : outlet_(std::exchange(other.outlet_, nullptr)), begun_(other.begun_), sent_(other.sent_) {}
  Pieces& operator=(Pieces&&) = delete;
  Pieces(const Pieces&) = delete;
  Pieces& operator=(const Pieces&) = delete;
  ~Pieces() { end(); }

 private:
  friend class Outlet;
  void end() noexcept;

  Outlet* outlet_ = nullptr;  // null: it is not, or no more, our turn
  bool begun_ = false;        // its length was sent
  std::size_t sent_ = 0;      // bytes
};

}  // namespace penstock::inline v1
