#include "penstock/rdma/ucx/error_log.hpp"

#include <fmt/format.h>
#include <ucs/config/types.h>
#include <ucs/debug/log_def.h>

#include <cstdio>
#include <utility>

namespace penstock::inline v1::ucx {
namespace {

thread_local ErrorLog* t_log = nullptr;

ucs_log_func_rc_t keep_errors(const char* /*file*/, unsigned /*line*/, const char* /*function*/,
                              ucs_log_level_t level, const ucs_log_component_config_t* component,
                              const char* format, std::va_list values) {
  // After a fatal one UCX ends the process: it must be seen.
  if (level != UCS_LOG_LEVEL_ERROR || t_log == nullptr) return UCS_LOG_FUNC_RC_CONTINUE;
  std::va_list copy;
  va_copy(copy, values);
  t_log->keep(format, copy);
  va_end(copy);
  return component != nullptr && component->log_level > UCS_LOG_LEVEL_WARN
             ? UCS_LOG_FUNC_RC_CONTINUE
             : UCS_LOG_FUNC_RC_STOP;
}

}  // namespace

ErrorLog::Scope::Scope(ErrorLog& log) noexcept : outer_(std::exchange(t_log, &log)) {
  static const bool once = [] {
    ::ucs_log_push_handler(keep_errors);
    return true;
  }();
  (void)once;
}

ErrorLog::Scope::~Scope() { t_log = outer_; }

void ErrorLog::keep(const char* format, std::va_list values) noexcept {
  if (text_[0] == 0) (void)std::vsnprintf(text_.data(), text_.size(), format, values);
}

std::string reason(ucs_status_t status, const ErrorLog& log) {
  const char* name = ::ucs_status_string(status);
  return log.text().empty() ? std::string(name) : fmt::format("{} ({})", name, log.text());
}

}  // namespace penstock::inline v1::ucx
