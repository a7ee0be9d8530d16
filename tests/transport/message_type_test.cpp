#include "penstock/transport/message_type.hpp"

#include <gtest/gtest.h>

#include <string>

#include "penstock/transport/error.hpp"

namespace penstock {
namespace {

std::string refusal(const MessageType& sent, const MessageType& received) {
  try {
    check_types(sent, received);
  } catch (const SetupError& error) {
    EXPECT_EQ(error.errc(), Errc::type_mismatch);
    return error.what();
  }
  return {};
}

TEST(MessageType, only_the_fingerprint_counts) {
  EXPECT_EQ(refusal({7, "a"}, {7, "b"}), "");
  EXPECT_EQ(refusal({}, {}), "");
}

TEST(MessageType, a_mismatch_names_both) {
  EXPECT_EQ(refusal({0x2a, "app::Order"}, {}),
            "the sender sends 'app::Order' (fingerprint 2a), the receiver takes bytes: give both "
            "ends the same type");
  EXPECT_EQ(refusal({1, "Order"}, {2, "Order"}),
            "the sender sends 'Order' (fingerprint 1), the receiver takes 'Order' (fingerprint 2): "
            "build both with the same layout of it");
}

TEST(MessageType, a_strangers_name_is_kept_short_and_printable) {
  EXPECT_EQ(describe({1, "a\nb\x1b[31m"}), "'a?b?[31m' (fingerprint 1)");
  EXPECT_LT(describe({1, std::string(5000, 'x')}).size(), 300U);
}

}  // namespace
}  // namespace penstock
