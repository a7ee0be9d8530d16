#!/usr/bin/env bash
# penstock as others get it: installed from a finished build, and as a part of their own build.
#   package_test.bash BUILD CASE    BUILD: a finished build; works in BUILD/package
# The environment has CMAKE, CMAKE_GENERATOR and CXX.
set -euo pipefail

build=$(cd -- "$1" && pwd -P)
here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)
folder=$build/package
prefix=$folder/prefix
warnings=(-Wall -Wextra -Wpedantic -Wshadow -Wconversion -Werror)
unset PENSTOCK_PLUGIN_PATH  # what a case finds is what it was told

fail() {
  echo "FAILED: $*" >&2
  exit 1
}

# quietly COMMAND…: its output only if it fails.
quietly() {
  local output
  output=$("$@" 2>&1) || {
    printf '%s\n' "$output" >&2
    fail "$*"
  }
}

# made SOURCE FOLDER CMAKE-ARGUMENT…: configures and builds that project there, in an empty folder.
made() {
  local from=$1 into=$2
  shift 2
  rm -rf "$into"
  quietly "$CMAKE" -S "$from" -B "$into" -DCMAKE_CXX_COMPILER="$CXX" \
    -DCMAKE_CXX_FLAGS="${warnings[*]}" "$@"
  quietly "$CMAKE" --build "$into"
}
consumer() { made "$here/consumer" "$@"; }

# needs FILE: the libraries that it names, one a line.
needs() { readelf -d "$1" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p'; }

# needs_only FILE PATTERN…: it names no libraries but these.
needs_only() {
  local file=$1 library pattern
  shift
  while read -r library; do
    for pattern; do
      # shellcheck disable=SC2053  # a pattern
      [[ $library != $pattern ]] || continue 2
    done
    fail "$file needs $library; it may need: $*"
  done < <(needs "$file")
}
runtime=('libstdc++.so.*' 'libm.so.*' 'libgcc_s.so.*' 'libc.so.*' 'ld-linux*')

# works PROGRAM MODULES: it sends and receives, and its remote transports are there, from the modules
# in that folder ("none": without any).
works() {
  local program=$1 modules=$2 output scheme module
  output=$("$program" "package-test-$$") || fail "$program: exit status $?"
  printf '%s\n' "$output"
  grep -qx 'inproc: received' <<<"$output" || fail "$program: nothing came through inproc:"
  grep -qx 'typed: received' <<<"$output" || fail "$program: nothing came through a typed channel"
  grep -qx 'typed over a URI: received' <<<"$output" ||
    fail "$program: nothing came through a typed channel over a URI"
  grep -qx 'shm: received' <<<"$output" || fail "$program: nothing came through shm:"
  if compgen -G '/sys/class/infiniband/*' >/dev/null; then
    grep -qE '^rdma: (available|transport unavailable: )' <<<"$output" ||
      fail "$program: rdma: is there, but says something else"
  else
    grep -q '^rdma: transport unavailable: .*no RDMA device.*rdma link add' <<<"$output" ||
      fail "$program: rdma: does not say that there is no device, and what to do"
  fi
  grep -qx 'ucx: received' <<<"$output" || fail "$program: nothing came through ucx:"
  for scheme in rdma ucx; do
    module=$modules
    [[ $modules == none ]] || module=$modules/penstock_$scheme.so
    grep -qx "module of $scheme: $module" <<<"$output" ||
      fail "$program: the module of $scheme is not: $module"
  done
}

case_install() {
  rm -rf "$prefix"
  quietly "$CMAKE" --install "$build" --prefix "$prefix"
  (cd "$prefix" && find . ! -type d | sort)
  # The tool finds the modules of the prefix it was moved to.
  local output scheme
  output=$("$prefix/bin/penstock" info 2>&1)
  for scheme in rdma ucx; do
    grep -q "^$scheme" <<<"$output" || fail "the installed tool does not list $scheme: $output"
  done
  needs_only "$prefix/bin/penstock" "${runtime[@]}" 'libfmt.so.*'
  quietly "$prefix/libexec/penstock/penstock-verbs-baseline" --help
  quietly "$prefix/bin/penstock" conformance 'ucx://127.0.0.1:0/x?tls=tcp' --scale 0.1 -- \
    '--gtest_filter=*.keeps_order_of_one_sender'
}

# Where the case install has put the libraries.
find_libdir() {
  local file
  file=$(find "$prefix" -name penstock.pc)
  libdir=${file%/pkgconfig/penstock.pc}
}

case_find_package() {
  find_libdir
  consumer "$folder/find_package" -DCMAKE_PREFIX_PATH="$prefix"
  local bin=$folder/find_package
  # The core was configured for another prefix, and the program lies outside of this one.
  PENSTOCK_PLUGIN_PATH=$libdir/penstock works "$bin/consumer" "$libdir/penstock"
  works "$bin/consumer_linked" none
  needs_only "$bin/consumer" "${runtime[@]}"
  needs_only "$bin/consumer_linked" "${runtime[@]}" 'libibverbs.so.*' 'libuc[mpst].so.*'
  needs_only "$libdir/penstock/penstock_rdma.so" "${runtime[@]}" 'libibverbs.so.*'
  needs_only "$libdir/penstock/penstock_ucx.so" "${runtime[@]}" 'libuc[mpst].so.*'
  local output
  output=$(PENSTOCK_PLUGIN_PATH=$bin "$prefix/bin/penstock" info 2>&1)
  grep -q 'paper.*feed one' <<<"$output" ||
    fail "the installed tool does not list the consumer's own transport: $output"
}

case_pkg_config() {
  find_libdir
  export PKG_CONFIG_PATH=$libdir/pkgconfig
  mkdir -p "$folder/pkg_config"
  local flags
  flags=$(pkg-config --cflags --libs 'penstock >= 0.1')
  eval "flags=($flags)"  # pkg-config quotes what a shell would take apart
  quietly "$CXX" -std=c++20 "${warnings[@]}" -o "$folder/pkg_config/consumer" \
    "$here/consumer/consumer.cpp" "${flags[@]}"
  PENSTOCK_PLUGIN_PATH=$libdir/penstock works "$folder/pkg_config/consumer" "$libdir/penstock"
}

# The transport of docs/write-a-transport.md, made from the installation alone, keeps the contract.
case_conformance_tcp() {
  made "$here/../../docs/examples/tcp" "$folder/tcp" -DCMAKE_PREFIX_PATH="$prefix"
  PENSTOCK_PLUGIN_PATH=$folder/tcp "$prefix/bin/penstock" conformance 'tcp://127.0.0.1:0/x' \
    --scale 0.2 -- --gtest_brief=1
}

# As a part of another build, with a shared core, and installed by that.
case_subdirectory() {
  local bin=$folder/subdirectory moved=$folder/subdirectory-prefix
  rm -rf "$moved"
  consumer "$bin" -DPENSTOCK_TREE="$here/../.." -DBUILD_SHARED_LIBS=ON \
    -DCMAKE_INSTALL_PREFIX="$moved" -DCMAKE_INSTALL_LIBDIR=lib
  works "$bin/consumer" "$bin"
  works "$bin/consumer_linked" none
  needs_only "$bin/penstock/libpenstock.so" "${runtime[@]}"
  quietly "$CMAKE" --install "$bin"
  consumer "$folder/shared" -DCMAKE_PREFIX_PATH="$moved"
  works "$folder/shared/consumer" "$moved/lib/penstock"
  works "$folder/shared/consumer_linked" none
}

command=case_$2
[[ $(type -t "$command") == function ]] || {
  echo "no such case: $2" >&2
  exit 2
}
"$command"
