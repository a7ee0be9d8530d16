#include "bench/common/parts.hpp"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <cstddef>
#include <stdexcept>
#include <vector>

namespace {

using contest::Meeting;
using contest::Part;
using contest::run_parts;
using contest::Shared;
using contest::Where;

TEST(parts, meet_and_share_memory) {
  for (const auto where : {Where::threads, Where::processes}) {
    struct Words {
      std::array<int, 3> word;
    };
    const Shared<Words> shared;
    Meeting meeting(3);
    std::vector<Part> parts;
    for (int i = 0; i < 3; ++i)
      parts.emplace_back([&, i] {
        shared->word[static_cast<std::size_t>(i)] = i + 1;
        meeting.meet();
        return shared->word == std::array{1, 2, 3};
      });
    EXPECT_TRUE(run_parts(where, parts));
  }
}

TEST(parts, a_process_that_fails_takes_the_others_with_it) {
  Meeting meeting(2);
  const auto waits = [&meeting] {
    meeting.meet();
    return true;
  };
  EXPECT_FALSE(run_parts(Where::processes, std::array<Part, 2>{waits, [] { return false; }}));
  EXPECT_FALSE(run_parts(
      Where::processes,
      std::array<Part, 2>{[] { return throw std::runtime_error("a failing part"), true; }, waits}));
  EXPECT_FALSE(run_parts(Where::processes,
                         std::array<Part, 2>{[] { return ::raise(SIGKILL) == 0; }, waits}));
}

TEST(parts, other_children_are_left_alone) {
  const pid_t other = ::fork();
  if (other == 0) ::_exit(7);
  EXPECT_TRUE(run_parts(Where::processes, std::array<Part, 1>{[] { return true; }}));
  int status = 0;
  EXPECT_EQ(::waitpid(other, &status, 0), other);
  EXPECT_EQ(WEXITSTATUS(status), 7);
}

}  // namespace
