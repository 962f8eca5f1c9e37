//! Logs of format version 1, as they were written once, are opened for ever after.
//!
//! `tests/fixtures/v1/` holds four: `closed` (cleanly closed by two writers, over several
//! segments), `killed` (named streams, keys, timestamps, producers; the last write torn),
//! `repaired` (with a tombstone and what a repair kept aside) and `lz4`. They were made by
//! `SAWMILL_GOLDEN=DIR cargo test --all-features --test wal golden -- --ignored`, and are never
//! edited: the test knows their checksums. A change of the format gets a directory of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use sawmill::{ErrorKind, Wal, WalOptions};

mod by_hand;
mod made;

use by_hand::crc32c;
use made::{LOST, Written};

/// A log, what a reader is shown of it, and the checksum of all its files.
type Golden = (&'static str, fn() -> Vec<Written>, u32);

const LOGS: [Golden; 4] = [
    ("closed", made::closed, 0x0353_5156),
    ("killed", made::killed, 0xda15_f42a),
    ("repaired", made::repaired, 0xce27_2fc8),
    ("lz4", made::lz4, 0x53ea_2620),
];

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/v1").join(name)
}

/// Every file below, by its path in the directory, with its bytes and when it was last changed.
fn contents(directory: &Path) -> Vec<(PathBuf, Vec<u8>, SystemTime)> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            let below = contents(&path).into_iter();
            let name = Path::new(path.file_name().unwrap());
            files.extend(below.map(|(inner, bytes, time)| (name.join(inner), bytes, time)));
        } else {
            let time = path.metadata().unwrap().modified().unwrap();
            files.push((path.file_name().unwrap().into(), fs::read(&path).unwrap(), time));
        }
    }
    files.sort();
    files
}

fn copy(name: &str) -> tempfile::TempDir {
    let place = tempfile::tempdir().unwrap();
    for (file, bytes, _) in contents(&fixture(name)) {
        let path = place.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    place
}

/// Every record in its place, and what was given up told in its place.
fn check(name: &str, mut replay: sawmill::Replay, written: &[Written]) {
    let mut written = written.iter();
    while let Some(record) = replay.next() {
        let record = match record {
            Ok(record) => record,
            Err(error) => {
                assert_eq!((name, error.kind()), ("repaired", ErrorKind::Lost), "{error}");
                let (first, last) = error.lsns().unwrap();
                assert_eq!((first.get(), last.get()), LOST);
                continue;
            }
        };
        let expected = written.next().expect("no record more");
        assert_eq!(record.lsn.get(), expected.lsn, "{name}");
        assert_eq!(record.stream.get(), expected.stream, "{name}, record {}", expected.lsn);
        assert_eq!(record.key(), expected.key, "{name}, record {}", expected.lsn);
        assert_eq!(record.timestamp(), expected.timestamp, "{name}, record {}", expected.lsn);
        assert_eq!(record.producer(), expected.producer, "{name}, record {}", expected.lsn);
        assert!(record.payload == expected.payload, "{name}, record {}", expected.lsn);
    }
    assert_eq!(written.len(), 0, "{name}: records are missing");
}

#[test]
fn the_files_are_those_that_were_made() {
    let mut found = Vec::new();
    for (name, _, sum) in LOGS {
        let mut all = Vec::new();
        for (file, bytes, _) in contents(&fixture(name)) {
            all.extend(file.to_string_lossy().bytes());
            all.extend(crc32c(&bytes).to_le_bytes());
        }
        found.push((name, crc32c(&all), sum));
    }
    assert!(found.iter().all(|(_, found, sum)| found == sum), "{found:x?}");
}

#[test]
fn logs_of_version_1_open_and_go_on() {
    for (name, written, _) in LOGS {
        let place = copy(name);
        let options = WalOptions { segment_size: 64 << 10, ..WalOptions::default() };
        let wal = Wal::open(place.path(), options.clone()).unwrap();
        let mut written = written();
        check(name, wal.replay().unwrap(), &written);
        if name == "killed" {
            let producer = wal.producer(made::PRODUCER).unwrap();
            assert_eq!((producer.epoch, producer.next_sequence), (2, 3));
            let names: Vec<_> =
                wal.streams().iter().map(|one| (one.name().to_owned(), one.id().get())).collect();
            assert_eq!(names, made::STREAMS.map(|(name, id)| (name.to_owned(), id)));
        }
        let lsn = wal.append(b"of a later day").unwrap();
        assert_eq!(lsn, wal.durable_lsn());
        wal.close().unwrap();
        let wal = Wal::open(place.path(), options).unwrap();
        written.push(Written::new(lsn.get(), b"of a later day".to_vec()));
        check(name, wal.replay().unwrap(), &written);
    }
}

#[test]
fn a_reader_of_version_1_writes_nothing() {
    for (name, written, _) in LOGS {
        let place = copy(name);
        let before = contents(place.path());
        let reader = Wal::open_read_only(place.path()).unwrap();
        check(name, reader.replay().unwrap(), &written());
        let report = Wal::verify(place.path()).unwrap();
        assert!(report.is_sound(), "{name}: {:?}", report.damages);
        assert_eq!(report.clean, name != "killed", "{name}");
        assert_eq!(report.lost.len(), usize::from(name == "repaired"), "{name}");
        drop(reader);
        assert!(contents(place.path()) == before, "{name}: a reader wrote something");
    }
}

/// `docs/format.md` alone is enough to read a log.
#[test]
fn the_document_says_what_the_bytes_mean() {
    for name in ["closed", "killed"] {
        let files = contents(&fixture(name));
        let bytes = |name: &str| {
            let found = files.iter().find(|(file, ..)| file == Path::new(name));
            found.map(|(_, bytes, _)| bytes.as_slice())
        };
        let slots = by_hand::slots(bytes("LOG").unwrap());
        let slot = slots.iter().flatten().max_by_key(|slot| slot.sequence).unwrap();
        assert_eq!((slot.start_lsn, slot.start_segment, slot.segment_size), (1, 1, 64 << 10));
        assert_eq!(slot.state, if name == "closed" { 2 } else { 1 });
        let mut log = by_hand::Reading::new(slot.log);
        for number in 1.. {
            let Some(bytes) = bytes(&format!("{number:020}.seg")) else { break };
            log.segment(number, bytes);
        }
        let written = made_of(name);
        let user = log.records.iter().filter(|record| record.kind == 1);
        let found: Vec<_> = user.map(|record| (record.lsn, record.stream)).collect();
        let wanted: Vec<_> = written.iter().map(|one| (one.lsn, one.stream)).collect();
        assert_eq!(found, wanted, "{name}");
        for (record, wanted) in log.records.iter().filter(|one| one.kind == 1).zip(&written) {
            assert!(record.payload == wanted.payload, "{name}, record {}", wanted.lsn);
            assert_eq!(record.key.as_deref(), wanted.key, "{name}, record {}", wanted.lsn);
            assert_eq!(record.timestamp, wanted.timestamp, "{name}, record {}", wanted.lsn);
        }
        let kinds: Vec<_> = log.kinds.iter().filter(|kind| **kind != 1).copied().collect();
        // Barrier and closing frame of each of two writers; the killed one wrote a barrier.
        let wanted: &[u8] = if name == "closed" { &[2, 4, 2, 4] } else { &[2] };
        assert_eq!(kinds, wanted, "{name}");
    }
}

fn made_of(name: &str) -> Vec<Written> {
    LOGS.iter().find(|(log, ..)| *log == name).unwrap().1()
}

#[test]
#[ignore = "makes the files anew, in SAWMILL_GOLDEN: just golden DIR"]
fn make_the_files() {
    let place = PathBuf::from(std::env::var("SAWMILL_GOLDEN").unwrap());
    for (name, ..) in LOGS {
        for (path, bytes) in made::make(name) {
            let path = place.join(name).join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
    }
}
