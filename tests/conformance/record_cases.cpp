// Messages of every size at every place of the ring; reservations in place.
#include <algorithm>
#include <cstdint>
#include <random>
#include <set>
#include <thread>

#include "penstock/transport/record.hpp"
#include "tests/conformance/suite.hpp"

namespace penstock::test {
namespace {

// Checks that messages come as pattern(0), pattern(1), … and counts them.
void expect_patterns(Side& side, Receiver& receiver) {
  std::uint64_t next = 0;
  EXPECT_EQ(drain(receiver,
                  [&](const Message& m) {
                    EXPECT_TRUE(has_pattern(next, m.data()))
                        << "message " << next << " of " << m.data().size() << " bytes";
                    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(m.data().data()) % 16, 0U);
                    ++next;
                  }),
            RecvStatus::closed);
  EXPECT_EQ(next, std::stoull(side.get("total")));
}

const AddCase every_size{
    "carries_every_size_from_nothing_to_the_largest",
    [](Side& side) {
      Receiver receiver = side.bind("capacity=32KiB");
      std::vector<std::size_t> sizes;
      std::uint64_t next = 0;
      EXPECT_EQ(drain(receiver,
                      [&](const Message& m) {
                        EXPECT_TRUE(has_pattern(next, m.data())) << next;
                        sizes.push_back(m.data().size());
                        ++next;
                      }),
                RecvStatus::closed);
      const std::size_t largest = std::stoull(side.get("largest"));
      EXPECT_EQ(largest, 16U * 1024 - 16);
      std::size_t at = 0;
      for (std::size_t size = 0; size <= largest; size += size < 600 ? 1 : 509, ++at) {
        ASSERT_LT(at, sizes.size());
        EXPECT_EQ(sizes[at], size);
      }
      ASSERT_EQ(at + 1, sizes.size());
      EXPECT_EQ(sizes[at], largest);
    },
    [](Side& side) {
      Sender sender = side.connect();
      const std::size_t largest = sender.max_message();
      side.put("largest", std::to_string(largest));
      std::uint64_t next = 0;
      for (std::size_t size = 0; size <= largest; size += size < 600 ? 1 : 509) {
        ASSERT_EQ(sender.send(pattern(next++, size)), SendStatus::sent);
      }
      ASSERT_EQ(sender.send(pattern(next, largest)), SendStatus::sent);
    }};

const AddCase default_largest{"carries_the_largest_message_of_the_default_ring",
                              [](Side& side) {
                                Receiver receiver = side.bind();
                                expect_patterns(side, receiver);
                              },
                              [](Side& side) {
                                Sender sender = side.connect();
                                const std::uint64_t count = side.scaled(6, 3);
                                for (std::uint64_t i = 0; i < count; ++i) {
                                  ASSERT_EQ(sender.send(pattern(i, sender.max_message())),
                                            SendStatus::sent);
                                }
                                side.put("total", std::to_string(count));
                              }};

const AddCase too_large{
    "refuses_a_message_above_the_largest",
    [](Side& side) {
      Receiver receiver = side.bind("capacity=4KiB");
      EXPECT_EQ(receiver.recv().text(), "after");
      EXPECT_EQ(receiver.recv().status(), RecvStatus::closed);
    },
    [](Side& side) {
      Sender sender = side.connect();
      const auto message = pattern(1, sender.max_message() + 1);
      EXPECT_EQ(sender.send(message), SendStatus::too_large);
      EXPECT_EQ(sender.try_send(message), SendStatus::too_large);
      EXPECT_EQ(sender.send_for(message, std::chrono::seconds(1)), SendStatus::too_large);
      EXPECT_EQ(sender.reserve(message.size()).status(), SendStatus::too_large);
      EXPECT_EQ(sender.reserve(SIZE_MAX).status(), SendStatus::too_large);
      EXPECT_EQ(sender.reserve((std::size_t{1} << 32U) + 8).status(), SendStatus::too_large);
      EXPECT_EQ(sender.stats().progress.accepted, 0U);
      EXPECT_EQ(sender.send(bytes_of("after")), SendStatus::sent);
    }};

const AddCase every_offset{
    "wraps_around_at_every_offset",
    [](Side& side) {
      Receiver receiver = side.bind("capacity=4KiB");
      std::set<const std::byte*> places;
      std::uint64_t next = 0;
      EXPECT_EQ(drain(receiver,
                      [&](const Message& m) {
                        EXPECT_TRUE(has_pattern(next, m.data())) << next;
                        places.insert(m.data().data());
                        ++next;
                      }),
                RecvStatus::closed);
      EXPECT_EQ(next, std::stoull(side.get("total")));
      EXPECT_EQ(places.size(), 4096U / 16) << "a record began at every place";
    },
    [](Side& side) {
      Sender sender = side.connect();
      std::uint64_t next = 0;
      const auto send = [&](std::size_t size) {
        ASSERT_EQ(sender.send(pattern(next++, size)), SendStatus::sent);
      };
      // Two laps of the smallest records: one begins at each place.
      for (int i = 0; i < 2 * 4096 / 16; ++i) send(0);
      // A large one behind each number of small ones: it begins, wraps and pads everywhere.
      for (const std::size_t size : {2032U, 1040U, 512U}) {
        for (std::uint64_t small = 0; small < 4096 / 16; small += size == 2032 ? 1U : 7U) {
          for (std::uint64_t i = 0; i < small % 61; ++i) send(0);
          send(size);
        }
      }
      std::mt19937 random(3);
      const std::uint64_t count = side.scaled(5'000);
      for (std::uint64_t i = 0; i < count; ++i) {
        send(random() % 2 == 0 ? random() % 64 : random() % (sender.max_message() + 1));
      }
      side.put("total", std::to_string(next));
    }};

const AddCase in_place{"reserves_fills_and_commits_in_place",
                       [](Side& side) {
                         Receiver receiver = side.bind("capacity=16KiB");
                         expect_patterns(side, receiver);
                       },
                       [](Side& side) {
                         Sender sender = side.connect();
                         const std::uint64_t count = side.scaled(2'000);
                         for (std::uint64_t i = 0; i < count; ++i) {
                           const std::size_t size = i * 37 % 3000;
                           Reservation room = i % 2 == 0 ? sender.reserve(size)
                                                         : sender.reserve_for(size, kForever);
                           ASSERT_EQ(room.status(), SendStatus::sent);
                           ASSERT_TRUE(room);
                           ASSERT_EQ(room.data().size(), size);
                           EXPECT_EQ(reinterpret_cast<std::uintptr_t>(room.data().data()) % 16, 0U);
                           fill_pattern(i, room.data());
                           Reservation moved = std::move(room);
                           moved.commit();
                           EXPECT_FALSE(moved);
                           moved.commit();  // of nothing
                         }
                         EXPECT_EQ(sender.stats().progress.accepted, count);
                         side.put("total", std::to_string(count));
                       }};

const AddCase dropped{"skips_reservations_that_were_dropped",
                      [](Side& side) {
                        Receiver receiver = side.bind("capacity=4KiB");
                        expect_patterns(side, receiver);
                      },
                      [](Side& side) {
                        Sender sender = side.connect();
                        std::uint64_t next = 0;
                        const std::uint64_t count = side.scaled(2'000);
                        for (std::uint64_t i = 0; i < count; ++i) {
                          Reservation room = sender.reserve(i % 1000);
                          ASSERT_TRUE(room);
                          if (i % 3 != 0) continue;
                          fill_pattern(next++, room.data());
                          room.commit();
                        }
                        // Nothing but dropped ones at the end.
                        for (int i = 0; i < 100; ++i) ASSERT_TRUE(sender.reserve(500));
                        EXPECT_EQ(sender.stats().progress.accepted, next);
                        EXPECT_EQ(sender.flush(), FlushStatus::consumed);
                        side.put("total", std::to_string(next));
                      }};

const AddCase out_of_order{"delivers_in_the_order_of_claims_not_of_commits",
                           [](Side& side) {
                             Receiver receiver = side.bind("capacity=16KiB");
                             expect_patterns(side, receiver);
                           },
                           [](Side& side) {
                             std::vector<Sender> clones;
                             clones.push_back(side.connect());
                             for (int i = 0; i < 3; ++i) clones.push_back(clones.front().clone());
                             std::mt19937 random(5);
                             std::uint64_t next = 0;
                             const std::uint64_t rounds = side.scaled(300);
                             for (std::uint64_t round = 0; round < rounds; ++round) {
                               std::vector<Reservation> rooms;
                               std::vector<Reservation> unwanted;
                               for (int i = 0; i < 8; ++i) {
                                 Reservation room =
                                     clones[random() % clones.size()].reserve(random() % 400);
                                 ASSERT_TRUE(room);
                                 if (random() % 4 == 0) {
                                   unwanted.push_back(std::move(room));
                                 } else {
                                   fill_pattern(next++, room.data());
                                   rooms.push_back(std::move(room));
                                 }
                               }
                               std::shuffle(rooms.begin(), rooms.end(), random);
                               for (Reservation& room : rooms) {
                                 room.commit();
                                 if (!unwanted.empty() && random() % 2 == 0) unwanted.pop_back();
                               }
                             }
                             side.put("total", std::to_string(next));
                           }};

const AddCase clones_drop{"skips_what_clones_drop_under_load",
                          [](Side& side) {
                            Receiver receiver = side.bind("capacity=8KiB");
                            std::vector<std::uint64_t> next(4, 0);
                            EXPECT_EQ(drain(receiver,
                                            [&](const Message& m) {
                                              const Numbered got = Numbered::from(m);
                                              ASSERT_LT(got.sender, 4U);
                                              EXPECT_EQ(got.number, next[got.sender]++);
                                            }),
                                      RecvStatus::closed);
                            EXPECT_EQ(next, std::vector<std::uint64_t>(4, side.scaled(2'000)));
                          },
                          [](Side& side) {
                            Sender first = side.connect();
                            const std::uint64_t count = side.scaled(2'000);
                            std::vector<std::jthread> threads;
                            for (std::uint64_t id = 0; id < 4; ++id) {
                              threads.emplace_back([id, count, clone = first.clone()]() mutable {
                                std::mt19937 random(static_cast<unsigned>(id));
                                for (std::uint64_t i = 0; i < count; ++i) {
                                  while (random() % 3 == 0)
                                    EXPECT_TRUE(clone.reserve(random() % 700));
                                  Reservation room = clone.reserve(sizeof(Numbered));
                                  ASSERT_TRUE(room);
                                  const Numbered numbered{id, i};
                                  std::ranges::copy(numbered.bytes(), room.data().begin());
                                  room.commit();
                                }
                              });
                            }
                          }};

}  // namespace
}  // namespace penstock::test
