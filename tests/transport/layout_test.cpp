// Pins every size and offset that crosses a process or a wire, and the arithmetic that both ends
// must agree on. A change here is a change of the wire version.
#include <gtest/gtest.h>

#include <array>
#include <cstddef>

#include "penstock/channel/proof.hpp"
#include "penstock/transport/handshake.hpp"
#include "penstock/transport/record.hpp"
#include "penstock/transport/transport.hpp"

namespace penstock {
namespace {

TEST(Layout, sizes_and_offsets_are_those_of_wire_version_1) {
  EXPECT_EQ(kWireVersion, 1);
  EXPECT_EQ(sizeof(RecordHeader), 16U);
  EXPECT_EQ(offsetof(RecordHeader, mark), 8U);
  EXPECT_EQ(sizeof(TailLine), 16U);
  EXPECT_EQ(offsetof(TailLine, check), 8U);
  EXPECT_EQ(sizeof(CreditLine), 64U);
  EXPECT_EQ(offsetof(CreditLine, limit), 8U);
  EXPECT_EQ(offsetof(CreditLine, armed_at), 16U);
  EXPECT_EQ(offsetof(CreditLine, mode), 24U);
  EXPECT_EQ(offsetof(CreditLine, check), 32U);
  EXPECT_EQ(sizeof(OfferLine), 64U);
  EXPECT_EQ(offsetof(OfferLine, length), 8U);
  EXPECT_EQ(offsetof(OfferLine, place), 16U);
  EXPECT_EQ(offsetof(OfferLine, check), 48U);
  EXPECT_EQ(kOfferOffset, 64U);
  EXPECT_EQ(kRingRegion, 0U);
  EXPECT_EQ(kTailRegion, 1U);
  EXPECT_EQ(sizeof(FrameHeader), 12U);
  EXPECT_EQ(sizeof(RingControl), 256U);
  EXPECT_EQ(offsetof(RingControl, window), 8U);
  EXPECT_EQ(offsetof(RingControl, window_lives), 16U);
  EXPECT_EQ(offsetof(RingControl, receiver_armed), 64U);
  EXPECT_EQ(offsetof(RingControl, receiver_closed), 68U);
  EXPECT_EQ(offsetof(RingControl, receiver_barriers), 72U);
  EXPECT_EQ(offsetof(RingControl, senders_waiting), 128U);
  EXPECT_EQ(offsetof(RingControl, credit_epoch), 132U);
  EXPECT_EQ(offsetof(RingControl, sender_gone), 136U);
  EXPECT_EQ(offsetof(RingControl, sender_barriers), 140U);
  EXPECT_EQ(offsetof(RingControl, consumed), 192U);
}

TEST(Layout, a_record_takes_its_header_and_a_multiple_of_sixteen_bytes) {
  EXPECT_EQ(record_size(0), 16U);
  EXPECT_EQ(record_size(1), 32U);
  EXPECT_EQ(record_size(16), 32U);
  EXPECT_EQ(record_size(17), 48U);
  EXPECT_EQ(record_size(64), 80U);
}

TEST(Layout, a_header_word_carries_length_and_flags) {
  const auto word = header_word(0xFFFF'FFFF, kFin | kSelfProved);
  EXPECT_EQ(word, 0x24'FFFF'FFFFULL);
  EXPECT_EQ(header_length(word), 0xFFFF'FFFFU);
  EXPECT_EQ(header_flags(word), kFin | kSelfProved);
}

// The figures below are what a second implementation must come to (docs/wire.md quotes them).
TEST(Layout, checks_of_a_known_key_are_these) {
  const SessionKey key{
      {0x0123456789abcdef, 0xfedcba9876543210, 0x0f1e2d3c4b5a6978, 0x8796a5b4c3d2e1f0}};
  CreditLine line{};
  line.consumed = 4096;
  line.limit = 8192;
  line.armed_at = 4097;
  line.mode = 3U << 8U | 1U;
  const std::byte payload[3] = {std::byte{'a'}, std::byte{'b'}, std::byte{'c'}};
  EXPECT_EQ(fold(key.word[0], key.word[1]), 0x2317'228f'4816'5bb2U);
  EXPECT_EQ(key.mark(96, header_word(64, 0)), 0xd963'c345'5db5'fd92U);
  EXPECT_EQ(key.tail_check(4096), 0x731e'2e8d'5b04'a015U);
  EXPECT_EQ(key.credit_check(line), 0x1f60'3ad7'0d58'777fU);

  OfferLine offer{};
  offer.id = 97;
  offer.length = 1U << 20U;
  offer.place = {0x7f00'0000'1000, 0x1234, 0, 0};
  EXPECT_EQ(key.offer_check(offer), 0xf4b5'b0bb'0628'4ae7U);

  const Prover prover(key);
  EXPECT_EQ(prover.prove(96, header_word(3, kSelfProved), payload, 3), 0xcced'd30b'd4ef'5fc5U);
  EXPECT_EQ(prover.prove(96, header_word(0, kSelfProved), payload, 0), 0xaa94'b376'fc1b'bbccU);
  std::array<std::byte, 300> longer{};  // beyond XXH3's short forms
  for (std::size_t i = 0; i < longer.size(); ++i) longer[i] = static_cast<std::byte>(i & 0xFFU);
  EXPECT_EQ(prover.prove(96, header_word(300, kSelfProved), longer.data(), 300),
            0xd0f6'0ae3'bb44'2a35U);
}

TEST(Layout, any_torn_mixture_of_two_tail_lines_is_refused) {
  const SessionKey key{{1, 2, 3, 0x9e3779b97f4a7c15}};
  const TailLine before{0x01f0, key.tail_check(0x01f0)};
  const TailLine after{0x0300, key.tail_check(0x0300)};
  int accepted = 0;
  for (unsigned mixture = 0; mixture < 65536; ++mixture) {
    TailLine torn = before;
    for (unsigned byte = 0; byte < 16; ++byte)
      if ((mixture >> byte & 1U) != 0)
        reinterpret_cast<std::byte*>(&torn)[byte] =
            reinterpret_cast<const std::byte*>(&after)[byte];
    const auto tail = read_tail(torn, key);
    if (!tail) continue;
    ++accepted;
    EXPECT_TRUE(*tail == 0x01f0 || *tail == 0x0300) << *tail;
  }
  EXPECT_GE(accepted, 2);
}

}  // namespace
}  // namespace penstock
