//! Rows of the table that are about files: missing, foreign, short, unfinished.

use std::time::Duration;

use super::*;
use crate::clock::ManualClock;
use crate::wal::Wal;
use crate::wal::log_file::LogState;
use crate::wal::segment::{HeaderFault, SEGMENT_SIZE_MIN, SegmentHeader};

/// Forty records over four segments, closed or not.
fn four_segments(disk: &SimDisk, closed: bool) {
    let mut writer = Writer::open(disk).unwrap();
    for _ in 0..50 {
        writer.append(b"x").unwrap();
    }
    assert_eq!(writer.tail().position.segment, SegmentNumber::new(4));
    if closed {
        writer.close().unwrap();
    }
}

pub(super) fn remove(disk: &SimDisk, number: u64) {
    use crate::storage::Storage;
    let directory = disk.directory(Path::new(PLACE), false).unwrap();
    directory.unlink(&file_name(SegmentNumber::new(number))).unwrap();
    directory.sync().unwrap();
}

#[test]
fn a_missing_segment_is_corruption_if_anything_names_it() {
    for (number, closed) in [(1, false), (2, false), (3, false), (3, true), (4, true)] {
        let disk = disk(20);
        four_segments(&disk, closed);
        remove(&disk, number);
        let error = refused(&disk, ErrorKind::Corrupt);
        assert!(error.path().is_some_and(|at| at == path(number)), "{number}: {error}");
        assert!(error.to_string().contains("is missing"), "{error}");
    }
}

#[test]
fn foreign_swapped_short_and_headless_segments_are_corruption() {
    type Change = fn(&SimDisk);
    let changes: [(&str, Change); 5] = [
        ("belongs to another log", |disk| {
            let other = super::disk(99);
            four_segments(&other, false);
            disk.write_file(path(2), &other.read_file(path(2)).unwrap());
        }),
        ("is another segment's file", |disk| {
            let (two, three) = (disk.read_file(path(2)), disk.read_file(path(3)));
            disk.write_file(path(2), &three.unwrap());
            disk.write_file(path(3), &two.unwrap());
        }),
        ("is shorter or longer", |disk| edit(disk, &path(3), |bytes| bytes.truncate(20000))),
        ("has a damaged header", |disk| edit(disk, &path(2), |bytes| bytes[..BLOCK].fill(0))),
        ("has a damaged header", |disk| edit(disk, &path(4), |bytes| bytes[17] ^= 1)),
    ];
    for (what, change) in changes {
        for closed in [false, true] {
            let disk = disk(21);
            four_segments(&disk, closed);
            change(&disk);
            let error = refused(&disk, ErrorKind::Corrupt);
            assert!(error.to_string().contains(what), "{error}");
        }
    }
}

#[test]
fn trailing_segments_without_a_frame_are_spares_and_unfinished_ones_are_removed() {
    let disk = disk(22);
    let mut writer = Writer::open(&disk).unwrap();
    writer.append(b"one").unwrap();
    let header = |number: u64| {
        let mut bytes = vec![0; usize::try_from(SEGMENT_SIZE_MIN).unwrap()];
        let (log, number) = (writer.opened.log, SegmentNumber::new(number));
        SegmentHeader { log, number, size: SEGMENT_SIZE_MIN }.encode(&mut bytes);
        bytes
    };
    let (two, three) = (header(2), header(3));
    drop(writer);
    disk.write_file(path(2), &two);
    let unfinished = [vec![], vec![0; 5000], vec![0; three.len()], three[..BLOCK].to_vec()];
    for bytes in unfinished {
        disk.write_file(path(3), &bytes);
        disk.write_file(path(4), &vec![0; 4096]);
        let writer = Writer::open(&disk).unwrap();
        let spares: Vec<_> = writer.opened.spares.iter().map(|spare| spare.number()).collect();
        assert_eq!((lsns(&writer), spares), (vec![1], vec![SegmentNumber::new(2)]));
        assert_eq!(disk.read_file(path(3)), None);
        assert_eq!(disk.read_file(path(4)), None);
    }
}

#[test]
fn without_a_slot_the_segments_decide() {
    // With records: LOG is lost. Without: the creation never finished.
    let disk = disk(23);
    four_segments(&disk, false);
    let log = disk.read_file(log_path()).unwrap();
    edit(&disk, &log_path(), |bytes| {
        bytes[100] ^= 1;
        bytes[BLOCK + 100] ^= 1;
    });
    let error = refused(&disk, ErrorKind::Corrupt);
    assert!(error.to_string().contains("LOG is lost"), "{error}");
    edit(&disk, &log_path(), |bytes| bytes.fill(0));
    refused(&disk, ErrorKind::Corrupt);
    // One slot is enough, whichever it is.
    for slot in [0, BLOCK] {
        disk.write_file(log_path(), &log);
        edit(&disk, &log_path(), |bytes| bytes[slot + 100] ^= 1);
        assert_eq!(lsns(&Writer::open(&disk).unwrap()).len(), 50);
    }
    for torn in [vec![], vec![0; 512], log[..512].to_vec(), vec![0; 2 * BLOCK]] {
        let disk = super::disk(24);
        disk.write_file(log_path(), &torn);
        assert!(Writer::open(&disk).unwrap().report().created);
    }
}

#[test]
fn another_programs_directory_is_left_alone() {
    let disk = disk(25);
    disk.write_file(log_path(), b"2026/11/21-01:30:00.000000 7f00 RocksDB version: 9.1.0\n");
    refused(&disk, ErrorKind::Unsupported);
}

#[test]
fn newer_versions_are_named() {
    use crate::wal::segment::seal_block;
    let newer = |bytes: &mut Vec<u8>| {
        bytes[8] = 2;
        seal_block(&mut bytes[..BLOCK]);
    };
    for file in [path(2), log_path()] {
        let disk = disk(26);
        four_segments(&disk, false);
        edit(&disk, &file, newer);
        let error = refused(&disk, ErrorKind::Unsupported);
        assert!(error.to_string().contains("version 2"), "{error}");
    }
    assert_eq!(SegmentHeader::decode(&[0; BLOCK]), Err(HeaderFault::Damaged));
}

#[test]
fn segments_below_the_start_are_removed_and_never_read() {
    let disk = disk(27);
    four_segments(&disk, false);
    let (one, two) = (disk.read_file(path(1)).unwrap(), disk.read_file(path(2)).unwrap());
    let mut writer = Writer::open(&disk).unwrap();
    let start = truncate(&mut writer, 30);
    assert_eq!(disk.read_file(path(1)), None);
    assert_eq!(lsns(&writer).first(), Some(&start));
    drop(writer);
    // As if the unlinks had not reached the disk, and the bytes had rotted meanwhile.
    disk.write_file(path(1), &one[..5000]);
    disk.write_file(path(2), &two);
    disk.fail_reads_at(path(2), 0).unwrap();
    let writer = Writer::open(&disk).unwrap();
    assert_eq!(lsns(&writer), (start..=50).collect::<Vec<_>>());
    assert_eq!((disk.read_file(path(1)), disk.read_file(path(2))), (None, None));
}

pub(super) fn truncate(writer: &mut Writer, lsn: u64) -> u64 {
    writer.truncate(Lsn::new(lsn)).unwrap().get()
}

#[test]
fn rot_in_a_sealed_segment_is_named_when_it_is_opened_or_read() {
    let disk = disk(28);
    four_segments(&disk, true);
    disk.flip_byte(path(2), 4096 + 5, 1).unwrap();
    let error = refused(&disk, ErrorKind::Corrupt);
    assert_eq!(error.position().map(|at| (at.segment.get(), at.offset)), Some((2, 4096)));
    disk.flip_byte(path(2), 4096 + 5, 1).unwrap();
    disk.flip_byte(path(2), 8192 + 5, 1).unwrap();
    // Recovery reads from the last durable segment on; the rest is verified when it is read.
    let writer = Writer::open(&disk).unwrap();
    let error = writer.read(0).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert_eq!(error.position().map(|at| (at.segment.get(), at.offset)), Some((2, 8192)));
}

#[test]
fn an_extra_segment_behind_a_gap_is_corruption_and_next_to_the_last_a_spare() {
    let disk = disk(41);
    four_segments(&disk, true);
    let copy = disk.read_file(path(2)).unwrap();
    let relabelled = |number: u64| {
        let mut bytes = copy.clone();
        let header = SegmentHeader::decode(&bytes).unwrap();
        let number = SegmentNumber::new(number);
        SegmentHeader { number, ..header }.encode(&mut bytes);
        bytes
    };
    // Its frames are those of segment 2, and count for nothing under another number.
    disk.write_file(path(5), &relabelled(5));
    assert_eq!(lsns(&Writer::open(&disk).unwrap()).len(), 50);
    disk.write_file(path(9), &relabelled(9));
    let error = refused(&disk, ErrorKind::Corrupt);
    assert!(error.to_string().contains("segment 6 is missing"), "{error}");
}

#[test]
fn an_empty_or_doubled_segment_is_corruption() {
    for number in 1..=4 {
        let disk = disk(42);
        four_segments(&disk, true);
        disk.write_file(path(number), b"");
        let error = refused(&disk, ErrorKind::Corrupt);
        assert!(error.path().is_some_and(|at| at == path(number)), "{number}: {error}");
        let disk = super::disk(42);
        four_segments(&disk, true);
        let copy = disk.read_file(path(number % 4 + 1)).unwrap();
        disk.write_file(path(number), &copy);
        let error = refused(&disk, ErrorKind::Corrupt);
        assert!(error.to_string().contains("is another segment's file"), "{number}: {error}");
    }
}

#[test]
fn garbage_behind_the_last_frame_is_cut() {
    let disk = disk(43);
    let mut writer = Writer::open(&disk).unwrap();
    writer.append(b"one").unwrap();
    let end = usize::try_from(writer.tail().position.offset).unwrap();
    drop(writer);
    edit(&disk, &path(1), |bytes| {
        for (at, byte) in bytes.iter_mut().enumerate().skip(end) {
            *byte = u8::try_from(at * 31 % 251).unwrap();
        }
    });
    for lsn in 2..=4 {
        let mut writer = Writer::open(&disk).unwrap();
        assert!(lsn > 2 || writer.report().cut.is_some());
        writer.append(b"more").unwrap();
        assert_eq!(lsns(&writer), (1..=lsn).collect::<Vec<_>>());
    }
}

#[test]
fn a_bad_block_names_exactly_what_it_held() {
    // Records of one block each, from block 2 on; the last one is attested by `LOG`.
    for (bad, lost, behind) in [
        (&[2][..], (1, 1), Some(2)),
        (&[5], (4, 4), Some(5)),
        (&[5, 6, 7], (4, 6), Some(7)),
        (&[11], (10, 10), None),
        (&[9, 10, 11], (8, 10), None),
    ] {
        let disk = disk(44);
        let mut writer = Writer::open(&disk).unwrap();
        for number in 1..=10 {
            writer.append(&[number; 100]).unwrap();
        }
        writer.write_log(false).unwrap();
        drop(writer);
        for block in bad {
            // The header stands, the payload does not: a header alone is nothing whole.
            let segment = SegmentNumber::new(1);
            rot(&disk, Position { segment, offset: (block * BLOCK) as u64 });
        }
        let error = refused(&disk, ErrorKind::Corrupt);
        let range = error.lsns().map(|(first, last)| (first.get(), last.get()));
        assert_eq!(range, Some(lost), "{error}");
        let text = error.to_string();
        assert!(text.contains(&format!("up to record {} is intact", lost.0 - 1)), "{text}");
        let after = match behind {
            Some(lsn) => format!("whole frames follow from record {lsn} "),
            None => "nothing whole follows".to_owned(),
        };
        assert!(text.contains(&after) && text.contains("sawmill wal repair"), "{text}");
    }
}

/// Nothing is held, and nothing made anew, for each number in between.
#[test]
fn a_number_far_behind_the_last_is_named_with_the_first_gap() {
    let stray = |number: u64, bytes: &[u8]| {
        let disk = disk(45);
        four_segments(&disk, true);
        disk.write_file(path(number), bytes);
        let refusals = [
            Writer::open(&disk).map(drop).unwrap_err(),
            Wal::verify_with(&disk, PLACE).map(drop).unwrap_err(),
            Wal::repair_with(&disk, &ManualClock::default(), PLACE, Duration::ZERO, &[])
                .map(drop)
                .unwrap_err(),
        ];
        for error in refusals {
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
            assert!(error.to_string().contains("segment 5 is missing"), "{error}");
        }
    };
    stray(9_000_000_000_000_000_000, b"");
    stray(2000, b"");
    stray(u64::MAX / 2 - 1, &[7; 9000]);
    // A slot whose checksum holds.
    let disk = disk(46);
    four_segments(&disk, true);
    edit(&disk, &log_path(), |bytes| {
        for slot in 0..2 {
            let block = BLOCK * usize::try_from(slot).unwrap();
            let (mut state, sequence) = LogState::decode(&bytes[block..], slot).unwrap();
            state.durable_segment = SegmentNumber::new(1 << 61);
            state.encode(sequence, &mut bytes[block..]);
        }
    });
    let error = Wal::verify_with(&disk, PLACE).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert!(error.to_string().contains("segment 5 is missing"), "{error}");
}
