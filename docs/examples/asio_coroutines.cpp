// Coroutines under Asio: an asio::awaitable that receives, a coroutine of another kind that sends,
// both on one thread with whatever else the io_context has to do.
#include <penstock/channel/channel.hpp>

#include <asio.hpp>
#include <coroutine>
#include <cstdint>
#include <cstring>
#include <exception>
#include <iostream>
#include <span>
#include <string>
#include <utility>

namespace {

/// A coroutine that runs by itself.
struct Detached {
  struct promise_type {
    Detached get_return_object() noexcept { return {}; }
    std::suspend_never initial_suspend() noexcept { return {}; }
    std::suspend_never final_suspend() noexcept { return {}; }
    void return_void() noexcept {}
    void unhandled_exception() noexcept { std::terminate(); }
  };
};

template <class Handler>
Detached recv_then(penstock::Receiver& rx, Handler handler) {
  const auto executor = asio::get_associated_executor(handler);
  const auto work = asio::make_work_guard(executor);  // run() must not return meanwhile
  auto message = co_await rx.recv_async();
  asio::post(executor, [handler = std::move(handler), message = std::move(message)]() mutable {
    std::move(handler)(std::move(message));
  });
}

/// recv_async() as an operation of Asio: for asio::use_awaitable, asio::use_future, callbacks, …
template <class Token>
auto async_recv(penstock::Receiver& rx, Token&& token) {
  return asio::async_initiate<Token, void(penstock::Message)>(
      [&rx](auto handler) { recv_then(rx, std::move(handler)); }, token);
}

asio::awaitable<void> receive_all(penstock::Receiver& rx, std::uint64_t& sum) {
  while (const auto message = co_await async_recv(rx, asio::use_awaitable)) {
    std::uint64_t number = 0;
    std::memcpy(&number, message.data().data(), sizeof number);
    sum += number;
  }
}

Detached send_all(asio::io_context& io, penstock::Sender tx, std::uint64_t count) {
  const auto work = asio::make_work_guard(io);
  for (std::uint64_t i = 1; i <= count; ++i) {
    const auto status = co_await tx.send_async(std::as_bytes(std::span(&i, 1)));
    if (status != penstock::SendStatus::sent) std::cerr << to_string(status) << '\n';
  }
  // The destructor would wait, and this thread receives, too.
  const auto closed = co_await tx.close_async();
  if (closed != penstock::FlushStatus::consumed) std::cerr << to_string(closed) << '\n';
}

}  // namespace

int main(int argc, char** argv) try {
  constexpr std::uint64_t kCount = 100'000;
  asio::io_context io;
  const auto on_io = [&io](auto task) { asio::post(io, std::move(task)); };
  auto rx = penstock::bind(argc > 1 ? argv[1] : "inproc:numbers?capacity=4KiB");
  auto tx = penstock::connect(rx.uris().front());
  rx.run_on(on_io);
  tx.run_on(on_io);

  std::uint64_t sum = 0;
  asio::co_spawn(io, receive_all(rx, sum), asio::detached);
  send_all(io, std::move(tx), kCount);
  io.run();
  std::cout << kCount << " numbers, sum " << sum << '\n';
  return sum == kCount * (kCount + 1) / 2 ? 0 : 1;
} catch (const penstock::SetupError& error) {
  std::cerr << error.what() << '\n';
  return 1;
}
