// The answering side of `penstock perf`.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <deque>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "command.hpp"
#include "penstock/transport/error.hpp"
#include "perf.hpp"
#include "plain_verbs.hpp"

namespace penstock::cli {
namespace {

/// A run that ended before its time; the listener goes on with the next.
class RunBroken : public CommandError {
 public:
  using CommandError::CommandError;
};

struct Hello {
  SourceId source = 0;
  Json text;
};

class Listener {
 public:
  explicit Listener(const PerfListenerOptions& options)
      : options_(options),
        uri_(Uri::parse(options.uri)),
        // recv_spinning() spins as the client asks for.
        receiver_(bind(options.uri, {.spin = Duration::zero(), .persistent = true})) {
    if (options.scope == CpuScope::process) announce(receiver_.uris());
  }

  int run() {
    int status = kSuccess;
    for (unsigned done = 0; options_.runs == 0 || done < options_.runs; ++done) {
      try {
        serve(next_hello());
      } catch (const RunBroken& error) {
        complain(error.what());
        status = kFailure;
      } catch (const SetupError& error) {
        complain(fmt::format("cannot connect back to the client: {}", error.what()));
        status = kFailure;
      }
    }
    return status;
  }

 private:
  /// The next message of the current client. Other clients' greetings wait for their turn.
  Message next(Duration spin) {
    auto message = receiver_.try_recv();
    if (!message || !is_clients(message.source())) message = await_next(std::move(message), spin);
    return message;
  }

  [[nodiscard]] bool is_clients(SourceId source) const {
    return std::ranges::find(senders_, source) != senders_.end();
  }

  Message await_next(Message message, Duration spin) {
    constexpr Duration kGlance = std::chrono::seconds(1);
    for (;; message = recv_spinning(receiver_, spin, kGlance)) {
      switch (message.status()) {
        case RecvStatus::received:
          if (is_clients(message.source())) return message;
          greet(message.source(), message.data());
          break;
        case RecvStatus::timed_out:
          // A client that fails closes its reply channel, too.
          if (reply_ && reply_.state() == PeerState::closed) {
            throw RunBroken("the client broke off");
          }
          break;
        case RecvStatus::peer_lost: lose(message.source(), message.loss()); break;
        case RecvStatus::empty: break;
        default: throw CommandError(to_string(message.status()));
      }
    }
  }

  /// A stranger's first message.
  void greet(SourceId source, std::span<const std::byte> message) {
    auto control = decode(message);
    if (!control.is_object()) return;
    const auto op = text_of(control, "op");
    if (op == "hello") {
      waiting_.push_back({source, std::move(control)});
    } else if (op == "join" && !senders_.empty() && text_of(control, "reply") == reply_address_) {
      senders_.push_back(source);
    }
  }

  void lose(SourceId source, const Loss* loss) {
    if (std::ranges::find(former_, source) != former_.end()) return;
    const auto why = loss == nullptr ? std::string() : loss->reason;
    const bool waited = std::erase_if(waiting_, [source](const Hello& hello) {
                          return hello.source == source;
                        }) != 0;
    const auto peer = why.substr(0, why.find(": "));
    // A sender that its client had made, and that had not joined yet, goes with it.
    const bool told = !peer.empty() && peer == lost_peer_ && !waited;
    if (is_clients(source) || (senders_.empty() && !told) || waited) {
      lost_peer_ = peer;
      throw RunBroken(fmt::format("a client was lost: {}", why));
    }
  }

  Hello next_hello() {
    former_ = std::exchange(senders_, {});
    plain_verbs_.reset();
    reply_ = Sender();
    while (waiting_.empty()) {
      auto message = receiver_.recv();
      if (message) greet(message.source(), message.data());
      if (message.status() == RecvStatus::peer_lost) lose(message.source(), message.loss());
    }
    auto hello = std::move(waiting_.front());
    waiting_.pop_front();
    return hello;
  }

  void serve(const Hello& hello) {
    senders_.assign(1, hello.source);
    reply_address_ = text_of(hello.text, "reply");
    // The client's address, and this side's options (device, port and the like).
    auto reply = Uri::parse(reply_address_);
    reply.options = uri_.options;
    reply_ = connect(reply.text());
    if (value_of(hello.text, "penstock_perf", 0) != kPerfProtocol) {
      const auto why = fmt::format("this listener (penstock {}) speaks version {} of the protocol",
                                   PENSTOCK_VERSION, kPerfProtocol);
      answer({{"op", "refused"}, {"why", why}});
      throw RunBroken(fmt::format("a client speaks another version; {}", why));
    }
    answer({{"op", "ready"}});
    for (;;) {
      auto message = next(Duration::zero());
      const auto source = message.source();
      const auto control = decode(message.data());
      message.release();
      const auto op = text_of(control, "op");
      if (op == "bye") return;
      if (op == "plain_verbs") {
        serve_plain_verbs();
      } else if (op == "leave") {
        std::erase(senders_, source);
      } else if (op == "begin") {
        measure(control);
      } else {
        throw RunBroken("a client broke the protocol");
      }
    }
  }

  void serve_plain_verbs() {
    try {
      if (!plain_verbs_) plain_verbs_.emplace(uri_);
      answer({{"op", "plain_verbs"}, {"port", plain_verbs_->port()}});
    } catch (const CommandError& error) {
      answer({{"op", "refused"}, {"why", fmt::format("the listener: {}", error.what())}});
    }
  }

  /// Takes joins and leaves until there are so many.
  void gather(std::size_t senders) {
    while (senders_.size() != senders) {
      const auto message = next(Duration::zero());
      const auto control = decode(message.data());
      if (!control.is_object() || text_of(control, "op") != "leave") {
        throw RunBroken("a client broke the protocol");
      }
      std::erase(senders_, message.source());
    }
  }

  /// Takes messages of `size` bytes, and says what the first of another size says.
  Json take(std::size_t size, Duration spin, bool echo, std::uint64_t& messages) {
    auto message = next(spin);
    for (; message.data().size() == size; message = next(spin), ++messages) {
      if (echo) check(reply_.send(message.data()));
      // Before the next is awaited: a client that waits for room waits for this.
      message.release();
    }
    return decode(message.data());
  }

  /// Likewise, up to `batch` in one call.
  Json take_batches(std::size_t size, Duration spin, std::size_t batch, std::uint64_t& messages) {
    for (Messages run;;) {
      const auto status = receiver_.recv_many(run, batch, Duration::zero());
      if (status == RecvStatus::peer_lost) lose(run.source(), run.loss());
      if (status == RecvStatus::received && !is_clients(run.source())) {
        for (const auto& message : run) greet(run.source(), message);
      } else if (status == RecvStatus::received) {
        for (const auto& message : run) {
          if (message.size() != size) return decode(message);
          ++messages;
        }
      } else {
        const auto message = next(spin);  // sleeps, or says what is wrong
        if (message.data().size() != size) return decode(message.data());
        ++messages;
      }
    }
  }

  void measure(const Json& begin) {
    const auto size = value_of(begin, "size", std::size_t{0});
    const Duration spin(value_of(begin, "spin_ns", Duration::rep{0}));
    const bool echo = text_of(begin, "mode") != to_string(PerfMode::throughput);
    gather(value_of(begin, "senders", std::size_t{1}));
    const auto before = side_stats(receiver_.stats(), senders_, options_.scope);
    answer({{"op", "ready"}}, size);
    std::uint64_t messages = 0;
    const auto batch =
        std::clamp<std::size_t>(value_of(begin, "batch", std::size_t{1}), 1, Messages::kMost);
    const auto end = echo || batch == 1 ? take(size, spin, echo, messages)
                                        : take_batches(size, spin, batch, messages);
    if (!end.is_object() || text_of(end, "op") != "end") {
      throw RunBroken("a client broke the protocol");
    }
    const auto work = side_stats(receiver_.stats(), senders_, options_.scope) - before;
    answer({{"op", "result"}, {"messages", messages}, {"stats", to_json(work)}}, size);
  }

  void answer(const Json& control, std::size_t data_size = 0) {
    check(reply_.send(as_bytes(encode(control, data_size))));
  }

  static void check(SendStatus status) {
    if (status != SendStatus::sent) {
      throw RunBroken(fmt::format("cannot answer the client: {}", to_string(status)));
    }
  }

  const PerfListenerOptions& options_;
  Uri uri_;
  Receiver receiver_;
  Sender reply_;
  std::string reply_address_;
  std::vector<SourceId> senders_;  ///< of the current client, the first of which commands
  std::vector<SourceId> former_;   ///< of the last: its loss has been told once
  std::string lost_peer_;          ///< who was lost last, by address and process
  std::optional<PlainVerbsServer> plain_verbs_;
  std::deque<Hello> waiting_;
};

}  // namespace

int run_perf_listener(const PerfListenerOptions& options) { return Listener(options).run(); }

}  // namespace penstock::cli
