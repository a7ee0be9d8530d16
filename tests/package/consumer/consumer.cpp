// What a program does with an installed penstock. Prints what the script beside this folder looks
// at.
//   consumer NAME    NAME: the shm channel's
#include <sys/wait.h>
#include <unistd.h>
#include <penstock/channel/any_channel.hpp>
#include <penstock/channel/channel.hpp>
#include <penstock/channel/local_channel.hpp>
#include <penstock/channel/select.hpp>

#include <cstddef>
#include <fstream>
#include <iostream>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <utility>

namespace {

void send(const std::string& address, std::string_view text) {
  auto sender = penstock::connect(address);
  const auto status = sender.send(std::as_bytes(std::span(text)));
  if (status != penstock::SendStatus::sent) std::cerr << to_string(status) << '\n';
}

void print_all(penstock::Receiver& receiver) {
  while (const auto message = receiver.recv()) std::cout << message.text() << '\n';
}

void between_threads() {
  auto receiver = penstock::bind("inproc:package");
  const std::jthread thread([] { send("inproc:package", "inproc: received"); });
  print_all(receiver);

  auto [tx, rx] = penstock::v2::channel<std::string, penstock::v2::spsc>(1);
  const std::jthread sender([tx = std::move(tx)]() mutable {
    if (tx.send("typed: received") != penstock::SendStatus::sent) std::cerr << "typed: not sent\n";
  });
  penstock::v2::select(
      penstock::v2::on_recv(rx, [](auto got) { std::cout << (got ? *got : "nothing") << '\n'; }));
}

void typed_over_a_uri() {
  penstock::v2::AnyReceiver<std::string> rx = penstock::v2::bind<std::string>("inproc:typed");
  penstock::v2::AnySender<std::string> tx = penstock::v2::connect<std::string>("inproc:typed");
  if (tx.send("typed over a URI: received") != penstock::SendStatus::sent)
    std::cerr << "typed over a URI: not sent\n";
  std::cout << *rx.recv() << '\n';
}

int between_processes(const std::string& name) {
  const pid_t child = ::fork();
  if (child == 0) {
    send("shm:" + name, "shm: received");
    std::_Exit(0);
  }
  auto receiver = penstock::bind("shm:" + name);
  print_all(receiver);
  int status = 0;
  return ::waitpid(child, &status, 0) == child ? status : 1;
}

void between_hosts() try {
  const auto receiver = penstock::bind("rdma://127.0.0.1:0/package");
  std::cout << "rdma: available\n";
} catch (const penstock::SetupError& error) {
  std::cout << "rdma: " << error.code().message() << ": " << error.what() << '\n';
}

void over_tcp() {
  auto receiver = penstock::bind("ucx://127.0.0.1:0/package?tls=tcp");
  const std::jthread thread([uri = receiver.uris().front()] { send(uri, "ucx: received"); });
  print_all(receiver);
}

// The module of a transport, if it is loaded.
void print_module(const std::string& scheme) {
  std::ifstream maps("/proc/self/maps");
  std::string line;
  std::string found = "none";
  while (std::getline(maps, line))
    if (line.ends_with("/penstock_" + scheme + ".so")) found = line.substr(line.find('/'));
  std::cout << "module of " << scheme << ": " << found << '\n';
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc != 2) return 2;
  const int status = between_processes(argv[1]);
  between_threads();
  typed_over_a_uri();
  between_hosts();
  over_tcp();
  print_module("rdma");
  print_module("ucx");
  return status == 0 ? 0 : 1;
} catch (const penstock::SetupError& error) {
  std::cerr << error.what() << '\n';
  return 1;
}
