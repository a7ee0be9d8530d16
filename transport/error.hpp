// Errors of set-up: what happened, to whom, and what to do next.
#pragma once

#include <string>
#include <system_error>

namespace penstock::inline v1 {

/// Why a channel could not be set up. Use with std::error_code; the category is "penstock".
enum class Errc {
  bad_uri = 1,            ///< malformed URI, unknown option, option out of range
  unknown_scheme,         ///< no transport of that name, or its module is missing
  transport_unavailable,  ///< the transport is there but cannot work on this machine
  address_in_use,         ///< another receiver is bound there
  unreachable,            ///< no receiver answered until the deadline
  no_such_channel,        ///< something answered there, but it has no channel of that name
  version_mismatch,       ///< the other side speaks no version that this one does
  feature_mismatch,       ///< the other side insists on a feature that this one lacks
  geometry_mismatch,      ///< the two sides cannot agree on ring sizes
  type_mismatch,          ///< the two sides exchange different types
  handshake_failed,       ///< the other side broke off, or speaks another protocol
  resource_limit,         ///< memory, locked memory, descriptors or queue pairs ran out
  module_broken,          ///< a transport module is there but cannot be loaded
  forked,                 ///< the handle belongs to the parent of this process
  system,                 ///< a system call failed; the text has its own error
  bad_option,             ///< a setting out of its range
};

[[nodiscard]] const std::error_category& error_category() noexcept;
[[nodiscard]] inline std::error_code make_error_code(Errc code) noexcept {
  return {static_cast<int>(code), error_category()};
}

/// Thrown by everything that sets a channel up; never by sending or receiving. what() is a whole
/// sentence for a person: the object, what is wrong, and the remedy.
class SetupError : public std::system_error {
 public:
  SetupError(Errc code, const std::string& text)
      : std::system_error(make_error_code(code)), text_(text) {}
  [[nodiscard]] const char* what() const noexcept override { return text_.c_str(); }
  [[nodiscard]] Errc errc() const noexcept { return static_cast<Errc>(code().value()); }

 private:
  std::string text_;
};

/// Throws SetupError{system} with `what` and the text of `error` (an errno value).
[[noreturn]] void throw_errno(const std::string& what, int error);

}  // namespace penstock::inline v1

template <>
struct std::is_error_code_enum<penstock::Errc> : std::true_type {};
