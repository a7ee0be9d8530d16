#include "penstock/rdma/verbs/failure.hpp"

#include <fmt/format.h>
#include <sys/resource.h>

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <fstream>

namespace penstock::inline v1::verbs {
namespace {

/// Bytes that this process has pinned for devices already; 0 when the kernel does not say.
std::uint64_t pinned_bytes() {
  std::ifstream status("/proc/self/status");
  std::string word;
  while (status >> word)
    if (std::uint64_t kib = 0; word == "VmPin:" && status >> kib) return kib * 1024;
  return 0;
}

std::string kib(std::uint64_t bytes) { return fmt::format("{} KiB", (bytes + 1023) / 1024); }

}  // namespace

std::string_view likely_cause(ibv_wc_status status, bool ethernet) noexcept {
  switch (status) {
    case IBV_WC_RETRY_EXC_ERR:
    case IBV_WC_RESP_TIMEOUT_ERR:
      return ethernet ? "the peer is gone or unreachable; check the network and UDP port 4791"
                      : "the peer is gone or unreachable; check the fabric and the subnet manager";
    case IBV_WC_RNR_RETRY_EXC_ERR:
      return "the peer took no immediates for too long: it hangs, or its host is overloaded";
    case IBV_WC_REM_ACCESS_ERR:
      return "the peer's memory region is gone, or is not the one that it described";
    case IBV_WC_REM_INV_REQ_ERR:
    case IBV_WC_REM_OP_ERR:
    case IBV_WC_REM_ABORT_ERR:
      return "the peer's device refused the write: its queue pair failed, or the two ends disagree "
             "about the path MTU";
    case IBV_WC_LOC_PROT_ERR:
    case IBV_WC_LOC_ACCESS_ERR:
      return "memory of this end was unmapped or deregistered under the link";
    case IBV_WC_LOC_LEN_ERR:
    case IBV_WC_LOC_QP_OP_ERR:
      return ethernet ? "this end could not send: there is no route to the peer any more, or its "
                        "device refused the request"
                      : "this end's device refused the request";
    case IBV_WC_WR_FLUSH_ERR:
      return "the queue pair went into its error state before, and the device reported no cause: "
             "the peer broke its rules, or the device is going away";
    case IBV_WC_FATAL_ERR: return "the device failed; see the kernel's log (dmesg)";
    default: return "see the kernel's log (dmesg)";
  }
}

std::string_view event_cause(ibv_event_type event) noexcept {
  switch (event) {
    case IBV_EVENT_QP_ACCESS_ERR: return "the peer tried to touch memory that it was not given";
    case IBV_EVENT_QP_REQ_ERR: return "the peer sent a request that the device cannot serve";
    case IBV_EVENT_CQ_ERR: return "its completion queue overran";
    default: return "the device failed it; see the kernel's log (dmesg)";
  }
}

std::string registration_text(std::string_view device, std::size_t bytes, std::size_t all_bytes,
                              int error) {
  std::string text =
      fmt::format("rdma: cannot register {} with {}: {}", kib(bytes), device, std::strerror(error));
  rlimit limit{};
  if ((error != ENOMEM && error != EPERM && error != EAGAIN) ||
      ::getrlimit(RLIMIT_MEMLOCK, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY)
    return text;
  const std::uint64_t pinned = pinned_bytes();
  if (pinned + all_bytes <= limit.rlim_cur) return text;
  return fmt::format(
      "{}: the limit of locked memory is {}, {} are in use, and this link needs {} more: raise it "
      "to at least {} (`ulimit -l {}`, memlock in /etc/security/limits.conf, or LimitMEMLOCK= of "
      "the service), or ask for a smaller capacity",
      text, kib(limit.rlim_cur), kib(pinned), kib(all_bytes), kib(pinned + all_bytes),
      (pinned + all_bytes + 1023) / 1024);
}

}  // namespace penstock::inline v1::verbs
