# Sourced by scripts that measure in several parts: runs one after another and says how far it is.
# shellcheck shell=bash disable=SC2034,SC2154  # shares its variables with the script
# The script sets: top, out (the folder of the report), parts (how many there are).

parts_begun=0 failed=0
ticker=''
stop_ticker() {
  [[ -z $ticker ]] || { kill "$ticker" && wait "$ticker"; } 2>/dev/null || true
  ticker=''
}
trap stop_ticker EXIT
# The bed answers an interrupt with an exit status, which would be taken for a failed part.
trap 'exit 130' INT
trap 'exit 143' TERM

# progress HEAD LOG: one line on the terminal that moves on: the time so far, and what was said last.
progress() {
  local last
  while sleep 1; do
    last=$(tail -n 1 -- "$2" 2>/dev/null | tr -d '\r')
    printf '\r\033[K%s  %d:%02d  %.50s' "$1" $((SECONDS / 60)) $((SECONDS % 60)) "$last" >&2
  done
}

# noted COMMAND…: runs it, and keeps it for the report.
noted() {
  local word line=''
  for word; do
    word=${word//"$top/"/}
    [[ $word =~ ^[A-Za-z0-9_./:,=+-]+$ ]] || word="'${word//\'/\'\\\'\'}'"
    line+="$word "
  done
  printf '%s\n' "${line% }" >>"$out/noted"
  "$@"
}

# measure WHAT COMMAND…: what it says is kept, and shown should it fail. What was `noted` in it goes
# to commands.tsv: exit status, seconds, WHAT, the commands with " ; " between.
measure() {
  local what=$1 log=$out/measure.log status=0 start=$SECONDS head
  shift
  parts_begun=$((parts_begun + 1))
  head="[$parts_begun/$parts] $what"
  : >"$log"
  : >"$out/noted"
  if [[ -t 2 ]]; then
    progress "$head" "$log" &
    ticker=$!
  else
    printf '%s  %d:%02d\n' "$head" $((SECONDS / 60)) $((SECONDS % 60)) >&2
  fi
  "$@" >"$log" 2>&1 || status=$?
  stop_ticker
  [[ ! -t 2 ]] || printf '\r\033[K%s: %d s\n' "$head" $((SECONDS - start)) >&2
  printf '%d\t%d\t%s\t%s\n' "$status" $((SECONDS - start)) "$what" \
    "$(sed -z 's/\n$//; s/\n/ ; /g' "$out/noted")" \
    >>"$out/commands.tsv"
  if ((status)); then
    echo "$what failed:" >&2
    tail -n 20 "$log" >&2
    failed=1
  fi
}
