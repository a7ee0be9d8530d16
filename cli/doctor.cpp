// penstock doctor: what usually goes wrong, and the command that mends it.
#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "checkup.hpp"
#include "command.hpp"
#include "penstock/channel/channel.hpp"
#include "penstock/channel/settings.hpp"
#include "penstock/transport/clock.hpp"
#include "penstock/transport/error.hpp"
#include "penstock/transport/plugin_loader.hpp"
#include "penstock/transport/registry.hpp"

namespace penstock::cli {
namespace {

struct DoctorOptions {
  std::string uri;
  bool listen = false;
  bool json = false;
  Duration timeout = std::chrono::seconds(5);
};

const char* mark(Verdict verdict) {
  switch (verdict) {
    case Verdict::ok: return "ok";
    case Verdict::note: return "note";
    case Verdict::warn: return "warn";
    case Verdict::fail: return "FAIL";
  }
  return "?";
}

/// Whether a receiver could be bound there.
void check_binding(Checkup& checkup, const Uri& uri) {
  try {
    const auto receiver = penstock::bind(uri.text());
    checkup.add(Verdict::ok, fmt::format("{} can be bound", receiver.uris().front()));
  } catch (const SetupError& error) {
    const bool taken = error.errc() == Errc::address_in_use && uri.port != 0;
    checkup.add(Verdict::fail, error.what(),
                taken ? fmt::format("ss -Hltnp sport = :{}   # who has the port", uri.port) : "");
  }
}

/// Whether a sender would get to the receiver there, and how.
void check_peer(Checkup& checkup, const Uri& given, Duration timeout) {
  try {
    const auto transport = find_transport(given.scheme);
    const auto parts = FromEnvironment(given, *transport).run([&](const Uri& uri) {
      const auto settings = connect_settings(uri, *transport, {});
      return transport->connect(uri, {.liveness = settings.liveness, .type = {}, .trial = true},
                                deadline_after(timeout));
    });
    checkup.add(Verdict::ok, fmt::format("{} is reached: {}", given.text(), parts.path));
    if (!parts.rejected.empty())
      checkup.add(Verdict::note, fmt::format("not by a better path: {}", parts.rejected));
  } catch (const SetupError& error) {
    // A sender of bytes is not let in where values are taken; it was a receiver that said so.
    if (error.errc() == Errc::type_mismatch)
      return checkup.add(Verdict::warn,
                         fmt::format("it answers, but the path was not tried: {}", error.what()),
                         "connect with its type, and look at stats().path");
    checkup.add(Verdict::fail, error.what(),
                given.host.empty() ? "" : fmt::format("ping -c 3 {}", given.host));
  }
}

int run_doctor(const DoctorOptions& options) {
  Patient patient;
  Uri uri;
  if (!options.uri.empty()) {
    uri = parse_uri_between_processes(options.uri, "the doctor is a process of its own");
    patient.scheme = uri.scheme;
  } else if (options.listen) {
    throw UsageError("--listen takes the URI at which a receiver is to be bound");
  }
  Checkup checkup;
  const auto usable = check_modules(checkup, patient);
  const auto has = [&](std::string_view scheme) { return std::ranges::count(usable, scheme) != 0; };
  check_variables(checkup, usable);
  check_limits(checkup, patient);
  check_devices(checkup, patient, has("rdma"));
  check_loopback(checkup, patient, "shm");
  for (const auto& scheme : usable) check_loopback(checkup, patient, scheme);
  // auto loads what there is.
  const bool works = patient.scheme == "shm" || has(patient.scheme) ||
                     (patient.scheme == "auto" && std::ranges::all_of(find_modules(), has));
  if (!options.uri.empty() && works) {
    if (options.listen)
      check_binding(checkup, uri);
    else
      check_peer(checkup, uri, options.timeout);
  }
  if (options.json)
    fmt::print("{}\n", checkup.json().dump(2));
  else
    checkup.print();
  return checkup.failed() ? kFailure : kSuccess;
}

}  // namespace

void Checkup::add(Verdict verdict, std::string what, std::string remedy) {
  findings_.push_back({verdict, std::move(what), std::move(remedy)});
}

std::size_t Checkup::count(Verdict verdict) const noexcept {
  return static_cast<std::size_t>(std::ranges::count(findings_, verdict, &Finding::verdict));
}

bool Checkup::failed() const noexcept { return count(Verdict::fail) != 0; }

void Checkup::print() const {
  for (const auto& finding : findings_) {
    fmt::print("{:<5} {}\n", mark(finding.verdict), finding.what);
    if (!finding.remedy.empty()) fmt::print("        {}\n", finding.remedy);
  }
  fmt::print("failed: {}, warnings: {}\n", count(Verdict::fail), count(Verdict::warn));
}

nlohmann::ordered_json Checkup::json() const {
  nlohmann::ordered_json document{
      {"program", "penstock"}, {"version", PENSTOCK_VERSION}, {"failed", failed()}};
  auto& findings = document["findings"] = nlohmann::ordered_json::array();
  for (const auto& finding : findings_)
    findings.push_back(
        {{"verdict", finding.verdict == Verdict::fail ? "fail" : mark(finding.verdict)},
         {"what", finding.what},
         {"remedy", finding.remedy}});
  return document;
}

void add_doctor(CLI::App& app, Action& action) {
  auto options = std::make_shared<DoctorOptions>();
  auto* command = app.add_subcommand(
      "doctor", "Check what usually goes wrong; exit status 1 if something does");
  command->add_option("uri", options->uri,
                      "What has to work: this transport, and the way to the receiver there");
  command->add_flag("--listen", options->listen, "... or the binding of a receiver there");
  command->add_flag("--json", options->json, "Print JSON");
  add_duration(*command, "--timeout", options->timeout, "How long to wait for the receiver");
  command->callback([&action, options] { action = [options] { return run_doctor(*options); }; });
}

}  // namespace penstock::cli
