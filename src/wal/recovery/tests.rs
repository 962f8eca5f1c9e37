//! The decision table of `docs/recovery.md`, row by row.

mod crash;
mod files;
mod salvage;

use std::path::{Path, PathBuf};

use crate::error::{Error, ErrorKind};
use crate::ids::{Epoch, Lsn, Position, SegmentNumber};
use crate::sim::SimDisk;
use crate::storage::BLOCK;
use crate::wal::frame::{FrameHeader, FrameKind};
use crate::wal::log_file::LOG_NAME;
use crate::wal::record::RecordKind;
use crate::wal::segment::file_name;
use crate::wal::writer_tests::{PLACE, Writer, disk, one_record};

fn path(number: u64) -> PathBuf {
    Path::new(PLACE).join(file_name(SegmentNumber::new(number)))
}

fn log_path() -> PathBuf {
    Path::new(PLACE).join(LOG_NAME)
}

/// Changes a file's bytes, on the medium and in every cache.
fn edit(disk: &SimDisk, path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = disk.read_file(path).unwrap();
    change(&mut bytes);
    disk.write_file(path, &bytes);
}

/// As if the frame's first block had never arrived.
fn blank(disk: &SimDisk, position: Position) {
    let start = usize::try_from(position.offset).unwrap();
    edit(disk, &path(position.segment.get()), |bytes| bytes[start..start + BLOCK].fill(0));
}

/// Rots one bit of the frame's payload or padding.
fn rot(disk: &SimDisk, position: Position) {
    disk.flip_byte(path(position.segment.get()), position.offset + 132, 1).unwrap();
}

fn user(bytes: &[u8]) -> Vec<Vec<u8>> {
    vec![one_record(RecordKind::User, bytes)]
}

/// That opening is refused with this kind, twice with the same words, and changes nothing.
fn refused(disk: &SimDisk, kind: ErrorKind) -> Error {
    let files = |disk: &SimDisk| -> Vec<_> {
        let files = disk.files().into_iter().filter(|path| !path.ends_with("LOCK"));
        files.map(|path| (disk.read_file(&path), path)).collect()
    };
    let before = files(disk);
    let error = Writer::open(disk).unwrap_err();
    assert_eq!(error.kind(), kind, "{error}");
    let again = Writer::open(disk).unwrap_err();
    assert_eq!(error.to_string(), again.to_string());
    assert!(before == files(disk), "a refused opening changed something");
    error
}

fn lsns(writer: &Writer) -> Vec<u64> {
    writer.read(0).unwrap().into_iter().map(|(lsn, _)| lsn).collect()
}

/// What is left out of the report is the block of a segment's own header.
#[test]
fn an_opening_reads_the_segment_that_log_names_and_one_frame_block_of_those_before() {
    let read = |segments: u64| {
        let disk = disk(1);
        let mut writer = Writer::open(&disk).unwrap();
        for _ in 0..15 * segments {
            writer.append(&[7; 3000]).unwrap();
        }
        writer.write_log(false).unwrap();
        drop(writer);
        Writer::open(&disk).unwrap().report().bytes_read
    };
    let block = u64::try_from(BLOCK).unwrap();
    assert_eq!(read(40) - read(4), 36 * block);
}

#[test]
fn a_new_log_is_created_and_opens_again() {
    let disk = disk(1);
    let mut writer = Writer::open(&disk).unwrap();
    assert!(writer.report().created);
    assert_eq!((writer.opened.epoch, writer.tail().next_lsn), (Epoch::new(1), Lsn::FIRST));
    writer.append(b"hello").unwrap();
    let error = Writer::open(&disk).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Locked);
    assert!(error.to_string().contains("test"), "it names the holder: {error}");
    drop(writer);
    let writer = Writer::open(&disk).unwrap();
    assert!(!writer.report().created);
    assert_eq!((writer.opened.epoch, writer.tail().next_lsn), (Epoch::new(2), Lsn::new(2)));
    assert_eq!(writer.report().cut, None);
}

#[test]
fn frames_continue_over_many_segments_and_openings() {
    let disk = disk(2);
    for round in 0..5_u64 {
        let mut writer = Writer::open(&disk).unwrap();
        assert_eq!(writer.tail().next_lsn, Lsn::new(round * 40 + 1));
        for _ in 0..40 {
            writer.append(&[7; 3000]).unwrap();
        }
        if round % 2 == 0 {
            writer.close().unwrap();
        }
    }
    let writer = Writer::open(&disk).unwrap();
    assert_eq!(lsns(&writer), (1..=200).collect::<Vec<_>>());
}

#[test]
fn a_torn_last_frame_is_cut() {
    for tear in [blank, rot] {
        let disk = disk(3);
        let mut writer = Writer::open(&disk).unwrap();
        writer.append(b"one").unwrap();
        let torn = writer.plain(&user(&[9; 5000])).unwrap();
        drop(writer);
        tear(&disk, torn);
        let writer = Writer::open(&disk).unwrap();
        assert_eq!(writer.tail().next_lsn, Lsn::new(2));
        assert_eq!(lsns(&writer), [1]);
    }
}

/// A hole with three whole frames behind it, none of which says that the hole was durable.
fn hole() -> SimDisk {
    let disk = disk(4);
    let mut writer = Writer::open(&disk).unwrap();
    writer.append(b"one").unwrap();
    let hole = writer.plain(&user(b"two")).unwrap();
    for name in [b"three", b"four!", b"five!"] {
        writer.plain(&user(name)).unwrap();
    }
    drop(writer);
    blank(&disk, hole);
    disk
}

#[test]
fn whole_frames_behind_a_hole_are_dropped_and_never_come_back() {
    let disk = hole();
    let mut writer = Writer::open(&disk).unwrap();
    assert_eq!((lsns(&writer), writer.report().dropped_frames), (vec![1], 3));
    assert_eq!(writer.report().cut, Some(Position { offset: 12288, ..first() }));
    // Each new frame is as long as a dropped one: the chain ends right before a whole old frame.
    for lsn in 2..=6 {
        drop(writer);
        writer = Writer::open(&disk).unwrap();
        writer.append(b"new").unwrap();
        let records = writer.read(2).unwrap();
        assert!(records.iter().all(|(_, bytes)| bytes == b"new"), "{records:?}");
        assert_eq!(lsns(&writer), (1..=lsn).collect::<Vec<_>>());
    }
}

fn first() -> Position {
    Position { segment: SegmentNumber::new(1), offset: 0 }
}

#[test]
fn planted_existence_attests_is_seen() {
    let disk = hole();
    let bug = crate::planted::Bug::ExistenceAttests;
    let opened = crate::planted::with_planted(bug, || Writer::open(&disk));
    assert_eq!(opened.unwrap_err().kind(), ErrorKind::Corrupt, "a sound log was refused");
}

/// Three acknowledged records, the second one rotten: the third's frame attests it.
fn attested() -> (SimDisk, Position) {
    let disk = disk(5);
    let mut writer = Writer::open(&disk).unwrap();
    writer.append(b"one").unwrap();
    let second = writer.append(b"two").unwrap();
    writer.append(b"three").unwrap();
    drop(writer);
    rot(&disk, second);
    (disk, second)
}

#[test]
fn a_bad_frame_that_a_later_frame_attests_is_corruption() {
    let (disk, second) = attested();
    let error = refused(&disk, ErrorKind::Corrupt);
    assert_eq!(error.position(), Some(second));
    assert_eq!(error.lsns(), Some((Lsn::new(2), Lsn::new(2))));
    assert!(error.to_string().contains("up to record 1 is intact"), "{error}");
    assert!(error.to_string().contains("whole frames follow from record 3"), "{error}");
}

#[test]
fn planted_truncate_at_first_bad_is_seen() {
    let (disk, _) = attested();
    let bug = crate::planted::Bug::TruncateAtFirstBad;
    let writer = crate::planted::with_planted(bug, || Writer::open(&disk)).unwrap();
    assert_eq!(lsns(&writer), [1], "acknowledged records are gone without a word");
}

#[test]
fn a_bad_frame_that_log_attests_is_corruption() {
    let disk = disk(6);
    let mut writer = Writer::open(&disk).unwrap();
    writer.append(b"one").unwrap();
    let last = writer.append(b"two").unwrap();
    writer.write_log(false).unwrap();
    drop(writer);
    rot(&disk, last);
    let error = refused(&disk, ErrorKind::Corrupt);
    assert_eq!(error.lsns(), Some((Lsn::new(2), Lsn::new(2))));
    assert!(error.to_string().contains("LOG says"), "{error}");
}

#[test]
fn a_bad_frame_that_a_closing_frame_or_a_barrier_attests_is_corruption() {
    for closed in [false, true] {
        let disk = disk(7);
        let mut writer = Writer::open(&disk).unwrap();
        let last = writer.append(b"one").unwrap();
        let log = disk.read_file(log_path()).unwrap();
        if closed {
            writer.close().unwrap();
        } else {
            drop(writer);
            Writer::open(&disk).unwrap();
        }
        // Without what LOG learned meanwhile.
        disk.write_file(log_path(), &log);
        rot(&disk, last);
        let error = refused(&disk, ErrorKind::Corrupt);
        assert_eq!((error.position(), error.lsns().unwrap().0), (Some(last), Lsn::FIRST));
    }
}

#[test]
fn a_lost_barrier_is_corruption_by_log_or_by_what_its_incarnation_wrote() {
    for appended in [false, true] {
        let disk = disk(8);
        let mut writer = Writer::open(&disk).unwrap();
        writer.append(b"one").unwrap();
        let log = disk.read_file(log_path()).unwrap();
        drop(writer);
        let mut writer = Writer::open(&disk).unwrap();
        let barrier = writer.log_file().state().barrier;
        if appended {
            writer.append(b"two, acknowledged, attested by nobody").unwrap();
            disk.write_file(log_path(), &log);
        }
        drop(writer);
        blank(&disk, barrier);
        let error = refused(&disk, ErrorKind::Corrupt);
        assert_eq!((error.position(), error.lsns().unwrap().0), (Some(barrier), Lsn::new(2)));
    }
}

/// A barrier of epoch 2 whose header stands and whose payload does not, and a `LOG` without it: a
/// crash in the middle of an opening.
fn torn_barrier() -> SimDisk {
    let disk = disk(9);
    let mut writer = Writer::open(&disk).unwrap();
    writer.append(b"one").unwrap();
    let log = disk.read_file(log_path()).unwrap();
    drop(writer);
    let mut writer = Writer::open(&disk).unwrap();
    let barrier = writer.log_file().state().barrier;
    drop(writer);
    rot(&disk, barrier);
    disk.write_file(log_path(), &log);
    disk
}

#[test]
fn the_epoch_is_above_every_header_that_decodes() {
    let writer = Writer::open(&torn_barrier()).unwrap();
    assert_eq!((writer.opened.epoch, lsns(&writer)), (Epoch::new(3), vec![1]));
}

/// The opening after it wrote a barrier with an epoch that no decoder accepts: the one after that
/// lost every record.
#[test]
fn an_epoch_at_the_end_of_its_range_is_refused() {
    let disk = disk(1);
    let mut writer = Writer::open(&disk).unwrap();
    writer.append(b"one").unwrap();
    writer.opened.epoch = Epoch::new(u64::MAX / 2 - 1);
    writer.frame(FrameKind::Barrier, &[]).unwrap();
    drop(writer);
    refused(&disk, ErrorKind::Corrupt);
}

#[test]
fn planted_epoch_from_accepted_is_seen() {
    let disk = torn_barrier();
    let bug = crate::planted::Bug::EpochFromAccepted;
    let writer = crate::planted::with_planted(bug, || Writer::open(&disk)).unwrap();
    assert_eq!(writer.opened.epoch, Epoch::new(2), "two incarnations with one epoch");
}

#[test]
fn read_errors_are_unreadable_wherever_they_are() {
    // In the chain, right behind it, and in the last block of the last segment.
    for offset in [8192, 12288 + 512, 65536 - 512] {
        let disk = disk(10);
        let mut writer = Writer::open(&disk).unwrap();
        writer.append(b"one").unwrap();
        drop(writer);
        disk.fail_reads_at(path(1), offset).unwrap();
        let error = refused(&disk, ErrorKind::Unreadable);
        assert!(error.path().is_some_and(|at| at == path(1)), "{error}");
    }
}

#[test]
fn planted_read_error_is_torn_is_seen() {
    let disk = disk(10);
    let mut writer = Writer::open(&disk).unwrap();
    writer.append(b"one").unwrap();
    drop(writer);
    disk.fail_reads_at(path(1), 8192).unwrap();
    let bug = crate::planted::Bug::ReadErrorIsTorn;
    let writer = crate::planted::with_planted(bug, || Writer::open(&disk)).unwrap();
    assert_eq!(writer.durable, Lsn::ZERO, "an acknowledged record is gone");
}

#[test]
fn a_barrier_that_does_not_fit_starts_the_next_segment() {
    let disk = disk(11);
    let mut writer = Writer::open(&disk).unwrap();
    // 64 KiB: header, barrier, and 14 blocks of frames.
    for _ in 0..14 {
        writer.append(b"x").unwrap();
    }
    assert_eq!(writer.tail().position.offset, 65536);
    for round in 2..5 {
        drop(writer);
        writer = Writer::open(&disk).unwrap();
        assert_eq!(writer.tail().position.segment, SegmentNumber::new(2));
        assert_eq!(lsns(&writer).len(), 14 + usize::try_from(round).unwrap() - 2);
        writer.append(b"x").unwrap();
    }
}

#[test]
fn barriers_name_the_epochs_before_them() {
    use crate::wal::barrier::Barrier;
    let disk = disk(12);
    for _ in 1..=20 {
        let mut writer = Writer::open(&disk).unwrap();
        writer.append(b"x").unwrap();
    }
    let mut writer = Writer::open(&disk).unwrap();
    let state = *writer.log_file().state();
    let bytes = disk.read_file(path(state.barrier.segment.get())).unwrap();
    let frame = &bytes[usize::try_from(state.barrier.offset).unwrap()..];
    let (header, _) = FrameHeader::decode(frame, state.log, state.barrier).unwrap();
    let payload = crate::wal::frame::payload(&header, frame).unwrap();
    let barrier = Barrier::decode(&header, payload).unwrap();
    let expected: Vec<_> = (1..=20).map(|n| (Epoch::new(n), Lsn::new(n))).collect();
    assert_eq!((header.epoch, barrier.pairs), (Epoch::new(21), expected));
}

#[test]
fn a_tombstone_without_sense_is_no_frame() {
    let disk = disk(13);
    let mut writer = Writer::open(&disk).unwrap();
    writer.append(b"one").unwrap();
    writer.frame(FrameKind::Tombstone, &[]).unwrap();
    drop(writer);
    let writer = Writer::open(&disk).unwrap();
    assert_eq!((lsns(&writer), writer.report().cut.is_some()), (vec![1], true));
}

/// Whatever bit rots in the frames of a closed log, opening it either shows every record or says
/// what is damaged.
#[test]
fn no_flipped_bit_loses_a_record_silently() {
    let disk = disk(14);
    let mut writer = Writer::open(&disk).unwrap();
    writer.append(b"one").unwrap();
    writer.append(&[2; 4200]).unwrap();
    writer.append(b"three").unwrap();
    writer.close().unwrap();
    let (segment, log) = (disk.read_file(path(1)).unwrap(), disk.read_file(log_path()).unwrap());
    let mut corrupt = 0;
    for at in (0..9 * BLOCK).step_by(37) {
        for (file, bytes) in [(path(1), &segment), (log_path(), &log)] {
            let Some(byte) = bytes.get(at) else { continue };
            let mut rotten = bytes.clone();
            rotten[at] = byte ^ (1 << (at % 8));
            disk.write_file(path(1), &segment);
            disk.write_file(log_path(), &log);
            disk.write_file(&file, &rotten);
            match Writer::open(&disk) {
                Ok(writer) => assert_eq!(lsns(&writer), [1, 2, 3], "byte {at} of {file:?}"),
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
                    corrupt += 1;
                }
            }
        }
    }
    assert!(corrupt > 500, "{corrupt}");
}
