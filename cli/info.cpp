// penstock info: which transports this machine has, and with which devices.
#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "command.hpp"
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
    entry["options"] = transport->option_names();
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
  auto* command = app.add_subcommand("info", "Show the transports and devices of this machine");
  auto json = std::make_shared<bool>(false);
  command->add_flag("--json", *json, "Print JSON");
  command->callback([&action, json] { action = [json] { return run_info(*json); }; });
}

}  // namespace penstock::cli
