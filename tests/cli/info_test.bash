# penstock info.
# shellcheck source-path=SCRIPTDIR source=harness.bash
source "$(dirname "${BASH_SOURCE[0]}")/harness.bash"

names_every_transport() {
  "$penstock" info >out 2>info.err || fail "info ended with status $?"
  expect_text out "^penstock [0-9]"
  expect_text out "^inproc: *available"
  expect_text out "^shm: *available"
}

prints_json() {
  "$penstock" info --json >out 2>info.err || fail "info ended with status $?"
  expect_text out '"scheme": "shm"'
  expect_text out '"version": "[0-9]'
}

run_case
