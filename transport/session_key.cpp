#include <sys/random.h>

#include <cerrno>

#include "penstock/transport/error.hpp"
#include "penstock/transport/record.hpp"

namespace penstock::inline v1 {

SessionKey SessionKey::random() {
  SessionKey key;
  std::size_t done = 0;
  while (done < sizeof key.word) {
    const ssize_t got =
        ::getrandom(reinterpret_cast<char*>(key.word.data()) + done, sizeof key.word - done, 0);
    if (got > 0) {
      done += static_cast<std::size_t>(got);
    } else if (errno != EINTR) {
      throw_errno("drawing a session key with getrandom", errno);
    }
  }
  return key;
}

}  // namespace penstock::inline v1
