// Which transports there are, by scheme.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "penstock/transport/transport.hpp"

namespace penstock::inline v1 {

/// The transport for `scheme`: built in, registered, or loaded from a module. Thread-safe.
/// Throws SetupError{unknown_scheme, module_broken} with the loader's reason.
[[nodiscard]] std::shared_ptr<Transport> find_transport(std::string_view scheme);

/// Adds a transport, or replaces the one of that scheme.
void register_transport(std::shared_ptr<Transport> transport);
/// Adds a remote transport made of links, with penstock's own rendezvous over TCP.
void register_links(std::shared_ptr<LinkProvider> provider);

/// Every scheme known here, modules in the search path included, sorted.
[[nodiscard]] std::vector<std::string> known_schemes();

}  // namespace penstock::inline v1
