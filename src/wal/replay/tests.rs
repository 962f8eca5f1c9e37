//! Replay against what a small writer wrote, on the simulated disk.

use std::path::Path;

use crate::error::ErrorKind;
use crate::ids::{Lsn, SegmentNumber, StreamId};
use crate::sim::SimDisk;
use crate::wal::frame::FrameKind;
use crate::wal::record::RecordKind;
use crate::wal::replay::frames::Frames;
use crate::wal::replay::{Replay, par};
use crate::wal::segment::file_name;
use crate::wal::writer_tests::{PLACE, Writer, disk, one_record};

/// A log of several segments: `count` frames of one record, each with its LSN in it.
pub(super) fn written(disk: &SimDisk, count: u64, length: usize) -> Writer {
    let mut writer = Writer::open(disk).unwrap();
    for lsn in 1..=count {
        writer.append(&payload(lsn, length)).unwrap();
    }
    writer
}

pub(super) fn payload(lsn: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![u8::try_from(lsn % 251).unwrap(); length];
    bytes[..8].copy_from_slice(&lsn.to_le_bytes());
    bytes
}

#[test]
fn shows_every_record_from_any_place_over_segments() {
    let disk = disk(1);
    let writer = written(&disk, 60, 3000);
    for from in [0, 1, 2, 14, 15, 16, 17, 30, 59, 60, 61, 99] {
        let expected: Vec<_> = (from.max(1)..=60).map(|lsn| (lsn, payload(lsn, 3000))).collect();
        assert_eq!(writer.read(from).unwrap(), expected, "from {from}");
    }
}

#[test]
fn frames_longer_than_a_read_and_many_records_in_one() {
    let disk = disk(2);
    let mut writer = Writer::open(&disk).unwrap();
    let big: Vec<_> = (1..=30).map(|lsn| payload(lsn, 1900)).collect();
    let records: Vec<_> = big.iter().map(|bytes| one_record(RecordKind::User, bytes)).collect();
    writer.frame(FrameKind::Records, &records).unwrap();
    writer.append(b"behind").unwrap();
    let read = writer.read(30).unwrap();
    assert_eq!(read, [(30, big[29].clone()), (31, b"behind".to_vec())]);
}

#[test]
fn skips_void_records_and_hides_internal_ones_unless_asked() {
    let disk = disk(3);
    let mut writer = Writer::open(&disk).unwrap();
    let kinds = [RecordKind::User, RecordKind::Void, RecordKind::Internal, RecordKind::User];
    let records: Vec<_> = kinds.iter().map(|kind| one_record(*kind, b"x")).collect();
    writer.frame(FrameKind::Records, &records).unwrap();
    writer.frame(FrameKind::Attestation, &[]).unwrap();
    let lsns = |internal| {
        let mut replay = writer.replay(Lsn::ZERO, internal);
        let mut lsns = Vec::new();
        while let Some(record) = replay.next() {
            let record = record.unwrap();
            lsns.push((record.lsn.get(), record.internal));
        }
        lsns
    };
    assert_eq!(lsns(false), [(1, false), (4, false)]);
    assert_eq!(lsns(true), [(1, false), (3, true), (4, false)]);
}

#[test]
fn nothing_above_the_durable_lsn_is_shown() {
    let disk = disk(4);
    let mut writer = written(&disk, 3, 100);
    writer.plain(&[one_record(RecordKind::User, b"written, not durable")]).unwrap();
    assert_eq!(writer.read(1).unwrap().len(), 3);
}

#[test]
fn planted_read_above_durable_is_seen() {
    let disk = disk(4);
    let mut writer = written(&disk, 3, 100);
    writer.plain(&[one_record(RecordKind::User, b"written, not durable")]).unwrap();
    let bug = crate::planted::Bug::ReadAboveDurable;
    let shown = crate::planted::with_planted(bug, || writer.read(1).unwrap().len());
    assert_eq!(shown, 4, "a record was shown that a crash may take back");
}

#[test]
fn planted_padding_is_end_is_seen() {
    let disk = disk(5);
    let writer = written(&disk, 60, 3000);
    let bug = crate::planted::Bug::PaddingIsEnd;
    let shown = crate::planted::with_planted(bug, || writer.read(1).unwrap().len());
    assert!(shown < 60, "the first segment's padding ended the replay: {shown}");
}

#[test]
fn rot_in_a_sealed_and_in_the_active_segment_is_named() {
    for (lsn, spot) in [(5, 1_u64), (50, 4)] {
        let disk = disk(6);
        let writer = written(&disk, 60, 3000);
        let position = {
            let mut writer = Writer::open(&crate::wal::replay::tests::disk(6)).unwrap();
            (1..=lsn).map(|lsn| writer.append(&payload(lsn, 3000)).unwrap()).last().unwrap()
        };
        assert_eq!(position.segment.get(), spot);
        let path = Path::new(PLACE).join(file_name(position.segment));
        disk.flip_byte(&path, position.offset + 500, 4).unwrap();
        let error = writer.read(1).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert_eq!(error.position(), Some(position));
        assert_eq!(error.lsns().map(|lsns| lsns.0), Some(Lsn::new(lsn)));
        // What lies behind is intact, and can be had by asking for it.
        assert_eq!(writer.read(lsn + 1).unwrap().len(), to_len(60 - lsn));
    }
}

fn to_len(count: u64) -> usize {
    usize::try_from(count).unwrap()
}

#[test]
fn a_read_error_is_unreadable() {
    let disk = disk(7);
    let writer = written(&disk, 3, 100);
    disk.fail_reads_at(Path::new(PLACE).join(file_name(writer.tail().position.segment)), 8192)
        .unwrap();
    assert_eq!(writer.read(1).unwrap_err().kind(), ErrorKind::Unreadable);
}

#[test]
fn a_poll_goes_on_where_the_last_one_ended() {
    let disk = disk(8);
    let mut writer = written(&disk, 1, 100);
    let mut seen = 0;
    for lsn in 2..=100 {
        writer.append(&payload(lsn, 1000)).unwrap();
        for (lsn, bytes) in writer.read(seen + 1).unwrap() {
            seen += 1;
            assert_eq!(lsn, seen);
            assert!(seen == 1 || bytes == payload(seen, 1000));
        }
    }
    assert_eq!(seen, 100);
}

#[test]
fn bounds_and_streams_are_filters() {
    let disk = disk(9);
    let mut writer = written(&disk, 20, 3000);
    for _ in 0..3 {
        let records: Vec<_> =
            (0..10_u16).map(|number| record_to(StreamId::new(number % 3), &[7; 500])).collect();
        writer.frame(FrameKind::Records, &records).unwrap();
    }
    let all = shown(writer.replay(Lsn::ZERO, false));
    assert_eq!(all.len(), 50);
    for (from, to) in [(0, 99), (0, 0), (1, 1), (19, 22), (23, 27), (24, 44), (50, 50), (51, 60)] {
        for stream in [None, Some(0), Some(2)] {
            let mut replay = writer.replay(Lsn::ZERO, false).from(Lsn::new(from)).to(Lsn::new(to));
            if let Some(stream) = stream {
                replay = replay.stream(StreamId::new(stream));
            }
            let wanted = all.iter().filter(|(lsn, its)| {
                (from..=to).contains(lsn) && stream.is_none_or(|stream| stream == *its)
            });
            assert_eq!(
                shown(replay),
                wanted.copied().collect::<Vec<_>>(),
                "{from} {to} {stream:?}"
            );
        }
    }
    // Also when some were shown already: what was passed does not come again.
    let mut replay = writer.replay(Lsn::ZERO, false);
    assert_eq!(replay.next().unwrap().unwrap().lsn, Lsn::FIRST);
    let rest = shown(replay.from(Lsn::new(25)).to(Lsn::new(26)));
    assert_eq!(rest.iter().map(|shown| shown.0).collect::<Vec<_>>(), [25, 26]);
}

fn record_to(stream: StreamId, bytes: &[u8]) -> Vec<u8> {
    let mut out = one_record(RecordKind::User, bytes);
    let length = u32::try_from(bytes.len()).unwrap();
    crate::wal::record::encode_header(&mut out, length, stream, RecordKind::User);
    out
}

/// LSN and stream of what a replay shows.
fn shown(mut replay: Replay) -> Vec<(u64, u16)> {
    let mut shown = Vec::new();
    while let Some(record) = replay.next() {
        let record = record.unwrap();
        shown.push((record.lsn.get(), record.stream.get()));
    }
    shown
}

#[test]
fn nothing_comes_after_an_error() {
    let disk = disk(10);
    let writer = written(&disk, 3, 100);
    disk.flip_byte(Path::new(PLACE).join(file_name(writer.tail().position.segment)), 8392, 4)
        .unwrap();
    let mut replay = writer.replay(Lsn::ZERO, false);
    let mut outcomes = Vec::new();
    while let Some(record) = replay.next() {
        outcomes.push(record.is_ok());
    }
    assert_eq!(outcomes, [false]);
    assert!(replay.next().is_none());
}

/// What consumers of the segments are shown, on three threads.
fn by_segment(writer: &Writer) -> crate::error::Result<Vec<Vec<u64>>> {
    let log = writer.opened.log;
    let pieces = Frames::by_segment(&writer.index, &writer.directory, log, writer.durable);
    par::in_parallel(3, pieces, |frames| {
        let mut replay = Replay::of(frames, false);
        let mut lsns = Vec::new();
        while let Some(record) = replay.next() {
            lsns.push(record?.lsn.get());
        }
        Ok(lsns)
    })
}

#[test]
fn every_record_has_one_consumer_also_with_segments_that_hold_none() {
    let disk = disk(11);
    let mut writer = written(&disk, 60, 3000);
    // More than a segment of frames without records.
    for _ in 0..20 {
        writer.frame(FrameKind::Attestation, &[]).unwrap();
    }
    writer.append(b"behind").unwrap();
    writer.plain(&[one_record(RecordKind::User, b"not durable")]).unwrap();
    let parts = by_segment(&writer).unwrap();
    assert!(parts.len() >= 4 && parts.iter().all(|part| !part.is_empty()), "{parts:?}");
    assert_eq!(parts.concat(), (1..=61).collect::<Vec<_>>());
}

#[test]
fn segments_that_do_not_continue_each_other_are_told_by_the_older_one() {
    for (records, empty) in [(14, 0), (10, 19)] {
        let disk = disk(12);
        let mut writer = written(&disk, records, 3000);
        for _ in 0..empty {
            writer.frame(FrameKind::Attestation, &[]).unwrap();
        }
        assert_eq!(writer.tail().position.offset, 65536, "the segment is full");
        writer.opened.tail.chain ^= 1;
        for _ in 0..3 {
            writer.append(b"x").unwrap();
        }
        let error = by_segment(&writer).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert_eq!(error.lsns().map(|lsns| lsns.0), Some(Lsn::new(records + 1)));
    }
}

#[test]
fn rot_in_one_segment_is_its_consumers_error() {
    let disk = disk(13);
    let writer = written(&disk, 60, 3000);
    let path = Path::new(PLACE).join(file_name(SegmentNumber::new(2)));
    disk.flip_byte(&path, 8192 + 500, 4).unwrap();
    let error = by_segment(&writer).unwrap_err();
    assert_eq!((error.kind(), error.position().unwrap().segment.get()), (ErrorKind::Corrupt, 2));
}

#[test]
fn verified_ahead_it_is_the_same_replay() {
    let disk = disk(14);
    let mut writer = written(&disk, 80, 3000);
    for _ in 0..20 {
        writer.frame(FrameKind::Attestation, &[]).unwrap();
    }
    let records: Vec<_> =
        (0..40_u16).map(|number| record_to(StreamId::new(number % 3), &[7; 900])).collect();
    writer.frame(FrameKind::Records, &records).unwrap();
    writer.append(b"behind").unwrap();
    writer.plain(&[one_record(RecordKind::User, b"not durable")]).unwrap();
    for (from, to) in [(0, 999), (1, 40), (17, 90), (33, 33), (80, 121), (121, 121), (122, 130)] {
        let replay = || writer.replay(Lsn::ZERO, false).from(Lsn::new(from)).to(Lsn::new(to));
        for threads in [1, 3] {
            let ahead = shown(replay().verify_ahead(threads));
            assert_eq!(ahead, shown(replay()), "{from} {to} {threads}");
        }
    }
}

#[test]
fn verified_ahead_errors_come_in_their_place() {
    for (lsn, field) in [(1, 500), (5, 50), (5, 500), (29, 500), (40, 500), (59, 500)] {
        let disk = disk(15);
        let writer = written(&disk, 60, 3000);
        let position = {
            let mut writer = Writer::open(&crate::wal::replay::tests::disk(15)).unwrap();
            (1..=lsn).map(|lsn| writer.append(&payload(lsn, 3000)).unwrap()).last().unwrap()
        };
        let path = Path::new(PLACE).join(file_name(position.segment));
        disk.flip_byte(&path, position.offset + field, 4).unwrap();
        let mut replay = writer.replay(Lsn::ZERO, false).verify_ahead(3);
        let mut last = 0;
        let error = loop {
            match replay.next().unwrap() {
                Ok(record) => {
                    last += 1;
                    assert_eq!((record.lsn.get(), record.payload), (last, &*payload(last, 3000)));
                }
                Err(error) => break error,
            }
        };
        assert_eq!((last, error.kind()), (lsn - 1, ErrorKind::Corrupt));
        assert_eq!(error.position(), Some(position));
        assert!(replay.next().is_none());
    }
}

#[test]
fn threads_end_with_the_replay_wherever_it_is() {
    let disk = disk(16);
    let writer = written(&disk, 120, 3000);
    for count in [0, 1, 20, 119, 200] {
        let mut replay = writer.replay(Lsn::ZERO, false).verify_ahead(2);
        let shown = (0..count).take_while(|_| replay.next().is_some_and(|record| record.is_ok()));
        assert_eq!(shown.count(), count.min(120));
        let threads = replay.frames.verifiers();
        drop(replay);
        // Each thread holds a share of what they have in common.
        assert!(threads.is_none_or(|threads| threads.strong_count() == 0));
    }
}
