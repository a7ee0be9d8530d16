// penstock cat: a pipe across distance. The end of the channel is the end of the stream, so a side
// that fails leaves without a good-bye (the sender) or closes (the listener), and the other side
// never takes a part for the whole.
#include <fmt/format.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <deque>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "command.hpp"
#include "penstock/channel/channel.hpp"
#include "transfer.hpp"

namespace penstock::cli {
namespace {

struct CatOptions {
  std::string uri;
  bool listen = false;
  bool keep = false;
  bool progress = false;
  Duration timeout = ConnectOptions{}.deadline;
  Duration linger = kForever;
};

constexpr std::size_t kChunk = std::size_t{64} << 10;
/// How often a side that waits for something else looks at its peer.
constexpr int kGlanceMs = 200;

bool show_progress(const CatOptions& options) {
  return options.progress || ::isatty(STDERR_FILENO) == 1;
}

std::string errno_text(std::string_view what, int error) {
  return fmt::format("{}: {}", what, std::strerror(error));
}

// ---- the sending side ---------------------------------------------------------------------------

/// Going out of scope, a sender says good-bye, and the listener would take what it has for
/// everything. Dying without one is how the listener learns that the stream was cut short.
[[noreturn]] void abandon(const std::string& why) {
  complain(why);
  ::_exit(kFailure);
}

std::string describe(const Sender& sender, std::string_view what) {
  const auto stats = sender.stats();
  return fmt::format("{} after {} bytes, {} of {} messages consumed{}{}", what, Transfer::bytes(),
                     stats.progress.consumed, stats.progress.accepted,
                     stats.error.empty() ? "" : ": ", stats.error);
}

std::string describe(const Sender& sender, SendStatus status) {
  switch (status) {
    case SendStatus::closed: return describe(sender, "the listener stopped taking data");
    case SendStatus::peer_lost: return describe(sender, "the listener was lost");
    default: return describe(sender, to_string(status));
  }
}

/// Waits until stdin has something to read (its end included), with an eye on the listener, which
/// may go while the input is idle.
void await_input(const Sender& sender) {
  pollfd input{STDIN_FILENO, POLLIN, 0};
  while (::poll(&input, 1, kGlanceMs) <= 0) {
    switch (sender.state()) {
      case PeerState::closed: abandon(describe(sender, SendStatus::closed));
      case PeerState::lost: abandon(describe(sender, SendStatus::peer_lost));
      case PeerState::connected:
      case PeerState::stalled: break;
    }
  }
}

/// How much one read may bring; `limit` where the kernel does not say.
std::size_t readable_bytes(std::size_t limit) {
  int ready = 0;
  if (::ioctl(STDIN_FILENO, FIONREAD, &ready) != 0 || ready <= 0) return limit;
  return std::min(static_cast<std::size_t>(ready), limit);
}

/// Sends what one read brings and returns how much; nothing at the end of the input.
std::optional<std::size_t> forward(Sender& sender, std::span<std::byte> spare) {
  await_input(sender);
  auto room = sender.reserve(readable_bytes(spare.size()));
  if (!room) abandon(describe(sender, room.status()));
  const auto got = ::read(STDIN_FILENO, room.data().data(), room.data().size());
  if (got < 0) {
    if (errno == EINTR || errno == EAGAIN) return 0;
    abandon(errno_text("cannot read the input", errno));
  }
  if (got == 0) return std::nullopt;
  const auto size = static_cast<std::size_t>(got);
  if (size == room.data().size()) {
    room.commit();
  } else {
    // Less came than was announced, as at the end of a file: a reservation cannot shrink.
    std::memcpy(spare.data(), room.data().data(), size);
    room = {};
    const auto status = sender.send(spare.first(size));
    if (status != SendStatus::sent) abandon(describe(sender, status));
  }
  return size;
}

int run_sender(const CatOptions& options) {
  ConnectOptions connecting;
  connecting.deadline = options.timeout;
  auto sender = connect(options.uri, connecting);
  if (show_progress(options)) complain(fmt::format("sending over {}", path_of(sender)));
  Transfer transfer(show_progress(options));
  std::vector<std::byte> spare(std::min(kChunk, sender.max_message()));
  while (const auto size = forward(sender, spare)) transfer.add(*size);
  switch (sender.close(options.linger)) {
    case FlushStatus::consumed: transfer.finish(); return kSuccess;
    case FlushStatus::timed_out:
      throw CommandError(describe(
          sender,
          fmt::format("the listener had not taken everything within {}", to_text(options.linger))));
    case FlushStatus::closed: throw CommandError(describe(sender, SendStatus::closed));
    case FlushStatus::peer_lost: throw CommandError(describe(sender, SendStatus::peer_lost));
    case FlushStatus::forked:
    case FlushStatus::cancelled: break;
  }
  throw CommandError("the channel belongs to another process");
}

// ---- the listening side -------------------------------------------------------------------------

/// A released message counts as consumed, and tells its sender that it has arrived. One that could
/// not be written is therefore kept for as long as the process lives.
void never_release(Message message) {
  static auto* const unwritten = new std::vector<Message>;
  unwritten->push_back(std::move(message));
}

/// Writes the streams of its senders one after another: a sender that comes while another is at
/// work waits, its first messages held.
class Sink {
 public:
  explicit Sink(const CatOptions& options)
      : keep_(options.keep),
        receiver_(bind(options.uri, {.persistent = options.keep})),
        transfer_(show_progress(options)) {
    announce(receiver_.uris());
  }

  int run() {
    bool going = true;
    while (going) going = step() && turn();
    receiver_.close();
    for (auto& message : waiting_) never_release(std::move(message));
    transfer_.finish();
    if (::close(STDOUT_FILENO) != 0) {
      throw CommandError(errno_text("cannot close the output", errno));
    }
    return kSuccess;
  }

 private:
  /// Takes the next message; false when there will be none.
  bool step() {
    constexpr Duration kGlance = std::chrono::milliseconds(kGlanceMs);
    auto message = receiver_.recv_for(waiting_.empty() ? kForever : kGlance);
    switch (message.status()) {
      case RecvStatus::received: take(std::move(message)); return true;
      case RecvStatus::peer_lost: lose(message); return true;
      case RecvStatus::closed: return false;
      case RecvStatus::view_limit:
        // A waiting sender has filled its share; only time brings the current one's end.
        std::this_thread::sleep_for(std::chrono::milliseconds(10));
        return true;
      case RecvStatus::empty:
      case RecvStatus::timed_out: return true;
      case RecvStatus::too_small:
      case RecvStatus::forked:
      case RecvStatus::cancelled:
      case RecvStatus::not_decoded: break;
    }
    throw CommandError(to_string(message.status()));
  }

  /// Gives the turn to the next sender where the current one has finished; false to end.
  bool turn() {
    while (!waiting_.empty() && finished()) {
      if (!keep_) return false;
      current_ = waiting_.front().source();
      const auto others = std::stable_partition(
          waiting_.begin(), waiting_.end(),
          [this](const Message& message) { return message.source() == current_; });
      for (auto it = waiting_.begin(); it != others; ++it) write(std::move(*it));
      waiting_.erase(waiting_.begin(), others);
    }
    return true;
  }

  void take(Message message) {
    if (current_ == 0) current_ = message.source();
    if (message.source() == current_) {
      write(std::move(message));
    } else {
      waiting_.push_back(std::move(message));
    }
  }

  void lose(const Message& notice) {
    const auto* loss = notice.loss();
    const auto why =
        fmt::format("a sender was lost{}{}, {} bytes written so far", loss != nullptr ? ": " : "",
                    loss != nullptr ? loss->reason : "", Transfer::bytes());
    const bool current = current_ == 0 || notice.source() == current_;
    if (current && !keep_) throw CommandError(why);
    complain(why);
    if (current) current_ = 0;
    std::erase_if(waiting_, [&notice](const Message& message) {
      return message.source() == notice.source();
    });
  }

  [[nodiscard]] bool finished() const {
    return std::ranges::none_of(receiver_.stats().sources, [this](const SourceStats& source) {
      return source.id == current_;
    });
  }

  /// The message counts as consumed once all of it has been written, not before.
  void write(Message message) {
    auto rest = message.data();
    while (!rest.empty()) {
      const auto written = ::write(STDOUT_FILENO, rest.data(), rest.size());
      if (written >= 0) {
        rest = rest.subspan(static_cast<std::size_t>(written));
      } else if (errno == EAGAIN) {
        pollfd output{STDOUT_FILENO, POLLOUT, 0};
        ::poll(&output, 1, -1);
      } else if (errno != EINTR) {
        const int error = errno;
        receiver_.close();
        never_release(std::move(message));
        throw CommandError(fmt::format("{}, {} bytes written so far",
                                       errno_text("cannot write the output", error),
                                       Transfer::bytes()));
      }
    }
    transfer_.add(message.data().size());
  }

  bool keep_;
  Receiver receiver_;
  Transfer transfer_;
  SourceId current_ = 0;
  std::deque<Message> waiting_;
};

int run_cat(const CatOptions& options) {
  static_cast<void>(parse_uri_between_processes(options.uri, "use shm:NAME on one host"));
  if (options.keep && !options.listen) throw UsageError("--keep goes with --listen");
  return options.listen ? Sink(options).run() : run_sender(options);
}

}  // namespace

void add_cat(CLI::App& app, Action& action) {
  auto* command = app.add_subcommand(
      "cat", "Send stdin to URI, or with --listen write what arrives there to stdout");
  auto options = std::make_shared<CatOptions>();
  command->add_option("uri", options->uri, "shm:NAME or rdma://HOST:PORT/NAME")
      ->required()
      ->type_name("URI");
  command->add_flag("-l,--listen", options->listen, "Receive; end when the sender has closed");
  command->add_flag("--keep", options->keep, "With --listen: take one sender after another");
  command->add_flag("--progress", options->progress,
                    "Show bytes and rate on stderr (always, where it is a terminal)");
  add_duration(*command, "--timeout", options->timeout, "How long to wait for the listener");
  add_duration(*command, "--linger", options->linger,
               "At the end of the input: how long to wait until all of it has been taken");
  command->callback([&action, options] { action = [options] { return run_cat(*options); }; });
}

}  // namespace penstock::cli
