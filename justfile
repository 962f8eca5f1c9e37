# One command per purpose. Needs `just`; each line can also be pasted into a shell.

# Everything the gate runs, on a clean checkout too.
ci:
    bash .ci/run

# Format, lints, documents.
check:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets --all-features -- -Dwarnings
    RUSTDOCFLAGS=-Dwarnings cargo doc --no-deps --all-features --document-private-items

# The tests, as the README says.
test:
    cargo test --all-features

# All tests on each backend, past the page cache and through it.
backends:
    SAWMILL_BACKEND=uring cargo test --all-features
    SAWMILL_BACKEND=uring-buffered cargo test --all-features
    SAWMILL_BACKEND=pwrite cargo test --all-features
    SAWMILL_BACKEND=pwrite-buffered cargo test --all-features

# The crash simulations, wide.
sim-long:
    SAWMILL_SIM=long cargo test --release --all-features --test wal_crash --test wal_damage --test wal_errno --test engine_crash -- --nocapture

# Random lives of a log with every trouble, SEEDS of them; and what planted bugs it sees.
sim-lives SEEDS="100000":
    SAWMILL_SIM_SEEDS=0..{{SEEDS}} cargo test --release --all-features --test wal_sim -- --nocapture random_lives
    cargo test --release --all-features --test wal_sim -- --nocapture planted

# Every error of every system call, at PLACES places of a life, and of io_uring's completions, on
# each backend; kills at system calls; file limits; a small tmpfs. Skips what is not allowed.
faults-real PLACES="4":
    SAWMILL_FAULT_PLACES={{PLACES}} cargo test --release --all-features --test faults_real -- --nocapture --include-ignored --test-threads=1
    bash tests/faults_real.sh 8

# Power cuts under ext4 and XFS: SEEDS workloads, all file systems or one, and PLANTED bug or the
# control. Needs root, FUSE and loop devices; skips what is not there.
power-cuts SEEDS="1" SYSTEM="all" PLANTED="":
    cargo test --release --manifest-path tests/real_disks/Cargo.toml
    cargo run --release --manifest-path tests/real_disks/Cargo.toml -- power-cuts {{SEEDS}} {{SYSTEM}} {{PLANTED}}

# Small file systems that are full, for real: a ballast leaves 4 KiB more each time.
disk-full:
    cargo run --release --manifest-path tests/real_disks/Cargo.toml -- disk-full

# A log of SIZE MiB, killed, then recovered and read within a memory cgroup of 64 MiB.
small-memory SIZE="4096":
    cargo run --release --manifest-path tests/real_disks/Cargo.toml -- small-memory {{SIZE}}

# The golden logs of a new version of the format, into DIR. Those that are there are never edited.
golden DIR:
    SAWMILL_GOLDEN={{DIR}} cargo test --all-features --test wal --test checkpoint -- --ignored make_the_files

# Real kills of real processes, KILLS of them, as many as a release needs; a reader that stalls.
kill-long KILLS="1000":
    SAWMILL_KILLS={{KILLS}} cargo test --release --all-features --test wal -- --nocapture kill in_flight
    SAWMILL_STALL_MS=10000 cargo test --release --all-features --test wal -- --nocapture processes
    cargo test --release --all-features --test programs -- --nocapture --include-ignored

# A job with a file, two SQLite tables and a log as outputs, killed KILLS times.
kill-sinks KILLS="500":
    SAWMILL_KILLS={{KILLS}} cargo test --release --all-features --test sinks -- --nocapture sqlite_killed

# Writers, truncation, recycling and stalled readers for SECONDS: nothing grows.
soak SECONDS="600" WRITERS="64":
    SAWMILL_SOAK_SECONDS={{SECONDS}} SAWMILL_SOAK_WRITERS={{WRITERS}} cargo test --release --test wal_soak -- --nocapture --ignored a_long_soak

# Batches of a millisecond for SECONDS: memory, descriptors and files stay.
soak-batches SECONDS="1200":
    SAWMILL_SOAK_SECONDS={{SECONDS}} cargo test --release --test engine_memory -- --nocapture --ignored

# Random lives of a job, by seeds.
sim-jobs SEEDS="100000":
    SAWMILL_SIM_SEEDS=0..{{SEEDS}} cargo test --release --all-features --test engine_crash -- --nocapture random_lives

# 50 appends a second for SECONDS: next to no processor time, no wake-up lost.
idle SECONDS="60":
    SAWMILL_IDLE_SECONDS={{SECONDS}} cargo test --release --test wal_idle -- --nocapture --ignored

# The staging word under every interleaving; a build of its own.
loom:
    RUSTFLAGS="--cfg loom" cargo test --release --target-dir target/loom -p models

# The log's committer under a model checker, SCHEDULES of each scenario; a build of its own.
shuttle SCHEDULES="10000":
    RUSTFLAGS="--cfg shuttle" SAWMILL_SHUTTLE={{SCHEDULES}} cargo test --release --target-dir target/shuttle -p models -- --nocapture

# Every fuzz target for SECONDS; needs a C++ compiler, no nightly.
fuzz SECONDS="60":
    bash fuzz/run {{SECONDS}}

# One bench, or all; with SAWMILL_BENCH=full for 15 rounds of a second.
bench NAME="":
    cargo bench {{ if NAME == "" { "" } else { "--bench " + NAME } }}

# Other logs beside ours, for as long as `SAWMILL_BENCH=full` or less; downloads and builds them.
bench-peers *NAMES:
    cargo run --release --manifest-path benches/peers/Cargo.toml -- {{NAMES}}

# Undefined behaviour in the buffers; needs a nightly toolchain with miri.
miri:
    cargo +nightly miri --version >/dev/null 2>&1 && cargo +nightly miri test --lib storage::buffer || echo skipped
