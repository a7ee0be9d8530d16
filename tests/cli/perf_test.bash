# penstock perf over inproc and shm.
# shellcheck source-path=SCRIPTDIR source=harness.bash
source "$(dirname "${BASH_SOURCE[0]}")/harness.bash"

start_perf_listener() {
  "$penstock" perf --listen "$channel" "$@" >listener.out 2>listener.err &
  listener=$!
  wait_until "the listener listens" has_text listener.err "listening on"
}

expect_results() {
  # Two sizes in both modes, each with a rate or a round trip above zero.
  [[ $(grep -c '"mode"' "$1") == 4 ]] || fail "$1 has $(grep -c '"mode"' "$1") results, not 4"
  [[ $(grep -cE '"(messages_per_s|p50_us)": *(0*[1-9]|0\.0*[1-9])' "$1") == 4 ]] ||
    fail "$1 has results without a figure: $(cat "$1")"
  expect_text "$1" '"program": "penstock"'
  expect_text "$1" '"credit_writes"'
}

measures_threads() {
  "$penstock" perf "inproc:$case" --sizes 0,4096 --seconds 0.05 --json results.json >table \
    2>client.err || fail "perf ended with status $?"
  expect_results results.json
  expect_text table "throughput"
  expect_text table "latency"
}

measures_processes() {
  start_perf_listener
  "$penstock" perf "$channel" --sizes 64,4KiB --seconds 0.05 --json - >results.json 2>client.err ||
    fail "the client ended with status $?"
  expect_status "$listener" 0 "the listener"
  expect_results results.json
}

answers_several_runs() {
  start_perf_listener --runs 2
  local run
  for run in first second; do
    "$penstock" perf "$channel" --sizes 64 --seconds 0.01 --spin 0 --in-place --repeat 2 \
      >"$run.out" 2>"$run.err" || fail "the $run run failed"
  done
  expect_status "$listener" 0 "the listener"
}

# A client with work for minutes, of which the first piece is done.
start_busy_client() {
  "$penstock" perf "$channel" --seconds 0.01 --repeat 10000 >client.out 2>client.err &
  client=$!
  wait_until "the first result comes" has_text client.out "throughput"
}

fails_when_the_client_is_killed() {
  start_perf_listener
  start_busy_client
  kill -KILL "$client"
  expect_status "$listener" 1 "the listener"
  expect_text listener.err "a client was lost"
}

fails_when_the_listener_is_killed() {
  start_perf_listener
  start_busy_client
  kill -KILL "$listener"
  expect_status "$client" 1 "the client"
  expect_text client.err "$channel: .*peer.lost"
}

explains_a_listener_that_does_not_answer() {
  "$penstock" cat --listen "$channel" >/dev/null 2>listener.err &
  listener=$!
  wait_until "the listener listens" has_text listener.err "listening on"
  "$penstock" perf "$channel" --timeout 200ms >client.out 2>client.err && fail "perf succeeded"
  expect_text client.err "does .penstock perf --listen. run there"
}

explains_a_message_too_large() {
  "$penstock" perf "inproc:$case?capacity=64KiB" --sizes 1MiB 2>client.err && fail "perf succeeded"
  expect_text client.err "a message of 1048576 bytes does not fit, the largest here has"
}

run_case
