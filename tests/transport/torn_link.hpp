// A remote transport inside one process whose links do everything that a Link is allowed to do, and
// nothing that it need not: the worst device that keeps the promises of transport/link.hpp.
//
// - The bytes of a write land in any order and in any pieces, inside eight-byte words too, with
//   pauses between. The source is read at that moment, as a device does.
// - Writes of one link land one after another or, with `ordered=0`, mixed with one another; then
//   only an immediate proves that the writes before it have landed. The two directions of a link
//   are never ordered against each other.
// - Completions, immediates and wake-ups come late; wake-ups only when they were armed for exactly
//   that kind of event before it came, and sometimes for nothing.
// - A landing finds its memory, or the lack of it, when its bytes land: memory that was taken back
//   before fails both ends.
// - A peer that posts more immediates than the limits allow, a write outside of a region, a cookie
//   that does not rise, or two calls at a time end the process with a message.
//
// URI options: seed=N; ordered=0|1 (default 1); pace=fast|slow (default fast); fail_after=N (posts
// of this end after which the link fails; default never); overrun=abort|fail (what happens to an
// end that posts more immediates than the limits allow; default abort); can_land=0|1 (whether this
// end takes part in landings; default 1); rails=N (links to the same peer; default 1); lose=I (the
// one of them that fail_after means; default all).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "penstock/transport/link.hpp"

namespace penstock::test {

class TornEngine;

/// Thread-safe.
class TornLinkProvider final : public LinkProvider {
 public:
  TornLinkProvider();

  [[nodiscard]] std::string_view scheme() const noexcept override { return "torn"; }
  [[nodiscard]] std::vector<std::string> option_names() const override;
  [[nodiscard]] ProbeReport probe() const override;
  [[nodiscard]] std::vector<std::string> rails(const std::string& options,
                                               const std::string& local_host) const override;
  [[nodiscard]] std::unique_ptr<Link> open(const LinkConfig& config) override;

  /// An end that is open now.
  struct End {
    std::uint64_t id = 0;
    std::uint64_t peer = 0;              ///< 0 until it is connected
    std::vector<std::size_t> regions{};  ///< lengths of the regions that its peer may write
    std::size_t added = 0;               ///< bytes that were added and are not taken back
  };
  [[nodiscard]] std::vector<End> ends() const;
  /// Writes into what link `id` exposes, as a peer that misbehaves would. False: no such place now.
  bool poke(std::uint64_t id, std::uint32_t region, std::uint64_t offset,
            std::span<const std::byte> bytes);

 private:
  std::shared_ptr<TornEngine> engine_;
};

}  // namespace penstock::test
