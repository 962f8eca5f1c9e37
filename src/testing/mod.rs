//! What users need to test their own jobs (feature `testing`).
//!
//! A [`Harness`] drives a job by hand, one step at a time, on the caller's thread, and a [`Queue`]
//! gives it the rows of each batch: with the simulated disk ([`sim`](crate::sim)), a
//! [`ManualClock`](crate::clock::ManualClock) and a log without threads every run is the same.
//! [`certify`] finds out what a sink keeps of its promise. [`reexecute`] runs a log's batches
//! again, to compare.

mod certificate;
mod conformance;
mod interpose;

use crate::engine::{Engine, Running};
use crate::error::Result;
pub use certificate::Certificate;
pub use conformance::{SinkUnderTest, certify};

pub use crate::source::Queue;

pub use crate::stream::{Hooks, NoHooks, Step, Stepped};
use crate::stream::{Job, JobDriver, Progress, RunOptions, Writing};
pub use crate::wal::watch::watched;

/// A job that is driven by hand.
///
/// ```
/// use sawmill::testing::{Harness, NoHooks, Stepped};
/// use sawmill::{Engine, EngineOptions, Job, Received, RunOptions, name};
/// # let place = tempfile::tempdir()?;
/// let engine = Engine::open(place.path(), EngineOptions::default())?;
/// let events = engine.ingest(name!("events"))?;
/// let (job, sums) = Job::build(name!("sums"), |job| {
///     let numbers = job.source(name!("in"), Received::from(&events));
///     let lengths = numbers.map_to_pair(|bytes| ("bytes".to_owned(), bytes.len() as u64));
///     lengths.map_with_state::<u64, ()>(name!("sums"), |_, values, sum| {
///         *sum = Some(sum.unwrap_or(0) + values.sum::<u64>());
///         None
///     }).state
/// })?;
/// let mut harness = Harness::new(&engine, job, RunOptions::default(), Box::new(NoHooks))?;
/// assert_eq!(harness.step()?, Stepped::Idle);
/// events.append(b"four")?;
/// assert!(matches!(harness.step()?, Stepped::Batch(_)));
/// assert_eq!(sums.get("bytes".to_owned()), Some(4));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Harness {
    driver: JobDriver,
    _running: Running,
}

impl Harness {
    /// Recovers the job; runs nothing yet.
    ///
    /// # Errors
    /// As [`Engine::start`]; what `hooks` return at [`Step::Recovered`].
    pub fn new(
        engine: &Engine,
        job: Job,
        options: RunOptions,
        hooks: Box<dyn Hooks>,
    ) -> Result<Harness> {
        Harness::with(engine, job, options, hooks, Writing::Inline)
    }

    /// As [`new`](Harness::new), but every checkpoint is written one batch later than it was taken,
    /// as a job on its own thread may do; the same in every run.
    ///
    /// # Errors
    /// As [`new`](Harness::new).
    pub fn with_late_checkpoints(
        engine: &Engine,
        job: Job,
        options: RunOptions,
        hooks: Box<dyn Hooks>,
    ) -> Result<Harness> {
        Harness::with(engine, job, options, hooks, Writing::Late)
    }

    fn with(
        engine: &Engine,
        job: Job,
        options: RunOptions,
        hooks: Box<dyn Hooks>,
        writing: Writing,
    ) -> Result<Harness> {
        let (driver, running) = engine.driver(job, options, hooks, writing, None)?;
        Ok(Harness { driver, _running: running })
    }

    /// Does one thing: a whole batch, or what is to be done when there is none.
    ///
    /// # Errors
    /// What would end the job; do not step on after it.
    pub fn step(&mut self) -> Result<Stepped> {
        self.driver.step()
    }

    /// Steps until so many batches went through their whole lives, or nothing is left to do at the
    /// moment; returns how many.
    ///
    /// # Errors
    /// As [`step`](Harness::step).
    pub fn run_batches(&mut self, count: u64) -> Result<u64> {
        for done in 0..count {
            if !matches!(self.step()?, Stepped::Batch(_)) {
                return Ok(done);
            }
        }
        Ok(count)
    }

    /// Ends the job behind the last batch: all durable, with a checkpoint.
    ///
    /// # Errors
    /// The log's.
    pub fn finish(&mut self) -> Result<()> {
        self.driver.finish()
    }

    /// How far the job is.
    #[must_use]
    pub fn progress(&self) -> Progress {
        self.driver.board.read()
    }
}

/// The reference for a run with many threads, crashes and restarts: one that had none. Executes
/// every completed batch in the engine's log again, from batch 1, exactly as planned, with
/// `threads` threads; publishes into the job's sinks, which must be empty: give it the same job,
/// with other directories. Whatever the number of threads, the outputs are the same bytes as the
/// first time.
///
/// Nothing is written into the log, no state or checkpoint is kept. Returns the number of batches.
///
/// # Errors
/// `Invalid` if the log does not hold batch 1 any more, or if a job runs; else as
/// [`Engine::start`].
pub fn reexecute(engine: &Engine, job: Job, threads: usize) -> Result<u64> {
    engine.reexecute(job, threads)
}
