//! The power goes, or the process dies, at every operation of the disk in every short life of a
//! log; whatever survives, the next opening finds what was acknowledged, in order, whole, with the
//! same LSNs, and nothing that was never there or that an earlier opening did not show.
//!
//! A life is a sequence of up to three [`Step`]s. Crash points of a sequence's beginning belong to
//! the shorter sequence, so that each state is looked at once. `SAWMILL_SIM=long` looks at all
//! sequences of three; otherwise a fixed share of them.
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::print_stdout,
    clippy::let_underscore_must_use,
    reason = "helpers of tests, whose numbers are small"
)]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sawmill::clock::ManualClock;
use sawmill::sim::{CrashManner, CrashOutcome, Device, SimDisk, SimOptions};
use sawmill::{AppendOptions, Background, Durability, Error, Lsn, Wal, WalOptions};

/// What a caller does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Append,
    AppendBatch,
    /// Two records that do not fit into one segment together.
    Roll,
    /// Two records that do not fit into one frame together: the first is written plain.
    SubmitAndSync,
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

const STEPS: [Step; 7] = [
    Step::Append,
    Step::AppendBatch,
    Step::Roll,
    Step::SubmitAndSync,
    Step::Truncate,
    Step::Close,
    Step::Reopen,
];
const MANNERS: [CrashManner; 3] = [CrashManner::Before, CrashManner::Torn, CrashManner::After];

/// What was handed to the log, and what it promised.
#[derive(Clone, Debug, Default)]
struct Model {
    /// By LSN from 1: the bytes, and the LSN of the last record of its batch.
    attempts: Vec<(Vec<u8>, u64)>,
    acknowledged: u64,
    /// Records below it may be gone.
    start: u64,
    /// The last record that an opening showed; none is invented or lost after that.
    shown: Option<u64>,
}

impl Model {
    /// Notes what is about to be appended behind what the log has.
    fn attempt(&mut self, wal: &Wal, payloads: &[Vec<u8>]) {
        let appended = usize::try_from(wal.appended_lsn().get()).unwrap();
        self.attempts.truncate(appended);
        let last = (appended + payloads.len()) as u64;
        self.attempts.extend(payloads.iter().map(|bytes| (bytes.clone(), last)));
    }

    fn acknowledge(&mut self, lsn: Lsn) {
        assert_eq!(lsn.get(), self.attempts.len() as u64, "an LSN was skipped or reused");
        self.acknowledged = lsn.get();
    }

    fn check(&mut self, wal: &Wal) -> Result<(), String> {
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

fn open(disk: &SimDisk) -> Result<Wal, Error> {
    let options = WalOptions {
        segment_size: 64 * 1024,
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
    let payload = |name: u8, length: usize| {
        vec![name ^ (number as u8 * 16), number as u8]
            .into_iter()
            .cycle()
            .take(length)
            .collect::<Vec<u8>>()
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
        Step::Truncate => {
            model.start = model.start.max(open.durable_lsn().get());
            open.truncate_before(open.durable_lsn())?;
        }
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

/// Lives `steps`; returns how many operations the disk had done before the last one.
fn life(disk: &SimDisk, steps: &[Step], model: &mut Model) -> Result<u64, Error> {
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

/// What the next process finds.
#[derive(Clone, Copy, Debug)]
enum Ending {
    /// The process was killed: what was written is there, and still not durable.
    Kill,
    Power(CrashOutcome),
}

impl Ending {
    fn all(disk: &SimDisk) -> Vec<Ending> {
        let mut outcomes = vec![CrashOutcome::LoseAll, CrashOutcome::KeepAll];
        let items = disk.pending_items();
        if items <= if is_long() { 6 } else { 4 } {
            outcomes.extend((1..(1_u64 << items).saturating_sub(1)).map(CrashOutcome::Subset));
        } else {
            outcomes.extend((1..=8).map(CrashOutcome::Seeded));
        }
        outcomes.into_iter().map(Ending::Power).chain([Ending::Kill]).collect()
    }

    fn of(self, disk: &SimDisk) -> SimDisk {
        match self {
            Ending::Kill => disk.kill(),
            Ending::Power(outcome) => disk.power_cycle(outcome),
        }
    }
}

/// Opens and checks; the power goes; opens, checks and appends; the power goes; opens and checks.
fn openings(disk: &SimDisk, mut model: Model) -> Result<(), String> {
    let text = |error: Error| error.to_string();
    let wal = open(disk).map_err(text)?;
    model.check(&wal)?;
    let found = disk.power_cycle(CrashOutcome::LoseAll);
    drop(wal);
    let wal = open(&found).map_err(text)?;
    model.check(&wal)?;
    model.attempt(&wal, &[b"after".to_vec()]);
    let lsn = wal.append(b"after").map_err(text)?;
    model.acknowledge(lsn);
    model.shown = Some(lsn.get());
    let last = found.power_cycle(CrashOutcome::LoseAll);
    drop(wal);
    model.check(&open(&last).map_err(text)?)
}

/// How much is looked at.
struct Gate {
    device: Device,
    /// One in so many of the states is opened under crashes of its own.
    nested_every: u64,
    states: u64,
}

impl Gate {
    fn disk(&self) -> SimDisk {
        let options = SimOptions { device: self.device, trace_lines: 0, ..SimOptions::default() };
        SimDisk::with_options(1, options)
    }

    /// Every crash in the last step of `steps`.
    fn run(&mut self, steps: &[Step]) -> Result<(), String> {
        let whole = self.disk();
        let named = |error: String| format!("{:?} {steps:?} undisturbed: {error}", self.device);
        let before =
            life(&whole, steps, &mut Model::default()).map_err(|error| named(error.to_string()))?;
        for op in before + 1..=whole.ops() {
            for manner in MANNERS {
                let disk = self.disk();
                disk.crash_at(op, manner);
                let mut model = Model::default();
                // The last operations may be those of a handle that is dropped: nobody sees them
                // fail.
                drop(life(&disk, steps, &mut model));
                assert!(disk.is_off(), "{steps:?} {op}: a life is the same each time");
                for ending in Ending::all(&disk) {
                    let context = |error| {
                        format!(
                            "{:?} {steps:?} op {op} {manner:?} {ending:?}: {error}",
                            self.device
                        )
                    };
                    openings(&ending.of(&disk), model.clone()).map_err(context)?;
                    self.states += 1;
                    if self.states.is_multiple_of(self.nested_every) {
                        let nested = nested(&disk, ending, &model).map_err(context)?;
                        self.states += nested;
                    }
                }
            }
        }
        Ok(())
    }
}

/// Crashes at each operation of the opening that follows the crash.
fn nested(disk: &SimDisk, ending: Ending, model: &Model) -> Result<u64, String> {
    let whole = ending.of(disk);
    drop(open(&whole).map_err(|error| error.to_string())?);
    let mut states = 0;
    for op in 1..=whole.ops() {
        let manner = MANNERS[usize::try_from(op % 3).unwrap()];
        let first = ending.of(disk);
        first.crash_at(op, manner);
        drop(open(&first));
        for second in [CrashOutcome::LoseAll, CrashOutcome::KeepAll, CrashOutcome::Seeded(op)] {
            openings(&first.power_cycle(second), model.clone())
                .map_err(|error| format!("then op {op} {manner:?} {second:?}: {error}"))?;
            states += 1;
        }
    }
    Ok(states)
}

/// All sequences of up to two steps, and those of three that `take` picks by their number.
fn sequences(take: impl Fn(usize) -> bool) -> Vec<Vec<Step>> {
    let mut all = vec![vec![]];
    all.extend(STEPS.map(|one| vec![one]));
    all.extend(STEPS.iter().flat_map(|one| STEPS.map(|two| vec![*one, two])));
    let two = all[8..].to_vec();
    let three = two.iter().flat_map(|two| STEPS.map(|last| [two.as_slice(), &[last]].concat()));
    all.extend(three.enumerate().filter(|(number, _)| take(*number)).map(|(_, steps)| steps));
    all
}

/// Lives in whose last step a segment is used again, or frames are written over the old ones of
/// such a segment, by the incarnation that kept it or by the next one.
const RECYCLING: [&[Step]; 5] = {
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
const IN_FLIGHT: [&[Step]; 5] = {
    use Step::{Append, Buffered, Burst, PlainBurst, Reopen};
    [
        &[Burst],
        &[PlainBurst],
        &[Burst, PlainBurst],
        &[PlainBurst, Reopen, Burst],
        &[Append, Buffered, Append],
    ]
};

fn is_long() -> bool {
    std::env::var("SAWMILL_SIM").is_ok_and(|value| value == "long")
}

fn every_crash(device: Device, offset: usize) {
    let long = is_long();
    let nested_every = if long { 101 } else { 997 };
    let mut gate = Gate { device, nested_every, states: 0 };
    // 95 shares no factor with 7: all steps are last ones, after all kinds of others.
    for steps in sequences(|number| long || number % 95 == offset) {
        gate.run(&steps).unwrap_or_else(|violation| panic!("{violation}"));
    }
    for steps in RECYCLING.into_iter().chain(IN_FLIGHT) {
        gate.run(steps).unwrap_or_else(|violation| panic!("{violation}"));
    }
    println!("{device:?}: {} states", gate.states);
    assert!(gate.states > 10_000, "{}", gate.states);
}

#[test]
fn every_crash_keeps_what_was_acknowledged_flush() {
    every_crash(Device::Flush, 3);
}

#[test]
fn every_crash_keeps_what_was_acknowledged_fua() {
    every_crash(Device::Fua, 11);
}

/// Those lives do what they are for.
#[test]
fn the_gate_looks_at_recycled_segments() {
    for steps in RECYCLING {
        let disk =
            SimDisk::with_options(1, SimOptions { trace_lines: 10_000, ..Default::default() });
        life(&disk, steps, &mut Model::default()).unwrap();
        assert!(disk.trace().contains("rename 0000000000000000"), "{steps:?}: {}", disk.trace());
    }
}

/// How many operations are in flight at most, as a disk's trace tells.
fn most_in_flight(trace: &str) -> usize {
    let (mut now, mut most) = (0_usize, 0);
    for line in trace.lines() {
        now += usize::from(line.contains("submit write"));
        now -= usize::from(line.contains("complete write"));
        most = most.max(now);
    }
    most
}

#[test]
fn the_gate_looks_at_several_writes_in_flight() {
    for steps in [[Step::Append, Step::Burst], [Step::Append, Step::PlainBurst]] {
        let disk =
            SimDisk::with_options(1, SimOptions { trace_lines: 10_000, ..Default::default() });
        life(&disk, &steps, &mut Model::default()).unwrap();
        let trace = disk.trace();
        assert!(most_in_flight(&trace) >= 3, "{steps:?}: {trace}");
    }
}

/// Lives in which a durable frame follows a plain one.
#[cfg(feature = "planted")]
const PLAIN_THEN_DURABLE: [&[Step]; 3] = [
    &[Step::Buffered],
    &[Step::Append, Step::Buffered, Step::Append],
    &[Step::Buffered, Step::Truncate, Step::Buffered],
];

/// Why the two devices count the same states: the log syncs what it wrote plain before anything
/// durable follows (LOG.md L8), so a flush of the device finds nothing to do, in any life.
#[test]
fn no_durable_write_leaves_a_flush_anything_to_do() {
    for device in [Device::Flush, Device::Fua] {
        let gate = Gate { device, nested_every: 1, states: 0 };
        for steps in sequences(|_| true).iter().map(Vec::as_slice).chain(RECYCLING) {
            let disk = gate.disk();
            life(&disk, steps, &mut Model::default()).unwrap();
            assert_eq!(disk.flush_matters(), 0, "{device:?} {steps:?}");
        }
    }
}

/// And the devices do differ: without that sync, the one without FUA keeps what the one with FUA
/// loses. So the gate needs both, and a test on a real disk without FUA would not see the bug.
#[test]
#[cfg(feature = "planted")]
fn a_plain_frame_before_a_durable_one_is_lost_with_fua_only() {
    use sawmill::planted::{Bug, with_planted};
    with_planted(Bug::PlainBeforeDurable, || {
        for steps in PLAIN_THEN_DURABLE {
            let gate = |device| Gate { device, nested_every: 499, states: 0 };
            let disk = gate(Device::Fua).disk();
            life(&disk, steps, &mut Model::default()).unwrap();
            assert!(disk.flush_matters() > 0, "{steps:?} does what it is for");
            let mut flush = gate(Device::Flush);
            flush.run(steps).unwrap_or_else(|violation| panic!("{violation}"));
            assert!(flush.states > 50, "{}", flush.states);
        }
        let mut fua = Gate { device: Device::Fua, nested_every: 499, states: 0 };
        let found = PLAIN_THEN_DURABLE.iter().find_map(|steps| fua.run(steps).err()).unwrap();
        assert!(found.contains("are acknowledged"), "{found}");
    });
}

/// The gate must bite: each of these bugs is found by it.
#[test]
#[cfg(feature = "planted")]
fn every_planted_bug_is_found() {
    use sawmill::planted::{Bug, with_planted};
    let bugs = [
        Bug::SkipDurableFlag,
        Bug::AcknowledgeAtSubmit,
        Bug::PlainBeforeDurable,
        Bug::DurableOverHole,
        Bug::NoDirectorySync,
        Bug::NoBarrier,
        Bug::ShowBeforeBarrier,
        Bug::RecoverFromCache,
        Bug::UnlinkBeforeStart,
        Bug::PaddingIsEnd,
    ];
    let mut missed = Vec::new();
    for bug in bugs {
        let seen = with_planted(bug, || {
            [Device::Fua, Device::Flush].into_iter().find_map(|device| {
                let mut gate = Gate { device, nested_every: 499, states: 0 };
                let short = sequences(|_| false);
                let mut lives: Vec<_> = short.iter().map(Vec::as_slice).collect();
                if bug == Bug::DurableOverHole {
                    // One frame after the other does not show it.
                    lives = IN_FLIGHT.to_vec();
                }
                lives.iter().find_map(|steps| gate.run(steps).err())
            })
        });
        match seen {
            Some(violation) => println!("{}: {violation}", bug.name()),
            None => missed.push(bug.name()),
        }
    }
    assert!(missed.is_empty(), "not found: {missed:?}");
}
