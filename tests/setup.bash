# Sourced by tests/run and bench/run: makes a Debian 12 machine ready, and builds.
# shellcheck shell=bash disable=SC2034  # the scripts that source this use its lists

top=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)

build_packages=(
  g++ cmake ninja-build pkg-config git ca-certificates
  libibverbs-dev libucx-dev libxxhash-dev libgtest-dev libasio-dev libbenchmark-dev libboost-dev
  libcli11-dev libfmt-dev nlohmann-json3-dev libprotobuf-dev protobuf-compiler)
# For the soft-RoCE bed (tests/softroce): the virtual machine's own needs, and the providers.
bed_packages=(qemu-system-x86 busybox-static cpio kmod iproute2 rdma-core ibverbs-providers xz-utils)

# as_root COMMAND…
as_root() {
  if ((EUID == 0)); then
    "$@"
  elif command -v sudo >/dev/null; then
    sudo "$@"
  else
    echo "neither root nor sudo is here to run: $*" >&2
    return 1
  fi
}

# install_missing PACKAGE…: asks apt for those that are not there; without any, nothing is run.
install_missing() {
  local missing=() package installed log=$top/build/apt.log
  if ! command -v dpkg-query >/dev/null; then
    echo "this is not Debian: see that the counterparts of these packages are there: $*" >&2
    return 0
  fi
  # Of a package that was never heard of, dpkg-query has no line, and fails.
  installed=$(dpkg-query -W -f '${Package} ${db:Status-Status}\n' "$@" 2>/dev/null) || true
  for package; do
    grep -qxF -- "$package installed" <<<"$installed" || missing+=("$package")
  done
  ((${#missing[@]})) || return 0
  echo "installing with apt-get: ${missing[*]}"
  mkdir -p "$top/build"
  if ! { as_root apt-get update -qq &&
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
      "${missing[@]}"; } >"$log" 2>&1 </dev/null; then
    tail -n 20 "$log" >&2
    echo "installing failed; by hand, as root: apt-get install ${missing[*]}" >&2
    return 1
  fi
}

# The soft-RoCE bed takes its kernel from the package lists; a machine fresh from an image has none.
# Where they cannot be had, the bed says what it lacks.
ensure_package_lists() {
  apt-cache show linux-image-amd64 >/dev/null 2>&1 && return
  echo "fetching the package lists"
  as_root apt-get update -qq || echo "no package lists: an installed kernel must serve" >&2
}

# build PRESET [TARGET…]
build() {
  local preset=$1
  shift
  local log=$top/build/$preset.log
  mkdir -p "$top/build"
  echo "building $preset"
  if ! (cd "$top" && cmake --preset "$preset" && cmake --build --preset "$preset" ${1:+--target "$@"}) \
    >"$log" 2>&1; then
    { grep -E 'error|FAILED|CMake Error' -A 5 "$log" || cat "$log"; } | tail -n 60 >&2
    echo "building $preset failed; all of it: $log" >&2
    return 1
  fi
}
