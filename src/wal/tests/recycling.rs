//! Segments below the start: used again only if nobody can see them, inert whatever they held,
//! and a log of any length opens few files (LOG.md L17, L18).

use std::path::{Path, PathBuf};

use super::{contents, disk, open, options};
use crate::clock::ManualClock;
use crate::error::ErrorKind;
use crate::ids::{Epoch, Lsn, SegmentNumber};
use crate::sim::{Device, FaultKind, SimDisk};
use crate::storage::{BLOCK, LockKind, OpenMode, Storage};
use crate::sync::{Arc, lock};
use crate::wal::replay::past_the_cache;
use crate::wal::segment::file_name;
use crate::wal::writer_tests::Writer;
use crate::wal::{Background, Wal, WalOptions};

const EIO: i32 = 5;
/// Two of these do not fit one segment.
const LARGE: usize = 30_000;
/// One block each, fifteen to a segment.
const SMALL: usize = 3000;

fn path(number: u64) -> PathBuf {
    Path::new(super::PLACE).join(file_name(SegmentNumber::new(number)))
}

fn inline(disk: &SimDisk) -> Wal {
    open(disk, Background::Inline).unwrap()
}

fn with_recycled(disk: &SimDisk, recycled: u64) -> Wal {
    let options = WalOptions { recycled, ..options(Background::Inline) };
    let clock = Arc::new(ManualClock::default());
    Wal::open_with(Arc::new(disk.clone()), clock, super::PLACE, options).unwrap()
}

fn append(wal: &Wal, count: u64, length: usize) {
    for _ in 0..count {
        let number = wal.appended_lsn().get() + 1;
        let mut bytes = number.to_le_bytes().to_vec();
        bytes.resize(length, 0xAB);
        assert_eq!(wal.append(&bytes).unwrap().get(), number);
    }
}

/// That the log shows its records from `first` to `last`, each with its bytes.
fn shows(wal: &Wal, first: u64, last: u64) -> Result<(), String> {
    let records = contents(wal).map_err(|error| error.to_string())?;
    let numbers: Vec<u64> = records.iter().map(|(lsn, _)| lsn.get()).collect();
    if numbers != (first..=last).collect::<Vec<_>>() {
        return Err(format!("{first} to {last} were appended, {numbers:?} are there"));
    }
    match records.iter().find(|(lsn, bytes)| bytes[..8] != lsn.get().to_le_bytes()) {
        Some((lsn, _)) => Err(format!("record {lsn} has another one's bytes")),
        None => Ok(()),
    }
}

fn reused(wal: &Wal) -> u64 {
    lock(&wal.core().preparer).as_ref().map_or(0, |preparer| preparer.recycler.reused())
}

fn truncate(wal: &Wal, lsn: u64) -> u64 {
    wal.truncate_before(Lsn::new(lsn)).unwrap().get()
}

#[test]
fn segments_below_the_start_are_used_again_and_bounded() {
    let disk = disk(40, Device::Fua);
    let wal = inline(&disk);
    for round in 0..20 {
        append(&wal, 10, LARGE);
        let last = wal.durable_lsn().get();
        let first = truncate(&wal, last - 1);
        shows(&wal, first, last).unwrap();
        // LOCK, LOG, two with records, spare and reserve, four to be used again.
        assert!(disk.files().len() <= 10, "round {round}: {:?}", disk.files());
    }
    assert!(reused(&wal) >= 70, "{}", reused(&wal));
    let (first, last) = (wal.first_lsn().get(), wal.durable_lsn().get());
    wal.close().unwrap();
    let segments = disk.files().len() - 2;
    assert!(segments <= 4, "a closed log keeps nothing below its start: {:?}", disk.files());
    let wal = inline(&disk);
    shows(&wal, first, last).unwrap();
    append(&wal, 10, LARGE);
    shows(&wal, first, last + 10).unwrap();
}

/// After a truncation that gave up many, each later one gives up one.
#[test]
fn what_is_long_not_needed_is_removed() {
    let disk = disk(48, Device::Fua);
    let wal = with_recycled(&disk, 8);
    append(&wal, 10, LARGE);
    let mut files = Vec::new();
    for _ in 0..2400 {
        append(&wal, 1, LARGE);
        let last = wal.durable_lsn().get();
        truncate(&wal, last);
        shows(&wal, last, last).unwrap();
        files.push(disk.files().len());
    }
    // LOCK, LOG, one with a record, spare and reserve, and what is given up and taken in turns.
    let (most, least) = (files[..64].iter().max().unwrap(), files[2000..].iter().max().unwrap());
    assert!(*most >= 5 + 7 && *least <= 5 + 1, "{most}, later {least}: {files:?}");
    assert!(reused(&wal) >= 2380, "hardly any is made anew: {}", reused(&wal));
}

#[test]
fn segments_that_a_reader_let_go_are_used_again() {
    let disk = disk(47, Device::Fua);
    let wal = inline(&disk);
    append(&wal, 10, LARGE);
    let mut replay = wal.replay().unwrap();
    assert_eq!(truncate(&wal, 10), 10);
    append(&wal, 1, LARGE);
    assert_eq!((reused(&wal), disk.files().len()), (0, 2 + 10 + 3));
    while let Some(record) = replay.next() {
        record.unwrap();
    }
    drop(replay);
    append(&wal, 5, LARGE);
    assert_eq!(reused(&wal), 4);
    // LOCK, LOG, seven with records, spare and reserve; what readers left open is closed.
    assert_eq!(disk.files().len(), 2 + 7 + 2);
    assert!(disk.open_descriptions() <= 8, "{}", disk.open_descriptions());
    shows(&wal, 10, 16).unwrap();
}

#[test]
fn nothing_is_kept_where_recycling_is_off() {
    let disk = disk(41, Device::Fua);
    let wal = with_recycled(&disk, 0);
    append(&wal, 10, LARGE);
    truncate(&wal, 10);
    append(&wal, 10, LARGE);
    assert_eq!(reused(&wal), 0);
    assert!(disk.read_file(path(1)).is_none());
}

/// Segments full of small frames, of this incarnation or of an earlier one, are used again. In one
/// of them a few frames are written; the last is torn. Behind it stand whole old frames.
fn torn_tail_over_stale_frames(earlier: bool) -> Result<(), String> {
    let disk = disk(42, Device::Fua);
    let wal = inline(&disk);
    append(&wal, 40, SMALL);
    let wal = if earlier {
        drop(wal);
        inline(&disk)
    } else {
        wal
    };
    append(&wal, 40, SMALL);
    let first = truncate(&wal, 75);
    let before = wal.core().index.active().unwrap().segment.number().get();
    // Through the spares, which were prepared, into a segment that was used before.
    while wal.core().index.active().unwrap().segment.number().get() < before + 3 {
        append(&wal, 1, SMALL);
    }
    assert!(reused(&wal) >= 1);
    append(&wal, 3, SMALL);
    let number = before + 3;
    let stale = disk.read_file(path(number)).unwrap();
    let frames = stale.chunks(BLOCK).filter(|block| block.starts_with(b"FRAM")).count();
    assert!(frames > 10, "old frames stand behind the end: {frames}");
    let last = wal.durable_lsn().get();
    drop(wal);
    // The last frame is the fourth of its segment.
    disk.flip_byte(path(number), 4 * to_block() + 200, 1).unwrap();

    let writer = Writer::open(&disk).unwrap();
    let report = writer.report().clone();
    let epoch = if earlier { Epoch::new(3) } else { Epoch::new(2) };
    assert_eq!(writer.opened.epoch, epoch);
    drop(writer);
    // The torn frame's own header is the only one that can count.
    if report.dropped_frames > 1 {
        return Err(format!("old frames count as frames: {report:?}"));
    }
    let wal = inline(&disk);
    shows(&wal, first, last - 1)?;
    append(&wal, 30, SMALL);
    shows(&wal, first, last + 29)
}

fn to_block() -> u64 {
    u64::try_from(BLOCK).unwrap()
}

#[test]
fn stale_frames_of_the_same_incarnation_never_revive() {
    torn_tail_over_stale_frames(false).unwrap();
}

#[test]
fn stale_frames_of_an_earlier_incarnation_never_revive() {
    torn_tail_over_stale_frames(true).unwrap();
}

/// Who can see segment 1.
#[derive(Clone, Copy, Debug)]
enum Seen {
    Replay,
    HardLink,
    LaterHardLink,
    OtherProcess,
}

/// Segment 1 is truncated while somebody can see it; its bytes must not change.
fn seen_segment_keeps_its_bytes(seen: Seen) -> Result<(), String> {
    let disk = disk(43, Device::Fua);
    let wal = inline(&disk);
    append(&wal, 10, LARGE);
    let before = disk.read_file(path(1)).unwrap();
    let mut replay = wal.replay().map_err(|error| error.to_string())?;
    let mut other = None;
    let linked = Path::new(super::PLACE).join("backup");
    match seen {
        Seen::Replay => {}
        Seen::HardLink => disk.hard_link(path(1), "backup").unwrap(),
        Seen::LaterHardLink => {}
        Seen::OtherProcess => {
            let directory = disk.directory(Path::new(super::PLACE), false).unwrap();
            let file = directory.open(&file_name(SegmentNumber::new(1)), OpenMode::Read).unwrap();
            assert!(file.try_lock(1, LockKind::Shared).unwrap());
            other = Some(file);
        }
    }
    if !matches!(seen, Seen::Replay) {
        drop(wal.replay());
        replay = wal.replay_from(Lsn::new(10)).map_err(|error| error.to_string())?;
    }
    truncate(&wal, 10);
    if matches!(seen, Seen::LaterHardLink) {
        disk.hard_link(path(1), "backup").unwrap();
    }
    append(&wal, 10, LARGE);
    match seen {
        Seen::Replay => {
            for number in 1..=10_u64 {
                let record = replay.next().ok_or("a record is missing")?;
                let record = record.map_err(|error| error.to_string())?;
                if record.payload[..8] != number.to_le_bytes() {
                    return Err(format!("record {number} has another one's bytes"));
                }
            }
        }
        Seen::HardLink | Seen::LaterHardLink => {
            if disk.read_file(linked).unwrap() != before {
                return Err("the bytes behind a hard link changed".to_owned());
            }
        }
        Seen::OtherProcess => {
            let mut channel = disk.directory(Path::new(super::PLACE), false).unwrap().channel();
            let file = other.as_ref().unwrap();
            let channel = &mut **channel.as_mut().unwrap();
            let bytes = crate::wal::transfer::read_exact(channel, file, 0, before.len());
            if bytes.unwrap()[..] != before[..] {
                return Err("the bytes that another process reads changed".to_owned());
            }
        }
    }
    // When they are gone, so is the segment.
    drop((replay, other));
    append(&wal, 4, LARGE);
    assert!(disk.read_file(path(1)).is_none(), "{seen:?}: {:?}", disk.files());
    let (first, last) = (wal.first_lsn().get(), wal.durable_lsn().get());
    drop(wal);
    shows(&inline(&disk), first, last)
}

const SEEN: [Seen; 4] = [Seen::Replay, Seen::HardLink, Seen::LaterHardLink, Seen::OtherProcess];

#[test]
fn a_segment_that_somebody_can_see_is_not_recycled() {
    for seen in SEEN {
        seen_segment_keeps_its_bytes(seen).unwrap_or_else(|why| panic!("{seen:?}: {why}"));
    }
}

/// A reader in another process is in the middle of segment 1, past the page cache, when that is
/// truncated: it shows the rest of the segment, and then says that the log begins later by now.
fn reader_elsewhere_ends_its_segment() -> Result<(), String> {
    let disk = disk(48, Device::Fua);
    let wal = inline(&disk);
    append(&wal, 60, SMALL);
    let reader = Wal::open_read_only_with(&disk, super::PLACE).unwrap();
    let mut replay = past_the_cache(|| reader.replay()).unwrap();
    let mut shown = 0;
    let error = loop {
        match replay.next() {
            Some(Ok(record)) => {
                shown += 1;
                if record.lsn.get() != shown || record.payload[..8] != shown.to_le_bytes() {
                    return Err(format!("record {} instead of {shown}", record.lsn));
                }
            }
            Some(Err(error)) => break error,
            None => return Err(format!("{shown} records, and no word of the others")),
        }
        if shown == 1 {
            truncate(&wal, 60);
            append(&wal, 60, SMALL);
            assert!(reused(&wal) >= 2, "the segments behind are used again meanwhile");
        }
    };
    if (shown, error.kind()) != (14, ErrorKind::Invalid) {
        return Err(format!("after {shown} records of 14: {error}"));
    }
    Ok(())
}

#[test]
fn a_segment_that_a_reader_elsewhere_reads_past_the_cache_is_not_recycled() {
    reader_elsewhere_ends_its_segment().unwrap();
}

#[test]
fn planted_reader_unlocked_is_seen() {
    use crate::planted::{Bug, with_planted};
    let found = with_planted(Bug::ReaderUnlocked, reader_elsewhere_ends_its_segment);
    assert!(found.is_err(), "a segment changes under its reader, and nobody notices");
}

#[test]
fn planted_recycle_shared_is_seen() {
    use crate::planted::{Bug, with_planted};
    for seen in SEEN {
        let found = with_planted(Bug::RecycleShared, || seen_segment_keeps_its_bytes(seen));
        assert!(found.is_err(), "{seen:?} was not noticed");
    }
}

#[test]
fn planted_checksum_without_position_is_seen_in_recycled_segments() {
    use crate::planted::{Bug, with_planted};
    let found = with_planted(Bug::ChecksumWithoutPosition, || torn_tail_over_stale_frames(false));
    assert!(found.is_err(), "old frames count, and nobody notices");
}

/// What broke: a file that could not be removed, after the new start was durable, poisoned the log.
/// The caller lost a healthy log to a directory entry. Now only a failed write of `LOG` does that;
/// what could not be removed is tried again.
#[test]
fn only_a_failed_write_of_log_poisons_a_truncation() {
    let whole = disk(44, Device::Fua);
    let wal = with_recycled(&whole, 0);
    append(&wal, 10, LARGE);
    let before = whole.ops();
    truncate(&wal, 10);
    let operations = whole.ops() - before;
    let mut poisoned = 0;
    for operation in 1..=operations {
        let disk = disk(44, Device::Fua);
        let wal = with_recycled(&disk, 0);
        append(&wal, 10, LARGE);
        disk.fail_op(disk.ops() + operation, EIO, FaultKind::NotExecuted);
        match wal.truncate_before(Lsn::new(10)) {
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Poisoned);
                assert_eq!(wal.append(b"x").unwrap_err().kind(), ErrorKind::Poisoned);
                poisoned += 1;
                drop(wal);
                let wal = inline(&disk);
                shows(&wal, 1, 10).or_else(|_| shows(&wal, 10, 10)).unwrap();
            }
            Ok(start) => {
                assert_eq!(start, Lsn::new(10));
                append(&wal, 6, LARGE);
                truncate(&wal, 16);
                let segments = disk.files().len() - 2;
                assert!(segments <= 3, "operation {operation}: {:?}", disk.files());
                drop(wal);
                shows(&inline(&disk), 16, 16).unwrap();
            }
        }
    }
    // Nine files are removed, and the directory is synced; the rest is LOG.
    assert_eq!(poisoned, operations - 10);
}

#[test]
fn a_fault_at_any_operation_of_recycling_loses_nothing() {
    let job = |disk: &SimDisk, fault: Option<u64>| {
        let wal = inline(disk);
        append(&wal, 10, LARGE);
        truncate(&wal, 10);
        let before = disk.ops();
        if let Some(operation) = fault {
            disk.fail_op(before + operation, EIO, FaultKind::ExecutedButReported);
        }
        let mut last = 10_u64;
        for _ in 0..12 {
            last += u64::from(wal.append(&(last + 1).to_le_bytes().repeat(LARGE / 8)).is_ok());
        }
        (wal, disk.ops() - before, last)
    };
    let (_, operations, _) = job(&disk(45, Device::Fua), None);
    for operation in 1..=operations {
        let disk = disk(45, Device::Fua);
        let (wal, _, last) = job(&disk, Some(operation));
        drop(wal);
        let wal = inline(&disk);
        let end = wal.durable_lsn().get();
        assert!(end >= last, "operation {operation}: {last} were acknowledged, {end} are there");
        shows(&wal, 10, end).unwrap_or_else(|why| panic!("operation {operation}: {why}"));
    }
}

/// As many as 2,000 on a real file system: `tests/wal_descriptors.rs`.
#[test]
fn a_long_log_opens_few_files() {
    let disk = disk(46, Device::Fua);
    let wal = with_recycled(&disk, 0);
    let mut most = 0;
    for _ in 0..10 {
        append(&wal, 10, LARGE);
        most = most.max(disk.open_descriptions());
    }
    shows(&wal, 1, 100).unwrap();
    // LOCK, LOG, active, spare, reserve, one that was just sealed, and what readers left.
    most = most.max(disk.open_descriptions());
    assert!(most <= 16, "{most} descriptions");
    drop(wal);
    let wal = with_recycled(&disk, 0);
    assert!(disk.open_descriptions() <= 16, "{}", disk.open_descriptions());
    shows(&wal, 1, 100).unwrap();
    assert!(disk.open_descriptions() <= 16, "{}", disk.open_descriptions());
}
