//! P8 for chains: the power goes at every operation of a delta and of a fold, and every operation
//! fails once. What is found is the state of one batch, the model's.

use super::{EIO, ENOSPC, MANNERS};
use crate::common::model::*;
use crate::common::*;
use sawmill::ErrorKind;
use sawmill::checkpoint::CheckpointStore;
use sawmill::sim::{CrashManner, CrashOutcome, FaultKind, SimDisk};

/// How many operations came before an act of the history, and with it.
fn operations(act: usize, count_reads: bool) -> (u64, u64) {
    let (disk, mut store) = lived(act, count_reads);
    let before = disk.ops();
    HISTORY[act].on(&mut store).unwrap();
    (before, disk.ops())
}

/// The power goes at one operation of an act.
fn strike(act: usize, op: u64, manner: CrashManner) -> Result<(), String> {
    let (disk, mut store) = lived(act, false);
    disk.crash_at(op, manner);
    let done = HISTORY[act].on(&mut store).is_ok();
    drop(store);
    let (old, new) = (batch_after(act), batch_after(act + 1));
    for outcome in outcomes() {
        let found = disk.power_cycle(outcome);
        let story = format!("{:?}, op {op} {manner:?}, {outcome:?}, Ok: {done}", HISTORY[act]);
        let (batch, fell_back) =
            start(&found).map_err(|error| format!("{story}: {error}\n{}", found.trace()))?;
        if (batch != new && (done || batch != old)) || fell_back > 0 {
            let text = format!("{story}: found batch {batch}, fell back {fell_back}");
            return Err(format!("{text}\n{}", found.trace()));
        }
        // Life goes on: a delta on what was found, and a fold of it.
        let mut found = found;
        for next in [Act::Delta(9), Act::Fold] {
            let mut store = open(&found).map_err(|error| format!("{story}: {error}"))?;
            next.on(&mut store).map_err(|error| format!("{story}, then {next:?}: {error}"))?;
            drop(store);
            found = found.power_cycle(CrashOutcome::LoseAll);
            let last = start(&found);
            if last.as_ref().ok() != Some(&(9, 0)) {
                return Err(format!("{story}: behind it, {next:?} was lost: {last:?}"));
            }
        }
    }
    Ok(())
}

pub(crate) fn strike_everywhere(act: usize) -> Result<(), String> {
    let (before, after) = operations(act, false);
    assert!(after - before >= 10, "there are operations to strike");
    (before + 1..=after)
        .try_for_each(|op| MANNERS.into_iter().try_for_each(|manner| strike(act, op, manner)))
}

#[test]
fn a_crash_anywhere_in_a_delta_leaves_old_or_new() {
    for act in (0..HISTORY.len()).filter(|act| matches!(HISTORY[*act], Act::Delta(_))) {
        strike_everywhere(act).unwrap();
    }
}

#[test]
fn a_crash_anywhere_in_a_fold_changes_nothing() {
    let fold = HISTORY.iter().position(|act| *act == Act::Fold).unwrap();
    strike_everywhere(fold).unwrap();
}

/// An act of the history in which one operation, reads included, fails.
fn fail_once(act: usize, op: u64, fault: (i32, FaultKind)) -> (SimDisk, CheckpointStore, bool) {
    let (disk, mut store) = lived(act, true);
    disk.fail_op(op, fault.0, fault.1);
    let result = HISTORY[act].on(&mut store);
    if let Err(error) = &result {
        let known = [ErrorKind::Io, ErrorKind::DiskFull, ErrorKind::Unreadable];
        assert!(known.contains(&error.kind()), "{:?}, op {op}: {error}", HISTORY[act]);
        let stands = batch_after(act);
        assert_eq!(newest(&store).1, stands, "{:?}, op {op}: the predecessor", HISTORY[act]);
    }
    (disk, store, result.is_ok())
}

/// Deltas and folds, each operation struck once.
#[test]
fn a_failing_operation_of_a_delta_or_fold_leaves_its_predecessor() {
    let kinds = [FaultKind::NotExecuted, FaultKind::ExecutedButReported, FaultKind::Short(512)];
    let mut failed = 0;
    for (act, what) in HISTORY.iter().enumerate().skip(2) {
        let (before, last) = operations(act, true);
        let (old, new) = (batch_after(act), batch_after(act + 1));
        for op in before + 1..=last {
            for fault in [EIO, ENOSPC].into_iter().flat_map(|e| kinds.map(|kind| (e, kind))) {
                let story = format!("{what:?}, op {op}, {fault:?}");
                for outcome in [CrashOutcome::LoseAll, CrashOutcome::KeepAll] {
                    let (disk, store, done) = fail_once(act, op, fault);
                    drop(store);
                    failed += u32::from(!done);
                    let (batch, fell_back) = start(&disk.power_cycle(outcome)).unwrap();
                    let allowed = batch == new || (!done && batch == old);
                    assert!(allowed && fell_back == 0, "{story}, {outcome:?}: {batch}");
                }
                // The next one holds what this one was to hold.
                let (disk, mut store, _) = fail_once(act, op, fault);
                let takes = store.takes_delta(newest(&store).0);
                assert!(takes || *what == Act::Fold, "{story}");
                let next = if takes { Act::Delta(9) } else { Act::Base(9) };
                next.on(&mut store).unwrap_or_else(|error| panic!("{story}: {error}"));
                assert_eq!(compared(store.newest().unwrap().as_ref()), 9, "{story}");
                drop(store);
                let cut = disk.power_cycle(CrashOutcome::LoseAll);
                assert_eq!(start(&cut).unwrap(), (9, 0), "{story}");
            }
        }
    }
    assert!(failed > 500, "the faults struck: {failed}");
}

/// E15: whatever is written, four syncs, by the disk's own count.
#[test]
fn a_delta_and_a_fold_cost_four_syncs() {
    let (disk, mut store) = lived(0, false);
    let is_sync = |line: &&str| line.contains("complete sync") || line.contains(" sync directory");
    let synced = |trace: String| trace.lines().filter(is_sync).count();
    for act in HISTORY {
        let before = synced(disk.trace());
        assert_eq!(act.on(&mut store).unwrap().syncs, 4, "{act:?}");
        assert_eq!(synced(disk.trace()) - before, 4, "{act:?}\n{}", disk.trace());
    }
}

/// E15: on a disk that is full a delta goes into the spare file, and what that does not need makes
/// room for the manifest. A crash at any operation of this leaves old or new.
#[test]
fn a_full_disk_still_takes_a_delta() {
    let full = || {
        let (disk, store) = lived(5, false);
        let length = |path: &std::path::PathBuf| disk.read_file(path).unwrap().len() as u64;
        let used = disk.files().iter().map(length).sum();
        disk.capacity(Some(used));
        (disk, store)
    };
    let (disk, mut store) = full();
    assert_eq!(Act::Base(6).on(&mut store).unwrap_err().kind(), ErrorKind::DiskFull);
    let before = disk.ops();
    assert_eq!(Act::Delta(6).on(&mut store).unwrap().syncs, 4);
    let last = disk.ops();
    assert!(disk.trace().contains("rename SPARE"), "{}", disk.trace());
    drop(store);
    assert_eq!(start(&disk.power_cycle(CrashOutcome::LoseAll)).unwrap(), (6, 0));
    for op in before + 1..=last {
        for manner in MANNERS {
            let (disk, mut store) = full();
            drop(Act::Base(6).on(&mut store));
            disk.crash_at(op, manner);
            let done = Act::Delta(6).on(&mut store).is_ok();
            drop(store);
            for outcome in outcomes() {
                let (batch, fell_back) = start(&disk.power_cycle(outcome)).unwrap();
                let allowed = batch == 6 || (batch == 5 && !done);
                assert!(allowed && fell_back == 0, "op {op} {manner:?}, {outcome:?}: {batch}");
            }
        }
    }
}

/// Checkpoints that are written while one is folded, deltas on that one, and the first delta on the
/// fold. Ends at the first error; returns the batch of the newest checkpoint that was acknowledged,
/// and that of the one that was being written.
fn beside_a_fold(store: &mut CheckpointStore) -> (u64, u64) {
    let folded = newest(store);
    assert_eq!(folded, (4, 4));
    let mut acknowledged = 4;
    let mut steps = || -> sawmill::Result<()> {
        let number = store.take_number();
        let folding = store.begin_fold(folded.0, number)?;
        delta_on(store, folded, 5)?;
        acknowledged = 5;
        let filled = folding.fill();
        delta_on(store, folded, 6)?;
        acknowledged = 6;
        let fold = store.end_fold(filled)?;
        assert_eq!((fold.checkpoint, fold.parent, newest(store).1), (5, None, 6));
        delta_on(store, (fold.checkpoint, folded.1), 7)?;
        acknowledged = 7;
        Ok(())
    };
    let all = steps().is_ok();
    (acknowledged, if all { acknowledged } else { acknowledged + 1 })
}

/// E15: checkpoints do not wait for a fold, nor it for them. The power goes at every operation of
/// all of them, and every operation fails once.
#[test]
fn a_crash_or_fault_anywhere_beside_a_fold_leaves_old_or_new() {
    let (disk, mut store) = lived(4, true);
    let before = disk.ops();
    assert_eq!(beside_a_fold(&mut store), (7, 7));
    let last = disk.ops();
    let kept: Vec<u64> = store.kept().map(|meta| meta.batch.get()).collect();
    assert_eq!(kept, [6, 7], "the fold is there for the last one");
    for op in before + 1..=last {
        for manner in [CrashManner::Torn, CrashManner::After] {
            let (disk, mut store) = lived(4, true);
            disk.crash_at(op, manner);
            let (old, new) = beside_a_fold(&mut store);
            drop(store);
            for outcome in [CrashOutcome::LoseAll, CrashOutcome::Seeded(op)] {
                let found = disk.power_cycle(outcome);
                let (batch, fell_back) = start(&found).unwrap();
                let story = format!("op {op} {manner:?}, {outcome:?}: {batch}, {fell_back}");
                assert!((old..=new).contains(&batch) && fell_back == 0, "{story}");
            }
        }
        let errno = if op % 2 == 0 { EIO } else { ENOSPC };
        let (disk, mut store) = lived(4, true);
        disk.fail_op(op, errno, FaultKind::NotExecuted);
        let (old, new) = beside_a_fold(&mut store);
        let next = if store.takes_delta(newest(&store).0) { Act::Delta(9) } else { Act::Base(9) };
        next.on(&mut store).unwrap_or_else(|error| panic!("op {op}: {error}"));
        drop(store);
        let found = start(&disk.power_cycle(CrashOutcome::LoseAll)).unwrap();
        assert_eq!(found, (9, 0), "op {op}, errno {errno}, {old}..={new}");
    }
}

/// What stays is what the two independent checkpoints need, and nothing else.
#[test]
fn files_stay_while_a_kept_checkpoint_needs_them_and_no_longer() {
    let expected: [&[u64]; 9] = [
        &[],
        &[1],
        &[1, 2],
        &[1, 2, 3],
        &[1, 2, 3, 4],
        &[1, 2, 3, 4, 5],
        &[2, 3, 4, 5, 6],
        &[2, 3, 4, 5, 6, 7],
        &[2, 3, 4, 5, 6, 7, 8],
    ];
    for (acts, expected) in expected.into_iter().enumerate() {
        let (disk, store) = lived(acts, false);
        let names = disk.files().into_iter().filter_map(|path| {
            path.file_stem().filter(|_| path.extension().is_some())?.to_str()?.parse().ok()
        });
        assert_eq!(names.collect::<Vec<u64>>(), expected, "after {acts} acts");
        let kept: Vec<u64> = store.kept().map(|meta| meta.checkpoint).collect();
        let wanted = if acts >= 6 { &expected[3..] } else { expected };
        assert_eq!(kept, wanted, "after {acts} acts: the log is kept for these");
    }
}

#[cfg(feature = "planted")]
#[test]
fn planted_chain_cut_is_caught() {
    use sawmill::planted::{Bug, with_planted};
    let caught = with_planted(Bug::ChainCut, || {
        std::panic::catch_unwind(|| (6..8).try_for_each(strike_everywhere))
    });
    assert!(!matches!(caught, Ok(Ok(()))), "the crash test passes in spite of the bug");
}
