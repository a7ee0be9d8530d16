#include "penstock/transport/message_type.hpp"

#include <array>
#include <charconv>
#include <string_view>

#include "penstock/transport/error.hpp"

namespace penstock::inline v1 {
namespace {

constexpr std::size_t kLongestName = 200;

}  // namespace

std::string describe(const MessageType& type) {
  if (type.fingerprint == kBytesFingerprint) return "bytes";
  std::array<char, 16> digits{};
  char* const end =
      std::to_chars(digits.data(), digits.data() + digits.size(), type.fingerprint, 16).ptr;
  // A stranger's name is text from outside.
  std::string name;
  for (const char c : std::string_view(type.name).substr(0, kLongestName))
    name += c >= ' ' && c <= '~' ? c : '?';
  return "'" + name + "' (fingerprint " + std::string(digits.data(), end) + ")";
}

void check_types(const MessageType& sent, const MessageType& received) {
  if (sent.fingerprint == received.fingerprint) return;
  throw SetupError(Errc::type_mismatch,
                   "the sender sends " + describe(sent) + ", the receiver takes " +
                       describe(received) +
                       (sent.name == received.name ? ": build both with the same layout of it"
                                                   : ": give both ends the same type"));
}

}  // namespace penstock::inline v1
