#include "penstock/channel/settings.hpp"

#include <gtest/gtest.h>

#include <cstdlib>
#include <string>

#include "penstock/loopback/loopback.hpp"
#include "penstock/transport/error.hpp"

namespace penstock {
namespace {

BindOptions bound(const std::string& text, BindOptions options = {}) {
  return bind_settings(Uri::parse(text), *make_shm(), options);
}

std::string refusal(const std::string& text) {
  try {
    (void)bound(text);
  } catch (const SetupError& e) {
    EXPECT_EQ(e.errc(), Errc::bad_uri);
    return e.what();
  }
  return "taken";
}

TEST(Settings, the_uri_wins_over_the_struct) {
  BindOptions options;
  options.capacity = 8192;
  options.spin = Duration(1);
  const auto read = bound("shm:a?capacity=1MiB&window=64KiB&liveness=250ms&persistent=1", options);
  EXPECT_EQ(read.capacity, 1U << 20U);
  EXPECT_EQ(read.window, 64U << 10U);
  EXPECT_EQ(read.spin, Duration(1));
  EXPECT_EQ(read.liveness, std::chrono::milliseconds(250));
  EXPECT_TRUE(read.persistent);
  EXPECT_EQ(bound("shm:a?spin=forever").spin, kForever);
  EXPECT_EQ(bound("shm:a?spin=0").spin, Duration::zero());
}

/// A variable of the environment, for a while.
class Variable {
 public:
  Variable(const char* name, const char* value) : name_(name) { ::setenv(name, value, 1); }
  Variable(const Variable&) = delete;
  Variable& operator=(const Variable&) = delete;
  Variable(Variable&&) = delete;
  Variable& operator=(Variable&&) = delete;
  ~Variable() { ::unsetenv(name_); }

 private:
  const char* name_;
};

TEST(Settings, the_environment_wins_over_the_struct_and_the_uri_over_both) {
  const Variable capacity("PENSTOCK_CAPACITY", "2MiB");
  const Variable spin("PENSTOCK_SPIN", "5us");
  const Variable empty("PENSTOCK_LIVENESS", "");
  const auto shm = make_shm();
  const FromEnvironment from(Uri::parse("shm:a?spin=7us"), *shm);
  EXPECT_EQ(from.variables, "PENSTOCK_CAPACITY");
  BindOptions options;
  options.capacity = 8192;
  options.liveness = std::chrono::seconds(1);
  const auto read = bind_settings(from.uri, *shm, options);
  EXPECT_EQ(read.capacity, 2U << 20U);
  EXPECT_EQ(read.spin, std::chrono::microseconds(7));
  EXPECT_EQ(read.liveness, std::chrono::seconds(1));
}

TEST(Settings, an_option_that_makes_no_sense_in_the_environment_is_named) {
  const Variable linger("PENSTOCK_LINGER", "soon");
  const auto shm = make_shm();
  const FromEnvironment from(Uri::parse("shm:a"), *shm);
  try {
    from.run([&](const Uri& uri) { return connect_settings(uri, *shm, {}); });
    FAIL();
  } catch (const SetupError& e) {
    EXPECT_EQ(e.errc(), Errc::bad_uri);
    EXPECT_NE(std::string(e.what()).find("PENSTOCK_LINGER"), std::string::npos) << e.what();
  }
}

TEST(Settings, every_option_is_listed_and_taken_at_the_ends_that_it_says) {
  const auto shm = make_shm();
  for (const auto& option : channel_options()) {
    const std::string uri = std::string("shm:a?") + option.name + "=~";
    const auto refuses = [&](auto&& settings) {
      try {
        settings();
        return false;
      } catch (const SetupError&) {
        return true;
      }
    };
    EXPECT_EQ(refuses([&] { (void)bind_settings(Uri::parse(uri), *shm, {}); }), option.bind)
        << option.name;
    EXPECT_EQ(refuses([&] { (void)connect_settings(Uri::parse(uri), *shm, {}); }), option.connect)
        << option.name;
    EXPECT_FALSE(option.help.values.empty() || option.help.text.empty()) << option.name;
  }
}

TEST(Settings, a_window_alone_gets_a_ring_that_holds_it) {
  EXPECT_EQ(bound("shm:a?window=5000").capacity, 8192U);
}

TEST(Settings, longer_messages_are_taken_where_they_are_asked_for) {
  EXPECT_EQ(bound("shm:a").max_message, 0U);
  EXPECT_EQ(bound("shm:a?max_message=1GiB").max_message, 1U << 30U);
  BindOptions options;
  options.max_message = (std::uint64_t{1} << 30U) + 1;
  EXPECT_THROW((void)bound("shm:a", options), SetupError);
}

TEST(Settings, a_living_window_has_a_target_and_a_least) {
  EXPECT_EQ(bound("shm:a").target_delay, Duration::zero());
  const auto read = bound("shm:a?target_delay=2ms&min_window=8KiB&capacity=64KiB");
  EXPECT_EQ(read.target_delay, std::chrono::milliseconds(2));
  EXPECT_EQ(read.min_window, 8192U);
  EXPECT_EQ(bound("shm:a?target_delay=1ms").min_window, 4096U);
  EXPECT_EQ(bound("shm:a?target_delay=1ms&window=2KiB").min_window, 2048U);
}

TEST(Settings, options_of_the_other_end_are_let_through) {
  EXPECT_NO_THROW((void)bound("shm:a?deadline=1s&linger=1s"));
  EXPECT_NO_THROW((void)connect_settings(
      Uri::parse("shm:a?capacity=4KiB&target_delay=1ms&persistent=1"), *make_shm(), {}));
}

TEST(Settings, messages_land_as_is_quicker_unless_it_is_said_otherwise) {
  const auto landing = [](const std::string& text) {
    return connect_settings(Uri::parse("shm:a" + text), *make_shm(), {}).landing;
  };
  EXPECT_EQ(landing(""), kLandingAuto);
  EXPECT_EQ(landing("?landing=auto"), kLandingAuto);
  EXPECT_EQ(landing("?landing=never"), kLandingNever);
  EXPECT_EQ(landing("?landing=always"), kLeastLanding);
  EXPECT_EQ(landing("?landing=2MiB"), 2U << 20U);
  EXPECT_THROW((void)landing("?landing=4095"), SetupError);
  EXPECT_THROW((void)landing("?landing=0"), SetupError);
  EXPECT_THROW((void)landing("?landing=often"), SetupError);
  EXPECT_NO_THROW((void)bound("shm:a?landing=never"));
}

TEST(Settings, what_is_wrong_is_refused_with_a_remedy) {
  EXPECT_NE(refusal("shm:a?capcity=1").find("did you mean 'capacity'"), std::string::npos);
  EXPECT_NE(refusal("shm:a?capacity=5000").find("power of two"), std::string::npos);
  EXPECT_NE(refusal("shm:a?capacity=1GB").find("MiB or GiB"), std::string::npos);
  EXPECT_NE(refusal("shm:a?capacity=1GiB").find("128MiB"), std::string::npos);
  EXPECT_NE(refusal("shm:a?max_message=2GiB").find("too large"), std::string::npos);
  EXPECT_NE(refusal("shm:a?capacity=99999999999MiB").find("too large"), std::string::npos);
  EXPECT_NE(refusal("shm:a?capacity=x").find("number"), std::string::npos);
  EXPECT_NE(refusal("shm:a?window=1").find("1KiB"), std::string::npos);
  EXPECT_NE(refusal("shm:a?capacity=4KiB&window=8KiB").find("capacity"), std::string::npos);
  EXPECT_NE(refusal("shm:a?target_delay=forever").find("hour"), std::string::npos);
  EXPECT_NE(refusal("shm:a?min_window=4KiB").find("target_delay"), std::string::npos);
  EXPECT_NE(refusal("shm:a?target_delay=1ms&min_window=1").find("1KiB"), std::string::npos);
  EXPECT_NE(refusal("shm:a?target_delay=1ms&window=4KiB&min_window=8KiB").find("to the window"),
            std::string::npos);
  EXPECT_NE(refusal("shm:a?spin=5").find("ns, us, ms or s"), std::string::npos);
  EXPECT_NE(refusal("shm:a?liveness=1us").find("10ms"), std::string::npos);
  EXPECT_NE(refusal("shm:a?persistent=maybe").find("0 or 1"), std::string::npos);
}

}  // namespace
}  // namespace penstock
