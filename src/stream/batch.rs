//! One batch: the seven steps of its life (ENGINE.md E1). `docs/execution.md` has the picture.

use super::compute::{Coming, Computed};
use super::draft::Begun;
use super::driver::{JobDriver, Stepped};
use super::events::{Event, Times};
use super::hooks::Step;
use super::journal::{
    BatchCompletion, BatchPlan, BatchPreparation, BatchResults, Entry, JOURNAL, Named,
    PlannedInput, SkippedRecord,
};
use super::marks::Mark;
use super::trigger::Trigger;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{Lsn, to_usize};
use crate::planted::{Bug, planted};
use crate::source::{Limit, Source, SourceContext};
use crate::sync::Arc;

/// Computing that takes no longer is over before the plan would have been written beside it by
/// another thread: a durable write, and two wake-ups.
const SHORT_NS: u64 = 200_000;

/// A batch on its way through the steps.
pub(crate) struct Batch {
    pub(crate) plan: BatchPlan,
    /// Where the plan is in the log.
    pub(crate) plan_lsn: Lsn,
    /// From 1: which call of the sinks this is.
    pub(crate) attempt: u32,
    /// What was computed of it before it was its turn.
    pub(crate) begun: Option<Begun>,
    /// Of one that recovery computes again: what was opened of it before it was its turn.
    pub(crate) came: Option<Coming>,
    /// What was computed, and nobody has seen.
    pub(crate) computed: Option<Computed>,
    /// What two-phase sinks hold, as the log has it: by this process or one before.
    pub(crate) prepared: Option<BatchPreparation>,
    /// What the log says that the batch does without; `None` if that is not decided yet.
    pub(crate) skipped: Option<Vec<SkippedRecord>>,
    /// What the sinks returned.
    pub(crate) published: Vec<Named>,
    pub(crate) times: Times,
}

impl Batch {
    pub(crate) fn new(plan: BatchPlan, plan_lsn: Lsn, attempt: u32) -> Batch {
        Batch {
            plan,
            plan_lsn,
            attempt,
            begun: None,
            came: None,
            computed: None,
            prepared: None,
            skipped: None,
            published: Vec::new(),
            times: Times::default(),
        }
    }

    pub(super) fn computed(&self) -> &Computed {
        #[allow(clippy::expect_used, reason = "`run_batch` calls the steps in order")]
        self.computed.as_ref().expect("STREAM-5: compute comes before what uses its results")
    }
}

impl JobDriver {
    /// Takes the next batch through its life, or finds that there is none. STREAM-5: here, and
    /// only here, stands the order of the steps.
    pub(crate) fn run_batch(&mut self) -> Result<Stepped> {
        let Some(mut batch) = self.plan()? else { return Ok(Stepped::Idle) };
        let id = batch.plan.batch;
        self.hooks.at(Step::Planned, id)?;
        let planned_ns = self.env.clock.monotonic_ns();
        if self.last_computing_ns > SHORT_NS {
            self.env.wal.begin_durable(batch.plan_lsn);
        }
        self.compute(&mut batch)?;
        self.let_go();
        batch.times.computed_ns = self.env.clock.monotonic_ns();
        self.last_computing_ns = batch.times.computed_ns.saturating_sub(planned_ns);
        self.hooks.at(Step::Computed, id)?;
        self.draft(&batch);
        self.await_plan_durable(&batch)?;
        batch.times.bound_ns = self.env.clock.monotonic_ns();
        self.hooks.at(Step::PlanDurable, id)?;
        self.tell_planned(&batch)?;
        self.prepare(&mut batch)?;
        self.hooks.at(Step::Prepared, id)?;
        if self.job.at_most_once && !planted(Bug::PublishBeforePosition) {
            self.complete(&batch)?;
            self.await_completion()?;
            self.hooks.at(Step::Completed, id)?;
            self.publish_once(&mut batch)?;
            self.hooks.at(Step::Published, id)?;
        } else {
            self.publish(&mut batch)?;
            self.hooks.at(Step::Published, id)?;
            self.complete(&batch)?;
            self.hooks.at(Step::Completed, id)?;
        }
        batch.times.published_ns = self.env.clock.monotonic_ns();
        self.report(&batch);
        self.checkpoint()?;
        self.hooks.at(Step::Checkpointed, id)?;
        self.notify()?;
        self.tell(|| Event::BatchCompleted(self.board.read().last))?;
        Ok(Stepped::Batch(id))
    }

    /// Step 1: a planned batch that recovery found, or a new one if one is due, whose plan is
    /// submitted.
    fn plan(&mut self) -> Result<Option<Batch>> {
        let (now, wall) = (self.env.clock.monotonic_ns(), self.env.clock.wall_ns());
        if let Some(mut batch) = self.unfinished.take() {
            batch.times.begun_ns = now;
            return Ok(Some(batch));
        }
        if self.wait_ns(now) > 0 || (self.options.trigger == Trigger::Once && self.planned_here) {
            return Ok(None);
        }
        self.change_parallelism()?;
        let delay_ns = self.pace.delay_ns(now);
        let batch = self.boundary.batch.next();
        let (plan, begun) = match self.drafted(batch) {
            Some(drafted) => drafted,
            None => {
                let mut inputs = self.plan_inputs(None)?;
                if inputs.is_empty() && self.harden()? {
                    inputs = self.plan_inputs(None)?;
                }
                self.pace.pass(now, wall);
                if inputs.is_empty() {
                    return Ok(None);
                }
                (self.plan_of(batch, self.boundary.batch_time_ns, wall, inputs), None)
            }
        };
        let entry = Entry::BatchPlanned(plan);
        let lsn = self.env.wal.leave_internal(JOURNAL, &entry.encode())?;
        let Entry::BatchPlanned(plan) = entry else { unreachable!("made above") };
        self.marks.reach(Mark::Planned, batch);
        self.planned_here = true;
        let mut batch = Batch::new(plan, lsn, 1);
        batch.times = Times { begun_ns: now, delay_ns, ..Times::default() };
        batch.begun = begun;
        Ok(Some(batch))
    }

    /// Has what is in the log made durable, if it is read here and not all of it is. Records may
    /// have been submitted for which nobody waits: with nothing else to do in the log, they would
    /// not be processed until somebody does. `false` if there is nothing more to see now.
    fn harden(&self) -> Result<bool> {
        let (wal, appended) = (&self.env.wal, self.env.wal.appended_lsn());
        // What comes behind the beginning of a job that ends is not its affair.
        if self.is_bounded() || appended <= wal.durable_lsn() {
            return Ok(false);
        }
        for source in &self.job.sources {
            if source.retention(self.boundary.position(source.name()))?.is_some() {
                wal.wait_durable(appended)?;
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// How long until a batch is due. What is to be drained is due at once.
    pub(super) fn wait_ns(&self, now_ns: u64) -> u64 {
        if self.draining { 0 } else { self.pace.wait_ns(now_ns) }
    }

    /// How much a batch may have.
    pub(super) fn limit(&self) -> Limit {
        self.options.trigger.limit().at_most(self.options.batch_bytes)
    }

    /// How much each source may have of the next batch.
    pub(super) fn share(&self) -> Limit {
        let options = &self.options;
        let first = options.first_batch_bytes.filter(|_| !self.planned_here);
        let limit = self.limit().at_most(first.unwrap_or(u64::MAX));
        let cautious = Some(self.boundary.cautious_bytes).filter(|bytes| *bytes > 0);
        let limit = limit.at_most(cautious.unwrap_or(u64::MAX));
        limit.share(crate::ids::to_u64(self.job.sources.len()))
    }

    /// Whether the job ends when it has had what was there at a certain moment.
    pub(super) fn is_bounded(&self) -> bool {
        self.draining || self.options.trigger.is_bounded()
    }

    /// What every source has, each up to its share of the batch's bytes: behind what is completed,
    /// or behind the batch that is about to be.
    pub(super) fn plan_inputs(&self, behind: Option<&BatchPlan>) -> Result<Vec<PlannedInput>> {
        let share = self.share();
        let mut inputs = Vec::new();
        for source in &self.job.sources {
            // One record at a time: then it is known which one it is.
            if self.boundary.cautious_bytes == 1 && !inputs.is_empty() {
                break;
            }
            let before = behind.map_or(&[][..], |plan| &plan.inputs);
            let before = before.iter().find(|input| input.source == source.name());
            let position = before.map(|input| input.next.as_slice());
            let position = position.or_else(|| self.boundary.position(source.name()));
            if self.is_past_available(source, position)? {
                continue;
            }
            if let Some(planned) = source.plan(self.source_context(), position, share)? {
                inputs.push(PlannedInput {
                    source: source.name().to_owned(),
                    input: planned.input,
                    next: planned.next,
                    bytes: planned.bytes,
                });
            }
        }
        Ok(inputs)
    }

    /// Whether a job that ends has had all of this source that it is to have.
    fn is_past_available(&self, source: &Arc<dyn Source>, position: Option<&[u8]>) -> Result<bool> {
        if !self.is_bounded() {
            return Ok(false);
        }
        Ok(source.retention(position)?.is_some_and(|next| next > self.available))
    }

    /// Step 3: from here on the batch may be seen. The completion of the batch before is earlier
    /// in the log: the same group commit made it durable.
    fn await_plan_durable(&mut self, batch: &Batch) -> Result<()> {
        if self.marks.plan_durable == batch.plan.batch {
            return Ok(()); // recovery found the plan in the log, where all is durable
        }
        if !planted(Bug::PlanNotDurable) {
            self.env.wal.wait_durable(batch.plan_lsn)?;
            let durable = self.env.wal.durable_lsn();
            assert!(self.boundary.completion <= durable, "E1: completion k before publish k + 1");
            assert!(batch.plan_lsn <= durable, "E1: a plan is durable before anything is seen");
        }
        self.marks.reach(Mark::PlanDurable, batch.plan.batch);
        Ok(())
    }

    /// Step 6: the completion is submitted, the overlays become the state.
    fn complete(&mut self, batch: &Batch) -> Result<()> {
        let entry = Entry::BatchCompleted(BatchCompletion {
            job: self.shape.job.clone(),
            batch: batch.plan.batch,
            attempt: batch.attempt,
            sinks: match self.job.at_most_once {
                true => std::mem::take(&mut self.published_last),
                false => batch.published.clone(),
            },
            results: batch.computed().results.clone(),
        });
        let lsn = self.env.wal.leave_internal(JOURNAL, &entry.encode())?;
        let Entry::BatchCompleted(done) = entry else { unreachable!("made above") };
        self.merge(batch);
        self.boundary.advance(&batch.plan, &done, lsn);
        self.marks.reach(Mark::Completed, batch.plan.batch);
        Ok(())
    }

    /// The overlays become the state.
    pub(crate) fn merge(&self, batch: &Batch) {
        let (run, parallelism) = (&batch.computed().run, to_usize(batch.plan.parallelism.into()));
        let (operators, states, id) = (&self.job.operators, &self.states, batch.plan.batch);
        // Partitions share nothing: each is merged by whichever thread comes to it.
        self.env.executor.for_each_number(parallelism * states.len(), |number| {
            let (place, partition) = (number / parallelism, number % parallelism);
            let (operator, state) = (&operators[place], &states[place]);
            #[allow(clippy::cast_possible_truncation, reason = "below `parallelism`, a u32")]
            let partition = partition as u32;
            let changes = operator.overlay(run, partition);
            state.merge(partition, id, changes);
        });
    }

    pub(crate) fn source_context(&self) -> SourceContext<'_> {
        SourceContext { storage: &self.env.storage }
    }

    /// Executes a completed batch again, to have its state: publishes nothing (ENGINE.md E2).
    pub(crate) fn rebuild(
        &mut self,
        mut batch: Batch,
        done: &BatchCompletion,
        lsn: Lsn,
    ) -> Result<()> {
        batch.skipped = Some(done.results.skipped.clone());
        self.compute(&mut batch)?;
        self.verify(&batch, &done.results)?;
        self.merge(&batch);
        self.pass(&batch, done, lsn);
        Ok(())
    }

    /// As [`rebuild`](JobDriver::rebuild), but publishes: into an empty place, to compare.
    #[cfg(feature = "testing")]
    pub(crate) fn reexecute(
        &mut self,
        mut batch: Batch,
        done: &BatchCompletion,
        lsn: Lsn,
    ) -> Result<()> {
        batch.skipped = Some(done.results.skipped.clone());
        self.compute(&mut batch)?;
        self.verify(&batch, &done.results)?;
        self.prepare_to_repeat(&mut batch)?;
        self.publish(&mut batch)?;
        self.merge(&batch);
        self.pass(&batch, done, lsn);
        Ok(())
    }

    /// Compares what the sources gave, and what came of it, with what the log has of the first
    /// time.
    pub(super) fn verify(&self, batch: &Batch, recorded: &BatchResults) -> Result<()> {
        let results = &batch.computed().results;
        for read in &results.digests {
            let planned = batch.plan.inputs.iter().find(|input| input.source == read.name);
            let digest = super::journal::named(&recorded.digests, &read.name).unwrap_or_default();
            let (Some(source), Some(planned)) = (self.source(&read.name), planned) else {
                continue;
            };
            source.verify_digest(&planned.input, digest, &read.bytes)?;
        }
        for (sink, digest) in &results.outputs {
            let before = recorded.outputs.iter().find(|(name, _)| name == sink);
            if before.is_some_and(|(_, before)| before != digest) {
                return Err(changed(sink, batch));
            }
        }
        Ok(())
    }

    /// Moves every mark over a batch that was completed before.
    fn pass(&mut self, batch: &Batch, done: &BatchCompletion, lsn: Lsn) {
        self.boundary.advance(&batch.plan, done, lsn);
        for mark in [Mark::Planned, Mark::PlanDurable, Mark::Prepared, Mark::Completed] {
            self.marks.reach(mark, batch.plan.batch);
        }
    }

    fn source(&self, name: &str) -> Option<&Arc<dyn Source>> {
        self.job.sources.iter().find(|source| source.name() == name)
    }
}

fn changed(sink: &str, batch: &Batch) -> Error {
    let message = format!(
        "batch {} was computed again, with another output for the sink `{sink}` than the first \
         time: a function of the job is not pure, or was changed while a batch was in flight",
        batch.plan.batch
    );
    Error::new(ErrorKind::OutputChanged, message)
}
