//! Random lives of a log: callers append, submit, wait, sync, truncate, pin, read, close and open
//! again, while the power fails, processes are killed, operations fail, the disk fills up, or the
//! medium does worse. A model beside it says what must be there, what may be, and what must not.
//!
//! A seed decides a whole life. A failure prints the seed, what happened, and the command that does
//! it again. `SAWMILL_SIM_SEEDS=FROM..TO` chooses the seeds, `SAWMILL_SIM_SEED` one of them.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::cast_possible_truncation,
    reason = "tests stop at what fails, and their numbers are small"
)]

mod wal_sim_common;

use std::ops::Range;
use std::sync::Arc;

use sawmill::clock::ManualClock;
use sawmill::sim::SimDisk;
use sawmill::{Background, Wal, WalOptions};
use wal_sim_common::{Counts, Plan, Rng, run, run_bytes, run_plan};

/// The seeds that the gate lives through: half of them with each set of features.
const SEEDS: Range<u64> = if cfg!(feature = "planted") { 5_000..10_000 } else { 0..5_000 };

/// What a seed chooses from (`Plan::draw`).
const OPTIONS: &str = "device {flush, fua}, sector {512, 4096}, stale bytes {yes, no}, trouble \
    {none, errors, errors of reads too, full, dropped, misdirected, rot, sector, lies}, segments \
    of {64, 96, 128} KiB, {0, 1, 4} kept to be used again, retention {none, 2 segments}, \
    producers {1, 2, 4, 8, 12, 16}, records up to {60, 600, 6000, 20000, half a segment}, a crash \
    in {6, 10, 20} steps, {0, 1, 3} who send again, writes in flight {as the log decides, 1, 4}, \
    a directory whose sync failed {forgets names, keeps them}";

/// What a campaign must have met, or it proves nothing.
const WANTED: [&str; 21] = [
    "crashes with 2 or more writes in flight",
    "torn within a frame",
    "whole frames behind a hole",
    "a hole across a rotation",
    "stale frames of the same epoch in a recycled segment",
    "crashes in a barrier",
    "crashes in a LOG slot",
    "crashes in truncation",
    "crashes in a durable frame",
    "crashes in a plain write",
    "false failures",
    "a duplicate re-sent in flight",
    "device Fua",
    "device Flush",
    "verdicts: torn",
    "openings refused: Corrupt",
    "openings refused: Unreadable",
    "poisoned",
    "append failed: DiskFull",
    "kills",
    "runs with 8 or more producers at once",
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
    println!("seeds {seeds:?} of {OPTIONS}");
    let (counts, violations) = campaign(seeds.clone(), 2);
    for (what, many) in &counts.0 {
        println!("{what}: {many}");
    }
    assert!(violations.is_empty(), "{}", violations.join("\n\n"));
    if seeds.end - seeds.start >= 1_000 {
        for what in WANTED {
            assert!(counts.0.contains_key(what), "no {what} in {seeds:?}");
        }
        let many = counts.0["runs with 8 or more producers at once"];
        assert!(many * 4 >= counts.0["runs"], "{many} runs with 8 producers or more");
    }
    println!("seeds {seeds:?} of {OPTIONS}: no violation");
}

/// One seed, with all that happened in it.
#[test]
fn one_seed_is_lived_again() {
    let seed = std::env::var("SAWMILL_SIM_SEED").map_or(7, |seed| seed.parse().unwrap());
    println!("{:?}", Plan::new(seed));
    let first = run(seed).unwrap_or_else(|violation| panic!("{violation}"));
    let second = run(seed).unwrap();
    assert_eq!(first, second, "seed {seed} decides everything");
    println!("{first:?}\n{:?}", Plan::new(seed));
}

/// Seeds that found something once: what it was is in the changelog or beside the test named.
const FOUND: [u64; 9] = [314, 1945, 4919, 35_210, 104_842, 109_400, 114_579, 140_069, 155_651];
/// On a device that lies everything was lost, the power went again while the log was made anew, and
/// what was sent again had another place than before: right, and the model thought not. And the
/// device dropped the repetition of what a log knows of its producers, for which a truncation then
/// gave up the original: `LOG` did not attest it, so the next opening took it for torn and had
/// forgotten where their records stand.
const FOUND_WITH_SENDERS: [u64; 4] = [49_821, 272_345, 520_501, 1_073_640];

#[test]
fn seeds_that_found_something_are_lived_again() {
    for seed in FOUND {
        run_plan(&Plan::without_senders(seed)).unwrap_or_else(|violation| panic!("{violation}"));
    }
    for seed in FOUND_WITH_SENDERS {
        run(seed).unwrap_or_else(|violation| panic!("{violation}"));
    }
}

/// As the fuzzer chooses them: bytes decide as seeds do, and end a life when they are used up. An
/// input of the fuzzer is lived again if `SAWMILL_SIM_BYTES` names its file.
#[test]
fn bytes_decide_lives() {
    let mut counts = Counts::default();
    if let Ok(path) = std::env::var("SAWMILL_SIM_BYTES") {
        run_bytes(&std::fs::read(path).unwrap()).unwrap_or_else(|violation| panic!("{violation}"));
    }
    for seed in 0..100 {
        let mut rng = Rng::new(seed);
        let bytes: Vec<u8> = (0..20 * seed).map(|_| rng.below(256) as u8).collect();
        let first = run_bytes(&bytes).unwrap_or_else(|violation| panic!("{violation}"));
        assert_eq!(run_bytes(&bytes).as_ref(), Ok(&first));
        counts.merge(&first);
    }
    for what in ["crashes", "kills", "poisoned", "truncate", "send again", "close"] {
        assert!(counts.0.contains_key(what), "no {what} in {counts:?}");
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

/// The simulation must bite: how many seeds until each planted bug of the log is seen. A seed is
/// lived with whoever sends again, and without.
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
        Bug::DuplicateBeforeDurable,
        Bug::RecycleShared,
    ];
    let mut missed = Vec::new();
    for bug in bugs {
        let lives = |seed| run(seed).and_then(|_| run_plan(&Plan::without_senders(seed)));
        let found = with_planted(bug, || {
            (0..10_000).find_map(|seed| lives(seed).err().map(|violation| (seed, violation)))
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
