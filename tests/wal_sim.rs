//! Random lives of a log: callers append, submit, wait, sync, truncate, pin, read, close and open
//! again, while the power fails, processes are killed, operations fail, the disk fills up, or the
//! medium does worse. A model beside it says what must be there, what may be, and what must not.
//!
//! A seed decides a whole life. A failure prints the seed, what happened, and the command that does
//! it again. `SAWMILL_SIM_SEEDS=FROM..TO` chooses the seeds, `SAWMILL_SIM_SEED` one of them.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests stop at what fails")]

mod wal_sim_common;

use std::ops::Range;
use std::sync::Arc;

use sawmill::clock::ManualClock;
use sawmill::sim::SimDisk;
use sawmill::{Background, Wal, WalOptions};
use wal_sim_common::{Counts, run};

/// The seeds that the gate lives through.
const SEEDS: Range<u64> = 0..2_000;

/// What a campaign must have met, or it proves nothing.
const WANTED: [&str; 13] = [
    "crashes in LOG",
    "crashes in a barrier",
    "crashes in a durable write",
    "crashes in a plain write",
    "crashes in truncation or recycling",
    "crashes with 2 or more writes in flight",
    "writes torn",
    "device Fua",
    "poisoned",
    "openings refused: Corrupt",
    "openings refused: Unreadable",
    "append failed: DiskFull",
    "runs of 8 producers or more",
];

fn seeds() -> Range<u64> {
    let Ok(text) = std::env::var("SAWMILL_SIM_SEEDS") else { return SEEDS };
    let (from, to) = text.split_once("..").unwrap_or(("0", &text));
    from.parse().unwrap()..to.parse().unwrap()
}

/// Lives through all seeds on `threads` threads; stops at the first violation of each.
fn campaign(seeds: Range<u64>, threads: u64) -> (Counts, Vec<String>) {
    let workers: Vec<_> = (0..threads)
        .map(|worker| {
            let seeds = seeds.clone();
            let body = move || {
                let mut counts = Counts::default();
                for seed in seeds.filter(|seed| seed % threads == worker) {
                    match run(seed) {
                        Ok(seen) => counts.merge(&seen),
                        Err(violation) => return (counts, Some(violation)),
                    }
                }
                (counts, None)
            };
            std::thread::Builder::new().spawn(body).unwrap()
        })
        .collect();
    let mut all = (Counts::default(), Vec::new());
    for worker in workers {
        let (counts, violation) = worker.join().unwrap();
        all.0.merge(&counts);
        all.1.extend(violation);
    }
    all
}

#[test]
fn random_lives_keep_every_promise() {
    let seeds = seeds();
    println!("seeds {seeds:?}: disk, log, callers and trouble are the seed's");
    let (counts, violations) = campaign(seeds.clone(), 3);
    for (what, many) in &counts.0 {
        println!("{what}: {many}");
    }
    assert!(violations.is_empty(), "{}", violations.join("\n\n"));
    if seeds.end - seeds.start >= 1_000 {
        for what in WANTED {
            assert!(counts.0.contains_key(what), "no {what} in {seeds:?}");
        }
    }
    println!("seeds {seeds:?}: no violation");
}

/// One seed, with all that happened in it.
#[test]
fn one_seed_is_lived_again() {
    let seed = std::env::var("SAWMILL_SIM_SEED").map_or(7, |seed| seed.parse().unwrap());
    let first = run(seed).unwrap_or_else(|violation| panic!("{violation}"));
    let second = run(seed).unwrap();
    assert_eq!(first, second, "seed {seed} decides everything");
}

/// Seeds that found something once: what it was is in the changelog or beside the test named.
const FOUND: [u64; 9] = [314, 1945, 4919, 35_210, 104_842, 109_400, 114_579, 140_069, 155_651];

#[test]
fn seeds_that_found_something_are_lived_again() {
    for seed in FOUND {
        run(seed).unwrap_or_else(|violation| panic!("{violation}"));
    }
}

/// A preparation that is cut off may leave a file that shows what stood in its place before: here,
/// whole, a segment that the log has given up (first seen at seed 155651).
#[test]
fn stale_bytes_of_a_given_up_segment_are_no_segment() {
    let disk = SimDisk::new(1);
    let open = || {
        let options = WalOptions {
            segment_size: 64 << 10,
            recycled: 0,
            background: Background::Inline,
            ..WalOptions::default()
        };
        Wal::open_with(Arc::new(disk.clone()), Arc::new(ManualClock::default()), "/log", options)
    };
    let wal = open().unwrap();
    for _ in 0..4 {
        wal.append(&[7; 30_000]).unwrap();
    }
    let stale = disk.read_file("/log/00000000000000000001.seg").unwrap();
    wal.truncate_before(wal.durable_lsn()).unwrap();
    drop(wal);
    let number = |path: &std::path::PathBuf| path.file_stem()?.to_str()?.parse::<u64>().ok();
    let last = disk.files().iter().filter_map(number).max().unwrap();
    let next = format!("/log/{:020}.seg", last + 1);
    disk.write_file(&next, &stale);
    let wal = open().unwrap();
    assert_eq!(wal.durable_lsn().get(), 4);
    assert_ne!(disk.read_file(&next), Some(stale));
}

/// The simulation must bite: how many seeds until each planted bug of the log is seen.
#[test]
#[cfg(feature = "planted")]
fn planted_bugs_are_seen_by_random_lives() {
    use sawmill::planted::{Bug, with_planted};
    let bugs = [
        Bug::SkipDurableFlag,
        Bug::AcknowledgeAtSubmit,
        Bug::PlainBeforeDurable,
        Bug::NoDirectorySync,
        Bug::NoBarrier,
        Bug::ChecksumWithoutPosition,
        Bug::TruncateAtFirstBad,
        Bug::ExistenceAttests,
        Bug::RefuseBehindHole,
        Bug::ShownLsnReused,
        Bug::ReadErrorIsTorn,
        Bug::ShortWriteCounts,
        Bug::RetrySync,
        Bug::ContinueAfterError,
        Bug::ShowBeforeBarrier,
        Bug::RecoverFromCache,
        Bug::UnlinkBeforeStart,
        Bug::ReadAboveDurable,
        Bug::LsnBeforeSpace,
        Bug::PaddingIsEnd,
    ];
    let mut missed = Vec::new();
    for bug in bugs {
        let found = with_planted(bug, || {
            (0..10_000).find_map(|seed| run(seed).err().map(|violation| (seed, violation)))
        });
        match found {
            Some((seed, violation)) => {
                let line = violation.lines().next().unwrap_or_default();
                println!("{}: {} seeds: {line}", bug.name(), seed + 1);
            }
            None => missed.push(bug.name()),
        }
    }
    assert!(missed.is_empty(), "not seen in 10,000 seeds: {missed:?}");
}
