# auto: between two hosts with and without an RDMA device, and between two network namespaces of one
# host. Runs on each host at once (tests/softroce/run --hosts 2): host 0 listens, host 1 sends.
# shellcheck source-path=SCRIPTDIR source=../cli/harness.bash disable=SC2119
source "$(dirname "${BASH_SOURCE[0]}")/../cli/harness.bash"

host=$PENSTOCK_PEER_ADDR
((PENSTOCK_HOST == 0)) && host=$PENSTOCK_ADDR
use_port() { channel=auto://$host:$1/auto; }

# The listening host may be up later.
patience=(--timeout 120s)

# take_one: a listener that gets one line.
take_one() {
  start_listener
  expect_status "$listener" 0 "the listener at $channel"
  expect_text out "^through$"
}

# reach COMMAND…: says the path and goes there, by way of COMMAND.
reach() {
  "$@" "$penstock" info "${patience[@]}" "$channel" >path 2>info.err || fail "info ended with $?"
  cat path
  echo through | "$@" "$penstock" cat "${patience[@]}" "$channel" 2>sender.err ||
    fail "the sender ended with $?"
}

forget_device() { rdma link delete "$PENSTOCK_RDMA_DEVICE" || fail "the device stays"; }

with_a_device() {
  use_port 7301
  if ((PENSTOCK_HOST == 0)); then take_one; return; fi
  reach
  expect_text path "^  path: $PENSTOCK_RDMA_DEVICE port 1"
  expect_text path "^  rejected: inproc: .*; shm: the receiver's socket is not here"
}

# The devices are there, and the network between them lets nothing of theirs pass.
with_a_firewall() {
  use_port 7304
  if ((PENSTOCK_HOST == 0)); then take_one; return; fi
  tc qdisc add dev "$PENSTOCK_NETDEV" clsact
  tc filter add dev "$PENSTOCK_NETDEV" ingress protocol ip flower ip_proto udp dst_port 4791 \
    action drop
  reach
  expect_text path "^  path: ucx"
  expect_text path "; rdma: $PENSTOCK_RDMA_DEVICE port 1.*: nothing gets through to the peer"
  tc qdisc del dev "$PENSTOCK_NETDEV" clsact
}

without_a_device() {
  use_port 7302
  if ((PENSTOCK_HOST == 0)); then take_one; return; fi
  reach
  expect_text path "^  path: ucx"
  expect_text path "; rdma: .*no RDMA device"
}

# The same host, the same name, but what one has in memory the other cannot reach.
between_namespaces() {
  ((PENSTOCK_HOST == 0)) || return 0
  modprobe veth
  ip netns add other
  ip link add here type veth peer name there netns other
  ip address add 192.0.2.1/24 dev here
  ip link set here up
  ip -n other address add 192.0.2.2/24 dev there
  ip -n other link set there up
  host=192.0.2.1
  use_port 7303
  start_listener
  reach ip netns exec other
  expect_status "$listener" 0 "the listener at $channel"
  expect_text path "^  path: ucx"
  expect_text path "shm: the receiver's socket is not here"
}

with_a_device
with_a_firewall
forget_device
without_a_device
between_namespaces
