//! The next batch's beginning, beside the steps of the one before it (ENGINE.md E1).
//!
//! While batch *k* waits for its plan, publishes and completes, what batch *k + 1* will read is
//! decided, and all of it that needs no state is computed: as a *draft*, which nobody sees. The
//! log knows nothing of it; the order of its records is that without drafts.
//!
//! DRAFT-1: a draft becomes a batch by a plan that says exactly what was drafted, when the batch
//! before is completed. Else it is dropped, and was never there.
//! DRAFT-2: what needs state is computed when the batch before is part of the state.
//! DRAFT-3: a draft that fails is not a failure: whatever it was, the batch meets it again.
//! DRAFT-4: dropping a draft waits for what runs of it.

use std::collections::BTreeSet;

use super::batch::Batch;
use super::compute::Shown;
use super::cut::Writing;
use super::driver::JobDriver;
use super::journal::{BatchPlan, PlannedInput};
use super::trigger::Trigger;
use crate::error::Result;
use crate::exec::{Aside, CancelToken, Executor, Node, OperatorId, RunContext};
use crate::ids::BatchId;
use crate::planted::{Bug, planted};
use crate::sink::{Output, Sink};
use crate::source::Opened;
use crate::sync::{Arc, Mutex, lock};

/// A batch that may come next.
pub(crate) struct Draft {
    plan: BatchPlan,
    begun: Begun,
    work: Work,
    /// What the sources had read before it was begun.
    read_before: (u64, u64),
}

/// A batch's run, with its inputs open, as far as it was computed before it was its turn.
pub(crate) struct Begun {
    pub(super) run: Arc<RunContext>,
    /// In the order of the job's sources.
    pub(super) opened: Vec<Arc<Opened>>,
    /// In the order of the job's sinks.
    pub(super) outputs: Vec<Option<Output>>,
    /// What was read for it.
    pub(super) records: u64,
}

/// What came of computing: of each sink its output, where that needs no state.
type Outcome = Result<Vec<Option<Output>>>;

/// What runs of a draft.
struct Work {
    aside: Option<Aside>,
    cancel: CancelToken,
    outcome: Arc<Mutex<Option<Outcome>>>,
}

impl Drop for Work {
    fn drop(&mut self) {
        if let Some(aside) = self.aside.take() {
            self.cancel.cancel();
            aside.wait();
        }
    }
}

/// What has to be computed, of a run.
struct Computing {
    run: Arc<RunContext>,
    sinks: Vec<(Arc<dyn Sink>, Arc<dyn Node>)>,
    operators: Vec<Arc<dyn Node>>,
    stateful: BTreeSet<OperatorId>,
}

impl Computing {
    /// DRAFT-2.
    fn compute(&self, executor: &Executor) -> Outcome {
        let mut outputs = Vec::with_capacity(self.sinks.len());
        for (sink, rows) in &self.sinks {
            let is_free = executor.begin(&self.run, rows, &self.stateful)?;
            outputs.push(is_free.then(|| sink.compute(executor, &self.run)).transpose()?);
        }
        for node in &self.operators {
            executor.begin(&self.run, node, &self.stateful)?;
        }
        Ok(outputs)
    }
}

impl JobDriver {
    /// Drafts what comes behind a batch that was computed. Only where that cannot make a difference
    /// but in time: if there is enough for a batch now, it would be cut the same later.
    pub(super) fn draft(&mut self, batch: &Batch) {
        let asap = matches!(self.options.trigger, Trigger::Bytes(_) | Trigger::AvailableNow { .. });
        // Versions of side inputs are for the plan to choose; where processes have died, or records
        // fail, one thing happens at a time.
        let plain = self.job.sides.is_empty() && !self.job.faults.letters;
        let calm = self.planned_here && self.boundary.cautious_bytes == 0;
        if asap && plain && calm && self.env.writing != Writing::Inline {
            let read_before = self.amount_read();
            match self.try_draft(batch) {
                Ok(draft) => self.draft = draft,
                Err(_) => self.forget_read(read_before), // DRAFT-3
            }
        }
    }

    fn try_draft(&mut self, before: &Batch) -> Result<Option<Draft>> {
        let inputs = self.plan_inputs(Some(&before.plan))?;
        let bytes: u64 = inputs.iter().map(|input| input.bytes).sum();
        if inputs.is_empty() || bytes < self.limit().bytes / 2 {
            return Ok(None);
        }
        let read_before = self.amount_read();
        let (last_ns, cancel) = (before.plan.batch_time_ns, self.cancel.part());
        let plan =
            self.plan_of(before.plan.batch.next(), last_ns, self.env.clock.wall_ns(), inputs);
        let inputs = self.open_inputs(&plan)?;
        let run = Arc::new(self.run_of(&inputs, &Shown::default())?.with_cancel(&cancel));
        let opened = inputs.opened;
        self.hooks.computing(plan.batch, &run);
        let outcome = Arc::default();
        let aside = self.begin(self.computing(&run), &outcome);
        let begun = Begun { run, opened, outputs: Vec::new(), records: 0 };
        Ok(Some(Draft { plan, begun, work: Work { aside, cancel, outcome }, read_before }))
    }

    fn computing(&self, run: &Arc<RunContext>) -> Computing {
        let (job, run) = (&self.job, Arc::clone(run));
        let sinks = job.sinks.iter().cloned().zip(job.outputs.iter().cloned()).collect();
        let operators = job.operators.iter().map(|operator| operator.node()).collect();
        let stateful = job.operators.iter().map(|operator| operator.id()).collect();
        Computing { run, sinks, operators, stateful }
    }

    /// Computes on the pool, and has what comes behind the draft read meanwhile; or computes here,
    /// where nothing happens beside anything.
    fn begin(&self, what: Computing, outcome: &Arc<Mutex<Option<Outcome>>>) -> Option<Aside> {
        let told = Arc::clone(outcome);
        let work = move |executor: &Executor| {
            let computed = what.compute(executor);
            // Before the end is told: nobody else has the run then.
            drop(what);
            *lock(&told) = Some(computed);
        };
        if self.env.writing == Writing::Beside {
            let (sources, share) = (self.job.sources.clone(), self.share());
            return Some(self.env.executor.spawn(move |executor| {
                let ahead = || sources.iter().for_each(|source| source.read_ahead(share));
                executor.beside(ahead, || work(executor));
            }));
        }
        work(&self.env.executor);
        None
    }

    /// DRAFT-1: the draft of this batch, if there is one, when all that runs of it has ended.
    pub(super) fn drafted(&mut self, batch: BatchId) -> Option<(BatchPlan, Option<Begun>)> {
        let calm = self.boundary.cautious_bytes == 0;
        if self.draft.as_ref().is_some_and(|draft| !calm || draft.plan.batch != batch) {
            self.drop_draft();
        }
        let Draft { mut plan, mut begun, mut work, read_before } = self.draft.take()?;
        if let Some(aside) = work.aside.take() {
            aside.wait();
        }
        if planted(Bug::DraftPlannedAnew) {
            plan.inputs = self.plan_inputs(None).unwrap_or(plan.inputs);
        }
        let outcome = lock(&work.outcome).take();
        match outcome {
            Some(Ok(outputs)) => {
                begun.outputs = outputs;
                begun.records = self.amount_read().1 - read_before.1;
                Some((plan, Some(begun)))
            }
            // DRAFT-3. A panic is somebody's, too.
            Some(Err(_)) | None => {
                self.forget_read(read_before);
                Some((plan, None))
            }
        }
    }

    /// DRAFT-4.
    pub(super) fn drop_draft(&mut self) {
        if let Some(Draft { work, read_before, .. }) = self.draft.take() {
            drop(work);
            self.forget_read(read_before);
        }
    }

    /// What was read since then was read in vain.
    fn forget_read(&mut self, before: (u64, u64)) {
        let now = self.amount_read();
        self.read_in_vain.0 += now.0 - before.0;
        self.read_in_vain.1 += now.1 - before.1;
    }

    /// Bytes and records that all sources have read for batches, in this process.
    pub(crate) fn amount_read(&self) -> (u64, u64) {
        if let Some(draft) = &self.draft {
            return draft.read_before; // nobody else reads meanwhile
        }
        let amounts = self.job.sources.iter().map(|source| source.amount_read());
        let (bytes, records) =
            amounts.fold((0, 0), |sum, read| (sum.0 + read.bytes, sum.1 + read.records));
        (bytes - self.read_in_vain.0, records - self.read_in_vain.1)
    }

    /// A plan that is not in the log yet.
    pub(super) fn plan_of(
        &self,
        batch: BatchId,
        last_ns: u64,
        wall_ns: u64,
        inputs: Vec<PlannedInput>,
    ) -> BatchPlan {
        let (batch_time_ns, ticks) = self.pace.time(wall_ns, last_ns);
        BatchPlan {
            job: self.shape.job.clone(),
            batch,
            generation: self.shape.generation,
            parallelism: self.shape.parallelism,
            batch_time_ns,
            ticks,
            inputs,
            sides: self.env.sides.plan(self.job.sides.iter().map(|side| side.name())),
        }
    }
}
