// Two programs agree about a message type if its fingerprint is the same.
#include <gtest/gtest.h>

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "penstock/channel/any_channel.hpp"
#include "penstock/channel/codec.hpp"

namespace app {

struct Order {
  std::uint64_t id;
  double price;
};
// The same members under another name, or other members under a name that is said to be the same.
struct Trade {
  std::uint64_t id;
  double price;
};
namespace old {
struct Order {
  double price;
  std::uint64_t id;
};
struct Side {
  enum class Kind : std::uint8_t { buy, sell } kind;
  std::array<char, 7> symbol;
};
}  // namespace old
struct Side {
  enum class Kind : std::int8_t { buy, sell } kind;
  std::array<char, 7> symbol;
};
struct WithArray {
  char symbol[4];  // NOLINT(modernize-avoid-c-arrays)
  int count;
};
struct Nested {
  Order order;
  int count;
};
struct Versioned {
  int value;
};

}  // namespace app

template <>
inline constexpr std::string_view penstock::v2::type_name<app::old::Order> = "app::Order";
template <>
inline constexpr std::string_view penstock::v2::type_name<app::old::Side> = "app::Side";
template <>
inline constexpr std::string_view penstock::v2::type_name<app::Versioned> = "versioned/2";

namespace penstock::v2 {
namespace {

TEST(Fingerprint, names_a_type_as_people_write_it) {
  EXPECT_EQ(type_name<app::Order>, "app::Order");
  EXPECT_EQ(type_name<std::uint64_t>, "uint64");
  EXPECT_EQ(type_name<char>, std::is_signed_v<char> ? "int8" : "uint8");
  EXPECT_EQ(type_name<double>, "double");
  EXPECT_EQ(type_name<bool>, "bool");
  EXPECT_EQ(type_name<app::Versioned>, "versioned/2");
  EXPECT_EQ(Codec<app::Versioned>::type().name, "versioned/2");
}

TEST(Fingerprint, stays_the_same_with_every_compiler_and_release) {
  // A change here locks programs out that are in use.
  EXPECT_EQ(fingerprint_of<app::Order>(), 4016095711291846841U);
  EXPECT_EQ(fingerprint_of<std::uint64_t>(), 11479144828789713156U);
}

TEST(Fingerprint, tells_names_members_and_their_order_apart) {
  EXPECT_NE(fingerprint_of<app::Order>(), fingerprint_of<app::Trade>());
  EXPECT_NE(fingerprint_of<app::Order>(), fingerprint_of<app::old::Order>());
  EXPECT_NE(fingerprint_of<app::Side>(), fingerprint_of<app::old::Side>());
  EXPECT_NE(fingerprint_of<std::uint32_t>(), fingerprint_of<float>());
  EXPECT_NE(fingerprint_of<std::int32_t>(), fingerprint_of<std::uint32_t>());
}

TEST(Fingerprint, sees_the_members_that_can_be_seen) {
  EXPECT_EQ(fingerprint::members<app::Order>(), 2U);
  EXPECT_EQ(fingerprint::members<app::Nested>(), 2U);
  EXPECT_EQ(fingerprint::members<app::Side>(), 2U);
  EXPECT_EQ(fingerprint::members<app::WithArray>(), 0U)
      << "its elements cannot be told from members";
  EXPECT_EQ(fingerprint::members<std::string_view>(), 0U);
}

TEST(Codec, bytes_and_text_have_no_type) {
  EXPECT_EQ(Codec<std::string>::type().fingerprint, kBytesFingerprint);
  EXPECT_EQ(Codec<std::vector<std::byte>>::type().fingerprint, kBytesFingerprint);
  EXPECT_NE(Codec<std::vector<char>>::type().fingerprint, kBytesFingerprint);
  EXPECT_NE(Codec<std::vector<int>>::type().fingerprint, Codec<int>::type().fingerprint);
  EXPECT_NE(named_type("a").fingerprint, named_type("b").fingerprint);
}

TEST(Codec, refuses_what_is_no_value) {
  const std::array<std::byte, 9> bytes{};
  EXPECT_TRUE(Codec<std::uint64_t>::decode(std::span(bytes).first(8)));
  EXPECT_FALSE(Codec<std::uint64_t>::decode(bytes));
  EXPECT_FALSE(Codec<std::uint64_t>::decode({}));
  EXPECT_FALSE(Codec<std::vector<std::uint32_t>>::decode(bytes));
  EXPECT_TRUE(Codec<std::vector<std::uint32_t>>::decode({})->empty());
}

static_assert(Sendable<app::Order> && Sendable<std::string> && Sendable<std::vector<double>>);
static_assert(!Sendable<int*> && !Sendable<std::vector<std::string>> && !Sendable<std::span<int>>);

TEST(AnyEnd, an_empty_one_says_closed) {
  AnySender<int> tx;
  AnyReceiver<int> rx;
  EXPECT_FALSE(tx);
  EXPECT_EQ(tx.send(1), SendStatus::closed);
  EXPECT_EQ(tx.flush(), FlushStatus::closed);
  EXPECT_TRUE(tx.is_closed());
  EXPECT_FALSE(tx.clone());
  EXPECT_EQ(rx.recv().status(), RecvStatus::closed);
  EXPECT_TRUE(rx.is_closed());
}

TEST(AnyEnd, moves_what_only_moves_and_leaves_what_it_does_not_send) {
  auto [sender, receiver] = channel<std::unique_ptr<int>, mpmc>(1);
  AnySender<std::unique_ptr<int>> tx = std::move(sender);
  AnyReceiver<std::unique_ptr<int>> rx = std::move(receiver);
  EXPECT_EQ(tx.send(std::make_unique<int>(1)), SendStatus::sent);
  auto kept = std::make_unique<int>(2);
  EXPECT_EQ(tx.try_send(std::move(kept)), SendStatus::full);
  EXPECT_EQ(*kept, 2);
  EXPECT_EQ(tx.len(), 1U);
  auto rx2 = rx.clone();
  EXPECT_EQ(rx.receiver_count(), 2U);
  EXPECT_EQ(**rx2.recv(), 1);
  tx.close();
  EXPECT_EQ(rx.recv().status(), RecvStatus::closed);
}

}  // namespace
}  // namespace penstock::v2
