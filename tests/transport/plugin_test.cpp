// Loading transport modules: what is found, what is refused and in which words, and that every
// function of the interface carries its arguments across.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "penstock/transport/error.hpp"
#include "penstock/transport/plugin_loader.hpp"

namespace penstock {
namespace {

namespace fs = std::filesystem;

/// A directory of modules, alone in PENSTOCK_PLUGIN_PATH.
class Plugin : public testing::Test {
 protected:
  Plugin() {
    std::string pattern = (fs::temp_directory_path() / "penstock-plugin-XXXXXX").string();
    directory_ = ::mkdtemp(pattern.data());
    ::setenv("PENSTOCK_PLUGIN_PATH", directory_.c_str(), 1);
  }
  ~Plugin() override {
    ::unsetenv("PENSTOCK_PLUGIN_PATH");
    std::error_code ignored;
    fs::remove_all(directory_, ignored);
  }
  Plugin(const Plugin&) = delete;
  Plugin& operator=(const Plugin&) = delete;
  Plugin(Plugin&&) = delete;
  Plugin& operator=(Plugin&&) = delete;

  [[nodiscard]] fs::path file(const std::string& scheme) const {
    return directory_ / ("penstock_" + scheme + ".so");
  }
  /// The test module that was built with this fault, under the name of this scheme.
  void install(const std::string& fault, const std::string& scheme) const {
    fs::copy_file(fs::path(PENSTOCK_TEST_MODULES) / ("plugin_test_" + fault + ".so"), file(scheme),
                  fs::copy_options::overwrite_existing);
  }
  void expect_broken(const std::string& scheme, const std::string& why) const {
    try {
      (void)load_link_module(scheme);
      ADD_FAILURE() << "loaded";
    } catch (const SetupError& e) {
      EXPECT_EQ(e.errc(), Errc::module_broken);
      EXPECT_NE(std::string(e.what()).find(file(scheme).string()), std::string::npos) << e.what();
      EXPECT_NE(std::string(e.what()).find(why), std::string::npos) << e.what();
    }
  }

  fs::path directory_;
};

TEST_F(Plugin, ThatIsNowhereIsNull) {
  EXPECT_EQ(load_link_module("nowhere"), nullptr);
  const auto path = module_search_path();
  EXPECT_EQ(path.front(), directory_.string());
  // what lies beside the program, before what is installed
  const auto beside =
      std::ranges::find(path, fs::read_symlink("/proc/self/exe").parent_path().string());
  ASSERT_NE(beside, path.end());
  EXPECT_NE(beside + 1, path.end());
}

TEST_F(Plugin, OfANameThatIsNoSchemeIsNotLookedFor) {
  for (const char* scheme : {"", "../echo", "Echo", "a/b", "a.b"})
    EXPECT_EQ(load_link_module(scheme), nullptr) << scheme;
}

TEST_F(Plugin, ThatIsNoSharedObjectIsRefused) {
  std::ofstream(file("echo")) << "not a shared object";
  expect_broken("echo", "cannot be used");
}

TEST_F(Plugin, ThatIsEmptyIsRefused) {
  std::ofstream(file("echo")).flush();
  expect_broken("echo", "file too short");
}

TEST_F(Plugin, WithoutTheSymbolIsRefused) {
  install("symbol", "echo");
  expect_broken("echo", "exports no penstock_transport_v1");
}

TEST_F(Plugin, OfAnotherVersionIsRefused) {
  install("version", "echo");
  expect_broken("echo", "version 999 of the module interface and this penstock has version 1");
}

TEST_F(Plugin, WithAShortTableIsRefused) {
  install("size", "echo");
  expect_broken("echo", "function table has 64 bytes");
}

TEST_F(Plugin, OfWhichTheUserNamesTwoIsRefused) {
  install("none", "echo");
  const fs::path other = directory_ / "other";
  fs::create_directory(other);
  fs::copy_file(file("echo"), other / "penstock_echo.so");
  const fs::path again = directory_ / "again";
  fs::create_directory_symlink(".", again);
  ::setenv("PENSTOCK_PLUGIN_PATH", (directory_.string() + ":" + again.string()).c_str(), 1);
  EXPECT_NE(load_link_module("echo"), nullptr) << "the same, twice";
  ::setenv("PENSTOCK_PLUGIN_PATH", (directory_.string() + ":" + other.string()).c_str(), 1);
  expect_broken("echo", (other / "penstock_echo.so").string());
}

TEST_F(Plugin, SaysWhichRailsItsOptionsAskFor) {
  using Rails = std::vector<std::string>;
  install("none", "echo");
  const auto provider = load_link_module("echo");
  EXPECT_EQ(provider->rails("two=2", "192.0.2.1"), (Rails{"two=2", "192.0.2.1"}));
  try {
    (void)provider->rails("one=1", "");
    ADD_FAILURE() << "not refused";
  } catch (const SetupError& e) {
    EXPECT_EQ(e.errc(), Errc::bad_uri);
  }
}

TEST_F(Plugin, OfBeforeThereWereRailsHasOne) {
  install("older", "echo");
  EXPECT_EQ(load_link_module("echo")->rails("two=2", "192.0.2.1"),
            std::vector<std::string>{"two=2"});
}

TEST_F(Plugin, WithoutATableIsRefused) {
  install("null", "echo");
  expect_broken("echo", "returned nothing");
}

TEST_F(Plugin, WithAnEmptyEntryIsRefused) {
  install("entry", "echo");
  expect_broken("echo", "empty entries");
}

TEST_F(Plugin, OfAnotherSchemeIsRefused) {
  install("none", "other");
  expect_broken("other", "it is the transport 'echo', not 'other'");
}

TEST_F(Plugin, ThatCannotStartPassesItsErrorOn) {
  install("create", "echo");
  try {
    (void)load_link_module("echo");
    ADD_FAILURE() << "loaded";
  } catch (const SetupError& e) {
    EXPECT_EQ(e.errc(), Errc::resource_limit);
    EXPECT_STREQ(e.what(), "echo: nothing left to echo with");
  }
}

TEST_F(Plugin, IsListedByItsScheme) {
  install("none", "echo");
  install("none", "zwei2");
  std::ofstream(directory_ / "penstock_.so").flush();
  std::ofstream(directory_ / "penstock_UPPER.so").flush();
  std::ofstream(directory_ / "other.so").flush();
  const auto schemes = find_modules();
  EXPECT_TRUE(std::ranges::is_sorted(schemes));
  EXPECT_EQ(std::ranges::count(schemes, "echo"), 1);
  EXPECT_EQ(std::ranges::count(schemes, "zwei2"), 1);
  EXPECT_EQ(std::ranges::count(schemes, ""), 0);
  EXPECT_EQ(std::ranges::count(schemes, "UPPER"), 0);
}

TEST_F(Plugin, CarriesEveryCallAcross) {
  install("none", "echo");
  const auto provider = load_link_module("echo");
  ASSERT_NE(provider, nullptr);
  EXPECT_EQ(provider->scheme(), "echo");
  EXPECT_EQ(provider->option_names(), (std::vector<std::string>{"one", "two"}));
  const ProbeReport report = provider->probe();
  EXPECT_FALSE(report.available);
  EXPECT_EQ(report.reason, "echo: nobody listens");
  EXPECT_EQ(report.json, R"([{"name":"wall"}])");

  try {
    provider->check("one=1");
    ADD_FAILURE() << "check() went through";
  } catch (const SetupError& e) {
    EXPECT_EQ(e.errc(), Errc::bad_uri);
    EXPECT_STREQ(e.what(), "echo: not one=1");
  }
  provider->check("two=2");

  std::array<std::byte, 64> memory{};
  const auto link = provider->open(
      {.local_host = "192.0.2.1",
       .peer_host = "192.0.2.2",
       .options = "one=1",
       .regions = {{.base = memory.data(), .length = memory.size(), .remote_write = true}}});
  EXPECT_EQ(link->path(), "192.0.2.1->192.0.2.2?one=1");
  const LinkLimits limits = link->limits();
  EXPECT_EQ(limits.max_writes, 4U);
  EXPECT_EQ(limits.max_write, 1000U);
  EXPECT_EQ(limits.packet, 100U);
  EXPECT_EQ(limits.receives, 5U);
  EXPECT_TRUE(limits.ordered_writes);
  EXPECT_EQ(link->event_fd(), 77);
  EXPECT_EQ(link->events_apart(true), 78);
  EXPECT_EQ(link->events_apart(false), 77);
  link->connect(link->describe());
  EXPECT_THROW(link->connect({}), SetupError);

  const std::array<std::byte, 2> text = {std::byte{5}, std::byte{6}};
  const std::array<RemoteWrite, 2> writes = {
      RemoteWrite{.source = text.data(), .length = 1, .region = 0, .offset = 9, .copied = true},
      RemoteWrite{.source = text.data() + 1, .length = 1, .region = 0, .offset = 10}};
  EXPECT_EQ(link->post(writes, 0xffff'0001U, 1ULL << 40U), PostStatus::posted);
  EXPECT_EQ(link->post({}, {}, 2), PostStatus::posted);
  EXPECT_EQ(link->post({}, {}, 3), PostStatus::no_room);
  EXPECT_EQ(memory[9], text[0]);
  EXPECT_EQ(memory[10], text[1]);
  std::array<LinkEvent, 8> events;
  ASSERT_EQ(link->poll(std::span(events).first(1)), 1U);
  EXPECT_EQ(events[0].kind, LinkEvent::Kind::immediate);
  EXPECT_EQ(events[0].value, 0xffff'0001U);
  ASSERT_EQ(link->poll(events), 2U);
  EXPECT_EQ(events[0].kind, LinkEvent::Kind::completed);
  EXPECT_EQ(events[0].value, 1ULL << 40U);
  EXPECT_EQ(events[1].value, 2U);
  link->arm(true, false);
  EXPECT_EQ(link->counters().completions, 1U);
  EXPECT_EQ(link->counters().immediates, 0U);
  link->arm(false, true);
  EXPECT_EQ(link->counters().immediates, 1U);
  link->disarm();
  EXPECT_EQ(link->counters().immediates, 0U);
  EXPECT_EQ(link->counters().posts, 2U);
  EXPECT_EQ(link->counters().work_requests, 2U);

  const RemoteWrite wrong{.source = text.data(), .length = 1, .region = 9, .offset = 0};
  EXPECT_EQ(link->post(std::span(&wrong, 1), {}, 4), PostStatus::failed);
  ASSERT_EQ(link->poll(events), 1U);
  EXPECT_EQ(events[0].kind, LinkEvent::Kind::failed);
  EXPECT_EQ(link->error(), "echo: no such region");
}

TEST_F(Plugin, CarriesLandingsAcross) {
  install("none", "echo");
  const auto provider = load_link_module("echo");
  const auto link =
      provider->open({.local_host = {}, .peer_host = {}, .options = {}, .regions = {}});
  EXPECT_TRUE(link->limits().landings);
  std::array<std::byte, 64> from{};
  std::array<std::byte, 64> to{};
  from[40] = std::byte{9};
  {
    const auto source = link->add_memory({from.data(), from.size(), false});
    const auto target = link->add_memory({to.data(), to.size(), true});
    ASSERT_TRUE(source && target);
    EXPECT_EQ(target->place(),
              (LandingPlace{reinterpret_cast<std::uint64_t>(to.data()), 64, 0, 77}));
    EXPECT_EQ(link->counters().posts, 2U);
    EXPECT_EQ(link->land({source.get(), 40, 2, target->place()}, 1ULL << 50U), PostStatus::posted);
    EXPECT_EQ(to[40], std::byte{9});
    std::array<LinkEvent, 2> events;
    ASSERT_EQ(link->poll(events), 1U);
    EXPECT_EQ(events[0].value, 1ULL << 50U);
    EXPECT_EQ(link->land({target.get(), 0, 1, source->place()}, 2), PostStatus::failed);
  }
  EXPECT_EQ(link->counters().posts, 0U) << "both were taken back";
  EXPECT_EQ(link->add_memory({from.data(), 13, true}), nullptr);
}

TEST_F(Plugin, OfBeforeThereWereLandingsIsUsedWithoutThem) {
  install("older", "echo");
  const auto provider = load_link_module("echo");
  ASSERT_NE(provider, nullptr);
  const auto link =
      provider->open({.local_host = {}, .peer_host = {}, .options = {}, .regions = {}});
  EXPECT_FALSE(link->limits().landings);
  std::array<std::byte, 64> memory{};
  EXPECT_EQ(link->add_memory({memory.data(), memory.size(), false}), nullptr);
}

TEST_F(Plugin, OfBeforeEventsCameApartHasItsRailsAndOneDescriptor) {
  install("rails", "echo");
  const auto provider = load_link_module("echo");
  EXPECT_EQ(provider->rails("two=2", "192.0.2.1").size(), 2U);
  const auto link =
      provider->open({.local_host = {}, .peer_host = {}, .options = {}, .regions = {}});
  EXPECT_EQ(link->events_apart(true), -1);
}

TEST_F(Plugin, LetsNoExceptionAcross) {
  install("none", "echo");
  const auto provider = load_link_module("echo");
  const auto error_of = [&](const char* options) -> SetupError {
    try {
      (void)provider->open({.local_host = {}, .peer_host = {}, .options = options, .regions = {}});
    } catch (const SetupError& e) {
      return e;
    }
    return {Errc::bad_uri, "no error"};
  };
  EXPECT_EQ(error_of("throw=setup").errc(), Errc::unreachable);
  EXPECT_STREQ(error_of("throw=setup").what(), "echo: far away");
  EXPECT_EQ(error_of("throw=runtime_error").errc(), Errc::system);
  EXPECT_STREQ(error_of("throw=runtime_error").what(), "not a SetupError");
  EXPECT_EQ(error_of("throw=int").errc(), Errc::system);
}

TEST_F(Plugin, LinksOutliveTheHandleOfTheirProvider) {
  install("none", "echo");
  auto provider = load_link_module("echo");
  const auto link =
      provider->open({.local_host = "a", .peer_host = "b", .options = {}, .regions = {}});
  provider.reset();
  EXPECT_EQ(link->path(), "a->b?");
}

}  // namespace
}  // namespace penstock
