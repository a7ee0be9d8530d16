# Sourced by tests/run and bench/run: makes a Debian 12 machine ready, and builds.
# shellcheck shell=bash disable=SC2034  # the scripts that source this use its lists

top=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)

build_packages=(
  g++ cmake ninja-build pkg-config git ca-certificates
  libibverbs-dev libxxhash-dev libgtest-dev libbenchmark-dev libboost-dev
  libcli11-dev libfmt-dev nlohmann-json3-dev)
# For the soft-RoCE bed (tests/softroce): the virtual machine's own needs, and the providers.
bed_packages=(qemu-system-x86 busybox-static cpio kmod iproute2 rdma-core ibverbs-providers xz-utils)

# install_missing PACKAGE…: asks apt for those that are not there.
install_missing() {
  local missing=() package
  for package; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
  done
  ((${#missing[@]})) || return 0
  local sudo=()
  if ((EUID != 0)); then
    command -v sudo >/dev/null || {
      echo "missing packages: ${missing[*]}: install them as root with apt-get install" >&2
      return 1
    }
    sudo=(sudo)
  fi
  echo "installing: ${missing[*]}"
  "${sudo[@]}" apt-get update -qq
  "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
    "${missing[@]}" >/dev/null
}

# The soft-RoCE bed takes its kernel from the package lists; a machine fresh from an image has none.
ensure_package_lists() {
  apt-cache show linux-image-amd64 >/dev/null 2>&1 && return
  if ((EUID == 0)); then apt-get update -qq; else sudo apt-get update -qq; fi
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
    grep -E 'error|FAILED|CMake Error' -A 5 "$log" | tail -n 60 >&2
    echo "building $preset failed; all of it: $log" >&2
    return 1
  fi
}
