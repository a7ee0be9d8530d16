// Options from a URI's query.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "penstock/channel/options.hpp"
#include "penstock/transport/error.hpp"
#include "penstock/transport/transport.hpp"
#include "penstock/transport/uri.hpp"

namespace penstock::inline v1 {

/// Levenshtein's distance, for suggesting what was meant. O(|a| · |b|).
[[nodiscard]] std::size_t edit_distance(std::string_view a, std::string_view b);

/// An option of channels, whatever the transport.
struct ChannelOption {
  const char* name;
  bool bind;     ///< of BindOptions
  bool connect;  ///< of ConnectOptions
  OptionHelp help;
};
[[nodiscard]] const std::vector<ChannelOption>& channel_options();

/// The environment's variable for an option: PENSTOCK_GID_INDEX for gid_index.
[[nodiscard]] std::string variable_of(std::string_view option);

/// `uri`, and of its options those that it does not have from the environment, where that has them
/// (not heeded in a set-user-ID program). `step` gets it; its SetupError{bad_uri} tells of those
/// variables. Thread-safe beside others that only read the environment.
struct FromEnvironment {
  FromEnvironment(Uri uri, const Transport& transport);
  template <class Step>
  auto run(Step&& step) const {
    try {
      return step(uri);
    } catch (const SetupError& e) {
      if (e.errc() != Errc::bad_uri || variables.empty()) throw;
      throw SetupError(e.errc(),
                       std::string(e.what()) + " (from the environment: " + variables + ")");
    }
  }
  Uri uri;
  std::string variables;  ///< "PENSTOCK_SPIN, PENSTOCK_LINGER"; empty: none
};

/// `options` with what the URI says laid over it, checked. Throws SetupError{bad_uri} for unknown
/// keys (naming the nearest known one), values that do not parse, and values out of range.
[[nodiscard]] BindOptions bind_settings(const Uri& uri, const Transport& transport,
                                        BindOptions options);
[[nodiscard]] ConnectOptions connect_settings(const Uri& uri, const Transport& transport,
                                              ConnectOptions options);

}  // namespace penstock::inline v1
