// What UCX says of errors: kept for the error that the user gets, instead of standard error.
#pragma once

#include <ucs/type/status.h>

#include <array>
#include <cstdarg>
#include <string>
#include <string_view>

namespace penstock::inline v1::ucx {

/// Keeps the first text (those after it tell of its consequences).
class ErrorLog {
 public:
  /// While it lives, errors in UCX's calls by this thread go to `log`, unless UCX_LOG_LEVEL asks
  /// for more than warnings: then they are printed, too. Others' use of UCX is left alone.
  class Scope {
   public:
    explicit Scope(ErrorLog& log) noexcept;
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;
    Scope(Scope&&) = delete;
    Scope& operator=(Scope&&) = delete;
    ~Scope();

   private:
    ErrorLog* const outer_;
  };

  /// Empty: nothing was said.
  [[nodiscard]] std::string_view text() const noexcept { return text_.data(); }
  void keep(const char* format, std::va_list values) noexcept;

 private:
  std::array<char, 256> text_{};
};

/// UCX's name for `status`, and what it said.
std::string reason(ucs_status_t status, const ErrorLog& log);

}  // namespace penstock::inline v1::ucx
