// A forked child of a process that has threads, for tests.
#pragma once

#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <system_error>

namespace penstock::test {

/// Runs `work` in a child and returns how that ended, as wait() says it: 0 where `work` returned
/// true. The child goes with its parent. Throws std::system_error.
///
/// AddressSanitizer's malloc (of g++ 12) takes locks of its own that fork() does not wait for:
/// where another thread held one, the child hangs at its next allocation. Such a child is ended and
/// forked anew; what hangs by penstock's own fault hangs every time.
template <class Work>
[[nodiscard]] int run_in_child(Work&& work) {
#if defined(__SANITIZE_ADDRESS__)
  constexpr int kAttempts = 4;
  constexpr unsigned kSeconds = 10;
#else
  constexpr int kAttempts = 1;
  constexpr unsigned kSeconds = 0;  // none: the test's own watchdog
#endif
  for (int attempt = 1;; ++attempt) {
    const pid_t child = ::fork();
    if (child < 0) throw std::system_error(errno, std::generic_category(), "fork");
    if (child == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      ::alarm(kSeconds);
      ::_exit(work() ? 0 : 1);
    }
    int status = 0;
    while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
    }
    const bool hung = WIFSIGNALED(status) && WTERMSIG(status) == SIGALRM;
    if (!hung || attempt == kAttempts) return status;
  }
}

}  // namespace penstock::test
