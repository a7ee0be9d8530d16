# penstock doctor and faults of an RDMA device. On one that is there for it alone
# (tests/softroce/run): it is broken in each way, and mended.
# shellcheck source-path=SCRIPTDIR source=harness.bash
source "$(dirname "${BASH_SOURCE[0]}")/harness.bash"

# expect_finding STATUS VERDICT TEXT COMMAND…
expect_finding() {
  local wanted=$1 verdict=$2 text=$3 status=0
  shift 3
  "$@" >out 2>doctor.err || status=$?
  echo "--- $text"
  cat out
  ((status == wanted)) || fail "the doctor ended with status $status, not $wanted"
  expect_text out "^$verdict .*$text"
}

device=$PENSTOCK_RDMA_DEVICE netdev=$PENSTOCK_NETDEV
uri=rdma://127.0.0.1:7401/doctor

expect_finding 0 "ok" "rdma: a message got through" "$penstock" doctor

# Root has no limit but by giving that privilege up.
expect_finding 1 FAIL "64 KiB of locked memory at most" prlimit --memlock=65536:65536 \
  setpriv --bounding-set=-ipc_lock --inh-caps=-ipc_lock "$penstock" doctor
expect_text out "ulimit -l unlimited"
expect_text out "^FAIL .*rdma: no message gets through"

ip link set "$netdev" mtu 900
expect_finding 0 warn "$device port 1: 512 bytes in a packet, as the MTU of $netdev is 900" \
  "$penstock" doctor
expect_text out "ip link set $netdev mtu 4200"

ip address flush dev "$netdev"
expect_finding 1 FAIL "$device port 1 has no GID with an IPv4 address" "$penstock" doctor
expect_text out "ip address add ADDRESS/24 dev $netdev"

ip link set "$netdev" down
expect_finding 1 FAIL "$device port 1 is not active" "$penstock" doctor
expect_text out "ip link set $netdev up"

# What is not asked for is no failure.
expect_finding 1 warn "$device port 1 is not active" "$penstock" doctor shm:nobody-here --timeout 0

rdma link delete "$device"
expect_finding 1 FAIL "no RDMA device" "$penstock" doctor "$uri" --timeout 0
expect_finding 0 note "no RDMA device" "$penstock" doctor
