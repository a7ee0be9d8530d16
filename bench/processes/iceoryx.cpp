// Eclipse iceoryx. Its daemon (RouDi) hands out the shared memory; here it is a child of this
// process for as long as a measurement needs it.
#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <system_error>

#include "between.hpp"
#include "iceoryx_hoofs/log/logmanager.hpp"
#include "iceoryx_posh/popo/publisher.hpp"
#include "iceoryx_posh/popo/subscriber.hpp"
#include "iceoryx_posh/roudi/cmd_line_args.hpp"
#include "iceoryx_posh/roudi/iceoryx_roudi_app.hpp"
#include "iceoryx_posh/runtime/posh_runtime.hpp"

namespace {

/// The daemon, ready when the constructor returns.
class Daemon {
 public:
  /// Throws std::runtime_error where it does not start: for one, since another one runs.
  Daemon() {
    std::array<int, 2> output{};
    if (::pipe2(output.data(), O_CLOEXEC) != 0)
      throw std::system_error(errno, std::generic_category(), "pipe");
    output_ = output[0];
    std::fflush(nullptr);
    child_ = ::fork();
    if (child_ == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      ::dup2(output[1], STDOUT_FILENO);
      ::dup2(output[1], STDERR_FILENO);
      ::close(output[1]);
      serve();
    }
    ::close(output[1]);
    std::string said;
    std::array<char, 256> part{};
    while (said.find("ready for clients") == std::string::npos) {
      const auto got = ::read(output_, part.data(), part.size());
      if (got <= 0) {
        stop();
        throw std::runtime_error("iceoryx's daemon does not start: " + said);
      }
      said.append(part.data(), static_cast<std::size_t>(got));
    }
  }
  Daemon(const Daemon&) = delete;
  Daemon& operator=(const Daemon&) = delete;
  Daemon(Daemon&&) = delete;
  Daemon& operator=(Daemon&&) = delete;
  ~Daemon() { stop(); }

 private:
  [[noreturn]] static void serve() {
    iox::mepoo::MePooConfig chunks;
    chunks.addMemPool({128, 4096});
    iox::RouDiConfig_t config;
    const auto group = iox::posix::PosixGroup::getGroupOfCurrentProcess().getName();
    config.m_sharedMemorySegments.push_back({group, group, chunks});
    iox::config::CmdLineArgs_t arguments;
    arguments.monitoringMode = iox::roudi::MonitoringMode::OFF;
    // What it made is taken away by destructors of static objects.
    std::exit(iox::roudi::IceOryxRouDiApp(arguments, config).run());
  }
  void stop() noexcept {
    if (child_ > 0) {
      ::kill(child_, SIGTERM);
      ::waitpid(child_, nullptr, 0);
    }
    ::close(output_);
  }

  pid_t child_ = -1;
  int output_ = -1;  // what it says; open as long as it runs
};

std::shared_ptr<Daemon> daemon() {
  static std::weak_ptr<Daemon> running;
  auto here = running.lock();
  if (!here) running = here = std::make_shared<Daemon>();
  return here;
}

template <class Item>
class Iceoryx {
 public:
  static constexpr bool kSenders = true;

  Iceoryx(std::size_t capacity, std::size_t /*senders*/) : capacity_(capacity), daemon_(daemon()) {
    name_ = iox::capro::IdString_t(iox::cxx::TruncateToCapacity, contest::fresh_name());
  }

  struct SendEnd {
    std::unique_ptr<iox::popo::Publisher<Item>> end;
    void send(const Item& item) {
      for (contest::Patience patience;; patience.lose()) {
        auto room = end->loan();
        if (room.has_error()) continue;
        **room = item;
        room->publish();
        return;
      }
    }
  };
  struct RecvEnd {
    std::unique_ptr<iox::popo::Subscriber<Item>> end;
    void receive(Item& item) {
      for (contest::Patience patience;; patience.lose()) {
        const auto taken = end->take();
        if (taken.has_error()) continue;
        item = **taken;
        return;
      }
    }
  };
  SendEnd sender(std::size_t /*number*/) {
    register_process();
    iox::popo::PublisherOptions options;
    options.subscriberTooSlowPolicy = iox::popo::ConsumerTooSlowPolicy::WAIT_FOR_CONSUMER;
    SendEnd made{std::make_unique<iox::popo::Publisher<Item>>(topic(), options)};
    // What is published before is lost.
    while (!made.end->hasSubscribers()) std::this_thread::yield();
    return made;
  }
  RecvEnd receiver() {
    register_process();
    iox::popo::SubscriberOptions options;
    options.queueCapacity = std::min<std::size_t>(capacity_, iox::MAX_SUBSCRIBER_QUEUE_CAPACITY);
    options.queueFullPolicy = iox::popo::QueueFullPolicy::BLOCK_PRODUCER;
    return {std::make_unique<iox::popo::Subscriber<Item>>(topic(), options)};
  }

 private:
  static void register_process() {
    iox::log::LogManager::GetLogManager().SetDefaultLogLevel(
        iox::log::LogLevel::kError, iox::log::LogLevelOutput::kHideLogLevel);
    iox::runtime::PoshRuntime::initRuntime(
        iox::RuntimeName_t(iox::cxx::TruncateToCapacity, "contest-" + std::to_string(::getpid())));
  }
  [[nodiscard]] iox::capro::ServiceDescription topic() const {
    return {"penstock", "contest", name_};
  }

  std::size_t capacity_;
  std::shared_ptr<Daemon> daemon_;
  iox::capro::IdString_t name_;
};

[[maybe_unused]] const bool entered = (contest::enter_between<Iceoryx>("iceoryx"), true);

}  // namespace
