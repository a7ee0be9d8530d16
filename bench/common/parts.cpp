#include "parts.hpp"

#include <sys/prctl.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <thread>
#include <vector>

namespace contest {
namespace {

bool play(const Part& part) noexcept {
  try {
    return part();
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
  }
  return false;
}

void check(int error, const char* what) {
  if (error != 0) throw std::system_error(error, std::generic_category(), what);
}

bool run_processes(std::span<const Part> parts) {
  // A group of their own, so that waiting takes no other child of this process. Its first is not
  // waited for until the group has all its members.
  pid_t group = 0;
  std::fflush(nullptr);
  for (const auto& part : parts) {
    const pid_t child = ::fork();
    if (child == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      ::setpgid(0, group);
      // Not _exit(): libraries take away what they made when their static objects go.
      std::exit(play(part) ? EXIT_SUCCESS : EXIT_FAILURE);
    }
    if (child < 0) {
      const int error = errno;
      if (group != 0) ::kill(-group, SIGKILL);
      check(error, "fork");
    }
    if (group == 0) group = child;
    ::setpgid(child, group);
  }
  bool well = true;
  for (std::size_t left = parts.size(); left != 0;) {
    int status = 0;
    if (::waitpid(-group, &status, 0) < 0) {
      if (errno != EINTR) check(errno, "waitpid");
      continue;
    }
    --left;
    if (status == 0) continue;
    if (WIFSIGNALED(status) && well)
      std::fprintf(stderr, "a part was ended by signal %d\n", WTERMSIG(status));
    well = false;
    ::kill(-group, SIGKILL);
  }
  return well;
}

bool run_threads(std::span<const Part> parts) {
  std::vector<std::thread> threads;
  threads.reserve(parts.size());
  for (const auto& part : parts)
    threads.emplace_back([&part] {
      if (!play(part)) std::_Exit(EXIT_FAILURE);
    });
  for (auto& thread : threads) thread.join();
  return true;
}

}  // namespace

Meeting::Meeting(std::size_t parts) {
  pthread_barrierattr_t attributes;
  check(::pthread_barrierattr_init(&attributes), "pthread_barrierattr_init");
  ::pthread_barrierattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
  const int error = ::pthread_barrier_init(&*barrier_, &attributes, static_cast<unsigned>(parts));
  ::pthread_barrierattr_destroy(&attributes);
  check(error, "pthread_barrier_init");
}

bool run_parts(Where where, std::span<const Part> parts) {
  return where == Where::processes ? run_processes(parts) : run_threads(parts);
}

}  // namespace contest
