// What co_await waits for at one end of a channel.
#pragma once

#include <coroutine>
#include <exception>
#include <memory>
#include <stop_token>
#include <utility>

#include "penstock/channel/async.hpp"

namespace penstock::v2 {

/// Waits for one end of a channel, of which it knows nothing but what `Step` does: `Step::Result`;
/// `bool operator()(End&, Result&)` tries, and says whether it is over; `list()` and `more()` as
/// AsyncWait has them; `cancelled()`; `closed()` where there is no end.
template <class End, class Step>
class [[nodiscard]] Await final : public AsyncWait {
 public:
  Await(End* end, const std::shared_ptr<const Executor>& executor, std::stop_token stop, Step step)
      : AsyncWait(executor, std::move(stop)), end_(end), step_(std::move(step)) {}

  [[nodiscard]] bool await_ready() noexcept {
    if (end_ == nullptr) return true;
    if (!stop_requested()) return attempt();
    cancel();
    return true;
  }
  [[nodiscard]] bool await_suspend(std::coroutine_handle<> coroutine) {
    return suspend(Step::list(*end_), coroutine);
  }
  typename Step::Result await_resume() {
    if (error_) std::rethrow_exception(error_);
    return std::move(result_);
  }

 private:
  [[nodiscard]] bool attempt() noexcept override {
    try {
      return step_(*end_, result_);
    } catch (...) {
      error_ = std::current_exception();
      return true;
    }
  }
  void cancel() noexcept override { Step::cancelled(result_); }
  [[nodiscard]] bool more() noexcept override { return Step::more(*end_); }

  End* const end_;
  Step step_;
  typename Step::Result result_ = Step::closed();
  std::exception_ptr error_;
};

}  // namespace penstock::v2
