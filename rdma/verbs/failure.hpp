// Words for what goes wrong on a queue pair.
#pragma once

#include <infiniband/verbs.h>

#include <cstddef>
#include <string>
#include <string_view>

namespace penstock::inline v1::verbs {

/// The likely cause of a completion status, and what to look at.
[[nodiscard]] std::string_view likely_cause(ibv_wc_status status, bool ethernet) noexcept;

/// What a fatal asynchronous event means for a link.
[[nodiscard]] std::string_view event_cause(ibv_event_type event) noexcept;

/// The text for a registration of `bytes`, one of `all_bytes` that a link needs, that failed with
/// `error` (an errno value): with the limit of locked memory where that is the reason.
[[nodiscard]] std::string registration_text(std::string_view device, std::size_t bytes,
                                            std::size_t all_bytes, int error);

}  // namespace penstock::inline v1::verbs
