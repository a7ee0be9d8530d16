// Somebody else's transport, as far as a listing goes: it is there, and says why it cannot be used.
#include <penstock/transport/error.hpp>
#include <penstock/transport/plugin_export.hpp>

#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace {

class PaperProvider final : public penstock::LinkProvider {
 public:
  [[nodiscard]] std::string_view scheme() const noexcept override { return "paper"; }
  [[nodiscard]] std::vector<std::string> option_names() const override { return {}; }
  [[nodiscard]] penstock::ProbeReport probe() const override {
    return {.available = false, .reason = kReason, .json = "[]"};
  }
  [[nodiscard]] std::unique_ptr<penstock::Link> open(const penstock::LinkConfig&) override {
    throw penstock::SetupError(penstock::Errc::transport_unavailable, kReason);
  }

 private:
  static constexpr const char* kReason = "paper: no pigeon answers; feed one";
};

}  // namespace

PENSTOCK_EXPORT_TRANSPORT(PaperProvider)
