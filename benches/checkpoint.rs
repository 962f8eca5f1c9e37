//! What do checkpoints cost, and what do they give back?
//!
//! - `write`: a base of 1 GiB through the store, which reads it back, beside a bare loop that
//!   writes the same bytes past the page cache and flushes once; and a bare loop that also reads
//!   them back, and one that writes over blocks that were written before.
//! - `beside`: a job with 10 M keys of about 100 bytes (`SAWMILL_BENCH_KEYS`); a record each
//!   millisecond changes 0.1 % of a hundredth of them. Latency of the durable appends without
//!   checkpoints, while deltas are written all the time, and while a whole base (a savepoint) is;
//!   for how long cuts keep batches waiting; bytes of the deltas. Then a restart: the time to load
//!   it, beside a bare loop that reads the same files, and beside what was predicted.
//! - `cost`: a running word count through the log, with a checkpoint each second and without one,
//!   in turns.
//! - `restart`: a child that counts words is killed in the middle; from its restart to the first
//!   batch that is published.
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

use std::io::Write as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use sawmill::checkpoint::{CheckpointMeta, CheckpointStore, Extent};
use sawmill::storage::{AlignedBuf, BackendChoice, Op, OpenMode, Storage as _, SystemStorage};
use sawmill::{
    BatchId, Bytes, Engine, EngineOptions, Event, EventListener, Generation, Job, LogId, Lsn,
    Received, RunOptions, State, StateHandle, Trigger, name,
};

const MIB: usize = 1 << 20;
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

fn main() {
    let asked: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    if asked.first().is_some_and(|arg| arg == "child") {
        return child(Path::new(&asked[1]));
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
        beside(keys.unwrap_or(10_000_000), Duration::from_secs(10));
    }
    if wanted("cost") {
        cost(3);
    }
    if wanted("restart") {
        restart();
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
/// into a new file, or over the one that is there.
fn bare_write(place: &Path, bytes: usize, mode: OpenMode) -> Duration {
    let directory = storage().directory(place, true).unwrap();
    let file = directory.open("bare", mode).unwrap();
    let mut channel = directory.channel().unwrap();
    let mut buffers = AlignedBuf::several(MIB, 4);
    buffers.iter_mut().for_each(|buffer| buffer.fill(7));
    let begun = Instant::now();
    let mut in_flight = 0;
    for offset in (0..bytes as u64).step_by(MIB) {
        if buffers.is_empty() {
            let completion = channel.complete().unwrap();
            assert_eq!(completion.result.unwrap(), MIB);
            buffers.extend(completion.buffer);
            in_flight -= 1;
        }
        let (file, buffer) = (Arc::clone(&file), buffers.pop().unwrap());
        channel.submit(Op::Write { file, offset, buffer, durable: false });
        in_flight += 1;
    }
    for _ in 0..in_flight {
        assert_eq!(channel.complete().unwrap().result.unwrap(), MIB);
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
    let (mut ours, mut bare, mut checked, mut again) = (vec![], vec![], vec![], vec![]);
    for _ in 0..rounds {
        let place = place();
        let raw = bare_write(place.path(), bytes, OpenMode::CreateDirect);
        let over = bare_write(place.path(), bytes, OpenMode::WriteDirect);
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
        again.push(rate(bytes, over));
    }
    let of = |other: &[f64]| median(ours.iter().zip(other).map(|(a, b)| a / b).collect());
    println!(
        "write: {} MiB: {:.0} MiB/s; bare loop {:.0}, that also reads back {:.0}; {:.2} of the \
         first, {:.2} of the second; the bare loop over written blocks {:.0}",
        bytes / MIB,
        median(ours.clone()),
        median(bare.clone()),
        median(checked.clone()),
        of(&bare),
        of(&checked),
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

/// Starts the job again with this interval between checkpoints, and appends a record each
/// millisecond for so long. Prints the appends' latencies and the longest wait for a cut.
fn phase(engine: &Engine, keys: u64, (what, interval): (&str, Duration), time: Duration) {
    let waits = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&waits);
    let listener: EventListener = Arc::new(move |event| {
        if let Event::BatchCompleted(report) = event {
            kept.lock().unwrap().push(report.checkpointing.as_nanos() as u64);
        }
    });
    let options = RunOptions {
        checkpoint_interval: interval,
        recovery_budget: DAY,
        on_event: Some(listener),
        ..RunOptions::default()
    };
    let run = engine.start(wide_job(engine).0, options).unwrap();
    let events = engine.ingest(name!("ranges")).unwrap();
    let (ending, saved) = (AtomicBool::new(false), AtomicU64::new(0));
    let before = run.progress().checkpoint;
    let mut nanos: Vec<u64> = std::thread::scope(|scope| {
        if what == "base" {
            scope.spawn(|| {
                while !ending.load(Ordering::Relaxed) {
                    run.savepoint("bench").unwrap();
                    Engine::remove_savepoint(engine.path(), "bench").unwrap();
                    saved.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
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
        ending.store(true, Ordering::Relaxed);
        nanos
    });
    let progress = run.progress();
    drop(run);
    nanos.sort_unstable();
    let mut waits = waits.lock().unwrap().clone();
    waits.sort_unstable();
    println!(
        "beside {what:<8} {:>6} appends: median {:.3} ms, p99 {:.3}, max {:.3}; batches {}, waited \
         for step 7 p99 {:.3} ms, at most {:.3}; last checkpoint of batch {} (before {before}), \
         {} bases",
        nanos.len(),
        percentile(&nanos, 50.0),
        percentile(&nanos, 99.0),
        percentile(&nanos, 100.0),
        waits.len(),
        percentile(&waits, 99.0),
        percentile(&waits, 100.0),
        progress.checkpoint,
        saved.load(Ordering::Relaxed)
    );
}

fn beside(keys: u64, time: Duration) {
    let place = place();
    let engine = Engine::open(place.path(), EngineOptions::default()).unwrap();
    fill(&engine, keys);
    phase(&engine, keys, ("nothing", DAY), time);
    phase(&engine, keys, ("delta", Duration::ZERO), time);
    phase(&engine, keys, ("base", DAY), time);
    phase(&engine, keys, ("nothing", DAY), time);
    deltas(&engine);
    let run = engine.start(wide_job(&engine).0, RunOptions::default()).unwrap();
    let predicted = run.progress().predicted_recovery;
    run.stop().unwrap();
    engine.close().unwrap();
    reload(place.path(), predicted);
}

fn fill(engine: &Engine, keys: u64) {
    let events = engine.ingest(name!("ranges")).unwrap();
    let step = 10_000.min(keys);
    (0..keys / step).for_each(|n| drop(events.submit(&range(n * step, step, 1)).unwrap()));
    engine.log().sync().unwrap();
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

fn word_job(engine: &Engine, told: Option<Arc<AtomicU64>>) -> (Job, StateHandle<Bytes, u64>) {
    let events = engine.ingest(name!("words")).unwrap();
    Job::build(name!("count"), |job| {
        let lines = job.source(name!("in"), Received::from(&events));
        let words = lines.flat_map_rows::<Bytes>(|line, out| {
            let words = line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
            words.for_each(|word| out.push(word));
        });
        let counted = words.pair_with(|_| 1u64).reduce_by_key(|a, b| a + b);
        let counts = counted.map_with_state::<u64, ()>(name!("counts"), |_, new, count| {
            *count = Some(count.unwrap_or(0) + new.sum::<u64>());
            None
        });
        if let Some(told) = told {
            counts.out.for_each_batch(name!("told"), move |_| {
                told.fetch_add(1, Ordering::Release);
                Ok(())
            });
        }
        counts.state
    })
    .unwrap()
}

/// Appends a text in blocks of lines; in all of it, about 50 M words with 1 M different ones.
fn send(engine: &Engine, text: &[u8]) {
    let events = engine.ingest(name!("words")).unwrap();
    let pieces = common::cut_at_lines(text, text.len().div_ceil(4 * MIB));
    for piece in pieces {
        let lines = &text[piece];
        let mut last = None;
        for block in common::cut_at_lines(lines, lines.len().div_ceil(16 << 10)) {
            last = Some(events.submit(&lines[block]).unwrap());
        }
        last.map(|last| last.wait()).transpose().unwrap();
    }
}

/// Seconds to count a text that is appended meanwhile.
fn count(text: &[u8], interval: Duration) -> (f64, u64) {
    let place = place();
    let engine = Engine::open(place.path(), EngineOptions::default()).unwrap();
    let (job, _) = word_job(&engine, None);
    let options =
        RunOptions { checkpoint_interval: interval, recovery_budget: DAY, ..RunOptions::default() };
    let run = engine.start(job, options).unwrap();
    let begun = Instant::now();
    send(&engine, text);
    while run.progress().input_bytes < text.len() as u64 {
        std::thread::sleep(Duration::from_micros(200));
    }
    let (took, progress) = (begun.elapsed().as_secs_f64(), run.progress());
    drop(run);
    (took, progress.checkpoint.get())
}

fn cost(rounds: usize) {
    let text = common::zipf_text(1, 420 * MIB, 1_000_000);
    let (mut ratios, mut taken) = (vec![], 0);
    for _ in 0..rounds {
        let (without, _) = count(&text, DAY);
        let (with, last) = count(&text, Duration::from_secs(1));
        taken = last;
        ratios.push(without / with);
        println!("cost: {} MiB in {without:.2} s without, {with:.2} s with", text.len() / MIB);
    }
    println!(
        "cost: {:.3} of the throughput without checkpoints (last one of batch {taken})",
        median(ratios)
    );
}

/// Counts what comes until it is killed. Says how far it is.
fn child(path: &Path) {
    let text = common::zipf_text(1, 200 * MIB, 1_000_000);
    let engine = Engine::open(path, EngineOptions::default()).unwrap();
    let (job, _) = word_job(&engine, None);
    let interval = Duration::from_secs(1);
    let options = RunOptions { checkpoint_interval: interval, ..RunOptions::default() };
    let run = engine.start(job, options).unwrap();
    println!("begun");
    std::io::stdout().flush().unwrap();
    for _ in 0..100 {
        send(&engine, &text);
    }
    run.stop().unwrap();
}

fn restart() {
    for kill_after in [1500, 2200, 2900] {
        let place = place();
        let mut child = std::process::Command::new(std::env::current_exe().unwrap())
            .arg("child")
            .arg(place.path())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut first = [0; 5];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut first).unwrap();
        std::thread::sleep(Duration::from_millis(kill_after));
        child.kill().unwrap();
        child.wait().unwrap();
        let told = Arc::new(AtomicU64::new(0));
        let begun = Instant::now();
        let engine = Engine::open(place.path(), EngineOptions::default()).unwrap();
        let opened = begun.elapsed();
        // The child's job has no sink: the same one, told by its progress.
        let (job, counts) = word_job(&engine, None);
        let told_now = Arc::clone(&told);
        let options = RunOptions {
            on_progress: Some(Arc::new(move |_| {
                told_now.fetch_add(1, Ordering::Release);
            })),
            ..RunOptions::default()
        };
        let run = engine.start(job, options).unwrap();
        let started = begun.elapsed();
        engine.ingest(name!("words")).unwrap().append(b"one more\n").unwrap();
        while told.load(Ordering::Acquire) == 0 {
            std::thread::sleep(Duration::from_micros(100));
        }
        let published = begun.elapsed();
        let progress = run.progress();
        println!(
            "restart: killed after {kill_after} ms with {} MiB counted and {} keys: opened after \
             {opened:?}, started after {started:?}, first batch published after {published:?}",
            progress.input_bytes / MIB as u64,
            counts.len()
        );
        drop(run);
    }
}

/// The value can be a state.
const _: fn() = || {
    fn is_state<S: State>() {}
    is_state::<Wide>();
};
