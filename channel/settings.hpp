// Options from a URI's query.
#pragma once

#include "penstock/channel/options.hpp"
#include "penstock/transport/transport.hpp"
#include "penstock/transport/uri.hpp"

namespace penstock::inline v1 {

/// `options` with what the URI says laid over it, checked. Throws SetupError{bad_uri} for unknown
/// keys (naming the nearest known one), values that do not parse, and values out of range.
[[nodiscard]] BindOptions bind_settings(const Uri& uri, const Transport& transport,
                                        BindOptions options);
[[nodiscard]] ConnectOptions connect_settings(const Uri& uri, const Transport& transport,
                                              ConnectOptions options);

}  // namespace penstock::inline v1
