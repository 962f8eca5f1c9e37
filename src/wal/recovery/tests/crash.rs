//! The power goes at every operation of a small log's life, openings included; whatever survives,
//! the next opening finds what was acknowledged, and nothing that was never there.

use super::*;
use crate::sim::{CrashManner, CrashOutcome, Device, SimOptions};
use crate::wal::Wal;

const MANNERS: [CrashManner; 3] = [CrashManner::Before, CrashManner::Torn, CrashManner::After];

/// What the log must hold.
#[derive(Clone, Debug, Default)]
struct Model {
    /// Everything that was ever handed to the log, by LSN, in the order of the attempts.
    attempts: Vec<(u64, Vec<u8>)>,
    acknowledged: u64,
    start: u64,
    /// What the last opening showed above the acknowledged.
    shown: u64,
}

impl Model {
    fn check(&mut self, writer: &Writer, context: &str) -> Result<(), String> {
        let records = writer.read(0).map_err(|error| format!("{context}: {error}"))?;
        let first = records.first().map_or(self.acknowledged + 1, |(lsn, _)| *lsn);
        let last = records.last().map_or(self.acknowledged.max(first - 1), |(lsn, _)| *lsn);
        let dense = records.iter().zip(first..).all(|((lsn, _), expected)| *lsn == expected);
        let known = records.iter().all(|record| self.attempts.contains(record));
        let whole = first <= self.start.max(1) && last >= self.acknowledged;
        let kept = self.shown == 0 || last == self.shown;
        self.shown = last;
        if dense && known && whole && kept {
            return Ok(());
        }
        Err(format!("{context}: {first}..={last} {dense} {known} {whole} {kept} {self:?}"))
    }
}

/// A small life: an opening, frames durable and plain, a rotation, a truncation, another opening.
fn life(disk: &SimDisk, model: &mut Model) -> crate::error::Result<()> {
    for round in 0..3_u8 {
        let mut writer = Writer::open(disk)?;
        let mut next = writer.tail().next_lsn.get();
        let mut attempt = |model: &mut Model, bytes: Vec<u8>| {
            model.attempts.push((next, bytes.clone()));
            next += 1;
            user(&bytes)
        };
        let records = attempt(model, vec![round; 10]);
        writer.frame(FrameKind::Records, &records)?;
        model.acknowledged = writer.durable.get();
        // Two frames in flight at once, then one that waits for both.
        let big = attempt(model, vec![round + 10; 15000]);
        writer.start(FrameKind::Records, &big)?;
        let small = attempt(model, vec![round + 20; 10]);
        writer.start(FrameKind::Records, &small)?;
        while let Some(completion) = writer.channel.complete() {
            completion.result?;
        }
        writer.opened.segments.last().unwrap().segment.file().sync()?;
        writer.index.active().unwrap().segment.file().sync()?;
        let last = attempt(model, vec![round + 30; 30000]);
        writer.frame(FrameKind::Records, &last)?;
        model.acknowledged = writer.durable.get();
        if round == 1 {
            let target = writer.durable.get();
            model.start = target;
            writer.truncate(Lsn::new(target))?;
            writer.close()?;
        }
    }
    Ok(())
}

/// What the next process finds.
#[derive(Clone, Copy, Debug)]
enum Ending {
    /// The process was killed: what was written is there, and still not durable.
    Kill,
    Power(CrashOutcome),
}

fn found(disk: &SimDisk, ending: Ending) -> SimDisk {
    match ending {
        Ending::Kill => disk.kill(),
        Ending::Power(outcome) => disk.power_cycle(outcome),
    }
}

fn endings(disk: &SimDisk) -> Vec<Ending> {
    let mut outcomes = vec![CrashOutcome::LoseAll, CrashOutcome::KeepAll];
    let items = disk.pending_items();
    if items <= 4 {
        outcomes.extend((1..(1 << items) - 1).map(CrashOutcome::Subset));
    } else {
        outcomes.extend((1..=6).map(CrashOutcome::Seeded));
    }
    outcomes.into_iter().map(Ending::Power).chain([Ending::Kill]).collect()
}

fn options(device: Device) -> SimOptions {
    SimOptions { device, trace_lines: 0, ..SimOptions::default() }
}

/// Crashes at every operation; returns how many states were looked at, or the first violation.
fn gate(device: Device) -> Result<u64, String> {
    let whole = SimDisk::with_options(1, options(device));
    life(&whole, &mut Model::default()).map_err(|error| format!("undisturbed: {error}"))?;
    let mut states = 0;
    for op in 1..=whole.ops() {
        for manner in MANNERS {
            let disk = SimDisk::with_options(1, options(device));
            disk.crash_at(op, manner);
            let mut model = Model::default();
            assert!(life(&disk, &mut model).is_err());
            for ending in endings(&disk) {
                let context = format!("{device:?} op {op} {manner:?} {ending:?}");
                // Some openings are themselves cut at each of their operations.
                let nested = states % 37 == 0;
                states += 1;
                if nested {
                    states += nested_crashes(&disk, ending, &model, &context)?;
                }
                reopen_thrice(&found(&disk, ending), model.clone(), &context)?;
            }
        }
    }
    Ok(states)
}

fn nested_crashes(
    disk: &SimDisk,
    ending: Ending,
    model: &Model,
    context: &str,
) -> Result<u64, String> {
    let whole = found(disk, ending);
    drop(Writer::open(&whole).map_err(|error| format!("{context}: {error}"))?);
    let mut states = 0;
    for op in 1..=whole.ops() {
        let manner = MANNERS[usize::try_from(op % 3).unwrap()];
        let first = found(disk, ending);
        first.crash_at(op, manner);
        if Writer::open(&first).is_ok() {
            continue;
        }
        for second in [CrashOutcome::LoseAll, CrashOutcome::KeepAll, CrashOutcome::Seeded(op)] {
            let again = first.power_cycle(second);
            let context = format!("{context}, then op {op} {manner:?} {second:?}");
            reopen_thrice(&again, model.clone(), &context)?;
            states += 1;
        }
    }
    Ok(states)
}

type Records = Vec<(u64, Vec<u8>)>;

/// What a reader shows who writes nothing; `None` if there is no log yet.
fn read_only(disk: &SimDisk, context: &str) -> Result<Option<Records>, String> {
    let before = disk.files();
    let read = || -> crate::error::Result<_> {
        let reader = Wal::open_read_only_with(disk, PLACE)?;
        let mut replay = reader.replay()?;
        let mut records = Vec::new();
        while let Some(record) = replay.next() {
            let record = record?;
            records.push((record.lsn.get(), record.payload.to_vec()));
        }
        Ok(records)
    };
    let outcome = match read() {
        Ok(records) => Ok(Some(records)),
        Err(error) if [ErrorKind::Invalid, ErrorKind::Io].contains(&error.kind()) => Ok(None),
        // No slot of `LOG` stands: its creation did not finish.
        Err(error) if error.to_string().contains("LOG is lost") => Ok(None),
        Err(error) => Err(format!("{context}, read only: {error}")),
    };
    assert_eq!(before, disk.files(), "{context}: a reader made or removed a file");
    outcome
}

/// Opens, checks, cuts the power (nothing may get lost that was shown), appends, checks again.
fn reopen_thrice(disk: &SimDisk, mut model: Model, context: &str) -> Result<(), String> {
    let open = |disk: &SimDisk| Writer::open(disk).map_err(|error| format!("{context}: {error}"));
    // Every other time a reader comes first: what it has shown is there after a power cut too, and
    // no more than that.
    let reads = context.len().is_multiple_of(2);
    let shown = if reads { read_only(disk, context)? } else { None };
    let cut = reads.then(|| disk.power_cycle(CrashOutcome::LoseAll));
    let disk = cut.as_ref().unwrap_or(disk);
    let writer = open(disk)?;
    model.check(&writer, context)?;
    let kept = writer.read(0).map_err(|error| format!("{context}: {error}"))?;
    if let Some(shown) = shown.filter(|shown| *shown != kept) {
        let ends = |all: &[(u64, Vec<u8>)]| (all.first().map(|r| r.0), all.last().map(|r| r.0));
        let ends = (ends(&shown), ends(&kept));
        return Err(format!("{context}: a reader showed something else: {ends:?}"));
    }
    let found = disk.power_cycle(CrashOutcome::LoseAll);
    drop(writer);
    let mut writer = open(&found)?;
    model.check(&writer, context)?;
    let lsn = writer.tail().next_lsn.get();
    let failed = writer.append(b"after").err();
    if let Some(error) = failed {
        return Err(format!("{context}: {error}"));
    }
    drop(writer);
    model.attempts.retain(|(old, _)| *old < lsn);
    model.attempts.push((lsn, b"after".to_vec()));
    (model.acknowledged, model.shown) = (lsn, lsn);
    let last = found.power_cycle(CrashOutcome::LoseAll);
    let writer = open(&last)?;
    model.check(&writer, context)
}

#[test]
fn crash_at_every_operation_keeps_what_was_acknowledged() {
    let mut states = 0;
    for device in [Device::Flush, Device::Fua] {
        states += gate(device).unwrap();
    }
    println!("{states} crash states");
    assert!(states > 2000, "{states}");
}

#[test]
fn planted_bugs_are_seen_by_the_crash_gate() {
    use std::collections::BTreeSet;

    use crate::planted::{Bug, with_planted};
    let mut missed = BTreeSet::new();
    for bug in [
        Bug::NoDirectorySync,
        Bug::NoBarrier,
        Bug::ShowBeforeBarrier,
        Bug::UnlinkBeforeStart,
        Bug::PaddingIsEnd,
        Bug::ExistenceAttests,
        Bug::RecoverFromCache,
    ] {
        let seen = with_planted(bug, || gate(Device::Fua).and_then(|_| gate(Device::Flush)));
        match seen {
            Err(violation) => println!("{}: {violation}", bug.name()),
            Ok(_) => {
                missed.insert(bug.name());
            }
        }
    }
    assert!(missed.is_empty(), "missed: {missed:?}");
}
