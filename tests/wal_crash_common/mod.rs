//! Short lives of a log, and what they promise.
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "helpers of tests, whose numbers are small"
)]

mod gate;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sawmill::clock::ManualClock;
use sawmill::sim::SimDisk;
use sawmill::{AppendOptions, Background, Durability, Error, Lsn, Wal, WalOptions};

pub(crate) use gate::{Gate, is_long};

/// What a caller does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Append,
    AppendBatch,
    /// Two records that do not fit into one segment together.
    Roll,
    /// Two records that do not fit into one frame together: the first is written plain.
    SubmitAndSync,
    /// Two records that do not fit into one segment together, given up, and two more, for which the
    /// first one's file is used again.
    Recycle,
    Truncate,
    Close,
    Reopen,
    /// Durable frames that are in flight together, across a segment's end.
    Burst,
    /// Plain frames that are in flight together, across a segment's end, and a durable one.
    PlainBurst,
    /// A frame that is written plain, and has landed when a durable one follows.
    Buffered,
}

const STEPS: [Step; 8] = [
    Step::Append,
    Step::AppendBatch,
    Step::Roll,
    Step::Recycle,
    Step::SubmitAndSync,
    Step::Truncate,
    Step::Close,
    Step::Reopen,
];

/// What was handed to the log, and what it promised.
#[derive(Clone, Debug, Default)]
pub(crate) struct Model {
    /// By LSN from 1: the bytes, and the LSN of the last record of its batch.
    attempts: Vec<(Vec<u8>, u64)>,
    acknowledged: u64,
    /// Records below it may be gone.
    start: u64,
    /// The last record that an opening showed; none is invented or lost after that.
    pub(crate) shown: Option<u64>,
}

impl Model {
    /// Notes what is about to be appended behind what the log has.
    pub(crate) fn attempt(&mut self, wal: &Wal, payloads: &[Vec<u8>]) {
        let appended = usize::try_from(wal.appended_lsn().get()).unwrap();
        self.attempts.truncate(appended);
        let last = (appended + payloads.len()) as u64;
        self.attempts.extend(payloads.iter().map(|bytes| (bytes.clone(), last)));
    }

    pub(crate) fn acknowledge(&mut self, lsn: Lsn) {
        assert_eq!(lsn.get(), self.attempts.len() as u64, "an LSN was skipped or reused");
        self.acknowledged = lsn.get();
    }

    /// What tells it from the model of another moment of the same life.
    pub(crate) fn moment(&self) -> (u64, u64, u64, Option<u64>) {
        (self.attempts.len() as u64, self.acknowledged, self.start, self.shown)
    }

    pub(crate) fn check(&mut self, wal: &Wal) -> Result<(), String> {
        let mut replay = wal.replay().map_err(|error| error.to_string())?;
        let (mut first, mut last) = (None, None);
        while let Some(record) = replay.next() {
            let record = record.map_err(|error| error.to_string())?;
            let lsn = record.lsn.get();
            if last.is_some_and(|last| last + 1 != lsn) {
                return Err(format!("record {lsn} follows {last:?}"));
            }
            let index = usize::try_from(lsn - 1).unwrap();
            if self.attempts.get(index).is_none_or(|(bytes, _)| bytes != record.payload) {
                return Err(format!("record {lsn} was never appended like this"));
            }
            (first, last) = (Some(first.unwrap_or(lsn)), Some(lsn));
        }
        let end = last.unwrap_or(wal.durable_lsn().get());
        if first.is_some_and(|first| first > self.start.max(1)) || end < self.acknowledged {
            let Model { start, acknowledged, .. } = self;
            return Err(format!(
                "{start}..={acknowledged} are acknowledged, {first:?}..={end} there"
            ));
        }
        if self.shown.is_some_and(|shown| shown != end) {
            return Err(format!("{:?} was the last record shown, now it is {end}", self.shown));
        }
        let batch = self.attempts.get(usize::try_from(end).unwrap().wrapping_sub(1));
        if batch.is_some_and(|(_, last)| *last != end) {
            return Err(format!("a part of a batch is there: up to {end}"));
        }
        self.shown = Some(end);
        Ok(())
    }
}

pub(crate) fn open(disk: &SimDisk) -> Result<Wal, Error> {
    let options = WalOptions {
        segment_size: 64 * 1024,
        // As little as is allowed: an opening is cheaper then, and there are many.
        memory: 1 << 20,
        lock_wait: Duration::ZERO,
        background: Background::Inline,
        write_depth: Some(4),
        ..WalOptions::default()
    };
    let clock = Arc::new(ManualClock::default());
    Wal::open_with(Arc::new(disk.clone()), clock, Path::new("/log"), options)
}

fn take(wal: &mut Option<Wal>, disk: &SimDisk) -> Result<Wal, Error> {
    wal.take().map_or_else(|| open(disk), Ok)
}

fn step(
    step: Step,
    number: usize,
    wal: &mut Option<Wal>,
    disk: &SimDisk,
    model: &mut Model,
) -> Result<(), Error> {
    let open = take(wal, disk)?;
    let payload = |name: u8, length: usize| -> Vec<u8> {
        let pair = [name ^ (number as u8 * 16), number as u8];
        // Not byte by byte: it was two fifths of the gate's time.
        let mut bytes = pair.repeat(length.div_ceil(2));
        bytes.truncate(length);
        bytes
    };
    match step {
        Step::Append => {
            model.attempt(&open, &[payload(1, 100)]);
            model.acknowledge(open.append(&payload(1, 100))?);
        }
        Step::AppendBatch => {
            let batch = [payload(2, 100), payload(3, 5000), payload(4, 0)];
            model.attempt(&open, &batch);
            model.acknowledge(open.append_batch(&batch)?.last());
        }
        Step::Roll => {
            for name in [5, 6] {
                model.attempt(&open, &[payload(name, 30_000)]);
                model.acknowledge(open.append(&payload(name, 30_000))?);
            }
        }
        Step::Recycle => {
            for name in [16, 17, 18, 19] {
                if name == 18 {
                    give_up_all(&open, model)?;
                }
                model.attempt(&open, &[payload(name, 30_000)]);
                model.acknowledge(open.append(&payload(name, 30_000))?);
            }
        }
        Step::SubmitAndSync => {
            for (name, length) in [(7, 3000), (8, 31_000)] {
                model.attempt(&open, &[payload(name, length)]);
                drop(open.submit(&payload(name, length))?);
            }
            model.acknowledge(open.sync()?);
        }
        Step::Burst => {
            for (name, length) in [(9, 100), (10, 25_000), (11, 30_000), (12, 100), (13, 100)] {
                model.attempt(&open, &[payload(name, length)]);
                open.submit_alone(&payload(name, length))?;
            }
            model.acknowledge(open.sync()?);
        }
        Step::PlainBurst => {
            for (name, length) in [(9, 20_000), (10, 25_000), (11, 30_000), (12, 20_000)] {
                model.attempt(&open, &[payload(name, length)]);
                drop(open.submit(&payload(name, length))?);
            }
            model.acknowledge(open.sync()?);
        }
        Step::Buffered => {
            model.attempt(&open, &[payload(14, 100)]);
            let options = AppendOptions { durability: Durability::Buffered, ..Default::default() };
            open.append_with(&payload(14, 100), options)?;
            model.attempt(&open, &[payload(15, 3000)]);
            model.acknowledge(open.append(&payload(15, 3000))?);
        }
        Step::Truncate => give_up_all(&open, model)?,
        Step::Close => return open.close(),
        Step::Reopen => {
            drop(open);
            *wal = Some(self::open(disk)?);
            return Ok(());
        }
    }
    *wal = Some(open);
    Ok(())
}

/// Gives up everything but the last record.
fn give_up_all(wal: &Wal, model: &mut Model) -> Result<(), Error> {
    model.start = model.start.max(wal.durable_lsn().get());
    wal.truncate_before(wal.durable_lsn()).map(drop)
}

/// Lives `steps`; returns how many operations the disk had done before the last one.
pub(crate) fn life(disk: &SimDisk, steps: &[Step], model: &mut Model) -> Result<u64, Error> {
    let mut before = 0;
    let mut wal = None;
    if steps.is_empty() {
        drop(open(disk)?);
        return Ok(0);
    }
    for (number, next) in steps.iter().enumerate() {
        before = disk.ops();
        step(*next, number, &mut wal, disk, model)?;
    }
    Ok(before)
}

/// All sequences of up to two steps, and those of three that `take` picks by their number.
pub(crate) fn sequences(take: impl Fn(usize) -> bool) -> Vec<Vec<Step>> {
    let mut all = vec![vec![]];
    all.extend(STEPS.map(|one| vec![one]));
    all.extend(STEPS.iter().flat_map(|one| STEPS.map(|two| vec![*one, two])));
    let two = all[1 + STEPS.len()..].to_vec();
    let three = two.iter().flat_map(|two| STEPS.map(|last| [two.as_slice(), &[last]].concat()));
    all.extend(three.enumerate().filter(|(number, _)| take(*number)).map(|(_, steps)| steps));
    all
}

/// Lives in whose last step a segment is used again, or frames are written over the old ones of
/// such a segment, by the incarnation that kept it or by the next one.
pub(crate) const RECYCLING: [&[Step]; 5] = {
    use Step::{Append, AppendBatch, Reopen, Roll, Truncate};
    [
        &[Roll, Truncate, Roll],
        &[Roll, Truncate, Roll, Roll],
        &[Roll, Truncate, Roll, Roll, AppendBatch],
        &[Roll, Truncate, Roll, Truncate, Roll, Append, Truncate],
        &[Roll, Truncate, Roll, Reopen, Roll],
    ]
};

/// Lives in which several frames are in flight, or a durable one follows a plain one.
pub(crate) const IN_FLIGHT: [&[Step]; 3] = {
    use Step::{Append, Buffered, Burst, Reopen};
    [&[Burst], &[Burst, Reopen, Burst], &[Append, Buffered, Append]]
};

/// Lives in which plain frames of two segments are in flight.
pub(crate) const ACROSS_FILES: [&[Step]; 3] = {
    use Step::{Burst, PlainBurst, Reopen};
    [&[PlainBurst], &[Burst, PlainBurst], &[PlainBurst, Reopen, Burst, PlainBurst]]
};
