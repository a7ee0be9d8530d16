#include "penstock/transport/error.hpp"

#include <cstring>

namespace penstock::inline v1 {
namespace {

class Category final : public std::error_category {
 public:
  [[nodiscard]] const char* name() const noexcept override { return "penstock"; }
  [[nodiscard]] std::string message(int code) const override {
    switch (static_cast<Errc>(code)) {
      case Errc::bad_uri: return "bad URI";
      case Errc::unknown_scheme: return "unknown scheme";
      case Errc::transport_unavailable: return "transport unavailable";
      case Errc::address_in_use: return "address in use";
      case Errc::unreachable: return "unreachable";
      case Errc::no_such_channel: return "no such channel";
      case Errc::version_mismatch: return "version mismatch";
      case Errc::feature_mismatch: return "feature mismatch";
      case Errc::geometry_mismatch: return "geometry mismatch";
      case Errc::type_mismatch: return "type mismatch";
      case Errc::handshake_failed: return "handshake failed";
      case Errc::resource_limit: return "resource limit reached";
      case Errc::module_broken: return "transport module broken";
      case Errc::forked: return "handle of the parent process";
      case Errc::system: return "system error";
      case Errc::bad_option: return "setting out of range";
    }
    return "unknown error " + std::to_string(code);
  }
};

}  // namespace

const std::error_category& error_category() noexcept {
  static const Category category;
  return category;
}

void throw_errno(const std::string& what, int error) {
  throw SetupError(Errc::system, what + ": " + std::system_category().message(error));
}

}  // namespace penstock::inline v1
