//! Readers beside writers that say nothing, or were killed, and files that were replaced.

use super::*;
use crate::ids::Epoch;
use crate::sim::SimDisk;
use crate::storage::{LockKind, OpenMode};
use crate::wal::writer_tests::{PLACE, Writer as Hand};

fn payloads(reader: &WalReader) -> Vec<Vec<u8>> {
    let mut replay = reader.replay().unwrap();
    let mut shown = Vec::new();
    while let Some(record) = replay.next() {
        shown.push(record.unwrap().payload.to_vec());
    }
    shown
}

#[test]
fn beside_a_silent_writer_a_reader_shows_what_is_attested() {
    let disk = SimDisk::new(1);
    let mut writer = Hand::open(&disk).unwrap();
    writer.append(b"one").unwrap();
    let reader = Wal::open_read_only_with(&disk, PLACE).unwrap();
    assert_eq!(reader.stats().writer, WriterState::Silent);
    assert_eq!(payloads(&reader), Vec::<Vec<u8>>::new(), "nothing says that it is durable");
    writer.append(b"two").unwrap();
    assert_eq!(payloads(&reader), [b"one"]);
    writer.frame(crate::wal::frame::FrameKind::Attestation, &[]).unwrap();
    assert_eq!(payloads(&reader), [b"one", b"two"]);
    writer.append(b"three").unwrap();
    drop(writer);
    assert_eq!(payloads(&reader), [&b"one"[..], b"two", b"three"], "now the verdict counts");
    assert_eq!(reader.stats().writer, WriterState::None);
    let writer = Hand::open(&disk).unwrap();
    assert_eq!(writer.opened.epoch, Epoch::new(2));
    assert_eq!(payloads(&reader).len(), 3, "what was shown stays");
}

#[test]
fn a_killed_writers_writes_in_flight_are_waited_for() {
    let disk = SimDisk::new(1);
    let mut writer = Hand::open(&disk).unwrap();
    writer.append(b"one").unwrap();
    writer.append(b"two").unwrap();
    drop(writer);
    // As the kernel holds the description until its last write has ended.
    let directory = disk.directory(PLACE.as_ref(), false).unwrap();
    let name = format!("{:020}.seg", 1);
    let held = directory.open(&name, OpenMode::WriteDirect).unwrap();
    assert!(held.try_lock(0, LockKind::Exclusive).unwrap());
    let reader = Wal::open_read_only_with(&disk, PLACE).unwrap();
    assert_eq!(payloads(&reader), [b"one"], "what is attested");
    assert_eq!(reader.stats().writer, WriterState::Silent);
    drop(held);
    assert_eq!(payloads(&reader), [b"one", b"two"]);
    assert_eq!(reader.stats().writer, WriterState::None);
}

#[test]
fn files_that_were_replaced_are_an_error() {
    let (disk, old) = (SimDisk::new(1), SimDisk::new(1));
    let mut writer = Hand::open(&disk).unwrap();
    writer.append(b"one").unwrap();
    drop(writer);
    for path in disk.files() {
        old.write_file(&path, &disk.read_file(&path).unwrap());
    }
    let mut writer = Hand::open(&disk).unwrap();
    writer.append(b"two").unwrap();
    drop(writer);
    let reader = Wal::open_read_only_with(&disk, PLACE).unwrap();
    assert_eq!(reader.last_lsn(), Lsn::new(2));
    for path in old.files() {
        disk.write_file(&path, &old.read_file(&path).unwrap());
    }
    let error = reader.refresh().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert_eq!(error.lsns(), Some((Lsn::new(2), Lsn::new(2))));
}

/// What broke: a reader that the system let run so rarely that the log was truncated in each of its
/// looks got `Io`, "no such file", after the last of them. Its program took that for a broken disk.
/// Now it is told, as whoever comes too late, that the records were truncated.
#[test]
fn a_look_that_a_truncation_overtakes_each_time_says_so() {
    let disk = SimDisk::new(1);
    let mut writer = Hand::open(&disk).unwrap();
    for _ in 0..40 {
        writer.append(&[7; 3000]).unwrap();
    }
    let directory = disk.directory(PLACE.as_ref(), false).unwrap();
    let before = View::state_of(&directory).unwrap();
    let gone = || Error::new(ErrorKind::Io, "no such file");
    assert_eq!(overtaken(&directory, &before, gone()).kind(), ErrorKind::Io);
    let start = writer.truncate(Lsn::new(30)).unwrap();
    let error = overtaken(&directory, &before, gone());
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    assert_eq!(error.lsns(), Some((Lsn::FIRST, start.previous())));
}
