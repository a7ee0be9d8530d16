// Peers that misbehave, with the session's key in hand: nothing they can write crashes, hangs or
// corrupts the other side, and nobody else on the channel loses anything.
//
// An attacker is a sender or a receiver made by hand from what Transport hands to a channel, so it
// writes what it likes: through a torn link, or straight into a shared ring.

#include <arpa/inet.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/futex.h>
#include <netinet/in.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstring>
#include <deque>
#include <functional>
#include <mutex>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "penstock/channel/byte_ring.hpp"
#include "penstock/channel/channel.hpp"
#include "penstock/transport/connection.hpp"
#include "penstock/transport/fd.hpp"
#include "penstock/transport/handshake.hpp"
#include "penstock/transport/link_budget.hpp"
#include "penstock/transport/registry.hpp"
#include "tests/transport/torn_link.hpp"

namespace penstock::test {
namespace {

using std::chrono::milliseconds;

constexpr std::uint64_t kCapacity = 4096;

void ensure_torn_link() {
  static const bool once = [] {
    register_links(std::make_shared<TornLinkProvider>());
    return true;
  }();
  (void)once;
}

std::string fresh_uri(std::string scheme, const std::string& query) {
  static std::atomic<int> count{0};
  const std::string name = "hostile-" + std::to_string(::getpid()) + "-" + std::to_string(++count);
  return (scheme == "torn" ? "torn://127.0.0.1:0/" + name : scheme + ":" + name) + "?" + query;
}

std::span<const std::byte> bytes_of(const std::uint64_t& number) {
  return std::as_bytes(std::span(&number, 1));
}

/// A sender that writes what it likes.
class HostileSender {
 public:
  HostileSender(const std::string& uri, const std::string& query)
      : parts_(find_transport(Uri::parse(uri).scheme)
                   ->connect(Uri::parse(uri + "?" + query +
                                        (uri.starts_with("torn") ? "&overrun=fail" : "")),
                             {std::chrono::seconds(10)},
                             std::chrono::steady_clock::now() + std::chrono::seconds(60))) {}
  HostileSender(const HostileSender&) = delete;
  HostileSender& operator=(const HostileSender&) = delete;
  HostileSender(HostileSender&&) = delete;
  HostileSender& operator=(HostileSender&&) = delete;
  ~HostileSender() {
    if (parts_.receiver_wake_fd >= 0) ::close(parts_.receiver_wake_fd);
  }

  [[nodiscard]] const SessionKey& key() const { return parts_.ring.key; }
  [[nodiscard]] bool remote() const { return parts_.remote.link != nullptr; }
  [[nodiscard]] bool ordered() const { return parts_.remote.link->limits().ordered_writes; }

  /// Into the receiver's ring, at most to its end. False: the path is dead.
  bool write(Cursor cursor, std::span<const std::byte> bytes) {
    const std::size_t place = cursor & (parts_.ring.capacity - 1);
    if (!remote()) {
      scribble(parts_.ring.data + place, bytes);
      return true;
    }
    std::memcpy(parts_.ring.data + place, bytes.data(), bytes.size());
    return post({{.source = parts_.ring.data + place,
                  .length = static_cast<std::uint32_t>(bytes.size()),
                  .region = kRingRegion,
                  .offset = place}},
                std::nullopt);
  }
  bool write_header(Cursor cursor, std::uint64_t word) {
    const RecordHeader header{word, key().mark(cursor, word)};
    return write(cursor, std::as_bytes(std::span(&header, 1)));
  }
  bool write_tail(std::uint64_t tail) {
    if (!remote()) return true;
    const TailLine line{tail, key().tail_check(tail)};
    return post({{.source = reinterpret_cast<const std::byte*>(&line),
                  .length = sizeof(line),
                  .region = kTailRegion,
                  .copied = true}},
                std::nullopt);
  }
  bool write_tail_line(std::span<const std::byte> bytes) {
    return post({{.source = bytes.data(),
                  .length = static_cast<std::uint32_t>(bytes.size()),
                  .region = kTailRegion,
                  .copied = true}},
                std::nullopt);
  }
  /// Says in an immediate that everything up to `tail` has landed.
  bool say_landed(Cursor tail) {
    return post({}, static_cast<std::uint32_t>(Immediate::landed) | low_bits(tail));
  }
  bool say(std::uint32_t immediate) { return post({}, immediate); }
  /// Whatever makes a receiver look, and believe in `tail`.
  bool announce(Cursor tail) {
    if (!remote()) {
      wake();
      return true;
    }
    if (!ordered()) return say_landed(tail);
    return write_tail(tail) && say(static_cast<std::uint32_t>(Immediate::wake));
  }
  void wake() const {
    const std::uint64_t one = 1;
    EXPECT_EQ(::write(parts_.receiver_wake_fd, &one, sizeof(one)),
              static_cast<ssize_t>(sizeof(one)));
  }
  [[nodiscard]] RingControl& control() const { return *parts_.ring.control; }

  /// How the receiver wants to be told of messages.
  [[nodiscard]] PublishMode asked_mode() const {
    const auto line =
        read_credit(*reinterpret_cast<const CreditLine*>(parts_.remote.credit), key());
    return line ? static_cast<PublishMode>(line->mode & 0xFFU) : PublishMode::tail;
  }

  // Landings: only where the two ends have agreed on them.
  [[nodiscard]] bool lands() const { return parts_.remote.landings; }
  /// Asks for memory, in a record at `at`.
  bool ask(Cursor at, std::uint64_t size) {
    return write(at + sizeof(RecordHeader), bytes_of(size)) &&
           write_header(at, header_word(sizeof size, kFirst | kLanding)) &&
           announce(at + record_size(sizeof size));
  }
  /// The answer to the question at `at`; nothing: the path is dead.
  std::optional<OfferLine> wait_for_offer(Cursor at) {
    const auto& line = *reinterpret_cast<const OfferLine*>(parts_.remote.credit + kOfferOffset);
    std::array<LinkEvent, 16> events{};
    for (;;) {
      const auto offer = read_offer(line, key());
      if (offer && offer->id == (at | 1U)) return offer;
      const std::size_t count = parts_.remote.link->poll(events);
      for (std::size_t i = 0; i < count; ++i)
        if (events[i].kind == LinkEvent::Kind::failed) return std::nullopt;
      std::this_thread::yield();
    }
  }
  /// ... of what was asked for at `asked`.
  bool say_landed_at(Cursor at, Cursor asked) {
    const std::uint64_t id = asked | 1U;
    return write(at + sizeof(RecordHeader), bytes_of(id)) &&
           write_header(at, header_word(sizeof id, kLast | kLanding)) &&
           announce(at + record_size(sizeof id));
  }
  /// Writes there. False: the path is dead.
  bool land(const OfferLine& offer, std::span<std::byte> bytes) {
    const auto source = parts_.remote.link->add_memory({bytes.data(), bytes.size(), false});
    return finish(parts_.remote.link->land({.source = source.get(),
                                            .length = static_cast<std::uint32_t>(bytes.size()),
                                            .place = offer.place},
                                           ++cookie_));
  }
  void say_goodbye(FrameType type, Cursor cursor) const {
    parts_.connection->say_goodbye(type, cursor);
  }

  // The receiver reads this memory meanwhile, as it would a device's.
  [[gnu::noinline, gnu::no_sanitize_thread]] static void scribble(
      std::byte* to, std::span<const std::byte> bytes) {
    volatile std::byte* target = to;
    for (std::size_t i = 0; i < bytes.size(); ++i) target[i] = bytes[i];
  }

 private:
  bool post(std::vector<RemoteWrite> writes, std::optional<std::uint32_t> immediate) {
    Link& link = *parts_.remote.link;
    std::array<LinkEvent, 16> events{};
    const std::uint64_t cookie = ++cookie_;
    PostStatus status = PostStatus::no_room;
    while ((status = link.post(writes, immediate, cookie)) == PostStatus::no_room) {
      (void)link.poll(events);
      std::this_thread::yield();
    }
    return finish(status);
  }
  /// One thing after the other, so that no more immediates are under way than are allowed.
  bool finish(PostStatus status) {
    if (status == PostStatus::failed) return false;
    Link& link = *parts_.remote.link;
    std::array<LinkEvent, 16> events{};
    for (std::uint64_t done = 0; done < cookie_;) {
      const std::size_t count = link.poll(events);
      for (std::size_t i = 0; i < count; ++i) {
        if (events[i].kind == LinkEvent::Kind::failed) return false;
        if (events[i].kind == LinkEvent::Kind::completed) done = events[i].value;
      }
      std::this_thread::yield();
    }
    return true;
  }

  OutletParts parts_;
  std::uint64_t cookie_ = 0;
};

/// Collects what a receiver hands out, while a good sender and an attacker are at work.
class Watch {
 public:
  Watch(const std::string& scheme, const std::string& query)
      : receiver_(penstock::bind(fresh_uri(scheme, "capacity=4KiB&" + query))), query_(query) {
    good_ = penstock::connect(uri() + "?" + query_);
    EXPECT_EQ(good_.send({}), SendStatus::sent);
    good_source_ = receiver_.recv().source();
  }

  [[nodiscard]] std::string uri() const { return receiver_.uris().at(0); }
  [[nodiscard]] const std::string& query() const { return query_; }

  /// Receives until everything is over; `attack` runs at the same time, then the good sender ends.
  void run(const std::function<void(HostileSender&)>& attack) {
    std::jthread good(&Watch::send_on, this);
    std::jthread attacker([&] {
      {
        HostileSender hostile(uri(), query_);
        attack(hostile);
      }  // its connection closes without a good-bye: whatever it did, it is lost now
      attack_over_ = true;
    });
    receive_all();
    good.join();
    EXPECT_EQ(received_, sent_) << "the others lose nothing";
    EXPECT_EQ(losses_, 1) << reasons_;
  }

  /// For the attacker: the receiver has had enough of it, while it is still there.
  void wait_for_loss() const {
    while (losses_ == 0) std::this_thread::sleep_for(milliseconds(1));
  }
  /// Messages of the good sender.
  [[nodiscard]] std::uint64_t received() const { return received_; }

  std::uint64_t forged_ = 0;  // messages of the attacker
  std::atomic<int> losses_ = 0;
  std::string reasons_;

 private:
  void send_on() {
    for (std::uint64_t i = 0; i < 300 || !attack_over_; ++i, ++sent_) {
      ASSERT_EQ(good_.send(bytes_of(i)), SendStatus::sent);
    }
    good_ = Sender();
  }
  void receive_all() {
    while (true) {
      const Message message = receiver_.recv();
      if (message.status() == RecvStatus::closed) break;
      if (message.status() == RecvStatus::peer_lost) {
        reasons_ += message.loss()->reason + "\n";
        ++losses_;
        continue;
      }
      ASSERT_TRUE(message) << to_string(message.status());
      std::uint64_t number = 0;
      if (message.data().size() == sizeof(number)) {
        std::memcpy(&number, message.data().data(), sizeof(number));
      }
      if (message.source() == good_source_) {
        EXPECT_EQ(number, received_++);
      } else {
        ++forged_;
        std::uint8_t sum = 0;  // every byte may be read
        for (const std::byte byte : message.data()) sum ^= static_cast<std::uint8_t>(byte);
        (void)sum;
      }
    }
  }

  Receiver receiver_;
  const std::string query_;
  Sender good_;
  SourceId good_source_ = 0;
  std::atomic<bool> attack_over_ = false;
  std::atomic<std::uint64_t> sent_ = 0;
  std::atomic<std::uint64_t> received_ = 0;
};

struct Path {
  const char* name;
  const char* scheme;
  const char* query;
};

class HostileSenderTest : public testing::TestWithParam<Path> {
 protected:
  void SetUp() override { ensure_torn_link(); }
};

TEST_P(HostileSenderTest, a_header_that_lies_about_its_length_ends_that_sender) {
  for (const std::uint64_t word :
       {header_word(0xFFFF'FFFF, 0), header_word(0xFFFF'FFF0, kPadding), header_word(kCapacity, 0),
        header_word(kCapacity - 15, kTombstone), header_word(16, 0x80), header_word(16, kFragment),
        header_word(16, kLanding), std::uint64_t{1} << 40U | 16, ~std::uint64_t{0}}) {
    Watch one(GetParam().scheme, GetParam().query);
    one.run([&](HostileSender& hostile) {
      ASSERT_TRUE(hostile.write_header(0, word));
      (void)hostile.announce(64);  // it may have been turned out before this ends
      one.wait_for_loss();
    });
    EXPECT_EQ(one.forged_, 0U) << std::hex << word;
    EXPECT_NE(one.reasons_.find("breaks the protocol"), std::string::npos) << one.reasons_;
  }
}

TEST_P(HostileSenderTest, pieces_that_make_no_message_end_that_sender) {
  struct Piece {
    std::uint8_t flags;
    std::uint32_t length;
    std::uint64_t says = 0;  // of the first
  };
  constexpr std::uint64_t kMost = 8192;
  for (const auto& pieces :
       std::vector<std::vector<Piece>>{{{kFragment, 16}},
                                       {{kLast, 16}},
                                       {{kFirst, 8, 0}},
                                       {{kFirst, 8, kMost + 1}},
                                       {{kFirst, 8, ~std::uint64_t{0}}},
                                       {{kFirst, 7, 100}},
                                       {{kFirst, 8, 100}, {kFragment, 0}},
                                       {{kFirst, 8, 100}, {kFragment, 100}},
                                       {{kFirst, 8, 100}, {kFragment, 64}, {kFragment, 64}},
                                       {{kFirst, 8, 100}, {kFragment, 64}, {kLast, 35}},
                                       {{kFirst, 8, 100}, {kLast, 101}},
                                       {{kFirst, 8, 100}, {kFirst | kLast, 8, 100}}}) {
    Watch one(GetParam().scheme, GetParam().query + ("&max_message=" + std::to_string(kMost)));
    one.run([&](HostileSender& hostile) {
      Cursor at = 0;
      for (const auto& piece : pieces) {
        ASSERT_TRUE(hostile.write(at + sizeof(RecordHeader), bytes_of(piece.says)));
        ASSERT_TRUE(hostile.write_header(at, header_word(piece.length, piece.flags)));
        at += record_size(piece.length);
      }
      (void)hostile.announce(at);
      one.wait_for_loss();
    });
    EXPECT_EQ(one.forged_, 0U);
    EXPECT_NE(one.reasons_.find("breaks the protocol"), std::string::npos) << one.reasons_;
  }
}

TEST_P(HostileSenderTest, landings_that_were_not_agreed_on_end_that_sender) {
  for (const auto* const query : {"", "&max_message=8192&can_land=0"}) {
    if (*query != '\0' && !std::string(GetParam().scheme).starts_with("torn")) continue;
    Watch one(GetParam().scheme, GetParam().query + std::string(query));
    one.run([&](HostileSender& hostile) {
      EXPECT_FALSE(hostile.lands());
      (void)hostile.ask(0, 100);
      one.wait_for_loss();
    });
    EXPECT_EQ(one.forged_, 0U);
    EXPECT_NE(one.reasons_.find("breaks the protocol"), std::string::npos) << one.reasons_;
  }
}

TEST_P(HostileSenderTest, questions_and_notices_that_cannot_be_end_that_sender) {
  struct Step {
    std::uint8_t flags;
    std::uint32_t length;
    std::uint64_t says = 0;
  };
  constexpr std::uint64_t kMost = 8192;
  for (const auto& steps :
       std::vector<std::vector<Step>>{{{kLanding, 16}},
                                      {{kLast | kLanding, 8, 1}},
                                      {{kFragment | kLanding, 8, 100}},
                                      {{kFirst | kLast | kLanding, 8, 100}},
                                      {{kFirst | kLanding, 8, 0}},
                                      {{kFirst | kLanding, 8, kMost + 1}},
                                      {{kFirst | kLanding, 8, ~std::uint64_t{0}}},
                                      {{kFirst | kLanding, 7, 100}},
                                      {{kFirst | kLanding, 8, 100}, {kFragment, 16}},
                                      {{kFirst | kLanding, 8, 100}, {kLast, 100}},
                                      {{kFirst | kLanding, 8, 100}, {kLast | kLanding, 0}},
                                      {{kFirst, 8, 100}, {kLast | kLanding, 8, 1}}}) {
    Watch one(GetParam().scheme, GetParam().query + ("&max_message=" + std::to_string(kMost)));
    one.run([&](HostileSender& hostile) {
      Cursor at = 0;
      for (const auto& step : steps) {
        ASSERT_TRUE(hostile.write(at + sizeof(RecordHeader), bytes_of(step.says)));
        ASSERT_TRUE(hostile.write_header(at, header_word(step.length, step.flags)));
        at += record_size(step.length);
      }
      (void)hostile.announce(at);
      one.wait_for_loss();
    });
    EXPECT_EQ(one.forged_, 0U);
    EXPECT_NE(one.reasons_.find("breaks the protocol"), std::string::npos) << one.reasons_;
  }
}

TEST_P(HostileSenderTest, a_notice_that_comes_twice_ends_that_sender) {
  Watch watch(GetParam().scheme, GetParam().query + std::string("&max_message=8192"));
  watch.run([&](HostileSender& hostile) {
    if (!hostile.lands()) return;
    ASSERT_TRUE(hostile.ask(0, 5000));
    ASSERT_TRUE(hostile.wait_for_offer(0));
    ASSERT_TRUE(hostile.say_landed_at(32, 0));
    (void)hostile.say_landed_at(64, 0);
    watch.wait_for_loss();
  });
  EXPECT_LE(watch.forged_, 1U);
}

TEST_P(HostileSenderTest, what_was_handed_out_cannot_be_written_any_more) {
  Receiver receiver = penstock::bind(fresh_uri(
      GetParam().scheme, "capacity=4KiB&max_message=8192&" + std::string(GetParam().query)));
  HostileSender hostile(receiver.uris().at(0), GetParam().query);
  if (!hostile.lands()) return;
  std::optional<OfferLine> offer;
  std::jthread sending([&] {
    ASSERT_TRUE(hostile.ask(0, 5000));
    offer = hostile.wait_for_offer(0);
    ASSERT_TRUE(offer);
    EXPECT_EQ(offer->length, 5000U);
    (void)hostile.say_landed_at(32, 0);
  });
  const auto message = receiver.recv();
  sending.join();
  ASSERT_TRUE(message);
  ASSERT_EQ(message.data().size(), 5000U);
  // It said that it had written, and had not: nothing that lay in that memory is handed out.
  const std::vector<std::byte> nothing(5000);
  EXPECT_TRUE(std::ranges::equal(message.data(), nothing));
  std::vector<std::byte> late(5000, std::byte{0xEE});
  EXPECT_FALSE(hostile.land(*offer, late));
  EXPECT_TRUE(std::ranges::equal(message.data(), nothing));
}

TEST_P(HostileSenderTest, memory_that_was_offered_in_vain_is_taken_back) {
  auto receiver = std::make_unique<Receiver>(penstock::bind(fresh_uri(
      GetParam().scheme, "capacity=4KiB&max_message=64KiB&" + std::string(GetParam().query))));
  const auto before = link_use().pinned;
  {
    HostileSender hostile(receiver->uris().at(0), GetParam().query);
    if (!hostile.lands()) return;
    std::atomic<bool> over = false;
    std::jthread sending([&] {
      for (Cursor at = 0; at < 20 * 32; at += 32) {
        EXPECT_TRUE(hostile.ask(at, 50'000));
        EXPECT_TRUE(hostile.wait_for_offer(at));
      }
      over = true;
    });
    while (!over) EXPECT_EQ(receiver->recv_for(milliseconds(1)).status(), RecvStatus::timed_out);
    sending.join();
    EXPECT_LE(link_use().pinned, before + 2 * (50'000 + kCapacity + 4096));
  }
  EXPECT_EQ(receiver->recv().status(), RecvStatus::peer_lost);
  EXPECT_EQ(receiver->recv().status(), RecvStatus::closed);  // which lets the lost one's ring go
  EXPECT_EQ(link_use().pinned, before);
}

TEST_P(HostileSenderTest, a_tail_ahead_of_the_records_brings_nothing) {
  Watch watch(GetParam().scheme, GetParam().query);
  watch.run([](HostileSender& hostile) {
    (void)hostile.announce(1024);
    std::this_thread::sleep_for(milliseconds(5));
  });
  EXPECT_EQ(watch.forged_, 0U);
}

TEST_P(HostileSenderTest, a_tail_beyond_the_credit_ends_that_sender) {
  for (const std::uint64_t tail :
       {kCapacity + 16, std::uint64_t{1} << 40U, ~std::uint64_t{0}, std::uint64_t{24}}) {
    Watch one(GetParam().scheme, GetParam().query);
    one.run([&](HostileSender& hostile) {
      ASSERT_TRUE(hostile.write_header(0, header_word(8, 0)));
      (void)hostile.announce(tail);
      // A local ring has no tail; an immediate cannot say one that is a multiple of its range.
      if (!hostile.remote() || (!hostile.ordered() && low_bits(tail) == 0)) return;
      one.wait_for_loss();
      EXPECT_NE(one.reasons_.find("breaks the protocol"), std::string::npos) << one.reasons_;
    });
    EXPECT_LE(one.forged_, 1U) << tail;
  }
}

TEST_P(HostileSenderTest, a_tail_that_goes_back_changes_nothing) {
  if (std::string(GetParam().scheme) != "torn") return;  // a local ring has no tail
  Watch watch(GetParam().scheme, GetParam().query);
  watch.run([](HostileSender& hostile) {
    ASSERT_TRUE(hostile.write_header(0, header_word(16, 0)));
    ASSERT_TRUE(hostile.write_header(32, header_word(16, 0)));
    ASSERT_TRUE(hostile.announce(64));
    (void)hostile.write_tail(32);
    (void)hostile.write_tail(0);
    (void)hostile.write_tail(64);
    std::this_thread::sleep_for(milliseconds(5));
  });
  EXPECT_LE(watch.forged_, 2U);
}

TEST_P(HostileSenderTest, headers_within_a_payload_are_payload) {
  Watch watch(GetParam().scheme, GetParam().query);
  watch.run([](HostileSender& hostile) {
    // Each is right for its place, key and all.
    constexpr Cursor kEnd = 1024;
    for (Cursor at = sizeof(RecordHeader); at < kEnd; at += sizeof(RecordHeader)) {
      ASSERT_TRUE(hostile.write_header(at, header_word(at % 64 == 0 ? 0xFFFF'FFFF : 0, 0)));
    }
    ASSERT_TRUE(hostile.write_header(0, header_word(kEnd - sizeof(RecordHeader), 0)));
    ASSERT_TRUE(hostile.announce(kEnd));
    std::this_thread::sleep_for(milliseconds(5));
  });
  EXPECT_LE(watch.forged_, 1U);
}

TEST_P(HostileSenderTest, dropped_reservations_without_end_hold_nobody_up) {
  if (std::string(GetParam().scheme) != "shm") return;  // a link is too slow for it
  Watch watch(GetParam().scheme, GetParam().query);
  watch.run([&](HostileSender& hostile) {
    for (Cursor at = 0; watch.received() < 1'000;) {
      for (; at + sizeof(RecordHeader) <= hostile.control().limit; at += sizeof(RecordHeader)) {
        hostile.write_header(at, header_word(0, kTombstone));
      }
      hostile.wake();
    }
  });
  EXPECT_EQ(watch.forged_, 0U);
}

TEST_P(HostileSenderTest, a_good_bye_that_lies_is_a_loss) {
  for (const Cursor cursor :
       {Cursor{64}, Cursor{24}, kCapacity - 8, kCapacity + 16, Cursor{1} << 40U, ~Cursor{0}}) {
    for (const FrameType type : {FrameType::bye, FrameType::closed}) {
      Watch one(GetParam().scheme, GetParam().query);
      one.run([&](HostileSender& hostile) {
        hostile.say_goodbye(type, cursor);
        one.wait_for_loss();
      });
      EXPECT_EQ(one.forged_, 0U) << cursor;
      EXPECT_NE(one.reasons_.find("its last record never came"), std::string::npos) << one.reasons_;
    }
  }
}

TEST_P(HostileSenderTest, random_bytes_in_the_ring_are_no_messages) {
  Watch watch(GetParam().scheme, GetParam().query);
  watch.run([](HostileSender& hostile) {
    std::mt19937_64 random(1);
    for (int i = 0; i < 300; ++i) {
      std::array<std::uint64_t, 16> noise{};
      for (std::uint64_t& word : noise) word = random();
      const std::size_t size = (1 + random() % noise.size()) * sizeof(std::uint64_t);
      const std::uint64_t place = random() % (kCapacity - size);
      if (!hostile.write(place, std::as_bytes(std::span(noise)).first(size))) return;
      if (i % 8 == 0 && !hostile.announce(random() % (2 * kCapacity))) return;
      if (hostile.remote() && i % 16 == 0 &&
          !hostile.write_tail_line(std::as_bytes(std::span(noise)).first(16))) {
        return;
      }
    }
  });
  EXPECT_EQ(watch.forged_, 0U) << "without the right mark nothing is a record";
}

TEST_P(HostileSenderTest, random_headers_with_right_marks_stay_inside_the_ring) {
  for (unsigned seed = 1; seed <= 10; ++seed) {
    Watch one(GetParam().scheme, GetParam().query);
    one.run([seed](HostileSender& hostile) {
      std::mt19937_64 random(seed);
      for (int i = 0; i < 100; ++i) {
        const Cursor cursor = random() % (kCapacity / 16) * 16;
        const auto flags = static_cast<std::uint8_t>(random() % 4 == 0 ? random() : random() % 3);
        const auto length =
            static_cast<std::uint32_t>(random() % 8 == 0 ? random() : random() % 256);
        if (!hostile.write_header(cursor, header_word(length, flags))) return;
        if (i % 4 == 0 && !hostile.announce(random() % (kCapacity / 16) * 16)) return;
      }
    });
  }
}

TEST_P(HostileSenderTest, immediates_that_mean_nothing_are_harmless) {
  if (std::string(GetParam().scheme) != "torn") return;
  Watch watch(GetParam().scheme, GetParam().query);
  watch.run([](HostileSender& hostile) {
    std::mt19937 random(1);
    for (int i = 0; i < 200; ++i) {
      auto immediate = static_cast<std::uint32_t>(random());
      if (i % 2 == 0) {
        immediate &= ~kImmediateKind;
        immediate |= static_cast<std::uint32_t>(1 + random() % 4) << 24U;
      }
      // Only a few at a time may be on their way; say() waits for each.
      if (!hostile.say(immediate)) return;
      std::this_thread::sleep_for(std::chrono::microseconds(200));
    }
  });
  EXPECT_EQ(watch.forged_, 0U);
}

TEST_P(HostileSenderTest, wake_ups_that_nobody_asked_for_hold_nobody_up) {
  if (std::string(GetParam().scheme) != "torn") return;
  Watch watch(GetParam().scheme, GetParam().query);
  watch.run([](HostileSender& hostile) {
    for (int i = 0; i < 2'000; ++i)
      if (!hostile.say(static_cast<std::uint32_t>(Immediate::wake))) return;
  });
  EXPECT_EQ(watch.forged_, 0U);
}

TEST_P(HostileSenderTest, control_words_of_a_shared_ring_belong_to_their_ring_alone) {
  if (std::string(GetParam().scheme) != "shm") return;
  Watch watch(GetParam().scheme, GetParam().query);
  watch.run([](HostileSender& hostile) {
    std::mt19937_64 random(1);
    for (int i = 0; i < 1'000; ++i) {
      RingControl& control = hostile.control();
      control.limit = random();
      control.window = random();
      control.consumed = random();
      control.receiver_barriers = static_cast<std::uint32_t>(random());
      control.sender_barriers = static_cast<std::uint32_t>(random() % 2);
      control.receiver_armed = static_cast<std::uint32_t>(random());
      control.senders_waiting = static_cast<std::uint32_t>(random());
      control.credit_epoch = static_cast<std::uint32_t>(random());
      control.receiver_closed = static_cast<std::uint32_t>(random());
      control.sender_gone = static_cast<std::uint32_t>(random());
      (void)hostile.write_header(random() % (kCapacity / 16) * 16,
                                 header_word(static_cast<std::uint32_t>(random() % 5000), 0));
      if (i % 16 == 0) hostile.wake();
    }
  });
}

INSTANTIATE_TEST_SUITE_P(Paths, HostileSenderTest,
                         testing::Values(Path{"torn_ordered", "torn", "seed=1"},
                                         Path{"torn_unordered", "torn", "seed=1&ordered=0"},
                                         Path{"shm", "shm", "liveness=10s"}),
                         [](const auto& name) { return name.param.name; });

// A completion may be shown when the tail line has gone on by more than a window since.
TEST(LateImmediateTest, one_from_behind_says_nothing_and_one_from_beyond_ends_that_sender) {
  ensure_torn_link();
  Receiver receiver = penstock::bind(fresh_uri("torn", "capacity=4KiB&publish=turns"));
  HostileSender sender(receiver.uris().at(0), "seed=1");
  Cursor end = 0;
  const auto send = [&] {
    ASSERT_TRUE(sender.write_header(end, header_word(16, 0)));
    end += 32;
    ASSERT_TRUE(sender.announce(end));
    ASSERT_EQ(receiver.recv().status(), RecvStatus::received);
  };
  while (sender.asked_mode() != PublishMode::immediate) send();  // and does not heed it
  const Cursor old = end;
  while (end <= old + kCapacity) send();
  for (const Cursor late : {old, Cursor{0}}) {
    ASSERT_TRUE(sender.say_landed(late));
    send();
    ASSERT_EQ(receiver.try_recv().status(), RecvStatus::empty);
  }
  (void)sender.say_landed(end + kCapacity + 32);
  const Message lost = receiver.recv();
  ASSERT_EQ(lost.status(), RecvStatus::peer_lost);
  EXPECT_NE(lost.loss()->reason.find("beyond the credit"), std::string::npos)
      << lost.loss()->reason;
}

// ── Payloads ────────────────────────────────────────────────────────────────────────────────────

class CraftedPayloadTest : public testing::TestWithParam<Path> {};

TEST_P(CraftedPayloadTest, a_payload_that_looks_like_the_next_header_changes_nothing) {
  ensure_torn_link();
  Receiver receiver = penstock::bind(
      fresh_uri(GetParam().scheme, std::string("capacity=4KiB&") + GetParam().query));
  const std::string uri = receiver.uris().at(0) + "?" + GetParam().query;
  // At every place of the payload: a header with the right cursor of a later lap and a mark, made
  // with every key but the session's; its own proof of having been crafted is its number.
  const auto craft = [](std::uint64_t number, Cursor begin, std::size_t size) {
    std::vector<std::byte> payload(size);
    for (std::size_t at = 0; at + sizeof(RecordHeader) <= size; at += sizeof(RecordHeader)) {
      const Cursor cursor = begin + sizeof(RecordHeader) + at + (number % 3) * kCapacity;
      const std::uint64_t word = header_word(static_cast<std::uint32_t>(number % 64), 0);
      SessionKey key;
      if (number % 2 == 0) key.word = {number, cursor, ~number, 1};
      const RecordHeader header{word, key.mark(cursor, word)};
      std::memcpy(payload.data() + at, &header, sizeof(header));
    }
    std::memcpy(payload.data(), &number, std::min(size, sizeof(number)));
    return payload;
  };
  constexpr std::uint64_t kCount = 2'000;
  const auto size_of = [](std::uint64_t number) { return 8 + number * 40 % 1'000; };
  std::jthread sending([&] {
    Sender sender = connect(uri);
    Cursor begin = 0;
    for (std::uint64_t i = 0; i < kCount; ++i) {
      const std::uint64_t size = record_size(size_of(i));
      if (size > kCapacity - begin % kCapacity) begin += kCapacity - begin % kCapacity;
      ASSERT_EQ(sender.send(craft(i, begin, size_of(i))), SendStatus::sent);
      begin += size;
    }
  });
  Cursor begin = 0;
  for (std::uint64_t i = 0; i < kCount; ++i) {
    const Message message = receiver.recv();
    ASSERT_TRUE(message) << to_string(message.status());
    const std::uint64_t size = record_size(size_of(i));
    if (size > kCapacity - begin % kCapacity) begin += kCapacity - begin % kCapacity;
    const auto expected = craft(i, begin, size_of(i));
    ASSERT_TRUE(
        std::equal(expected.begin(), expected.end(), message.data().begin(), message.data().end()))
        << "message " << i;
    begin += size;
  }
  EXPECT_EQ(receiver.recv().status(), RecvStatus::closed);
}

INSTANTIATE_TEST_SUITE_P(Paths, CraftedPayloadTest,
                         testing::Values(Path{"torn_ordered", "torn", "seed=3"},
                                         Path{"torn_unordered", "torn", "seed=4&ordered=0"},
                                         Path{"shm", "shm", "spin=0"},
                                         Path{"inproc", "inproc", "spin=0"}),
                         [](const auto& name) { return name.param.name; });

// ── Receivers that misbehave ────────────────────────────────────────────────────────────────────

/// Takes senders as a channel would, and hands their parts to the test.
class HostileReceiver final : public InletSink {
 public:
  HostileReceiver() : wake_fd_(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) {}
  HostileReceiver(const HostileReceiver&) = delete;
  HostileReceiver& operator=(const HostileReceiver&) = delete;
  HostileReceiver(HostileReceiver&&) = delete;
  HostileReceiver& operator=(HostileReceiver&&) = delete;
  ~HostileReceiver() override { ::close(wake_fd_); }

  bool add(InletParts parts) override {
    const std::lock_guard lock(mutex_);
    parts_.push_back(std::move(parts));
    came_.notify_all();
    return true;
  }
  [[nodiscard]] TailPlace tail_place() override {
    const auto line = std::make_shared<TailLine>();
    return {line, line.get(), 0};
  }
  void rearranged() noexcept override {}
  void refused(const std::string& /*why*/) override {}
  void notify() noexcept override {}
  [[nodiscard]] int wake_fd() const noexcept override { return wake_fd_; }

  InletParts take() {
    std::unique_lock lock(mutex_);
    came_.wait(lock, [this] { return !parts_.empty(); });
    InletParts parts = std::move(parts_.front());
    parts_.pop_front();
    return parts;
  }

 private:
  const int wake_fd_;
  std::mutex mutex_;
  std::condition_variable came_;
  std::deque<InletParts> parts_;
};

class HostileCreditTest : public testing::TestWithParam<const char*> {
 protected:
  // A sender of the library and a receiver that writes `lines` into its credit line.
  enum class Told : std::uint8_t { by_its_lines, at_the_end };
  void attack(const std::function<CreditLine(int, const SessionKey&)>& line, int count,
              Told told = Told::at_the_end, bool check = true) {
    ensure_torn_link();
    const auto sink = std::make_shared<HostileReceiver>();
    const auto transport = find_transport("torn");
    const auto listener = transport->listen(Uri::parse(fresh_uri("torn", GetParam())),
                                            {kCapacity, 0, std::chrono::seconds(10)}, sink);
    Sender sender = connect(listener->uri() + "?" + GetParam(), {.linger = milliseconds(1)});
    std::optional<InletParts> parts = sink->take();
    ring = parts->ring;
    std::jthread attacker([&] {
      Link& link = *parts->remote.link;
      std::array<LinkEvent, 16> events{};
      for (int i = 0; i < count; ++i) {
        CreditLine forged = line(i, parts->ring.key);
        if (check) forged.check = parts->ring.key.credit_check(forged);
        const RemoteWrite write{.source = reinterpret_cast<const std::byte*>(&forged),
                                .length = sizeof(forged),
                                .copied = true};
        // A sender that has given up takes no more immediates.
        const auto immediate =
            i < 8 ? std::optional(static_cast<std::uint32_t>(Immediate::credit)) : std::nullopt;
        while (link.post(std::span(&write, 1), immediate, static_cast<std::uint64_t>(i) + 1) ==
               PostStatus::no_room) {
          (void)link.poll(events);
        }
        for (std::uint64_t done = 0; done <= static_cast<std::uint64_t>(i);) {
          const std::size_t got = link.poll(events);
          for (std::size_t n = 0; n < got; ++n) {
            if (events[n].kind == LinkEvent::Kind::failed) return;
            if (events[n].kind == LinkEvent::Kind::completed) done = events[n].value;
          }
          std::this_thread::yield();
        }
      }
    });
    // Sends into what may be granted, until it is told; ends when the attacker goes at the latest.
    const std::vector<std::byte> message(1'000);
    for (int i = 0; told == Told::by_its_lines || i < 100; ++i) {
      const SendStatus status = sender.send_for(message, milliseconds(1));
      (void)sender.stats();
      if (status != SendStatus::sent && status != SendStatus::timed_out) {
        EXPECT_EQ(status, SendStatus::peer_lost);
        break;
      }
    }
    attacker.join();
    parts.reset();  // the connection closes without a good-bye
    while (sender.state() != PeerState::lost) std::this_thread::sleep_for(milliseconds(1));
    EXPECT_EQ(sender.send(message), SendStatus::peer_lost);
    const SenderStats stats = sender.stats();
    EXPECT_FALSE(stats.error.empty());
    EXPECT_LE(stats.progress.consumed, stats.progress.accepted);
    EXPECT_LE(stats.progress.delivered, stats.progress.accepted);
    if (told == Told::by_its_lines) {
      EXPECT_NE(stats.error.find("breaks the protocol"), std::string::npos) << stats.error;
    }
  }

  void wait_for_the_first_record() const {
    Record record;
    while (RingView(ring).inspect(0, kCapacity, record) != Inspection::record) {
      std::this_thread::sleep_for(milliseconds(1));
    }
  }

  static constexpr std::uint64_t mode(int i) { return static_cast<std::uint64_t>(i + 1) << 8U; }
  RingMemory ring;
};

TEST_P(HostileCreditTest, consumed_beyond_what_was_sent) {
  attack(
      [](int i, const SessionKey&) {
        return CreditLine{1U << 20U, (1U << 20U) + kCapacity, 0, mode(i), 0, {}};
      },
      1, Told::by_its_lines);
}

TEST_P(HostileCreditTest, a_limit_beyond_the_ring) {
  attack([](int i, const SessionKey&) { return CreditLine{0, 100 * kCapacity, 0, mode(i), 0, {}}; },
         1, Told::by_its_lines);
}

TEST_P(HostileCreditTest, consumed_within_a_record) {
  attack(
      [this](int i, const SessionKey&) {
        if (i == 1) wait_for_the_first_record();
        return CreditLine{i == 0 ? 0U : 24U, kCapacity, 0, mode(i), 0, {}};
      },
      2, Told::by_its_lines);
}

TEST_P(HostileCreditTest, asleep_beyond_what_was_sent) {
  attack(
      [](int i, const SessionKey&) {
        return CreditLine{0, kCapacity, (1U << 20U) + 1, mode(i), 0, {}};
      },
      1, Told::by_its_lines);
}

TEST_P(HostileCreditTest, credit_that_goes_back) {
  attack(
      [](int i, const SessionKey&) {
        return CreditLine{0, i == 0 ? kCapacity : 16, 0, mode(i), 0, {}};
      },
      2, Told::by_its_lines);
}

TEST_P(HostileCreditTest, random_fields_with_a_right_check) {
  for (std::uint64_t seed = 1; seed <= 10; ++seed) {
    std::mt19937_64 random(seed);
    attack(
        [&](int i, const SessionKey&) {
          return CreditLine{random() % 2 * (random() % kCapacity),
                            random() % 3 == 0 ? random() : kCapacity,
                            random() % 2 == 0 ? random() : 0,
                            mode(i) | random() % 256,
                            0,
                            {}};
        },
        20);
  }
}

TEST_P(HostileCreditTest, random_bytes) {
  std::mt19937_64 random(1);
  attack(
      [&](int, const SessionKey&) {
        return CreditLine{random(), random(), random(), random(), random(), {}};
      },
      50, Told::at_the_end, false);
}

INSTANTIATE_TEST_SUITE_P(Orders, HostileCreditTest, testing::Values("seed=1", "seed=1&ordered=0"),
                         [](const auto& name) {
                           return std::string(name.param).find("ordered=0") == std::string::npos
                                      ? "ordered"
                                      : "unordered";
                         });

/// A sender of the library whose receiver is the test.
class HostileReceiverTest : public testing::TestWithParam<Path> {
 protected:
  void SetUp() override {
    ensure_torn_link();
    const auto transport = find_transport(GetParam().scheme);
    listener_ = transport->listen(Uri::parse(fresh_uri(GetParam().scheme, GetParam().query)),
                                  {kCapacity, 0, std::chrono::seconds(10)}, sink_);
    sender_ = connect(listener_->uri() + "?" + GetParam().query, {.linger = milliseconds(1)});
    parts_ = sink_->take();
  }
  [[nodiscard]] bool local() const { return std::string(GetParam().scheme) == "shm"; }
  /// The sender may fill its ring, as far as the receiver says.
  void grant_everything() const {
    parts_->ring.control->limit = local() ? ~std::uint64_t{0} : kCapacity;
  }
  void check_stats() const {
    const SenderStats stats = sender_.stats();
    EXPECT_LE(stats.progress.consumed, stats.progress.accepted);
    EXPECT_LE(stats.progress.delivered, stats.progress.accepted);
  }

  const std::shared_ptr<HostileReceiver> sink_ = std::make_shared<HostileReceiver>();
  std::unique_ptr<Listener> listener_;
  Sender sender_;
  std::optional<InletParts> parts_;
};

TEST_P(HostileReceiverTest, a_good_bye_that_lies_is_not_believed) {
  grant_everything();
  const std::vector<std::byte> message(1'000);
  for (int i = 0; i < 4; ++i) {
    ASSERT_EQ(sender_.send(message), SendStatus::sent);
  }
  // Within the ring, but no record's place: a header there would lie half beyond the ring's end.
  parts_->connection->say_goodbye(FrameType::closed, kCapacity - 8);
  while (sender_.state() != PeerState::closed) std::this_thread::sleep_for(milliseconds(1));
  EXPECT_EQ(sender_.stats().progress.consumed, 0U);
  EXPECT_EQ(sender_.flush(), FlushStatus::closed);
}

TEST_P(HostileReceiverTest, one_that_never_returns_credit_holds_up_its_own_sender_only) {
  parts_->ring.control->limit = kCapacity;
  const std::vector<std::byte> message(1'000);
  std::uint64_t accepted = 0;
  while (sender_.try_send(message) == SendStatus::sent) ++accepted;
  EXPECT_GE(accepted, 1U);
  EXPECT_LE(accepted, kCapacity / record_size(message.size()));
  EXPECT_EQ(sender_.send_for(message, milliseconds(5)), SendStatus::timed_out);
  EXPECT_EQ(sender_.flush(milliseconds(5)), FlushStatus::timed_out);
  EXPECT_EQ(sender_.state(), PeerState::connected);

  Receiver good = penstock::bind(fresh_uri(GetParam().scheme, GetParam().query));
  Sender other = penstock::connect(good.uris().at(0) + "?" + GetParam().query);
  ASSERT_EQ(other.send(message), SendStatus::sent);
  EXPECT_EQ(good.recv().data().size(), message.size());

  EXPECT_EQ(sender_.close(milliseconds(5)), FlushStatus::timed_out);
  sender_ = Sender();  // no longer than its linger time
}

/// A receiver that answers questions for memory as it likes.
class HostileOfferTest : public testing::TestWithParam<const char*> {
 protected:
  /// The sender sends a long message to an attacker, which offers `offers(key, id)` one after
  /// another. What the sender was told.
  SendStatus attack(
      const std::function<std::vector<OfferLine>(const SessionKey&, std::uint64_t id)>& offers,
      Duration timeout = kForever) {
    ensure_torn_link();
    const auto sink = std::make_shared<HostileReceiver>();
    InletSettings settings{kCapacity, 0, std::chrono::seconds(10)};
    settings.max_message = 1U << 20U;
    const auto listener =
        find_transport("torn")->listen(Uri::parse(fresh_uri("torn", GetParam())), settings, sink);
    sender_ =
        connect(listener->uri() + "?landing=always&" + GetParam(), {.linger = milliseconds(1)});
    auto parts = std::make_optional(sink->take());
    EXPECT_TRUE(parts->remote.landings);
    std::atomic<bool> over = false;
    std::jthread attacker([&] {
      Link& link = *parts->remote.link;
      std::uint64_t cookie = 0;
      std::array<LinkEvent, 16> events{};
      const auto write = [&](const void* line, std::uint64_t offset, Immediate immediate) {
        const RemoteWrite one{.source = static_cast<const std::byte*>(line),
                              .length = 64,
                              .offset = offset,
                              .copied = true};
        if (link.post(std::span(&one, 1), static_cast<std::uint32_t>(immediate), ++cookie) !=
            PostStatus::posted)
          return;
        for (std::uint64_t done = 0; done < cookie;) {
          const auto got = link.poll(events);
          for (std::size_t n = 0; n < got; ++n) {
            if (events[n].kind == LinkEvent::Kind::failed) return;
            if (events[n].kind == LinkEvent::Kind::completed) done = events[n].value;
          }
          std::this_thread::yield();
        }
      };
      CreditLine credit{0, kCapacity, 0, 1U << 8U, 0, {}};
      if (std::string_view(GetParam()).find("ordered=0") != std::string_view::npos)
        credit.mode |= static_cast<std::uint64_t>(PublishMode::immediate);
      credit.check = parts->ring.key.credit_check(credit);
      write(&credit, 0, Immediate::credit);
      Record record;
      while (RingView(parts->ring).inspect(0, kCapacity, record) != Inspection::record && !over)
        std::this_thread::sleep_for(milliseconds(1));
      EXPECT_EQ(record.flags & kInPieces, kFirst | kLanding);
      for (const auto& offer : offers(parts->ring.key, record.begin | 1U))
        write(&offer, kOfferOffset, Immediate::offered);
      while (!over) {
        (void)link.poll(events);
        std::this_thread::sleep_for(milliseconds(1));
      }
    });
    auto message = std::make_unique<std::vector<std::byte>>(100'000);
    const auto status = sender_.send_for(*message, timeout);
    message.reset();  // nothing reads it any more
    over = true;
    attacker.join();
    return status;
  }
  static OfferLine checked(OfferLine line, const SessionKey& key) {
    line.check = key.offer_check(line);
    return line;
  }
  [[nodiscard]] std::string error() const { return sender_.stats().error; }

 private:
  Sender sender_;
};

TEST_P(HostileOfferTest, memory_of_another_size_breaks_the_protocol) {
  for (const std::uint64_t size :
       {std::uint64_t{99'999}, std::uint64_t{100'001}, ~std::uint64_t{0}}) {
    EXPECT_EQ(attack([&](const SessionKey& key, std::uint64_t id) {
                return std::vector{checked({id, size, {4096, 1, 0, 0}, 0, 0}, key)};
              }),
              SendStatus::peer_lost);
    EXPECT_NE(error().find("breaks the protocol"), std::string::npos) << error();
  }
}

TEST_P(HostileOfferTest, what_was_not_asked_for_or_is_not_whole_is_no_answer) {
  EXPECT_EQ(attack(
                [&](const SessionKey& key, std::uint64_t id) {
                  std::vector<OfferLine> offers;
                  for (const auto other : {std::uint64_t{0}, id - 1, id + 1, id + 16, ~id})
                    offers.push_back(checked({other, 100'000, {4096, 1, 0, 0}, 0, 0}, key));
                  auto torn = checked({id, 100'000, {4096, 1, 0, 0}, 0, 0}, key);
                  ++torn.place[0];
                  offers.push_back(torn);
                  return offers;
                },
                milliseconds(300)),
            SendStatus::timed_out);
}

TEST_P(HostileOfferTest, a_place_that_is_none_fails_the_path) {
  EXPECT_EQ(attack([&](const SessionKey& key, std::uint64_t id) {
              return std::vector{checked({id, 100'000, {4096, 1, 0, 0}, 0, 0}, key)};
            }),
            SendStatus::peer_lost);
  EXPECT_NE(error().find("offers nothing"), std::string::npos) << error();
}

TEST_P(HostileOfferTest, after_a_refusal_the_message_goes_in_pieces) {
  EXPECT_EQ(attack(
                [&](const SessionKey& key, std::uint64_t id) {
                  return std::vector{checked({id, 0, {}, 0, 0}, key)};
                },
                milliseconds(300)),
            SendStatus::timed_out)
      << "nobody reads them";
}

INSTANTIATE_TEST_SUITE_P(Paths, HostileOfferTest, testing::Values("seed=1", "seed=1&ordered=0"),
                         [](const auto& name) {
                           return name.index == 0 ? "torn_ordered" : "torn_unordered";
                         });

TEST_P(HostileReceiverTest, scribbling_over_a_shared_ring_harms_nobody_else) {
  if (!local()) return;
  std::atomic<bool> over = false;
  std::jthread scribbler([&, ring = parts_->ring] {
    std::mt19937_64 random(1);
    const auto strange = [&]() -> std::uint64_t {
      switch (random() % 4) {
        case 0: return random();
        case 1: return random() % (4 * kCapacity);
        case 2: return kCapacity - random() % 16;
        default: return random() % 2 == 0 ? 0 : ~std::uint64_t{0};
      }
    };
    while (!over) {
      RingControl& control = *ring.control;
      control.limit = strange();
      control.window = strange();
      control.consumed = strange();
      control.receiver_armed = static_cast<std::uint32_t>(random());
      control.senders_waiting = static_cast<std::uint32_t>(random());
      control.credit_epoch = static_cast<std::uint32_t>(random() % 4);
      control.sender_gone = static_cast<std::uint32_t>(random());
      const Cursor cursor = strange() & ~Cursor{15};
      const std::uint64_t word =
          header_word(static_cast<std::uint32_t>(random() % 64),
                      static_cast<std::uint8_t>(random() % 2 == 0 ? kSelfProved : 0));
      const RecordHeader header{word, ring.key.mark(cursor, word)};
      HostileSender::scribble(ring.data + (cursor & (kCapacity - 1)),
                              std::as_bytes(std::span(&header, 1)));
    }
  });
  std::mt19937 random(2);
  for (int i = 0; i < 3'000; ++i) {
    const std::vector<std::byte> message(random() % 1'000);
    (void)sender_.try_send(message);
    if (i % 8 == 0) (void)sender_.send_for(message, std::chrono::microseconds(200));
    if (i % 16 == 0) (void)sender_.flush(std::chrono::microseconds(200));
    check_stats();
  }
  parts_.reset();  // the connection closes without a good-bye, the scribbling goes on
  while (sender_.state() != PeerState::lost) std::this_thread::sleep_for(milliseconds(1));
  EXPECT_EQ(sender_.send({}), SendStatus::peer_lost);
  EXPECT_FALSE(sender_.stats().error.empty());
  over = true;
}

TEST_P(HostileReceiverTest, a_ring_holds_no_more_than_its_capacity_whatever_is_said) {
  if (!local()) return;
  grant_everything();
  const RingMemory& ring = parts_->ring;
  constexpr std::uint64_t kCount = 10'000;
  for (std::uint64_t i = 0; i < kCount; ++i) ASSERT_EQ(sender_.send(bytes_of(i)), SendStatus::sent);
  // Messages without end, by the look of it, none of them consumed.
  for (Cursor at = 0; at < kCapacity; at += sizeof(RecordHeader)) {
    const RecordHeader header{header_word(0, kSelfProved), 0};
    HostileSender::scribble(ring.data + at, std::as_bytes(std::span(&header, 1)));
  }
  ring.control->consumed = 0;
  EXPECT_GE(sender_.stats().progress.consumed, kCount - kCapacity / sizeof(RecordHeader));
}

TEST_P(HostileReceiverTest, a_sleeper_that_was_taken_from_its_futex_comes_back) {
  if (!local()) return;
  RingControl& control = *parts_->ring.control;
  const std::vector<std::byte> message(1'000);
  while (sender_.try_send(message) == SendStatus::sent) {
  }
  std::jthread blocked([&] { EXPECT_EQ(sender_.send(message), SendStatus::peer_lost); });
  // Moves it to a word that nobody wakes.
  while (::syscall(SYS_futex, &control.credit_epoch, FUTEX_REQUEUE, 0, 1, &control.sender_gone,
                   0) != 1) {
    std::this_thread::sleep_for(milliseconds(1));
  }
  parts_->connection->stop();
  blocked.join();
}

INSTANTIATE_TEST_SUITE_P(Paths, HostileReceiverTest,
                         testing::Values(Path{"torn_ordered", "torn", "seed=1"},
                                         Path{"torn_unordered", "torn", "seed=1&ordered=0"},
                                         Path{"shm", "shm", "liveness=10s"}),
                         [](const auto& name) { return name.param.name; });

// ── Failing links ───────────────────────────────────────────────────────────────────────────────

TEST(FailingLinkTest, both_sides_are_told_and_the_others_go_on) {
  ensure_torn_link();
  Receiver receiver = penstock::bind(fresh_uri("torn", "seed=1&capacity=4KiB"));
  const std::string uri = receiver.uris().at(0);
  for (int posts = 1; posts < 40; posts += 3) {  // the first is the proof of the path
    Sender good = connect(uri + "?seed=2");
    Sender failing = connect(uri + "?seed=1&fail_after=" + std::to_string(posts));
    std::jthread sending([&] {
      std::uint64_t i = 0;
      SendStatus status = SendStatus::sent;
      while (status == SendStatus::sent) status = failing.send(bytes_of(i++));
      EXPECT_EQ(status, SendStatus::peer_lost);
      EXPECT_NE(failing.stats().error.find("fail_after"), std::string::npos)
          << failing.stats().error;
      EXPECT_EQ(good.send(bytes_of(i)), SendStatus::sent);
      EXPECT_EQ(good.close(), FlushStatus::consumed);
    });
    std::uint64_t next = 0;
    int losses = 0;
    RecvStatus status = RecvStatus::received;
    while (status != RecvStatus::closed) {
      const Message message = receiver.recv();
      status = message.status();
      if (status == RecvStatus::peer_lost) {
        ++losses;
        EXPECT_EQ(message.loss()->progress.consumed, next);
      } else if (message) {
        std::uint64_t number = 0;
        ASSERT_EQ(message.data().size(), sizeof(number));
        std::memcpy(&number, message.data().data(), sizeof(number));
        if (number == next) ++next;  // else the good sender's only one
      }
    }
    EXPECT_EQ(losses, 1);
  }
}

// ── Strangers at the control port ───────────────────────────────────────────────────────────────

class StrangerTest : public testing::TestWithParam<Path> {
 protected:
  StrangerTest() {
    ensure_torn_link();
    receiver_ =
        penstock::bind(fresh_uri(scheme(), std::string("persistent=1&") + GetParam().query));
    uri_ = Uri::parse(receiver_.uris().at(0));
    good_ = connect_here();
  }
  void TearDown() override {
    // Whoever came by, the channel goes on.
    EXPECT_EQ(good_.send(bytes_of(std::uint64_t{7})), SendStatus::sent);
    EXPECT_TRUE(receiver_.recv());
    EXPECT_EQ(receiver_.stats().sources.size(), 1U);
  }

  [[nodiscard]] static std::string scheme() { return GetParam().scheme; }
  [[nodiscard]] Sender connect_here() const {
    return connect(receiver_.uris().at(0) + "?" + GetParam().query,
                   {.deadline = std::chrono::minutes(5)});
  }

  [[nodiscard]] int dial() const {
    if (uri_.host.empty()) {
      const int socket = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
      const std::string name = "penstock/" + uri_.name;
      sockaddr_un address{};
      address.sun_family = AF_UNIX;
      name.copy(address.sun_path + 1, name.size());
      const auto length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + name.size());
      EXPECT_EQ(::connect(socket, reinterpret_cast<const sockaddr*>(&address), length), 0);
      return socket;
    }
    const int socket = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(uri_.port);
    ::inet_pton(AF_INET, "127.0.0.1", &address.sin_addr);
    EXPECT_EQ(::connect(socket, reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0);
    return socket;
  }
  static void say(int socket, std::string_view text) {
    (void)::send(socket, text.data(), text.size(), MSG_NOSIGNAL);
  }
  static void say(int socket, std::span<const std::byte> bytes) {
    say(socket, std::string_view(reinterpret_cast<const char*>(bytes.data()), bytes.size()));
  }
  /// Everything that comes until the other side closes.
  static std::vector<std::byte> read_to_end(int socket) {
    std::vector<std::byte> all;
    std::array<std::byte, 4096> some{};
    ssize_t got = 0;
    while ((got = ::recv(socket, some.data(), some.size(), 0)) > 0) {
      all.insert(all.end(), some.begin(), some.begin() + got);
    }
    ::close(socket);
    return all;
  }
  [[nodiscard]] Hello good_hello() const {
    Hello hello;
    hello.channel = uri_.name;
    hello.paths = {scheme()};
    hello.page_size = 4096;
    hello.max_capacity = kMaxCapacity;
    hello.liveness_ns = 1'000'000'000;
    return hello;
  }
  /// A sender by hand, up to and with the receiver's go.
  [[nodiscard]] int enter() {
    const int socket = dial();
    say(socket, encode(good_hello()));
    FrameReader reader;
    expect_frame(socket, reader, FrameType::welcome);
    say(socket, encode(Ready{}));
    expect_frame(socket, reader, FrameType::go);
    return socket;
  }
  static void expect_frame(int socket, FrameReader& reader, FrameType type) {
    std::array<std::byte, 4096> some{};
    for (;;) {
      if (const auto frame = reader.next()) {
        EXPECT_EQ(frame->type, type);
        return;
      }
      const ssize_t got = ::recv(socket, some.data(), some.size(), 0);
      ASSERT_GT(got, 0);
      reader.append(std::span(some).first(static_cast<std::size_t>(got)));
    }
  }
  /// What a receiver answers to a hello that it does not accept.
  Reject reject_of(const Hello& hello) {
    const int socket = dial();
    say(socket, encode(hello));
    FrameReader reader;
    reader.append(read_to_end(socket));
    const auto frame = reader.next();
    if (!frame || frame->type != FrameType::reject) {
      ADD_FAILURE() << "no reject";
      return {};
    }
    return decode_reject(frame->body);
  }

  Receiver receiver_;
  Sender good_;
  Uri uri_;
};

TEST_P(StrangerTest, other_protocols_are_turned_away) {
  using std::string_literals::operator""s;
  const auto before = receiver_.stats().refused;
  const std::array strangers{
      "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"s,
      "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"s + std::string(500, 'x'),
      "SSH-2.0-OpenSSH_9.2\r\n"s,
      std::string(100'000, '\0'),
      "x"s,
  };
  for (const std::string& stranger : strangers) {
    const int socket = dial();
    say(socket, stranger);
    EXPECT_TRUE(read_to_end(socket).empty()) << "a stranger gets no answer";
  }
  EXPECT_EQ(receiver_.stats().refused, before + strangers.size());
}

TEST_P(StrangerTest, random_bytes_are_turned_away) {
  std::mt19937 random(1);
  for (int i = 0; i < 50; ++i) {
    std::string noise(1 + random() % 3'000, '\0');
    for (char& c : noise) c = static_cast<char>(random());
    if (i % 2 == 0) {
      // Begins as a hello does.
      const FrameHeader header{
          kFrameMagic, static_cast<std::uint16_t>(random() % 10), 0,
          static_cast<std::uint32_t>(random() % 5 == 0 ? random() : noise.size())};
      noise.insert(0, reinterpret_cast<const char*>(&header), sizeof(header));
    }
    const int socket = dial();
    say(socket, noise);
    ::shutdown(socket, SHUT_WR);
    (void)read_to_end(socket);
  }
}

TEST_P(StrangerTest, truncated_hellos_are_turned_away) {
  const auto whole = encode(good_hello());
  for (std::size_t size = 0; size < whole.size(); ++size) {
    const int socket = dial();
    say(socket, std::span(whole).first(size));
    ::shutdown(socket, SHUT_WR);
    EXPECT_TRUE(read_to_end(socket).empty()) << size;
  }
}

TEST_P(StrangerTest, changed_hellos_do_no_harm) {
  const auto whole = encode(good_hello());
  std::mt19937 random(2);
  for (int i = 0; i < 300; ++i) {
    auto changed = whole;
    for (auto n = 1 + random() % 4; n > 0; --n) {
      changed[random() % changed.size()] = static_cast<std::byte>(random());
    }
    const int socket = dial();
    say(socket, changed);
    ::shutdown(socket, SHUT_WR);
    (void)read_to_end(socket);
  }
}

TEST_P(StrangerTest, a_hello_without_a_ready_is_given_up) {
  const int socket = dial();
  say(socket, encode(good_hello()));
  say(socket, "and now for something different");
  EXPECT_FALSE(read_to_end(socket).empty()) << "the welcome";
  const int out_of_turn = dial();
  say(out_of_turn, encode(good_hello()));
  say(out_of_turn, encode_empty(FrameType::go));
  EXPECT_FALSE(read_to_end(out_of_turn).empty());
  if (scheme() == "shm") return;  // its ready says nothing
  const int bad_link = dial();
  say(bad_link, encode(good_hello()));
  say(bad_link, encode(Ready{std::vector<std::byte>(1'000)}));
  EXPECT_FALSE(read_to_end(bad_link).empty());
}

TEST_P(StrangerTest, silent_connections_hold_nobody_up) {
  std::vector<int> silent;
  for (int i = 0; i < 50; ++i) silent.push_back(dial());
  Sender another = connect_here();
  EXPECT_EQ(another.send(bytes_of(std::uint64_t{1})), SendStatus::sent);
  EXPECT_TRUE(receiver_.recv());
  EXPECT_EQ(another.close(), FlushStatus::consumed);
  another = Sender();
  for (const int socket : silent) ::close(socket);
  while (receiver_.stats().sources.size() != 1) {
    EXPECT_EQ(receiver_.try_recv().status(), RecvStatus::empty);
  }
}

TEST_P(StrangerTest, what_comes_after_the_handshake_is_judged_too) {
  if (scheme() != "shm") return;  // the other's ready takes a link
  using std::string_literals::operator""s;
  const auto text = [](std::span<const std::byte> bytes) {
    return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  };
  const auto frame = [&](std::uint16_t type, std::uint32_t length, const std::string& body) {
    const FrameHeader header{kFrameMagic, type, 0, length};
    return text(std::as_bytes(std::span(&header, 1))) + body;
  };
  const std::string ping = text(encode_empty(FrameType::ping));
  std::string noise(3'000, '\0');
  std::mt19937 random(3);
  for (char& c : noise) c = static_cast<char>(random());
  const std::array leaving{
      "GET / HTTP/1.1\r\n\r\n"s,
      noise,
      ping + noise,
      text(encode(good_hello())),
      text(encode_empty(FrameType::go)),
      frame(99, 0, ""),
      frame(6, 0xFFFF'FFFF, ""),
      frame(7, 100, std::string(100, '\xFF')),
      frame(7, 11, "\x16\0\0\0\x03\0\0\0abc"s),  // a cursor of three bytes
      frame(7, 0, ""),                           // none
  };
  for (const std::string& last : leaving) {
    const int socket = enter();
    say(socket, last);
    const Message message = receiver_.recv();
    ASSERT_EQ(message.status(), RecvStatus::peer_lost) << to_string(message.status());
    EXPECT_GT(message.loss()->reason.size(), 20U);
    ::close(socket);
  }
  // And one that goes in the middle of a message.
  const int socket = enter();
  say(socket, ping.substr(0, 5));
  ::close(socket);
  EXPECT_EQ(receiver_.recv().status(), RecvStatus::peer_lost);
}

TEST_P(StrangerTest, a_flood_of_pings_keeps_nobody_from_the_engine) {
  if (scheme() != "shm") return;  // the other's ready takes a link
  const int socket = enter();
  std::atomic<bool> over = false;
  std::jthread flood([&] {
    std::vector<std::byte> pings;
    while (pings.size() < 60'000) {
      const auto ping = encode_empty(FrameType::ping);
      pings.insert(pings.end(), ping.begin(), ping.end());
    }
    while (!over) say(socket, pings);
  });
  {
    Sender another = connect_here();
    EXPECT_EQ(another.send(bytes_of(std::uint64_t{1})), SendStatus::sent);
    EXPECT_TRUE(receiver_.recv());
    EXPECT_EQ(another.close(), FlushStatus::consumed);
  }
  over = true;
  flood.join();
  ::close(socket);
  EXPECT_EQ(receiver_.recv().status(), RecvStatus::peer_lost);
}

TEST_P(StrangerTest, mismatches_are_named) {
  Hello hello = good_hello();
  hello.version_min = hello.version_max = 99;
  EXPECT_EQ(reject_of(hello).code, Errc::version_mismatch);
  hello = good_hello();
  hello.features_required = 1U << 5U;
  EXPECT_EQ(reject_of(hello).code, Errc::feature_mismatch);
  hello = good_hello();
  hello.type.fingerprint = 42;
  EXPECT_EQ(reject_of(hello).code, Errc::type_mismatch);
  hello = good_hello();
  hello.channel = "another";
  EXPECT_EQ(reject_of(hello).code, Errc::no_such_channel);
  hello = good_hello();
  hello.max_capacity = 4096;
  EXPECT_EQ(reject_of(hello).code, Errc::geometry_mismatch);
}

INSTANTIATE_TEST_SUITE_P(Paths, StrangerTest,
                         testing::Values(Path{"torn", "torn", "seed=1"},
                                         Path{"shm", "shm", "liveness=10s"}),
                         [](const auto& name) { return name.param.name; });

// ── What a sender may find instead of a receiver ────────────────────────────────────────────────

/// Listens where a shm receiver would, and answers one hello with what the test likes.
class FalseReceiver {
 public:
  FalseReceiver() : socket_(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    const std::string name = "penstock/" + uri_.name;
    name.copy(address.sun_path + 1, name.size());
    const auto length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + name.size());
    EXPECT_EQ(::bind(socket_.get(), reinterpret_cast<const sockaddr*>(&address), length), 0);
    EXPECT_EQ(::listen(socket_.get(), 1), 0);
  }

  /// What connect() makes of an answer and these descriptors, after which the stream ends.
  Errc answer(std::span<const std::byte> bytes, const std::vector<int>& descriptors = {}) {
    std::jthread receiver([&, this] {
      const Fd peer(::accept4(socket_.get(), nullptr, nullptr, SOCK_CLOEXEC));
      std::array<std::byte, 4096> hello{};
      EXPECT_GT(::recv(peer.get(), hello.data(), hello.size(), 0), 0);
      send_all(peer.get(), bytes, descriptors);
      ::shutdown(peer.get(), SHUT_WR);
      while (::recv(peer.get(), hello.data(), hello.size(), 0) > 0) {
      }
    });
    try {
      const Sender sender = connect(uri_.text());
      ADD_FAILURE() << "connected";
    } catch (const SetupError& error) {
      EXPECT_GT(std::strlen(error.what()), 20U);
      return error.errc();
    }
    return Errc::system;
  }
  Errc answer(const Welcome& welcome, const std::vector<int>& descriptors = {}) {
    return answer(encode(welcome), descriptors);
  }

  static Welcome good_welcome() {
    Welcome welcome;
    welcome.path = "shm";
    welcome.capacity = welcome.window = kCapacity;
    welcome.page_size = 4096;
    welcome.liveness_ns = 1'000'000'000;
    return welcome;
  }

 private:
  static void send_all(int socket, std::span<const std::byte> bytes,
                       const std::vector<int>& descriptors) {
    iovec piece{const_cast<std::byte*>(bytes.data()), bytes.size()};
    msghdr message{};
    message.msg_iov = &piece;
    message.msg_iovlen = 1;
    alignas(cmsghdr) std::array<char, CMSG_SPACE(16 * sizeof(int))> control{};
    const std::size_t length = descriptors.size() * sizeof(int);
    if (!descriptors.empty()) {
      message.msg_control = control.data();
      message.msg_controllen = CMSG_SPACE(length);
      cmsghdr* header = CMSG_FIRSTHDR(&message);
      header->cmsg_level = SOL_SOCKET;
      header->cmsg_type = SCM_RIGHTS;
      header->cmsg_len = CMSG_LEN(length);
      std::memcpy(CMSG_DATA(header), descriptors.data(), length);
    }
    // The sender may have given up already.
    (void)::sendmsg(socket, &message, MSG_NOSIGNAL);
  }

  const Uri uri_ = Uri::parse(fresh_uri("shm", "deadline=60s"));
  const Fd socket_;
};

TEST(FalseReceiverTest, other_answers_than_a_welcome) {
  FalseReceiver receiver;
  const auto text = [](std::string_view words) { return std::as_bytes(std::span(words)); };
  EXPECT_EQ(receiver.answer(text("HTTP/1.1 400 Bad Request\r\n\r\n")), Errc::handshake_failed);
  EXPECT_EQ(receiver.answer(text("P")), Errc::handshake_failed);
  EXPECT_EQ(receiver.answer(encode_empty(FrameType::go)), Errc::handshake_failed);
  EXPECT_EQ(receiver.answer(encode_empty(FrameType::welcome)), Errc::version_mismatch);
  EXPECT_EQ(receiver.answer(encode_goodbye(FrameType::closed, 0)), Errc::unreachable);
  const auto whole = encode(FalseReceiver::good_welcome());
  EXPECT_EQ(receiver.answer(std::span(whole).first(whole.size() - 1)), Errc::handshake_failed);
}

TEST(FalseReceiverTest, welcomes_that_make_no_sense) {
  FalseReceiver receiver;
  const auto with = [&](const auto& change) {
    Welcome welcome = FalseReceiver::good_welcome();
    change(welcome);
    return receiver.answer(welcome);
  };
  EXPECT_EQ(with([](Welcome& w) { w.version = 2; }), Errc::version_mismatch);
  EXPECT_EQ(with([](Welcome& w) { w.features = 1U << 5U; }), Errc::feature_mismatch);
  EXPECT_EQ(with([](Welcome& w) { w.path = "torn"; }), Errc::handshake_failed);
  for (const std::uint64_t capacity : {std::uint64_t{0}, kCapacity - 1, kCapacity / 2,
                                       2 * kMaxCapacity, std::uint64_t{1} << 63U}) {
    EXPECT_EQ(with([&](Welcome& w) { w.capacity = w.window = capacity; }), Errc::geometry_mismatch);
  }
  for (const std::uint64_t window :
       {std::uint64_t{0}, std::uint64_t{16}, kCapacity + 16, ~std::uint64_t{0}}) {
    EXPECT_EQ(with([&](Welcome& w) { w.window = window; }), Errc::geometry_mismatch);
  }
}

TEST(FalseReceiverTest, memory_that_is_not_as_promised) {
  FalseReceiver receiver;
  const Welcome welcome = FalseReceiver::good_welcome();
  const Fd wake(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
  const Fd blocking(::eventfd(0, EFD_CLOEXEC));
  const auto memory = [](std::uint64_t length, int seals) {
    Fd fd(::memfd_create("penstock-test", MFD_CLOEXEC | MFD_ALLOW_SEALING));
    EXPECT_EQ(::ftruncate(fd.get(), static_cast<off_t>(length)), 0);
    EXPECT_EQ(::fcntl(fd.get(), F_ADD_SEALS, seals), 0);
    return fd;
  };
  constexpr int kSeals = F_SEAL_SHRINK | F_SEAL_GROW;
  const Fd right = memory(4096 + kCapacity, kSeals);
  const Fd small = memory(4096, kSeals);
  const Fd unsealed = memory(4096 + kCapacity, 0);
  const Fd may_shrink = memory(4096 + kCapacity, F_SEAL_GROW);
  const Fd read_only = memory(4096 + kCapacity, kSeals | F_SEAL_WRITE);
  EXPECT_EQ(receiver.answer(welcome), Errc::handshake_failed);
  EXPECT_EQ(receiver.answer(welcome, {right.get()}), Errc::handshake_failed);
  EXPECT_EQ(receiver.answer(welcome, {right.get(), wake.get(), wake.get()}),
            Errc::handshake_failed);
  EXPECT_EQ(receiver.answer(welcome, std::vector<int>(12, wake.get())), Errc::handshake_failed);
  EXPECT_EQ(receiver.answer(welcome, {small.get(), wake.get()}), Errc::geometry_mismatch);
  EXPECT_EQ(receiver.answer(welcome, {wake.get(), right.get()}), Errc::geometry_mismatch);
  EXPECT_EQ(receiver.answer(welcome, {unsealed.get(), wake.get()}), Errc::handshake_failed);
  EXPECT_EQ(receiver.answer(welcome, {may_shrink.get(), wake.get()}), Errc::handshake_failed);
  EXPECT_EQ(receiver.answer(welcome, {read_only.get(), wake.get()}), Errc::system);
  EXPECT_EQ(receiver.answer(welcome, {right.get(), blocking.get()}), Errc::handshake_failed);
  EXPECT_EQ(receiver.answer(welcome, {right.get(), right.get()}), Errc::handshake_failed);
  // All right, but no go.
  EXPECT_EQ(receiver.answer(welcome, {right.get(), wake.get()}), Errc::handshake_failed);
}

}  // namespace
}  // namespace penstock::test
