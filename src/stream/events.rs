//! What a job tells about each of its batches while it runs.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use super::batch::Batch;
use super::driver::JobDriver;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{BatchId, to_u64};
use crate::sync::Arc;

/// What happens to a batch. Nothing is told of a batch before its plan is durable: until then it
/// may never have been.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    /// A batch's plan is durable.
    BatchPlanned {
        /// Which.
        batch: BatchId,
        /// Input bytes.
        bytes: u64,
    },
    /// The batch is computed; its sinks are about to be called.
    BatchStarted {
        /// Which.
        batch: BatchId,
        /// 1, or more if its sinks may have been called before.
        attempt: u32,
    },
    /// A sink has published it.
    SinkPublished {
        /// Which.
        batch: BatchId,
        /// The sink.
        sink: String,
        /// How long that took, all attempts of this run.
        took: Duration,
    },
    /// All sinks have, and it is part of the state.
    BatchCompleted(BatchReport),
    /// Processes had ended within the batch, again and again, and nobody has seen anything of it:
    /// it is none, and its records are planned anew, in smaller batches.
    BatchWithdrawn {
        /// Which.
        batch: BatchId,
        /// How often.
        deaths: u32,
    },
    /// A sink failed, and is called again; or a checkpoint did, and is taken again later.
    Failed {
        /// The batch at which.
        batch: BatchId,
        /// How.
        error: Error,
    },
    /// The job ends with this error.
    Ended {
        /// The last completed batch.
        batch: BatchId,
        /// Why.
        error: Error,
    },
}

/// Who is told: see [`RunOptions::on_event`](crate::RunOptions::on_event).
pub type EventListener = Arc<dyn Fn(&Event) + Send + Sync>;

/// One completed batch.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct BatchReport {
    /// Which.
    pub batch: BatchId,
    /// At which attempt it was published.
    pub attempt: u32,
    /// Its time, nanoseconds since the Unix epoch.
    pub batch_time_ns: u64,
    /// Ticks of the trigger's grid that it covers.
    pub ticks: u64,
    /// Input bytes.
    pub bytes: u64,
    /// Records that its sources passed on.
    pub records: u64,
    /// Records that it left out.
    pub skipped: u64,
    /// Records a second, of this batch and from the beginning of the one before to its own
    /// beginning; 0 for the first one of a run.
    pub input_rate: f64,
    /// From when it was due to its beginning.
    pub scheduling_delay: Duration,
    /// From its beginning to its completion.
    pub processing_time: Duration,
    /// Of that: computing outputs and changes of state.
    pub computing: Duration,
    /// Of that: preparing and publishing.
    pub publishing: Duration,
    /// Keys in the state of all operators.
    pub state_rows: u64,
    /// How long a recovery would take behind it, if no checkpoint came: see
    /// [`RunOptions::recovery_budget`](crate::RunOptions::recovery_budget).
    pub predicted_recovery: Duration,
    /// How long the batch before kept this one waiting for checkpoints: cuts that were taken, and
    /// what was ended then.
    pub checkpointing: Duration,
}

/// When a batch went through its steps, by the monotonic clock.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Times {
    pub(crate) begun_ns: u64,
    pub(crate) delay_ns: u64,
    pub(crate) computed_ns: u64,
    pub(crate) bound_ns: u64,
    pub(crate) published_ns: u64,
}

fn between(from_ns: u64, to_ns: u64) -> Duration {
    Duration::from_nanos(to_ns.saturating_sub(from_ns))
}

impl JobDriver {
    /// Tells an event, if there is anybody to be told.
    ///
    /// # Errors
    /// `TaskFailed` if the listener panics: user code never breaks the engine (ENGINE.md E11).
    pub(super) fn tell(&self, event: impl FnOnce() -> Event) -> Result<()> {
        let Some(listener) = &self.options.on_event else { return Ok(()) };
        let event = event();
        catch_unwind(AssertUnwindSafe(|| listener(&event))).map_err(|_panic| {
            let message = format!("the event listener panicked at {event}");
            Error::new(ErrorKind::TaskFailed, message)
        })
    }

    /// From here on the batch may be seen.
    pub(super) fn tell_planned(&self, batch: &Batch) -> Result<()> {
        let id = batch.plan.batch;
        let bytes = batch.plan.inputs.iter().map(|input| input.bytes).sum();
        self.tell(|| Event::BatchPlanned { batch: id, bytes })?;
        self.tell(|| Event::BatchStarted { batch: id, attempt: batch.attempt })
    }

    /// What a batch came to that has just been completed.
    pub(super) fn report_of(&mut self, batch: &Batch) -> BatchReport {
        let (plan, times, now) = (&batch.plan, batch.times, self.env.clock.monotonic_ns());
        let records = batch.computed().records;
        let last_begun = self.last_begun_ns.replace(times.begun_ns);
        let seconds = last_begun.map(|last| between(last, times.begun_ns).as_secs_f64());
        #[allow(clippy::cast_precision_loss, reason = "a rate")]
        let rate = seconds.map_or(0.0, |seconds| records as f64 / seconds.max(1e-9));
        let partitions = 0..self.shape.parallelism;
        let rows = self.states.iter().flat_map(|state| partitions.clone().map(|p| state.len(p)));
        BatchReport {
            batch: plan.batch,
            attempt: batch.attempt,
            batch_time_ns: plan.batch_time_ns,
            ticks: plan.ticks,
            bytes: plan.inputs.iter().map(|input| input.bytes).sum(),
            records,
            skipped: to_u64(batch.computed().results.skipped.len()),
            input_rate: rate,
            scheduling_delay: Duration::from_nanos(times.delay_ns),
            processing_time: between(times.begun_ns, now),
            computing: between(times.begun_ns, times.computed_ns),
            publishing: between(times.bound_ns, times.published_ns),
            state_rows: rows.map(to_u64).sum(),
            predicted_recovery: self.budget.predicted(),
            checkpointing: std::mem::take(&mut self.checkpointing),
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Event::BatchPlanned { batch, bytes } => {
                write!(f, "batch {batch} planned: {bytes} bytes")
            }
            Event::BatchStarted { batch, attempt } => {
                write!(f, "batch {batch} started, attempt {attempt}")
            }
            Event::SinkPublished { batch, sink, took } => {
                write!(f, "batch {batch} published by `{sink}` in {took:?}")
            }
            Event::BatchCompleted(report) => {
                let BatchReport { batch, records, processing_time, .. } = report;
                write!(f, "batch {batch} completed: {records} records in {processing_time:?}")
            }
            Event::BatchWithdrawn { batch, deaths } => {
                write!(f, "batch {batch} withdrawn after {deaths} ends of the process")
            }
            Event::Failed { batch, error } => write!(f, "batch {batch}: {error}"),
            Event::Ended { batch, error } => write!(f, "ended behind batch {batch}: {error}"),
        }
    }
}
