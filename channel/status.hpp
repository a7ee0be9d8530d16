// What became of a message: refusals are values.
#pragma once

#include <cstddef>
#include <cstdint>

namespace penstock::inline v1 {

/// What became of a message that was sent. Anything but `sent` means that the message was not taken
/// and is still the caller's.
enum class [[nodiscard]] SendStatus : std::uint8_t{
    sent,         ///< accepted: it will be delivered unless the peer is lost
    full,         ///< try_send: no room now
    timed_out,    ///< send_for: no room in time
    closed,       ///< the receiver is gone, or this sender was closed
    peer_lost,    ///< the receiver died or the path to it failed; see stats()
    too_large,    ///< longer than max_message(), or, in place or without waiting, max_in_place()
    forked,       ///< this handle belongs to the parent process
    cancelled,    ///< an awaited send: a stop was requested
    not_encoded,  ///< a typed channel: the codec wrote another number of bytes than it had said
};
[[nodiscard]] const char* to_string(SendStatus status) noexcept;

enum class [[nodiscard]] RecvStatus : std::uint8_t{
    received,
    empty,      ///< try_recv: nothing now
    timed_out,  ///< recv_for: nothing in time
    closed,  ///< every sender that was there has closed, and all their messages were received, or
             ///< was reported as lost; or this receiver was closed
    peer_lost,  ///< one sender is gone without a good-bye: source() and loss() say who and how far.
                ///< Reported once a sender, after its last whole message; others go on
    too_small,  ///< recv_into: the buffer cannot hold the message, which stays for the next call
    view_limit,   ///< kMaxViews messages of one sender are held and not released
    forked,       ///< this handle belongs to the parent process
    cancelled,    ///< an awaited receive: a stop was requested
    not_decoded,  ///< a typed channel: the bytes are no such message; they are gone, source() says
                  ///< who sent them
};
[[nodiscard]] const char* to_string(RecvStatus status) noexcept;

/// What send_many() and recv_many() did: the first `count` went, and `status` says why not more.
template <class Status>
struct Batch {
  std::size_t count = 0;
  Status status{};
};

/// How far everything sent so far has got.
enum class [[nodiscard]] FlushStatus : std::uint8_t{
    consumed,   ///< all of it has been handed to the receiving application and released
    timed_out,  ///< not all of it yet; stats().progress says how far
    closed,     ///< the receiver closed before it had consumed all
    peer_lost, forked,
    cancelled,  ///< an awaited flush: a stop was requested
};
[[nodiscard]] const char* to_string(FlushStatus status) noexcept;

}  // namespace penstock::inline v1
