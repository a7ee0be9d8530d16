// A short list on the stack.
#pragma once

#include <array>
#include <cstddef>
#include <memory>
#include <new>
#include <span>
#include <type_traits>

namespace penstock::inline v1 {

/// Up to `kMost` values; those that are not added cost nothing, not even their default values.
template <class T, std::size_t kMost>
requires(std::is_trivially_copyable_v<T>) class Few {
 public:
  /// There must be room.
  void add(const T& value) noexcept {
    std::construct_at(reinterpret_cast<T*>(room_.data()) + count_, value);
    ++count_;
  }
  void clear() noexcept { count_ = 0; }
  [[nodiscard]] std::size_t size() const noexcept { return count_; }
  [[nodiscard]] std::span<const T> all() const noexcept {
    return {std::launder(reinterpret_cast<const T*>(room_.data())), count_};
  }

 private:
  alignas(T) std::array<std::byte, sizeof(T) * kMost> room_;
  std::size_t count_ = 0;
};

}  // namespace penstock::inline v1
