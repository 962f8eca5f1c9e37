use std::sync::Arc;

use super::{Bench, PATH, blocks, fua, write};
use crate::sim::{CrashOutcome, Device, SimOptions};
use crate::storage::{BLOCK, Op, OpenMode};

const DIRECT: OpenMode = OpenMode::WriteDirect;
const CACHED: OpenMode = OpenMode::Write;

fn lost(bench: &Bench) -> Vec<u8> {
    blocks(&bench.disk.power_cycle(CrashOutcome::LoseAll))
}

#[test]
fn plain_write_is_lost_with_the_power() {
    for mode in [DIRECT, CACHED] {
        let mut bench = Bench::new(SimOptions::default(), 2, mode);
        bench.written(0, 7, false);
        assert_eq!(blocks(&bench.disk), [7, 0], "visible");
        assert_eq!(lost(&bench), [0, 0]);
        assert_eq!(blocks(&bench.disk.power_cycle(CrashOutcome::KeepAll)), [7, 0]);
    }
}

#[test]
fn durable_write_survives_with_the_length_it_needs() {
    for (options, mode) in [(fua(), DIRECT), (SimOptions::default(), CACHED)] {
        let mut bench = Bench::new(options, 1, mode);
        bench.file.set_length(9 * BLOCK as u64).unwrap();
        bench.written(2, 7, true);
        assert_eq!(lost(&bench), [0, 0, 7]);
    }
}

#[test]
fn fua_write_leaves_earlier_plain_writes_pending() {
    let mut bench = Bench::new(fua(), 3, DIRECT);
    bench.written(0, 1, false);
    bench.written(1, 2, true);
    assert_eq!(lost(&bench), [0, 2, 0]);
}

#[test]
fn flush_reaches_what_completed_before_the_submit() {
    let mut bench = Bench::new(SimOptions::default(), 4, DIRECT);
    bench.written(0, 1, false);
    bench.written(1, 2, true);
    bench.written(2, 3, false);
    assert_eq!(lost(&bench), [1, 2, 0, 0]);
    // Submitted before the plain write completes: whatever the order, it is not covered.
    for seed in 0..8 {
        let mut bench = Bench::seeded(seed, SimOptions::default(), 2, DIRECT);
        bench.channel.submit(write(&bench.file, 0, 1, false));
        bench.channel.submit(write(&bench.file, 1, 2, true));
        while let Some(completion) = bench.channel.complete() {
            completion.result.unwrap();
        }
        assert_eq!(lost(&bench), [0, 2]);
    }
}

#[test]
fn flush_reaches_no_page_cache_and_no_other_length() {
    let mut bench = Bench::new(SimOptions::default(), 2, DIRECT);
    let cached = bench.directory.open("f", CACHED).unwrap();
    bench.channel.run(write(&cached, 0, 1, false)).result.unwrap();
    bench.disk.write_file("/d/g", b"");
    let other = bench.directory.open("g", DIRECT).unwrap();
    bench.channel.run(write(&other, 0, 9, false)).result.unwrap();
    bench.written(1, 2, true);
    assert_eq!(lost(&bench), [0, 2]);
    let found = bench.disk.power_cycle(CrashOutcome::LoseAll);
    assert_eq!(found.read_file("/d/g").unwrap(), b"");
}

#[test]
fn sync_covers_what_completed_before_the_submit() {
    for options in [fua(), SimOptions::default()] {
        for seed in 0..8 {
            let mut bench = Bench::seeded(seed, options.clone(), 3, CACHED);
            bench.written(0, 1, false);
            bench.channel.submit(write(&bench.file, 1, 2, false));
            bench.channel.submit(Op::Sync { file: Arc::clone(&bench.file) });
            while let Some(completion) = bench.channel.complete() {
                completion.result.unwrap();
            }
            assert_eq!(lost(&bench), [1, 0, 0]);
        }
    }
}

#[test]
fn length_needs_a_sync() {
    let bench = Bench::new(SimOptions::default(), 1, DIRECT);
    bench.file.allocate(4 * BLOCK as u64).unwrap();
    assert_eq!(blocks(&bench.disk), [0; 4]);
    let before = bench.disk.kill();
    assert_eq!(blocks(&before.power_cycle(CrashOutcome::LoseAll)), [0; 1]);
    let bench = Bench::new(SimOptions::default(), 4, DIRECT);
    bench.file.set_length(BLOCK as u64).unwrap();
    let cut = bench.disk.kill();
    assert_eq!(blocks(&cut.power_cycle(CrashOutcome::LoseAll)), [0; 4], "a cut may be undone");
    let bench = Bench::new(SimOptions::default(), 4, DIRECT);
    bench.file.set_length(BLOCK as u64).unwrap();
    bench.file.sync().unwrap();
    assert_eq!(lost(&bench), [0; 1]);
}

#[test]
fn what_is_durable_is_not_undone_by_older_writes() {
    let mut bench = Bench::new(fua(), 1, DIRECT);
    bench.written(0, 1, false);
    bench.written(0, 2, true);
    bench.disk.power_off();
    assert_eq!(bench.disk.pending_items(), 0);
    let mut bench = Bench::new(fua(), 1, DIRECT);
    bench.written(0, 1, true);
    bench.written(0, 2, false);
    bench.written(0, 3, false);
    let mut seen: Vec<u8> = (0..64)
        .map(|seed| blocks(&bench.disk.power_cycle(CrashOutcome::Seeded(seed)))[0])
        .collect();
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen, [1, 2, 3], "any pending version may be the one that survives");
}

/// Whether some seeded crash leaves a block that is neither old nor new.
fn tears(sector: usize) -> bool {
    let mut bench = Bench::new(SimOptions { sector, ..SimOptions::default() }, 1, DIRECT);
    bench.written(0, 7, false);
    (0..32).any(|seed| {
        let found = bench.disk.power_cycle(CrashOutcome::Seeded(seed)).read_file(PATH).unwrap();
        for sector in found.chunks(512) {
            assert!(sector.iter().all(|byte| *byte == sector[0]), "no tear within a sector");
        }
        found.iter().any(|byte| *byte != found[0])
    })
}

#[test]
fn writes_tear_by_sector() {
    assert!(tears(512));
    assert!(!tears(4096));
}

#[test]
fn space_gained_may_show_stale_bytes() {
    let shows = |bench: &Bench| {
        (0..64).any(|seed| {
            let found = bench.disk.power_cycle(CrashOutcome::Seeded(seed));
            found.read_file(PATH).unwrap().iter().any(|byte| *byte != 0)
        })
    };
    let grown = |stale, sync| {
        let bench = Bench::new(SimOptions { stale, ..SimOptions::default() }, 1, DIRECT);
        bench.file.allocate(3 * BLOCK as u64).unwrap();
        if sync {
            bench.file.sync().unwrap();
        }
        bench
    };
    let bench = grown(true, false);
    assert!(shows(&bench));
    let kept = bench.disk.power_cycle(CrashOutcome::KeepAll);
    assert_eq!(kept.read_file(PATH).unwrap(), [0; 3 * BLOCK], "only a seed shows them");
    assert!(!shows(&grown(false, false)));
    assert!(!shows(&grown(true, true)));
}

#[test]
fn stale_bytes_come_from_deleted_files() {
    let bench = Bench::new(SimOptions::default(), 1, DIRECT);
    bench.disk.write_file("/d/secret", &[0xee; BLOCK]);
    bench.directory.unlink("secret").unwrap();
    bench.directory.sync().unwrap();
    bench.file.allocate(3 * BLOCK as u64).unwrap();
    assert!((0..64).any(|seed| {
        let found = bench.disk.power_cycle(CrashOutcome::Seeded(seed));
        found.read_file(PATH).unwrap().ends_with(&[0xee; 512])
    }));
}

#[test]
fn writes_that_a_flush_makes_different_are_counted() {
    for device in [Device::Flush, Device::Fua] {
        let options = SimOptions { device, ..SimOptions::default() };
        let mut bench = Bench::new(options, 3, OpenMode::WriteDirect);
        bench.written(0, 1, true);
        bench.written(1, 1, false);
        bench.sync().result.unwrap();
        bench.written(0, 2, true);
        assert_eq!(bench.disk.flush_matters(), 0, "{device:?}: nothing was pending");
        bench.written(1, 2, false);
        bench.written(0, 3, true);
        assert_eq!(bench.disk.flush_matters(), 1, "{device:?}");
    }
}
