# The tool between two hosts over RDMA. Runs on each of them at once (tests/softroce/run --hosts 2):
# host 0 listens, host 1 sends, and each case has a port of its own.
# shellcheck source-path=SCRIPTDIR source=harness.bash disable=SC2119
source "$(dirname "${BASH_SOURCE[0]}")/harness.bash"

listening_address=$PENSTOCK_PEER_ADDR
((PENSTOCK_HOST == 0)) && listening_address=$PENSTOCK_ADDR
use_port() { channel=rdma://$listening_address:$1/tool; }

# The listening host is up only when its own boot is over.
patience=(--timeout 120s)
bytes=$((32 << 20))

start_endless_sender() {
  "$penstock" cat "${patience[@]}" --progress "$channel" </dev/zero 2>sender.err &
  sender=$!
}

# Random bytes, and behind them their SHA-256, so that the other host can tell.
digest() { sha256sum | cut -c1-64; }

listen() {
  use_port 7101
  start_listener
  expect_status "$listener" 0 "the listener"
  (($(stat -c %s out) == bytes + 65)) || fail "the listener wrote $(stat -c %s out) bytes"
  [[ $(head -c "$bytes" out | digest) == $(tail -c 65 out) ]] || fail "the SHA-256 differ"

  use_port 7102
  start_listener
  expect_status "$listener" 1 "the listener of a sender that was killed"
  expect_text listener.err "a sender was lost"

  use_port 7103
  start_listener
  wait_until "data flows" has_size out 100000
  kill -KILL "$listener"

  "$penstock" cat --listen "rdma://$listening_address:7104/tool" >/dev/full 2>listener.err &
  expect_status $! 1 "the listener whose output is full"
  expect_text listener.err "No space left on device"

  "$penstock" perf --listen "rdma://$listening_address:7105/tool" 2>listener.err ||
    fail "perf --listen ended with status $?"

  use_port 7106
  start_listener
  wait_until "data flows" has_size out 100000
  cut_network
  expect_status "$listener" 1 "the listener whose network is cut"
  expect_text listener.err "a sender was lost"
  mend_network
}

# Drops what comes and what goes. Not `ip link set down`: packets that are under way then stay in
# the drivers' rings, and the kernel waits for them, up to a minute, when a queue pair is destroyed.
cut_network() {
  tc qdisc add dev "$PENSTOCK_NETDEV" clsact
  tc filter add dev "$PENSTOCK_NETDEV" ingress matchall action drop
  tc filter add dev "$PENSTOCK_NETDEV" egress matchall action drop
}
mend_network() { tc qdisc del dev "$PENSTOCK_NETDEV" clsact; }

send() {
  use_port 7101
  head -c "$bytes" /dev/urandom >in
  digest <in >in.sha256
  cat in.sha256 >>in
  "$penstock" cat "${patience[@]}" "$channel" <in 2>sender.err || fail "the sender failed"

  use_port 7102
  start_endless_sender
  wait_until "data flows" has_text sender.err "MB/s"
  kill -KILL "$sender"

  use_port 7103
  start_endless_sender
  expect_status "$sender" 1 "the sender whose listener was killed"
  expect_text sender.err "the listener was lost"

  use_port 7104
  echo lost | "$penstock" cat "${patience[@]}" "$channel" 2>sender.err &&
    fail "the sender took for delivered what was not written"

  use_port 7105
  "$penstock" perf "${patience[@]}" "$channel" --sizes 64,65536 --seconds 0.2 >perf.out \
    2>sender.err || fail "perf ended with status $?"
  cat perf.out

  use_port 7106
  start_endless_sender
  expect_status "$sender" 1 "the sender whose network is cut"
  # The listener's good-bye may reach it once the network is back.
  expect_text sender.err "the listener \\(was lost\\|stopped taking data\\)"
}

expect_device() {
  "$penstock" info >info.out || fail "info ended with status $?"
  expect_text info.out "^rdma: *available"
}

expect_device
if ((PENSTOCK_HOST == 0)); then listen; else send; fi
