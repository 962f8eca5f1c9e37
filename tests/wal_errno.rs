//! Every operation of the disk in the life of a log fails with every error number, once or from
//! then on, with and without its effect, or short: what the caller is told is of the class that the
//! documents promise for that place, nothing acknowledged is lost, nothing is written once the log
//! is poisoned, and the next process goes on.
//!
//! `SAWMILL_SIM=long` tries every combination; otherwise each operation has a share of them.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::wildcard_enum_match_arm,
    clippy::cast_possible_truncation,
    reason = "tests stop at what fails"
)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use sawmill::clock::ManualClock;
use sawmill::sim::{CrashOutcome, Device, FaultKind, SimDisk, SimOptions};
use sawmill::{Background, Error, ErrorKind, Wal, WalOptions};

/// EIO, ENOSPC, EDQUOT, EINTR, EAGAIN.
const ERRNOS: [i32; 5] = [5, 28, 122, 4, 11];
const KINDS: [FaultKind; 3] =
    [FaultKind::NotExecuted, FaultKind::ExecutedButReported, FaultKind::Short(512)];

fn open(disk: &SimDisk) -> Result<Wal, Error> {
    let options = WalOptions {
        segment_size: 64 << 10,
        recycled: 2,
        lock_wait: Duration::ZERO,
        background: Background::Inline,
        ..WalOptions::default()
    };
    let storage = Arc::new(disk.clone());
    Wal::open_with(storage, Arc::new(ManualClock::default()), "/log", options)
}

/// What a caller handed over and was told.
#[derive(Debug, Default)]
struct Told {
    /// By LSN from 1; what failed without having been appended is taken off again.
    appended: Vec<Vec<u8>>,
    acknowledged: usize,
    /// What each part of the life began with, by the disk's count.
    parts: Vec<(u64, &'static str)>,
    error: Option<Error>,
    /// Another handle of the log, which sees what is left of it.
    kept: Option<Wal>,
}

impl Told {
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

/// Each place at which a log touches the disk.
fn life(disk: &SimDisk, told: &mut Told) -> Result<(), Error> {
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
    read(&wal)?;
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

fn read(wal: &Wal) -> Result<Vec<(u64, Vec<u8>)>, Error> {
    let mut replay = wal.replay()?;
    let mut records = Vec::new();
    while let Some(record) = replay.next() {
        let record = record?;
        records.push((record.lsn.get(), record.payload.to_vec()));
    }
    Ok(records)
}

fn disk() -> SimDisk {
    let options = SimOptions {
        device: Device::Fua,
        count_reads: true,
        names_forget: false,
        trace_lines: 0,
        ..SimOptions::default()
    };
    SimDisk::with_options(1, options)
}

/// The next process: everything acknowledged is there, nothing else than was appended, and it
/// goes on.
fn judge(found: &SimDisk, told: &Told) -> Result<(), String> {
    let wal = open(found).map_err(|error| format!("opening again: {error}"))?;
    let records = read(&wal).map_err(|error| format!("reading again: {error}"))?;
    let last = wal.durable_lsn().get() as usize;
    if last < told.acknowledged {
        return Err(format!("{} were acknowledged, {last} are there", told.acknowledged));
    }
    let first = wal.first_lsn().get();
    if records.len() as u64 != last as u64 + 1 - first {
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

/// Nothing moves any more, also when the last handle goes.
fn stays_poisoned(disk: &SimDisk, told: &mut Told) -> Result<(), String> {
    let error = told.error.as_ref().unwrap();
    if error.path().is_none() && std::error::Error::source(error).is_none() {
        return Err(format!("poisoned without a place or a cause: {error}"));
    }
    let before = disk.ops();
    let Some(wal) = told.kept.take() else { return Err("poisoned before it was open".into()) };
    let again = wal.append(b"never").map_err(|error| error.kind());
    drop(wal);
    match again {
        Err(ErrorKind::Poisoned | ErrorKind::Closed) if disk.ops() == before => Ok(()),
        Err(ErrorKind::Poisoned | ErrorKind::Closed) => {
            Err("something was written after the poison".into())
        }
        other => Err(format!("poisoned, and then {other:?}")),
    }
}

/// Fails one operation; returns the class of what the caller was told.
fn strike(number: u64, errno: i32, kind: FaultKind, sticky: bool) -> Result<String, String> {
    let disk = disk();
    if sticky {
        disk.fail_from(number, errno, kind);
    } else {
        disk.fail_op(number, errno, kind);
    }
    let mut told = Told::default();
    told.error = life(&disk, &mut told).err();
    if told.error.as_ref().is_some_and(|error| error.kind() == ErrorKind::Poisoned) {
        stays_poisoned(&disk, &mut told)?;
    }
    told.kept = None;
    let class = told.error.as_ref().map_or("nothing".to_owned(), |e| format!("{:?}", e.kind()));
    let may = matches!(class.as_str(), "nothing" | "Poisoned" | "Io" | "DiskFull" | "Unreadable");
    if !may {
        return Err(format!("told {class}: {:?}", told.error));
    }
    disk.fail_no_more();
    for outcome in [CrashOutcome::LoseAll, CrashOutcome::KeepAll, CrashOutcome::Seeded(number)] {
        judge(&disk.power_cycle(outcome), &told).map_err(|why| format!("{outcome:?}: {why}"))?;
    }
    Ok(class)
}

/// The place of an operation: which part of the life, which call, which file.
fn site(parts: &[(u64, &'static str)], number: u64, line: &str) -> String {
    let part = parts.iter().rev().find(|(from, _)| *from < number).map_or("", |(_, name)| *name);
    let text = line.split_once(' ').map_or("", |(_, text)| text);
    let text = text.strip_prefix("submit ").or(text.strip_prefix("complete ")).unwrap_or(text);
    let verb = text.split(' ').next().unwrap_or("");
    let file = if text.contains(".seg") {
        "segment"
    } else if text.contains("LOCK") {
        "LOCK"
    } else if text.contains("LOG") {
        "LOG"
    } else {
        "directory"
    };
    let durable = if text.contains("durable") { " durable" } else { "" };
    format!("{part}: {verb}{durable} {file}")
}

#[test]
fn every_error_at_every_operation_is_of_its_class() {
    let long = std::env::var("SAWMILL_SIM").is_ok_and(|value| value == "long");
    let whole = SimDisk::with_options(
        1,
        SimOptions {
            device: Device::Fua,
            count_reads: true,
            names_forget: false,
            trace_lines: 100_000,
            ..SimOptions::default()
        },
    );
    let mut told = Told::default();
    life(&whole, &mut told).unwrap();
    let last = whole.ops();
    let trace = whole.trace();
    let mut table: BTreeMap<String, BTreeMap<String, u64>> = BTreeMap::new();
    let (mut runs, mut violations) = (0_u64, Vec::new());
    for (line, number) in trace.lines().zip(1..) {
        let site = site(&told.parts, number, line);
        for (at, errno) in ERRNOS.into_iter().enumerate() {
            for (nth, kind) in KINDS.into_iter().enumerate() {
                for sticky in [false, true] {
                    let share = number as usize + at * 7 + nth * 3 + usize::from(sticky);
                    if !long && !share.is_multiple_of(6) {
                        continue;
                    }
                    runs += 1;
                    match strike(number, errno, kind, sticky) {
                        Ok(class) => {
                            check_class(&site, &class, kind, &mut violations);
                            *table.entry(site.clone()).or_default().entry(class).or_default() += 1;
                        }
                        Err(why) => violations.push(format!(
                            "{site}, operation {number}, errno {errno} {kind:?} sticky {sticky}: \
                             {why}"
                        )),
                    }
                }
            }
        }
    }
    for (site, classes) in &table {
        println!("{site}: {classes:?}");
    }
    println!("{runs} runs over {last} operations at {} places", table.len());
    assert!(table.len() >= 40, "{}", table.len());
    assert!(violations.is_empty(), "{}:\n{}", violations.len(), violations.join("\n"));
}

/// What a place may say.
fn check_class(site: &str, class: &str, kind: FaultKind, violations: &mut Vec<String>) {
    let frames = ["append: write", "plain frames and sync: write durable"];
    let syncs = ["plain frames and sync: sync"];
    let poisons = frames.iter().chain(&syncs).any(|place| site.starts_with(place));
    if poisons && site.contains("segment") && class != "Poisoned" {
        violations.push(format!("{site}: {class} after {kind:?}"));
    }
    if site.starts_with("reading")
        && !matches!(class, "nothing" | "Unreadable" | "Io" | "DiskFull" | "Poisoned")
    {
        violations.push(format!("{site}: {class} after {kind:?}"));
    }
}
