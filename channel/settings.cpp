#include "penstock/channel/settings.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <charconv>
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

/// Edit distance (Levenshtein), for suggesting what was meant.
std::size_t distance(std::string_view a, std::string_view b) {
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

/// Applies the URI's options; `elsewhere` names those that the other end's options have: a URI may
/// be shared by both ends.
void apply(const Uri& uri, const Transport& transport, const Setters& setters,
           const std::vector<std::string>& elsewhere) {
  auto known = transport.option_names();
  const auto own = known;
  known.insert(known.end(), elsewhere.begin(), elsewhere.end());
  for (const auto& [key, setter] : setters) known.push_back(key);
  for (const auto& [key, value] : uri.options) {
    const auto setter = std::ranges::find(setters, key, &Setters::value_type::first);
    if (setter != setters.end()) {
      setter->second(key, value);
    } else if (std::ranges::find(known, key) == known.end()) {
      const auto nearest = std::ranges::min_element(
          known, {}, [&key = key](const std::string& name) { return distance(name, key); });
      refuse(uri, "unknown option '" + key + "'" +
                      (nearest != known.end() ? ": did you mean '" + *nearest + "'?" : ""));
    }
  }
}

}  // namespace

BindOptions bind_settings(const Uri& uri, const Transport& transport, BindOptions options) {
  const auto size = [&](std::uint64_t& out) {
    return [&](const std::string& key, std::string_view text) { out = bytes(uri, key, text); };
  };
  const auto time = [&](Duration& out) {
    return [&](const std::string& key, std::string_view text) { out = duration(uri, key, text); };
  };
  apply(
      uri, transport,
      {{"capacity", size(options.capacity)},
       {"window", size(options.window)},
       {"max_message", size(options.max_message)},
       {"target_delay", time(options.target_delay)},
       {"min_window", size(options.min_window)},
       {"spin", time(options.spin)},
       {"liveness", time(options.liveness)},
       {"publish", [&](const std::string& key,
                       std::string_view text) { options.publish = publishing(uri, key, text); }},
       {"persistent", [&](const std::string& key,
                          std::string_view text) { options.persistent = truth(uri, key, text); }}},
      {"deadline", "linger", "landing"});
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
  apply(
      uri, transport,
      {{"deadline", time(options.deadline)},
       {"linger", time(options.linger)},
       {"spin", time(options.spin)},
       {"liveness", time(options.liveness)},
       {"landing", [&](const std::string& key,
                       std::string_view text) { options.landing = landing(uri, key, text); }}},
      {"capacity", "window", "max_message", "target_delay", "min_window", "publish", "persistent"});
  if (options.liveness < kMinLiveness) refuse(uri, "liveness is shorter than 10ms");
  if (options.landing != kLandingAuto && options.landing < kLeastLanding)
    refuse(uri, "landing " + std::to_string(options.landing) +
                    " is none of auto, never and always, and less than 4KiB");
  return options;
}

}  // namespace penstock::inline v1
