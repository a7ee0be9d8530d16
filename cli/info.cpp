// penstock info: which transports this machine has, and with which devices; or how a receiver can
// be reached from here.
#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "command.hpp"
#include "penstock/channel/settings.hpp"
#include "penstock/transport/clock.hpp"
#include "penstock/transport/error.hpp"
#include "penstock/transport/registry.hpp"

namespace penstock::cli {
namespace {

using Json = nlohmann::ordered_json;

Json describe(const std::string& scheme) {
  Json entry{{"scheme", scheme}, {"available", false}};
  try {
    const auto transport = find_transport(scheme);
    const auto report = transport->probe();
    entry["available"] = report.available;
    if (!report.available) entry["reason"] = report.reason;
    entry["options"] = transport->option_names({});
    auto devices = Json::parse(report.json, nullptr, /*allow_exceptions=*/false);
    entry["devices"] = devices.is_array() ? std::move(devices) : Json::array();
  } catch (const SetupError& error) {
    entry["reason"] = error.what();
  }
  return entry;
}

std::string scalar_text(const Json& value) {
  if (value.is_string()) return value.get<std::string>();
  if (value.is_boolean()) return value.get<bool>() ? "yes" : "no";
  return value.dump();
}

std::string label(std::string key) {
  std::replace(key.begin(), key.end(), '_', ' ');
  return key;
}

/// What a transport reports is its own affair, so it is shown as it is: an object as one line of
/// its plain members, then each member with parts of its own on lines below.
void print_object(const Json& object, std::size_t indent) {
  std::string line;
  for (const auto& [key, value] : object.items()) {
    if (value.is_structured()) continue;
    // The first member names the object.
    if (line.empty()) {
      line = scalar_text(value);
      if (!value.is_string()) line = fmt::format("{} {}", label(key), line);
    } else {
      line += fmt::format(", {} {}", label(key), scalar_text(value));
    }
  }
  fmt::print("{:{}}{}\n", "", indent, line);
  for (const auto& [key, value] : object.items()) {
    if (!value.is_structured() || value.empty()) continue;
    fmt::print("{:{}}{}:\n", "", indent + 2, label(key));
    if (value.is_object()) {
      print_object(value, indent + 4);
      continue;
    }
    for (const auto& element : value) {
      if (element.is_object()) {
        print_object(element, indent + 4);
      } else {
        fmt::print("{:{}}{}\n", "", indent + 4, scalar_text(element));
      }
    }
  }
}

void print_text(const Json& info) {
  fmt::print("penstock {}\n", info["version"].get<std::string>());
  for (const auto& entry : info["transports"]) {
    const auto name = entry["scheme"].get<std::string>() + ":";
    if (entry["available"].get<bool>()) {
      fmt::print("{:<8} available\n", name);
    } else {
      fmt::print("{:<8} not available: {}\n", name, entry["reason"].get<std::string>());
    }
    if (entry.contains("options") && !entry["options"].empty())
      fmt::print("  options of its own: {}\n",
                 fmt::join(entry["options"].get<std::vector<std::string>>(), ", "));
    if (!entry.contains("devices")) continue;
    for (const auto& device : entry["devices"]) {
      if (device.is_object()) print_object(device, 2);
    }
  }
}

struct InfoOptions {
  std::string uri;
  bool json = false;
  bool options = false;
  Duration timeout = std::chrono::seconds(5);
};

/// Goes as far as a sender can without the receiver's taking note.
int run_trial(const InfoOptions& options) {
  Uri given = parse_uri_between_processes(options.uri, "info asks from a process of its own");
  const auto transport = find_transport(given.scheme);
  const auto parts = FromEnvironment(std::move(given), *transport).run([&](const Uri& uri) {
    const auto settings = connect_settings(uri, *transport, {});
    return transport->connect(uri, {.liveness = settings.liveness, .type = {}, .trial = true},
                              deadline_after(options.timeout));
  });
  if (options.json) {
    fmt::print("{}\n", Json{{"program", "penstock"},
                            {"version", PENSTOCK_VERSION},
                            {"uri", options.uri},
                            {"path", parts.path},
                            {"rejected", parts.rejected}}
                           .dump(2));
    return kSuccess;
  }
  fmt::print("{}\n  path: {}\n", options.uri, parts.path);
  if (!parts.rejected.empty()) fmt::print("  rejected: {}\n", parts.rejected);
  return kSuccess;
}

/// An option as a row of the table.
void print_option(std::string_view name, std::string_view where, const OptionHelp& help) {
  fmt::print("| `{}` | `{}` | {} | {} | {} |\n", name, variable_of(name), where, help.values,
             help.text);
}

/// In Markdown: docs/options.md is this output.
int run_options() {
  fmt::print(
      "# Options\n\n"
      "By `penstock info --options`.\n\n"
      "Each is given in the URI (`?capacity=4MiB&spin=50us`), in the environment under its "
      "variable's name (not heeded in set-user-ID programs), or in the structs `BindOptions` and "
      "`ConnectOptions`, those of transports in the first two only. The URI wins over the "
      "environment, and that over the structs. Sizes end in nothing, `B`, `KiB`, `MiB` or `GiB`; "
      "times in `ns`, `us`, `ms` or `s`, or are `0` or `forever`. A URI may be shared by both "
      "ends: each takes its own. What is unknown in a URI is refused, with the nearest known one; "
      "an unknown variable `penstock doctor` tells of.\n\n"
      "| option | variable | of | default; range | |\n|---|---|---|---|---|\n");
  for (const auto& option : channel_options())
    print_option(option.name,
                 option.bind && option.connect ? "both ends"
                 : option.bind                 ? "receiver"
                                               : "sender",
                 option.help);
  // A remote transport's `pages` is each one's.
  std::map<std::string, std::pair<std::string, OptionHelp>> shared;
  for (const auto& scheme : known_schemes()) {
    try {
      const auto transport = find_transport(scheme);
      for (const auto& name : transport->option_names({})) {
        const auto help = transport->option_help(name);
        if (help.text.empty() && help.values.empty() && scheme == "auto") continue;  // another's
        auto& entry = shared[name];
        entry.first += fmt::format("{}`{}:`", entry.first.empty() ? "" : ", ", scheme);
        entry.second = help;
      }
    } catch (const SetupError& error) {
      complain(error.what());
    }
  }
  for (const auto& [name, entry] : shared) print_option(name, entry.first, entry.second);
  fmt::print(
      "\nOf the whole process:\n\n"
      "| variable | |\n|---|---|\n"
      "| `PENSTOCK_PLUGIN_PATH` | directories, separated by colons, in which modules "
      "`penstock_<scheme>.so` are looked for first |\n"
      "| `PENSTOCK_MAX_LINKS` | the most remote links: a number |\n"
      "| `PENSTOCK_MAX_PINNED` | the most memory that they pin: a size |\n");
  return kSuccess;
}

int run_info(bool json) {
  Json info{{"program", "penstock"}, {"version", PENSTOCK_VERSION}, {"transports", Json::array()}};
  for (const auto& scheme : known_schemes()) info["transports"].push_back(describe(scheme));
  if (json) {
    fmt::print("{}\n", info.dump(2));
  } else {
    print_text(info);
  }
  return kSuccess;
}

}  // namespace

void add_info(CLI::App& app, Action& action) {
  auto* command = app.add_subcommand(
      "info", "Show the transports and devices of this machine, or the path to a receiver");
  auto options = std::make_shared<InfoOptions>();
  command->add_option("uri", options->uri,
                      "How this receiver can be reached from here, without joining it");
  command->add_flag("--json", options->json, "Print JSON");
  command->add_flag("--options", options->options, "List all options, as a table in Markdown")
      ->excludes("uri");
  add_duration(*command, "--timeout", options->timeout, "How long to wait for the receiver");
  command->callback([&action, options] {
    action = [options] {
      if (options->options) return run_options();
      return options->uri.empty() ? run_info(options->json) : run_trial(*options);
    };
  });
}

}  // namespace penstock::cli
