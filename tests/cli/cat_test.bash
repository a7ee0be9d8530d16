# penstock cat over shm.
# shellcheck source-path=SCRIPTDIR source=harness.bash
source "$(dirname "${BASH_SOURCE[0]}")/harness.bash"

# A stream without an end. The test's own end of a pipe, descriptor 9, is not passed on.
start_endless_sender() {
  "$penstock" cat "$channel" </dev/zero 2>sender.err 9>&- &
  sender=$!
}

carry() {
  start_listener
  "$penstock" cat "$channel" <"$1" 2>sender.err || fail "the sender ended with status $?"
  expect_status "$listener" 0 "the listener"
}

carries_a_large_file() {
  head -c 200M /dev/urandom >in
  carry in
  [[ $(sha256sum <in) == "$(sha256sum <out)" ]] || fail "the SHA-256 differ"
}

carries_every_byte_value() {
  # Every pair of byte values, newlines and zero bytes included.
  local high low
  for high in {0..255}; do
    for low in {0..255}; do
      printf '\\x%02x\\x%02x' "$high" "$low"
    done
  done | { read -r -d '' text || true; printf '%b' "$text"; } >in
  has_size in 131072 || fail "the input is $(stat -c %s in) bytes"
  carry in
  expect_same in out
}

carries_an_empty_input() {
  carry /dev/null
  expect_same /dev/null out
}

carries_many_small_writes() {
  seq 1 20000 >in
  start_listener
  while IFS= read -r line; do
    printf '%s\n' "$line"
  done <in | "$penstock" cat "$channel" 2>sender.err || fail "the sender failed"
  expect_status "$listener" 0 "the listener"
  expect_same in out
}

passes_short_reads_on_at_once() {
  mkfifo pipe
  start_listener
  "$penstock" cat "$channel" <pipe 2>sender.err &
  local sender=$!
  exec 9>pipe
  echo one >&9
  wait_until "the first line arrives" has_text out one
  echo two >&9
  wait_until "the second line arrives" has_text out two
  exec 9>&-
  expect_status "$sender" 0 "the sender"
  expect_status "$listener" 0 "the listener"
}

fails_when_the_listener_is_killed() {
  start_listener
  start_endless_sender
  wait_until "data flows" has_size out 1000000
  kill -KILL "$listener"
  expect_status "$sender" 1 "the sender"
  expect_text sender.err "the listener was lost"
}

fails_when_the_sender_is_killed() {
  start_listener
  start_endless_sender
  wait_until "data flows" has_size out 1000000
  kill -KILL "$sender"
  expect_status "$listener" 1 "the listener"
  expect_text listener.err "a sender was lost.*bytes written"
}

fails_on_both_sides_when_the_output_is_full() {
  "$penstock" cat --listen "$channel" >/dev/full 2>listener.err &
  listener=$!
  wait_until "the listener listens" has_text listener.err "listening on"
  # One message, so that the sender has nothing left to send when the output fails.
  echo lost | "$penstock" cat "$channel" 2>sender.err && fail "the sender took it for delivered"
  expect_status "$listener" 1 "the listener"
  expect_text listener.err "No space left on device"
  expect_text sender.err "the listener"
}

fails_on_both_sides_when_the_output_is_a_broken_pipe() {
  mkfifo pipe
  "$penstock" cat --listen "$channel" >pipe 2>listener.err &
  listener=$!
  exec 9<pipe
  wait_until "the listener listens" has_text listener.err "listening on"
  start_endless_sender
  head -c 1000 <&9 >/dev/null
  exec 9<&-
  expect_status "$listener" 1 "the listener"
  expect_status "$sender" 1 "the sender"
  expect_text listener.err "Broken pipe"
}

fails_on_both_sides_when_the_input_cannot_be_read() {
  start_listener
  "$penstock" cat "$channel" <"$folder" 2>sender.err && fail "a folder was read"
  expect_text sender.err "cannot read the input: Is a directory"
  expect_status "$listener" 1 "the listener"
}

reports_an_interrupt() {
  # A shell starts its background jobs with SIGINT ignored; the tool handles it nevertheless.
  start_listener
  start_endless_sender
  wait_until "data flows" has_size out 1000000
  kill -INT "$sender"
  expect_status "$sender" 130 "the sender"
  expect_text sender.err "interrupted after [1-9][0-9]* bytes"
  expect_status "$listener" 1 "the listener"
  start_listener
  kill -TERM "$listener"
  expect_status "$listener" 143 "the listener"
  expect_text listener.err "terminated after 0 bytes"
}

reports_a_missing_listener() {
  "$penstock" cat --timeout 100ms "$channel" </dev/null 2>sender.err && fail "nobody listens"
  expect_text sender.err "^penstock: ..*"
}

keep_takes_one_sender_after_another() {
  start_listener --keep
  echo one | "$penstock" cat "$channel" 2>sender.err || fail "the first sender failed"
  echo two | "$penstock" cat "$channel" 2>sender.err || fail "the second sender failed"
  printf 'one\ntwo\n' >wanted
  expect_same wanted out
  kill -TERM "$listener"
  expect_status "$listener" 143 "the listener"
}

keep_does_not_mix_senders() {
  mkfifo pipe
  start_listener --keep
  "$penstock" cat "$channel" <pipe 2>first.err &
  local first=$!
  exec 9>pipe
  echo one >&9
  wait_until "the first sender's line arrives" has_text out one
  echo two | "$penstock" cat "$channel" 2>second.err 9>&- &
  local second=$!
  echo three >&9
  wait_until "the first sender's next line arrives" has_text out three
  exec 9>&-
  expect_status "$first" 0 "the first sender"
  expect_status "$second" 0 "the second sender"
  printf 'one\nthree\ntwo\n' >wanted
  expect_same wanted out
}

without_keep_a_second_sender_fails() {
  mkfifo pipe
  start_listener
  "$penstock" cat "$channel" <pipe 2>first.err &
  local first=$!
  exec 9>pipe
  echo one >&9
  wait_until "the first sender's line arrives" has_text out one
  start_endless_sender
  echo two >&9
  wait_until "the first sender's next line arrives" has_text out two
  exec 9>&-
  expect_status "$first" 0 "the first sender"
  expect_status "$listener" 0 "the listener"
  expect_status "$sender" 1 "the second sender"
  printf 'one\ntwo\n' >wanted
  expect_same wanted out
}

shows_progress_when_asked() {
  start_listener --progress
  head -c 1000000 /dev/zero | "$penstock" cat --progress "$channel" 2>sender.err ||
    fail "the sender failed"
  expect_status "$listener" 0 "the listener"
  expect_text sender.err "^penstock: sending over shm$"
  expect_text sender.err "^1.0 MB  .*MB/s$"
  expect_text listener.err "^1.0 MB  .*MB/s$"
}

run_case
