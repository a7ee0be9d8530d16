// A link over one reliably connected queue pair.
//
// Who calls what: whoever holds the link's progress token (link.hpp). Only DeviceWatch is written
// by other threads, those that take the device's asynchronous events. add_memory() reads what never
// changes.
//
// Invariants
//   - Of a post, only the last work request is signalled. `unfinished_` has a post for each
//     completion that is still due, in order; room_ is what their work requests leave of the send
//     queue, so a post that fits never overruns it.
//   - kReceives receives stay posted but for those that one poll() has just taken.
//   - Once failed_ is set, nothing is posted and no completion is believed any more.
//
// Lifetime: the regions are registered from construction to destruction. A protection domain of
// its own keeps the keys of one link useless on any other. Destruction destroys the queue pair
// first, so that nothing of the peer lands in memory whose registration is being undone.
#pragma once

#include <infiniband/verbs.h>

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "penstock/rdma/verbs/description.hpp"
#include "penstock/rdma/verbs/device.hpp"
#include "penstock/rdma/verbs/path.hpp"
#include "penstock/transport/clock.hpp"
#include "penstock/transport/fd.hpp"
#include "penstock/transport/link.hpp"

namespace penstock::inline v1::verbs {

/// What a link asks of its queue pair; it gets by with less.
struct QueuePairWish {
  std::uint32_t send_requests = 256;
  std::uint32_t inline_bytes = 128;  ///< control lines and small records travel in the request
};

/// Receives that a link keeps posted. Twice what limits() promises, because a peer counts an
/// immediate as delivered when the device has acknowledged it, before poll() has reposted.
inline constexpr std::uint32_t kReceives = 64;
inline constexpr std::uint32_t kMaxWritesPerPost = 16;

/// What a device can do beyond its attributes, as a queue pair of it says.
struct QueuePairFacts {
  std::uint32_t inline_bytes = 0;
  bool data_in_order = false;  ///< the bytes of one write become visible in order
};

class VerbsLink final : public Link {
 public:
  /// Throws SetupError.
  VerbsLink(const PathChoice& path, std::vector<LinkRegion> regions,
            const QueuePairWish& wish = {});
  VerbsLink(const VerbsLink&) = delete;
  VerbsLink& operator=(const VerbsLink&) = delete;
  VerbsLink(VerbsLink&&) = delete;
  VerbsLink& operator=(VerbsLink&&) = delete;
  ~VerbsLink() override;

  [[nodiscard]] std::vector<std::byte> describe() const override;
  void connect(std::span<const std::byte> peer) override;
  [[nodiscard]] LinkLimits limits() const noexcept override;
  [[nodiscard]] PostStatus post(std::span<const RemoteWrite> writes,
                                std::optional<std::uint32_t> immediate,
                                std::uint64_t cookie) noexcept override;
  [[nodiscard]] std::unique_ptr<LinkMemory> add_memory(const LinkRegion& memory) noexcept override;
  [[nodiscard]] PostStatus land(const LandingWrite& write, std::uint64_t cookie) noexcept override;
  [[nodiscard]] std::size_t poll(std::span<LinkEvent> events) noexcept override;
  void arm(bool completions, bool immediates) noexcept override;
  void disarm() noexcept override;
  [[nodiscard]] int event_fd() const noexcept override { return events_fd_.get(); }
  [[nodiscard]] int events_apart(bool apart) noexcept override;
  [[nodiscard]] std::string error() const override;
  [[nodiscard]] LinkCounters counters() const noexcept override { return counters_; }
  [[nodiscard]] std::string path() const override;

  [[nodiscard]] QueuePairFacts queue_pair_facts() const noexcept;

 private:
  struct Post {
    std::uint64_t cookie;
    std::uint32_t requests;
    std::uint64_t bytes;
  };
  /// A completion queue on the link's channel.
  struct Queue {
    QueuePtr queue;
    bool armed = false;           // a notification was asked for and has not been taken
    unsigned unacknowledged = 0;  // notifications taken; destroying the queue waits for their ack
  };

  [[nodiscard]] Queue make_queue(std::uint32_t entries);
  void register_regions();
  void make_queue_pair(const QueuePairWish& wish);
  void chain_receives() noexcept;
  void watch_descriptors();
  void abandon() noexcept;
  void change_state(ibv_qp_attr& attributes, int mask, std::string_view state);

  [[nodiscard]] std::string where() const;        // "rxe0 port 1 GID 1 (192.0.2.1)"
  [[nodiscard]] std::string peer_text() const;    // "192.0.2.2"
  [[nodiscard]] std::string queue_pairs() const;  // "queue pair 0x11 -> 0x12"

  [[nodiscard]] const ibv_mr* registration_of(const RemoteWrite& write) const noexcept;
  [[nodiscard]] bool allowed(const RemoteWrite& write) const noexcept;
  void fill(ibv_send_wr& request, ibv_sge& piece, const RemoteWrite& write,
            std::uint64_t position) noexcept;
  [[nodiscard]] PostStatus hand_over(ibv_send_wr& first, ibv_send_wr& last, std::uint32_t count,
                                     std::uint64_t cookie) noexcept;
  [[nodiscard]] Post& unfinished(std::uint64_t number) noexcept {
    return unfinished_[number & (unfinished_.size() - 1)];
  }
  [[nodiscard]] int post_receives(std::uint32_t count) noexcept;
  [[nodiscard]] std::optional<std::uint64_t> poll_sends() noexcept;
  [[nodiscard]] std::size_t poll_receives(std::span<LinkEvent> events) noexcept;
  void look_at_device() noexcept;
  /// Work is unfinished: for how long has none been finished?
  void listen_for_silence() noexcept;
  void arm(Queue& queue) noexcept;
  [[nodiscard]] bool take_notifications() noexcept;

  /// What else is known that may have led to a failure: "; port 1 of rxe0 is down".
  [[nodiscard]] std::string circumstances() const;
  /// Takes the text of the first failure only.
  template <typename MakeText>
  void fail(MakeText make_text) noexcept;
  void fail_completion(std::string_view what, const ibv_wc& completion) noexcept;
  void fail_call(std::string_view call, int error) noexcept;

  std::shared_ptr<Device> device_;
  PortFacts port_;
  std::optional<GidEntry> gid_;
  Partition partition_;
  TravelWish travel_;
  ibv_mtu mtu_;  // the most that this end takes
  bool ordered_;
  std::vector<LinkRegion> regions_;
  std::uint32_t first_psn_ = 0;

  // Destroyed from the last to the first.
  DomainPtr domain_;
  ChannelPtr channel_;
  Queue sends_;
  Queue receives_;
  std::vector<RegionPtr> registered_;  // in the order of regions_
  std::vector<std::byte> staging_;     // a slot for each request, where inline is too small
  RegionPtr staging_registered_;
  QueuePairPtr queue_pair_;
  Fd events_fd_;
  DeviceWatch watch_;

  std::uint32_t depth_ = 0;  // work requests that the send queue holds
  std::uint32_t inline_bytes_ = 0;
  std::optional<Description> peer_;
  std::uint32_t packet_ = 0;

  std::vector<Post> unfinished_;  // a ring of at least depth_, a power of two
  std::uint64_t first_unfinished_ = 0;
  std::uint64_t next_unfinished_ = 0;
  std::uint32_t room_ = 0;
  std::uint64_t position_ = 0;  // work requests ever posted: picks the staging slot
  std::array<ibv_recv_wr, kReceives> receive_chain_{};
  std::uint32_t seen_generation_ = 0;
  std::uint64_t awaited_ = 0;  // the post that was the first unfinished one at the last look
  std::chrono::nanoseconds silence_{};  // since then
  TimePoint listened_at_{};
  std::uint32_t looks_ = 0;
  bool failed_ = false;
  bool failure_reported_ = false;
  std::string failure_;
  LinkCounters counters_;
};

}  // namespace penstock::inline v1::verbs
