//! P8: recovery loads the old checkpoint or the new one, never a mixture. The power goes at every
//! operation of a write, and every operation fails once.

mod chains;
mod savepoints;

use crate::common::*;
use sawmill::checkpoint::CheckpointStore;
use sawmill::sim::{CrashManner, CrashOutcome, Device, FaultKind, SimDisk};
use sawmill::{ErrorKind, Result};

const MANNERS: [CrashManner; 3] = [CrashManner::Before, CrashManner::Torn, CrashManner::After];

/// The batch that a crash at one operation of the write of checkpoint `number` may leave.
fn strike(device: Device, number: u64, op: u64, manner: CrashManner) -> Result<(), String> {
    let (disk, mut store) = after_on(device, number - 1);
    disk.crash_at(op, manner);
    let done = write(&mut store, number).is_ok();
    drop(store);
    for outcome in outcomes() {
        let found = disk.power_cycle(outcome);
        let story = format!("{device:?}, checkpoint {number}, op {op} {manner:?}, {outcome:?}");
        let story = format!("{story}, Ok: {done}");
        let batch = recovered(&found).map_err(|e| format!("{story}: {e}\n{}", found.trace()))?;
        let allowed = batch == number || (!done && batch == number - 1);
        if !allowed {
            return Err(format!("{story}: found batch {batch}\n{}", found.trace()));
        }
        // Life goes on: the next write is the newest, also after another crash.
        let mut store = open(&found).map_err(|e| format!("{story}: {e}"))?;
        write(&mut store, 9).map_err(|e| format!("{story}: {e}"))?;
        let last = recovered(&found.power_cycle(CrashOutcome::LoseAll));
        if last.as_ref().ok() != Some(&9) {
            return Err(format!("{story}: the next write was lost: {last:?}"));
        }
    }
    Ok(())
}

fn strike_everywhere(number: u64) -> Result<(), String> {
    let (before, after) = operations(number, false);
    assert!(after - before >= 10, "the write has operations to strike");
    [Device::Flush, Device::Fua].into_iter().try_for_each(|device| {
        (before + 1..=after).try_for_each(|op| {
            MANNERS.into_iter().try_for_each(|manner| strike(device, number, op, manner))
        })
    })
}

#[test]
fn a_crash_in_the_first_write_leaves_nothing_or_it() {
    strike_everywhere(1).unwrap();
}

#[test]
fn a_crash_in_the_second_write_leaves_old_or_new() {
    strike_everywhere(2).unwrap();
}

#[test]
fn a_crash_in_the_third_write_leaves_old_or_new() {
    strike_everywhere(3).unwrap();
}

#[test]
fn an_undisturbed_write_is_durable_when_it_returns() {
    for outcome in outcomes() {
        let (disk, store) = after(3, false);
        drop(store);
        assert_eq!(recovered(&disk.power_cycle(outcome)).unwrap(), 3);
    }
}

/// A kill leaves the page cache; what the next process builds on must not go with the power then.
#[test]
fn what_was_found_after_a_kill_stays_after_a_power_cut() {
    let (before, last) = operations(3, false);
    for op in before + 1..=last {
        for manner in MANNERS {
            let (disk, mut store) = after(2, false);
            disk.crash_at(op, manner);
            let done = write(&mut store, 3).is_ok();
            drop(store);
            let found = disk.kill();
            let batch = recovered(&found).unwrap();
            assert!(batch == 3 || (batch == 2 && !done), "op {op} {manner:?}: {batch}");
            let again = recovered(&found.power_cycle(CrashOutcome::LoseAll)).unwrap();
            assert_eq!(again, batch, "op {op} {manner:?}: what was shown went away");
        }
    }
}

/// Opening after a crash removes files; a crash in the middle of that changes nothing.
#[test]
fn a_crash_while_opening_after_a_crash_is_harmless() {
    let (before, last) = operations(3, false);
    for op in before + 1..=last {
        let (disk, mut store) = after(2, false);
        disk.crash_at(op, CrashManner::After);
        let done = write(&mut store, 3).is_ok();
        drop(store);
        for outcome in [CrashOutcome::KeepAll, CrashOutcome::Seeded(3)] {
            let batch = recovered(&disk.power_cycle(outcome)).unwrap();
            for second in 1..=8 {
                let found = disk.power_cycle(outcome);
                found.crash_at(second, CrashManner::Torn);
                drop(open(&found));
                let found = found.power_cycle(CrashOutcome::Seeded(second));
                assert_eq!(recovered(&found).unwrap(), batch, "op {op}, then {second}");
                assert!(batch == 3 || !done);
            }
        }
    }
}

const EIO: i32 = 5;
const ENOSPC: i32 = 28;

/// One operation of the third write fails; gives the disk, the store and whether it returned `Ok`.
fn fail_once(op: u64, errno: i32, kind: FaultKind) -> (SimDisk, CheckpointStore, bool) {
    let (disk, mut store) = after(2, true);
    disk.fail_op(op, errno, kind);
    let result = write(&mut store, 3);
    if let Err(error) = &result {
        let expected = [ErrorKind::Io, ErrorKind::DiskFull, ErrorKind::Unreadable];
        assert!(expected.contains(&error.kind()), "{error}");
    }
    (disk, store, result.is_ok())
}

#[test]
fn one_failing_operation_leaves_the_predecessor_and_the_next_write_works() {
    let (before, last) = operations(3, true);
    let kinds = [FaultKind::NotExecuted, FaultKind::ExecutedButReported, FaultKind::Short(512)];
    let mut failed = 0;
    for op in before + 1..=last {
        for (errno, kind) in [EIO, ENOSPC].into_iter().flat_map(|e| kinds.map(|kind| (e, kind))) {
            let story = format!("op {op} of {before}..={last}, errno {errno}, {kind:?}");
            for outcome in outcomes() {
                let (disk, store, done) = fail_once(op, errno, kind);
                failed += u32::from(!done);
                let floors: Vec<u64> = store.kept().map(|meta| meta.floor.get()).collect();
                let named: &[u64] = if done { &[201, 301] } else { &[101, 201] };
                assert_eq!(floors, named, "{story}");
                drop(store);
                let batch = recovered(&disk.power_cycle(outcome)).unwrap();
                assert!(batch == 3 || (batch == 2 && !done), "{story}: {batch}");
            }
            let (disk, mut store, done) = fail_once(op, errno, kind);
            let number = write(&mut store, 4).unwrap_or_else(|e| panic!("{story}: {e}"));
            assert_eq!(number, 4, "{story}: a number is used once");
            let here = batch_of(store.newest().unwrap().as_ref(), 3, false);
            assert_eq!(here, 4, "{story}");
            let kept: Vec<u64> = store.kept().map(|meta| meta.batch.get()).collect();
            assert_eq!(kept, if done { [3, 4] } else { [2, 4] }, "{story}");
            drop(store);
            let found = disk.power_cycle(CrashOutcome::LoseAll);
            assert_eq!(recovered(&found).unwrap(), 4, "{story}");
            assert_eq!(found.files().len(), 4, "{story}: two, the manifest and the spare stay");
        }
    }
    assert!(failed > 100, "the faults struck");
}

/// A disk that stays broken: every write fails, and the predecessor is still there.
#[test]
fn a_disk_that_stays_broken_keeps_the_predecessor() {
    let (before, last) = operations(3, true);
    for op in before + 1..=last {
        let (disk, mut store) = after(2, true);
        disk.fail_from(op, ENOSPC, FaultKind::NotExecuted);
        let done = write(&mut store, 3).is_ok();
        assert!(write(&mut store, 4).is_err());
        drop(store);
        let batch = recovered(&disk.power_cycle(CrashOutcome::LoseAll)).unwrap();
        assert!(batch == 3 || (batch == 2 && !done), "op {op}: {batch}");
    }
}

#[test]
fn a_full_disk_refuses_and_goes_on_when_there_is_room() {
    let (disk, mut store) = after(2, false);
    disk.capacity(Some(16 << 10));
    let error = store.write(meta(3), &extents(3, 3, true)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DiskFull);
    assert_eq!(batch_of(store.newest().unwrap().as_ref(), 3, false), 2);
    disk.capacity(None);
    store.write(meta(4), &extents(4, 3, true)).unwrap();
    assert_eq!(batch_of(store.newest().unwrap().as_ref(), 3, true), 4);
}

#[test]
fn the_number_of_syncs_does_not_depend_on_the_partitions() {
    let (_disk, mut store) = after(0, false);
    let one = store.write(meta(1), &extents(1, 1, false)).unwrap();
    let many = store.write(meta(2), &extents(2, 64, true)).unwrap();
    assert_eq!((one.syncs, many.syncs), (4, 4));
    assert!(many.bytes > one.bytes);
    assert_eq!(batch_of(store.newest().unwrap().as_ref(), 64, true), 2);
}

#[cfg(feature = "planted")]
#[test]
fn a_manifest_before_its_data_is_caught() {
    use sawmill::planted::{Bug, with_planted};
    for number in 1..=3 {
        let caught = with_planted(Bug::ManifestBeforeData, || {
            std::panic::catch_unwind(|| strike_everywhere(number))
        });
        assert!(!matches!(caught, Ok(Ok(()))), "the crash test passes in spite of the bug");
    }
}
