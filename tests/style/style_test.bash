#!/usr/bin/env bash
# The form of the sources; one case a run.
#   style_test.bash TREE BUILD CASE     BUILD: a configured build, for its compile_commands.json
set -euo pipefail

tree=$1 build=$2 case=$3
cd "$tree"

# The tree's files, each ended by a NUL.
files() { find . \( -path ./build -o -path ./.git \) -prune -o -type f -printf '%P\0'; }

case_format() {
  files | grep -zE '\.(cpp|hpp|c|h)$' | xargs -0 clang-format --dry-run -Werror
}

# The scripts: by their first line, or, for those that are sourced, by their directive.
case_shell() {
  files | grep -zvE '\.(cpp|hpp|c|h|md|txt|json)$' |
    xargs -0 grep -lZE -m 1 '^#!/.*[/ ](bash|sh)$|^# shellcheck ' |
    xargs -0 shellcheck --external-sources
}

# The library and the tool, their headers included; what tests do with GoogleTest is left out. On half
# of the CPUs: other tests run beside it.
case_tidy() {
  sed -nE 's/^ *"file": "(.*)",?$/\1/p' "$build/compile_commands.json" | sort -u |
    tree=$tree awk 'index($0, ENVIRON["tree"] "/") == 1 &&
      substr($0, length(ENVIRON["tree"]) + 2) ~ /^(transport|channel|loopback|rdma|cli)\// ' |
    nice -n 19 xargs -d '\n' -n 1 -P "$((($(nproc) + 1) / 2))" bash "$tree/tests/style/style_test.bash" "$tree" "$build" tidy_one
}

# What the analyzer finds at all, it finds early: without the bound it takes two thirds of all the time.
case_tidy_one() {
  local output
  output=$(clang-tidy -p "$build" --quiet --extra-arg=-Wno-unknown-warning-option \
    --extra-arg=-Xclang --extra-arg=-analyzer-config --extra-arg=-Xclang \
    --extra-arg=max-nodes=5000 "$file" 2>&1) ||
    { grep -vE '^[0-9]+ warnings?.* generated' <<<"$output"; return 1; }
}

file=${4-}
command=case_$case
[[ $(type -t "$command") == function ]] || {
  echo "no such case: $case" >&2
  exit 2
}
"$command"
