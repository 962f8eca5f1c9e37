//! The window in which damage to the last group cannot be told from a torn write, and how an idle
//! log closes it (LOG.md L10, L15).

use std::time::Duration;

use super::{PLACE, contents, disk, open, options};
use crate::clock::ManualClock;
use crate::error::{ErrorKind, Result};
use crate::ids::{Lsn, Position};
use crate::sim::{CrashManner, CrashOutcome, Device, FaultKind, SimDisk};
use crate::sync::{Arc, lock, spawn};
use crate::wal::attest::IDLE_MIN;
use crate::wal::frame::{FrameHeader, FrameKind};
use crate::wal::watch::watched;
use crate::wal::{Background, Wal, WalOptions};

const MOMENT: Duration = Duration::from_millis(1);

fn threaded(disk: &SimDisk, options: WalOptions) -> (Wal, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::default());
    let wal = Wal::open_with(Arc::new(disk.clone()), Arc::clone(&clock) as _, PLACE, options);
    (wal.unwrap(), clock)
}

/// Waits for what another thread does.
fn until(what: impl Fn() -> bool) {
    while !what() {
        std::thread::yield_now();
    }
}

/// Waits until the committer sleeps, having seen everything that happened before.
fn until_it_rests(wal: &Wal) {
    until(|| {
        let open = lock(&wal.core().open);
        open.committer_sleeps && !open.has_work()
    });
}

/// Moves time, and waits until the committer has looked at the clock and sleeps again. One that
/// sleeps without a limit goes on sleeping.
fn pass(wal: &Wal, clock: &ManualClock, time: Duration) {
    until_it_rests(wal);
    let (before, is_limited) = lock(&wal.core().open).attest.rests();
    clock.advance(time);
    if is_limited {
        until(|| lock(&wal.core().open).attest.rests().0 > before);
    }
    until_it_rests(wal);
    let (rests, _) = lock(&wal.core().open).attest.rests();
    assert_eq!(rests > before, is_limited, "ATTEST-3");
}

/// The frames of the first segment, without the barrier.
fn frames(disk: &SimDisk, wal: &Wal) -> Vec<FrameHeader> {
    let entry = wal.core().index.reaching(Lsn::ZERO).remove(0);
    let bytes = disk.read_file(entry.segment.path()).unwrap();
    let mut position = Position { segment: entry.segment.number(), offset: 4096 };
    let mut found = Vec::new();
    while let Some(block) = bytes.get(usize::try_from(position.offset).unwrap()..)
        && let Some((header, _)) = FrameHeader::decode(block, wal.log_id(), position)
    {
        position = header.end();
        found.push(header);
    }
    found.split_off(1)
}

#[test]
fn an_idle_log_attests_once_what_was_acknowledged() {
    watched(|| {
        let disk = disk(100, Device::Fua);
        let (wal, clock) = threaded(&disk, options(Background::Threads));
        pass(&wal, &clock, 10 * IDLE_MIN);
        assert_eq!(wal.stats().attestations, 0, "nothing was acknowledged");
        for round in 1..=3 {
            wal.append(b"acknowledged").unwrap();
            wal.append(b"acknowledged").unwrap();
            pass(&wal, &clock, IDLE_MIN - MOMENT);
            assert_eq!(wal.stats().attestations, round - 1, "not idle for long enough");
            let rests = lock(&wal.core().open).attest.rests();
            std::thread::sleep(Duration::from_millis(70));
            assert_eq!(lock(&wal.core().open).attest.rests(), rests, "it waits to be told");
            pass(&wal, &clock, MOMENT);
            assert_eq!(wal.stats().attestations, round);
            let rests = lock(&wal.core().open).attest.rests();
            std::thread::sleep(Duration::from_millis(120));
            assert_eq!(lock(&wal.core().open).attest.rests(), rests, "it sleeps (ATTEST-3)");
            pass(&wal, &clock, 10 * IDLE_MIN);
            assert_eq!(wal.stats().attestations, round, "once");
        }
        let frames = frames(&disk, &wal);
        assert_eq!(frames.len(), 9);
        for three in frames.chunks(3) {
            let attestation = &three[2];
            assert_eq!((attestation.kind, attestation.records), (FrameKind::Attestation, 0));
            assert_eq!(attestation.durable_lsn, three[1].first_lsn, "it attests the last record");
            assert_eq!(attestation.first_lsn, three[1].first_lsn.next());
        }
    });
}

#[test]
fn appends_push_it_back_and_none_comes_more_often_than_once_in_the_idle_time() {
    watched(|| {
        let disk = disk(101, Device::Fua);
        let (wal, clock) = threaded(&disk, options(Background::Threads));
        // 50 appends a second for two seconds: never idle.
        for _ in 0..100 {
            wal.append(b"often").unwrap();
            pass(&wal, &clock, 20 * MOMENT);
        }
        assert_eq!(wal.stats().attestations, 0);
        pass(&wal, &clock, IDLE_MIN);
        assert_eq!(wal.stats().attestations, 1);
        // What nobody waits for is not acknowledged.
        drop(wal.submit(b"submitted").unwrap());
        until(|| wal.written_lsn().get() == 101);
        until_it_rests(&wal);
        pass(&wal, &clock, 10 * IDLE_MIN);
        assert_eq!(wal.stats().attestations, 1);
        wal.sync().unwrap();
        pass(&wal, &clock, IDLE_MIN);
        assert_eq!(wal.stats().attestations, 2);
    });
}

#[test]
fn it_can_be_switched_off_and_set() {
    watched(|| {
        let longer =
            WalOptions { attest_after: Some(4 * IDLE_MIN), ..options(Background::Threads) };
        let (wal, clock) = threaded(&disk(102, Device::Fua), longer);
        wal.append(b"x").unwrap();
        until_it_rests(&wal);
        pass(&wal, &clock, 3 * IDLE_MIN);
        assert_eq!(wal.stats().attestations, 0);
        pass(&wal, &clock, IDLE_MIN);
        assert_eq!(wal.stats().attestations, 1);
        let never = WalOptions { attest_after: None, ..options(Background::Threads) };
        let (wal, clock) = threaded(&disk(103, Device::Fua), never);
        wal.append(b"x").unwrap();
        until_it_rests(&wal);
        clock.advance(Duration::from_secs(9));
        wal.append(b"y").unwrap();
        assert_eq!(wal.stats().frames, 2);
    });
}

#[test]
fn appends_beside_attestations_keep_their_order() {
    watched(|| {
        let disk = disk(104, Device::Flush);
        let (wal, clock) = threaded(&disk, options(Background::Threads));
        let writers: Vec<_> = (0..3_u8)
            .map(|name| {
                let wal = wal.clone();
                spawn("writer", move || (0..60).for_each(|_| drop(wal.append(&[name; 900]))))
            })
            .collect();
        for _ in 0..200 {
            clock.advance(IDLE_MIN);
            std::thread::yield_now();
        }
        writers.into_iter().for_each(|writer| writer.unwrap().join().unwrap());
        until_it_rests(&wal);
        clock.advance(IDLE_MIN);
        until(|| wal.stats().attestations > 0);
        assert_eq!(contents(&wal).unwrap().len(), 180);
        wal.close().unwrap();
        let wal = open(&disk, Background::Inline).unwrap();
        assert_eq!(contents(&wal).unwrap().len(), 180);
    });
}

/// What opening finds when the process was killed and a bit of the last acknowledged frame rots.
fn rotten(attested: bool, device: Device) -> Result<usize> {
    let disk = disk(105, device);
    let wal = open(&disk, Background::Inline).unwrap();
    for _ in 0..4 {
        wal.append(b"acknowledged").unwrap();
    }
    let place = frames(&disk, &wal)[3].position;
    if attested {
        assert!(wal.attest_now().unwrap());
        assert!(!wal.attest_now().unwrap(), "there is nothing more to say");
    }
    let path = wal.core().index.reaching(Lsn::ZERO)[0].segment.path();
    let found = disk.power_cycle(CrashOutcome::LoseAll);
    found.flip_byte(&path, place.offset + 140, 4).unwrap();
    let wal = open(&found, Background::Inline)?;
    contents(&wal).map(|records| records.len())
}

#[test]
fn rot_in_the_last_acknowledged_frame_is_corruption_once_it_was_attested() {
    for device in [Device::Fua, Device::Flush] {
        assert_eq!(rotten(false, device).unwrap(), 3, "the window: nothing attests it");
        let error = rotten(true, device).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert_eq!(error.lsns(), Some((Lsn::new(4), Lsn::new(4))), "{error}");
    }
}

/// Whether a byte is written after the log was poisoned.
fn writes_after_poison() -> bool {
    let disk = disk(106, Device::Fua);
    let wal = open(&disk, Background::Inline).unwrap();
    wal.append(b"durable").unwrap();
    disk.fail_op(disk.ops() + 1, 5, FaultKind::NotExecuted);
    assert_eq!(wal.append(b"fails").unwrap_err().kind(), ErrorKind::Poisoned);
    let ops = disk.ops();
    assert_eq!(wal.attest_now().unwrap_err().kind(), ErrorKind::Poisoned);
    disk.ops() > ops
}

#[test]
fn a_poisoned_log_attests_nothing() {
    assert!(!writes_after_poison());
    watched(|| {
        let disk = disk(107, Device::Fua);
        let (wal, clock) = threaded(&disk, options(Background::Threads));
        wal.append(b"durable").unwrap();
        until_it_rests(&wal);
        // The thread that prepares segments has nothing to do any more either.
        until(|| lock(&wal.core().open).staging.missing_spare().is_none());
        disk.fail_op(disk.ops() + 1, 5, FaultKind::NotExecuted);
        wal.append(b"fails").unwrap_err();
        let ops = disk.ops();
        clock.advance(10 * IDLE_MIN);
        drop(wal);
        assert_eq!(disk.ops(), ops, "L12: no byte is written afterwards");
    });
}

#[test]
fn planted_attest_after_poison_is_noticed() {
    use crate::planted::{Bug, with_planted};
    assert!(with_planted(Bug::AttestAfterPoison, writes_after_poison));
}

#[test]
fn a_closed_log_and_one_that_closes_attest_nothing() {
    let disk = disk(108, Device::Fua);
    let wal = open(&disk, Background::Inline).unwrap();
    wal.append(b"x").unwrap();
    lock(&wal.core().open).phase = crate::wal::core::Phase::Closing;
    assert_eq!(wal.attest_now().unwrap_err().kind(), ErrorKind::Closed);
    lock(&wal.core().open).phase = crate::wal::core::Phase::Open;
    wal.clone().close().unwrap();
    assert_eq!(wal.attest_now().unwrap_err().kind(), ErrorKind::Closed);
    let kinds: Vec<_> = {
        let found = open(&disk, Background::Inline).unwrap();
        frames(&disk, &found).iter().map(|header| header.kind).collect()
    };
    assert_eq!(kinds, [FrameKind::Records, FrameKind::Closing, FrameKind::Barrier]);
}

/// On a full disk the last segment is for internal records: an attestation may stand in the active
/// one, but does not take it away from a truncation, a close or the engine's plans.
#[test]
fn an_attestation_never_takes_the_reserve() {
    let disk = disk(109, Device::Fua);
    let wal = open(&disk, Background::Inline).unwrap();
    let used: u64 =
        disk.files().iter().map(|path| disk.read_file(path).unwrap().len() as u64).sum();
    disk.capacity(Some(used));
    let mut attested = 0;
    // A block each for the record and its attestation.
    while let Ok(lsn) = wal.append(b"user") {
        attested += u64::from(wal.attest_now().unwrap());
        assert!(wal.durable_lsn() >= lsn);
    }
    let records = wal.durable_lsn().get();
    assert!(attested > 5 && attested <= records, "{attested} of {records}");
    let spares = |wal: &Wal| lock(&wal.core().open).staging.missing_spare().is_some();
    assert!(spares(&wal), "no more can be prepared");
    // The reserve is there for what it is kept for.
    for _ in 0..5 {
        wal.append_internal(crate::StreamId::DEFAULT, &[b"plan"]).unwrap();
        wal.attest_now().unwrap();
    }
    wal.close().unwrap();
    let again = open(&disk, Background::Inline).unwrap();
    assert_eq!(contents(&again).unwrap().len() as u64, records);
}

/// Attestations between appends of all kinds; how many records were acknowledged.
fn life(disk: &SimDisk, acknowledged: &mut u64) -> Result<()> {
    let wal = open(disk, Background::Inline)?;
    for _ in 0..2 {
        *acknowledged = wal.append(&[1; 5000])?.get();
        wal.attest_now()?;
        // It takes what is only submitted along.
        wal.submit(&[2; 100])?;
        *acknowledged = wal.append_batch(&[[3; 15_000], [4; 15_000]])?.last().get();
        wal.submit(&[5; 3000])?;
        wal.attest_now()?;
    }
    Ok(())
}

#[test]
fn every_crash_around_an_attestation_keeps_what_was_acknowledged() {
    for device in [Device::Fua, Device::Flush] {
        let whole = disk(110, device);
        life(&whole, &mut 0).unwrap();
        for number in 1..=whole.ops() {
            for manner in [CrashManner::Before, CrashManner::Torn, CrashManner::After] {
                let disk = disk(110, device);
                disk.crash_at(number, manner);
                let mut acknowledged = 0;
                // It may strike when the handle is dropped: then the life was a whole one.
                life(&disk, &mut acknowledged).ok();
                let seeded = CrashOutcome::Seeded(number);
                for outcome in [CrashOutcome::LoseAll, CrashOutcome::KeepAll, seeded] {
                    let found = disk.power_cycle(outcome);
                    let what = format!("{device:?}, operation {number}, {manner:?}, {outcome:?}");
                    let wal = open(&found, Background::Inline);
                    let wal = wal.unwrap_or_else(|error| panic!("{what}: {error}"));
                    let records = contents(&wal).unwrap_or_else(|error| panic!("{what}: {error}"));
                    assert!(records.len() as u64 >= acknowledged, "{what}");
                    let next = wal.append(b"on").unwrap().previous();
                    assert_eq!(next.get(), records.len() as u64, "{what}");
                }
            }
        }
    }
}
