// penstock-conformance: runs the cases on the transports and topologies asked for.
//
// In one process the roles are two threads. Between processes the program starts itself again as
// the other side. Between hosts it is started on both, with PENSTOCK_HOST=0 (receivers) and 1
// (senders), PENSTOCK_ADDR and PENSTOCK_PEER_ADDR. A side that a case kills always runs in a
// process of its own.

#include "tests/conformance/suite.hpp"

#include <fcntl.h>
#include <spawn.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <array>
#include <atomic>
#include <cerrno>
#include <condition_variable>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <mutex>
#include <optional>
#include <stop_token>
#include <thread>
#include <utility>

#include "penstock/transport/registry.hpp"
#include "tests/transport/torn_link.hpp"

namespace penstock::test {
namespace {

constexpr std::uint16_t kStagePort = 17'917;  // between hosts

std::vector<Case>& cases() {
  static std::vector<Case> all;
  return all;
}

double factor(const char* variable) {
  const char* text = std::getenv(variable);
  if (text == nullptr || *text == '\0') return 1;
  const double value = std::strtod(text, nullptr);
  return value > 0 ? value : 1;
}

std::string text_of(const char* variable) {
  const char* text = std::getenv(variable);
  return text == nullptr ? std::string() : std::string(text);
}

/// What the program was asked to do.
struct Plan {
  std::vector<std::string> transports{"inproc", "shm", "torn"};
  std::vector<std::string> topologies;
  std::vector<std::uint64_t> seeds{1, 2};
  std::vector<std::string> publish;  // empty: as the receiver thinks best; torn: every one
  std::string query;
  // Set in a process that was started as one side of a case.
  std::string role;
  std::string only;
  std::string stage;
  // Between hosts.
  int host = 0;
  std::string address = "127.0.0.1";
  std::string peer_address;
  [[nodiscard]] bool child() const noexcept { return !role.empty(); }
};

Plan& plan() {
  static Plan the;
  return the;
}

/// What the running case shares with the watchdog and with its child.
struct Running {
  std::mutex mutex;
  std::string scope;
  std::optional<std::chrono::steady_clock::time_point> deadline;
  pid_t child = 0;
};

Running& running() {
  static Running the;
  return the;
}

Board& board() {
  static Board the;
  return the;
}

void say_end(const std::string& scope) {
  std::fprintf(stderr, "\nwatchdog: %s did not end in time", scope.c_str());
  if (plan().child()) {
    std::fprintf(stderr, " (process of the %s side)\n", plan().role.c_str());
  } else {
    std::fprintf(stderr, "\n  the receiver side last: %s\n  the sender side last:   %s\n",
                 board().peek(scope, "note/receiver").c_str(),
                 board().peek(scope, "note/sender").c_str());
  }
  std::fflush(stderr);
}

/// Ends the process when a case takes too long. A hang is a failure of the case; what is left of it
/// would hang the next one.
class Watchdog {
 public:
  Watchdog() : thread_([this](const std::stop_token& stop) { run(stop); }) {}

  static void start(const std::string& scope) {
    const auto limit =
        std::chrono::duration<double>((plan().child() ? 70 : 60) * factor("PENSTOCK_TEST_TIMEOUT"));
    const std::lock_guard lock(running().mutex);
    running().scope = scope;
    running().deadline = std::chrono::steady_clock::now() +
                         std::chrono::duration_cast<std::chrono::nanoseconds>(limit);
  }
  static void stop() {
    const std::lock_guard lock(running().mutex);
    running().deadline.reset();
  }

 private:
  void run(const std::stop_token& stop) {
    std::unique_lock lock(running().mutex);
    while (!stop.stop_requested()) {
      tick_.wait_for(lock, stop, std::chrono::milliseconds(200), [] { return false; });
      if (!running().deadline || std::chrono::steady_clock::now() < *running().deadline) continue;
      say_end(running().scope);
      if (running().child > 0) {
        ::kill(running().child, SIGCONT);
        ::kill(running().child, SIGKILL);
      }
      ::_exit(124);
    }
  }

  std::condition_variable_any tick_;
  std::jthread thread_;
};

/// The other side, in a process of its own.
class ChildSide {
 public:
  ChildSide(Role role, const std::string& scope, const std::string& stage) {
    const std::array<std::string, 8> words{
        "penstock-conformance", "--role", to_string(role), "--case", scope, "--stage", stage,
        "--gtest_brief=1"};
    std::vector<char*> arguments;
    for (const std::string& word : words) arguments.push_back(const_cast<char*>(word.c_str()));
    arguments.push_back(nullptr);
    const int error =
        ::posix_spawn(&pid_, "/proc/self/exe", nullptr, nullptr, arguments.data(), environ);
    if (error != 0)
      throw std::system_error(error, std::generic_category(), "starting the other side");
    const std::lock_guard lock(running().mutex);
    running().child = pid_;
  }
  ChildSide(const ChildSide&) = delete;
  ChildSide& operator=(const ChildSide&) = delete;
  ChildSide(ChildSide&&) = delete;
  ChildSide& operator=(ChildSide&&) = delete;
  ~ChildSide() {
    if (pid_ <= 0) return;
    ::kill(pid_, SIGCONT);
    ::kill(pid_, SIGKILL);
    (void)wait();
  }

  /// The exit status as wait() gives it.
  int wait() {
    int status = 0;
    while (::waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
    }
    const std::lock_guard lock(running().mutex);
    running().child = 0;
    pid_ = 0;
    return status;
  }

 private:
  pid_t pid_ = 0;
};

/// Collects failures, so that they can be told to the other side.
class FailureText final : public testing::EmptyTestEventListener {
 public:
  void OnTestPartResult(const testing::TestPartResult& result) override {
    if (!result.failed()) return;
    const std::lock_guard lock(mutex_);
    text_ += std::string(result.file_name() != nullptr ? result.file_name() : "?") + ":" +
             std::to_string(result.line_number()) + ": " + result.message() + "\n";
  }
  [[nodiscard]] std::string take() {
    const std::lock_guard lock(mutex_);
    return std::exchange(text_, {});
  }

 private:
  std::mutex mutex_;
  std::string text_;
};

FailureText*& failure_text() {
  static FailureText* the = nullptr;
  return the;
}

void run_role(const Case& the_case, Role role, const Target& target, Stage& stage,
              const std::string& scope) {
  const testing::ScopedTrace trace(__FILE__, __LINE__,
                                   std::string("on the ") + to_string(role) + " side");
  try {
    Side side(role, target, stage, scope);
    (role == Role::receiver ? the_case.receiver : the_case.sender)(side);
    side.note("ended");
  } catch (const std::exception& error) {
    ADD_FAILURE() << "the " << to_string(role) << " side threw: " << error.what();
  }
}

class CaseTest final : public testing::Test {
 public:
  CaseTest(const Case& the_case, const Target& target, std::string scope)
      : case_(the_case), target_(target), scope_(std::move(scope)) {}

  void TestBody() override {
    Watchdog::start(scope_);
    if (plan().child()) {
      const Role role = plan().role == "receiver" ? Role::receiver : Role::sender;
      be_one_side(role, plan().stage);
    } else if (target_.topology == Topology::threads) {
      in_threads();
    } else if (target_.topology == Topology::processes) {
      const bool swap = case_.victim == Case::Victim::receiver;
      with_child(swap ? Role::sender : Role::receiver, swap ? Role::receiver : Role::sender);
    } else {
      between_hosts();
    }
    Watchdog::stop();
  }

 private:
  void in_threads() {
    std::thread sender([&] {
      const auto stage = stage_here(board(), scope_, Role::sender);
      run_role(case_, Role::sender, target_, *stage, scope_);
    });
    {
      const auto stage = stage_here(board(), scope_, Role::receiver);
      run_role(case_, Role::receiver, target_, *stage, scope_);
    }
    sender.join();
    board().forget(scope_);
  }

  // This process is `mine`, a new one the other.
  void with_child(Role mine, Role theirs) {
    const BoardServer server(board(), "127.0.0.1", 0);
    ChildSide child(theirs, scope_, "127.0.0.1:" + std::to_string(server.port()));
    {
      const auto stage = stage_here(board(), scope_, mine);
      run_role(case_, mine, target_, *stage, scope_);
    }
    judge(theirs, child.wait());
    board().forget(scope_);
  }

  void judge(Role theirs, int status) {
    const std::string result = board().peek(scope_, std::string("result/") + to_string(theirs));
    if (!result.empty() && result != "passed") {
      ADD_FAILURE() << "on the " << to_string(theirs) << " side, another process:\n" << result;
    }
    const bool killed = WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
    const bool victim = (case_.victim == Case::Victim::receiver && theirs == Role::receiver) ||
                        (case_.victim == Case::Victim::sender && theirs == Role::sender);
    if (victim && killed) return;
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0)
        << "the process of the " << to_string(theirs) << " side ended with "
        << (WIFSIGNALED(status) ? "signal " + std::to_string(WTERMSIG(status))
                                : "status " + std::to_string(WEXITSTATUS(status)));
  }

  // Host 0 keeps the board. The sides of a case that are not killed run in the programs themselves.
  void between_hosts() {
    const Role mine = plan().host == 0 ? Role::receiver : Role::sender;
    const std::string address =
        (plan().host == 0 ? "127.0.0.1" : plan().peer_address) + ":" + std::to_string(kStagePort);
    const bool victim = (case_.victim == Case::Victim::receiver) == (mine == Role::receiver) &&
                        case_.victim != Case::Victim::none;
    if (victim) {
      ChildSide child(mine, scope_, address);
      const int status = child.wait();
      EXPECT_TRUE((WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) ||
                  (WIFEXITED(status) && WEXITSTATUS(status) == 0))
          << "the process of the " << to_string(mine) << " side ended with status " << status;
    } else {
      be_one_side(mine, address);
    }
    if (plan().host == 0) wait_for_other_host();
  }

  void wait_for_other_host() {
    // The other side has put its result before it ends.
    wait_until([&] { return !board().peek(scope_, "ended/sender").empty(); });
    const std::string result = board().peek(scope_, "result/sender");
    if (!result.empty() && result != "passed") {
      ADD_FAILURE() << "on the sender side, another host:\n" << result;
    }
    // Kept: the other host may still be on its way to reading from the board.
  }

  void be_one_side(Role role, const std::string& address) {
    (void)failure_text()->take();
    const auto stage = stage_at(address, scope_, role);
    run_role(case_, role, target_, *stage, scope_);
    std::string text = failure_text()->take();
    try {
      stage->put(std::string("result/") + to_string(role), text.empty() ? "passed" : text);
    } catch (const std::exception& error) {
      // The other process prints what it knows; this one has its own exit status.
      std::fprintf(stderr, "telling the result: %s\n", error.what());
    }
  }

  const Case case_;
  const Target target_;
  const std::string scope_;
};

class Unavailable final : public testing::Test {
 public:
  explicit Unavailable(std::string why) : why_(std::move(why)) {}
  void TestBody() override { ADD_FAILURE() << why_; }

 private:
  const std::string why_;
};

void add_unavailable(const std::string& transport, const std::string& why) {
  std::fprintf(stderr, "penstock-conformance: %s\n", why.c_str());  // a filter may hide the test
  testing::RegisterTest(("Conformance." + transport).c_str(), "is_available", nullptr, nullptr,
                        __FILE__, __LINE__,
                        [why]() -> testing::Test* { return new Unavailable(why); });
}

std::vector<Topology> topologies_of(const std::string& transport) {
  if (transport == "inproc" || transport == "torn") return {Topology::threads};
  if (transport == "shm") return {Topology::threads, Topology::processes};
  return {Topology::threads, Topology::processes, Topology::hosts};
}

// Names one transport in one topology "rdma.processes".
void add_target(const Target& target) {
  const std::string suite = "Conformance." + target.label + "." + to_string(target.topology);
  for (const Case& one : cases()) {
    if ((one.where & (1U << static_cast<unsigned>(target.topology))) == 0) continue;
    const std::string scope = suite + "." + one.name;
    if (plan().child() && scope != plan().only) continue;
    testing::RegisterTest(
        suite.c_str(), one.name, nullptr, nullptr, __FILE__, __LINE__,
        [one, target, scope]() -> testing::Test* { return new CaseTest(one, target, scope); });
  }
}

/// The same, but the receivers' senders publish in one way only.
Target publishing(Target target, const std::string& publish) {
  target.label += "_" + publish;
  target.options += (target.options.empty() ? "publish=" : "&publish=") + publish;
  return target;
}

void add_torn_targets(Topology topology) {
  for (const std::uint64_t seed : plan().seeds) {
    for (const bool ordered : {true, false}) {
      const std::string number = std::to_string(seed);
      add_target({.label = (ordered ? "torn_ordered_seed" : "torn_unordered_seed") + number,
                  .scheme = "torn",
                  .options = "seed=" + number + "&ordered=" + (ordered ? "1" : "0"),
                  .host = "127.0.0.1",
                  .topology = topology});
    }
  }
  // Several links, all of which live, or one of which fails when it has done some work.
  const std::string seed = "seed=" + std::to_string(plan().seeds.front());
  for (const auto& [label, options] :
       {std::pair{"rails", "&rails=3"}, std::pair{"rails_lost", "&rails=2&lose=0&fail_after=9"},
        std::pair{"rails_lost_unordered", "&rails=2&lose=0&fail_after=9&ordered=0"}})
    add_target({.label = std::string("torn_") + label,
                .scheme = "torn",
                .options = seed + options,
                .host = "127.0.0.1",
                .topology = topology});
  const std::vector<std::string> all{"tail", "immediate", "turns"};
  for (const std::string& publish : plan().publish.empty() ? all : plan().publish) {
    add_target(publishing({.label = "torn",
                           .scheme = "torn",
                           .options = "seed=" + std::to_string(plan().seeds.front()),
                           .host = "127.0.0.1",
                           .topology = topology},
                          publish));
  }
}

void add_transport(const std::string& transport) {
  std::vector<Topology> topologies;
  for (const Topology topology : topologies_of(transport)) {
    const bool asked = std::find(plan().topologies.begin(), plan().topologies.end(),
                                 to_string(topology)) != plan().topologies.end();
    if (plan().child() || asked || (plan().topologies.empty() && topology != Topology::hosts)) {
      topologies.push_back(topology);
    }
  }
  if (!plan().child()) {
    try {
      const ProbeReport report = find_transport(transport)->probe();
      if (!report.available) return add_unavailable(transport, transport + ": " + report.reason);
    } catch (const SetupError& error) {
      return add_unavailable(transport, error.what());
    }
    if (topologies.empty()) {
      return add_unavailable(transport, transport + " cannot run in the topologies asked for");
    }
  }
  for (const Topology topology : topologies) {
    if (transport == "torn") {
      add_torn_targets(topology);
      continue;
    }
    const bool local = transport == "inproc" || transport == "shm";
    const Target target{.label = transport,
                        .scheme = transport,
                        .options = plan().query,
                        .host = local ? std::string() : plan().address,
                        .topology = topology};
    if (plan().publish.empty()) add_target(target);
    for (const std::string& publish : plan().publish) add_target(publishing(target, publish));
  }
}

}  // namespace

const char* to_string(Topology topology) noexcept {
  switch (topology) {
    case Topology::threads: return "threads";
    case Topology::processes: return "processes";
    case Topology::hosts: return "hosts";
  }
  return "?";
}

AddCase::AddCase(const char* name, RoleBody receiver, RoleBody sender, Case::Where where,
                 Case::Victim victim) {
  cases().push_back({name, where, victim, receiver, sender});
}

Side::Side(Role role, const Target& target, Stage& stage, std::string scope)
    : role_(role), target_(target), stage_(stage), scope_(std::move(scope)) {
  note("started");
}

std::string Side::fresh_uri(std::string_view query) {
  static std::atomic<int> count{0};
  const std::string name =
      "conformance-" + std::to_string(::getpid()) + "-" + std::to_string(++count);
  const std::string place = target_.by_name()
                                ? target_.scheme + ":" + name
                                : target_.scheme + "://" + target_.host + ":0/" + name;
  return with(place, query);
}

std::string Side::with(std::string_view uri, std::string_view query) const {
  std::string result(uri.substr(0, uri.find('?')));
  char separator = '?';
  const bool own = uri.starts_with(target_.scheme + ":");
  for (const std::string_view part :
       {own ? std::string_view(target_.options) : std::string_view(), query}) {
    if (part.empty()) continue;
    result += separator;
    result += part;
    separator = '&';
  }
  return result;
}

Receiver Side::bind(std::string_view query, const std::string& tag) {
  const std::string uri = fresh_uri(query);
  note("binding " + uri);
  Receiver receiver = penstock::bind(uri);
  put(tag, receiver.uris().at(0));
  return receiver;
}

Sender Side::connect(std::string_view query, const std::string& tag) {
  const std::string uri = with(get(tag), query);
  note("connecting to " + uri);
  return penstock::connect(uri, patient());
}

ConnectOptions Side::patient() const {
  ConnectOptions options;
  options.deadline = std::chrono::minutes(10);
  options.linger = std::chrono::minutes(10);
  return options;
}

void Side::put(const std::string& key, const std::string& value) { stage_.put(key, value); }

std::string Side::get(const std::string& key) {
  note("waiting for the other side to say '" + key + "'");
  std::string value = stage_.get(key);
  note("was told '" + key + "'");
  return value;
}

void Side::meet(const std::string& where) {
  put(where + "/" + to_string(role_));
  (void)get(where + "/" + to_string(other(role_)));
}

void Side::note(const std::string& what) {
  stage_.replace(std::string("note/") + to_string(role_), what);
}

std::uint64_t Side::scaled(std::uint64_t times, std::uint64_t least) const {
  const auto result =
      static_cast<std::uint64_t>(static_cast<double>(times) * factor("PENSTOCK_TEST_SCALE"));
  return std::max(result, least);
}

void Side::die_when_told() {
  (void)get("die");
  ::kill(::getpid(), SIGKILL);
  std::abort();  // not reached
}

void fill_pattern(std::uint64_t seed, std::span<std::byte> to) {
  std::uint64_t state = seed * 0x9E37'79B9'7F4A'7C15U + 1;
  for (std::size_t at = 0; at < to.size(); at += sizeof(state)) {
    state = state * 6'364'136'223'846'793'005U + 1'442'695'040'888'963'407U;
    const std::uint64_t word = state ^ (state >> 29U);
    std::memcpy(to.data() + at, &word, std::min(sizeof(word), to.size() - at));
  }
}

std::vector<std::byte> pattern(std::uint64_t seed, std::size_t size) {
  std::vector<std::byte> bytes(size);
  fill_pattern(seed, bytes);
  return bytes;
}

bool has_pattern(std::uint64_t seed, std::span<const std::byte> bytes) {
  const std::vector<std::byte> expected = pattern(seed, bytes.size());
  return std::equal(bytes.begin(), bytes.end(), expected.begin(), expected.end());
}

void dither(std::mt19937& random) {
  switch (random() % 4) {
    case 0: break;
    case 1: std::this_thread::yield(); break;
    case 2: std::this_thread::sleep_for(std::chrono::microseconds(random() % 200)); break;
    default: {
      const auto end =
          std::chrono::steady_clock::now() + std::chrono::nanoseconds(random() % 100'000);
      while (std::chrono::steady_clock::now() < end) {
      }
    }
  }
}

void wait_until(const std::function<bool()>& condition) {
  while (!condition()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
}

void wait_consumed(const Sender& sender) {
  wait_until([&] {
    const Progress progress = sender.stats().progress;
    return progress.consumed == progress.accepted;
  });
}

void wait_delivered(const Sender& sender) {
  wait_until([&] {
    const Progress progress = sender.stats().progress;
    return progress.delivered == progress.accepted;
  });
}

namespace {

int run_all(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  CLI::App app("Runs the conformance suite: one contract, every transport.");
  Plan& the = plan();
  app.add_option("--transport", the.transports, "inproc, shm, torn, auto, rdma, or a module's")
      ->delimiter(',')
      ->envname("PENSTOCK_CONFORMANCE_TRANSPORT");
  app.add_option("--topology", the.topologies, "threads, processes, hosts")
      ->delimiter(',')
      ->check(CLI::IsMember({"threads", "processes", "hosts"}))
      ->envname("PENSTOCK_CONFORMANCE_TOPOLOGY");
  app.add_option("--seeds", the.seeds, "of the torn link")
      ->delimiter(',')
      ->envname("PENSTOCK_CONFORMANCE_SEEDS");
  app.add_option("--publish", the.publish, "how remote senders do it: tail, hot, immediate, turns")
      ->delimiter(',')
      ->envname("PENSTOCK_CONFORMANCE_PUBLISH");
  app.add_option("--query", the.query, "for every URI, for instance tls=tcp")
      ->envname("PENSTOCK_CONFORMANCE_QUERY");
  app.add_option("--role", the.role)->group("");
  app.add_option("--case", the.only)->group("");
  app.add_option("--stage", the.stage)->group("");
  CLI11_PARSE(app, argc, argv);

  if (const std::string address = text_of("PENSTOCK_ADDR"); !address.empty()) the.address = address;
  the.peer_address = text_of("PENSTOCK_PEER_ADDR");
  the.host = text_of("PENSTOCK_HOST") == "1" ? 1 : 0;
  register_links(std::make_shared<TornLinkProvider>());

  auto& listeners = testing::UnitTest::GetInstance()->listeners();
  failure_text() = new FailureText;
  listeners.Append(failure_text());
  if (the.child()) {
    // No child outlives its parent, whatever happens to that.
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    delete listeners.Release(listeners.default_result_printer());
    the.transports = {the.only.substr(the.only.find('.') + 1)};
    the.transports[0] = the.transports[0].substr(0, the.transports[0].find_first_of("._"));
  } else {
    if (!the.publish.empty())
      ::setenv("PENSTOCK_CONFORMANCE_PUBLISH", CLI::detail::join(the.publish).c_str(), 1);
    if (!the.query.empty()) ::setenv("PENSTOCK_CONFORMANCE_QUERY", the.query.c_str(), 1);
  }
  for (const std::string& transport : the.transports) add_transport(transport);

  const bool hosts = !the.child() && std::find(the.topologies.begin(), the.topologies.end(),
                                               "hosts") != the.topologies.end();
  if (hosts && the.peer_address.empty()) {
    std::fprintf(stderr,
                 "--topology hosts needs PENSTOCK_HOST, PENSTOCK_ADDR and PENSTOCK_PEER_ADDR\n");
    return 2;
  }
  std::optional<BoardServer> server;
  if (hosts && the.host == 0) server.emplace(board(), "0.0.0.0", kStagePort);
  const Watchdog watchdog;
  const int status = RUN_ALL_TESTS();
  const int run = testing::UnitTest::GetInstance()->test_to_run_count();
  if (the.child() && run != 1) return 3;
  if (run == 0) std::fprintf(stderr, "penstock-conformance: no case was run\n");
  return run == 0 ? 2 : status;
}

}  // namespace
}  // namespace penstock::test

int main(int argc, char** argv) {
  try {
    return penstock::test::run_all(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "penstock-conformance: %s\n", error.what());
    return 2;
  }
}
