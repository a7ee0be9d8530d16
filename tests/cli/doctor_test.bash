# penstock doctor: each case injects a fault, and the doctor is to name it. Those of RDMA devices:
# doctor_device_test.bash.
# shellcheck source-path=SCRIPTDIR source=harness.bash disable=SC2119
source "$(dirname "${BASH_SOURCE[0]}")/harness.bash"

# fails_with TEXT ARGUMENTS…: the doctor ends with 1 and has a failure that says so.
fails_with() {
  local text=$1 status=0
  shift
  "$penstock" doctor "$@" >out 2>doctor.err || status=$?
  cat out
  ((status == 1)) || fail "the doctor ended with status $status"
  expect_text out "^FAIL .*$text"
}

finds_nothing_wrong() {
  "$penstock" doctor shm: >out 2>doctor.err && fail "a URI without a name was taken"
  "$penstock" doctor >out 2>doctor.err || { cat out; fail "the doctor ended with status $?"; }
  expect_text out "^ok .*shm: a message got through"
  expect_text out "^failed: 0"
  start_listener
  "$penstock" doctor "$channel" >out 2>doctor.err || fail "the doctor ended with status $?"
  expect_text out "^ok .*$channel is reached: shm"
  echo data | "$penstock" cat "$channel" || fail "the listener is not as it was"
}

finds_a_module_that_is_missing() {
  cp "$penstock" alone  # beside it there is none
  penstock=./alone
  fails_with "no transport 'pigeon': .*there is no penstock_pigeon.so" pigeon://127.0.0.1:7000/x
}

finds_a_module_that_is_broken() {
  export PENSTOCK_PLUGIN_PATH=$folder
  echo "no shared object" >penstock_pigeon.so
  fails_with "module pigeon: .*penstock_pigeon.so"
}

finds_a_module_that_crashes() {
  export PENSTOCK_PLUGIN_PATH=$folder
  cp "$(dirname "$penstock")"/tests/transport/plugin_test_crash.so penstock_pigeon.so
  fails_with "module pigeon: it crashes when it is loaded (Aborted)"
  expect_text out "^ok .*shm: a message got through"
}

finds_a_port_that_is_taken() {
  channel='auto://127.0.0.1:0/doctor?paths=shm'
  start_listener
  channel=$(sed -n 's/^penstock: listening on //p' listener.err)
  fails_with "another receiver is bound there" --listen "$channel"
  expect_text out "ss -Hltnp sport = :[0-9]"
}

finds_a_peer_that_is_not_there() {
  fails_with "no receiver answered" "$channel" --timeout 0
  fails_with "no receiver answered" auto://127.0.0.1:1/doctor --timeout 0
  expect_text out "ping -c 3 127.0.0.1"
}

finds_a_variable_that_nothing_reads() {
  PENSTOCK_CAPACTY=1MiB "$penstock" doctor >out 2>doctor.err || fail "the doctor ended with $?"
  expect_text out "^warn .*nothing reads PENSTOCK_CAPACTY"
  expect_text out "did you mean PENSTOCK_CAPACITY?"
}

finds_too_few_open_files() {
  (ulimit -n 100 && "$penstock" doctor >out 2>doctor.err) || fail "the doctor ended with $?"
  expect_text out "^warn .*100 open files"
}

prints_json() {
  "$penstock" doctor --json >out 2>doctor.err || fail "the doctor ended with status $?"
  expect_text out '"failed": false'
  expect_text out '"verdict": "ok"'
}

run_case
