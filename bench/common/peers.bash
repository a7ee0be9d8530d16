# Sourced: the Debian packages of those that penstock is measured beside.
# shellcheck shell=bash disable=SC2034  # the scripts that source this use its lists
thread_peers=(libconcurrentqueue-dev libreaderwriterqueue-dev libtbb-dev libdpdk-dev libck-dev cppzmq-dev
  libzmq3-dev rustc cargo librust-async-channel-dev librust-crossbeam-channel-dev)
process_peers=(libiceoryx-posh-dev cppzmq-dev libzmq3-dev)
device_peers=(perftest rdmacm-utils ucx-utils)
