// Protocol Buffers over a typed channel: one Codec serves every message type. An argument names
// another distance: ./protobuf_quotes shm:quotes
#include <penstock/channel/remote_channel.hpp>

#include <concepts>
#include <iostream>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <thread>

#include "quotes.pb.h"

template <std::derived_from<google::protobuf::Message> M>
struct penstock::v2::Codec<M> {
  // Protocol Buffers' own rules say which versions of a message understand each other, so the name
  // is all that the two ends compare.
  static penstock::MessageType type() {
    return penstock::v2::named_type(M::descriptor()->full_name());
  }
  static std::size_t size(const M& message) { return message.ByteSizeLong(); }
  static std::size_t encode(const M& message, std::span<std::byte> room) {
    if (room.size() > std::numeric_limits<int>::max()) return 0;
    return message.SerializeToArray(room.data(), static_cast<int>(room.size())) ? room.size() : 0;
  }
  static std::optional<M> decode(std::span<const std::byte> bytes) {
    M message;
    if (bytes.size() > std::numeric_limits<int>::max() ||
        !message.ParseFromArray(bytes.data(), static_cast<int>(bytes.size())))
      return std::nullopt;
    return message;
  }
};

int main(int argc, char** argv) try {
  auto receiver = penstock::v2::bind<acme::Quote>(argc > 1 ? argv[1] : "inproc:quotes");
  const auto address = receiver.uris().front();
  const std::jthread thread([&address] {
    auto sender = penstock::v2::connect<acme::Quote>(address);
    acme::Quote quote;
    quote.set_symbol("ACME");
    for (int i = 1; i <= 3; ++i) {
      quote.set_price_ticks(10'000 + i);
      quote.set_size(100);
      if (const auto status = sender.send(quote); status != penstock::SendStatus::sent)
        std::cerr << to_string(status) << '\n';
    }
  });
  for (const acme::Quote& quote : receiver)
    std::cout << quote.symbol() << ' ' << quote.price_ticks() << ' ' << quote.size() << '\n';
} catch (const penstock::SetupError& error) {
  std::cerr << error.what() << '\n';
  return 1;
}
