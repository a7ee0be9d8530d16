// The budget of remote links, over torn links: who is refused, what both ends are told, and that
// those who are there do not notice.
#include "penstock/transport/link_budget.hpp"

#include <gtest/gtest.h>

#include <chrono>
#include <cstdlib>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>

#include "penstock/channel/channel.hpp"
#include "penstock/transport/registry.hpp"
#include "tests/child.hpp"
#include "tests/transport/torn_link.hpp"

namespace penstock::test {
namespace {

constexpr std::uint64_t kEnd = 4096 + 4096;  // a ring or mirror, and a page with a line

/// The error of a connect() that must fail.
SetupError refusal(const std::string& uri) {
  try {
    const Sender sender = connect(uri);
  } catch (const SetupError& e) {
    return e;
  }
  ADD_FAILURE() << "was not refused";
  return {Errc::system, ""};
}

testing::AssertionResult says(const std::string& text, std::string_view part) {
  if (text.find(part) != std::string::npos) return testing::AssertionSuccess();
  return testing::AssertionFailure() << "'" << text << "' does not say '" << part << "'";
}

/// In a process that has not looked at its variables yet: these tests come first.
int budget_with(const char* links, const char* pinned, const std::function<bool()>& check) {
  return run_in_child([&] {
    ::setenv("PENSTOCK_MAX_LINKS", links, 1);
    ::setenv("PENSTOCK_MAX_PINNED", pinned, 1);
    return check();
  });
}

TEST(LinkBudgetVariables, AreTheFirstBudget) {
  EXPECT_EQ(
      budget_with(
          "12", "3MiB",
          [] { return link_budget().max_links == 12 && link_budget().max_pinned == 3U << 20U; }),
      0);
  EXPECT_EQ(budget_with("", "",
                        [] {
                          return link_budget().max_links == kNoLinkLimit &&
                                 link_budget().max_pinned == kNoLinkLimit;
                        }),
            0);
}

TEST(LinkBudgetVariables, ThatMakeNoSenseAreRefusedByName) {
  const auto refused = [](std::string_view name) {
    return [name] {
      try {
        (void)link_budget();
      } catch (const SetupError& e) {
        return e.errc() == Errc::bad_option && std::string_view(e.what()).starts_with(name);
      }
      return false;
    };
  };
  for (const char* wrong : {"many", "-1", "3 ", "2KiB", "99999999999999999999"})
    EXPECT_EQ(budget_with(wrong, "", refused("PENSTOCK_MAX_LINKS")), 0) << wrong;
  for (const char* wrong : {"much", "3TB", "MiB", "99999999999GiB"})
    EXPECT_EQ(budget_with("", wrong, refused("PENSTOCK_MAX_PINNED")), 0) << wrong;
}

class LinkBudgetTest : public testing::Test {
 protected:
  void SetUp() override {
    register_links(std::make_shared<TornLinkProvider>());
    receiver_ = bind("torn://127.0.0.1:0/budget?capacity=4KiB&persistent=1");
    uri_ = receiver_->uris().front();
  }
  void TearDown() override { set_link_budget({}); }

  /// One message from `sender` to the receiver.
  void works(Sender& sender) {
    ASSERT_EQ(sender.send(std::as_bytes(std::span("x", 1))), SendStatus::sent);
    ASSERT_EQ(receiver_->recv().text(), "x");
  }
  /// Until what refused a peer has been noted: it is told first.
  [[nodiscard]] std::string last_refusal(std::uint64_t count) {
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(60);
    while (receiver_->stats().refused < count && std::chrono::steady_clock::now() < end)
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    return receiver_->stats().last_refusal;
  }

  std::optional<Receiver> receiver_;
  std::string uri_;
};

// Both ends of a channel are in this process here, so each connect() takes two links.

TEST_F(LinkBudgetTest, RefusesAnotherLinkAtTheReceiverAndTellsBothEnds) {
  Sender first = connect(uri_);
  EXPECT_EQ(link_use().links, 2U);
  EXPECT_EQ(link_use().pinned, 2 * kEnd);
  set_link_budget({.max_links = 2});
  const SetupError e = refusal(uri_);
  EXPECT_EQ(e.errc(), Errc::resource_limit);
  EXPECT_TRUE(
      says(e.what(), "the receiver refused: the budget of remote links is used up: 2 of 2"));
  EXPECT_TRUE(says(e.what(), "PENSTOCK_MAX_LINKS"));
  EXPECT_TRUE(says(last_refusal(1), "PENSTOCK_MAX_LINKS"));
  works(first);
  EXPECT_EQ(link_use().links, 2U);
}

TEST_F(LinkBudgetTest, RefusesAnotherLinkAtTheSenderAndTellsBothEnds) {
  Sender first = connect(uri_);
  set_link_budget({.max_links = 3});
  const SetupError e = refusal(uri_);
  EXPECT_EQ(e.errc(), Errc::resource_limit);
  EXPECT_TRUE(says(e.what(), "the budget of remote links is used up: 3 of 3"));
  EXPECT_TRUE(says(last_refusal(1), "the sender gave up: "));
  EXPECT_TRUE(says(last_refusal(1), "PENSTOCK_MAX_LINKS"));
  works(first);
}

TEST_F(LinkBudgetTest, RefusesMemoryBeyondIt) {
  set_link_budget({.max_pinned = 3 * kEnd});
  Sender first = connect(uri_);
  const SetupError e = refusal(uri_);
  EXPECT_EQ(e.errc(), Errc::resource_limit);
  EXPECT_TRUE(says(e.what(), "24576 of 24576 bytes are in use, and this link needs 8192"));
  EXPECT_TRUE(says(e.what(), "PENSTOCK_MAX_PINNED"));
  works(first);
}

TEST_F(LinkBudgetTest, TakesBackWhatAPeerHadWhenItGoes) {
  set_link_budget({.max_links = 2});
  for (int i = 0; i < 5; ++i) {
    {
      Sender sender = connect(uri_);
      works(sender);
    }
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(60);
    while (link_use().links != 0 && std::chrono::steady_clock::now() < end)
      (void)receiver_->recv_for(std::chrono::milliseconds(1));
    ASSERT_EQ(link_use().links, 0U);
    ASSERT_EQ(link_use().pinned, 0U);
  }
}

}  // namespace
}  // namespace penstock::test
