# penstock perf beside plain verbs. Runs on a host with an RDMA device (tests/softroce/run).
# shellcheck source-path=SCRIPTDIR source=harness.bash
source "$(dirname "${BASH_SOURCE[0]}")/harness.bash"

count_lines() { grep -c -- "$1" "$2" || true; }

compares() {
  local uri=rdma://$PENSTOCK_ADDR:7110/perf
  "$penstock" perf --listen "$uri" 2>listener.err &
  listener=$!
  wait_until "the listener listens" has_text listener.err "listening on"
  "$penstock" perf "$uri" --timeout 60s --baseline --mode throughput,latency,sleep --sizes 64 \
    --senders 1,3 --seconds 0.05 --repeats 6 --json results.json >table 2>client.err ||
    fail "the client ended with status $?"
  expect_status "$listener" 0 "the listener"
  cat table
  expect_text table "^plain verbs: $PENSTOCK_RDMA_DEVICE port"
  expect_text table "ratio *from *to"
  # Throughput with 1 and 3 senders, and two kinds of round trip: each with a ratio and its interval.
  [[ $(count_lines '"pairs": 6' results.json) == 4 ]] || fail "not 4 ratios: $(cat results.json)"
  [[ $(count_lines '"low": 0*[0-9.]*[1-9]' results.json) == 4 ]] || fail "not 4 intervals"
  [[ $(count_lines '"repeat": [0-5]$' results.json) == 48 ]] || fail "not 24 pairs"
}

run_case
