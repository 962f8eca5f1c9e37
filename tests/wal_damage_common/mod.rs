//! Logs of more than a mebibyte, closed or killed, and what a damaged copy may show.
#![allow(clippy::unwrap_used, reason = "tests stop at what fails")]

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sawmill::clock::ManualClock;
use sawmill::sim::{CrashOutcome, SimDisk, SimOptions};
use sawmill::{Background, Error, ErrorKind, Lsn, Wal, WalOptions};

pub(crate) const PLACE: &str = "/log";
pub(crate) const BLOCK: usize = 4096;
pub(crate) const SECTOR: usize = 512;
const MIB: usize = 1 << 20;

type Records = Vec<(u64, Vec<u8>)>;
pub(crate) type Files = BTreeMap<PathBuf, Vec<u8>>;

/// How the last process that wrote the log ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    Closed,
    /// Nothing attests its last group.
    Killed,
}

pub(crate) const ENDINGS: [Ending; 2] = [Ending::Closed, Ending::Killed];

fn open(disk: &SimDisk) -> Result<Wal, Error> {
    let options = WalOptions {
        segment_size: 64 * 1024,
        // As little as is allowed: an opening is cheaper then, and there are many.
        memory: MIB as u64,
        recycled: 1,
        lock_wait: Duration::ZERO,
        background: Background::Inline,
        ..WalOptions::default()
    };
    Wal::open_with(Arc::new(disk.clone()), Arc::new(ManualClock::default()), PLACE, options)
}

/// A log of frames of one block and of several, two incarnations, an atomic batch, a segment that
/// was used before; and what is in it.
pub(crate) struct Example {
    ending: Ending,
    disk: SimDisk,
    records: Records,
    /// The first record of each segment that is in use.
    firsts: BTreeMap<PathBuf, u64>,
    /// Where each frame of the last segment begins, and its first record.
    last: (PathBuf, BTreeMap<usize, u64>),
    pub(crate) files: Files,
    /// The same files as they were at an earlier time.
    pub(crate) earlier: Files,
}

fn files_of(disk: &SimDisk) -> Files {
    let kept = |path: &PathBuf| !path.ends_with("LOCK");
    let bytes = |path: PathBuf| (path.clone(), disk.read_file(path).unwrap());
    disk.files().into_iter().filter(kept).map(bytes).collect()
}

fn fill(wal: &Wal, bytes: usize, seed: usize) {
    let lengths = [10, 5000, 30_000, 0, 9000, 31_000, 3, 20_000];
    let mut done = 0;
    for number in 0.. {
        let length = lengths[(number + seed) % lengths.len()];
        let byte = |at: usize| u8::try_from((at * 7 + number + seed) % 251).unwrap() + 1;
        wal.append(&(0..length).map(byte).collect::<Vec<_>>()).unwrap();
        done += length;
        if done >= bytes {
            break;
        }
    }
}

impl Example {
    pub(crate) fn new(ending: Ending) -> Example {
        Example::of_seed(ending, 5)
    }

    /// Another seed makes another log.
    pub(crate) fn of_seed(ending: Ending, seed: u64) -> Example {
        let options = SimOptions { trace_lines: 0, ..SimOptions::default() };
        let disk = SimDisk::with_options(seed, options);
        let wal = open(&disk).unwrap();
        fill(&wal, 100_000, 0);
        wal.truncate_before(wal.durable_lsn()).unwrap();
        fill(&wal, MIB / 2, 1);
        drop(wal);
        let earlier = files_of(&disk);
        let wal = open(&disk).unwrap();
        wal.append_batch(&[b"first".as_slice(), b"", b"third"]).unwrap();
        fill(&wal, MIB * 5 / 8, 2);
        let records = read(&wal, Lsn::FIRST, u64::MAX).unwrap();
        match ending {
            Ending::Closed => wal.close().unwrap(),
            Ending::Killed => drop(wal),
        }
        let disk = disk.power_cycle(CrashOutcome::LoseAll);
        disk.power_off();
        let files = files_of(&disk);
        let (firsts, last) = frames(&files);
        let bytes: usize = records.iter().map(|(_, bytes)| bytes.len()).sum();
        assert!(bytes >= MIB && firsts.len() >= 17, "{bytes} {}", firsts.len());
        Example { ending, disk, records, firsts, last, files, earlier }
    }

    pub(crate) fn ending(&self) -> Ending {
        self.ending
    }

    /// The last record.
    fn end(&self) -> u64 {
        self.records.last().unwrap().0
    }

    /// The last record that has to be there where these bytes are damaged: of a killed log, what
    /// the last frame held may go with it, and whatever is damaged beside it.
    fn must_reach(&self, damaged: &[(&Path, Range<usize>)]) -> u64 {
        let (path, frames) = &self.last;
        let (last, lsn) = frames.iter().next_back().unwrap();
        let here = || damaged.iter().filter(|(damaged, _)| damaged == path);
        if self.ending == Ending::Closed || !here().any(|(_, range)| range.end > *last) {
            return self.end();
        }
        let first = here().map(|(_, range)| range.start).min().unwrap();
        let touched = frames.range(..=first).next_back();
        touched.map_or(*lsn, |(_, lsn)| *lsn) - 1
    }

    /// What a copy shows in which `damage` has struck these bytes: `true` for all records, `false`
    /// for an error that says where. With `near` only the segments around the damage are read.
    pub(crate) fn judge(
        &self,
        what: &dyn Fn() -> String,
        damaged: &[(&Path, Range<usize>)],
        near: bool,
        damage: impl FnOnce(&SimDisk),
    ) -> bool {
        let disk = self.disk.power_cycle(CrashOutcome::LoseAll);
        damage(&disk);
        let (from, to) = match damaged.first() {
            Some((path, _)) if near && self.firsts.contains_key(*path) => self.around(path),
            _ => (0, self.end()),
        };
        match open(&disk).and_then(|wal| self.compare(&wal, from, to)) {
            Ok(Ok(reached)) => {
                let least = self.must_reach(damaged).min(to);
                assert!(reached >= least, "{}: ends at {reached}, not {least}", what());
                true
            }
            Ok(Err(wrong)) => panic!("{}: {wrong}", what()),
            Err(error) => {
                let kind = error.kind();
                let typed = matches!(kind, ErrorKind::Corrupt | ErrorKind::Unsupported);
                assert!(typed, "{}: {error}", what());
                assert!(error.path().is_some(), "{}: which file? {error}", what());
                false
            }
        }
    }

    /// The records of a segment and of the ones before and behind.
    fn around(&self, path: &Path) -> (u64, u64) {
        let before = self.firsts.range(..path.to_owned()).next_back();
        let from = before.map_or(0, |(_, first)| *first);
        // Itself, the next one, and the one behind that.
        let behind = self.firsts.range(path.to_owned()..).nth(2);
        let to = behind.map_or(self.end(), |(_, first)| first - 1);
        (from, to)
    }

    /// The last record shown, if those from `from` to `to` are the right ones as far as they go.
    fn compare(&self, wal: &Wal, from: u64, to: u64) -> Result<Result<u64, String>, Error> {
        let start = self.records.partition_point(|(lsn, _)| *lsn < from);
        let mut replay = wal.replay_from(Lsn::new(from.max(1)))?;
        let mut reached = 0;
        for (lsn, bytes) in self.records[start..].iter().take_while(|(lsn, _)| *lsn <= to) {
            let Some(record) = replay.next() else { return Ok(Ok(reached)) };
            let record = record?;
            if record.lsn.get() != *lsn || record.payload != bytes {
                return Ok(Err(format!("record {} instead of {lsn}, or other bytes", record.lsn)));
            }
            reached = *lsn;
        }
        match replay.next() {
            Some(Ok(record)) if record.lsn.get() <= to || to == self.end() => {
                Ok(Err(format!("record {} was never there", record.lsn)))
            }
            Some(Err(error)) if to == self.end() => Err(error),
            _ => Ok(Ok(reached)),
        }
    }
}

fn read(wal: &Wal, from: Lsn, to: u64) -> Result<Records, Error> {
    let mut replay = wal.replay_from(from)?;
    let mut records = Vec::new();
    while let Some(record) = replay.next() {
        let record = record?;
        if record.lsn.get() > to {
            break;
        }
        records.push((record.lsn.get(), record.payload.to_vec()));
    }
    Ok(records)
}

/// The first record of each segment with frames, and the frames of the last one.
fn frames(files: &Files) -> (BTreeMap<PathBuf, u64>, (PathBuf, BTreeMap<usize, u64>)) {
    let word = |bytes: &[u8], at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
    let (mut firsts, mut last) = (BTreeMap::new(), (PathBuf::new(), BTreeMap::new()));
    let segments = files.iter().filter(|(path, _)| path.extension().is_some_and(|it| it == "seg"));
    for (path, bytes) in segments {
        let number: u64 = path.file_stem().unwrap().to_str().unwrap().parse().unwrap();
        let mut found = BTreeMap::new();
        for at in (BLOCK..bytes.len()).step_by(BLOCK) {
            // Frames with records, of this segment: what it was used for before names another.
            let frame = &bytes[at..];
            if frame.starts_with(b"FRAM") && word(frame, 24) == number && frame[80..84] != [0; 4] {
                found.insert(at, word(frame, 56));
            }
        }
        if let Some(first) = found.values().next() {
            firsts.insert(path.clone(), *first);
            last = (path.clone(), found);
        }
    }
    (firsts, last)
}
