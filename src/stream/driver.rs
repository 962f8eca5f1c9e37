//! The driver of a job: one thread's work, one step at a time.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use super::batch::Batch;
use super::boundary::Boundary;
use super::budget::Budget;
use super::checkpointing::Lineage;
use super::compute::Coming;
use super::cut::{Flight, SharedStore, Writing};
use super::draft::Draft;
use super::hooks::{Hooks, Step};
use super::job::Job;
use super::journal::{JobShape, Named};
use super::marks::{Mark, Marks};
use super::options::RunOptions;
use super::pace::Pace;
use super::progress::Board;
use super::saves::Saves;
use super::side::SideTable;
use super::streams::StreamTable;
use crate::clock::Clock;
use crate::error::{Error, ErrorKind, Result};
use crate::exec::{CancelToken, Executor};
use crate::ids::{BatchId, Lsn};
use crate::source::LastRead;
use crate::state::OperatorState;
use crate::storage::Storage;
use crate::sync::Arc;
use crate::sync::atomic::AtomicBool;
use crate::wal::Wal;

/// What a driver has of its engine.
#[derive(Debug)]
pub(crate) struct Env {
    pub(crate) wal: Wal,
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) executor: Arc<Executor>,
    pub(crate) streams: Arc<StreamTable>,
    pub(crate) sides: Arc<SideTable>,
    /// Where checkpoints are written, and what else may be done beside batches.
    pub(crate) writing: Writing,
}

/// What a step of a driver did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(feature = "testing"), allow(unreachable_pub, reason = "shown by the harness"))]
pub enum Stepped {
    /// A batch went through its whole life.
    Batch(BatchId),
    /// There is nothing new at the moment; everything so far is durable.
    Idle,
    /// The job is at its end. Everything is durable, and in a checkpoint unless that failed.
    Ended,
}

/// Drives one job. Made by recovery, at the last completed batch that the log knows.
pub(crate) struct JobDriver {
    pub(crate) env: Env,
    pub(crate) job: Job,
    pub(crate) shape: JobShape,
    pub(crate) options: RunOptions,
    pub(crate) hooks: Box<dyn Hooks>,
    /// `None`: this driver takes no checkpoints.
    pub(crate) store: Option<SharedStore>,
    /// The checkpoint that is being written.
    pub(crate) flight: Option<Flight>,
    /// The fold beside it.
    pub(crate) folding: Option<Flight>,
    pub(crate) lineage: Lineage,
    pub(crate) budget: Budget,
    /// How long step 7 took since the last batch was reported.
    pub(crate) checkpointing: Duration,
    /// Who waits for a checkpoint.
    pub(crate) saves: Saves,
    /// In the order of the job's operators.
    pub(crate) states: Vec<OperatorState>,
    pub(crate) boundary: Boundary,
    pub(crate) marks: Marks,
    /// A batch that was planned and not completed when the process before this one ended.
    pub(crate) unfinished: Option<Batch>,
    /// What may be the next batch.
    pub(crate) draft: Option<Draft>,
    /// The next batch that recovery computes again.
    pub(crate) coming: Option<Coming>,
    /// Bytes and records of drafts that became no batch.
    pub(crate) read_in_vain: (u64, u64),
    pub(crate) board: Board,
    pub(crate) last_checkpoint_ns: u64,
    /// What was durable when the job was started: where available-now ends in the log.
    pub(crate) available: Lsn,
    /// Set from outside: somebody waits for the end, and pauses are cut short.
    pub(crate) ending: Arc<AtomicBool>,
    /// Ends even the batch in work.
    pub(crate) cancel: CancelToken,
    /// When the next batch is due.
    pub(crate) pace: Pace,
    /// Whether this run has planned a batch.
    pub(crate) planned_here: bool,
    /// Whether the job ends when it has had what was there when it was asked to.
    pub(crate) draining: bool,
    /// At most once: what sinks returned for the last batch, which was completed before that.
    pub(crate) published_last: Vec<Named>,
    /// When the last completed batch of this run was begun.
    pub(crate) last_begun_ns: Option<u64>,
    /// How long step 2 of the last batch took.
    pub(crate) last_computing_ns: u64,
}

impl fmt::Debug for JobDriver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JobDriver")
            .field("job", &self.job.name)
            .field("marks", &self.marks)
            .finish_non_exhaustive()
    }
}

impl JobDriver {
    /// The last part of recovery: what was read before must still be there.
    ///
    /// # Errors
    /// `SourceChanged`, naming the file; what a hook returns.
    pub(crate) fn resume(&mut self) -> Result<()> {
        for source in &self.job.sources {
            let Some(position) = self.boundary.position(source.name()) else { continue };
            let read = self.boundary.reads.iter().find(|read| read.source == source.name());
            // What this recovery has just rebuilt, it has compared.
            let read = read.filter(|read| read.batch <= self.marks.checkpointed);
            let last = read.map(|read| LastRead { input: &read.input, digest: &read.digest });
            source.verify_position(self.source_context(), position, last)?;
        }
        self.let_go();
        let recovered = (self.boundary.batch > BatchId::default()).then_some(self.boundary.batch);
        let (marks, boundary, read) = (self.marks, &self.boundary, self.amount_read());
        self.board.update(|progress| {
            progress.batch = boundary.batch;
            progress.input_bytes = boundary.input_bytes;
            progress.batch_time_ns = boundary.batch_time_ns;
            progress.recovered_batch = recovered;
            progress.accumulators.clone_from(&boundary.accumulators);
            progress.skipped_records = boundary.skipped;
            progress.checkpoint = marks.checkpointed;
            progress.predicted_recovery = self.budget.predicted();
            (progress.bytes_read, progress.records_read) = read;
            progress.marks = marks;
        });
        self.available = self.env.wal.durable_lsn();
        self.last_checkpoint_ns = self.env.clock.monotonic_ns();
        self.pace = Pace::new(self.options.trigger.interval_ns(), self.last_checkpoint_ns);
        if marks.checkpointed < marks.completed {
            self.keep_what_was_rebuilt()?;
        }
        self.hooks.at(Step::Recovered, self.boundary.batch)
    }

    /// REREAD-2.
    pub(super) fn let_go(&self) {
        self.job.sources.iter().for_each(|source| source.let_go());
    }

    /// Takes over a batch that was planned and not completed: the next step finishes it.
    pub(crate) fn adopt(&mut self, batch: Batch) {
        self.marks.reach(Mark::Planned, batch.plan.batch);
        self.marks.reach(Mark::PlanDurable, batch.plan.batch);
        self.unfinished = Some(batch);
    }

    /// Does one thing: a batch, or what is to be done when there is none.
    pub(crate) fn step(&mut self) -> Result<Stepped> {
        let done = self.run_batch()?;
        if done != Stepped::Idle {
            return Ok(done);
        }
        // The last completion waits for no later batch.
        self.await_completion()?;
        self.settle_sinks();
        if self.is_bounded() || self.is_exhausted()? {
            self.finish()?;
            return Ok(Stepped::Ended);
        }
        self.checkpoint()?;
        Ok(Stepped::Idle)
    }

    /// From here on only what is there now is processed, at once; then the job ends.
    pub(crate) fn drain(&mut self) {
        if !self.draining {
            self.available = self.env.wal.durable_lsn();
            self.draining = true;
        }
    }

    /// No longer rests.
    pub(crate) fn wake(&mut self) {
        self.board.update(|progress| progress.paused = false);
    }

    /// What is to be done while no batch may be begun.
    pub(crate) fn rest(&mut self) -> Result<()> {
        self.await_completion()?;
        self.settle_sinks();
        self.checkpoint()?;
        self.board.update(|progress| progress.paused = true);
        Ok(())
    }

    fn is_exhausted(&self) -> Result<bool> {
        for source in &self.job.sources {
            if !source.exhausted(self.boundary.position(source.name()))? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Ends the job behind the last completed batch: all durable, with a checkpoint.
    pub(crate) fn finish(&mut self) -> Result<()> {
        self.drop_draft();
        self.await_completion()?;
        self.settle_sinks();
        self.land()?;
        if self.marks.checkpointed < self.marks.completed {
            self.take_checkpoint()?;
        }
        Ok(())
    }

    /// Tells the sinks that all they published is completed. Nothing depends on what they make of
    /// it: a failure is an alarm until it is done.
    fn settle_sinks(&self) {
        let failed = self.job.sinks.iter().filter_map(|sink| sink.settle().err()).next();
        self.board.update(|progress| progress.sink_alarm = failed.map(|error| error.to_string()));
    }

    /// Waits until the last completion is durable.
    pub(crate) fn await_completion(&self) -> Result<()> {
        if self.boundary.completion > self.env.wal.durable_lsn() {
            self.env.wal.wait_durable(self.boundary.completion)?;
        }
        Ok(())
    }

    /// Shows a completed batch in the progress.
    pub(crate) fn report(&mut self, batch: &Batch) {
        let plan = &batch.plan;
        let bytes = plan.inputs.iter().map(|input| input.bytes).sum();
        let computing = batch.times.computed_ns.saturating_sub(batch.times.begun_ns);
        self.budget.completed(bytes, Duration::from_nanos(computing));
        let last = self.report_of(batch);
        self.board.update(|progress| {
            progress.batch = plan.batch;
            progress.batches += 1;
            progress.predicted_recovery = last.predicted_recovery;
            progress.last = last;
            progress.batch_bytes = bytes;
            progress.batch_time_ns = plan.batch_time_ns;
            progress.accumulators.clone_from(&self.boundary.accumulators);
            progress.skipped_records = self.boundary.skipped;
            progress.input_bytes = self.boundary.input_bytes;
            (progress.bytes_read, progress.records_read) = self.amount_read();
            progress.marks = self.marks;
        });
    }

    /// Calls the listener, if there is one.
    ///
    /// # Errors
    /// `TaskFailed` if it panics: user code never breaks the engine (ENGINE.md E11).
    pub(crate) fn notify(&self) -> Result<()> {
        let Some(listener) = self.options.listener() else { return Ok(()) };
        let progress = self.board.read();
        catch_unwind(AssertUnwindSafe(|| listener(&progress))).map_err(|_panic| {
            let message = format!("the progress function panicked at batch {}", progress.batch);
            Error::new(ErrorKind::TaskFailed, message)
        })
    }
}
