#!/usr/bin/env bash
# The interface that modules are built against, as it is stored in transport/plugin.abi, and as
# transport/plugin.h has it now.
#   plugin_abi.bash SHARED_OBJECT [--store]    SHARED_OBJECT: of plugin_abi.cpp, with debug information
# --store, after something was added by the rules at the top of plugin.h, writes plugin.abi anew.
set -euo pipefail
stored=$(dirname -- "${BASH_SOURCE[0]}")/../../transport/plugin.abi
options=(--no-corpus-path --no-comp-dir-path --no-show-locs)
if [[ ${2-} == --store ]]; then
  abidw "${options[@]}" "$1" | sed -E "s/ path='[^']*'//" >"$stored"
  exit
fi
abidiff "$stored" "$1" && exit
cat >&2 <<'TEXT'
transport/plugin.h is not what modules were built against. What exists may not change within an
ABI version; what was added at the end of a struct is stored with
  bash tests/transport/plugin_abi.bash build/release/tests/transport/plugin_abi.so --store
TEXT
exit 1
