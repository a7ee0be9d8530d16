#include "penstock/transport/handshake.hpp"

#include <gtest/gtest.h>

#include <cstring>
#include <random>

namespace penstock {
namespace {

std::vector<std::byte> body_of(std::span<const std::byte> frame) {
  return {frame.begin() + sizeof(FrameHeader), frame.end()};
}

Hello example() {
  Hello hello;
  hello.session = {1, 2, 3};
  hello.incarnation = 7;
  hello.channel = "orders";
  hello.paths = {"rdma", "ucx"};
  hello.page_size = 4096;
  hello.max_capacity = 1 << 20;
  hello.liveness_ns = 10'000'000'000;
  hello.process = 4711;
  hello.type = {42, "app::Order"};
  return hello;
}

TEST(Handshake, a_hello_survives_the_wire) {
  const auto hello = decode_hello(body_of(encode(example())));
  EXPECT_EQ(hello.version_min, kWireVersion);
  EXPECT_EQ(hello.session, example().session);
  EXPECT_EQ(hello.channel, "orders");
  EXPECT_EQ(hello.paths, example().paths);
  EXPECT_EQ(hello.process, 4711U);
  EXPECT_EQ(hello.type.fingerprint, 42U);
  EXPECT_EQ(hello.type.name, "app::Order");
}

TEST(Handshake, a_welcome_and_a_reject_survive_the_wire) {
  Welcome welcome;
  welcome.max_message = 1 << 30;
  welcome.path = "rdma";
  welcome.capacity = 4096;
  welcome.key.word = {1, 2, 3, 4};
  welcome.link = {std::byte{9}};
  const auto back = decode_welcome(body_of(encode(welcome)));
  EXPECT_EQ(back.path, "rdma");
  EXPECT_EQ(back.max_message, welcome.max_message);
  EXPECT_EQ(back.key.word, welcome.key.word);
  EXPECT_EQ(back.link, welcome.link);
  const auto reject = decode_reject(body_of(encode(Reject{Errc::no_such_channel, "no\nsuch"})));
  EXPECT_EQ(reject.code, Errc::no_such_channel);
  EXPECT_EQ(reject.text, "no such");
  EXPECT_EQ(decode_goodbye(body_of(encode_goodbye(FrameType::bye, 4242))), 4242U);
}

TEST(Handshake, further_rails_survive_the_wire_in_order) {
  const std::vector<std::vector<std::byte>> rails{{std::byte{1}, std::byte{2}}, {}, {std::byte{3}}};
  Hello hello = example();
  hello.rails = 4;
  EXPECT_EQ(decode_hello(body_of(encode(hello))).rails, 4U);
  EXPECT_EQ(decode_hello(body_of(encode(example()))).rails, 0U);
  Welcome welcome;
  welcome.rails = rails;
  EXPECT_EQ(decode_welcome(body_of(encode(welcome))).rails, rails);
  EXPECT_EQ(decode_ready(body_of(encode(Ready{{std::byte{9}}, rails}))).rails, rails);
  EXPECT_TRUE(decode_ready(body_of(encode(Ready{{std::byte{9}}}))).rails.empty());
}

TEST(Handshake, unknown_fields_are_passed_over_unless_they_must_be_understood) {
  auto body = body_of(encode(example()));
  const std::uint16_t field[4] = {999, 0, 1, 0};  // tag, flags, length
  const auto* bytes = reinterpret_cast<const std::byte*>(field);
  body.insert(body.end(), bytes, bytes + sizeof field);
  body.push_back(std::byte{0});
  EXPECT_EQ(decode_hello(body).channel, "orders");
  body[body.size() - 7] = std::byte{1};  // the flags
  try {
    (void)decode_hello(body);
    FAIL();
  } catch (const SetupError& e) {
    EXPECT_EQ(e.errc(), Errc::feature_mismatch);
  }
}

TEST(Handshake, every_cut_and_every_flipped_byte_decodes_or_throws_a_setup_error) {
  const auto good = body_of(encode(example()));
  for (std::size_t length = 0; length < good.size(); ++length) {
    try {
      (void)decode_hello(std::span(good).first(length));
    } catch (const SetupError&) {
    }
  }
  std::mt19937 random(1);
  for (int round = 0; round < 20'000; ++round) {
    auto bad = good;
    for (int flips = 0; flips < 3; ++flips)
      bad[random() % bad.size()] = static_cast<std::byte>(random());
    try {
      (void)decode_hello(bad);
      (void)decode_welcome(bad);
      (void)decode_ready(bad);
      (void)decode_reject(bad);
    } catch (const SetupError&) {
    }
  }
}

TEST(Handshake, frames_are_cut_from_any_pieces) {
  const auto frame = encode(example());
  FrameReader reader;
  for (int copies = 0; copies < 3; ++copies)
    for (const auto byte : frame) reader.append({&byte, 1});
  for (int copies = 0; copies < 3; ++copies) {
    const auto got = reader.next();
    ASSERT_TRUE(got);
    EXPECT_EQ(got->type, FrameType::hello);
    EXPECT_EQ(got->body, body_of(frame));
  }
  EXPECT_FALSE(reader.next());
}

TEST(Handshake, strangers_are_known_by_their_first_byte_and_long_frames_by_their_header) {
  for (const char* greeting : {"G", "GET / HTTP/1.1\r\n", "\x16\x03\x01", "\n"}) {
    FrameReader reader;
    reader.append(std::as_bytes(std::span(greeting, std::strlen(greeting))));
    EXPECT_THROW((void)reader.next(), SetupError) << greeting;
  }
  const FrameHeader header{kFrameMagic, 1, 0, kMaxFrame + 1};
  FrameReader reader;
  reader.append(std::as_bytes(std::span(&header, 1)));
  EXPECT_THROW((void)reader.next(), SetupError);
}

}  // namespace
}  // namespace penstock
