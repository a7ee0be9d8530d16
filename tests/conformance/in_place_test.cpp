// A remote message that is reserved, filled and read in place is copied by nobody but the device:
// what the sender filled is what was posted, and what the receiver reads is where that landed.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <mutex>
#include <span>
#include <utility>
#include <vector>

#include "penstock/channel/channel.hpp"
#include "penstock/transport/registry.hpp"
#include "tests/transport/torn_link.hpp"

namespace penstock {
namespace {

/// What goes through a link.
struct Seen {
  std::mutex mutex;
  std::vector<LinkRegion> written_by_peers;
  std::vector<std::span<const std::byte>> posted;  // into rings

  [[nodiscard]] bool was_posted(std::span<const std::byte> bytes) {
    const std::lock_guard lock(mutex);
    return std::ranges::any_of(posted, [&](auto all) {
      return all.data() <= bytes.data() && bytes.data() + bytes.size() <= all.data() + all.size();
    });
  }
  [[nodiscard]] bool lands_here(std::span<const std::byte> bytes) {
    const std::lock_guard lock(mutex);
    return std::ranges::any_of(written_by_peers, [&](const LinkRegion& region) {
      return region.base <= bytes.data() &&
             bytes.data() + bytes.size() <= region.base + region.length;
    });
  }
};

class SeenLink final : public Link {
 public:
  SeenLink(std::unique_ptr<Link> link, std::shared_ptr<Seen> seen)
      : link_(std::move(link)), seen_(std::move(seen)) {}

  [[nodiscard]] PostStatus post(std::span<const RemoteWrite> writes,
                                std::optional<std::uint32_t> immediate,
                                std::uint64_t cookie) noexcept override {
    const auto status = link_->post(writes, immediate, cookie);
    const std::lock_guard lock(seen_->mutex);
    for (const auto& write : writes)
      if (!write.copied && write.region == kRingRegion)
        seen_->posted.emplace_back(write.source, write.length);
    return status;
  }
  [[nodiscard]] std::vector<std::byte> describe() const override { return link_->describe(); }
  void connect(std::span<const std::byte> peer) override { link_->connect(peer); }
  [[nodiscard]] LinkLimits limits() const noexcept override { return link_->limits(); }
  [[nodiscard]] std::size_t poll(std::span<LinkEvent> events) noexcept override {
    return link_->poll(events);
  }
  void arm(bool completions, bool immediates) noexcept override {
    link_->arm(completions, immediates);
  }
  void disarm() noexcept override { link_->disarm(); }
  [[nodiscard]] int event_fd() const noexcept override { return link_->event_fd(); }
  [[nodiscard]] std::string error() const override { return link_->error(); }
  [[nodiscard]] LinkCounters counters() const noexcept override { return link_->counters(); }
  [[nodiscard]] std::string path() const override { return link_->path(); }

 private:
  const std::unique_ptr<Link> link_;
  const std::shared_ptr<Seen> seen_;
};

class SeenProvider final : public LinkProvider {
 public:
  explicit SeenProvider(std::shared_ptr<Seen> seen) : seen_(std::move(seen)) {}
  [[nodiscard]] std::string_view scheme() const noexcept override { return "seen"; }
  [[nodiscard]] std::vector<std::string> option_names() const override {
    return torn_.option_names();
  }
  [[nodiscard]] ProbeReport probe() const override { return torn_.probe(); }
  [[nodiscard]] std::unique_ptr<Link> open(const LinkConfig& config) override {
    {
      const std::lock_guard lock(seen_->mutex);
      for (const auto& region : config.regions)
        if (region.remote_write) seen_->written_by_peers.push_back(region);
    }
    return std::make_unique<SeenLink>(torn_.open(config), seen_);
  }

 private:
  test::TornLinkProvider torn_;
  const std::shared_ptr<Seen> seen_;
};

TEST(InPlace, no_byte_of_a_message_is_copied_by_us) {
  const auto seen = std::make_shared<Seen>();
  register_links(std::make_shared<SeenProvider>(seen));
  auto receiver = penstock::bind("seen://127.0.0.1:0/in-place?capacity=64KiB");
  auto sender = penstock::connect(receiver.uris().at(0));
  for (const std::size_t size : {1U, 64U, 2048U, 5'000U, 32'000U}) {
    auto room = sender.reserve(size);
    ASSERT_TRUE(room);
    const auto filled = room.data();
    std::memset(filled.data(), static_cast<int>(size % 251), size);
    room.commit();
    const auto message = receiver.recv();
    ASSERT_EQ(message.data().size(), size);
    EXPECT_EQ(message.data().back(), std::byte(size % 251));
    EXPECT_TRUE(seen->was_posted(filled)) << size;
    EXPECT_TRUE(seen->lands_here(message.data())) << size;
    EXPECT_FALSE(seen->lands_here(filled)) << "the ring and its mirror are two";
  }
}

TEST(InPlace, within_a_process_the_room_is_the_message) {
  auto receiver = penstock::bind("inproc:in-place");
  auto sender = penstock::connect("inproc:in-place");
  auto room = sender.reserve(1'000);
  const auto* const filled = room.data().data();
  room.commit();
  EXPECT_EQ(receiver.recv().data().data(), filled);
}

}  // namespace
}  // namespace penstock
