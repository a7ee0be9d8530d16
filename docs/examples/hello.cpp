// The program of the README. An argument names another distance: ./hello shm:greetings
#include <penstock/channel/channel.hpp>

#include <iostream>
#include <span>
#include <string>
#include <string_view>
#include <thread>

int main(int argc, char** argv) try {
  auto receiver = penstock::bind(argc > 1 ? argv[1] : "inproc:greetings");
  const std::string address = receiver.uris().front();
  const std::jthread thread([&address] {
    auto sender = penstock::connect(address);
    const std::string_view text = "hello";
    const auto status = sender.send(std::as_bytes(std::span(text)));
    if (status != penstock::SendStatus::sent) std::cerr << to_string(status) << '\n';
  });
  while (const auto message = receiver.recv()) std::cout << message.text() << '\n';
} catch (const penstock::SetupError& error) {
  std::cerr << error.what() << '\n';
  return 1;
}
