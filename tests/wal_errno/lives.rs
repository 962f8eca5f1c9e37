//! What is done to the disk: lives of a log that touch it at every place, and the next process,
//! which judges.

use std::sync::Arc;
use std::time::Duration;

use sawmill::clock::ManualClock;
use sawmill::sim::{CrashOutcome, Device, FaultKind, SimDisk, SimOptions};
use sawmill::{Background, Error, ErrorKind, Lsn, LsnRange, Repair, Wal, WalOptions, WalReader};

/// A life: what is there before it, and what is done.
pub(crate) struct Life {
    pub(crate) name: &'static str,
    pub(crate) prepare: fn() -> (SimDisk, Told),
    pub(crate) live: fn(&SimDisk, &mut Told) -> Result<(), Error>,
}

pub(crate) const LIVES: [Life; 5] = [
    Life { name: "writing", prepare: nothing, live: writing },
    Life { name: "salvage", prepare: damaged, live: salvage },
    Life { name: "reading beside", prepare: killed, live: reading_beside },
    Life { name: "leftovers", prepare: left_over, live: clearing_up },
    Life { name: "copy on write", prepare: nothing_on_copies, live: in_long_segments },
];

/// What a caller handed over and was told.
#[derive(Debug, Default)]
pub(crate) struct Told {
    /// By LSN from 1; what failed without having been appended is taken off again.
    appended: Vec<Vec<u8>>,
    acknowledged: usize,
    /// What was damaged, and may be given up.
    accepted: Vec<LsnRange>,
    /// What each part of the life began with, by the disk's count.
    pub(crate) parts: Vec<(u64, &'static str)>,
    pub(crate) error: Option<Error>,
    /// Another handle of the log, which sees what is left of it.
    pub(crate) kept: Option<Wal>,
}

impl Told {
    /// The same, before anything was done.
    pub(crate) fn again(&self) -> Told {
        let (appended, accepted) = (self.appended.clone(), self.accepted.clone());
        Told { appended, accepted, acknowledged: self.acknowledged, ..Told::default() }
    }

    fn part(&mut self, disk: &SimDisk, name: &'static str) {
        self.parts.push((disk.ops(), name));
    }

    fn bytes(&self, length: usize) -> Vec<u8> {
        let number = self.appended.len() as u8;
        (0..length).map(|byte| (byte as u8).wrapping_mul(7) ^ number).collect()
    }

    fn append(&mut self, wal: &Wal, length: usize) -> Result<(), Error> {
        let bytes = self.bytes(length);
        self.appended.push(bytes.clone());
        match wal.append(&bytes) {
            Ok(lsn) => {
                assert_eq!(lsn.get(), self.appended.len() as u64);
                self.acknowledged = self.appended.len();
                Ok(())
            }
            Err(error) => {
                if error.kind() != ErrorKind::Poisoned {
                    self.appended.pop();
                }
                Err(error)
            }
        }
    }

    fn submit(&mut self, wal: &Wal, length: usize) -> Result<(), Error> {
        let bytes = self.bytes(length);
        drop(wal.submit(&bytes)?);
        self.appended.push(bytes);
        Ok(())
    }
}

fn disk(copy_on_write: bool) -> SimDisk {
    let options = SimOptions {
        device: Device::Fua,
        count_reads: true,
        names_forget: false,
        copy_on_write,
        // Sealed segments are mapped in these lives, and read from the device in the others.
        cached: copy_on_write,
        pages: true,
        trace_lines: 100_000,
        ..SimOptions::default()
    };
    SimDisk::with_options(1, options)
}

/// Number and text of each operation that the disk has seen.
pub(crate) fn operations(disk: &SimDisk) -> impl Iterator<Item = (u64, String)> {
    let trace = disk.trace();
    let numbered = trace.lines().filter_map(|line| line.strip_prefix('#')?.split_once(' '));
    let all: Vec<_> =
        numbered.map(|(number, text)| (number.parse().unwrap(), text.to_owned())).collect();
    all.into_iter()
}

fn options() -> WalOptions {
    WalOptions {
        segment_size: 64 << 10,
        // As little as is allowed: a life is a third cheaper then, and there are many.
        memory: 1 << 20,
        recycled: 2,
        lock_wait: Duration::ZERO,
        background: Background::Inline,
        ..WalOptions::default()
    }
}

fn open_as(disk: &SimDisk, path: &str, options: WalOptions) -> Result<Wal, Error> {
    let storage = Arc::new(disk.clone());
    Wal::open_with(storage, Arc::new(ManualClock::default()), path, options)
}

fn open(disk: &SimDisk) -> Result<Wal, Error> {
    open_as(disk, "/log", options())
}

fn nothing() -> (SimDisk, Told) {
    (disk(false), Told::default())
}

/// Each place at which a log touches the disk.
fn writing(disk: &SimDisk, told: &mut Told) -> Result<(), Error> {
    told.part(disk, "creation");
    let wal = open(disk)?;
    told.kept = Some(wal.clone());
    told.part(disk, "append");
    told.append(&wal, 100)?;
    told.part(disk, "plain frames and sync");
    told.submit(&wal, 20_000)?;
    told.submit(&wal, 20_000)?;
    wal.sync()?;
    told.acknowledged = told.appended.len();
    told.part(disk, "rotation");
    for _ in 0..4 {
        told.append(&wal, 31_000)?;
    }
    told.part(disk, "reading");
    read(&wal, &[])?;
    wal.get(wal.durable_lsn())?;
    told.part(disk, "backup");
    wal.backup("/copy")?;
    told.part(disk, "truncation");
    wal.truncate_before(wal.durable_lsn())?;
    told.part(disk, "recycling");
    for _ in 0..4 {
        told.append(&wal, 31_000)?;
    }
    told.part(disk, "close");
    wal.close()?;
    told.kept = None;
    told.part(disk, "recovery");
    let wal = open(disk)?;
    told.kept = Some(wal.clone());
    told.part(disk, "append");
    told.append(&wal, 100)
}

pub(crate) type Records = Vec<(u64, Vec<u8>)>;

/// Everything in the log but what was given up, which must lie in `accepted`.
fn read(wal: &Wal, accepted: &[LsnRange]) -> Result<Records, Error> {
    let mut replay = wal.replay()?;
    let mut records = Vec::new();
    while let Some(record) = replay.next() {
        match record {
            Ok(record) => records.push((record.lsn.get(), record.payload.to_vec())),
            Err(error) if error.kind() == ErrorKind::Lost => {
                let (first, last) = error.lsns().unwrap();
                let given_up = LsnRange::between(first, last);
                assert!(accepted.contains(&given_up), "{error}");
            }
            Err(error) => return Err(error),
        }
    }
    Ok(records)
}

/// The next process: everything acknowledged is there, nothing else than was appended, and it
/// goes on.
pub(crate) fn judge(found: &SimDisk, told: &Told) -> Result<(), String> {
    if !told.accepted.is_empty() {
        repair(found, &told.accepted).map_err(|error| format!("repairing again: {error}"))?;
    }
    let wal = open(found).map_err(|error| format!("opening again: {error}"))?;
    let records = read(&wal, &told.accepted).map_err(|error| format!("reading again: {error}"))?;
    let last = wal.durable_lsn().get() as usize;
    if last < told.acknowledged {
        return Err(format!("{} were acknowledged, {last} are there", told.acknowledged));
    }
    let first = wal.first_lsn().get();
    let given_up: u64 = told.accepted.iter().map(|range| range.len()).sum();
    if records.len() as u64 + given_up != last as u64 + 1 - first {
        return Err(format!("{} records from {first} to {last}", records.len()));
    }
    for (lsn, bytes) in &records {
        if told.appended.get(*lsn as usize - 1) != Some(bytes) {
            return Err(format!("record {lsn} was never appended like this"));
        }
    }
    wal.append(b"after").map_err(|error| format!("appending again: {error}"))?;
    wal.close().map_err(|error| format!("closing again: {error}"))
}

const FIRST_SEGMENT: &str = "/log/00000000000000000001.seg";
const SECOND_SEGMENT: &str = "/log/00000000000000000002.seg";

/// A log of three segments, cleanly closed.
fn closed() -> (SimDisk, Told) {
    let (disk, mut told) = nothing();
    let wal = open(&disk).unwrap();
    for _ in 0..12 {
        told.append(&wal, 9000).unwrap();
    }
    wal.close().unwrap();
    (disk, told)
}

/// A log with a damaged record and a damaged header, of which a repair was begun.
fn damaged() -> (SimDisk, Told) {
    let (disk, mut told) = closed();
    let edit = |path: &str, place: usize| {
        let mut bytes = disk.read_file(path).unwrap();
        bytes[place] ^= 1;
        disk.write_file(path, &bytes);
    };
    // A barrier stands in the first block of frames, and each record takes three.
    edit(FIRST_SEGMENT, 4096 * (2 + 3) + 200);
    edit(SECOND_SEGMENT, 17);
    told.accepted = vec![LsnRange::between(Lsn::new(2), Lsn::new(2))];
    let whole = disk.power_cycle(CrashOutcome::KeepAll);
    repair(&whole, &told.accepted).unwrap();
    // Both files are kept aside, and the second one is not in its place.
    let (rename, _) = operations(&whole).find(|(_, text)| text.starts_with("rename")).unwrap();
    let disk = disk.power_cycle(CrashOutcome::KeepAll);
    disk.fail_from(rename, 5, FaultKind::NotExecuted);
    repair(&disk, &told.accepted).unwrap_err();
    (disk.power_cycle(CrashOutcome::KeepAll), told)
}

fn repair(disk: &SimDisk, accepted: &[LsnRange]) -> Result<Repair, Error> {
    Wal::repair_with(disk, &ManualClock::default(), "/log", Duration::ZERO, accepted)
}

fn salvage(disk: &SimDisk, told: &mut Told) -> Result<(), Error> {
    told.part(disk, "verification");
    let report = Wal::verify_with(disk, "/log")?;
    assert_eq!(report.damages.iter().filter_map(|one| one.lost).count(), 1);
    told.part(disk, "repair");
    repair(disk, &told.accepted)?;
    told.part(disk, "recovery of a repaired log");
    let wal = open(disk)?;
    told.kept = Some(wal.clone());
    assert_eq!(read(&wal, &told.accepted)?.len(), told.appended.len() - 1);
    told.append(&wal, 100)
}

/// A log whose writer was killed.
fn killed() -> (SimDisk, Told) {
    let (disk, mut told) = nothing();
    let wal = open(&disk).unwrap();
    for _ in 0..12 {
        told.append(&wal, 9000).unwrap();
    }
    let found = disk.power_cycle(CrashOutcome::KeepAll);
    drop(wal);
    (found, told)
}

/// Readers of a log that nobody writes, and then of one that is written.
fn reading_beside(disk: &SimDisk, told: &mut Told) -> Result<(), Error> {
    told.part(disk, "reading of a killed writer's log");
    let reader = Wal::open_read_only_with(disk, "/log")?;
    show(&reader, told, 0)?;
    told.part(disk, "recovery");
    let wal = open(disk)?;
    told.kept = Some(wal.clone());
    told.part(disk, "reading beside a writer");
    let mut tail = reader.tail(Lsn::FIRST);
    for _ in 0..8 {
        told.append(&wal, 9000)?;
        reader.refresh()?;
        show(&reader, told, 1)?;
    }
    while let Some(record) = tail.try_next() {
        record?;
    }
    wal.seek_time(0)?;
    told.part(disk, "reading beside a truncation");
    wal.truncate_before(wal.durable_lsn())?;
    reader.refresh()?;
    show(&reader, told, 1)
}

/// A reader shows everything acknowledged from its start on, and nothing else; but for the last
/// `unattested` records, where it cannot see what the writer publishes.
fn show(reader: &WalReader, told: &Told, unattested: usize) -> Result<(), Error> {
    let mut replay = reader.replay()?;
    let mut next = reader.first_lsn();
    while let Some(record) = replay.next() {
        let record = record?;
        assert_eq!(record.lsn, next);
        assert!(record.payload == told.appended[next.get() as usize - 1], "record {next}");
        next = next.next();
    }
    let (shown, all) = (next.get() as usize - 1, told.appended.len());
    assert!(shown <= all && shown + unattested >= all, "{shown} of {all}");
    reader.get(reader.last_lsn())?;
    Ok(())
}

/// A log beside what processes left that were killed: a segment below the start, a segment and a
/// directory that are not finished, and the mark of a backup that is whole.
fn left_over() -> (SimDisk, Told) {
    let (disk, mut told) = nothing();
    let wal = open_as(&disk, "/log", WalOptions { recycled: 0, ..options() }).unwrap();
    for _ in 0..12 {
        told.append(&wal, 9000).unwrap();
    }
    let below = disk.read_file(FIRST_SEGMENT).unwrap();
    wal.truncate_before(wal.durable_lsn()).unwrap();
    drop(wal);
    assert!(disk.read_file(FIRST_SEGMENT).is_none());
    disk.write_file(FIRST_SEGMENT, &below);
    disk.write_file("/log/BACKUP", b"");
    let unfinished = (2..).map(|number| format!("/log/{number:020}.seg"));
    let mut unfinished = unfinished.skip_while(|path| disk.read_file(path).is_none());
    let unfinished = unfinished.find(|path| disk.read_file(path).is_none()).unwrap();
    disk.write_file(unfinished, &[0; 64 << 10]);
    disk.write_file("/new/00000000000000000001.seg", &[0; 64 << 10]);
    disk.write_file("/new/LOG.tmp", &[0; 4096]);
    disk.write_file("/copy/BACKUP", b"");
    disk.write_file("/copy/00000000000000000001.seg", &[0; 64 << 10]);
    disk.write_file("/copy/LOG.tmp", &[0; 4096]);
    (disk, told)
}

fn clearing_up(disk: &SimDisk, told: &mut Told) -> Result<(), Error> {
    told.part(disk, "recovery beside leftovers");
    let wal = open(disk)?;
    told.kept = Some(wal.clone());
    told.append(&wal, 100)?;
    told.part(disk, "backup over an unfinished one");
    wal.backup("/copy")?;
    told.part(disk, "looking where no log is");
    let none = Wal::open_read_only_with(disk, "/new");
    none.map(drop).or_else(|error| match error.kind() {
        ErrorKind::Invalid | ErrorKind::Corrupt => Ok(()),
        _ => Err(error),
    })?;
    wal.close()?;
    told.part(disk, "creation over an unfinished one");
    let wal = open_as(disk, "/new", options())?;
    told.kept = Some(wal.clone());
    wal.close()
}

fn nothing_on_copies() -> (SimDisk, Told) {
    (disk(true), Told::default())
}

/// Long segments, which are read piece by piece, and several writes in flight.
fn in_long_segments(disk: &SimDisk, told: &mut Told) -> Result<(), Error> {
    told.part(disk, "creation on copies");
    let (segment_size, memory) = (4 << 20, 16 << 20);
    let options = WalOptions { segment_size, memory, write_depth: Some(4), ..options() };
    let wal = open_as(disk, "/log", options)?;
    told.kept = Some(wal.clone());
    told.part(disk, "several writes in flight");
    for _ in 0..6 {
        let bytes = told.bytes(400_000);
        wal.submit_alone(&bytes)?;
        told.appended.push(bytes);
    }
    wal.sync()?;
    told.acknowledged = told.appended.len();
    told.part(disk, "reading ahead");
    for records in 1..=told.appended.len() {
        let mut replay = wal.replay()?;
        for _ in 0..records {
            replay.next().unwrap()?;
        }
    }
    Ok(())
}
