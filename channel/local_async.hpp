// What co_await waits for at the ends of an in-process channel.
#pragma once

#include <coroutine>
#include <exception>
#include <memory>
#include <stop_token>
#include <utility>

#include "penstock/channel/async.hpp"
#include "penstock/channel/local.hpp"

namespace penstock::v2 {

/// Waits for one end of a channel. `Step`: Step::Result, `bool operator()(Local&, Result&)` tries
/// and says whether it is over; `list()`, `more()`, `cancelled()`.
template <class T, Topology kTopology, class Step>
class [[nodiscard]] LocalAwait final : public AsyncWait {
 public:
  LocalAwait(Local<T, kTopology>* local, const std::shared_ptr<const Executor>& executor,
             std::stop_token stop, Step step)
      : AsyncWait(executor, std::move(stop)), local_(local), step_(std::move(step)) {}

  [[nodiscard]] bool await_ready() noexcept {
    if (local_ == nullptr) return true;
    if (!stop_requested()) return attempt();
    cancel();
    return true;
  }
  [[nodiscard]] bool await_suspend(std::coroutine_handle<> coroutine) {
    return suspend(Step::list(*local_), coroutine);
  }
  typename Step::Result await_resume() {
    if (error_) std::rethrow_exception(error_);
    return std::move(result_);
  }

 private:
  [[nodiscard]] bool attempt() noexcept override {
    try {
      return step_(*local_, result_);
    } catch (...) {
      error_ = std::current_exception();
      return true;
    }
  }
  void cancel() noexcept override { Step::cancelled(result_); }
  [[nodiscard]] bool more() const noexcept override { return Step::more(*local_); }

  Local<T, kTopology>* const local_;
  Step step_;
  typename Step::Result result_ = Step::closed();
  std::exception_ptr error_;
};

}  // namespace penstock::v2
