// What the doctor looks at, of this machine.
#include "checkup.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <span>
#include <string_view>
#include <system_error>
#include <thread>

#include "command.hpp"
#include "penstock/channel/channel.hpp"
#include "penstock/channel/settings.hpp"
#include "penstock/transport/clock.hpp"
#include "penstock/transport/error.hpp"
#include "penstock/transport/plugin_loader.hpp"
#include "penstock/transport/registry.hpp"
#include "penstock/transport/remote_transport.hpp"

namespace penstock::cli {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

constexpr auto kPatience = std::chrono::seconds(20);
constexpr const char* kDevices = "/sys/class/infiniband";

std::string first_line(const fs::path& file) {
  std::ifstream in(file);
  std::string line;
  std::getline(in, line);
  return line;
}

std::vector<std::string> entries(const fs::path& folder) {
  std::vector<std::string> names;
  std::error_code failed;
  for (fs::directory_iterator it(folder, failed), end; !failed && it != end; it.increment(failed))
    names.push_back(it->path().filename().string());
  std::ranges::sort(names);
  return names;
}

// ---- modules ------------------------------------------------------------------------------------

/// Runs `work`, which returns what is wrong, in a child, and returns that, or how the child ended.
template <class Work>
std::string in_child(Work&& work) {
  std::array<int, 2> ends{};
  if (::pipe(ends.data()) != 0) return fmt::format("pipe: {}", std::strerror(errno));
  const pid_t child = ::fork();
  if (child < 0) return fmt::format("fork: {}", std::strerror(errno));
  if (child == 0) {
    ::close(ends[0]);
    const std::string wrong = work();
    [[maybe_unused]] const auto written = ::write(ends[1], wrong.data(), wrong.size());
    ::_exit(wrong.empty() ? 0 : 1);
  }
  ::close(ends[1]);
  std::string wrong;
  const auto deadline = deadline_after(kPatience);
  std::array<char, 1024> some;
  for (bool open = true; open;) {
    pollfd wait{ends[0], POLLIN, 0};
    if (::poll(&wait, 1, poll_timeout(deadline)) <= 0) {
      ::kill(child, SIGKILL);
      wrong = fmt::format("it had not returned after {} s", kPatience.count());
      break;
    }
    const auto got = ::read(ends[0], some.data(), some.size());
    open = got > 0;
    if (open) wrong.append(some.data(), static_cast<std::size_t>(got));
  }
  ::close(ends[0]);
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  if (!wrong.empty()) return wrong;
  if (WIFSIGNALED(status))
    return fmt::format("it crashes when it is loaded ({})", ::strsignal(WTERMSIG(status)));
  return WIFEXITED(status) && WEXITSTATUS(status) == 0
             ? ""
             : fmt::format("it ends the process that loads it, with status {}",
                           WEXITSTATUS(status));
}

/// What is wrong with loading and asking it.
std::string try_module(const std::string& scheme) {
  return in_child([&]() -> std::string {
    try {
      (void)find_transport(scheme)->option_names({});
      return {};
    } catch (const std::exception& error) {
      return error.what();
    }
  });
}

// ---- variables ----------------------------------------------------------------------------------

/// Those that the library or its own tests read.
std::set<std::string> known_variables(const std::vector<std::string>& usable) {
  std::set<std::string> known{"PENSTOCK_PLUGIN_PATH", "PENSTOCK_MAX_LINKS", "PENSTOCK_MAX_PINNED"};
  for (const auto& option : channel_options()) known.insert(variable_of(option.name));
  known.insert(variable_of("paths"));  // of auto, which would load what must not be loaded
  for (const auto& scheme : usable)
    for (const auto& name : find_transport(scheme)->option_names({}))
      known.insert(variable_of(name));
  return known;
}

// ---- devices ------------------------------------------------------------------------------------

/// The network device under a port, where it is one of Ethernet; or empty.
std::string network_device(const std::string& device, unsigned port) {
  const fs::path folder = fs::path(kDevices) / device;
  for (const auto& index : entries(folder / "ports" / std::to_string(port) / "gid_attrs/ndevs")) {
    auto name = first_line(folder / "ports" / std::to_string(port) / "gid_attrs/ndevs" / index);
    if (!name.empty()) return name;
  }
  if (auto parent = first_line(folder / "parent"); !parent.empty()) return parent;  // soft-RoCE
  const auto under = entries(folder / "device/net");
  return under.empty() ? std::string() : under.front();
}

std::string netdev_or_dots(const std::string& netdev) { return netdev.empty() ? "…" : netdev; }

/// Counters of a port that say what has gone wrong since the machine started.
std::string troubles(const std::string& device, unsigned port) {
  constexpr std::array kCounters{
      "rnr_nak_retry_err",     "rcvd_rnr_err",           "retry_exceeded_err",
      "local_ack_timeout_err", "packet_seq_err",         "out_of_sequence",
      "completer_retry_err",   "retry_rnr_exceeded_err", "out_of_buffer"};
  std::string seen;
  const fs::path folder =
      fs::path(kDevices) / device / "ports" / std::to_string(port) / "hw_counters";
  for (const auto* counter : kCounters) {
    const auto value = first_line(folder / counter);
    if (!value.empty() && value != "0") seen += fmt::format(" {}={}", counter, value);
  }
  return seen;
}

void check_gids(Checkup& checkup, Verdict bad, const std::string& place, const Json& port,
                const std::string& netdev) {
  if (port.value("link_layer", std::string()) != "Ethernet") return;
  const auto gids = port.value("gids", Json::array());
  const bool ipv4 = std::ranges::any_of(
      gids, [](const Json& gid) { return gid.value("gid", std::string()).starts_with("::ffff:"); });
  if (ipv4) return;
  const bool none = port.value("pick", Json()).is_null();
  checkup.add(none ? bad : Verdict::note,
              fmt::format("{} has no GID with an IPv4 address, as {} has none{}", place,
                          netdev_or_dots(netdev), none ? "" : "; one with an IPv6 address does"),
              fmt::format("ip address add ADDRESS/24 dev {}", netdev_or_dots(netdev)));
}

void check_mtu(Checkup& checkup, const std::string& place, const Json& port,
               const std::string& netdev) {
  constexpr unsigned kSmall = 1024;
  constexpr unsigned kLargest = 4096;
  const auto mtu = port.value("mtu", 0U);
  if (mtu >= kLargest || port.value("link_layer", std::string()) != "Ethernet") return;
  const auto link = first_line(fs::path("/sys/class/net") / netdev / "mtu");
  checkup.add(
      mtu < kSmall ? Verdict::warn : Verdict::note,
      fmt::format("{}: {} bytes in a packet, as the MTU of {} is {}: 4096 would be less work",
                  place, mtu, netdev_or_dots(netdev), link.empty() ? "less" : link),
      fmt::format("ip link set {} mtu 4200   # at both ends, and the switch must let it pass",
                  netdev_or_dots(netdev)));
}

/// Returns whether it can be used.
bool check_port(Checkup& checkup, Verdict bad, const std::string& device, const Json& port) {
  const auto number = port.value("port", 1U);
  const auto place = fmt::format("{} port {}", device, number);
  const auto netdev = network_device(device, number);
  const auto state = port.value("state", std::string());
  if (state != "active") {
    const bool ethernet = port.value("link_layer", std::string()) == "Ethernet";
    checkup.add(bad, fmt::format("{} is not active ({})", place, state),
                ethernet ? fmt::format("ip link set {} up   # and look at the cable",
                                       netdev_or_dots(netdev))
                         : "look at the cable, and whether a subnet manager runs (opensm)");
    return false;
  }
  check_gids(checkup, bad, place, port, netdev);
  check_mtu(checkup, place, port, netdev);
  if (const auto seen = troubles(device, number); !seen.empty())
    checkup.add(
        Verdict::note, fmt::format("{} has counted, since it is there:{}", place, seen),
        fmt::format("rdma statistic show link {}/{}   # do they rise under load?", device, number));
  return !port.value("pick", Json()).is_null() ||
         port.value("link_layer", std::string()) != "Ethernet";
}

void check_device(Checkup& checkup, Verdict bad, const Json& device) {
  const auto name = device.value("name", std::string("?"));
  if (!device.contains("ports")) {
    checkup.add(bad, fmt::format("{}: {}", name, device.value("why", std::string("no use"))));
    return;
  }
  bool usable = false;
  for (const auto& port : device["ports"]) usable = check_port(checkup, bad, name, port) || usable;
  if (!usable) return;
  checkup.add(Verdict::ok, fmt::format("{} can be used", name));
  if (!device.value("ordered_writes", false))
    checkup.add(Verdict::note,
                fmt::format("{} is not known to place writes in order: its receivers are told of "
                            "each publish by an immediate",
                            name),
                "docs/real-hardware.md tells how to find out; then ?ordered_writes=1");
}

/// The kernel does not count what root pins, where it has kept that privilege.
bool may_pin_without_limit() {
  constexpr unsigned kIpcLock = 14;
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);)
    if (line.starts_with("CapEff:"))
      return (std::strtoull(line.c_str() + 7, nullptr, 16) >> kIpcLock & 1U) != 0;
  return false;
}

// ---- loopback -----------------------------------------------------------------------------------

/// Throws std::exception.
void pass_a_message(const std::string& scheme) {
  const bool local = scheme == "shm";
  const auto receiver_uri = local ? fmt::format("shm:doctor-{}", ::getpid())
                                  : fmt::format("{}://127.0.0.1:0/doctor", scheme);
  auto receiver = penstock::bind(receiver_uri);
  std::exception_ptr failed;
  std::jthread sending([&, uri = receiver.uris().front()] {
    try {
      auto sender = penstock::connect(uri, {.deadline = kPatience, .linger = kPatience});
      const std::vector<std::byte> message(std::min<std::size_t>(sender.max_in_place(), 64 << 10));
      if (const auto status = sender.send(message); status != SendStatus::sent)
        throw CommandError(fmt::format("send: {}: {}", to_string(status), sender.stats().error));
    } catch (...) {
      failed = std::current_exception();
      receiver.close();
    }
  });
  const auto message = receiver.recv_for(kPatience);
  const std::string what = message.loss() != nullptr ? message.loss()->reason : "";
  const auto status = message.status();
  sending.join();
  if (failed) std::rethrow_exception(failed);
  if (status != RecvStatus::received)
    throw CommandError(fmt::format("receive: {} {}", to_string(status), what));
}

}  // namespace

std::vector<std::string> check_modules(Checkup& checkup, const Patient& patient) {
  std::vector<std::string> usable;
  const auto found = find_modules();
  for (const auto& scheme : found) {
    if (const auto wrong = try_module(scheme); !wrong.empty()) {
      checkup.add(patient.bad(scheme), fmt::format("module {}: {}", scheme, wrong),
                  "install it and penstock from one release, or take it out of "
                  "PENSTOCK_PLUGIN_PATH");
    } else {
      checkup.add(Verdict::ok, fmt::format("module {} can be loaded", scheme));
      usable.push_back(scheme);
    }
  }
  auto wanted = patient.scheme;
  if (wanted.empty() && !entries(kDevices).empty()) wanted = "rdma";  // there is use for it
  if (wanted.empty() || wanted == "shm" || wanted == "auto" ||
      std::ranges::count(found, wanted) != 0)
    return usable;
  try {
    (void)find_transport(wanted);  // linked in
    usable.push_back(wanted);
  } catch (const SetupError& error) {
    checkup.add(Verdict::fail, error.what(),
                "install penstock built with it (-DPENSTOCK_RDMA=ON, -DPENSTOCK_UCX=ON), or name "
                "its directory in PENSTOCK_PLUGIN_PATH");
  }
  return usable;
}

void check_variables(Checkup& checkup, const std::vector<std::string>& usable) {
  constexpr std::string_view kPrefix = "PENSTOCK_";
  const auto known = known_variables(usable);
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string_view text = *entry;
    const std::string name(text.substr(0, text.find('=')));
    if (!name.starts_with(kPrefix) || known.contains(name)) continue;
    const auto distance = [&name](const std::string& one) { return edit_distance(name, one); };
    const auto meant = std::ranges::min_element(known, {}, distance);
    if (3 * distance(*meant) > name.size() - kPrefix.size()) continue;  // another program's
    checkup.add(Verdict::warn, fmt::format("nothing reads {}", name),
                fmt::format("did you mean {}?", *meant));
  }
}

void check_limits(Checkup& checkup, const Patient& patient) {
  constexpr rlim_t kFewFiles = 256;
  rlimit files{};
  ::getrlimit(RLIMIT_NOFILE, &files);
  if (files.rlim_cur < kFewFiles)
    checkup.add(Verdict::warn,
                fmt::format("{} open files at most, and a channel takes about ten", files.rlim_cur),
                "ulimit -n 4096   # or LimitNOFILE= of the service");
  else
    checkup.add(Verdict::ok, fmt::format("{} open files at most", files.rlim_cur));

  rlimit locked{};
  ::getrlimit(RLIMIT_MEMLOCK, &locked);
  const bool devices = !entries(kDevices).empty();
  if (locked.rlim_cur != RLIM_INFINITY && !may_pin_without_limit() &&
      (devices || patient.scheme == "rdma")) {
    const auto rings = locked.rlim_cur / kRemoteCapacity;
    checkup.add(rings == 0 ? patient.bad("rdma") : Verdict::warn,
                fmt::format("{} KiB of locked memory at most: room for {} rings of remote peers, "
                            "of the usual 4 MiB",
                            locked.rlim_cur / 1024, rings),
                "ulimit -l unlimited   # or LimitMEMLOCK=infinity of the service, or memlock in "
                "/etc/security/limits.conf");
  }

  std::map<std::string, std::size_t> memory;
  std::ifstream file("/proc/meminfo");
  for (std::string line; std::getline(file, line);) {
    const auto colon = line.find(':');
    if (colon != std::string::npos && line.starts_with("Huge"))
      memory[line.substr(0, colon)] = std::strtoull(line.c_str() + colon + 1, nullptr, 10);
  }
  if (memory["HugePages_Total"] == 0)
    checkup.add(Verdict::note, "no huge pages are reserved: ?pages=huge is refused",
                "sysctl vm.nr_hugepages=N   # two of 2 MiB for each remote peer");
  else
    checkup.add(Verdict::ok, fmt::format("{} of {} huge pages are free", memory["HugePages_Free"],
                                         memory["HugePages_Total"]));
}

void check_devices(Checkup& checkup, const Patient& patient, bool loaded) {
  // check_modules() has said that there is no module, check_loopback() will that there is no
  // device.
  if (!loaded || entries(kDevices).empty()) return;
  const auto report = find_transport("rdma")->probe();
  // Where another device does, one that does not is not in the way.
  const auto bad = report.available ? Verdict::warn : patient.bad("rdma");
  const auto devices = Json::parse(report.json, nullptr, /*allow_exceptions=*/false);
  if (devices.is_array())
    for (const auto& device : devices) check_device(checkup, bad, device);
  if (!report.available) checkup.add(bad, report.reason);
}

void check_loopback(Checkup& checkup, const Patient& patient, const std::string& scheme) {
  try {
    if (scheme != "shm") {
      const auto report = find_transport(scheme)->probe();
      if (!report.available) {
        checkup.add(patient.scheme == scheme ? Verdict::fail : Verdict::note, report.reason);
        return;
      }
    }
    pass_a_message(scheme);
    checkup.add(Verdict::ok, fmt::format("{}: a message got through, from here to here", scheme));
  } catch (const std::exception& error) {
    checkup.add(
        patient.bad(scheme),
        fmt::format("{}: no message gets through, from here to here: {}", scheme, error.what()));
  }
}

}  // namespace penstock::cli
