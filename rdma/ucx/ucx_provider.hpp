// The ucx transport: links over whatever UCX finds between two machines, TCP at least.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "penstock/transport/link.hpp"

namespace penstock::inline v1::ucx {

class UcxProvider final : public LinkProvider {
 public:
  [[nodiscard]] std::string_view scheme() const noexcept override { return "ucx"; }
  /// tls: UCX's choice of transports, as in UCX_TLS.
  [[nodiscard]] std::vector<std::string> option_names() const override { return {"tls"}; }
  [[nodiscard]] OptionHelp option_help(const std::string& name) const override;
  void check(const std::string& options) const override;
  [[nodiscard]] ProbeReport probe() const override;
  [[nodiscard]] std::unique_ptr<Link> open(const LinkConfig& config) override;
};

}  // namespace penstock::inline v1::ucx
