#!/usr/bin/env bash
# Kills at system calls, by strace; a limit on the length of files; a small tmpfs; odd disks: sectors
# of 4 KiB, no O_DIRECT, no fallocate. After each, every record that the command line acknowledged is
# there, once. Skips, and says so, what the machine does not allow. What fails in system calls and in
# completions: tests/faults_real.rs.
# tests/faults_real.sh [LAST], where LAST is the highest call of each kind that is struck.
set -euo pipefail
cd "$(dirname "$0")/.."
mounts=${SAWMILL_OWN_MOUNTS:-no}
if [ "$mounts" = no ] && [ "$(id -u)" = 0 ] && unshare -m true 2>/dev/null; then
  # Whatever is mounted goes with this process.
  SAWMILL_OWN_MOUNTS=yes exec unshare -m bash "tests/$(basename "$0")" "$@"
fi
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
  local backend=$1 call=$2 how=$3 log=${4:-$place}/log when
  for when in $(seq 1 "$last"); do
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

traced=no
if command -v strace >/dev/null && strace -qq -o /dev/null -e trace=none true 2>/dev/null; then
  traced=yes
  for call in pwritev2 fsync openat fallocate renameat unlinkat; do
    inject pwrite "$call" signal=KILL
  done
  inject pwrite-buffered fdatasync signal=KILL
  inject uring io_uring_enter signal=KILL
  for how in error=ENOSYS error=EPERM error=ENOMEM; do
    inject auto io_uring_setup "$how"
    strace -f -qq -o "$place/trace" -e trace=io_uring_setup -e "inject=io_uring_setup:$how" \
      "$sawmill" doctor "$place" >"$place/doctor"
    grep -q "^fine  *backend  *pwrite+direct .*taken" "$place/doctor"
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

small=$place/small
mkdir "$small"

# A file system in a file: what losetup and mkfs are told beside the file, and how it is mounted.
file_system() {
  local loop=$1 make=$2 options=$3 device
  rm -f "$place/image"
  truncate -s 32M "$place/image"
  device=$(losetup --show -f $loop "$place/image")
  # The device goes with the mount, or at once.
  mkfs.ext4 -q -F $make "$device" && mount -o "$options" "$device" "$small" || {
    losetup -d "$device"
    return 1
  }
  losetup -d "$device"
}

# The backend that is taken is the expected one, and told; the log lives there, killed or not.
odd() {
  local name=$1 expected=$2
  "$sawmill" doctor "$small" >"$place/doctor"
  if ! grep -q "^fine  *backend  *$expected .*taken" "$place/doctor"; then
    echo "$name: not $expected:"
    cat "$place/doctor"
    exit 1
  fi
  append "$small/log"
  [ "$(wc -l <"$place/acks")" = 60 ]
  judge "$name" "$small/log"
  if [ "$traced" = yes ]; then
    inject pwrite pwritev2 signal=KILL "$small"
    inject uring io_uring_enter signal=KILL "$small"
  fi
  umount "$small"
  echo "$name: $expected"
}

if [ "$mounts" = yes ]; then
  for size in 100k 200k 220k 300k 400k; do
    mount -t tmpfs -o "size=$size" none "$small"
    append "$small/log" || true
    mkdir "$place/log"
    cp "$small"/log/* "$place/log/" 2>/dev/null || true
    umount "$small"
    judge "tmpfs of $size" "$place/log"
  done
  echo "tmpfs: 5 sizes"
  mount -t ramfs none "$small"
  odd "ramfs: no O_DIRECT, no fallocate" io_uring+buffered
  if [ -e /dev/loop-control ] && command -v mkfs.ext4 >/dev/null; then
    file_system "--sector-size 4096" "" rw
    [ "$(blockdev --getss "$(findmnt -no SOURCE "$small")")" = 4096 ]
    odd "sectors of 4 KiB" io_uring+direct
    file_system "" "-O ^extent,^64bit" rw
    ! fallocate -l 4096 "$small/file" 2>/dev/null
    odd "ext4 without extents: no fallocate" io_uring+direct
    file_system "" "" data=journal
    odd "ext4 with data=journal: no O_DIRECT" io_uring+buffered
  else
    echo "odd disks: skipped, there are no loop devices or no mkfs.ext4"
  fi
else
  echo "tmpfs, odd disks: skipped, mounting is not allowed"
fi
[ "$told" -gt 0 ]
echo "$runs runs, $struck faults struck, $told records acknowledged: none of them was lost"
