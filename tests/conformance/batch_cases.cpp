// Messages sent and received together.
#include <array>
#include <cstdint>
#include <span>
#include <thread>
#include <vector>

#include "tests/conformance/suite.hpp"

namespace penstock::test {
namespace {

using std::chrono::milliseconds;

// Receives in batches of changing size; hands each message to `each`.
template <class Each>
RecvStatus drain_in_batches(Receiver& receiver, Each&& each) {
  Messages messages;
  for (std::size_t most = 1;; most = most % (Messages::kMost + 1) + 1) {
    const auto status = receiver.recv_many(messages, most);
    EXPECT_EQ(messages.status(), status);
    if (status != RecvStatus::received) return status;
    EXPECT_LE(messages.size(), most);
    EXPECT_GE(messages.size(), 1U);
    for (const auto& message : messages) each(message);
  }
}

const AddCase packed{"packed_batches_of_every_size_arrive_whole",
                     [](Side& side) {
                       Receiver receiver = side.bind("capacity=16KiB");
                       std::uint64_t next = 0;
                       const std::uint64_t count = side.scaled(200) * 97;
                       EXPECT_EQ(drain_in_batches(receiver,
                                                  [&](std::span<const std::byte> message) {
                                                    const std::size_t size = next / 97 % 150 + 1;
                                                    ASSERT_EQ(message.size(), size);
                                                    ASSERT_TRUE(has_pattern(next, message));
                                                    ++next;
                                                  }),
                                 RecvStatus::closed);
                       EXPECT_EQ(next, count);
                       EXPECT_EQ(receiver.stats().messages, count);
                     },
                     [](Side& side) {
                       Sender sender = side.connect();
                       std::vector<std::byte> bytes;
                       std::uint64_t next = 0;
                       std::uint64_t total = 0;
                       for (std::uint64_t batch = 0; batch < side.scaled(200); ++batch) {
                         const std::size_t size = batch % 150 + 1;
                         bytes.resize(97 * size);
                         for (std::size_t i = 0; i < 97; ++i)
                           fill_pattern(next++, std::span(bytes).subspan(i * size, size));
                         const auto sent = sender.send_many(bytes, size);
                         ASSERT_EQ(sent.status, SendStatus::sent);
                         ASSERT_EQ(sent.count, 97U);
                         total += bytes.size();
                       }
                       EXPECT_EQ(sender.flush(), FlushStatus::consumed);
                       EXPECT_EQ(sender.stats().progress.accepted, next);
                       EXPECT_EQ(sender.stats().bytes, total);
                     }};

const AddCase scattered{
    "scattered_batches_may_be_of_all_sizes",
    [](Side& side) {
      Receiver receiver = side.bind("capacity=16KiB");
      std::uint64_t next = 0;
      const auto status = drain_in_batches(receiver, [&](std::span<const std::byte> message) {
        EXPECT_EQ(message.size(), next * 37 % 2'000);
        EXPECT_TRUE(has_pattern(next, message));
        ++next;
      });
      EXPECT_EQ(status, RecvStatus::closed);
      EXPECT_EQ(next, 1'000U);
    },
    [](Side& side) {
      Sender sender = side.connect();
      std::vector<std::vector<std::byte>> messages;
      for (std::uint64_t i = 0; i < 1'000; ++i) messages.push_back(pattern(i, i * 37 % 2'000));
      const std::vector<std::span<const std::byte>> spans(messages.begin(), messages.end());
      EXPECT_EQ(sender.send_many(spans).count, 1'000U);
    }};

const AddCase partial{
    "a_batch_says_exactly_how_many_went",
    [](Side& side) {
      Receiver receiver = side.bind("capacity=4KiB");
      const auto tried = std::stoul(side.get("tried"));
      EXPECT_GT(tried, 10U);
      EXPECT_LT(tried, 1'000U);
      std::uint64_t next = 0;
      Messages messages;
      while (next < tried) {
        ASSERT_EQ(receiver.recv_many(messages), RecvStatus::received);
        for (const auto& message : messages) ASSERT_TRUE(has_pattern(next++, message));
      }
      EXPECT_EQ(next, tried) << "and not one more";
      messages.release();
      side.put("taken");
      // Up to the one that is too large.
      EXPECT_EQ(receiver.recv_many(messages, 2, kForever), RecvStatus::received);
      EXPECT_EQ(messages.size(), 2U);
      EXPECT_EQ(receiver.recv_many(messages, 64, milliseconds(1)), RecvStatus::timed_out);
      EXPECT_EQ(receiver.recv_many(messages, 64, Duration::zero()), RecvStatus::empty);
      receiver.close();
      EXPECT_EQ(receiver.recv_many(messages), RecvStatus::closed);
      side.put("closed");
    },
    [](Side& side) {
      Sender sender = side.connect();
      std::vector<std::byte> bytes(1'000 * 20);
      for (std::size_t i = 0; i < 1'000; ++i) fill_pattern(i, std::span(bytes).subspan(i * 20, 20));
      const auto tried = sender.try_send_many(bytes, 20);
      EXPECT_EQ(tried.status, SendStatus::full);
      EXPECT_EQ(sender.try_send_many(std::span(bytes).first(20), 20).count, 0U);
      side.put("tried", std::to_string(tried.count));
      (void)side.get("taken");
      const std::vector<std::byte> large(sender.max_message() + 1);
      const std::array<std::span<const std::byte>, 4> messages{
          std::span(bytes).first(20), std::span(bytes).first(0), large, std::span(bytes).first(20)};
      const auto sent = sender.send_many(messages);
      EXPECT_EQ(sent.count, 2U);
      EXPECT_EQ(sent.status, SendStatus::too_large);
      EXPECT_EQ(sender.send_many({}).status, SendStatus::sent);
      EXPECT_EQ(sender.send_many(bytes, 0).count, 0U);
      (void)side.get("closed");
      wait_until([&] { return sender.send_many(bytes, 20).status == SendStatus::closed; });
      EXPECT_EQ(Sender().send_many(bytes, 20).status, SendStatus::closed);
    }};

const AddCase shared{
    "batches_of_clones_arrive_once_each_and_in_order",
    [](Side& side) {
      Receiver receiver = side.bind("capacity=16KiB");
      std::array<std::uint64_t, 3> next{};
      const auto status = drain_in_batches(receiver, [&](std::span<const std::byte> message) {
        Numbered got;
        ASSERT_EQ(message.size(), sizeof got);
        std::memcpy(&got, message.data(), sizeof got);
        ASSERT_EQ(got.number, next.at(got.sender)++);
      });
      EXPECT_EQ(status, RecvStatus::closed);
      for (const auto count : next) EXPECT_EQ(count, side.scaled(200) * 50);
    },
    [](Side& side) {
      const auto send = [&side](Sender sender, std::uint64_t id) {
        std::array<Numbered, 50> messages{};
        for (std::uint64_t i = 0; i < side.scaled(200); ++i) {
          for (std::uint64_t k = 0; k < 50; ++k) messages[k] = {id, i * 50 + k};
          ASSERT_EQ(sender.send_many(std::as_bytes(std::span(messages)), sizeof(Numbered)).count,
                    50U);
        }
      };
      Sender sender = side.connect();
      std::thread first(send, sender.clone(), 0);
      std::thread second(send, sender.clone(), 1);
      send(std::move(sender), 2);
      first.join();
      second.join();
    }};

const AddCase held{"a_batch_keeps_its_room_until_it_is_released",
                   [](Side& side) {
                     Receiver receiver = side.bind("capacity=4KiB");
                     Messages first;
                     Messages second;
                     side.meet("sent");
                     ASSERT_EQ(receiver.recv_many(first, 5), RecvStatus::received);
                     // All are there, but one look need not see all: one rail may be behind.
                     for (auto left = 10 - first.size(); left != 0; left -= second.size()) {
                       second.release();
                       ASSERT_EQ(receiver.recv_many(second, 5), RecvStatus::received);
                       ASSERT_LE(second.size(), left);
                     }
                     second.release();
                     for (std::size_t i = 0; i < first.size(); ++i)
                       EXPECT_TRUE(has_pattern(i, first[i]));
                     EXPECT_NE(first.source(), 0U);
                     first.release();
                     EXPECT_EQ(first.size(), 0U);
                     side.put("released");
                   },
                   [](Side& side) {
                     Sender sender = side.connect();
                     std::vector<std::byte> bytes(10 * 100);
                     for (std::size_t i = 0; i < 10; ++i)
                       fill_pattern(i, std::span(bytes).subspan(i * 100, 100));
                     EXPECT_EQ(sender.send_many(bytes, 100).count, 10U);
                     wait_delivered(sender);
                     side.meet("sent");
                     (void)side.get("released");
                     EXPECT_EQ(sender.flush(), FlushStatus::consumed);
                   }};

}  // namespace
}  // namespace penstock::test
