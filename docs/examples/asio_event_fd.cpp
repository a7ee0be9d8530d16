// Channels in an event loop, here Asio's: event_fd() tells when to look again. With epoll itself it
// is the same: the descriptor is added for EPOLLIN, once.
#include <penstock/channel/channel.hpp>

#include <unistd.h>

#include <asio.hpp>
#include <cstdint>
#include <cstring>
#include <iostream>
#include <span>
#include <utility>

namespace {

/// Asio closes what it is given: it gets a descriptor of its own.
asio::posix::stream_descriptor watch(const asio::any_io_executor& executor, int event_fd) {
  return {executor, ::dup(event_fd)};
}

asio::awaitable<void> receive_all(penstock::Receiver& rx, std::uint64_t& sum) {
  auto event = watch(co_await asio::this_coro::executor, rx.event_fd());
  for (;;) {
    const auto message = rx.try_recv();
    if (message) {
      std::uint64_t number = 0;
      std::memcpy(&number, message.data().data(), sizeof number);
      sum += number;
    } else if (message.status() != penstock::RecvStatus::empty) {
      co_return;
    } else if (rx.arm()) {
      co_await event.async_wait(event.wait_read, asio::use_awaitable);
    }
  }
}

asio::awaitable<void> send_all(penstock::Sender tx, std::uint64_t count) {
  auto event = watch(co_await asio::this_coro::executor, tx.event_fd());
  for (std::uint64_t i = 1; i <= count; ++i) {
    const auto bytes = std::as_bytes(std::span(&i, 1));
    auto status = penstock::SendStatus::full;
    while ((status = tx.try_send(bytes)) == penstock::SendStatus::full)
      if (tx.arm(bytes.size())) co_await event.async_wait(event.wait_read, asio::use_awaitable);
    if (status != penstock::SendStatus::sent) std::cerr << to_string(status) << '\n';
  }
  // The good-bye needs as much room as an empty message. The destructor would wait for it, and this
  // thread receives, too.
  while (tx.arm(0)) co_await event.async_wait(event.wait_read, asio::use_awaitable);
}

}  // namespace

int main(int argc, char** argv) try {
  constexpr std::uint64_t kCount = 100'000;
  asio::io_context io;
  auto rx = penstock::bind(argc > 1 ? argv[1] : "inproc:numbers?capacity=4KiB");
  auto tx = penstock::connect(rx.uris().front());

  std::uint64_t sum = 0;
  asio::co_spawn(io, receive_all(rx, sum), asio::detached);
  asio::co_spawn(io, send_all(std::move(tx), kCount), asio::detached);
  io.run();
  std::cout << kCount << " numbers, sum " << sum << '\n';
  return sum == kCount * (kCount + 1) / 2 ? 0 : 1;
} catch (const penstock::SetupError& error) {
  std::cerr << error.what() << '\n';
  return 1;
}
