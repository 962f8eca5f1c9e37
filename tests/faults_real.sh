#!/usr/bin/env bash
# Kills at system calls, by strace; a limit on the length of files; a small tmpfs. After each, every
# record that the command line acknowledged is there, once. Skips, and says so, what the machine
# does not allow. What fails in system calls and in completions: tests/faults_real.rs.
# tests/faults_real.sh [LAST], where LAST is the highest call of each kind that is struck.
set -euo pipefail
cd "$(dirname "$0")/.."
last=${1:-8}
cargo build --release --features cli --bin sawmill
sawmill=${CARGO_TARGET_DIR:-target}/release/sawmill
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
seq -f 'line %06g' 1 60 >"$place/lines"
runs=0 struck=0 told=0

# What was acknowledged is there; the log opens and goes on.
judge() {
  local name=$1 log=$2
  runs=$((runs + 1))
  told=$((told + $(wc -l <"$place/acks")))
  if ! "$sawmill" wal cat "$log" >"$place/found" 2>"$place/error"; then
    # Nothing may be there if nothing was acknowledged.
    [ ! -s "$place/acks" ] && { rm -rf "$log"; return 0; }
    echo "$name: $(cat "$place/error")"
    exit 1
  fi
  cut -f2- "$place/found" | sort >"$place/there"
  cut -f2- "$place/acks" | sort >"$place/told"
  if [ -n "$(comm -23 "$place/told" "$place/there")" ] || [ -n "$(uniq -d "$place/there")" ]; then
    echo "$name: acknowledged and lost, or twice:"
    comm -23 "$place/told" "$place/there" | head
    exit 1
  fi
  echo after | "$sawmill" wal append "$log" --segment-size 65536 >/dev/null
  rm -rf "$log"
}

append() {
  "$sawmill" wal append "$1" --segment-size 65536 --threads 2 --print-acks \
    <"$place/lines" >"$place/acks" 2>"$place/error"
}

inject() {
  local backend=$1 call=$2 how=$3 when
  for when in $(seq 1 "$last"); do
    local log="$place/log"
    export SAWMILL_BACKEND=$backend
    { strace -f -qq -o "$place/trace" -e trace="$call" -e "inject=$call:$how:when=$when" \
      "$sawmill" wal append "$log" --segment-size 65536 --threads 2 --print-acks \
      <"$place/lines" >"$place/acks" 2>"$place/error" || true; } 2>/dev/null
    grep -q 'INJECTED\|killed' "$place/trace" && struck=$((struck + 1))
    mkdir -p "$log"
    judge "$backend $call:$how when=$when" "$log"
    unset SAWMILL_BACKEND
  done
  echo "$backend $call:$how: calls 1 to $last"
}

if command -v strace >/dev/null && strace -qq -o /dev/null -e trace=none true 2>/dev/null; then
  for call in pwritev2 fsync openat fallocate renameat unlinkat; do
    inject pwrite "$call" signal=KILL
  done
  inject pwrite-buffered fdatasync signal=KILL
  inject uring io_uring_enter signal=KILL
  for how in error=ENOSYS error=EPERM error=ENOMEM; do
    inject auto io_uring_setup "$how"
  done
else
  echo "strace: skipped, it is not there or may not trace"
fi

# Files may not grow beyond a limit: EFBIG, as SIGXFSZ is ignored.
(trap '' XFSZ; ulimit -f 200; append "$place/log") || true
judge "limit on files" "$place/log"
(trap '' XFSZ; ulimit -f 40; append "$place/log") || true
mkdir -p "$place/log"
judge "limit on files below a segment" "$place/log"
echo "ulimit -f: 2 limits"

# A disk that is full, for real.
small=$place/small
mkdir "$small"
if unshare -m true 2>/dev/null && [ "$(id -u)" = 0 ]; then
  for size in 100k 200k 220k 300k 400k; do
    export sawmill place small size
    unshare -m bash -c '
      mount -t tmpfs -o size=$size none "$small"
      "$sawmill" wal append "$small/log" --segment-size 65536 --threads 2 --print-acks \
        <"$place/lines" >"$place/acks" 2>"$place/error" || true
      rm -rf "$place/log"; mkdir "$place/log"
      cp "$small"/log/* "$place/log/" 2>/dev/null || true'
    judge "tmpfs of $size" "$place/log"
  done
  echo "tmpfs: 5 sizes"
else
  echo "tmpfs: skipped, mounting is not allowed"
fi
[ "$told" -gt 0 ]
echo "$runs runs, $struck faults struck, $told records acknowledged: none of them was lost"
