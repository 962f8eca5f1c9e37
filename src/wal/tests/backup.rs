//! Copies of a running log: what they hold, and what a crash or a fault leaves.

use super::{PLACE, contents, disk, open, options, watched};
use crate::clock::ManualClock;
use crate::error::{ErrorKind, Result};
use crate::ids::{Lsn, StreamId};
use crate::sim::{CrashManner, CrashOutcome, Device, FaultKind, SimDisk};
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Arc, spawn};
use crate::wal::{Background, Wal};

const COPY: &str = "/copy";

fn open_copy(disk: &SimDisk) -> Result<Wal> {
    let clock = Arc::new(ManualClock::default());
    Wal::open_with(Arc::new(disk.clone()), clock, COPY, options(Background::Inline))
}

/// All records, the engine's too.
fn everything(wal: &Wal) -> Vec<(Lsn, bool, Vec<u8>)> {
    let mut replay = wal.replay_all_from(Lsn::ZERO).unwrap();
    let mut found = Vec::new();
    while let Some(record) = replay.next() {
        let record = record.unwrap();
        found.push((record.lsn, record.internal, record.payload.to_vec()));
    }
    found
}

/// That a backup made now survives a power cut, opens, holds what the log holds, and goes on.
fn check(disk: &SimDisk, wal: &Wal) {
    let expected = everything(wal);
    let backup = wal.backup(COPY).unwrap();
    assert_eq!((backup.first_lsn, backup.last_lsn), (wal.first_lsn(), wal.durable_lsn()));
    let found = disk.power_cycle(CrashOutcome::LoseAll);
    for _ in 0..2 {
        let copy = open_copy(&found).unwrap();
        assert_eq!((copy.log_id(), copy.first_lsn()), (wal.log_id(), wal.first_lsn()));
        assert_eq!(everything(&copy), expected);
        assert_eq!(copy.last_lsn(), backup.last_lsn);
        copy.close().unwrap();
    }
    let copy = open_copy(&found).unwrap();
    assert_eq!(copy.append(b"a log of its own").unwrap(), backup.last_lsn.next());
}

#[test]
fn a_copy_holds_what_was_durable_and_opens_after_a_power_cut() {
    for device in [Device::Fua, Device::Flush] {
        for records in [0, 1, 2, 3, 25] {
            let disk = disk(90, device);
            let wal = open(&disk, Background::Inline).unwrap();
            for number in 0..records {
                wal.append(&[number; 28_000]).unwrap();
                wal.append_batch(&[vec![number; 10], Vec::new()]).unwrap();
            }
            wal.append_internal(StreamId::new(4), &[b"plan"]).unwrap();
            wal.submit(b"not durable, not copied").unwrap();
            check(&disk, &wal);
        }
    }
}

#[test]
fn a_copy_of_a_log_that_was_just_opened_has_its_barrier() {
    for (records, truncated) in [(0, 0), (1, 0), (2, 0), (3, 0), (4, 0), (9, 5), (9, 9)] {
        let disk = disk(91, Device::Fua);
        for _ in 0..3 {
            let wal = open(&disk, Background::Inline).unwrap();
            for number in 0..records {
                wal.append(&[number; 28_000]).unwrap();
            }
            wal.truncate_before(Lsn::new(truncated)).unwrap();
            wal.close().unwrap();
        }
        let wal = open(&disk, Background::Inline).unwrap();
        check(&disk, &wal);
    }
}

#[test]
fn a_copy_beside_running_writers_is_one_moment_of_the_log() {
    watched(|| {
        let disk = disk(92, Device::Fua);
        let wal = open(&disk, Background::Threads).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let workers: Vec<_> = (0..4u8)
            .map(|thread| {
                let (wal, stop) = (wal.clone(), Arc::clone(&stop));
                let body = move || {
                    while !stop.load(Ordering::Acquire) {
                        wal.append(&[thread; 3000]).unwrap();
                        if wal.durable_lsn().get() % 64 == 0 {
                            wal.truncate_before(Lsn::new(wal.durable_lsn().get() - 40)).unwrap();
                        }
                    }
                };
                spawn("appender", body).unwrap()
            })
            .collect();
        let mut backups = Vec::new();
        for number in 0..5 {
            let at_least = wal.append(&[number; 100]).unwrap();
            let backup = wal.backup(format!("/copy{number}")).unwrap();
            assert!(backup.last_lsn >= at_least);
            backups.push(backup);
        }
        stop.store(true, Ordering::Release);
        workers.into_iter().for_each(|worker| worker.join().unwrap());
        assert!(wal.pins().is_empty());
        for backup in backups {
            let clock = Arc::new(ManualClock::default());
            let options = options(Background::Inline);
            let storage = Arc::new(disk.clone());
            let copy = Wal::open_with(storage, clock, &backup.path, options).unwrap();
            let found = contents(&copy).unwrap();
            let lsns: Vec<_> = found.iter().map(|(lsn, _)| lsn.get()).collect();
            let expected: Vec<_> = (backup.first_lsn.get()..=backup.last_lsn.get()).collect();
            assert_eq!(lsns, expected);
        }
    });
}

#[test]
fn a_backup_goes_to_an_empty_place_only() {
    let disk = disk(93, Device::Fua);
    let wal = open(&disk, Background::Inline).unwrap();
    wal.append(b"x").unwrap();
    assert_eq!(wal.backup(PLACE).unwrap_err().kind(), ErrorKind::Invalid, "onto itself");
    wal.backup(COPY).unwrap();
    assert_eq!(wal.backup(COPY).unwrap_err().kind(), ErrorKind::Invalid, "onto another copy");
    wal.clone().close().unwrap();
    assert_eq!(wal.backup("/other").unwrap_err().kind(), ErrorKind::Closed);
}

fn small_log(disk: &SimDisk) -> Wal {
    let wal = open(disk, Background::Inline).unwrap();
    for number in 0..5 {
        wal.append(&[number; 28_000]).unwrap();
    }
    wal
}

#[test]
fn a_crash_within_a_backup_leaves_a_whole_copy_or_none_and_the_log_as_it_was() {
    let whole = disk(94, Device::Fua);
    let wal = small_log(&whole);
    let before = whole.ops();
    wal.backup(COPY).unwrap();
    let expected = contents(&wal).unwrap();
    let mut refused = 0;
    for number in before + 1..=whole.ops() + 1 {
        for outcome in [CrashOutcome::LoseAll, CrashOutcome::KeepAll] {
            let disk = disk(94, Device::Fua);
            let wal = small_log(&disk);
            disk.crash_at(number, CrashManner::Before);
            let done = wal.backup(COPY).is_ok();
            drop(wal);
            let found = disk.power_cycle(outcome);
            let log = open(&found, Background::Inline).unwrap();
            assert_eq!(contents(&log).unwrap(), expected, "the log itself");
            let copy =
                |path: &std::path::PathBuf| path.starts_with(COPY) && !path.ends_with("LOCK");
            let arrived = found.files().iter().filter(|path| copy(path)).count();
            match open_copy(&found).map(|copy| contents(&copy).unwrap()) {
                Ok(copied) if arrived == 0 => assert!(!done && copied.is_empty()),
                Ok(copied) => assert_eq!(copied, expected),
                Err(error) => {
                    assert!(!done && error.kind() == ErrorKind::Corrupt, "{error}");
                    refused += 1;
                }
            }
        }
    }
    assert!(refused > 20, "{refused}");
}

#[test]
fn a_fault_at_any_operation_fails_the_backup_and_nothing_else() {
    let whole = disk(95, Device::Fua);
    let wal = small_log(&whole);
    let before = whole.ops();
    wal.backup(COPY).unwrap();
    let mut refused = 0;
    for number in before + 1..=whole.ops() {
        let disk = disk(95, Device::Fua);
        let wal = small_log(&disk);
        disk.fail_op(number, 5, FaultKind::NotExecuted);
        let outcome = wal.backup(COPY);
        let last = wal.append(b"the log goes on").unwrap();
        assert_eq!(wal.get(last).unwrap().map(|record| record.lsn), Some(last));
        assert!(wal.pins().is_empty(), "the pin is given up");
        if outcome.is_err() {
            let made = disk.files().iter().any(|path| *path == *"/copy/BACKUP");
            let copy = open_copy(&disk.kill());
            assert_eq!(copy.is_err(), made, "refused, once anything was made");
            assert!(copy.map_or(true, |copy| contents(&copy).unwrap().is_empty()));
            refused += u32::from(made);
        }
    }
    assert!(refused > 10, "{refused}");
}

#[test]
fn damage_in_the_log_is_not_copied_as_if_it_were_whole() {
    let disk = disk(96, Device::Fua);
    let wal = small_log(&disk);
    // A payload in the second segment, which is sealed.
    disk.flip_byte(format!("{PLACE}/00000000000000000002.seg"), 4096 + 999, 0x10).unwrap();
    assert_eq!(wal.backup(COPY).unwrap_err().kind(), ErrorKind::Corrupt);
    let left = disk.files().iter().filter(|path| path.starts_with(COPY)).count();
    assert_eq!(left, 2, "LOCK and BACKUP");
    assert_eq!(open_copy(&disk).unwrap_err().kind(), ErrorKind::Corrupt);
    disk.flip_byte(format!("{PLACE}/00000000000000000002.seg"), 4096 + 999, 0x10).unwrap();
    wal.backup(COPY).unwrap();
    assert_eq!(contents(&open_copy(&disk).unwrap()).unwrap(), contents(&wal).unwrap());
}
