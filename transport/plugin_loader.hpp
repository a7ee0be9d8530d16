// Transport modules: finding, loading and speaking to them through plugin.h.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "penstock/transport/link.hpp"

namespace penstock::inline v1 {

/// The directories in which modules are looked for, in order: those of PENSTOCK_PLUGIN_PATH
/// (separated by colons; not heeded in a set-user-ID program), those beside a shared core and
/// beside the running program, and the one for which the core was configured to be installed.
[[nodiscard]] std::vector<std::string> module_search_path();

/// The provider of the first module `penstock_<scheme>.so` in the search path; null when there is
/// none. A module stays loaded until the process ends. Thread-safe.
/// Throws SetupError{module_broken} that names the file and the loader's reason; also where
/// PENSTOCK_PLUGIN_PATH has two of them, which are not the same file.
[[nodiscard]] std::shared_ptr<LinkProvider> load_link_module(std::string_view scheme);

/// The schemes that have a module in the search path, sorted; whether one loads is not known.
[[nodiscard]] std::vector<std::string> find_modules();

}  // namespace penstock::inline v1
