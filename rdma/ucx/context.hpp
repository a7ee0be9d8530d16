// UCX as this process has it: one context for each choice of transports, kept for later links.
//
// To make one takes longer than all else that a link needs. It knows the machine's devices as they
// were when it was made: where they have changed, the next link has a new one.
#pragma once

#include <ucp/api/ucp.h>
#include <unistd.h>

#include <memory>
#include <string>

namespace penstock::inline v1::ucx {

/// Thread-safe.
class Context {
 public:
  /// `asked`: as in UCX_TLS; empty: what the variable says, or else UCX's own choice. Where
  /// UCX would meet a soft-RoCE device (docs/adr/017-ucx.md) that is TCP, and others are refused,
  /// unless UCX_NET_DEVICES says which to use. Throws SetupError.
  static std::shared_ptr<Context> get(const std::string& asked);

  explicit Context(const std::string& transports);
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;
  Context(Context&&) = delete;
  Context& operator=(Context&&) = delete;
  ~Context();

  /// Of the library that this process has loaded.
  static std::string version();

  [[nodiscard]] ucp_context_h get() const noexcept { return context_; }
  /// What get() was asked for, or settled on; empty: UCX's choice.
  [[nodiscard]] const std::string& transports() const noexcept { return transports_; }

 private:
  const pid_t process_ = ::getpid();
  const std::string transports_;
  ucp_context_h context_ = nullptr;
};

}  // namespace penstock::inline v1::ucx
