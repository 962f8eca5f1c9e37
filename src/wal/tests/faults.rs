//! Poison (LOG.md L12): after the first failure of a write or sync every call gets it, nothing is
//! written, and the durable LSN stays.

use super::{PLACE, disk, open, options, watched};
use crate::clock::ManualClock;
use crate::error::ErrorKind;
use crate::ids::{Lsn, StreamId};
use crate::sim::{Device, FaultKind, SimDisk};
use crate::sync::Arc;
use crate::wal::{Background, Wal, WalOptions};

const EIO: i32 = 5;
const ENOSPC: i32 = 28;

/// A log that has one durable record and nothing to do.
fn ready(disk: &SimDisk) -> Wal {
    let wal = open(disk, Background::Inline).unwrap();
    wal.append(b"good").unwrap();
    wal
}

/// That nobody can do anything with the log, and that it does nothing by itself.
fn assert_poisoned(disk: &SimDisk, wal: Wal) {
    assert_eq!(wal.durable_lsn(), Lsn::FIRST, "the durable LSN stays");
    let before = disk.ops();
    for kind in [
        wal.append(b"x").unwrap_err().kind(),
        wal.submit(b"x").unwrap_err().kind(),
        wal.append_batch(&["x"]).unwrap_err().kind(),
        wal.append_internal(StreamId::DEFAULT, &[b"x"]).unwrap_err().kind(),
        wal.sync().unwrap_err().kind(),
        wal.wait_durable(Lsn::new(2)).unwrap_err().kind(),
        wal.truncate_before(Lsn::FIRST).unwrap_err().kind(),
        wal.replay().unwrap_err().kind(),
        wal.clone().close().unwrap_err().kind(),
    ] {
        assert_eq!(kind, ErrorKind::Poisoned);
    }
    wal.wait_durable(Lsn::FIRST).unwrap();
    drop(wal);
    assert_eq!(disk.ops(), before, "nothing is written after the failure:\n{}", disk.trace());
}

#[test]
fn each_exit_of_the_durable_write_poisons() {
    for (errno, kind) in [
        (EIO, FaultKind::NotExecuted),
        (EIO, FaultKind::ExecutedButReported),
        (EIO, FaultKind::Short(0)),
        (EIO, FaultKind::Short(4095)),
        (ENOSPC, FaultKind::NotExecuted),
    ] {
        // A submit reports at its completion; the completion may fail by itself.
        for step in 1..=2 {
            let disk = disk(3, Device::Fua);
            let wal = ready(&disk);
            disk.fail_op(disk.ops() + step, errno, kind);
            let error = wal.append(&[1; 8000]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Poisoned, "{errno} {kind:?}");
            assert_eq!(error.lsns(), Some((Lsn::new(2), Lsn::new(2))));
            assert!(error.position().is_some() && error.path().is_some());
            assert_poisoned(&disk, wal);
        }
    }
}

#[test]
fn a_failed_plain_write_poisons_whoever_waits_later() {
    let disk = disk(4, Device::Fua);
    let wal = ready(&disk);
    let pending = wal.submit(&[2; 20_000]).unwrap();
    // The second one seals the first, which is written plain before the sync.
    wal.submit(&[2; 20_000]).unwrap();
    disk.fail_op(disk.ops() + 1, EIO, FaultKind::NotExecuted);
    assert_eq!(wal.sync().unwrap_err().kind(), ErrorKind::Poisoned);
    assert_eq!(pending.wait().unwrap_err().kind(), ErrorKind::Poisoned);
    assert_poisoned(&disk, wal);
}

#[test]
fn a_failed_sync_before_a_durable_frame_poisons_and_is_not_repeated() {
    let disk = disk(5, Device::Fua);
    let wal = ready(&disk);
    wal.submit(&[2; 20_000]).unwrap();
    wal.submit(&[2; 20_000]).unwrap();
    // Write of the first frame: submit and completion. Then the sync.
    disk.fail_op(disk.ops() + 3, EIO, FaultKind::NotExecuted);
    let error = wal.sync().unwrap_err();
    assert!(error.to_string().contains("sync"), "{error}");
    assert_eq!(wal.written_lsn(), Lsn::new(2));
    assert_poisoned(&disk, wal);
}

#[test]
fn everybody_who_waits_is_woken_with_the_error() {
    let kinds = watched(|| {
        let disk = disk(6, Device::Fua);
        // Large segments, all prepared before the fault: else it may strike their preparation,
        // which refuses appends for want of a segment and poisons nothing.
        let options = WalOptions { segment_size: 8 << 20, ..options(Background::Threads) };
        let clock = Arc::new(ManualClock::default());
        let storage = Arc::new(disk.clone());
        let wal = Wal::open_with(storage, clock, PLACE, options).unwrap();
        wal.append(b"good").unwrap();
        let reserve = format!("{PLACE}/00000000000000000003.seg");
        let prepared = || disk.read_file(&reserve).is_some_and(|b| b.starts_with(b"SAWMSEG1"));
        while !prepared() {
            std::thread::yield_now();
        }
        let workers: Vec<_> = (0..16)
            .map(|number: usize| {
                let wal = wal.clone();
                let body = move || loop {
                    let outcome = match number % 3 {
                        0 => wal.append(&[3; 100]).map(|_| ()),
                        1 => wal.submit(&[3; 100]).and_then(|pending| pending.wait()).map(|_| ()),
                        _ => wal.append(&[3; 100]).and_then(|_| wal.sync()).map(|_| ()),
                    };
                    match outcome {
                        // A segment could not be prepared: nothing was appended.
                        Err(error) if error.kind() == ErrorKind::Io => {}
                        Err(error) => return error.kind(),
                        Ok(()) => {}
                    }
                };
                crate::sync::spawn("appender", body).unwrap()
            })
            .collect();
        while wal.durable_lsn() < Lsn::new(100) {
            std::thread::yield_now();
        }
        disk.fail_from(disk.ops() + 1, EIO, FaultKind::NotExecuted);
        workers.into_iter().map(|worker| worker.join().unwrap()).collect::<Vec<_>>()
    });
    assert!(kinds.iter().all(|kind| *kind == ErrorKind::Poisoned), "{kinds:?}");
}

#[test]
fn a_replaced_lock_file_poisons_at_the_next_rotation() {
    let disk = disk(7, Device::Flush);
    let wal = ready(&disk);
    disk.write_file("/log/LOCK", b"somebody else");
    let error = (0..10).find_map(|_| wal.append(&[1; 20_000]).err()).unwrap();
    assert_eq!(error.kind(), ErrorKind::Poisoned);
    assert!(error.to_string().contains("LOCK"), "{error}");
    assert_eq!(wal.submit(b"x").unwrap_err().kind(), ErrorKind::Poisoned);
}

/// Whichever of several writes in flight fails: nothing is submitted after it, what is in flight is
/// waited for, and none of those behind it is durable.
#[test]
fn a_failed_write_among_several_in_flight_stops_all_of_them() {
    for step in 1..=12 {
        let disk = disk(8, Device::Fua);
        let storage = Arc::new(disk.clone());
        let options = WalOptions { write_depth: Some(4), ..options(Background::Inline) };
        let wal =
            Wal::open_with(storage, Arc::new(ManualClock::default()), PLACE, options).unwrap();
        wal.append(b"good").unwrap();
        for number in 0..6 {
            wal.submit_alone(&[number; 100]).unwrap();
        }
        let before = disk.trace().lines().count();
        disk.fail_op(disk.ops() + step, EIO, FaultKind::NotExecuted);
        assert_eq!(wal.sync().unwrap_err().kind(), ErrorKind::Poisoned, "operation {step}");
        let durable = wal.durable_lsn();
        assert_eq!(wal.append(b"x").unwrap_err().kind(), ErrorKind::Poisoned);
        drop(wal);
        let trace = disk.trace();
        let lines: Vec<_> = trace.lines().skip(before).collect();
        let count =
            |lines: &[&str], what: &str| lines.iter().filter(|it| it.contains(what)).count();
        // The failure of a submission shows at its completion.
        let failed = lines.iter().find(|line| line.contains("errno")).unwrap();
        let token = &failed[failed.find("(token").unwrap()..=failed.find(')').unwrap()];
        let ended = |line: &&str| line.contains("complete") && line.contains(token);
        let seen = lines.iter().position(ended).unwrap();
        assert_eq!(count(&lines[seen..], "submit write"), 0, "operation {step}:\n{trace}");
        assert_eq!(count(&lines, "submit write"), count(&lines, "complete write"), "{trace}");
        let found = open(&disk.power_cycle(crate::sim::CrashOutcome::LoseAll), Background::Inline);
        assert!(found.unwrap().durable_lsn() >= durable);
    }
}
