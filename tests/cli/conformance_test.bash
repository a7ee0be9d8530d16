# penstock conformance.
# shellcheck source-path=SCRIPTDIR source=harness.bash
source "$(dirname "${BASH_SOURCE[0]}")/harness.bash"

runs_the_cases_asked_for() {
  local uri
  for uri in inproc:x shm:x; do
    "$penstock" conformance "$uri" --topology threads --scale 0.1 -- --gtest_brief=1 \
      '--gtest_filter=*.binds_and_closes*:*.delivers*' >out 2>err || fail "$uri: status $?: $(cat out err)"
    expect_text out "[  PASSED  ]"
  done
}

hands_address_and_options_on() {
  # The port and the name are chosen anew; the window is the URI's, and too large for a ring of 4 KiB.
  "$penstock" conformance "shm:x?window=1GiB" -- '--gtest_filter=*.threads.delivers*' >out 2>&1 &&
    fail "a window that is too large was taken"
  expect_text out "window"
}

fails_when_no_case_is_run() {
  local status=0
  "$penstock" conformance inproc:x -- '--gtest_filter=*.no_such_case' >out 2>err || status=$?
  ((status == 2)) || fail "status $status"
  expect_text err "no case was run"
}

fails_for_a_transport_that_is_not_there() {
  "$penstock" conformance nowhere://127.0.0.1:0/x >out 2>&1 && fail "it passed"
  expect_text out "penstock_nowhere.so"
}

tells_what_is_not_installed() {
  mkdir -p alone/bin
  cp "$penstock" alone/bin
  alone/bin/penstock conformance inproc:x >out 2>err && fail "it ran"
  expect_text err "-DPENSTOCK_CONFORMANCE=ON"
}

run_case
