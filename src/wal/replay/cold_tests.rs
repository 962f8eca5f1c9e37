//! Replay past the page cache against replay of maps, on the simulated disk.

use std::path::Path;

use super::source::tests::past_the_cache;
use super::tests::{payload, written};
use crate::error::ErrorKind;
use crate::ids::Lsn;
use crate::sim::SimDisk;
use crate::wal::frame::FrameKind;
use crate::wal::record::RecordKind;
use crate::wal::replay::Replay;
use crate::wal::segment::file_name;
use crate::wal::writer_tests::{PLACE, Writer, disk, one_record};

/// Records as they are shown, and the error that ends them.
fn shown(mut replay: Replay) -> (Vec<(u64, Vec<u8>)>, Option<ErrorKind>) {
    let mut records = Vec::new();
    while let Some(record) = replay.next() {
        match record {
            Ok(record) => records.push((record.lsn.get(), record.payload.to_vec())),
            Err(error) => return (records, Some(error.kind())),
        }
    }
    (records, None)
}

/// A log whose frames begin and end anywhere in the pieces, and over several of them.
fn mixed(disk: &SimDisk) -> Writer {
    let mut writer = written(disk, 30, 3000);
    for round in 0..40 {
        let first = writer.durable.next().get();
        let records: Vec<_> = (0..1 + round * 7 % 15)
            .map(|nth| one_record(RecordKind::User, &payload(first + nth, 1900)))
            .collect();
        writer.frame(FrameKind::Records, &records).unwrap();
        if round % 9 == 0 {
            writer.frame(FrameKind::Attestation, &[]).unwrap();
        }
    }
    writer
}

#[test]
fn past_the_cache_it_is_the_same_replay() {
    let disk = disk(21);
    let writer = mixed(&disk);
    let last = writer.durable.get();
    assert!(last > 250 && writer.index.reaching(Lsn::ZERO).len() > 8);
    for (from, to) in [(0, 999), (1, 40), (17, 190), (33, 33), (80, 121), (last, last)] {
        let replay = || writer.replay(Lsn::ZERO, false).from(Lsn::new(from)).to(Lsn::new(to));
        let mapped = shown(replay());
        assert_eq!(mapped.1, None);
        past_the_cache(|| {
            assert_eq!(shown(replay()), mapped, "{from} {to}");
            for threads in [1, 3] {
                assert_eq!(shown(replay().verify_ahead(threads)), mapped, "{from} {to} {threads}");
            }
        });
    }
    // Given up anywhere, what is in flight is waited for, and the channel is the next reader's.
    for count in [0, 1, 20, 60] {
        let mut replay = past_the_cache(|| writer.replay(Lsn::ZERO, false));
        let shown = (0..count).filter(|_| replay.next().is_some_and(|one| one.is_ok()));
        assert_eq!(shown.count(), count);
    }
}

#[test]
fn past_the_cache_errors_come_in_their_place() {
    for (lsn, field) in [(1, 500), (5, 50), (5, 500), (29, 500), (40, 500)] {
        for rot in [true, false] {
            let disk = disk(22);
            let writer = written(&disk, 60, 3000);
            let position = {
                let mut writer = Writer::open(&crate::wal::writer_tests::disk(22)).unwrap();
                (1..=lsn).map(|lsn| writer.append(&payload(lsn, 3000)).unwrap()).last().unwrap()
            };
            let path = Path::new(PLACE).join(file_name(position.segment));
            if rot {
                disk.flip_byte(&path, position.offset + field, 4).unwrap();
            } else {
                disk.fail_reads_at(&path, position.offset + field).unwrap();
            }
            for threads in [0, 2] {
                let replay = past_the_cache(|| writer.replay(Lsn::ZERO, false));
                let (records, error) = shown(replay.verify_ahead(threads));
                let expected: Vec<_> = (1..lsn).map(|lsn| (lsn, payload(lsn, 3000))).collect();
                let kind = if rot { ErrorKind::Corrupt } else { ErrorKind::Unreadable };
                assert_eq!((records, error), (expected, Some(kind)), "{lsn} {field}");
            }
        }
    }
}
