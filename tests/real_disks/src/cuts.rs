//! Power cuts: what every moment of a recording could leave on the medium is mounted, opened and
//! judged.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use sawmill::{Wal, WalOptions};

use crate::medium::{Change, Medium, Volatile};
use crate::oracle::{Found, Mark, Oracle, Step};
use crate::place::{FileSystem, Place};
use crate::random::Random;
use crate::record::Identity;
use crate::recording::Plan;
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
        for (step, count) in other.steps {
            *self.steps.entry(step).or_default() += count;
        }
        self.held = self.held.max(other.held);
        self.violations.extend(other.violations);
    }
}

/// Looks at what every power cut within a recording could leave.
pub(crate) fn replay(plan: Plan<'_>, events: &[Event], effort: Effort) -> Result<Tally, Failure> {
    let place = Place::new()?;
    let whole = Mutex::new(Tally::default());
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let mut threads = Vec::new();
        for job in 0..effort.jobs {
            let bench = Bench::new(&place, plan.file_system, job)?;
            let worker = Worker { bench, plan, effort, job, stop: &stop, tally: Tally::default() };
            threads.push(scope.spawn(|| -> Outcome {
                let tally =
                    worker.work(events).inspect_err(|_| stop.store(true, Ordering::Relaxed))?;
                whole.lock().map_err(|_| "a worker panicked")?.add(tally);
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
    fn work(mut self, events: &[Event]) -> Result<Tally, Failure> {
        let mut volatile = Volatile::new(Medium::blank(self.plan.file_system.bytes));
        let mut oracle = Oracle::default();
        let (mut moment, mut mounted) = (0, false);
        for (at, event) in events.iter().enumerate() {
            if event.changes_medium() && mounted {
                self.moment(at, moment, &volatile, &oracle)?;
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
        self.moment(events.len(), moment, &volatile, &oracle)?;
        self.tally.held = oracle.held();
        Ok(self.tally)
    }

    /// Looks at what a cut at this moment could leave, if it is this worker's turn.
    fn moment(
        &mut self,
        at: usize,
        moment: usize,
        volatile: &Volatile,
        oracle: &Oracle,
    ) -> Outcome {
        if moment % self.effort.jobs != self.job || self.stop.load(Ordering::Relaxed) {
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
                _ => volatile.some(&mut Random::new(&seed), &self.plan.file_system.whole),
            };
            // Few changes leave few choices, and none is looked at twice.
            if seen.contains(&left) {
                continue;
            }
            self.tally.subsets += 1;
            self.state(at, &format!("subset {subset}"), volatile, &left, oracle)?;
            seen.insert(left);
        }
        Ok(())
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
        let judged = self.bench.look(&volatile.durable, left, oracle, closes);
        let judged = judged.map_err(|error| format!("event {at}, {what}: {error}"))?;
        if let Err(wrong) = judged {
            self.tally.violations.push(format!("event {at}, {what}: {wrong}"));
            if self.tally.violations.len() >= ENOUGH {
                self.stop.store(true, Ordering::Relaxed);
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
        File::create(&image)?;
        Ok(Bench { file_system, image, on: place.folder(&format!("mount-{job}"))? })
    }

    /// Mounts what was left and judges the log in it. An error is not the log's.
    fn look(
        &self,
        durable: &Medium,
        left: &[Change],
        oracle: &Oracle,
        closes: bool,
    ) -> Result<Result<(), String>, Failure> {
        let image = File::options().write(true).open(&self.image)?;
        durable.write_to(&image)?;
        left.iter().try_for_each(|change| change.write_to(&image))?;
        drop(image);
        let mount = self.file_system.mount_image(&self.image, &self.on)?;
        let judged = self.judge(oracle, closes).map_err(|error| error.to_string());
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
