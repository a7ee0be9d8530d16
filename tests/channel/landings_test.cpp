// Memory for messages that land, and the questions for it.
#include "penstock/channel/landings.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <string>

namespace penstock {
namespace {

using Step = Landings::Step;

constexpr std::uint64_t kMost = 100'000;

/// Registers whatever there is, and counts.
class CountingLink final : public Link {
 public:
  class Memory final : public LinkMemory {
   public:
    Memory(int& count, const LinkRegion& region) : count_(count), region_(region) { ++count_; }
    Memory(const Memory&) = delete;
    Memory& operator=(const Memory&) = delete;
    Memory(Memory&&) = delete;
    Memory& operator=(Memory&&) = delete;
    ~Memory() override { --count_; }
    [[nodiscard]] LandingPlace place() const noexcept override {
      return {reinterpret_cast<std::uint64_t>(region_.base), region_.length, 3, 4};
    }

   private:
    int& count_;
    const LinkRegion region_;
  };

  [[nodiscard]] std::vector<std::byte> describe() const override { return {}; }
  void connect(std::span<const std::byte> /*peer*/) override {}
  [[nodiscard]] LinkLimits limits() const noexcept override { return {}; }
  [[nodiscard]] PostStatus post(std::span<const RemoteWrite> /*writes*/,
                                std::optional<std::uint32_t> /*immediate*/,
                                std::uint64_t /*cookie*/) noexcept override {
    return PostStatus::failed;
  }
  [[nodiscard]] std::unique_ptr<LinkMemory> add_memory(const LinkRegion& memory) noexcept override {
    if (refuses) return nullptr;
    EXPECT_TRUE(memory.remote_write);
    return std::make_unique<Memory>(registered, memory);
  }
  [[nodiscard]] std::size_t poll(std::span<LinkEvent> /*events*/) noexcept override { return 0; }
  void arm(bool /*completions*/, bool /*immediates*/) noexcept override {}
  void disarm() noexcept override {}
  [[nodiscard]] int event_fd() const noexcept override { return -1; }
  [[nodiscard]] std::string error() const override { return {}; }
  [[nodiscard]] LinkCounters counters() const noexcept override { return {}; }
  [[nodiscard]] std::string path() const override { return {}; }

  int registered = 0;
  bool refuses = false;
};

class LandingsTest : public testing::Test {
 protected:
  static Record record(std::uint8_t flags, std::string& bytes, Cursor at) {
    Record record;
    record.begin = at;
    record.payload = reinterpret_cast<std::byte*>(bytes.data());
    record.length = static_cast<std::uint32_t>(bytes.size());
    record.flags = flags;
    return record;
  }
  Step ask(std::uint64_t size, Cursor at = 64) {
    std::string bytes(reinterpret_cast<const char*>(&size), sizeof size);
    return landings_.take(record(kFirst | kLanding, bytes, at));
  }
  Step take(std::uint8_t flags, std::string bytes = {}) {
    return landings_.take(record(flags, bytes, 0));
  }
  Step notice(std::uint64_t id) {
    return take(kLast | kLanding, std::string(reinterpret_cast<const char*>(&id), sizeof id));
  }
  OfferLine answer() {
    auto offer = landings_.find_memory(link_, landings_.asked());
    const auto line = landings_.answer(offer, key_);
    offer.memory.reset();
    return line;
  }

  CountingLink link_;
  const SessionKey key_{{1, 2, 3, 4}};
  Landings landings_{kMost};
};

TEST_F(LandingsTest, offers_memory_takes_it_back_and_hands_the_message_out) {
  for (int i = 0; i < 3; ++i) {
    ASSERT_EQ(ask(5000, 96), Step::asked);
    const auto line = answer();
    EXPECT_EQ(line.id, 97U);
    EXPECT_EQ(line.length, 5000U);
    EXPECT_EQ(line.place[1], 5000U);
    EXPECT_EQ(line.check, key_.offer_check(line));
    EXPECT_EQ(link_.registered, 1);
    EXPECT_EQ(link_use().pinned, 5000U);
    ASSERT_EQ(notice(97), Step::landed);
    std::uint64_t size = 0;
    const auto message = landings_.hand_out(size);
    EXPECT_EQ(size, 5000U);
    EXPECT_EQ(reinterpret_cast<std::uint64_t>(message->bytes.get()), line.place[0]);
    EXPECT_EQ(link_.registered, 0) << "before it is handed out";
    EXPECT_EQ(link_use().pinned, 0U);
  }
}

TEST_F(LandingsTest, offers_memory_for_the_next_message_while_one_is_landing) {
  ASSERT_EQ(ask(5000, 0), Step::asked);
  const auto first = answer();
  ASSERT_EQ(ask(6000, 32), Step::asked);
  const auto second = answer();
  EXPECT_EQ(link_.registered, 2);
  EXPECT_EQ(link_use().pinned, 11'000U);
  std::uint64_t size = 0;
  ASSERT_EQ(notice(second.id), Step::landed);
  EXPECT_EQ(reinterpret_cast<std::uint64_t>(landings_.hand_out(size)->bytes.get()),
            second.place[0]);
  EXPECT_EQ(size, 6000U);
  EXPECT_EQ(notice(second.id), Step::malformed);
  ASSERT_EQ(notice(first.id), Step::landed);
  EXPECT_EQ(reinterpret_cast<std::uint64_t>(landings_.hand_out(size)->bytes.get()), first.place[0]);
  EXPECT_EQ(link_.registered, 0);
}

TEST_F(LandingsTest, takes_the_oldest_offer_back_where_a_third_is_asked_for) {
  ASSERT_EQ(ask(1000, 0), Step::asked);
  const auto first = answer();
  ASSERT_EQ(ask(2000, 32), Step::asked);
  const auto second = answer();
  ASSERT_EQ(ask(3000, 64), Step::asked);
  EXPECT_EQ(link_use().pinned, 2000U);
  const auto third = answer();
  EXPECT_EQ(link_use().pinned, 5000U);
  EXPECT_EQ(notice(first.id), Step::malformed);
  ASSERT_EQ(notice(second.id), Step::landed);
  std::uint64_t size = 0;
  (void)landings_.hand_out(size);
  ASSERT_EQ(ask(4000, 96), Step::asked);
  (void)answer();
  EXPECT_EQ(notice(third.id), Step::landed);
  landings_.give_up();
  EXPECT_EQ(link_.registered, 0);
  EXPECT_EQ(link_use().pinned, 0U);
  EXPECT_EQ(notice(97), Step::malformed);
}

TEST_F(LandingsTest, answers_a_question_that_is_over_with_no) {
  ASSERT_EQ(ask(5000), Step::asked);
  landings_.give_up();
  EXPECT_EQ(answer().length, 0U);
  EXPECT_EQ(link_.registered, 0);
  EXPECT_EQ(ask(5000), Step::asked);
}

TEST_F(LandingsTest, refuses_where_the_device_or_the_budget_does) {
  link_.refuses = true;
  ASSERT_EQ(ask(5000), Step::asked);
  EXPECT_EQ(answer().length, 0U);
  link_.refuses = false;
  set_link_budget({.max_pinned = 4999});
  ASSERT_EQ(ask(5000), Step::asked);
  EXPECT_EQ(answer().length, 0U);
  EXPECT_EQ(link_use().pinned, 0U);
  set_link_budget({});
  ASSERT_EQ(ask(5000), Step::asked);
  EXPECT_EQ(answer().length, 5000U);
}

TEST_F(LandingsTest, refuses_what_makes_no_message) {
  EXPECT_EQ(notice(65), Step::malformed) << "none was offered";
  EXPECT_EQ(ask(0), Step::malformed);
  EXPECT_EQ(ask(kMost + 1), Step::malformed);
  EXPECT_EQ(ask(~0ULL), Step::malformed);
  EXPECT_EQ(take(kFirst | kLanding, "1234567"), Step::malformed);
  ASSERT_EQ(ask(100), Step::asked);
  EXPECT_EQ(notice(65), Step::malformed) << "not offered yet";
  EXPECT_EQ(ask(100), Step::malformed) << "the one before was not answered";
  (void)answer();
  for (const std::uint8_t flags : {std::uint8_t{kLanding}, std::uint8_t{kFragment | kLanding},
                                   std::uint8_t{kFirst | kLast | kLanding}})
    EXPECT_EQ(take(flags, "A2345678"), Step::malformed) << int{flags};
  EXPECT_EQ(take(kLast | kLanding), Step::malformed);
  EXPECT_EQ(notice(66), Step::malformed);
  EXPECT_EQ(notice(65), Step::landed);
}

TEST(Spare, keeps_one_stretch_with_what_lay_in_it) {
  const auto spare = std::make_shared<Spare>();
  auto first = spare->take(10'000);
  auto* const at = first.get();
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(at) % 4096, 0U);
  EXPECT_TRUE(std::all_of(at, at + 10'000, [](std::byte b) { return b == std::byte{0}; }));
  at[9999] = std::byte{7};
  const auto second = spare->take(10'000);
  EXPECT_NE(second.get(), at);
  first.reset();
  const auto third = spare->take(4'000);
  EXPECT_EQ(third.get(), at);
}

TEST(Spare, lives_as_long_as_what_it_gave) {
  auto spare = std::make_shared<Spare>();
  auto bytes = spare->take(5000);
  spare.reset();
  bytes[4999] = std::byte{1};
}

}  // namespace
}  // namespace penstock
