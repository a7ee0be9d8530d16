#include "penstock/channel/outlet.hpp"

#include <gtest/gtest.h>
#include <poll.h>
#include <unistd.h>

#include <chrono>
#include <string>
#include <vector>

#include "penstock/channel/channel.hpp"
#include "penstock/channel/waiting_fd.hpp"
#include "penstock/transport/registry.hpp"

namespace penstock {
namespace {

TEST(Outlet, looks_for_room_by_itself_where_the_receiver_does_not_tell) {
  auto receiver =
      penstock::bind("shm:outlet-test-" + std::to_string(::getpid()) + "?capacity=4KiB");
  auto parts = find_transport("shm")->connect(Uri::parse(receiver.uris().at(0)),
                                              {std::chrono::seconds(10), {}}, TimePoint::max());
  EXPECT_TRUE(parts.room_frames);
  parts.room_frames = false;  // as with a receiver of before there were any
  auto& control = *parts.ring.control;
  const auto outlet = std::make_shared<Outlet>(std::move(parts), ConnectOptions{});
  outlet->start();
  auto* tally = outlet->join();
  v2::WaitingFd event;
  (void)outlet->writable();
  const std::vector<std::byte> message(480);  // so few that one alone raises no limit
  for (int round = 0; round < 20; ++round) {
    Claim claim;
    auto status = SendStatus::sent;
    while ((status = outlet->claim(message.size(), Duration::zero(), *tally, claim)) ==
           SendStatus::sent)
      outlet->commit(claim, *tally);
    ASSERT_EQ(status, SendStatus::full);
    ASSERT_TRUE(outlet->arm(event, message.size()));
    EXPECT_EQ(control.senders_waiting & kSenderRests, 0U) << "it would not understand";
    EXPECT_TRUE(receiver.recv());
    pollfd wait{event.get(), POLLIN, 0};
    EXPECT_EQ(::poll(&wait, 1, -1), 1);
  }
  outlet->disarm(event);
  receiver.close();
  outlet->leave(tally);
}

}  // namespace
}  // namespace penstock
