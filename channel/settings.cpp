#include "penstock/channel/settings.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <charconv>
#include <cstdlib>
#include <functional>
#include <numeric>
#include <utility>

#include "penstock/transport/error.hpp"
#include "penstock/transport/record.hpp"

namespace penstock::inline v1 {
namespace {

constexpr std::uint64_t kMinWindow = 1024;
constexpr std::uint64_t kDefaultMinWindow = 4096;
constexpr auto kMinLiveness = std::chrono::milliseconds(10);
constexpr auto kMaxTargetDelay = std::chrono::hours(1);

[[noreturn]] void refuse(const Uri& uri, const std::string& why) {
  throw SetupError(Errc::bad_uri, uri.text() + ": " + why);
}

/// A number with a unit: splits "4MiB" into 4 and "MiB".
std::pair<std::uint64_t, std::string_view> number(const Uri& uri, const std::string& key,
                                                  std::string_view text) {
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end == text.data())
    refuse(uri, "option " + key + "=" + std::string(text) + " does not begin with a number");
  return {value, text.substr(static_cast<std::size_t>(end - text.data()))};
}

std::uint64_t scaled(const Uri& uri, const std::string& key, std::uint64_t value,
                     std::uint64_t unit, std::uint64_t most) {
  if (value > most / unit) refuse(uri, "option " + key + " is too large");
  return value * unit;
}

std::uint64_t bytes(const Uri& uri, const std::string& key, std::string_view text) {
  const auto [value, unit] = number(uri, key, text);
  constexpr std::array<std::pair<std::string_view, std::uint64_t>, 5> kUnits{
      {{"", 1}, {"B", 1}, {"KiB", 1024}, {"MiB", 1024 * 1024}, {"GiB", 1024 * 1024 * 1024}}};
  for (const auto& [name, factor] : kUnits)
    if (name == unit) return scaled(uri, key, value, factor, kMaxMessage);
  refuse(uri, "option " + key + "=" + std::string(text) + ": sizes end in B, KiB, MiB or GiB");
}

Duration duration(const Uri& uri, const std::string& key, std::string_view text) {
  if (text == "forever") return kForever;
  const auto [value, unit] = number(uri, key, text);
  constexpr std::array<std::pair<std::string_view, std::uint64_t>, 4> kUnits{
      {{"ns", 1}, {"us", 1'000}, {"ms", 1'000'000}, {"s", 1'000'000'000}}};
  for (const auto& [name, factor] : kUnits)
    if (name == unit || (unit.empty() && value == 0))
      return Duration(scaled(uri, key, value, factor, std::uint64_t{1} << 62U));
  refuse(uri, "option " + key + "=" + std::string(text) +
                  ": times end in ns, us, ms or s, or are 'forever'");
}

bool truth(const Uri& uri, const std::string& key, std::string_view text) {
  if (text == "1" || text == "true") return true;
  if (text == "0" || text == "false") return false;
  refuse(uri, "option " + key + "=" + std::string(text) + " is 0 or 1");
}

Publishing publishing(const Uri& uri, const std::string& key, std::string_view text) {
  constexpr std::array<std::pair<std::string_view, Publishing>, 5> kNames{
      {{"auto", Publishing::automatic},
       {"tail", Publishing::tail},
       {"hot", Publishing::hot},
       {"immediate", Publishing::immediate},
       {"turns", Publishing::turns}}};
  for (const auto& [name, value] : kNames)
    if (name == text) return value;
  refuse(uri, "option " + key + "=" + std::string(text) + " is auto, tail, hot or immediate");
}

std::uint64_t landing(const Uri& uri, const std::string& key, std::string_view text) {
  if (text == "auto") return kLandingAuto;
  if (text == "never") return kLandingNever;
  if (text == "always") return kLeastLanding;
  return std::max<std::uint64_t>(bytes(uri, key, text), 1);
}

using Setter = std::function<void(const std::string& key, std::string_view value)>;
using Setters = std::vector<std::pair<std::string, Setter>>;

/// All that may stand in a URI: it may be shared by both ends.
std::vector<std::string> known_options(const Uri& uri, const Transport& transport) {
  auto known = transport.option_names(uri);
  for (const auto& option : channel_options()) known.emplace_back(option.name);
  return known;
}

/// Applies the URI's options.
void apply(const Uri& uri, const Transport& transport, const Setters& setters) {
  const auto known = known_options(uri, transport);
  for (const auto& [key, value] : uri.options) {
    const auto setter = std::ranges::find(setters, key, &Setters::value_type::first);
    if (setter != setters.end()) {
      setter->second(key, value);
    } else if (std::ranges::find(known, key) == known.end()) {
      const auto nearest = std::ranges::min_element(
          known, {}, [&key = key](const std::string& name) { return edit_distance(name, key); });
      refuse(uri, "unknown option '" + key + "'" +
                      (nearest != known.end() ? ": did you mean '" + *nearest + "'?" : ""));
    }
  }
}

}  // namespace

std::size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), 0);
  for (std::size_t i = 0; i < a.size(); ++i) {
    std::size_t diagonal = std::exchange(row[0], i + 1);
    for (std::size_t j = 0; j < b.size(); ++j) {
      const auto change = diagonal + (a[i] == b[j] ? 0U : 1U);
      diagonal = row[j + 1];
      row[j + 1] = std::min({row[j] + 1, row[j + 1] + 1, change});
    }
  }
  return row.back();
}

const std::vector<ChannelOption>& channel_options() {
  static const std::vector<ChannelOption> options{
      {"capacity",
       true,
       false,
       {"1MiB local, 4MiB remote; a power of two from 4KiB to 128MiB",
        "Bytes of one sender's ring"}},
      {"window",
       true,
       false,
       {"the capacity; 1KiB to the capacity",
        "Bytes that a sender may fill. Alone, it sets the capacity to the next power of two"}},
      {"max_message",
       true,
       false,
       {"0: none longer than a piece; up to 1GiB", "Messages up to this are taken, in pieces"}},
      {"target_delay",
       true,
       false,
       {"0: the window is fixed; up to an hour",
        "How long an accepted message may wait before it is received; the window follows"}},
      {"min_window",
       true,
       false,
       {"4KiB; 1KiB to the window", "With a `target_delay`: how small the window may become"}},
      {"publish",
       true,
       false,
       {"`auto`; or `tail`, `hot`, `immediate`",
        "How remote senders tell of messages, to measure with"}},
      {"persistent",
       true,
       false,
       {"0; 0, 1, `true`, `false`",
        "Whether the receiver waits for the next sender when the last has closed"}},
      {"spin", true, true, {"50us; 0 to `forever`", "Looking before sleeping"}},
      {"liveness",
       true,
       true,
       {"10s; from 10ms", "Silence after which the peer is lost; a quarter of it: stalled"}},
      {"deadline", false, true, {"10s; 0 to `forever`", "How long `connect` waits for a receiver"}},
      {"landing",
       false,
       true,
       {"`auto`; or `never`, `always`, a size from 4KiB on",
        "Remote: which messages land in memory that the receiver offers, if it takes long ones "
        "(`max_message`)"}},
      {"linger",
       false,
       true,
       {"5s; 0 to `forever`", "How long the last clone's destruction waits for delivery"}}};
  return options;
}

std::string variable_of(std::string_view option) {
  std::string name = "PENSTOCK_";
  for (const char c : option) name += c >= 'a' && c <= 'z' ? static_cast<char>(c - 'a' + 'A') : c;
  return name;
}

FromEnvironment::FromEnvironment(Uri given, const Transport& transport) : uri(std::move(given)) {
  // Which options there are may depend on others.
  for (std::size_t before = uri.options.size() + 1; before != uri.options.size();) {
    before = uri.options.size();
    for (auto& name : known_options(uri, transport)) {
      if (uri.options.contains(name)) continue;
      const std::string variable = variable_of(name);
      const char* value = ::secure_getenv(variable.c_str());
      if (value == nullptr || *value == '\0') continue;
      uri.options.emplace(std::move(name), value);
      variables += (variables.empty() ? "" : ", ") + variable;
    }
  }
}

BindOptions bind_settings(const Uri& uri, const Transport& transport, BindOptions options) {
  const auto size = [&](std::uint64_t& out) {
    return [&](const std::string& key, std::string_view text) { out = bytes(uri, key, text); };
  };
  const auto time = [&](Duration& out) {
    return [&](const std::string& key, std::string_view text) { out = duration(uri, key, text); };
  };
  apply(uri, transport,
        {{"capacity", size(options.capacity)},
         {"window", size(options.window)},
         {"max_message", size(options.max_message)},
         {"target_delay", time(options.target_delay)},
         {"min_window", size(options.min_window)},
         {"spin", time(options.spin)},
         {"liveness", time(options.liveness)},
         {"publish", [&](const std::string& key,
                         std::string_view text) { options.publish = publishing(uri, key, text); }},
         {"persistent", [&](const std::string& key, std::string_view text) {
            options.persistent = truth(uri, key, text);
          }}});
  if (options.capacity != 0 && (!std::has_single_bit(options.capacity) ||
                                options.capacity < kMinCapacity || options.capacity > kMaxCapacity))
    refuse(uri, "capacity " + std::to_string(options.capacity) +
                    " is not a power of two from 4KiB to 128MiB");
  if (options.window != 0 && (options.window < kMinWindow || options.window > kMaxCapacity ||
                              (options.capacity != 0 && options.window > options.capacity)))
    refuse(uri, "window " + std::to_string(options.window) + " is not from 1KiB to the capacity");
  if (options.window != 0 && options.capacity == 0)
    options.capacity = std::max(std::bit_ceil(options.window), kMinCapacity);
  if (options.max_message > kMaxMessage)
    refuse(uri, "max_message " + std::to_string(options.max_message) + " is more than 1GiB");
  if (options.target_delay < Duration::zero() || options.target_delay > kMaxTargetDelay)
    refuse(uri, "target_delay is not from 0 to an hour: 0 keeps the window as it is");
  const auto most = options.window != 0 ? options.window : options.capacity;  // 0: not known yet
  if (options.min_window == 0) {
    options.min_window = most != 0 ? std::min(most, kDefaultMinWindow) : kDefaultMinWindow;
  } else if (options.target_delay == Duration::zero()) {
    refuse(uri, "min_window without a target_delay: the window moves only with one");
  } else if (options.min_window < kMinWindow || options.min_window > kMaxCapacity ||
             (most != 0 && options.min_window > most)) {
    refuse(uri,
           "min_window " + std::to_string(options.min_window) + " is not from 1KiB to the window");
  }
  if (options.liveness < kMinLiveness) refuse(uri, "liveness is shorter than 10ms");
  return options;
}

ConnectOptions connect_settings(const Uri& uri, const Transport& transport,
                                ConnectOptions options) {
  const auto time = [&](Duration& out) {
    return [&](const std::string& key, std::string_view text) { out = duration(uri, key, text); };
  };
  apply(uri, transport,
        {{"deadline", time(options.deadline)},
         {"linger", time(options.linger)},
         {"spin", time(options.spin)},
         {"liveness", time(options.liveness)},
         {"landing", [&](const std::string& key, std::string_view text) {
            options.landing = landing(uri, key, text);
          }}});
  if (options.liveness < kMinLiveness) refuse(uri, "liveness is shorter than 10ms");
  if (options.landing != kLandingAuto && options.landing < kLeastLanding)
    refuse(uri, "landing " + std::to_string(options.landing) +
                    " is none of auto, never and always, and less than 4KiB");
  return options;
}

}  // namespace penstock::inline v1
