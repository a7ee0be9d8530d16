// What the two sides of `penstock perf` say to each other, over the channels they measure.
//
// The client connects to the listener, binds a reply channel of its own and names it in `hello`.
// Then, for each measurement:  begin → ready, the data, end → result.  `bye` ends the run.
// Further senders of the client say `join`, naming the same reply channel, and `leave`; `begin`
// says how many senders there are now, and is answered when they are. To `plain_verbs` the answer
// is the port where a penstock-verbs-baseline listens. Control messages are JSON objects and never
// as long as the data messages of their measurement, so that the length alone tells them apart.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>

#include "penstock/channel/channel.hpp"
#include "penstock/transport/uri.hpp"

namespace penstock::cli {

using Json = nlohmann::ordered_json;

inline constexpr int kPerfProtocol = 2;
/// Bytes; longer ones are no control messages.
inline constexpr std::size_t kMaxControl = 4096;

enum class PerfMode : std::uint8_t {
  throughput,
  latency,  ///< round trips, both sides looking all the time
  sleep,    ///< round trips, both sides asleep between messages
};
[[nodiscard]] const char* to_string(PerfMode mode) noexcept;

/// Whose CPU time counts as one side's: its process, or its thread where both share one.
enum class CpuScope : std::uint8_t { process, thread };
/// User and system time used so far, in microseconds.
[[nodiscard]] double cpu_us(CpuScope scope);

/// Work of one side; the difference of two gives that of a measurement.
struct SideStats {
  double cpu_us = 0;
  std::uint64_t stalls = 0;
  std::uint64_t parks = 0;
  std::uint64_t window = 0;  ///< bytes, now: the sender's largest, the receiver's own
  PathStats work;
};
[[nodiscard]] SideStats operator-(const SideStats& after, const SideStats& before);
/// Of all of them together.
[[nodiscard]] SideStats side_stats(std::span<const Sender> senders, CpuScope scope);
/// Of the links to `sources` alone; parks are the receiver's.
[[nodiscard]] SideStats side_stats(const ReceiverStats& stats, std::span<const SourceId> sources,
                                   CpuScope scope);
[[nodiscard]] Json to_json(const SideStats& stats);

/// The text of a control message that may be sent among data messages of `data_size` bytes.
[[nodiscard]] std::string encode(const Json& control, std::size_t data_size);
/// The object that the message is, or null where it is none.
[[nodiscard]] Json decode(std::span<const std::byte> message);

/// As Receiver::recv_for, but looks for `spin` before it sleeps, whatever the receiver's own
/// setting is.
[[nodiscard]] Message recv_spinning(Receiver& receiver, Duration spin, Duration timeout);

/// What `control` says of `key`; `otherwise` where it says nothing, or nothing of that kind.
template <class T>
[[nodiscard]] T value_of(const Json& control, const char* key, T otherwise) {
  const auto found = control.find(key);
  const bool fits = found != control.end() &&
                    (std::is_same_v<T, std::string> ? found->is_string() : found->is_number());
  return fits ? found->get<T>() : otherwise;
}
[[nodiscard]] inline std::string text_of(const Json& control, const char* key) {
  return value_of(control, key, std::string());
}

/// A message's bytes.
[[nodiscard]] std::span<const std::byte> as_bytes(std::string_view text);

/// Where the client binds its reply channel: the local address toward the listener and a port to be
/// picked, or, for transports without hosts, a name of its own beside the listener's. The options
/// stay: each end takes those that are its own.
[[nodiscard]] Uri reply_uri(const Uri& listener);

}  // namespace penstock::cli
