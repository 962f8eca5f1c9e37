//! Readers that come back after the log was opened again (LOG.md L21).

use super::{contents, disk, open};
use crate::error::{ErrorKind, Result};
use crate::ids::{Epoch, Lsn};
use crate::sim::{CrashOutcome, Device, SimDisk};
use crate::wal::{Background, ReaderPosition, Wal};

fn inline(disk: &SimDisk) -> Wal {
    open(disk, Background::Inline).unwrap()
}

fn lose_all(disk: &SimDisk) -> SimDisk {
    disk.power_cycle(CrashOutcome::LoseAll)
}

/// What a replay and a tail from a position show first.
fn resume(wal: &Wal, position: ReaderPosition) -> Result<Option<Lsn>> {
    let lsn = wal.replay_from_position(position)?.next().transpose()?.map(|record| record.lsn);
    let tail = wal.tail_from(position)?.try_next().transpose()?.map(|record| record.lsn);
    assert_eq!(tail, lsn);
    Ok(lsn)
}

fn kind(wal: &Wal, position: ReaderPosition) -> ErrorKind {
    let kind = resume(wal, position).unwrap_err().kind();
    assert_eq!(wal.tail_from(position).unwrap_err().kind(), kind);
    kind
}

#[test]
fn a_position_of_durable_records_stands_after_any_crash() {
    let disk = disk(70, Device::Fua);
    let wal = inline(&disk);
    for _ in 0..3 {
        wal.append(b"seen").unwrap();
    }
    let (first, position) = (wal.position_at(Lsn::FIRST), wal.position());
    wal.append(b"unseen").unwrap();
    wal.submit(b"lost").unwrap();
    for found in [lose_all(&disk), disk.kill()] {
        let wal = inline(&found);
        assert_eq!(resume(&wal, position).unwrap(), Some(Lsn::new(4)));
        assert_eq!(resume(&wal, first).unwrap(), Some(Lsn::new(2)));
        assert_eq!(resume(&wal, wal.position()).unwrap(), None, "nothing new");
        let beginning = ReaderPosition { epoch: Epoch::new(77), lsn: Lsn::ZERO };
        assert_eq!(resume(&wal, beginning).unwrap(), Some(Lsn::FIRST));
    }
}

/// A log whose records from 3 on were handed out and lost; other ones stand there now. The position
/// of a reader that had seen record 4.
fn cut_and_written_over() -> (SimDisk, ReaderPosition) {
    let disk = disk(71, Device::Fua);
    let wal = inline(&disk);
    for _ in 0..2 {
        wal.append(b"durable").unwrap();
    }
    let pending = [wal.submit(b"handed out").unwrap(), wal.submit(b"handed out").unwrap()];
    let position = wal.position_at(pending[1].lsn());
    let disk = lose_all(&disk);
    let wal = inline(&disk);
    for _ in 0..5 {
        wal.append(b"another").unwrap();
    }
    wal.close().unwrap();
    (disk, position)
}

/// Whether a reader learns that what it has seen was cut off.
fn divergence_is_noticed() -> bool {
    let (disk, position) = cut_and_written_over();
    let wal = inline(&disk);
    let outcome = resume(&wal, position).map_err(|error| error.kind());
    outcome == Err(ErrorKind::Diverged { last_good: Lsn::new(2) })
}

#[test]
fn a_position_that_a_later_barrier_has_cut_is_never_silence() {
    assert!(divergence_is_noticed());
    let (mut disk, position) = cut_and_written_over();
    for _ in 0..5 {
        let wal = inline(&disk);
        let diverged = ErrorKind::Diverged { last_good: Lsn::new(2) };
        assert_eq!(kind(&wal, position), diverged);
        let shared = ReaderPosition { lsn: Lsn::new(2), ..position };
        assert_eq!(resume(&wal, shared).unwrap(), Some(Lsn::new(3)), "what is shared stands");
        wal.append(b"more").unwrap();
        disk = lose_all(&disk);
    }
}

#[test]
fn planted_silent_divergence_is_noticed() {
    use crate::planted::{Bug, with_planted};
    assert!(!with_planted(Bug::SilentDivergence, divergence_is_noticed));
}

#[test]
fn a_position_of_no_known_epoch_shares_nothing() {
    let (disk, _) = cut_and_written_over();
    let wal = inline(&disk);
    let epoch = wal.position().epoch.next();
    let position = ReaderPosition { epoch, lsn: Lsn::new(2) };
    assert_eq!(kind(&wal, position), ErrorKind::Diverged { last_good: Lsn::ZERO });
    let above = wal.position_at(wal.appended_lsn().next());
    assert_eq!(kind(&wal, above), ErrorKind::Invalid);
}

#[test]
fn a_reader_behind_the_start_is_told() {
    let disk = disk(72, Device::Fua);
    let wal = inline(&disk);
    for _ in 0..12 {
        wal.append(&[1; 30_000]).unwrap();
    }
    let start = wal.truncate_before(Lsn::new(9)).unwrap();
    assert!(start > Lsn::new(4));
    let (behind, at) = (wal.position_at(Lsn::new(3)), wal.position_at(start.previous()));
    assert_eq!(kind(&wal, behind), ErrorKind::Invalid);
    assert_eq!(resume(&wal, at).unwrap(), Some(start));
    // Also when its epoch is known no more.
    let mut found = disk;
    for _ in 0..3 {
        found = lose_all(&found);
        let wal = inline(&found);
        assert_eq!(kind(&wal, behind), ErrorKind::Invalid);
        assert_eq!(resume(&wal, at).unwrap(), Some(start));
        wal.append(b"another epoch").unwrap();
    }
}

/// More openings than one barrier names: the older ones are found along the chain of barriers.
#[test]
fn epochs_beyond_the_pairs_of_one_barrier_are_found() {
    let (mut disk, cut) = cut_and_written_over();
    let mut stands = Vec::new();
    for _ in 0..300 {
        let wal = inline(&disk);
        let lsn = wal.append(b"x").unwrap();
        stands.push(wal.position_at(lsn));
        disk = lose_all(&disk);
    }
    let wal = inline(&disk);
    assert_eq!(kind(&wal, cut), ErrorKind::Diverged { last_good: Lsn::new(2) });
    for position in stands.iter().step_by(23) {
        let next = (position.lsn < wal.durable_lsn()).then(|| position.lsn.next());
        assert_eq!(resume(&wal, *position).unwrap(), next);
        let ahead = ReaderPosition { lsn: position.lsn.next(), ..*position };
        let diverged = ErrorKind::Diverged { last_good: position.lsn };
        assert_eq!(kind(&wal, ahead), diverged, "{ahead}");
    }
    assert_eq!(contents(&wal).unwrap().len(), 307);
}

/// Whoever stored the position may have stored anything.
#[test]
fn a_position_that_no_log_reaches_is_refused() {
    let disk = SimDisk::new(7);
    let wal = inline(&disk);
    wal.append(b"one").unwrap();
    let at = wal.position();
    let far = ReaderPosition { lsn: Lsn::new(u64::MAX), ..at };
    for epoch in [0, 1, 2, u64::MAX] {
        let position = ReaderPosition { epoch: Epoch::new(epoch), ..far };
        assert_eq!(kind(&wal, position), ErrorKind::Invalid);
        assert_eq!(wal.tail_from(position).unwrap_err().kind(), ErrorKind::Invalid);
    }
}
