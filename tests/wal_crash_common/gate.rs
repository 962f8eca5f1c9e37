//! Every crash in a life, and what the next openings find.

use std::collections::BTreeSet;

use sawmill::sim::{CrashManner, CrashOutcome, Device, SimDisk, SimOptions};
use sawmill::{Error, Wal};

use super::{Model, Step, life, open};

const MANNERS: [CrashManner; 3] = [CrashManner::Before, CrashManner::Torn, CrashManner::After];
/// How often an opening that follows a crash is cut off itself, one within the other.
const DEPTH: u32 = 2;

pub(crate) fn is_long() -> bool {
    std::env::var("SAWMILL_SIM").is_ok_and(|value| value == "long")
}

/// What the next process finds.
#[derive(Clone, Copy, Debug)]
enum Ending {
    /// The process was killed: what was written is there, and still not durable.
    Kill,
    Power(CrashOutcome),
}

impl Ending {
    /// Every subset of the sectors, lengths and names that are not durable, if they are `most` at
    /// most; else every subset of the writes, lengths and names, if those are, and some of the
    /// sectors.
    fn all(disk: &SimDisk, most: u32) -> Vec<Ending> {
        let mut outcomes = vec![CrashOutcome::LoseAll, CrashOutcome::KeepAll];
        let subsets = |items: u32| 1..(1_u64 << items).saturating_sub(1);
        let (items, writes) = (disk.pending_items(), disk.pending_writes());
        if items <= most {
            outcomes.extend(subsets(items).map(CrashOutcome::Subset));
        } else {
            if writes <= most {
                outcomes.extend(subsets(writes).map(CrashOutcome::Writes));
            }
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
    append(&wal, &mut model).map_err(text)?;
    let last = found.power_cycle(CrashOutcome::LoseAll);
    drop(wal);
    model.check(&open(&last).map_err(text)?)
}

fn append(wal: &Wal, model: &mut Model) -> Result<(), Error> {
    model.attempt(wal, &[b"after".to_vec()]);
    let lsn = wal.append(b"after")?;
    model.acknowledge(lsn);
    model.shown = Some(lsn.get());
    Ok(())
}

/// What was looked at: an image, and what the model said of it.
type Looked = (u64, (u64, u64, u64, Option<u64>));

/// Crashes, and what is looked at of what they leave.
pub(crate) struct Gate {
    device: Device,
    /// One in so many of the states is opened under crashes of its own.
    nested_every: u64,
    /// Items of which every subset survives.
    most: u32,
    /// Outcomes of crashes.
    pub(crate) states: u64,
    /// Those that differ from all others of the same life: each was opened.
    pub(crate) distinct: u64,
    /// Of crashes within openings after crashes: outcomes that differ, each opened.
    pub(crate) nested: u64,
    /// A sum of what the power cuts left, over all lives.
    pub(crate) digest: u64,
    seen: BTreeSet<Looked>,
}

impl Gate {
    pub(crate) fn new(device: Device, nested_every: u64) -> Gate {
        Gate {
            device,
            nested_every,
            most: if is_long() { 10 } else { 6 },
            states: 0,
            distinct: 0,
            nested: 0,
            digest: 0,
            seen: BTreeSet::new(),
        }
    }

    pub(crate) fn disk(&self) -> SimDisk {
        let options = SimOptions { device: self.device, trace_lines: 0, ..SimOptions::default() };
        SimDisk::with_options(1, options)
    }

    /// Every crash in the last step of `steps`.
    ///
    /// # Errors
    /// What was lost, invented, reordered, or came back.
    pub(crate) fn run(&mut self, steps: &[Step]) -> Result<(), String> {
        self.seen.clear();
        let whole = self.disk();
        let named = |error: Error| format!("{:?} {steps:?} undisturbed: {error}", self.device);
        let before = life(&whole, steps, &mut Model::default()).map_err(named)?;
        for op in before + 1..=whole.ops() {
            for manner in MANNERS {
                let disk = self.disk();
                disk.crash_at(op, manner);
                let mut model = Model::default();
                // The last operations may be those of a handle that is dropped: nobody sees them
                // fail.
                drop(life(&disk, steps, &mut model));
                assert!(disk.is_off(), "{steps:?} {op}: a life is the same each time");
                for ending in Ending::all(&disk, self.most) {
                    self.state(&disk, ending, &model).map_err(|error| {
                        format!(
                            "{:?} {steps:?} op {op} {manner:?} {ending:?}: {error}",
                            self.device
                        )
                    })?;
                }
            }
        }
        Ok(())
    }

    fn state(&mut self, disk: &SimDisk, ending: Ending, model: &Model) -> Result<(), String> {
        self.states += 1;
        let found = ending.of(disk);
        let image = found.digest();
        if let Ending::Power(_) = ending {
            // A sum in which the order counts.
            self.digest = self.digest.rotate_left(1) ^ image;
        }
        if !self.seen.insert((image, model.moment())) {
            return Ok(());
        }
        self.distinct += 1;
        openings(&found, model.clone())?;
        if self.distinct.is_multiple_of(self.nested_every) {
            self.nested(&|| ending.of(disk), model, DEPTH)?;
        }
        Ok(())
    }

    /// Crashes at each operation of the opening that follows the crash.
    fn nested(
        &mut self,
        found: &dyn Fn() -> SimDisk,
        model: &Model,
        depth: u32,
    ) -> Result<(), String> {
        let whole = found();
        drop(open(&whole).map_err(|error| error.to_string())?);
        for op in 1..=whole.ops() {
            for manner in MANNERS {
                let first = found();
                first.crash_at(op, manner);
                drop(open(&first));
                for second in
                    [CrashOutcome::LoseAll, CrashOutcome::KeepAll, CrashOutcome::Seeded(op)]
                {
                    let again = || first.power_cycle(second);
                    let disk = again();
                    if !self.seen.insert((disk.digest(), model.moment())) {
                        continue;
                    }
                    let context = |error| format!("then op {op} {manner:?} {second:?}: {error}");
                    openings(&disk, model.clone()).map_err(context)?;
                    self.nested += 1;
                    if depth > 1 && self.nested.is_multiple_of(self.nested_every) {
                        self.nested(&again, model, depth - 1).map_err(context)?;
                    }
                }
            }
        }
        Ok(())
    }
}
