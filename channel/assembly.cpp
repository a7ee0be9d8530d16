#include "penstock/channel/assembly.hpp"

#include <cstring>
#include <new>

namespace penstock::inline v1 {

static_assert(__STDCPP_DEFAULT_NEW_ALIGNMENT__ >= kRecordAlign);

Assembly::Step Assembly::take(const Record& record) noexcept {
  const auto kind = record.flags & kInPieces;
  if (kind == kFirst) return begin(record);
  const bool last = kind == kLast;
  if ((!last && kind != kFragment) || !message_ || record.length == 0 ||
      record.length > size_ - here_ || last != (record.length == size_ - here_))
    return Step::malformed;
  std::memcpy(message_->bytes.get() + here_, record.payload, record.length);
  here_ += record.length;
  return last ? Step::whole : Step::more;
}

Assembly::Step Assembly::begin(const Record& record) noexcept {
  message_.reset();
  here_ = 0;
  if (record.length != sizeof size_) return Step::malformed;
  // One copy: a peer may change it meanwhile.
  std::memcpy(&size_, record.payload, sizeof size_);
  if (size_ == 0 || size_ > largest_) return Step::malformed;
  message_.reset(new (std::nothrow) Aside);
  if (!message_) return Step::no_memory;
  // Not cleared: pages that are never written to are taken from nobody, where a sender announces
  // more than it sends.
  message_->bytes.reset(new (std::nothrow) std::byte[size_]);
  if (message_->bytes) return Step::more;
  message_.reset();
  return Step::no_memory;
}

}  // namespace penstock::inline v1
