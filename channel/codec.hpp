// How a typed channel that leaves the process turns messages into bytes and back.
//
// Codec<T> for a type of one's own:
//
//   template <> struct penstock::v2::Codec<Quote> {
//     static penstock::MessageType type() { return penstock::v2::named_type("acme.Quote/2"); }
//     static std::size_t size(const Quote&);                                // bytes it will take
//     static std::size_t encode(const Quote&, std::span<std::byte> room);   // writes exactly those
//     static std::optional<Quote> decode(std::span<const std::byte>);       // nullopt: no Quote
//   };
//
// encode() writes into the channel's own memory. If it says another number than size() did, nothing
// is sent (SendStatus::not_encoded); what any of them throws comes through, and a message that is
// being sent is not, one that is being received stays in the channel.
//
// decode() gets a copy, at a multiple of 16 bytes, since a peer that misbehaves can change what is
// in the ring while it is read. A codec that reads each byte at most once (a memcpy) says
// `static constexpr bool reads_once = true`, and reads in the ring. One whose T refers to the bytes
// says `static constexpr bool views = true`: the message then stays in the ring until it is
// released.
#pragma once

#include <array>
#include <bit>
#include <concepts>
#include <cstddef>
#include <cstring>
#include <optional>
#include <ranges>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "penstock/channel/fingerprint.hpp"
#include "penstock/transport/message_type.hpp"

namespace penstock::v2 {

/// The type of a codec's own making: change the name when the bytes change their meaning.
[[nodiscard]] inline MessageType named_type(std::string_view name) {
  return {fingerprint::Hash().add("codec").add(name).value(), std::string(name)};
}

template <class T>
struct Codec;

/// T's bytes as they are.
template <class T>
concept PlainMessage = std::is_trivially_copyable_v<T> && !std::is_pointer_v<T> &&
                       !std::is_empty_v<T> && !std::ranges::view<T>;

template <PlainMessage T>
struct Codec<T> {
  static constexpr bool plain = true;
  static constexpr bool reads_once = true;
  [[nodiscard]] static MessageType type() {
    return {fingerprint_of<T>(), std::string(type_name<T>)};
  }
  [[nodiscard]] static constexpr std::size_t size(const T& /*value*/) noexcept { return sizeof(T); }
  static std::size_t encode(const T& value, std::span<std::byte> room) noexcept {
    std::memcpy(room.data(), &value, sizeof value);
    return sizeof value;
  }
  [[nodiscard]] static std::optional<T> decode(std::span<const std::byte> bytes) noexcept {
    if (bytes.size() != sizeof(T)) return std::nullopt;
    std::array<std::byte, sizeof(T)> copy;
    std::memcpy(copy.data(), bytes.data(), copy.size());
    return std::bit_cast<T>(copy);
  }
};

namespace codec {

/// What is bytes, or text, and nothing more: what a byte channel sends and receives.
template <class T>
struct Bytes {
  static constexpr bool reads_once = true;
  [[nodiscard]] static MessageType type() { return {}; }
  [[nodiscard]] static std::size_t size(const T& value) noexcept { return std::size(value); }
  static std::size_t encode(const T& value, std::span<std::byte> room) noexcept {
    if (!std::empty(value)) std::memcpy(room.data(), std::data(value), std::size(value));
    return std::size(value);
  }
  [[nodiscard]] static std::optional<T> decode(std::span<const std::byte> bytes) {
    const auto* begin = reinterpret_cast<const typename T::value_type*>(bytes.data());
    return T(begin, begin + bytes.size());
  }
};

}  // namespace codec

template <>
struct Codec<std::string> : codec::Bytes<std::string> {};
template <>
struct Codec<std::vector<std::byte>> : codec::Bytes<std::vector<std::byte>> {};
/// Received in place.
template <>
struct Codec<std::string_view> : codec::Bytes<std::string_view> {
  static constexpr bool views = true;
};
/// Received in place.
template <>
struct Codec<std::span<const std::byte>> : codec::Bytes<std::span<const std::byte>> {
  static constexpr bool views = true;
};

/// Any number of them.
template <PlainMessage T>
requires(std::default_initializable<T> && !std::is_same_v<T, bool>) struct Codec<std::vector<T>> {
  static constexpr bool reads_once = true;
  [[nodiscard]] static MessageType type() {
    const auto element = fingerprint_of<T>();
    return {fingerprint::Hash().add("vector").add(element).value(),
            "vector of " + std::string(type_name<T>)};
  }
  [[nodiscard]] static std::size_t size(const std::vector<T>& value) noexcept {
    return value.size() * sizeof(T);
  }
  static std::size_t encode(const std::vector<T>& value, std::span<std::byte> room) noexcept {
    if (!value.empty()) std::memcpy(room.data(), value.data(), room.size());
    return room.size();
  }
  [[nodiscard]] static std::optional<std::vector<T>> decode(std::span<const std::byte> bytes) {
    if (bytes.size() % sizeof(T) != 0) return std::nullopt;
    std::vector<T> value(bytes.size() / sizeof(T));
    if (!value.empty()) std::memcpy(value.data(), bytes.data(), bytes.size());
    return value;
  }
};

/// What bind<T>() and connect<T>() can send.
template <class T>
concept Sendable = requires(const T& value, std::span<std::byte> room,
                            std::span<const std::byte> bytes) {
  { Codec<T>::type() } -> std::convertible_to<MessageType>;
  { Codec<T>::size(value) } -> std::convertible_to<std::size_t>;
  { Codec<T>::encode(value, room) } -> std::convertible_to<std::size_t>;
  { Codec<T>::decode(bytes) } -> std::convertible_to<std::optional<T>>;
};

namespace codec {

/// T has no codec of its own.
template <class T>
[[nodiscard]] consteval bool plain() {
  if constexpr (requires { Codec<T>::plain; }) return Codec<T>::plain;
  return false;
}
template <class T>
[[nodiscard]] consteval bool reads_once() {
  if constexpr (requires { Codec<T>::reads_once; }) return Codec<T>::reads_once;
  return false;
}
template <class T>
[[nodiscard]] consteval bool views() {
  if constexpr (requires { Codec<T>::views; }) return Codec<T>::views;
  return false;
}

}  // namespace codec

}  // namespace penstock::v2
