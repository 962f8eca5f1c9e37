//! Savepoints: the power goes at every operation of making and removing one, every operation fails
//! once, every byte is flipped. What is listed is whole, and nothing but its file is touched.

use std::path::Path;

use super::MANNERS;
use crate::common::model::*;
use crate::common::*;
use sawmill::checkpoint::Savepoints;
use sawmill::sim::{CrashManner, CrashOutcome, FaultKind, SimDisk};
use sawmill::storage::Storage;
use sawmill::{Error, ErrorKind, Result};

const PLACE: &str = "/job/savepoints";
/// EIO in every manner, ENOSPC, EINTR, ENOMEM.
const FAULTS: [(i32, FaultKind); 6] = [
    (5, FaultKind::NotExecuted),
    (5, FaultKind::ExecutedButReported),
    (5, FaultKind::Short(512)),
    (28, FaultKind::NotExecuted),
    (4, FaultKind::NotExecuted),
    (12, FaultKind::NotExecuted),
];

fn savepoints(disk: &SimDisk) -> Result<Savepoints> {
    Ok(Savepoints::new(disk.directory(Path::new(PLACE), true)?))
}

fn save(disk: &SimDisk, name: &str) -> Result<()> {
    let loaded = open(disk)?.newest()?.unwrap();
    match loaded.fell_back.first() {
        // The engine makes one of the newest checkpoint, or none.
        Some(why) => Err(Error::new(ErrorKind::Corrupt, why.clone())),
        None => savepoints(disk)?.write(name, loaded).map(drop),
    }
}

/// A disk with a chain of checkpoints and the savepoint `old`.
fn saved(count_reads: bool) -> SimDisk {
    let (disk, store) = lived(HISTORY.len(), count_reads);
    drop(store);
    save(&disk, "old").unwrap();
    disk
}

/// The savepoints that are listed, each compared with the model byte by byte.
fn found(disk: &SimDisk) -> Result<Vec<String>> {
    let savepoints = savepoints(disk)?;
    let names = savepoints.list()?;
    for name in &names {
        let loaded = savepoints.open(name, true)?;
        assert_eq!((compared(Some(&loaded)), loaded.meta.parent), (7, 0), "{name}");
    }
    Ok(names)
}

/// An act, the names before it and those behind it.
type Act = (fn(&SimDisk) -> Result<()>, &'static [&'static str], &'static [&'static str]);
const ACTS: [Act; 2] = [
    (|disk| save(disk, "new"), &["old"], &["new", "old"]),
    (|disk| savepoints(disk)?.remove("old"), &["old"], &[]),
];

fn strike((act, before, after): Act, op: u64, manner: CrashManner) -> Result<(), String> {
    let disk = saved(false);
    disk.crash_at(disk.ops() + op, manner);
    let done = act(&disk).is_ok();
    for outcome in [CrashOutcome::LoseAll, CrashOutcome::KeepAll, CrashOutcome::Seeded(op)] {
        let cut = disk.power_cycle(outcome);
        let story = format!("op {op} {manner:?}, {outcome:?}, Ok: {done}");
        let names = found(&cut).map_err(|error| format!("{story}: {error}\n{}", cut.trace()))?;
        if names != after && (done || names != before) {
            return Err(format!("{story}: {names:?}\n{}", cut.trace()));
        }
        // The checkpoints do not know of any of this; and what was begun does not stand in the way.
        assert_eq!(start(&cut).unwrap(), (7, 0), "{story}");
        save(&cut, "next").map_err(|error| format!("{story}, then: {error}"))?;
        let again = found(&cut.power_cycle(CrashOutcome::LoseAll)).map_err(|e| e.to_string())?;
        assert!(again.contains(&"next".to_owned()), "{story}: {again:?}");
    }
    Ok(())
}

fn operations(act: Act, count_reads: bool) -> u64 {
    let disk = saved(count_reads);
    let before = disk.ops();
    act.0(&disk).unwrap();
    disk.ops() - before
}

fn strike_everywhere() -> Result<(), String> {
    for act in ACTS {
        let operations = operations(act, false);
        assert!(operations >= 3, "there are operations to strike");
        for op in 1..=operations {
            MANNERS.into_iter().try_for_each(|manner| strike(act, op, manner))?;
        }
    }
    Ok(())
}

#[test]
fn a_crash_anywhere_leaves_a_whole_savepoint_or_none() {
    strike_everywhere().unwrap();
}

#[test]
fn a_failing_operation_leaves_no_savepoint_that_is_not_whole() {
    let mut failed = 0;
    for (act, before, after) in ACTS {
        for op in 1..=operations((act, before, after), true) {
            for (errno, kind) in FAULTS {
                let disk = saved(true);
                disk.fail_op(disk.ops() + op, errno, kind);
                let outcome = act(&disk);
                failed += u32::from(outcome.is_err());
                let story = format!("op {op}, errno {errno}, {kind:?}: {outcome:?}");
                let names = found(&disk).unwrap_or_else(|error| panic!("{story}: {error}"));
                let allowed = names == after || (outcome.is_err() && names == before);
                assert!(allowed, "{story}: {names:?}");
                assert_eq!(start(&disk).unwrap(), (7, 0), "{story}");
                save(&disk, "next").unwrap_or_else(|error| panic!("{story}, then: {error}"));
            }
        }
    }
    assert!(failed > 60, "the faults struck: {failed}");
}

#[test]
fn every_flipped_byte_of_a_savepoint_is_noticed() {
    let disk = saved(false);
    let path = Path::new(PLACE).join("old.savepoint");
    let whole = disk.read_file(&path).unwrap();
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x10;
        disk.write_file(&path, &bytes);
        let error = savepoints(&disk).unwrap().open("old", true).err();
        let kind = error.map(|error| error.kind());
        assert_eq!(kind, Some(ErrorKind::Corrupt), "byte {at} of {}", whole.len());
    }
}

#[test]
fn names_are_plain_taken_once_and_nothing_else_is_listed() {
    let disk = saved(false);
    let savepoints = savepoints(&disk).unwrap();
    for name in ["", ".x", "-x", "a/b", "..", "a b", "\u{e4}", &"x".repeat(101)] {
        assert_eq!(save(&disk, name).unwrap_err().kind(), ErrorKind::Invalid, "{name}");
    }
    assert_eq!(save(&disk, "old").unwrap_err().kind(), ErrorKind::Invalid, "it is taken");
    assert_eq!(savepoints.remove("older").unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(savepoints.list().unwrap(), ["old"]);
    // Checkpoints come and go; a savepoint stays until it is removed.
    let mut store = open(&disk).unwrap();
    for batch in 8..20 {
        write(&mut store, batch).unwrap();
    }
    assert_eq!(found(&disk).unwrap(), ["old"]);
    savepoints.remove("old").unwrap();
    save(&disk, "old").unwrap();
}

#[cfg(feature = "planted")]
#[test]
fn planted_savepoint_not_synced_is_caught() {
    use sawmill::planted::{Bug, with_planted};
    let caught =
        with_planted(Bug::SavepointNotSynced, || std::panic::catch_unwind(strike_everywhere));
    assert!(!matches!(caught, Ok(Ok(()))), "the crash test passes in spite of the bug");
}
