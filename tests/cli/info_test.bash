# penstock info.
# shellcheck source-path=SCRIPTDIR source=harness.bash disable=SC2119
documented_options=$(dirname "$(realpath "${BASH_SOURCE[0]}")")/../../docs/options.md
source "$(dirname "${BASH_SOURCE[0]}")/harness.bash"

names_every_transport() {
  "$penstock" info >out 2>info.err || fail "info ended with status $?"
  expect_text out "^penstock [0-9]"
  expect_text out "^inproc: *available"
  expect_text out "^shm: *available"
}

fails_when_its_output_is_lost() {
  local status=0
  "$penstock" info >/dev/full 2>info.err || status=$?
  ((status == 1)) || fail "info ended with status $status"
  expect_text info.err "cannot write the output: No space left on device"
}

prints_json() {
  "$penstock" info --json >out 2>info.err || fail "info ended with status $?"
  expect_text out '"scheme": "shm"'
  expect_text out '"version": "[0-9]'
}

# What is documented is what there is.
lists_the_options_as_documented() {
  "$penstock" info --options >out 2>info.err || fail "info ended with status $?"
  expect_same out "$documented_options"
}

tells_the_path_to_a_receiver() {
  channel='auto://127.0.0.1:0/info?paths=shm,ucx'
  start_listener
  channel=$(sed -n 's/^penstock: listening on //p' listener.err)
  "$penstock" info "$channel" >info.out 2>info.err || fail "info ended with status $?"
  expect_text info.out "^  path: shm$"
  expect_text info.out "^  rejected: inproc: the receiver does not offer it$"
  "$penstock" info "$channel?paths=shm" --json >info.out 2>info.err || fail "info ended with status $?"
  expect_text info.out '"path": "shm"'
  # It has not been a sender: the listener waits for one.
  echo data | "$penstock" cat "$channel" 2>sender.err || fail "the sender failed"
  expect_status "$listener" 0 "the listener"
  [[ $(<out) == data ]] || fail "the listener got something else"
}

tells_why_a_receiver_is_not_reached() {
  local status=0
  "$penstock" info shm:nobody-here-$$ --timeout 0 >out 2>info.err || status=$?
  ((status == 1)) || fail "info ended with status $status"
  expect_text info.err "no receiver answered"
}

run_case
