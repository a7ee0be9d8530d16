#include "penstock/channel/landings.hpp"

#include <cstring>
#include <new>
#include <utility>

#include "penstock/channel/async.hpp"

namespace penstock::inline v1 {
namespace {

/// Pinning more would keep the engine's thread from its peers for too long.
constexpr std::uint64_t kMostOnSharedThread = std::uint64_t{16} << 20U;

}  // namespace

Landings::Step Landings::take(const Record& record) noexcept {
  std::uint64_t value = 0;
  if (record.length != sizeof value) return Step::malformed;
  // One copy: a peer may change it meanwhile.
  std::memcpy(&value, record.payload, sizeof value);
  const auto kind = record.flags & kInPieces;
  if (kind == (kLast | kLanding)) {
    for (landed_ = 0; landed_ != open_.size(); ++landed_)
      if (open_[landed_].memory && open_[landed_].ask.id == value) return Step::landed;
    return Step::malformed;
  }
  if (kind != (kFirst | kLanding) || !answered_ || value == 0 || value > largest_)
    return Step::malformed;
  if (open_[0].memory && open_[1].memory) take_back(open_[0]);
  ask_ = {record.begin | 1U, value};
  wanted_ = true;
  answered_ = false;
  return Step::asked;
}

void Landings::take_back(Offer& offer) noexcept {
  offer.memory.reset();
  offer = {};
}

void Landings::give_up() noexcept {
  wanted_ = false;
  for (auto& offer : open_) take_back(offer);
}

Landings::Offer Landings::find_memory(Link& link, const Ask& ask) const noexcept {
  Offer offer;
  offer.ask = ask;
  if (v2::ThreadShare::shared() && ask.size > kMostOnSharedThread) return offer;
  offer.share = PinnedShare(ask.size);
  if (!offer.share.taken()) return offer;
  offer.message.reset(new (std::nothrow) Aside);
  if (!offer.message) return offer;
  offer.message->bytes = spare_->take(ask.size);
  if (!offer.message->bytes) return offer;
  offer.memory = link.add_memory({offer.message->bytes.get(), ask.size, true});
  return offer;
}

OfferLine Landings::answer(Offer& offer, const SessionKey& key) noexcept {
  OfferLine line{};
  line.id = offer.ask.id;
  if (wanted_ && offer.memory) {
    line.length = offer.ask.size;
    line.place = offer.memory->place();
    if (open_[1].memory) open_[0] = std::move(open_[1]);
    open_[1] = std::move(offer);
  }
  answered_ = true;
  line.check = key.offer_check(line);
  return line;
}

std::unique_ptr<Aside> Landings::hand_out(std::uint64_t& size) noexcept {
  auto& offer = open_[landed_];
  size = offer.ask.size;
  auto message = std::move(offer.message);
  take_back(offer);
  return message;
}

}  // namespace penstock::inline v1
