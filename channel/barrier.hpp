// A memory barrier that one thread makes for all: what is seldom done pays, and what is done for
// every message does not.
//
// Store-then-load on both sides (Dekker's pattern: "I sleep; is there news?" against "here is news;
// do you sleep?") needs a full barrier between the store and the load on each side. Where the
// seldom side makes this one, the frequent side needs none: the kernel has every running thread
// pass a full barrier, so that its store is seen here or its load sees what was stored here before.
// The frequent side keeps its compiler from reordering. membarrier(2); the use is that of liburcu
// (Desnoyers) and folly's AsymmetricThreadFence.
#pragma once

#include <cstdint>

namespace penstock::inline v1 {

enum class BarrierScope : std::uint8_t {
  none,
  process,  ///< threads of this process
  machine,  ///< threads of every process that has enrolled
};

/// Has this process take part. False: the kernel does not know membarrier(2) or it is forbidden
/// (seccomp), so both sides need full barriers. To be called anew after fork(); thread-safe. The
/// first call in a process with several threads may take 50 ms, later ones a microsecond.
[[nodiscard]] bool enroll_in_barriers() noexcept;

/// Every enrolled thread in `scope` has passed a full barrier. Microseconds; a system call that
/// interrupts the CPUs where such threads run. Only where enroll_in_barriers() said true, and it
/// must stay allowed: a process that forbids itself membarrier(2) later loses wake-ups and
/// exclusion.
void barrier_for_all(BarrierScope scope) noexcept;

}  // namespace penstock::inline v1
