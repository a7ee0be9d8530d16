// One link out of several that lead to the same peer, its rails (docs/adr/015-rails.md).
//
// The first rail that lives is the primary: all posts go over it in order, whole, but for the data
// of long ones, which is spread over all rails. A post's last write and its immediate follow on the
// primary when all of its data on other rails has completed, and after those of the posts before
// it: two rails have no order between them.
//
// A rail that is lost. What it had not completed is sent again over the others, in order; before
// that, the other end must have destroyed its end of it, as what is still on its way could
// otherwise land when its place has been used again. Each end tells the other of each rail that it
// has destroyed in an immediate of the rails' own, which also says how many immediates it has taken
// so far, so that those lost with the primary are sent again and none twice.
//
// Who writes what: the holder of the link's progress token, everything.
//
// Invariants
//   - head_ <= next_core_ <= next_bulk_ <= tail_: posts before head_ are complete, the last part
//     (the core) of those before next_core_ was handed to the primary, and no data of those before
//     next_bulk_ waits to be handed to a rail.
//   - The cores that were handed over and are not complete are all on the primary.
//   - While the other end may still listen on a rail that is lost here, neither what that rail had
//     nor a core is handed over.
//
// Lifetime: a lost rail's link is destroyed at once, which is the fence of link.hpp.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "penstock/transport/fd.hpp"
#include "penstock/transport/link.hpp"

namespace penstock::inline v1 {

class RailedLink final : public Link {
 public:
  /// From two to kMaxRails links, each joined to its peer, the primary first; the other end has as
  /// many, in the same order. Throws SetupError.
  explicit RailedLink(std::vector<std::unique_ptr<Link>> rails);

  /// Of the primary. The rails describe themselves, and are joined one by one, before.
  [[nodiscard]] std::vector<std::byte> describe() const override;
  void connect(std::span<const std::byte> peer) override;
  [[nodiscard]] LinkLimits limits() const noexcept override { return limits_; }
  [[nodiscard]] PostStatus post(std::span<const RemoteWrite> writes,
                                std::optional<std::uint32_t> immediate,
                                std::uint64_t cookie) noexcept override;
  /// Destroys a rail's link when it was lost, which may take system calls.
  [[nodiscard]] std::size_t poll(std::span<LinkEvent> events) noexcept override;
  void arm(bool completions, bool immediates) noexcept override;
  void disarm() noexcept override;
  [[nodiscard]] int event_fd() const noexcept override { return events_fd_.get(); }
  [[nodiscard]] std::string error() const override;
  [[nodiscard]] LinkCounters counters() const noexcept override;
  /// Of all rails; of a lost one also why.
  [[nodiscard]] std::string path() const override;

 private:
  static constexpr std::size_t kMaxPosts = 64;    // in the queue
  static constexpr std::size_t kMaxPieces = 512;  // of writes, of all posts
  static constexpr std::size_t kMaxCopies = 128;
  static constexpr std::size_t kMaxBatches = 128;  // posts on one rail
  static constexpr std::size_t kMaxWrites = 16;    // in one post
  static constexpr std::size_t kInbox = 64;
  static constexpr std::size_t kNoRail = ~std::size_t{0};
  /// Immediates that are remembered: those that the other end has not taken, and those queued.
  static constexpr std::size_t kMostUntaken = 64;
  static constexpr std::size_t kHistory = kMostUntaken + kMaxPosts;

  struct Batch {
    std::uint64_t cookie = 0;
    std::uint64_t bytes = 0;
  };
  struct Rail {
    std::unique_ptr<Link> link;  // null: lost
    std::string path;
    std::string why;              // it was lost
    std::uint64_t cookie = 0;     // of its last post
    std::uint64_t completed = 0;  // up to this cookie
    std::uint64_t bytes = 0;      // handed over and not completed
    std::array<Batch, kMaxBatches> batches{};
    std::uint64_t first_batch = 0;
    std::uint64_t next_batch = 0;
  };
  struct Piece {
    RemoteWrite write{};
    std::uint64_t cookie = 0;    // on its rail
    std::size_t rail = kNoRail;  // data only: that has it
  };
  struct Post {
    std::uint64_t cookie = 0;
    std::uint64_t first_piece = 0;
    std::uint64_t next_copy = 0;  // of the copies, those after this post's
    std::uint32_t bulk = 0;       // pieces of data that may go over any rail
    std::uint32_t core = 0;       // pieces that follow over the primary
    std::uint64_t number = 0;     // of its immediate; 0: it has none
    std::size_t core_rail = 0;
    std::uint64_t core_cookie = 0;
  };

  [[nodiscard]] Post& post_at(std::uint64_t index) noexcept { return posts_[index % kMaxPosts]; }
  [[nodiscard]] Piece& piece_at(std::uint64_t index) noexcept {
    return pieces_[index % kMaxPieces];
  }
  [[nodiscard]] bool completed(const Piece& piece) const noexcept {
    return piece.rail != kNoRail && rails_[piece.rail].completed >= piece.cookie;
  }
  [[nodiscard]] bool core_completed(const Post& post) const noexcept {
    return rails_[post.core_rail].completed >= post.core_cookie;
  }
  [[nodiscard]] std::size_t living() const noexcept;
  /// A rail is lost here, and the other end may still listen on it.
  [[nodiscard]] bool fenced_off() const noexcept { return (lost_ & ~peer_lost_) != 0; }
  [[nodiscard]] bool waits() const noexcept {
    return next_core_ < tail_ || told_ != lost_ || fenced_off() || unresolved_ ||
           resend_ < resend_end_;
  }

  [[nodiscard]] std::uint64_t worth_spreading(std::span<const RemoteWrite> writes) const noexcept;
  void add_piece(const RemoteWrite& write) noexcept;
  void arm_rails() noexcept;

  // What comes.
  void sweep() noexcept;
  void sweep(std::size_t rail) noexcept;
  void take_completed(Rail& rail, std::uint64_t cookie) noexcept;
  void hear(std::uint32_t news) noexcept;
  void lose(std::size_t rail, std::string_view why) noexcept;
  void fail(std::string_view why) noexcept;
  void retire() noexcept;

  // What goes; false: no further for now.
  void pump() noexcept;
  [[nodiscard]] bool tell() noexcept;
  [[nodiscard]] bool resolve() noexcept;
  [[nodiscard]] bool resend() noexcept;
  void push_bulk() noexcept;
  [[nodiscard]] bool push_bulk_of(Post& post) noexcept;
  void push_cores() noexcept;
  [[nodiscard]] bool bulk_is_ahead(const Post& post) noexcept;
  [[nodiscard]] std::size_t idlest() const noexcept;
  [[nodiscard]] PostStatus hand_over(std::size_t rail, std::span<const RemoteWrite> writes,
                                     std::optional<std::uint32_t> immediate) noexcept;

  std::vector<Rail> rails_;
  Fd events_fd_;
  LinkLimits limits_;
  std::size_t primary_ = 0;

  std::array<Post, kMaxPosts> posts_{};
  std::uint64_t head_ = 0;
  std::uint64_t next_bulk_ = 0;
  std::uint64_t next_core_ = 0;
  std::uint64_t tail_ = 0;
  std::array<Piece, kMaxPieces> pieces_{};
  std::uint64_t first_piece_ = 0;
  std::uint64_t next_piece_ = 0;
  std::array<std::array<std::byte, kMaxCopied>, kMaxCopies> copies_{};
  std::uint64_t first_copy_ = 0;
  std::uint64_t next_copy_ = 0;
  std::uint64_t done_cookie_ = 0;  // of the last complete post
  std::uint64_t reported_ = 0;     // ... and it was said

  // Immediates, numbered in the order of their posts.
  std::array<std::uint32_t, kHistory> history_{};
  std::uint64_t numbered_ = 0;
  std::uint64_t handed_over_ = 0;  // up to this number, at least once
  std::uint64_t peer_took_ = 0;    // up to this number, by its last word
  std::uint64_t resend_ = 1;       // of posts that are complete
  std::uint64_t resend_end_ = 1;
  bool unresolved_ = false;  // a primary was lost: what of its immediates was taken is not known
  std::array<std::uint32_t, kInbox> inbox_{};
  std::uint64_t inbox_head_ = 0;
  std::uint64_t inbox_tail_ = 0;  // so many were taken

  // Rails that are lost, a bit for each.
  std::uint32_t lost_ = 0;       // destroyed here
  std::uint32_t told_ = 0;       // ... and the other end was told
  std::uint32_t peer_lost_ = 0;  // destroyed there
  std::uint32_t peer_took_low_ = 0;

  bool look_at_all_ = true;
  std::uint64_t sweeps_ = 0;
  bool wants_completions_ = false;
  bool wants_immediates_ = false;
  std::string broken_;  // what ended the link though rails live
  bool failed_ = false;
  bool failure_reported_ = false;
  LinkCounters past_;  // of lost rails
};

}  // namespace penstock::inline v1
