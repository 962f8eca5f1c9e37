//! The crash points between the steps of a batch.

use std::fmt;

use crate::error::Result;
use crate::exec::RunContext;
use crate::ids::BatchId;

/// A moment in the life of a batch: the step that has just been done (ENGINE.md E1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// Recovery has been done; no new batch is planned yet.
    Recovered,
    /// The plan is in the log, maybe not durable.
    Planned,
    /// Outputs and overlays are computed, all private.
    Computed,
    /// The plan is durable, and with it the completion of the batch before.
    PlanDurable,
    /// A two-phase sink has prepared, maybe not the last one.
    SinkPrepared,
    /// Two-phase sinks have prepared, and the log has their tokens.
    Prepared,
    /// A sink has published, maybe not the last one.
    SinkPublished,
    /// Every sink has published.
    Published,
    /// The completion is in the log, maybe not durable; the overlay is the state.
    Completed,
    /// The checkpoint, if one was due, is durable, and the log is truncated.
    Checkpointed,
}

impl Step {
    /// All of them, in order.
    pub const ALL: [Step; 10] = [
        Step::Recovered,
        Step::Planned,
        Step::Computed,
        Step::PlanDurable,
        Step::SinkPrepared,
        Step::Prepared,
        Step::SinkPublished,
        Step::Published,
        Step::Completed,
        Step::Checkpointed,
    ];
}

/// What is called between the steps of every batch. An `Err` ends the driver at once, as a crash
/// would: nothing more is written by it.
pub trait Hooks: fmt::Debug + Send {
    /// A step of `batch` has been done.
    ///
    /// # Errors
    /// To end the driver here.
    fn at(&mut self, step: Step, batch: BatchId) -> Result<()>;

    /// The graph is about to run for `batch`, also when recovery rebuilds it: the moment to order
    /// faults in `run`'s [`drills`](RunContext::drills).
    fn computing(&mut self, _batch: BatchId, _run: &RunContext) {}

    /// The graph has run for `batch`: the moment to look at [`RunContext::tasks`].
    fn computed(&mut self, _batch: BatchId, _run: &RunContext) {}
}

/// Goes on at every crash point.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoHooks;

impl Hooks for NoHooks {
    fn at(&mut self, _step: Step, _batch: BatchId) -> Result<()> {
        Ok(())
    }
}
