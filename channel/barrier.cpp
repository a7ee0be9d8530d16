#include "penstock/channel/barrier.hpp"

#include <linux/membarrier.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace penstock::inline v1 {
namespace {

bool membarrier(int command) noexcept { return ::syscall(SYS_membarrier, command, 0, 0) == 0; }

}  // namespace

bool enroll_in_barriers() noexcept {
  return membarrier(MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED) &&
         membarrier(MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED);
}

void barrier_for_all(BarrierScope scope) noexcept {
  // These fail only in a process that has not enrolled.
  switch (scope) {
    case BarrierScope::none: return;
    case BarrierScope::process: membarrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED); return;
    case BarrierScope::machine: membarrier(MEMBARRIER_CMD_GLOBAL_EXPEDITED); return;
  }
}

}  // namespace penstock::inline v1
