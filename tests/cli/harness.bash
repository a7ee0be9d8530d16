# For tests of the tool:  harness.bash TOOL CASE, sourced by a script that defines the cases as
# functions. Each case runs in an empty folder; whatever it leaves running is ended.
# shellcheck shell=bash disable=SC2034  # the scripts that source this use its variables
set -euo pipefail

penstock=$1
case=$2
folder=$(mktemp -d "${TMPDIR:-/tmp}/penstock-cli.XXXXXX")
# Abstract sockets are seen by the whole machine, so every case has a name of its own.
channel=shm:cli-test-$$

clean_up() {
  local pids
  pids=$(jobs -p)
  if [[ -n $pids ]]; then
    # shellcheck disable=SC2086  # one word for each process
    kill -KILL $pids 2>/dev/null || true
  fi
  rm -rf "$folder"
}
trap clean_up EXIT
cd "$folder"

fail() {
  echo "FAILED: $*" >&2
  local file
  for file in *.err; do
    [[ -s $file ]] && { echo "--- $file" >&2; cat "$file" >&2; }
  done
  exit 1
}

# wait_until WHAT COMMAND…: until the command succeeds; a watchdog, not a measurement.
wait_until() {
  local what=$1
  shift
  local deadline=$((SECONDS + 60))
  until "$@"; do
    ((SECONDS < deadline)) || fail "gave up waiting until $what"
    sleep 0.02
  done
}

has_text() { grep -q -- "$2" "$1" 2>/dev/null; }
has_size() { [[ $(stat -c %s "$1" 2>/dev/null || echo 0) -ge $2 ]]; }

# expect_status PID STATUS WHO
expect_status() {
  local pid=$1 wanted=$2 who=$3 status=0
  wait "$pid" || status=$?
  [[ $status == "$wanted" ]] || fail "$who ended with status $status, not $wanted"
}

expect_text() { has_text "$1" "$2" || fail "$1 does not say '$2'"; }

expect_same() { cmp -s "$1" "$2" || fail "$1 and $2 differ"; }

# Starts `penstock cat --listen $channel ARGUMENTS… >out 2>listener.err`; its id is in $listener.
start_listener() {
  rm -f out listener.err  # an earlier listener's would be taken for this one's
  "$penstock" cat --listen "$channel" "$@" >out 2>listener.err &
  listener=$!
  wait_until "the listener listens" has_text listener.err "listening on"
}

run_case() {
  [[ $(type -t "$case") == function ]] || { echo "no such case: $case" >&2; exit 2; }
  "$case"
}
