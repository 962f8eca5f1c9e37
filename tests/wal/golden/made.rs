//! What is in the golden logs, and how they were made: on the simulated disk, so that the same
//! code makes the same bytes.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use sawmill::clock::ManualClock;
use sawmill::sim::{CrashOutcome, SimDisk};
use sawmill::{
    Background, Compression, Durability, Entry, Lsn, LsnRange, StreamId, Wal, WalOptions,
};
use sawmill::{ProducerId, ProducerStamp};

/// A record as a reader shows it.
#[derive(Debug, Default)]
pub(crate) struct Written {
    pub(crate) lsn: u64,
    pub(crate) stream: u16,
    pub(crate) key: Option<&'static [u8]>,
    pub(crate) timestamp: Option<i64>,
    pub(crate) producer: Option<ProducerStamp>,
    pub(crate) payload: Vec<u8>,
}

impl Written {
    pub(crate) fn new(lsn: u64, payload: Vec<u8>) -> Written {
        Written { lsn, payload, ..Written::default() }
    }
}

pub(crate) const PRODUCER: ProducerId = ProducerId::new(5);
pub(crate) const STREAMS: [(&str, u16); 2] = [("clicks", 0x8001), ("orders", 0x8000)];
/// The first and the last record that the repair gave up.
pub(crate) const LOST: (u64, u64) = (4, 5);

/// `length` bytes of text about record `lsn`.
fn text(lsn: u64, length: usize) -> Vec<u8> {
    let line = format!("record {lsn} of a golden log; ");
    line.bytes().cycle().take(length).collect()
}

fn plain(lsns: impl Iterator<Item = u64>, lengths: &[usize]) -> Vec<Written> {
    lsns.map(|lsn| Written::new(lsn, text(lsn, lengths[lsn as usize % lengths.len()]))).collect()
}

pub(crate) fn closed() -> Vec<Written> {
    plain(1..=16, &[0, 1, 100, 4000, 9000, 31_000])
}

pub(crate) fn killed() -> Vec<Written> {
    let stamp = |epoch, sequence| Some(ProducerStamp { id: PRODUCER, epoch, sequence });
    let record = |lsn, stream| Written { stream, ..Written::new(lsn, text(lsn, 50)) };
    vec![
        record(1, 0),
        record(2, 7),
        record(4, 0x8000),
        Written { key: Some(b"k1"), ..record(5, 0x8000) },
        Written { key: Some(b""), timestamp: Some(-1), ..record(7, 0x8001) },
        Written { timestamp: Some(i64::MAX), ..record(8, 0) },
        Written { producer: stamp(1, 0), ..record(9, 0) },
        Written { producer: stamp(1, 1), key: Some(b"k2"), ..record(10, 0x8000) },
        Written { producer: stamp(2, 2), timestamp: Some(9), ..record(11, 0) },
    ]
}

pub(crate) fn repaired() -> Vec<Written> {
    let mut all = plain(1..=9, &[30, 5000]);
    all.retain(|one| !(LOST.0..=LOST.1).contains(&one.lsn));
    all
}

pub(crate) fn lz4() -> Vec<Written> {
    plain(1..=6, &[0, 20, 9000, 31_000])
}

fn open(disk: &SimDisk, compression: Compression) -> Wal {
    let options = WalOptions {
        segment_size: 64 << 10,
        lock_wait: Duration::ZERO,
        background: Background::Inline,
        compression,
        ..WalOptions::default()
    };
    let clock = ManualClock::default();
    clock.advance(Duration::from_secs(1_800_000_000));
    Wal::open_with(Arc::new(disk.clone()), Arc::new(clock), "/log", options).unwrap()
}

fn append(wal: &Wal, one: &Written) {
    let mut entry = Entry::new(&one.payload);
    entry = match STREAMS.iter().find(|(_, id)| *id == one.stream) {
        Some((name, _)) => entry.stream(wal.stream(name).unwrap().id()),
        None => entry.stream(StreamId::new(one.stream)),
    };
    if let Some(key) = one.key {
        entry = entry.key(key);
    }
    if let Some(timestamp) = one.timestamp {
        entry = entry.timestamp(timestamp);
    }
    if let Some(stamp) = one.producer {
        entry = entry.producer(stamp);
    }
    assert_eq!(wal.append_record(&entry).unwrap(), Lsn::new(one.lsn));
}

/// The files of a log, by their path in its directory.
pub(crate) fn make(name: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let disk = SimDisk::new(name.bytes().map(u64::from).sum());
    let disk = match name {
        "closed" => {
            for half in closed().chunks(8) {
                let wal = open(&disk, Compression::None);
                half.iter().for_each(|one| append(&wal, one));
                wal.close().unwrap();
            }
            disk
        }
        "killed" => {
            let wal = open(&disk, Compression::None);
            killed().iter().for_each(|one| append(&wal, one));
            // Nobody waits for it, and only its first block arrives.
            let last = text(99, 6000);
            let entry = Entry::new(&last).durability(Durability::Buffered);
            wal.append_record(&entry).unwrap();
            let found = disk.power_cycle(CrashOutcome::KeepAll);
            tear(&found);
            found
        }
        "repaired" => repaired_disk(&disk),
        "lz4" => {
            let wal = open(&disk, Compression::Lz4);
            lz4().iter().for_each(|one| append(&wal, one));
            wal.close().unwrap();
            disk
        }
        _ => unreachable!("no log of this name"),
    };
    let files = disk.files().into_iter();
    files
        .map(|path| {
            let bytes = disk.read_file(&path).unwrap();
            (path.strip_prefix("/log").unwrap().to_owned(), bytes)
        })
        .collect()
}

const SEGMENT: &str = "/log/00000000000000000001.seg";

/// Takes the last block that was written.
fn tear(disk: &SimDisk) {
    let mut bytes = disk.read_file(SEGMENT).unwrap();
    let last = bytes.chunks(4096).rposition(|block| block.iter().any(|byte| *byte != 0)).unwrap();
    bytes[last * 4096..].fill(0);
    disk.write_file(SEGMENT, &bytes);
}

fn repaired_disk(disk: &SimDisk) -> SimDisk {
    let wal = open(disk, Compression::None);
    let all = plain(1..=9, &[30, 5000]);
    all.iter().for_each(|one| append(&wal, one));
    wal.close().unwrap();
    let mut bytes = disk.read_file(SEGMENT).unwrap();
    for lsn in LOST.0..=LOST.1 {
        let payload = text(lsn, 25);
        let at = bytes.windows(payload.len()).position(|window| window == payload).unwrap();
        bytes[at + 3] ^= 0x10;
    }
    disk.write_file(SEGMENT, &bytes);
    let lost = LsnRange::between(Lsn::new(LOST.0), Lsn::new(LOST.1));
    Wal::repair_with(disk, &ManualClock::default(), "/log", Duration::ZERO, &[lost]).unwrap();
    disk.clone()
}
