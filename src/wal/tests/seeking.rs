//! Finding records by time (LOG.md L24).

use std::time::Duration;

use super::{PLACE, disk, options};
use crate::clock::ManualClock;
use crate::error::ErrorKind;
use crate::ids::Lsn;
use crate::sim::{CrashOutcome, Device, SimDisk};
use crate::sync::Arc;
use crate::wal::{Background, Wal};

fn open_at(disk: &SimDisk, time_ns: u64) -> (Wal, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::default());
    clock.advance(Duration::from_nanos(time_ns));
    let options = options(Background::Inline);
    let wal = Wal::open_with(Arc::new(disk.clone()), Arc::clone(&clock) as _, PLACE, options);
    (wal.unwrap(), clock)
}

/// A log over several segments and openings, the clocks of which were set back twice; and when each
/// record was sealed, as the rule wants it.
fn written() -> (SimDisk, Vec<(Lsn, u64)>) {
    let mut disk = disk(80, Device::Fua);
    let (mut sealed, mut last) = (Vec::new(), 0);
    for start in [1000, 1400, 200, 5000, 1] {
        let (wal, clock) = open_at(&disk, start);
        let mut now = start;
        for number in 0..14 {
            let lsn = wal.append(&vec![7; 500 * (number % 5) + 9000 * (number % 3)]).unwrap();
            last = now.max(last);
            sealed.push((lsn, last));
            // Several records of one moment too.
            let step = [0, 0, 7, 40][number % 4];
            clock.advance(Duration::from_nanos(step));
            now += step;
        }
        disk = disk.power_cycle(CrashOutcome::LoseAll);
    }
    (disk, sealed)
}

fn every_time_is_found() -> bool {
    let (disk, sealed) = written();
    let (wal, _) = open_at(&disk, 9000);
    assert!(wal.core().index.reaching(Lsn::ZERO).len() > 5, "over segments");
    let times = sealed.iter().flat_map(|(_, time)| [time - 1, *time, time + 1]);
    times.chain([0, u64::MAX]).all(|time| {
        let expected = sealed.iter().find(|(_, sealed)| *sealed >= time);
        let expected = expected.map_or(wal.durable_lsn().next(), |(lsn, _)| *lsn);
        wal.seek_time(time).unwrap() == expected
    })
}

#[test]
fn the_first_record_sealed_at_a_time_or_later_is_found_over_segments_and_openings() {
    assert!(every_time_is_found());
}

#[test]
fn planted_falling_seal_times_are_noticed() {
    use crate::planted::{Bug, with_planted};
    assert!(!with_planted(Bug::SealTimeFalls, every_time_is_found));
}

#[test]
fn what_is_truncated_or_not_durable_is_not_found() {
    let (disk, sealed) = written();
    let (wal, clock) = open_at(&disk, 9000);
    let start = wal.truncate_before(Lsn::new(40)).unwrap();
    assert!(start > Lsn::new(30));
    assert_eq!(wal.seek_time(sealed[20].1).unwrap(), start);
    clock.advance(Duration::from_nanos(50));
    let pending = wal.submit(b"later").unwrap();
    assert_eq!(wal.seek_time(9050).unwrap(), pending.lsn(), "the next to become durable");
    pending.wait().unwrap();
    assert_eq!(wal.seek_time(9050).unwrap(), pending.lsn());
    assert_eq!(wal.seek_time(9051).unwrap(), pending.lsn().next());
    wal.clone().close().unwrap();
    assert_eq!(wal.seek_time(0).unwrap_err().kind(), ErrorKind::Closed);
}

#[test]
fn an_empty_log_has_nothing_to_be_found() {
    let (wal, _) = open_at(&disk(81, Device::Fua), 3);
    assert_eq!(wal.seek_time(0).unwrap(), Lsn::FIRST);
    assert_eq!(wal.seek_time(u64::MAX).unwrap(), Lsn::FIRST);
}

#[test]
fn a_damaged_header_on_the_way_is_an_error_and_no_wrong_answer() {
    let (disk, sealed) = written();
    let (wal, _) = open_at(&disk, 9000);
    let entries = wal.core().index.reaching(Lsn::ZERO);
    let path = entries[2].segment.path();
    disk.flip_byte(&path, 4096 + 30, 1).unwrap();
    let (_, time) = sealed[usize::try_from(entries[2].first_lsn.get()).unwrap() - 1];
    let error = wal.seek_time(time).unwrap_err();
    assert_eq!((error.kind(), error.path()), (ErrorKind::Corrupt, Some(&*path)));
}

#[test]
fn what_a_repair_gave_up_is_passed() {
    let (disk, sealed) = written();
    let (wal, _) = open_at(&disk, 9000);
    let paths: Vec<_> =
        wal.core().index.reaching(Lsn::ZERO).iter().map(|entry| entry.segment.path()).collect();
    wal.close().unwrap();
    for path in &paths[1..5] {
        disk.flip_byte(path, 4096 + 132, 1).unwrap();
        disk.flip_byte(path, 4096 + 200, 1).unwrap();
    }
    let damages = Wal::verify_with(&disk, PLACE).unwrap().damages;
    let lost: Vec<_> = damages.iter().filter_map(|damage| damage.lost).collect();
    assert!(lost.len() >= 3, "{damages:?}");
    Wal::repair_with(&disk, &ManualClock::default(), PLACE, Duration::ZERO, &lost).unwrap();
    let (wal, _) = open_at(&disk, 9000);
    let gone = |lsn: Lsn| lost.iter().any(|range| range.first() <= lsn && lsn <= range.last());
    let left: Vec<_> = sealed.iter().filter(|(lsn, _)| !gone(*lsn)).collect();
    assert!(left.len() < sealed.len());
    for (_, time) in &sealed {
        let expected = left.iter().find(|(_, sealed)| sealed >= time);
        let found = wal.seek_time(*time).unwrap();
        // A place in a gap is as good as the record behind it: a replay begins there.
        let expected = expected.map_or(wal.durable_lsn().next(), |(lsn, _)| *lsn);
        let in_gap = gone(found) && (found.get()..expected.get()).all(|lsn| gone(Lsn::new(lsn)));
        assert!(found == expected || in_gap, "{found} for {expected}");
    }
}
