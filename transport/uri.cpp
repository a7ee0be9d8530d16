#include "penstock/transport/uri.hpp"

#include <algorithm>
#include <charconv>

#include "penstock/transport/error.hpp"

namespace penstock::inline v1 {
namespace {

constexpr std::size_t kMaxUri = 1024;
constexpr std::size_t kMaxName = 90;  // an abstract socket's name holds 107 bytes

[[noreturn]] void refuse(std::string_view uri, const std::string& why) {
  throw SetupError(Errc::bad_uri, "bad URI '" + std::string(uri.substr(0, 120)) + "': " + why);
}

bool plain(char c, std::string_view also) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
         also.find(c) != std::string_view::npos;
}

void parse_authority(std::string_view whole, std::string_view authority, Uri& uri) {
  std::string_view port;
  bool has_port = false;
  if (authority.starts_with('[')) {
    const auto end = authority.find(']');
    if (end == std::string_view::npos) refuse(whole, "the IPv6 address lacks its closing bracket");
    uri.host = authority.substr(1, end - 1);
    const auto rest = authority.substr(end + 1);
    if (!rest.empty() && rest[0] != ':') refuse(whole, "expected ':port' after the IPv6 address");
    has_port = !rest.empty();
    if (has_port) port = rest.substr(1);
  } else {
    const auto colon = authority.find(':');
    uri.host = authority.substr(0, colon);
    if (uri.host.size() != authority.size() &&
        authority.find(':', colon + 1) != std::string_view::npos)
      refuse(whole, "an IPv6 address goes into brackets, as in [::1]:7000");
    has_port = colon != std::string_view::npos;
    if (has_port) port = authority.substr(colon + 1);
  }
  if (!std::ranges::all_of(uri.host, [](char c) { return plain(c, "-._:%"); }))
    refuse(whole, "the host '" + uri.host + "' has a character that no host name or address has");
  if (!has_port) return;
  const auto [end, error] = std::from_chars(port.data(), port.data() + port.size(), uri.port);
  if (error != std::errc{} || end != port.data() + port.size())
    refuse(whole, "the port '" + std::string(port) + "' is not a number from 0 to 65535");
}

void parse_query(std::string_view whole, std::string_view query, Uri& uri) {
  while (!query.empty()) {
    const auto amp = query.find('&');
    const auto item = query.substr(0, amp);
    query = amp == std::string_view::npos ? std::string_view{} : query.substr(amp + 1);
    const auto equals = item.find('=');
    const auto key = item.substr(0, equals);
    if (key.empty() || equals == std::string_view::npos)
      refuse(whole,
             "options are written key=value and joined by '&', not '" + std::string(item) + "'");
    if (!uri.options.emplace(key, item.substr(equals + 1)).second)
      refuse(whole, "option '" + std::string(key) + "' is given twice");
  }
}

}  // namespace

Uri Uri::parse(std::string_view text) {
  if (text.size() > kMaxUri) refuse(text, "longer than " + std::to_string(kMaxUri) + " bytes");
  if (std::ranges::any_of(text, [](char c) { return c <= ' ' || c == '\x7f' || c == '#'; }))
    refuse(text, "spaces, control characters and '#' are not allowed");
  Uri uri;
  const auto colon = text.find(':');
  uri.scheme = text.substr(0, colon);
  if (colon == std::string_view::npos || uri.scheme.empty() ||
      !std::ranges::all_of(uri.scheme,
                           [](char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9'); }))
    refuse(text, "it starts with a scheme, as in inproc:name, shm:name or rdma://host:port/name");
  auto rest = text.substr(colon + 1);
  const auto question = rest.find('?');
  if (question != std::string_view::npos) {
    parse_query(text, rest.substr(question + 1), uri);
    rest = rest.substr(0, question);
  }
  if (rest.starts_with("//")) {
    rest = rest.substr(2);
    const auto slash = rest.find('/');
    parse_authority(text, rest.substr(0, slash), uri);
    rest = slash == std::string_view::npos ? std::string_view{} : rest.substr(slash + 1);
  }
  uri.name = rest;
  if (uri.name.size() > kMaxName)
    refuse(text, "the channel name is longer than " + std::to_string(kMaxName) + " bytes");
  if (!std::ranges::all_of(uri.name, [](char c) { return plain(c, "-._~/:@+"); }))
    refuse(text, "the channel name may have letters, digits and -._~/:@+ only");
  return uri;
}

std::string Uri::query() const {
  std::string out;
  for (const auto& [key, value] : options) {
    if (!out.empty()) out += '&';
    out.append(key).append("=").append(value);
  }
  return out;
}

std::string Uri::text() const {
  std::string out = scheme + ":";
  if (!host.empty() || port != 0) {
    out += "//";
    out += host.find(':') == std::string::npos ? host : "[" + host + "]";
    if (port != 0) out += ":" + std::to_string(port);
    if (!name.empty()) out += "/";
  }
  out += name;
  if (!options.empty()) out += "?" + query();
  return out;
}

}  // namespace penstock::inline v1
