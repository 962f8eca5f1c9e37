//! What may go, what is held, and that nothing else goes.

use std::time::Duration;

use super::{PLACE, contents, disk, open, options, watched};
use crate::clock::ManualClock;
use crate::error::ErrorKind;
use crate::ids::Lsn;
use crate::sim::{CrashManner, CrashOutcome, Device, SimDisk};
use crate::storage::BLOCK;
use crate::sync::{Arc, spawn};
use crate::wal::{Background, Hold, Wal, WalOptions};

fn open_with(disk: &SimDisk, clock: &Arc<ManualClock>, options: WalOptions) -> Wal {
    let clock = Arc::clone(clock);
    Wal::open_with(Arc::new(disk.clone()), clock, PLACE, options).unwrap()
}

/// Two records fit a segment.
fn append(wal: &Wal, count: u64) {
    for _ in 0..count {
        wal.append(&[7; 28_000]).unwrap();
    }
}

#[test]
fn pins_hold_records_until_they_move_or_go() {
    let wal = open(&disk(80, Device::Fua), Background::Inline).unwrap();
    append(&wal, 20);
    let slow = wal.pin("slow", Lsn::new(5)).unwrap();
    let fast = wal.pin("fast", Lsn::new(15)).unwrap();
    assert_eq!(wal.pins(), [("slow".into(), Lsn::new(5)), ("fast".into(), Lsn::new(15))]);
    assert_eq!(wal.truncate_before(Lsn::new(20)).unwrap(), Lsn::new(5));
    assert_eq!(wal.get(Lsn::new(5)).unwrap().map(|record| record.lsn), Some(Lsn::new(5)));
    slow.advance(Lsn::new(9)).unwrap();
    assert_eq!(slow.advance(Lsn::new(8)).unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(slow.lsn(), Lsn::new(9));
    assert_eq!(wal.truncate_before(Lsn::new(20)).unwrap(), Lsn::new(9));
    drop(slow);
    assert_eq!(wal.truncate_before(Lsn::new(20)).unwrap(), Lsn::new(15));
    assert_eq!(wal.pin("late", Lsn::new(3)).unwrap_err().kind(), ErrorKind::Invalid);
    drop(fast);
    assert_eq!(wal.truncate_before(Lsn::new(20)).unwrap(), Lsn::new(19), "by the segment");
    wal.clone().close().unwrap();
    assert_eq!(wal.pin("closed", Lsn::new(20)).unwrap_err().kind(), ErrorKind::Closed);
}

/// A truncation first repeats the names of streams, and `LOG` did not say that the repetition was
/// durable: damaged, it was taken for torn, and the log opened without a name that it had given up
/// elsewhere. Random life 1073640 found the same for producers.
#[test]
fn what_a_truncation_relies_on_is_attested() {
    let old = disk(85, Device::Fua);
    let wal = open(&old, Background::Inline).unwrap();
    wal.stream("orders").unwrap().append(b"one").unwrap();
    append(&wal, 6);
    assert!(wal.truncate_before(Lsn::new(8)).unwrap() > Lsn::new(2));
    drop(wal);
    let found = old.power_cycle(CrashOutcome::KeepAll);
    let last_frame = |path: std::path::PathBuf| {
        let bytes = found.read_file(&path)?;
        let mut blocks = (0..bytes.len()).step_by(BLOCK).rev();
        Some((path, blocks.find(|at| bytes[*at..].starts_with(b"FRAM"))?))
    };
    let (path, at) = found.files().into_iter().rev().find_map(last_frame).unwrap();
    found.flip_byte(&path, at as u64 + 130, 1).unwrap();
    let refused = open(&found, Background::Inline).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Corrupt, "{refused}");
}

#[test]
fn a_plan_says_what_truncation_does() {
    for before in 0..=13 {
        for pinned in [None, Some(4), Some(7), Some(12)] {
            let wal = open(&disk(81, Device::Fua), Background::Inline).unwrap();
            append(&wal, 12);
            let pin = pinned.map(|lsn| wal.pin("reader", Lsn::new(lsn)).unwrap());
            let plan = wal.truncation_plan(Lsn::new(before)).unwrap();
            assert_eq!(wal.truncation_plan(Lsn::new(before)).unwrap(), plan, "nothing changes");
            let first = wal.truncate_before(Lsn::new(before)).unwrap();
            assert_eq!((first, plan.segments * 2), (plan.first_lsn, first.get() - 1));
            assert_eq!(plan.bytes, plan.segments << 16);
            let holds_pin = plan.holds.iter().any(|hold| matches!(hold, Hold::Pin { .. }));
            assert_eq!(holds_pin, pinned.is_some_and(|lsn| lsn < before), "{plan:?}");
            assert_eq!(plan.holds.is_empty(), plan.first_lsn.get() >= before, "{plan:?}");
            drop(pin);
        }
    }
    let wal = open(&disk(82, Device::Fua), Background::Inline).unwrap();
    let lsn = wal.submit(b"not durable").unwrap().lsn();
    let plan = wal.truncation_plan(lsn.advance(5)).unwrap();
    assert!(plan.holds.contains(&Hold::NotDurable { durable: Lsn::ZERO }), "{plan:?}");
}

#[test]
fn size_bounds_the_log_by_itself_and_pins_bound_that() {
    for background in [Background::Inline, Background::Threads] {
        watched(move || {
            let disk = disk(83, Device::Fua);
            let clock = Arc::new(ManualClock::default());
            let retain_bytes = Some(4 << 16);
            let prepared_ahead = 2;
            let options = WalOptions { retain_bytes, prepared_ahead, ..options(background) };
            let wal = open_with(&disk, &clock, options);
            let pin = wal.pin("reader", Lsn::new(3)).unwrap();
            append(&wal, 20);
            wal.apply_retention().unwrap();
            assert_eq!(wal.first_lsn(), Lsn::new(3), "pinned");
            drop(pin);
            append(&wal, 20);
            assert_eq!(wal.apply_retention().unwrap(), Lsn::new(33), "four segments of two");
            append(&wal, 60);
            wal.apply_retention().unwrap();
            // Four with records, spare and reserve, four to be used again, `LOCK` and `LOG`.
            let files = disk.files().len();
            assert!(files <= 4 + 2 + 4 + 2, "the disk is bounded: {files} files");
            let kept = contents(&wal).unwrap();
            assert_eq!(kept.first().map(|(lsn, _)| *lsn), Some(Lsn::new(93)));
            assert_eq!(kept.len(), 8);
            wal.close().unwrap();
        });
    }
}

#[test]
fn rotation_applies_retention_without_being_asked() {
    let clock = Arc::new(ManualClock::default());
    let options = WalOptions { retain_bytes: Some(2 << 16), ..options(Background::Inline) };
    let wal = open_with(&disk(84, Device::Fua), &clock, options);
    append(&wal, 30);
    assert!(wal.first_lsn() >= Lsn::new(25), "{}", wal.first_lsn());
}

#[test]
fn age_lets_go_what_was_sealed_long_ago_and_nothing_younger() {
    let disk = disk(85, Device::Flush);
    let clock = Arc::new(ManualClock::default());
    clock.advance(Duration::from_secs(1_000_000));
    let retain_age = Some(Duration::from_secs(100));
    let aged = WalOptions { retain_age, ..options(Background::Inline) };
    let wal = open_with(&disk, &clock, aged.clone());
    for _ in 0..10 {
        clock.advance(Duration::from_secs(50));
        append(&wal, 2);
    }
    // Sealed 450, 400, .. 0 seconds ago; a segment goes when the next one is 100 seconds old.
    assert_eq!(wal.apply_retention().unwrap(), Lsn::new(15));
    clock.advance(Duration::from_secs(1000));
    assert_eq!(wal.apply_retention().unwrap(), Lsn::new(19), "the active one stays");
    wal.close().unwrap();
    let wal = open_with(&disk, &clock, aged);
    assert_eq!(contents(&wal).unwrap().len(), 2);
    assert_eq!(wal.append(b"goes on").unwrap(), Lsn::new(21));
}

#[test]
fn a_crash_within_retention_leaves_the_old_start_or_a_new_one() {
    let job = |disk: &SimDisk| -> crate::error::Result<Lsn> {
        let clock = Arc::new(ManualClock::default());
        let options = WalOptions { retain_bytes: Some(2 << 16), ..options(Background::Inline) };
        let wal = Wal::open_with(Arc::new(disk.clone()), clock, PLACE, options)?;
        let mut last = Lsn::ZERO;
        for _ in 0..9 {
            match wal.append(&[7; 28_000]) {
                Ok(lsn) => last = lsn,
                Err(_) => break,
            }
        }
        Ok(last)
    };
    let whole = disk(86, Device::Fua);
    job(&whole).unwrap();
    for number in 1..=whole.ops() {
        for outcome in [CrashOutcome::LoseAll, CrashOutcome::KeepAll] {
            let disk = disk(86, Device::Fua);
            disk.crash_at(number, CrashManner::Before);
            let Ok(last) = job(&disk) else { continue };
            let wal = open(&disk.power_cycle(outcome), Background::Inline).unwrap();
            let kept = contents(&wal).unwrap();
            let lsns: Vec<_> = kept.iter().map(|(lsn, _)| lsn.get()).collect();
            let first = wal.first_lsn().get();
            assert!(wal.last_lsn() >= last, "operation {number}: {last} was acknowledged");
            assert_eq!(lsns, (first..=wal.last_lsn().get()).collect::<Vec<_>>());
            assert!(first <= last.get().saturating_sub(1).max(1), "two segments stay");
        }
    }
}

#[test]
fn pins_and_truncations_of_many_threads_never_lose_a_pinned_record() {
    watched(|| {
        let wal = open(&disk(87, Device::Fua), Background::Threads).unwrap();
        append(&wal, 4);
        let workers: Vec<_> = (0..4)
            .map(|_| {
                let wal = wal.clone();
                let body = move || {
                    for _ in 0..40 {
                        let lsn = wal.first_lsn();
                        // Another thread may have truncated meanwhile.
                        if let Ok(pin) = wal.pin("reader", lsn) {
                            append(&wal, 1);
                            let found = wal.get(pin.lsn()).unwrap();
                            assert!(found.is_some(), "{pin:?} was lost");
                        }
                        wal.truncate_before(wal.durable_lsn()).unwrap();
                    }
                };
                spawn("reader", body).unwrap()
            })
            .collect();
        workers.into_iter().for_each(|worker| worker.join().unwrap());
        assert!(wal.pins().is_empty());
    });
}
