// Channel URIs: scheme://host:port/name?key=value&… or scheme:name?key=value&…
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>

namespace penstock::inline v1 {

/// A parsed channel URI. `host`, `port` and `name` may be empty; options keep their text.
///
///   inproc:orders                       name "orders"
///   shm:orders?capacity=1MiB            name "orders"
///   rdma://192.0.2.7:7000/orders?gid_index=3
struct Uri {
  std::string scheme;
  std::string host;        ///< IPv6 literals without their brackets
  std::uint16_t port = 0;  ///< 0: none given (a listener then picks one)
  std::string name;        ///< without the leading slash
  std::map<std::string, std::string, std::less<>> options;

  /// Throws SetupError{bad_uri} that quotes `text` and says what is wrong and what would be right.
  static Uri parse(std::string_view text);
  [[nodiscard]] std::string text() const;
  /// The options as a query string, without the question mark.
  [[nodiscard]] std::string query() const;
};

}  // namespace penstock::inline v1
