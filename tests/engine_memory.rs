//! A job that runs for long takes no more memory than one that has just warmed up.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "asks the kernel")]

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sawmill::{
    Accumulator, Bytes, Engine, EngineOptions, Job, Received, RunOptions, Trigger, name,
};

const BATCHES: u64 = 10_000;
const WARM: u64 = 2_000;

/// Anonymous memory of this process, in KiB.
fn anonymous_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches(" kB").trim().parse().unwrap()
}

/// The only test of this file that is not asked for: another one would share its memory.
#[test]
fn ten_thousand_batches_take_no_more_memory_than_two_thousand() {
    // Memory is measured, not the disk: one that costs nothing will do.
    let shared = Path::new("/dev/shm");
    let place = match shared.is_dir() {
        true => tempfile::tempdir_in(shared).unwrap(),
        false => tempfile::tempdir().unwrap(),
    };
    let engine = Engine::open(place.path(), EngineOptions { threads: 2, ..Default::default() });
    let engine = engine.unwrap();
    let words = engine.ingest(name!("words")).unwrap();
    let (job, totals) = Job::build(name!("memory"), |job| {
        let seen = Accumulator::new(name!("seen"));
        let rows = job.source(name!("in"), Received::from(&words));
        let counts = rows
            .flat_map_rows::<Bytes>(move |row, out| {
                seen.add(1);
                out.push(row);
            })
            .pair_with(|_| 1u64)
            .reduce_by_key(|a, b| a + b);
        let totals = counts.map_with_state::<u64, ()>(name!("totals"), |_, counts, total| {
            *total = Some(total.unwrap_or(0) + counts.sum::<u64>());
            None
        });
        totals.state
    })
    .unwrap();
    let samples = Arc::new(Mutex::new(Vec::new()));
    let sampled = Arc::clone(&samples);
    let options = RunOptions {
        trigger: Trigger::AvailableNow { bytes: 1 },
        checkpoint_interval: Duration::from_millis(20),
        parallelism: 4,
        on_progress: Some(Arc::new(move |progress| {
            if progress.batches >= WARM && progress.batches.is_multiple_of(50) {
                sampled.lock().unwrap().push(anonymous_kib());
            }
        })),
        ..RunOptions::default()
    };
    for number in 0..BATCHES {
        words.submit(format!("word-{}", number % 500).as_bytes()).unwrap();
    }
    engine.log().sync().unwrap();
    let done = engine.start(job, options).unwrap().await_termination().unwrap();
    assert_eq!(done.batches, BATCHES);
    assert_eq!(done.accumulators["seen"], BATCHES as i64);
    assert_eq!(totals.get(b"word-7"), Some(BATCHES / 500));
    let samples = samples.lock().unwrap().clone();
    // A checkpoint on its way has buffers of 2 MiB: the least of twenty looks has none.
    let least = |looks: &[u64]| *looks.iter().min().unwrap();
    let (first, last) = (least(&samples[..20]), least(&samples[samples.len() - 20..]));
    // The allocator keeps a buffer of 1 MiB, or two, for threads to come; a leak of 500 bytes a
    // batch would be 4 MiB.
    assert!(last < first + 3_072, "{first} KiB, then {last} KiB: {samples:?}");
}

/// Open descriptors: of segments of the log, of rings, and all others.
fn descriptors() -> [usize; 3] {
    let mut count = [0; 3];
    let all = std::fs::read_dir("/proc/self/fd").unwrap().map(Result::unwrap);
    for target in all.filter_map(|entry| std::fs::read_link(entry.path()).ok()) {
        let is_segment = target.extension().is_some_and(|end| end == "seg");
        let is_ring = target.to_string_lossy().contains("io_uring");
        count[if is_segment { 0 } else { 2 - usize::from(is_ring) }] += 1;
    }
    count
}

/// Files and bytes in a directory and those in it.
fn files(directory: &Path) -> (usize, u64) {
    let mut sum = (0, 0);
    for entry in std::fs::read_dir(directory).unwrap().map(Result::unwrap) {
        let found = match entry.metadata() {
            Ok(is) if is.is_dir() => files(&entry.path()),
            Ok(is) => (1, is.len()),
            Err(_) => (0, 0),
        };
        sum = (sum.0 + found.0, sum.1 + found.1);
    }
    sum
}

/// Batches of a millisecond for `SAWMILL_SOAK_SECONDS` (default 20 minutes), with state,
/// checkpoints, truncation, and a record each 0.5 ms: memory, descriptors and files stay.
#[test]
#[ignore = "20 minutes: just soak-batches"]
fn batches_of_a_millisecond_grow_nothing() {
    let seconds = std::env::var("SAWMILL_SOAK_SECONDS").ok().and_then(|s| s.parse().ok());
    let place = tempfile::tempdir().unwrap();
    let log = sawmill::WalOptions { segment_size: 1 << 20, ..Default::default() };
    let options = EngineOptions { log, threads: 2, ..Default::default() };
    let engine = Engine::open(place.path(), options).unwrap();
    let words = engine.ingest(name!("words")).unwrap();
    let (job, totals) = Job::build(name!("soak"), |job| {
        let rows = job.source(name!("in"), Received::from(&words));
        rows.for_each_batch(name!("nothing"), |_| Ok(()));
        let counts = rows.pair_with(|_| 1u64).reduce_by_key(|a, b| a + b);
        let totals = counts.map_with_state::<u64, ()>(name!("totals"), |_, counts, total| {
            *total = Some(total.unwrap_or(0) + counts.sum::<u64>());
            None
        });
        totals.state
    })
    .unwrap();
    let options = RunOptions {
        trigger: Trigger::Interval(Duration::from_millis(1)),
        checkpoint_interval: Duration::from_millis(200),
        parallelism: 4,
        ..RunOptions::default()
    };
    let run = engine.start(job, options).unwrap();
    let (all, mut appended) = (seconds.unwrap_or(1200), 0_u64);
    let mut looks = Vec::new();
    for second in 0..all {
        for _ in 0..2000 {
            words.submit(format!("word-{}", appended % 500).as_bytes()).unwrap();
            appended += 1;
            std::thread::sleep(Duration::from_micros(450));
        }
        let (open, (count, bytes)) = (descriptors(), files(place.path()));
        let kib = usize::try_from(anonymous_kib()).unwrap();
        looks.push([kib, open.iter().sum(), count, usize::try_from(bytes).unwrap()]);
        if second % 60 == 0 {
            let (batch, look) = (run.progress().batch, looks.last());
            println!("{second} s: {look:?}, batch {batch}; segments, rings, others: {open:?}");
        }
    }
    let progress = run.drain().unwrap();
    let mut sum = 0;
    totals.for_each(|_, count| sum += count).unwrap();
    assert_eq!(sum, appended);
    println!("{} batches in {all} s; last {:?}", progress.batches, looks.last());
    // The least of the looks of the first and of the last tenth, the start left out.
    let tenth = (looks.len() / 10).max(1);
    let least = |looks: &[[usize; 4]]| {
        let all = looks.iter().copied();
        all.reduce(|a, b| std::array::from_fn(|what| a[what].min(b[what]))).unwrap()
    };
    let (first, last) = (least(&looks[tenth..2 * tenth]), least(&looks[looks.len() - tenth..]));
    assert!(last[0] < first[0] + 4096, "memory in KiB: {first:?}, then {last:?}");
    // Of the three kinds of descriptors, all together.
    assert!(last[1] <= first[1], "descriptors: {first:?}, then {last:?}");
    assert!(last[2] <= first[2] + 2, "files: {first:?}, then {last:?}");
    assert!(last[3] < first[3] + (8 << 20), "bytes of files: {first:?}, then {last:?}");
}
