#include "penstock/channel/byte_ring.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <memory>
#include <thread>
#include <vector>

#include "penstock/channel/park.hpp"

namespace penstock {
namespace {

/// A ring on the heap with its consumer's cursors.
class Ring {
 public:
  explicit Ring(std::uint64_t capacity, std::uint64_t window = 0)
      : bytes_(new (std::align_val_t{kLine}) std::byte[capacity]()),
        window_(window == 0 ? capacity : window) {
    memory_.data = bytes_.get();
    memory_.capacity = capacity;
    memory_.control = &control_;
    memory_.key = SessionKey::random();
    control_.limit = window_;
  }
  [[nodiscard]] const RingMemory& memory() const { return memory_; }
  [[nodiscard]] std::uint64_t window() const { return window_; }
  [[nodiscard]] RingView view() const { return RingView(memory_); }

  /// The next record at the consumer, padding and tombstones passed over.
  Inspection next(Record& out) {
    const auto ring = view();
    for (;;) {
      const auto seen = ring.inspect(head_, granted_ + window_, out);
      if (seen != Inspection::record) return seen;
      head_ = out.end;
      if ((out.flags & (kPadding | kTombstone)) == 0) return seen;
    }
  }
  void grant_all() { (void)grant(control_, granted_ = head_, head_ + window_); }
  [[nodiscard]] Cursor head() const { return head_; }

 private:
  struct Free {
    void operator()(std::byte* p) const { operator delete[](p, std::align_val_t{kLine}); }
  };
  std::unique_ptr<std::byte[], Free> bytes_;
  std::uint64_t window_;
  RingControl control_{};
  RingMemory memory_;
  Cursor head_ = 0;
  Cursor granted_ = 0;
};

void put(RingProducer& producer, const Claim& claim, std::byte value) {
  std::memset(claim.payload, static_cast<int>(value), claim.length);
  producer.commit(claim);
}

TEST(ByteRing, a_record_is_absent_until_it_is_committed) {
  Ring ring(4096);
  RingProducer producer(ring.memory(), ring.window());
  Claim claim;
  ASSERT_EQ(producer.claim(100, claim), ClaimResult::claimed);
  Record record;
  EXPECT_EQ(ring.next(record), Inspection::absent);
  put(producer, claim, std::byte{7});
  ASSERT_EQ(ring.next(record), Inspection::record);
  EXPECT_EQ(record.length, 100U);
  EXPECT_EQ(record.payload[99], std::byte{7});
  EXPECT_EQ(ring.next(record), Inspection::absent);
}

TEST(ByteRing, records_of_every_size_come_out_whole_at_every_offset) {
  Ring ring(4096);
  RingProducer producer(ring.memory(), ring.window());
  std::vector<bool> seen(4096 / kRecordAlign);
  const auto largest = static_cast<std::uint32_t>(RingProducer::max_payload(4096));
  std::uint32_t count = 0;
  for (int lap = 0; lap < 200; ++lap) {
    for (std::uint32_t step = 0; step <= largest; ++step, ++count) {
      // Large ones alone skip the offsets near the end, so most are small.
      const auto size = step % 8 == 0 ? (step + static_cast<std::uint32_t>(lap)) % (largest + 1)
                                      : (step * 7 + static_cast<std::uint32_t>(lap)) % 96;
      Claim claim;
      ASSERT_EQ(producer.claim(size, claim), ClaimResult::claimed) << size;
      seen[claim.begin % 4096 / kRecordAlign] = true;
      put(producer, claim, static_cast<std::byte>(count));
      Record record;
      ASSERT_EQ(ring.next(record), Inspection::record) << size;
      ASSERT_EQ(record.length, size);
      for (std::uint32_t i = 0; i < size; ++i)
        ASSERT_EQ(record.payload[i], static_cast<std::byte>(count));
      ring.grant_all();
    }
  }
  EXPECT_EQ(std::count(seen.begin(), seen.end(), false), 0);
}

TEST(ByteRing, the_window_bounds_what_is_claimed_and_credit_reopens_it) {
  Ring ring(4096, 1024);
  RingProducer producer(ring.memory(), ring.window());
  Claim claim;
  for (int i = 0; i < 16; ++i) {
    ASSERT_EQ(producer.claim(48, claim), ClaimResult::claimed) << i;
    put(producer, claim, std::byte{1});
  }
  EXPECT_EQ(producer.claim(0, claim), ClaimResult::full);
  Record record;
  ASSERT_EQ(ring.next(record), Inspection::record);
  EXPECT_EQ(producer.claim(0, claim), ClaimResult::full) << "credit is what counts, not reading";
  ring.grant_all();
  EXPECT_EQ(producer.claim(48, claim), ClaimResult::claimed);
  EXPECT_EQ(producer.claim(0, claim), ClaimResult::full);
}

TEST(ByteRing, credit_that_was_not_granted_yet_is_there_for_who_asks_for_any) {
  Ring ring(4096, 1024);
  ring.memory().control->window = ring.window();
  RingProducer producer(ring.memory(), ring.window());
  Claim claim;
  while (producer.claim(48, claim) == ClaimResult::claimed) put(producer, claim, std::byte{1});
  Record record;
  ASSERT_EQ(ring.next(record), Inspection::record);
  ring.memory().control->consumed = ring.head();
  EXPECT_EQ(producer.claim(48, claim, Credit::granted), ClaimResult::full);
  EXPECT_EQ(producer.claim(48, claim, Credit::any), ClaimResult::claimed);
  EXPECT_EQ(producer.claim(0, claim, Credit::any), ClaimResult::full);
}

TEST(ByteRing, a_tombstone_is_passed_over) {
  Ring ring(4096);
  RingProducer producer(ring.memory(), ring.window());
  Claim dropped;
  Claim kept;
  ASSERT_EQ(producer.claim(40, dropped), ClaimResult::claimed);
  ASSERT_EQ(producer.claim(8, kept), ClaimResult::claimed);
  put(producer, kept, std::byte{9});
  Record record;
  EXPECT_EQ(ring.next(record), Inspection::absent) << "an earlier claim is still open";
  producer.commit(dropped, kTombstone);
  ASSERT_EQ(ring.next(record), Inspection::record);
  EXPECT_EQ(record.payload[0], std::byte{9});
}

TEST(ByteRing, nothing_is_claimed_after_the_last_record) {
  Ring ring(4096);
  RingProducer producer(ring.memory(), ring.window());
  Claim claim;
  ASSERT_EQ(producer.claim_last(claim, Credit::granted), ClaimResult::claimed);
  producer.commit(claim, kFin);
  EXPECT_EQ(producer.claim(0, claim), ClaimResult::closed);
  EXPECT_EQ(producer.claim_last(claim, Credit::granted), ClaimResult::closed);
  EXPECT_EQ(producer.tail(), 16U);
}

TEST(ByteRing, old_payloads_and_old_headers_are_not_taken_for_records) {
  // Fill the ring with payloads that repeat a genuine header of each cursor to come, and with
  // headers of the lap before: none of it may be seen as committed.
  Ring ring(4096);
  RingProducer producer(ring.memory(), ring.window());
  const auto view = ring.view();
  Record record;
  for (int lap = 0; lap < 50; ++lap) {
    Claim claim;
    while (producer.claim(240, claim) == ClaimResult::claimed) {
      for (std::uint32_t at = 0; at + 16 <= claim.length; at += 16) {
        const RecordHeader forged{header_word(16, 0),
                                  view.header(claim.begin == 0 ? 0 : claim.begin - 256).mark};
        std::memcpy(claim.payload + at, &forged, sizeof forged);
      }
      producer.commit(claim);
      while (ring.next(record) == Inspection::record) ASSERT_EQ(record.length, 240U);
      ASSERT_EQ(ring.next(record), Inspection::absent);
      for (Cursor at = producer.tail(); at < producer.tail() + 512; at += 16)
        ASSERT_EQ(view.inspect(at, at + 4096, record), Inspection::absent);
    }
    ring.grant_all();
  }
}

TEST(ByteRing, a_header_that_lies_is_malformed) {
  Ring ring(4096);
  const auto view = ring.view();
  Record record;
  const auto forge = [&](std::uint64_t word) {
    view.header(0).word = word;
    view.header(0).mark = ring.memory().key.mark(0, word);
    return view.inspect(0, 2048, record);
  };
  EXPECT_EQ(forge(header_word(2048 - 16, 0)), Inspection::record);
  EXPECT_EQ(forge(header_word(2048 - 15, 0)), Inspection::malformed) << "beyond the bound";
  EXPECT_EQ(forge(header_word(0xFFFF'FFFF, 0)), Inspection::malformed) << "beyond the ring";
  EXPECT_EQ(forge(std::uint64_t{1} << 40U), Inspection::malformed) << "unknown flag";
  EXPECT_EQ(forge(header_word(0, 0) | 1ULL << 63U), Inspection::malformed) << "reserved bits";
}

TEST(ByteRing, several_producers_lose_and_repeat_nothing) {
  constexpr int kThreads = 4;
  constexpr std::uint32_t kEach = 30'000;
  Ring ring(16 * 1024);
  RingProducer producer(ring.memory(), ring.window());
  producer.share();
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      for (std::uint32_t i = 0; i < kEach; ++i) {
        Claim claim;
        while (producer.claim(8 + i % 90, claim) != ClaimResult::claimed) std::this_thread::yield();
        const std::uint32_t words[2] = {static_cast<std::uint32_t>(t), i};
        std::memcpy(claim.payload, words, sizeof words);
        producer.commit(claim, i % 7 == 0 ? std::uint8_t{kTombstone} : std::uint8_t{0});
      }
    });
  }
  std::uint32_t next[kThreads] = {};
  std::uint32_t received = 0;
  const std::uint32_t expected = kThreads * (kEach - (kEach + 6) / 7);
  while (received < expected) {
    Record record;
    if (ring.next(record) != Inspection::record) {
      ring.grant_all();
      std::this_thread::yield();
      continue;
    }
    std::uint32_t words[2];
    std::memcpy(words, record.payload, sizeof words);
    ASSERT_LT(words[0], static_cast<std::uint32_t>(kThreads));
    auto& at = next[words[0]];
    while (at % 7 == 0) ++at;
    ASSERT_EQ(words[1], at++);
    ASSERT_EQ(record.length, 8 + words[1] % 90);
    ++received;
  }
  for (auto& thread : threads) thread.join();
}

}  // namespace
}  // namespace penstock
