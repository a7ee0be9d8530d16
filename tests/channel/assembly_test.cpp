#include "penstock/channel/assembly.hpp"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "penstock/channel/channel.hpp"

namespace penstock {
namespace {

using Step = Assembly::Step;

class AssemblyTest : public testing::Test {
 protected:
  Step first(std::uint64_t size) {
    return take(kFirst, std::string(reinterpret_cast<const char*>(&size), sizeof size));
  }
  Step take(std::uint8_t flags, std::string bytes) {
    Record record;
    record.payload = reinterpret_cast<std::byte*>(bytes.data());
    record.length = static_cast<std::uint32_t>(bytes.size());
    record.flags = flags;
    return assembly_.take(record);
  }
  std::string text() {
    const auto size = assembly_.size();
    const auto message = assembly_.hand_out();
    return {reinterpret_cast<const char*>(message->bytes.get()), size};
  }
  Assembly assembly_{100};
};

TEST_F(AssemblyTest, puts_pieces_together) {
  EXPECT_EQ(first(6), Step::more);
  EXPECT_EQ(take(kFragment, "abc"), Step::more);
  EXPECT_EQ(take(kFragment, "de"), Step::more);
  EXPECT_EQ(take(kLast, "f"), Step::whole);
  EXPECT_EQ(text(), "abcdef");
  EXPECT_EQ(first(1), Step::more);
  EXPECT_EQ(take(kLast, "g"), Step::whole);
  EXPECT_EQ(text(), "g");
}

TEST_F(AssemblyTest, begins_anew_where_a_message_was_given_up) {
  EXPECT_EQ(first(6), Step::more);
  EXPECT_EQ(take(kFragment, "abc"), Step::more);
  EXPECT_EQ(first(2), Step::more);
  EXPECT_EQ(take(kLast, "xy"), Step::whole);
  EXPECT_EQ(text(), "xy");
}

TEST_F(AssemblyTest, refuses_what_makes_no_message) {
  EXPECT_EQ(take(kFragment, "a"), Step::malformed) << "none was begun";
  EXPECT_EQ(first(0), Step::malformed);
  EXPECT_EQ(first(101), Step::malformed);
  EXPECT_EQ(first(~0ULL), Step::malformed);
  EXPECT_EQ(take(kFirst, "1234567"), Step::malformed);
  EXPECT_EQ(take(kFragment, "a"), Step::malformed) << "still none";
  for (const auto& [flags, bytes] :
       std::vector<std::pair<std::uint8_t, std::string>>{{kFragment, ""},
                                                         {kLast, ""},
                                                         {kFragment, "abcd"},
                                                         {kFragment, "abcde"},
                                                         {kLast, "abc"},
                                                         {kLast, "abcde"},
                                                         {kFragment | kLast, "abcd"},
                                                         {kFirst | kLast, "12345678"}}) {
    EXPECT_EQ(first(4), Step::more);
    EXPECT_EQ(take(flags, bytes), Step::malformed) << int{flags} << bytes;
  }
}

TEST(LargeMessage, of_a_gibibyte_goes_through_a_small_ring) {
#if defined(__SANITIZE_THREAD__)
  constexpr std::size_t kSize = std::size_t{1} << 26U;  // its shadow takes eight times as much
#else
  constexpr std::size_t kSize = kMaxMessage;
#endif
  auto receiver = penstock::bind("inproc:gibibyte?capacity=64KiB&max_message=1GiB");
  auto sender = penstock::connect("inproc:gibibyte");
  EXPECT_EQ(sender.max_message(), kMaxMessage);
  // Pages that nobody wrote to are one.
  void* const memory = ::mmap(nullptr, kSize, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  ASSERT_NE(memory, MAP_FAILED);
  auto* const bytes = static_cast<std::byte*>(memory);
  constexpr std::size_t kStep = (std::size_t{1} << 20U) - 7;
  for (std::size_t at = 0; at < kSize; at += kStep) bytes[at] = std::byte(at % 251 + 1);
  {
    const std::jthread sending([&] { EXPECT_EQ(sender.send({bytes, kSize}), SendStatus::sent); });
    const auto message = receiver.recv();
    ASSERT_EQ(message.data().size(), kSize);
    for (std::size_t at = 0; at < kSize; at += kStep)
      ASSERT_EQ(message.data()[at], std::byte(at % 251 + 1)) << at;
    EXPECT_EQ(message.data()[1], std::byte(0));
  }
  ::munmap(memory, kSize);
}

}  // namespace
}  // namespace penstock
