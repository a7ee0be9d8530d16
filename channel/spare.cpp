#include "penstock/channel/spare.hpp"

#include <sys/mman.h>

#include <utility>

namespace penstock::inline v1 {
namespace {

constexpr std::size_t kPage = 4096;

void unmap(std::byte* bytes, std::size_t length) noexcept {
  if (bytes != nullptr) ::munmap(bytes, length);
}

}  // namespace

void FreeAside::operator()(std::byte* bytes) const noexcept {
  if (spare) {
    spare->give_back(bytes, length);
  } else {
    delete[] bytes;
  }
}

Spare::~Spare() { unmap(kept_, kept_length_); }

Spare::Bytes Spare::take(std::size_t size) noexcept {
  std::byte* bytes = nullptr;
  std::size_t length = 0;
  {
    const std::lock_guard lock(mutex_);
    if (kept_length_ >= size) {
      bytes = std::exchange(kept_, nullptr);
      length = std::exchange(kept_length_, 0);
    }
  }
  if (bytes == nullptr) {
    length = (size + kPage - 1) & ~(kPage - 1);
    void* const mapped =
        ::mmap(nullptr, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapped == MAP_FAILED) return {};
    bytes = static_cast<std::byte*>(mapped);
  }
  return Bytes(bytes, FreeAside{shared_from_this(), length});
}

void Spare::give_back(std::byte* bytes, std::size_t length) noexcept {
  {
    const std::lock_guard lock(mutex_);
    if (length > kept_length_) {
      std::swap(bytes, kept_);
      std::swap(length, kept_length_);
    }
  }
  unmap(bytes, length);
}

}  // namespace penstock::inline v1
