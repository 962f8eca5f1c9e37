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

/// The only test of this file: another one would share its memory.
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
