// A link over UCX's active messages, by one worker of its own.
//
// A post is one message: its head names places in the regions, its body is what belongs there. The
// handler checks and places it. UCX's own puts are not used: where the network has none, as TCP,
// UCX makes them of messages, too, and then (1.13) the target writes to whatever address such a
// message names, whoever sent it, and its answer to a sender that has just gone ends the target's
// process ("Fatal: unexpected error: Endpoint timeout").
//
// Who calls what: whoever holds the link's progress token (link.hpp). UCX calls back only inside
// the calls made here, so nothing else runs beside them.
//
// Invariants
//   - Posts are numbered from 1, and placed in that order: one out of order fails the link.
//   - A post is complete when the peer has said that it was placed; until then the device may read
//     its sources. The peer says so in each post of its own, and else in a Word, one at a time on
//     its way: when many posts wait for it, in the first poll() after a while, or when it is asked.
//     This end asks when it is armed for completions, or polls for long in vain: so none is waited
//     for that nobody tells of.
//   - What does not begin with the secret that this end described comes from a stranger, and is
//     dropped.
//   - Once failed_ is set, nothing is posted and no completion is believed any more.
//
// Nothing arrives but in poll(): a reader polls, and one that sleeps is woken by event_fd().
//
// Lifetime: destruction closes the endpoint by force and destroys the worker: nothing of the peer
// is placed any more.
#pragma once

#include <ucp/api/ucp.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "penstock/rdma/ucx/context.hpp"
#include "penstock/rdma/ucx/error_log.hpp"
#include "penstock/transport/bell.hpp"
#include "penstock/transport/clock.hpp"
#include "penstock/transport/fd.hpp"
#include "penstock/transport/link.hpp"

namespace penstock::inline v1::ucx {

class UcxLink final : public Link {
 public:
  /// Throws SetupError.
  UcxLink(std::shared_ptr<Context> context, std::vector<LinkRegion> regions);
  UcxLink(const UcxLink&) = delete;
  UcxLink& operator=(const UcxLink&) = delete;
  UcxLink(UcxLink&&) = delete;
  UcxLink& operator=(UcxLink&&) = delete;
  ~UcxLink() override;

  [[nodiscard]] std::vector<std::byte> describe() const override;
  void connect(std::span<const std::byte> peer) override;
  [[nodiscard]] LinkLimits limits() const noexcept override;
  [[nodiscard]] PostStatus post(std::span<const RemoteWrite> writes,
                                std::optional<std::uint32_t> immediate,
                                std::uint64_t cookie) noexcept override;
  [[nodiscard]] std::size_t poll(std::span<LinkEvent> events) noexcept override;
  void arm(bool completions, bool immediates) noexcept override;
  void disarm() noexcept override;
  [[nodiscard]] int event_fd() const noexcept override { return events_fd_.get(); }
  [[nodiscard]] std::string error() const override { return failure_; }
  [[nodiscard]] LinkCounters counters() const noexcept override { return counters_; }
  [[nodiscard]] std::string path() const override;

 private:
  static constexpr std::size_t kMostPosts = 64;
  static constexpr std::size_t kMostPieces = 15;
  static constexpr std::size_t kInbox = 128;

  using Secret = std::array<std::uint64_t, 2>;
  struct Piece {
    std::uint64_t offset;
    std::uint32_t region;
    std::uint32_t length;
  };
  /// As they travel, little-endian (docs/wire.md).
  struct Head {
    Secret secret;
    std::uint64_t number;
    std::uint64_t placed;  // of the other's posts: all up to and with this number
    std::uint32_t has_immediate;
    std::uint32_t immediate;
    std::array<Piece, kMostPieces> pieces;  // as many as there are, no more
  };
  struct Word {
    Secret secret;
    std::uint64_t placed;
    std::uint64_t asks;  // 1: say what you placed
  };
  static_assert(offsetof(Head, pieces) == 40 && sizeof(Piece) == 16 && sizeof(Word) == 32);
  /// A post under way.
  struct Post {
    std::uint64_t cookie = 0;
    Head head;
    std::array<ucp_dt_iov_t, kMostPieces> body;
    std::array<std::array<std::byte, kMaxCopied>, kMostPieces> copies;
  };

  void make_worker();
  void take_messages(unsigned id, ucp_am_recv_callback_t handler);
  void watch_descriptors();
  void watch_worker(bool watched) noexcept;
  void tell_of(bool& armed) noexcept;
  void close() noexcept;
  ucs_status_t make_endpoint(std::span<const std::byte> address, ucp_err_handling_mode_t errors);
  [[nodiscard]] bool allowed(const RemoteWrite& write) const noexcept;
  [[nodiscard]] ucs_status_ptr_t begin(unsigned id, const void* head, std::size_t head_length,
                                       const ucp_dt_iov_t* body, std::size_t pieces) noexcept;
  void tell() noexcept;
  void ask() noexcept;
  void look_at_clock() noexcept;
  void heed_placed(std::uint64_t number) noexcept;
  void place(std::span<const std::byte> head, std::span<const std::byte> body) noexcept;
  void heed_word(std::span<const std::byte> head) noexcept;
  void fail(std::string_view what) noexcept;
  void fail(ucs_status_t status) noexcept;
  [[noreturn]] void refuse(Errc code, const char* what, ucs_status_t status) const;

  const std::shared_ptr<Context> context_;
  const std::vector<LinkRegion> regions_;  // that the peer may write
  Secret secret_{};
  ucp_worker_h worker_ = nullptr;
  ucp_ep_h endpoint_ = nullptr;
  bool may_be_forced_ = true;
  Secret peer_secret_{};
  std::vector<std::uint64_t> peer_regions_;  // lengths
  Fd events_fd_;
  int worker_fd_ = -1;  // the worker's own
  bool worker_watched_ = false;
  bool completions_armed_ = false;
  bool immediates_armed_ = false;
  Bell bell_;  // what the worker's descriptor does not tell of

  std::vector<Post> posts_;  // a ring of kMostPosts
  std::uint64_t posted_ = 0;
  std::uint64_t finished_ = 0;
  std::uint64_t finished_cookie_ = 0;
  std::uint64_t reported_ = 0;
  std::uint64_t placed_ = 0;  // the peer's posts
  std::uint64_t told_ = 0;    // of them, the peer was told
  bool tell_now_ = false;     // it asked
  std::uint64_t asked_ = 0;   // of posts_, when this end last asked
  bool asks_ = false;         // in the next word
  // As far as the clock was looked at.
  TimePoint untold_since_{};
  TimePoint unfinished_since_{};
  std::uint32_t polls_ = 0;
  Word word_{};
  ucs_status_ptr_t word_under_way_ = nullptr;
  std::array<std::uint32_t, kInbox> inbox_{};
  std::uint64_t inbox_head_ = 0;
  std::uint64_t inbox_tail_ = 0;
  ErrorLog log_;
  bool failed_ = false;
  bool failure_reported_ = false;
  std::string failure_;
  LinkCounters counters_;
};

}  // namespace penstock::inline v1::ucx
