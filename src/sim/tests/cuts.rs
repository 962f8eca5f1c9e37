use std::path::Path;
use std::sync::Arc;

use super::{Bench, blocks, write};
use crate::sim::{CrashManner, CrashOutcome, SimOptions};
use crate::storage::{BLOCK, Op, OpenMode, Storage};

fn bench(seed: u64) -> Bench {
    Bench::seeded(seed, SimOptions::default(), 2, OpenMode::WriteDirect)
}

/// The power goes at the first or second operation of a durable write: what the two extremes leave.
fn cut(at: u64, manner: CrashManner) -> (u8, u8) {
    let mut bench = bench(1);
    bench.disk.crash_at(bench.disk.ops() + at, manner);
    let completion = bench.write(0, 7, true);
    assert!(completion.result.is_err(), "nobody learns of it");
    assert!(completion.buffer.is_some());
    assert!(bench.disk.is_off());
    let left = |outcome| blocks(&bench.disk.power_cycle(outcome))[0];
    (left(CrashOutcome::LoseAll), left(CrashOutcome::KeepAll))
}

#[test]
fn power_goes_before_within_or_after_an_operation() {
    assert_eq!(cut(1, CrashManner::Before), (0, 0));
    assert_eq!(cut(1, CrashManner::Torn), (0, 7));
    assert_eq!(cut(1, CrashManner::After), (0, 7));
    assert_eq!(cut(2, CrashManner::Before), (0, 7), "in flight it may land");
    assert_eq!(cut(2, CrashManner::Torn), (0, 7));
    assert_eq!(cut(2, CrashManner::After), (7, 7));
}

#[test]
fn power_goes_at_a_sync() {
    for (manner, lost) in
        [(CrashManner::Before, 0), (CrashManner::Torn, 0), (CrashManner::After, 7)]
    {
        let mut bench = bench(1);
        bench.written(0, 7, false);
        bench.disk.crash_at(bench.disk.ops() + 1, manner);
        assert!(bench.file.sync().is_err());
        assert_eq!(blocks(&bench.disk.power_cycle(CrashOutcome::LoseAll))[0], lost);
        assert_eq!(blocks(&bench.disk.power_cycle(CrashOutcome::KeepAll))[0], 7);
    }
}

#[test]
fn power_goes_at_a_create() {
    for (manner, kept) in
        [(CrashManner::Before, 1), (CrashManner::Torn, 2), (CrashManner::After, 2)]
    {
        let bench = bench(1);
        bench.disk.crash_at(bench.disk.ops() + 1, manner);
        assert!(bench.directory.open("g", OpenMode::Create).is_err());
        assert_eq!(bench.disk.power_cycle(CrashOutcome::LoseAll).files().len(), 1);
        assert_eq!(bench.disk.power_cycle(CrashOutcome::KeepAll).files().len(), kept);
    }
}

#[test]
fn nothing_works_when_the_power_is_off() {
    let mut bench = bench(1);
    bench.disk.power_off();
    let ops = bench.disk.ops();
    assert!(bench.write(0, 1, false).result.is_err());
    assert!(bench.sync().result.is_err());
    assert!(bench.file.sync().is_err() && bench.file.stamp().is_err());
    assert!(bench.file.allocate(9).is_err() && bench.file.set_length(9).is_err());
    assert!(bench.file.map(1).is_err());
    assert!(bench.directory.list().is_err() && bench.directory.sync().is_err());
    assert!(bench.directory.unlink("f").is_err() && bench.directory.rename("f", "g").is_err());
    assert!(bench.directory.open("f", OpenMode::Read).is_err());
    assert!(bench.directory.lock("LOCK", "").is_err() && bench.directory.channel().is_err());
    assert!(bench.disk.directory(Path::new("/new"), true).is_err());
    assert_eq!(bench.disk.ops(), ops);
    let found = bench.disk.power_cycle(CrashOutcome::LoseAll);
    assert!(!found.is_off() && bench.file.stamp().is_err(), "old handles stay dead");
    assert_eq!((found.ops(), found.pending_items()), (0, 0));
}

#[test]
fn subsets_enumerate_every_outcome() {
    let options = SimOptions { sector: BLOCK, ..SimOptions::default() };
    let mut bench = Bench::new(options, 3, OpenMode::WriteDirect);
    for block in 0..3 {
        bench.channel.submit(write(&bench.file, block, 1, true));
    }
    bench.disk.power_off();
    assert_eq!(bench.disk.pending_items(), 3);
    let mut found: Vec<Vec<u8>> =
        (0..8).map(|bits| blocks(&bench.disk.power_cycle(CrashOutcome::Subset(bits)))).collect();
    found.sort();
    found.dedup();
    assert_eq!(found.len(), 8);
}

#[test]
fn completions_come_in_seeded_order() {
    let order = |seed| {
        let mut bench = bench(seed);
        let first = bench.channel.submit(write(&bench.file, 0, 1, true));
        for byte in 2..6 {
            bench.channel.submit(write(&bench.file, 0, byte, true));
        }
        let mut tokens = Vec::new();
        while let Some(completion) = bench.channel.complete() {
            tokens.push(completion.token - first);
        }
        tokens
    };
    assert_eq!(order(3), order(3));
    assert!((0..8).any(|seed| order(seed) != order(3)));
    let mut all = order(3);
    all.sort_unstable();
    assert_eq!(all, [0, 1, 2, 3, 4]);
}

/// Two writes of two blocks each: 32 sectors, and four outcomes of whole writes.
#[test]
fn writes_survive_whole_or_not_at_all() {
    let mut bench = Bench::seeded(1, SimOptions::default(), 4, OpenMode::WriteDirect);
    for (block, byte) in [(0, 7), (2, 8)] {
        let mut buffer = crate::storage::AlignedBuf::zeroed(2 * BLOCK);
        buffer.fill(byte);
        let (file, offset) = (Arc::clone(&bench.file), block * BLOCK as u64);
        bench.channel.submit(Op::Write { file, offset, buffer, durable: true });
    }
    bench.disk.power_off();
    assert_eq!((bench.disk.pending_writes(), bench.disk.pending_items()), (2, 32));
    let left = |bits| blocks(&bench.disk.power_cycle(CrashOutcome::Writes(bits)));
    assert_eq!((left(0), left(3)), (vec![0; 4], vec![7, 7, 8, 8]));
    assert_eq!((left(1), left(2)), (vec![7, 7, 0, 0], vec![0, 0, 8, 8]));
}

#[test]
fn the_operation_at_which_the_power_goes_is_named() {
    for trace_lines in [0, 9] {
        let options = SimOptions { trace_lines, ..SimOptions::default() };
        let mut bench = Bench::seeded(1, options, 2, OpenMode::WriteDirect);
        assert_eq!(bench.disk.cut_at(), "");
        bench.disk.crash_at(bench.disk.ops() + 2, CrashManner::Before);
        drop(bench.write(0, 7, true));
        let named = bench.disk.cut_at();
        assert!(named.starts_with("complete write f 0+4096 durable"), "{named}");
    }
}

#[test]
fn dropped_channel_waits_for_what_is_in_flight() {
    let Bench { disk, file, mut channel, .. } = bench(1);
    channel.submit(write(&file, 0, 7, true));
    assert_eq!(blocks(&disk), [0, 0], "in flight is not visible");
    drop(channel);
    assert_eq!(blocks(&disk.power_cycle(CrashOutcome::LoseAll)), [7, 0]);
}

#[test]
fn planted_buffer_freed_in_flight_is_seen() {
    use crate::planted::{Bug, with_planted};
    let Bench { disk, file, mut channel, .. } = bench(1);
    channel.submit(write(&file, 0, 7, true));
    with_planted(Bug::BufferFreedInFlight, || drop(channel));
    let found = blocks(&disk.power_cycle(CrashOutcome::LoseAll));
    assert_ne!(found, [7, 0], "what was freed in flight is not what lands");
}

#[test]
fn kill_keeps_the_page_cache_but_makes_nothing_durable() {
    let mut bench = bench(1);
    bench.written(0, 7, false);
    bench.directory.open("g", OpenMode::Create).unwrap();
    let next = bench.disk.kill();
    assert!(bench.file.stamp().is_err());
    assert_eq!(blocks(&next), [7, 0]);
    assert_eq!(next.files().len(), 2);
    let again = next.kill();
    let found = again.power_cycle(CrashOutcome::LoseAll);
    assert_eq!((blocks(&found), found.files().len()), (vec![0, 0], 1));
    assert!(next.directory(Path::new("/d"), false).is_err(), "the older disks are off");
}

#[test]
fn write_in_flight_at_a_kill_lands_whole_in_part_or_not() {
    let mut seen: Vec<Vec<u8>> = Vec::new();
    for seed in 0..64 {
        let mut bench = bench(seed);
        let mut buffer = crate::storage::AlignedBuf::zeroed(2 * BLOCK);
        buffer.fill(7);
        let file = Arc::clone(&bench.file);
        bench.channel.submit(Op::Write { file, offset: 0, buffer, durable: true });
        seen.push(blocks(&bench.disk.kill()));
        let late = bench.channel.complete().unwrap();
        assert!(late.result.is_err());
        assert_eq!(late.buffer.unwrap().len(), 2 * BLOCK);
    }
    seen.sort();
    seen.dedup();
    assert_eq!(seen, [[0, 0], [7, 0], [7, 7]]);
}
