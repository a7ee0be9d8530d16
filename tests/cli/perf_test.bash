# penstock perf over inproc and shm.
# shellcheck source-path=SCRIPTDIR source=harness.bash
source "$(dirname "${BASH_SOURCE[0]}")/harness.bash"

start_perf_listener() {
  "$penstock" perf --listen "$channel" "$@" >listener.out 2>listener.err &
  listener=$!
  wait_until "the listener listens" has_text listener.err "listening on"
}

expect_results() {
  # Two sizes in both modes, each with a rate or a round trip above zero; of each a row, too.
  [[ $(grep -c '"repeat"' "$1") == 4 ]] || fail "$1 has $(grep -c '"repeat"' "$1") results, not 4"
  [[ $(grep -cE '"(messages_per_s|p50_us)": *(0*[1-9]|0\.0*[1-9])' "$1") == 8 ]] ||
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
    "$penstock" perf "$channel" --sizes 64 --seconds 0.01 --spin 0 --in-place --repeats 2 \
      >"$run.out" 2>"$run.err" || fail "the $run run failed"
  done
  expect_status "$listener" 0 "the listener"
}

sends_in_batches() {
  start_perf_listener
  "$penstock" perf "$channel" --sizes 64,64KiB --mode throughput --senders 1,2 --batch 32 \
    --seconds 0.05 --json results.json >table 2>client.err || fail "the client ended with status $?"
  expect_status "$listener" 0 "the listener"
  expect_text table "32 messages a call"
  expect_text results.json '"batch": 32'
  "$penstock" perf "inproc:$case" --sizes 100 --batch 7 --seconds 0.02 >table 2>client.err ||
    fail "between threads perf ended with status $?"
  expect_text table "7 messages a call"
  # What has no batches is refused before anything is measured.
  "$penstock" perf "inproc:$case" --sizes 0 --batch 7 2>client.err && fail "empty messages in batches"
  expect_text client.err "leave 0 out"
}

# What says something of the wrong kind is no client, and ends nobody's measurements.
passes_over_strangers_that_make_no_sense() {
  start_perf_listener --runs 4
  local text
  for text in '{"op":7}' '{"op":"hello","penstock_perf":2,"reply":5}' \
    '{"op":"hello","penstock_perf":"x","reply":"shm:nobody-'$$'"}' '[' 'no JSON'; do
    # The listener may be gone on before all is consumed: how cat ends is not asked.
    printf '%s' "$text" | "$penstock" cat "$channel" >/dev/null 2>&1 || true
  done
  "$penstock" perf "$channel" --sizes 64 --seconds 0.01 >table 2>client.err ||
    fail "the client ended with status $?; the listener: $(cat listener.err)"
  expect_text table "throughput"
  kill "$listener"
}

fails_when_its_output_is_lost() {
  local status=0
  "$penstock" perf "inproc:$case" --sizes 64 --seconds 0.01 >/dev/full 2>perf.err || status=$?
  ((status == 1)) || fail "perf ended with status $status"
  expect_text perf.err "cannot write the output"
}

# count_lines TEXT FILE
count_lines() { grep -c -- "$1" "$2" || true; }

sweeps_senders() {
  # Fewer after more: those that leave are waited for no longer.
  start_perf_listener
  "$penstock" perf "$channel" --sweep --sizes 8,4096 --senders 4,1,2 --seconds 0.02 --repeats 2 \
    --json results.json >table 2>client.err || fail "the client ended with status $?"
  expect_status "$listener" 0 "the listener"
  # Of throughput three counts of senders, and one of round trips; each of two sizes.
  [[ $(count_lines '"per_message"' results.json) == 8 ]] || fail "not 8 rows: $(cat results.json)"
  [[ $(count_lines '"repeat": [01]$' results.json) == 16 ]] || fail "not 16 results"
  [[ $(count_lines '"senders": 4,$' results.json) == 6 ]] || fail "4 senders: not 2 rows of 2 results"
  [[ $(count_lines '^ *\(8\|4096\)  *[124] ' table) == 8 ]] || fail "not 8 rows: $(cat table)"
  expect_text table "posts/msg *WRs/msg *compl./msg"
}

measures_through_a_sleep() {
  start_perf_listener
  "$penstock" perf "$channel" --mode sleep,throughput --sizes 64 --seconds 0.05 --json results.json \
    >table 2>client.err || fail "the client ended with status $?"
  expect_status "$listener" 0 "the listener"
  expect_text table "through a sleep on both sides"
  grep -A 40 '"sleep"' results.json | grep -q '"parks": [0-9.]*[1-9]' || fail "nobody slept: $(cat results.json)"
}

# Several senders of one process are lost together, and that is one client.
goes_on_after_a_client_with_many_senders() {
  start_perf_listener --runs 2
  start_busy_client --senders 4 --mode throughput
  kill -KILL "$client"
  wait_until "the loss is told" has_text listener.err "a client was lost"
  "$penstock" perf "$channel" --sizes 64 --seconds 0.01 >second.out 2>second.err ||
    fail "the second client ended with status $?"
  expect_status "$listener" 1 "the listener"
  [[ $(count_lines "a client was lost" listener.err) == 1 ]] || fail "told more than once"
}

refuses_a_baseline_without_a_device() {
  local status=0
  "$penstock" perf "$channel" --baseline 2>client.err || status=$?
  [[ $status == 2 ]] || fail "ended with status $status, not 2"
  expect_text client.err "give an rdma: URI, or leave --baseline out"
  "$penstock" perf rdma://192.0.2.1:1/x --baseline --sizes 0,64 2>client.err && fail "perf succeeded"
  expect_text client.err "leave 0 out of --sizes"
}

# A client with work for minutes, of which the first piece is done.
start_busy_client() {
  "$penstock" perf "$channel" --seconds 1 --repeats 1000 "$@" >client.out 2>client.err &
  client=$!
  wait_until "the work begins" has_text client.out "throughput"
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
