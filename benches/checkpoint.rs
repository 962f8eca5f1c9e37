//! What do checkpoints cost, and what do they give back?
//!
//! - `write`: a base of 1 GiB through the store, which reads it back, beside a bare loop that
//!   writes the same bytes past the page cache and flushes once; bare loops that also read them
//!   back, afterwards and at the same time; and one that writes over blocks that were written
//!   before.
//! - `beside`: a job with 10 M keys of about 100 bytes (`SAWMILL_BENCH_KEYS`); a record each
//!   millisecond changes 0.1 % of a hundredth of them. Latency of the durable appends without
//!   checkpoints, while deltas are written all the time, while a base is folded from files (a
//!   savepoint), and while one is made of the state; for how long step 7 keeps batches waiting;
//!   bytes of the deltas. Then a restart: the time to load it, beside a bare loop that reads the
//!   same files, and beside what was predicted.
//! - `cost`: a running word count through the log, with a checkpoint each second and without one,
//!   in turns.
//! - `restart`: a child that counts words is killed in the middle; from its restart to the first
//!   batch that is published, with a budget for recovery of 2 s and of 0.4 s. The counts are
//!   compared with what the log held.
//! - `log`, only when it is named: a log of 10 GiB (`SAWMILL_BENCH_GIB`) with a checkpoint at 90 %
//!   of it, whose process is killed: how long recovery takes, and how many words a second it
//!   counts again, beside how many were counted the first time.
//!
//! `cargo bench --bench checkpoint [-- WORK..]`.

#![allow(clippy::disallowed_methods, reason = "a bench measures real time")]
#![allow(clippy::print_stdout, reason = "the table is what this prints")]
#![allow(clippy::unwrap_used, reason = "a bench fails by panicking")]
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "sizes of a bench, far below the limits"
)]

mod common;
#[path = "checkpoint/words.rs"]
mod words;

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use sawmill::checkpoint::{CheckpointMeta, CheckpointStore, Extent};
use sawmill::storage::{AlignedBuf, BackendChoice, Op, OpenMode, Storage as _, SystemStorage};
use sawmill::{
    BatchId, Engine, EngineOptions, Event, EventListener, Generation, Job, LogId, Lsn, Received,
    RunOptions, State, StateHandle, Trigger, name,
};

const MIB: usize = 1 << 20;
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

fn main() {
    let asked: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    if asked.first().is_some_and(|arg| arg == "child") {
        return words::child(&asked[1..]);
    }
    // `cargo test --benches` says no `--bench`: hardly anything then.
    let bench = std::env::args().any(|arg| arg == "--bench");
    let wanted = |work: &str| bench && (asked.is_empty() || asked.iter().any(|one| one == work));
    if !bench {
        write(8 * MIB, 1);
        return beside(10_000, Duration::from_millis(100));
    }
    if wanted("write") {
        write(1024 * MIB, 3);
    }
    if wanted("beside") {
        let keys = std::env::var("SAWMILL_BENCH_KEYS").ok().and_then(|keys| keys.parse().ok());
        beside(keys.unwrap_or(10_000_000), Duration::from_secs(6));
    }
    if wanted("cost") {
        words::cost(3);
    }
    if wanted("restart") {
        words::restart();
    }
    if bench && asked.iter().any(|one| one == "log") {
        words::long_log();
    }
}

fn place() -> tempfile::TempDir {
    match std::env::var_os("SAWMILL_BENCH_DIR") {
        Some(directory) => tempfile::tempdir_in(directory),
        None => tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")),
    }
    .unwrap()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values[values.len() / 2]
}

/// MiB a second.
fn rate(bytes: usize, took: Duration) -> f64 {
    bytes as f64 / MIB as f64 / took.as_secs_f64()
}

fn storage() -> SystemStorage {
    SystemStorage::new(BackendChoice::Auto).unwrap()
}

/// Writes so many bytes of a buffer past the page cache, four pieces in flight, and flushes once:
/// into a new file, or over the one that is there. With `back` each piece is read back when it was
/// written, while others are.
fn bare_write(place: &Path, bytes: usize, mode: OpenMode, back: bool) -> Duration {
    let directory = storage().directory(place, true).unwrap();
    let file = directory.open("bare", mode).unwrap();
    let mut channel = directory.channel().unwrap();
    let mut buffers = AlignedBuf::several(MIB, if back { 8 } else { 4 });
    buffers.iter_mut().for_each(|buffer| buffer.fill(7));
    let begun = Instant::now();
    let (mut written, mut in_flight, mut writes) = (0, 0, std::collections::BTreeMap::new());
    while written < bytes as u64 || in_flight > 0 {
        if written < bytes as u64 && writes.len() < 4 && !buffers.is_empty() {
            let (file, buffer) = (Arc::clone(&file), buffers.pop().unwrap());
            let write = Op::Write { file, offset: written, buffer, durable: false };
            writes.insert(channel.submit(write), written);
            (written, in_flight) = (written + MIB as u64, in_flight + 1);
            continue;
        }
        let completion = channel.complete().unwrap();
        assert_eq!(completion.result.unwrap(), MIB);
        match writes.remove(&completion.token) {
            Some(offset) if back => {
                let (file, buffer) = (Arc::clone(&file), completion.buffer.unwrap());
                channel.submit(Op::Read { file, offset, buffer });
            }
            _ => {
                buffers.extend(completion.buffer);
                in_flight -= 1;
            }
        }
    }
    channel.run(Op::Sync { file: Arc::clone(&file) }).result.unwrap();
    begun.elapsed()
}

/// Reads a file past the page cache, two pieces in flight, and does nothing with it.
fn bare_read(place: &Path, name: &str) -> (usize, Duration) {
    let directory = storage().directory(place, false).unwrap();
    let file = directory.open(name, OpenMode::ReadDirect).unwrap();
    let length = file.stamp().unwrap().length;
    let mut channel = directory.channel().unwrap();
    let begun = Instant::now();
    let mut buffers = AlignedBuf::several(MIB, 2);
    for offset in (0..length).step_by(MIB) {
        if buffers.is_empty() {
            let completion = channel.complete().unwrap();
            completion.result.unwrap();
            buffers.extend(completion.buffer);
        }
        let (file, buffer) = (Arc::clone(&file), buffers.pop().unwrap());
        channel.submit(Op::Read { file, offset, buffer });
    }
    while let Some(completion) = channel.complete() {
        completion.result.unwrap();
    }
    (length as usize, begun.elapsed())
}

fn write(bytes: usize, rounds: usize) {
    let mut random = common::Random(1);
    let extents: Vec<Extent> = (0..16)
        .map(|partition| {
            let words = (0..bytes / 16 / 8).flat_map(|_| random.next().to_le_bytes());
            let operator = "words".to_owned();
            Extent { operator, schema: 1, partition, bytes: words.collect() }
        })
        .collect();
    let [mut ours, mut bare, mut checked, mut both, mut again] = [const { Vec::new() }; 5];
    for _ in 0..rounds {
        let place = place();
        let at_once = bare_write(&place.path().join("both"), bytes, OpenMode::CreateDirect, true);
        let raw = bare_write(place.path(), bytes, OpenMode::CreateDirect, false);
        let over = bare_write(place.path(), bytes, OpenMode::WriteDirect, false);
        let (_, read) = bare_read(place.path(), "bare");
        let directory = storage().directory(&place.path().join("ckpt"), true).unwrap();
        let mut store = CheckpointStore::open(directory, 2).unwrap();
        let meta = CheckpointMeta {
            checkpoint: 0,
            parent: 0,
            job: "bench".to_owned(),
            log_id: LogId::from_bytes([1; 16]),
            generation: Generation::new(1),
            batch: BatchId::new(1),
            floor: Lsn::new(1),
            engine: Vec::new(),
        };
        let begun = Instant::now();
        store.write(meta, &extents).unwrap();
        let took = begun.elapsed();
        ours.push(rate(bytes, took));
        bare.push(rate(bytes, raw));
        checked.push(rate(bytes, raw + read));
        both.push(rate(bytes, at_once));
        again.push(rate(bytes, over));
    }
    let of = |other: &[f64]| median(ours.iter().zip(other).map(|(a, b)| a / b).collect());
    println!(
        "write: {} MiB: {:.0} MiB/s; bare loop {:.0}, that reads back afterwards {:.0}, at once \
         {:.0}; {:.2} of the first, {:.2} and {:.2} of these; the bare loop over written blocks \
         {:.0}",
        bytes / MIB,
        median(ours.clone()),
        median(bare.clone()),
        median(checked.clone()),
        median(both.clone()),
        of(&bare),
        of(&checked),
        of(&both),
        median(again.clone())
    );
}

/// A value of some 100 bytes.
type Wide = ((u64, u64, u64, u64), (u64, u64, u64, u64), (u64, u64));

fn wide(key: u64, sum: u64) -> Wide {
    let bits = key.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1 << 63;
    ((sum, bits, bits, bits), (bits, bits, bits, bits), (bits, bits))
}

/// The part of a job in which a record says which keys it touches: the first, how many, how far
/// apart.
fn wide_job(engine: &Engine) -> (Job, StateHandle<u64, Wide>) {
    let events = engine.ingest(name!("ranges")).unwrap();
    Job::build(name!("wide"), |job| {
        let ranges = job.source(name!("in"), Received::from(&events));
        let keys = ranges.flat_map(|record: &[u8]| {
            let field = |at: usize| u64::from_le_bytes(record[at..at + 8].try_into().unwrap());
            let (first, count, step) = (field(0), field(8), field(16));
            (0..count).map(move |number| first + number * step).collect::<Vec<u64>>()
        });
        let summed = keys.map_to_pair(|key| (key, 1u64)).reduce_by_key(|a, b| a + b);
        let state = summed.map_with_state::<Wide, ()>(name!("wide"), |key, new, value| {
            let sum = value.map_or(0, |value| value.0.0) + new.sum::<u64>();
            *value = Some(wide(key, sum));
            None
        });
        state.state
    })
    .unwrap()
}

fn range(first: u64, count: u64, step: u64) -> [u8; 24] {
    let mut record = [0; 24];
    record[..8].copy_from_slice(&first.to_le_bytes());
    record[8..16].copy_from_slice(&count.to_le_bytes());
    record[16..].copy_from_slice(&step.to_le_bytes());
    record
}

fn percentile(sorted: &[u64], percent: f64) -> f64 {
    let at = ((sorted.len() - 1) as f64 * percent / 100.0) as usize;
    sorted[at] as f64 / 1e6
}

/// What is done beside the appends of a phase.
#[derive(Clone, Copy, PartialEq)]
enum Beside {
    Nothing,
    /// A checkpoint behind each batch, or as soon as the last one stands.
    Deltas,
    /// Savepoints, one after the other: bases that are made from files.
    Fold,
    /// A checkpoint after all keys have changed: a base that is made from the state.
    Base,
}

/// Appends a record each millisecond, waiting for it. Returns how long each took.
fn append_each_ms(engine: &Engine, keys: u64, time: Duration) -> Vec<u64> {
    let events = engine.ingest(name!("ranges")).unwrap();
    let (begun, mut nanos, touched) = (Instant::now(), Vec::new(), (keys / 100_000).max(1));
    for tick in 1.. {
        if begun.elapsed() >= time {
            break;
        }
        let first = common::Random(tick).next() % (keys - touched * 7).max(1);
        let sent = Instant::now();
        events.append(&range(first, touched, 7)).unwrap();
        nanos.push(sent.elapsed().as_nanos() as u64);
        let next = Duration::from_millis(tick);
        std::thread::sleep(next.saturating_sub(begun.elapsed()));
    }
    nanos
}

/// Starts the job again, and appends a record each millisecond for so long. Prints the appends'
/// latencies and the longest wait for step 7.
fn phase(engine: &Engine, keys: u64, (what, beside): (&str, Beside), time: Duration) {
    let times = Arc::new(Mutex::new((Vec::new(), Vec::new())));
    let kept = Arc::clone(&times);
    let listener: EventListener = Arc::new(move |event| {
        if let Event::BatchCompleted(report) = event {
            let mut times = kept.lock().unwrap();
            times.0.push(report.checkpointing.as_nanos() as u64);
            times.1.push(report.processing_time.as_nanos() as u64);
        }
    });
    let options = RunOptions {
        checkpoint_interval: if beside == Beside::Deltas { Duration::ZERO } else { DAY },
        recovery_budget: DAY,
        on_event: Some(listener),
        ..RunOptions::default()
    };
    let begun = Instant::now();
    let run = engine.start(wide_job(engine).0, options).unwrap();
    let started = begun.elapsed();
    if beside == Beside::Base {
        let before = run.progress().input_bytes;
        touch_all(engine, keys);
        while run.progress().input_bytes < before + touching(keys) * 24 {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    *times.lock().unwrap() = (Vec::new(), Vec::new());
    let (ending, saved) = (AtomicBool::new(false), AtomicU64::new(0));
    let mut nanos: Vec<u64> = std::thread::scope(|scope| {
        if matches!(beside, Beside::Fold | Beside::Base) {
            scope.spawn(|| {
                while !ending.load(Ordering::Relaxed) {
                    run.savepoint("bench").unwrap();
                    Engine::remove_savepoint(engine.path(), "bench").unwrap();
                    saved.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let nanos = append_each_ms(engine, keys, time);
        ending.store(true, Ordering::Relaxed);
        nanos
    });
    let (mut waits, mut took) = times.lock().unwrap().clone();
    let alarm = run.progress().checkpoint_alarm;
    run.stop().unwrap();
    nanos.sort_unstable();
    waits.sort_unstable();
    took.sort_unstable();
    println!(
        "beside {what:<8} {:>5} appends: median {:.3} ms, p99 {:.3}, max {:.3}; {} batches waited \
         for step 7 p99 {:.3} ms, at most {:.3}, and took p99 {:.3}, at most {:.3}; {} savepoints; \
         started in {started:?}; {alarm:?}",
        nanos.len(),
        percentile(&nanos, 50.0),
        percentile(&nanos, 99.0),
        percentile(&nanos, 100.0),
        waits.len(),
        percentile(&waits, 99.0),
        percentile(&waits, 100.0),
        percentile(&took, 99.0),
        percentile(&took, 100.0),
        saved.load(Ordering::Relaxed)
    );
}

fn beside(keys: u64, time: Duration) {
    let place = place();
    let engine = Engine::open(place.path(), EngineOptions::default()).unwrap();
    fill(&engine, keys);
    // What filling has left to the device is done in the first one.
    phase(&engine, keys, ("warm", Beside::Nothing), time / 2);
    phase(&engine, keys, ("nothing", Beside::Nothing), time);
    phase(&engine, keys, ("deltas", Beside::Deltas), time);
    phase(&engine, keys, ("nothing", Beside::Nothing), time);
    phase(&engine, keys, ("fold", Beside::Fold), time);
    phase(&engine, keys, ("nothing", Beside::Nothing), time);
    phase(&engine, keys, ("base", Beside::Base), time);
    deltas(&engine);
    let run = engine.start(wide_job(&engine).0, RunOptions::default()).unwrap();
    let predicted = run.progress().predicted_recovery;
    run.stop().unwrap();
    engine.close().unwrap();
    reload(place.path(), predicted);
}

/// How many records touch every key.
fn touching(keys: u64) -> u64 {
    keys / 10_000.min(keys)
}

/// Appends these records.
fn touch_all(engine: &Engine, keys: u64) {
    let events = engine.ingest(name!("ranges")).unwrap();
    let step = keys / touching(keys);
    (0..touching(keys)).for_each(|n| drop(events.submit(&range(n * step, step, 1)).unwrap()));
    engine.log().sync().unwrap();
}

fn fill(engine: &Engine, keys: u64) {
    touch_all(engine, keys);
    let trigger = Trigger::Records(50);
    let options = RunOptions { trigger, recovery_budget: DAY, ..RunOptions::default() };
    let begun = Instant::now();
    engine.start(wide_job(engine).0, options).unwrap().drain().unwrap();
    let bytes = newest(engine.path()).1;
    println!("beside: {keys} keys, {} MiB of state, filled in {:?}", bytes / MIB, begun.elapsed());
}

/// Names of the newest checkpoint's files, and their bytes.
fn newest(path: &Path) -> (Vec<String>, usize) {
    let report = Engine::inspect(path, false).unwrap();
    let (mut next, mut names, mut bytes) =
        (report.checkpoints.last().map(|one| one.number), vec![], 0);
    while let Some(number) = next {
        let one = report.checkpoints.iter().find(|one| one.number == number).unwrap();
        names.push(format!("{number:020}.ckpt"));
        bytes += one.bytes as usize;
        next = one.parent;
    }
    (names, bytes)
}

fn deltas(engine: &Engine) {
    let report = Engine::inspect(engine.path(), false).unwrap();
    let deltas = report.checkpoints.iter().filter(|one| one.parent.is_some());
    let sizes: Vec<String> = deltas.map(|one| (one.bytes >> 10).to_string()).collect();
    println!("beside: {} deltas are kept, of {} KiB", sizes.len(), sizes.join(", "));
}

/// From opening to a started job, beside reading the same files.
fn reload(path: &Path, predicted: Duration) {
    let checkpoints = path.join("checkpoints");
    let (names, _) = newest(path);
    let bare = || {
        let read = names.iter().map(|name| bare_read(&checkpoints, name));
        read.fold((0, Duration::ZERO), |sum, one| (sum.0 + one.0, sum.1 + one.1))
    };
    let (bytes, first) = bare();
    let begun = Instant::now();
    let engine = Engine::open(path, EngineOptions::default()).unwrap();
    let opened = begun.elapsed();
    let run = engine.start(wide_job(&engine).0, RunOptions::default()).unwrap();
    let took = begun.elapsed();
    drop(run);
    drop(engine);
    let raw = first.min(bare().1);
    println!(
        "reload: {} MiB in {took:?} (opened after {opened:?}), {:.0} MiB/s; bare loop {:.0}: {:.2} \
         of it; predicted {predicted:?}",
        bytes / MIB,
        rate(bytes, took),
        rate(bytes, raw),
        raw.as_secs_f64() / took.as_secs_f64()
    );
}

/// The value can be a state.
const _: fn() = || {
    fn is_state<S: State>() {}
    is_state::<Wide>();
};
