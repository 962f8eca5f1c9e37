//! How scenarios are run, and what every one of them checks.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use sawmill::clock::ManualClock;
use sawmill::sim::{CrashOutcome, Device, SimDisk, SimOptions};
use sawmill::{Background, ErrorKind, Lsn, Result, Wal, WalOptions};
use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler};
use shuttle::thread::{self, JoinHandle};
use shuttle::{Config, MaxSteps, Runner};

const PLACE: &str = "/log";
/// How many rare points in time the search looks for at once.
const DEPTH: usize = 3;

/// Schedules of each scenario: `SAWMILL_SHUTTLE`, or few.
pub(crate) fn schedules() -> usize {
    std::env::var("SAWMILL_SHUTTLE").map_or(200, |text| text.parse().unwrap())
}

fn seed() -> u64 {
    std::env::var("SAWMILL_SEED").map_or(1, |text| text.parse().unwrap())
}

fn run(scheduler: impl Scheduler + 'static, body: fn()) -> usize {
    let mut config = Config::new();
    config.stack_size = 256 << 10;
    config.max_steps = MaxSteps::FailAfter(100_000);
    config.silence_warnings = true;
    Runner::new(scheduler, config).run(body)
}

thread_local! {
    static SEEN: RefCell<BTreeSet<&'static str>> = const { RefCell::new(BTreeSet::new()) };
}

/// Takes note that a schedule came here.
pub(crate) fn see(what: &'static str) {
    SEEN.with(|seen| seen.borrow_mut().insert(what));
}

/// Runs that many schedules of a scenario, and sees to it that one of them at least came to each of
/// `wanted`.
#[allow(clippy::print_stdout, reason = "how many were run is the recipe's result")]
pub(crate) fn check(name: &str, schedules: usize, body: fn(), wanted: &[&str]) {
    let half = schedules.div_ceil(2);
    let done = run(RandomScheduler::new_from_seed(seed(), half), body)
        + run(PctScheduler::new_from_seed(seed(), DEPTH, half), body);
    println!("{name}: {done} schedules");
    let missed = |what: &&&str| !SEEN.with(|seen| seen.borrow().contains(**what));
    let missed: Vec<_> = wanted.iter().filter(missed).collect();
    assert!(missed.is_empty(), "{name}: no schedule came to {missed:?}");
}

/// Sees to it that a scenario fails with a bug planted.
pub(crate) fn finds(bug: sawmill::planted::Bug, body: fn()) {
    let attempt = || {
        sawmill::planted::with_planted(bug, || check(bug.name(), 4000, body, &[]));
    };
    let outcome = catch_unwind(AssertUnwindSafe(attempt));
    assert!(outcome.is_err(), "no schedule shows the bug {}", bug.name());
}

/// Sees to it that a scenario does without a rule, because another one holds besides.
pub(crate) fn tolerates(bug: sawmill::planted::Bug, body: fn()) {
    sawmill::planted::with_planted(bug, || check(bug.name(), schedules(), body, &[]));
}

/// A log on a disk of its own.
pub(crate) struct Model {
    pub(crate) disk: SimDisk,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) wal: Wal,
}

/// Appends that returned, each with what came of it.
pub(crate) type Answers = Vec<(Vec<u8>, Result<Lsn>)>;

impl Model {
    pub(crate) fn new() -> Model {
        Model::of_depth(None)
    }

    /// With so many durable writes in flight; `None`: as many as the log finds good.
    pub(crate) fn of_depth(depth: Option<usize>) -> Model {
        let options = SimOptions {
            device: Device::Fua,
            sector: 4096,
            trace_lines: 0,
            ..SimOptions::default()
        };
        let disk = SimDisk::with_options(7, options);
        let clock = Arc::new(ManualClock::default());
        let wal = open(&disk, &clock, Background::Threads, depth).unwrap();
        Model { disk, clock, wal }
    }

    /// Runs `body` with the log on a thread of its own.
    pub(crate) fn spawn<T: Send + 'static>(
        &self,
        body: impl FnOnce(Wal) -> T + Send + 'static,
    ) -> JoinHandle<T> {
        let wal = self.wal.clone();
        thread::spawn(move || body(wal))
    }

    /// Has somebody else move time.
    pub(crate) fn time_passes(&self, duration: Duration) -> JoinHandle<()> {
        let clock = Arc::clone(&self.clock);
        thread::spawn(move || clock.advance(duration))
    }

    /// Cuts the power, and compares what is found with what was answered.
    pub(crate) fn verify(self, answers: &Answers) {
        let found = self.disk.power_cycle(CrashOutcome::LoseAll);
        // Nobody writes any more: its threads end with an error or have nothing to do.
        drop(self.wal);
        verify(&found, answers);
    }
}

/// Compares what is on a disk with what was answered: what was acknowledged is there, under the LSN
/// that was given, and what was refused is not.
pub(crate) fn verify(disk: &SimDisk, answers: &Answers) {
    let clock = Arc::new(ManualClock::default());
    let wal = open(disk, &clock, Background::Inline, None).unwrap();
    let mut replay = wal.replay_all_from(Lsn::ZERO).unwrap();
    let mut found = Vec::new();
    while let Some(record) = replay.next() {
        let record = record.unwrap();
        found.push((record.lsn, record.payload.to_vec()));
    }
    assert!(found.windows(2).all(|pair| pair[0].0 < pair[1].0), "in order");
    let mut given = Vec::new();
    for (payload, answer) in answers {
        let place = found.iter().find(|(_, found)| found == payload);
        let name = payload.escape_ascii();
        match answer {
            Ok(lsn) => {
                see("acknowledged");
                assert_eq!(place.map(|place| place.0), Some(*lsn), "{name} was acknowledged");
                given.push(*lsn);
            }
            Err(error) if error.kind() == ErrorKind::Poisoned => see("poisoned"),
            Err(error) => {
                see(if error.kind() == ErrorKind::TimedOut { "timed out" } else { "refused" });
                assert_eq!(place, None, "{name} was refused: {error}");
            }
        }
    }
    given.sort_unstable();
    assert!(given.windows(2).all(|pair| pair[0] < pair[1]), "an LSN was given twice");
}

fn open(
    disk: &SimDisk,
    clock: &Arc<ManualClock>,
    background: Background,
    write_depth: Option<usize>,
) -> Result<Wal> {
    let clock = Arc::clone(clock);
    let options = WalOptions {
        segment_size: 64 << 10,
        memory: 1 << 20,
        lock_wait: Duration::ZERO,
        background,
        write_depth,
        ..WalOptions::default()
    };
    Wal::open_with(Arc::new(disk.clone()), clock, PLACE, options)
}
