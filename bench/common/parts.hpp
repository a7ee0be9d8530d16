// The parts of a measurement: processes, or threads of this one.
//
// Who writes what: a Stage lies in memory that all parts share; the meeting is the kernel's.
// Lifetime: made before the parts start, and gone after the last one ended.
#pragma once

#include <pthread.h>
#include <sys/mman.h>

#include <cerrno>
#include <cstdint>
#include <functional>
#include <new>
#include <span>
#include <system_error>
#include <type_traits>

namespace contest {

enum class Where : std::uint8_t { threads, processes };

/// A T in memory that processes forked later share. Throws std::system_error.
template <class T>
class Shared {
  static_assert(std::is_trivially_destructible_v<T>, "nobody is the last to leave");

 public:
  Shared() {
    void* room = ::mmap(nullptr, sizeof(T), PROT_READ | PROT_WRITE,
                        MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (room == MAP_FAILED) throw std::system_error(errno, std::generic_category(), "mmap");
    value_ = new (room) T{};
  }
  Shared(const Shared&) = delete;
  Shared& operator=(const Shared&) = delete;
  Shared(Shared&&) = delete;
  Shared& operator=(Shared&&) = delete;
  ~Shared() { ::munmap(value_, sizeof(T)); }

  [[nodiscard]] T& operator*() const noexcept { return *value_; }
  [[nodiscard]] T* operator->() const noexcept { return value_; }

 private:
  T* value_;
};

/// Where so many parts wait for each other, again and again.
class Meeting {
 public:
  /// Throws std::system_error.
  explicit Meeting(std::size_t parts);
  void meet() noexcept { ::pthread_barrier_wait(&*barrier_); }

 private:
  Shared<pthread_barrier_t> barrier_;
};

/// What one part does; true where all went well. May throw.
using Part = std::function<bool()>;

/// Runs all parts at once and waits for them. True where each returned true. A process that fails
/// takes the others with it, and all go with this one; a thread that fails ends the program, as
/// others may wait for it. Why is said on stderr. Throws std::system_error.
[[nodiscard]] bool run_parts(Where where, std::span<const Part> parts);

}  // namespace contest
