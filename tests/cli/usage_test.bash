# What the tool says to a command line that is wrong.
# shellcheck source-path=SCRIPTDIR source=harness.bash
source "$(dirname "${BASH_SOURCE[0]}")/harness.bash"

expect_usage_error() {
  local text=$1 status=0
  shift
  "$penstock" "$@" </dev/null >out 2>usage.err || status=$?
  [[ $status == 2 ]] || fail "'penstock $*' ended with status $status, not 2"
  expect_text usage.err "^penstock: .*$text"
  [[ $(wc -l <usage.err) == 1 ]] || fail "more than a line for 'penstock $*'"
}

points_at_the_nearest_command() {
  expect_usage_error "did you mean perf?" pref shm:x
  expect_usage_error "info, doctor, cat, perf"
}

points_at_the_nearest_option() {
  expect_usage_error "did you mean --listen?" cat --lisen shm:x
  expect_usage_error "uri is required" cat
  expect_usage_error "throughput,latency" perf shm:x --mode lateny
  expect_usage_error "in range" perf shm:x --senders 0
  expect_usage_error "in range" perf shm:x --repeats 0
  expect_usage_error "did you mean --sweep?" perf shm:x --swep
  expect_usage_error "penstock perf --help" perf shm:x --listen --sizes 64
}

explains_a_malformed_uri() {
  expect_usage_error "bad URI 'nonsense'" cat nonsense
  expect_usage_error "bad URI 'shm:x y'" perf "shm:x y"
  expect_usage_error "the port '70000'" cat rdma://192.0.2.1:70000/x
}

explains_a_malformed_duration() {
  expect_usage_error "'5 parsecs' is no duration" cat --timeout "5 parsecs" shm:x
  expect_usage_error "'5' is no duration" cat --timeout 5 shm:x
}

refuses_inproc_between_processes() {
  expect_usage_error "use shm:NAME" cat inproc:x
  expect_usage_error "leave --listen out" perf --listen inproc:x
}

shows_help_and_version() {
  "$penstock" --version >out || fail "--version ended with status $?"
  expect_text out "^penstock [0-9]"
  "$penstock" cat --help >out || fail "cat --help ended with status $?"
  expect_text out "--listen"
}

run_case
