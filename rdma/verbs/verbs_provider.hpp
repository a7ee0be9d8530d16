// The rdma transport: links over RDMA devices, by libibverbs alone.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "penstock/transport/link.hpp"

namespace penstock::inline v1::verbs {

class VerbsProvider final : public LinkProvider {
 public:
  VerbsProvider();

  [[nodiscard]] std::string_view scheme() const noexcept override { return "rdma"; }
  /// They narrow the choice of the path and say how to travel on it (path.hpp).
  [[nodiscard]] std::vector<std::string> option_names() const override;
  [[nodiscard]] OptionHelp option_help(const std::string& name) const override;
  void check(const std::string& options) const override;
  [[nodiscard]] std::vector<std::string> rails(const std::string& options,
                                               const std::string& local_host) const override;
  [[nodiscard]] ProbeReport probe() const override;
  [[nodiscard]] std::unique_ptr<Link> open(const LinkConfig& config) override;

 private:
  int fork_error_;  // errno value of ibv_fork_init()
};

}  // namespace penstock::inline v1::verbs
