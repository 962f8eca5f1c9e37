//! Power cuts: what every moment of a recording could leave on the medium is mounted, opened and
//! judged.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;

use sawmill::{Wal, WalOptions};

use crate::medium::{Change, Medium, Volatile};
use crate::oracle::{Found, Mark, Oracle, Step};
use crate::place::{FileSystem, Place};
use crate::random::Random;
use crate::record::Identity;
use crate::recording::{Plan, Start};
use crate::trace::Event;
use crate::workload::{options, read};
use crate::{Failure, Outcome};

/// After so many violations there is no doubt.
const ENOUGH: usize = 20;

/// How thoroughly a recording is looked at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Effort {
    /// What a power cut leaves is chosen so many times, beside the choice that it loses nothing.
    pub(crate) subsets: usize,
    /// Images that are looked at side by side: most of a mount's time is spent waiting.
    pub(crate) jobs: usize,
}

/// What came out.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// Media of which nothing that had arrived was lost.
    pub(crate) prefixes: usize,
    /// Media that lost some of it.
    pub(crate) subsets: usize,
    /// Media in which a frame, a segment's head or a slot of `LOG` was torn within.
    pub(crate) torn: usize,
    /// How many of both were left by a step of the workload.
    pub(crate) steps: BTreeMap<&'static str, usize>,
    /// Records that were acknowledged in the end.
    pub(crate) held: usize,
    pub(crate) violations: Vec<String>,
}

impl Tally {
    fn add(&mut self, other: Tally) {
        self.prefixes += other.prefixes;
        self.subsets += other.subsets;
        self.torn += other.torn;
        for (step, count) in other.steps {
            *self.steps.entry(step).or_default() += count;
        }
        self.held = self.held.max(other.held);
        self.violations.extend(other.violations);
    }
}

/// Goes through a recording, and stops where the next event changes what a power cut could leave:
/// `look` is told the number of the moment and of the event.
fn walk(
    start: &Start,
    events: &[Event],
    mut look: impl FnMut(usize, usize, &Volatile, &Oracle) -> Outcome,
) -> Result<Oracle, Failure> {
    let mut volatile = Volatile::new(start.medium.clone());
    let mut oracle = start.oracle.clone();
    let (mut moment, mut mounted) = (0, false);
    for (at, event) in events.iter().enumerate() {
        if event.changes_medium() && mounted {
            look(moment, at, &volatile, &oracle)?;
            moment += 1;
            oracle.medium_changes();
        }
        volatile.step(event);
        if let Event::Mark(text) = event {
            let mark: Mark = text.parse()?;
            mounted |= mark == Mark::Mounted;
            oracle.hear(mark);
        }
    }
    look(moment, events.len(), &volatile, &oracle)?;
    Ok(oracle)
}

/// Some of what power cuts could leave, to be recovered and cut again.
pub(crate) fn some_cuts(
    plan: Plan<'_>,
    start: &Start,
    events: &[Event],
    count: usize,
) -> Result<Vec<Start>, Failure> {
    let mut moments = 0;
    walk(start, events, |moment, _, _, _| {
        moments = moment + 1;
        Ok(())
    })?;
    let mut random = Random::new(&[plan.seed, 2]);
    let chosen: BTreeSet<usize> = (0..count).map(|_| random.below(moments)).collect();
    let mut cuts = Vec::new();
    walk(start, events, |moment, _, volatile, oracle| {
        if chosen.contains(&moment) {
            let mut medium = volatile.durable.clone();
            let left = volatile.some(&mut random, plan.file_system.block);
            left.iter().for_each(|change| medium.apply(change));
            cuts.push(Start::cut(medium, oracle.clone()));
        }
        Ok(())
    })?;
    Ok(cuts)
}

/// Looks at what every power cut within a recording could leave.
pub(crate) fn replay(
    plan: Plan<'_>,
    start: &Start,
    events: &[Event],
    effort: Effort,
) -> Result<Tally, Failure> {
    let place = Place::new()?;
    let whole = Mutex::new(Tally::default());
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let mut threads = Vec::new();
        for job in 0..effort.jobs {
            let bench = Bench::new(&place, plan.file_system, job)?;
            let mut worker =
                Worker { bench, plan, effort, job, stop: &stop, tally: Tally::default() };
            let (whole, stop) = (&whole, &stop);
            threads.push(scope.spawn(move || -> Outcome {
                let walked = walk(start, events, |moment, at, volatile, oracle| {
                    worker.moment(at, moment, volatile, oracle)
                });
                worker.tally.held = walked.inspect_err(|_| stop.store(true, Relaxed))?.held();
                whole.lock().map_err(|_| "a worker panicked")?.add(worker.tally);
                Ok(())
            }));
        }
        threads.into_iter().try_for_each(|thread| match thread.join() {
            Ok(outcome) => outcome,
            Err(_) => Err("a worker panicked".into()),
        })
    })?;
    whole.into_inner().map_err(|_| "a worker panicked".into())
}

/// Takes every so many-th moment of the recording.
struct Worker<'a> {
    bench: Bench<'a>,
    plan: Plan<'a>,
    effort: Effort,
    job: usize,
    stop: &'a AtomicBool,
    tally: Tally,
}

impl Worker<'_> {
    /// Looks at what a cut at this moment could leave, if it is this worker's turn.
    fn moment(
        &mut self,
        at: usize,
        moment: usize,
        volatile: &Volatile,
        oracle: &Oracle,
    ) -> Outcome {
        if moment % self.effort.jobs != self.job || self.stop.load(Relaxed) {
            return Ok(());
        }
        self.tally.prefixes += 1;
        self.state(at, "all", volatile, &volatile.all(), oracle)?;
        let mut seen = BTreeSet::new();
        for subset in 0..self.effort.subsets {
            if volatile.is_settled() {
                break;
            }
            let seed = [self.plan.seed, at as u64, subset as u64];
            // The first loses all that it may.
            let left = match subset {
                0 => Vec::new(),
                _ => volatile.some(&mut Random::new(&seed), self.plan.file_system.block),
            };
            // Few changes leave few choices, and none is looked at twice.
            if seen.contains(&left) {
                continue;
            }
            self.tally.subsets += 1;
            self.tally.torn += usize::from(left.iter().any(Change::is_torn));
            self.state(at, &format!("subset {subset}"), volatile, &left, oracle)?;
            seen.insert(left);
        }
        Ok(())
    }

    /// Where the image of a violation is left to be looked at: in the folder that `SAWMILL_KEEP`
    /// names.
    fn kept(&self, at: usize, what: &str) -> Option<PathBuf> {
        let folder = std::env::var_os("SAWMILL_KEEP")?;
        let Plan { file_system, seed, .. } = self.plan;
        let name = format!("{}-seed-{seed}-event-{at}-{what}", file_system.name).replace(' ', "-");
        Some(PathBuf::from(folder).join(name))
    }

    fn state(
        &mut self,
        at: usize,
        what: &str,
        volatile: &Volatile,
        left: &[Change],
        oracle: &Oracle,
    ) -> Outcome {
        *self.tally.steps.entry(oracle.step().map_or("mounted", Step::name)).or_default() += 1;
        let closes = self.tally.prefixes.is_multiple_of(2);
        let story = |error: Failure| format!("event {at}, {what}: {error}");
        let kept = self.kept(at, what);
        let looked = self.bench.look(&volatile.durable, left, oracle, closes, kept.as_deref());
        let judged = looked.map_err(story)?;
        if let Err(wrong) = judged {
            if let Some(kept) = kept {
                let image = File::create(kept)?;
                volatile.durable.write_to(&image)?;
                left.iter().try_for_each(|change| change.write_to(&image))?;
            }
            self.tally.violations.push(format!("event {at}, {what}: {wrong}"));
            if self.tally.violations.len() >= ENOUGH {
                self.stop.store(true, Relaxed);
            }
        }
        Ok(())
    }
}

/// Where one worker mounts.
struct Bench<'a> {
    file_system: &'a FileSystem,
    image: PathBuf,
    on: PathBuf,
}

impl<'a> Bench<'a> {
    fn new(place: &Place, file_system: &'a FileSystem, job: usize) -> Result<Self, Failure> {
        let image = place.file(&format!("image-{job}"));
        Ok(Bench { file_system, image, on: place.folder(&format!("mount-{job}"))? })
    }

    /// Mounts what was left and judges the log in it. An error is not the log's. Beside `kept` goes
    /// what the device shows after a violation: an image that is whole may be read as another one.
    fn look(
        &self,
        durable: &Medium,
        left: &[Change],
        oracle: &Oracle,
        closes: bool,
        kept: Option<&Path>,
    ) -> Result<Result<(), String>, Failure> {
        // A new file each time: the loop device of the last one may still be there, and have
        // something to write.
        let image = File::create_new(&self.image)?;
        durable.write_to(&image)?;
        left.iter().try_for_each(|change| change.write_to(&image))?;
        drop(image);
        let mount = self.file_system.mount_image(&self.image, &self.on)?;
        fs::remove_file(&self.image)?;
        let judged = self.judge(oracle, closes).map_err(|error| error.to_string());
        if let (Err(_), Some(kept)) = (&judged, kept) {
            mount.copy_device(kept)?;
        }
        mount.unmount()?;
        Ok(judged)
    }

    /// Opens the log, compares, appends, and opens it again, after a close or without one.
    fn judge(&self, oracle: &Oracle, closes: bool) -> Outcome {
        let log = self.on.join("log");
        let options = WalOptions { attest_after: None, ..options() };
        let wal = Wal::open(&log, options.clone())?;
        let mut found = find(&wal)?;
        oracle.judge(&found)?;
        let probe = Identity { writer: u32::MAX, number: 0, part: 0, parts: 1 };
        let lsn = wal.append(&probe.payload(100))?.get();
        if found.records.last().is_some_and(|(last, _)| *last >= lsn) {
            return Err(format!("LSN {lsn} was given again").into());
        }
        found.records.push((lsn, probe));
        if closes {
            wal.close()?;
        } else {
            drop(wal);
        }
        let wal = Wal::open(&log, options)?;
        let again = find(&wal)?;
        if again.records != found.records {
            let (before, now) = (found.records.len(), again.records.len());
            return Err(format!("opened again: {now} records, not the {before} before").into());
        }
        Ok(wal.close()?)
    }
}

fn find(wal: &Wal) -> Result<Found, Failure> {
    let records = read(wal)?;
    Ok(Found { first_lsn: wal.first_lsn().get(), durable_lsn: wal.durable_lsn().get(), records })
}
