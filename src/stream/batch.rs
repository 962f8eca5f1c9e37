//! One batch: the seven steps of its life (ENGINE.md E1). `docs/execution.md` has the picture.

use super::cut::Writing;
use super::driver::{JobDriver, Stepped};
use super::hooks::Step;
use super::journal::{
    BatchCompletion, BatchPlan, BatchPreparation, BatchResults, Entry, JOURNAL, Named, PlannedInput,
};
use super::marks::Mark;
use crate::error::{Error, ErrorKind, Result};
use crate::exec::RunContext;
use crate::ids::{Lsn, to_usize};
use crate::planted::{Bug, planted};
use crate::sink::{Output, Sink};
use crate::source::{Input, Opened, Source, SourceContext};
use crate::sync::Arc;

/// A batch on its way through the steps.
pub(crate) struct Batch {
    pub(crate) plan: BatchPlan,
    /// Where the plan is in the log.
    pub(crate) plan_lsn: Lsn,
    /// From 1: which call of the sinks this is.
    pub(crate) attempt: u32,
    /// What was computed, and nobody has seen.
    pub(crate) computed: Option<Computed>,
    /// What two-phase sinks hold, as the log has it: by this process or one before.
    pub(crate) prepared: Option<BatchPreparation>,
    /// What the sinks returned.
    pub(crate) published: Vec<Named>,
}

/// Private results of step 2.
pub(crate) struct Computed {
    pub(crate) run: RunContext,
    pub(crate) results: BatchResults,
    /// In the order of the job's sinks.
    pub(crate) outputs: Vec<Output>,
}

impl Batch {
    pub(crate) fn new(plan: BatchPlan, plan_lsn: Lsn, attempt: u32) -> Batch {
        let (computed, prepared, published) = (None, None, Vec::new());
        Batch { plan, plan_lsn, attempt, computed, prepared, published }
    }

    pub(super) fn computed(&self) -> &Computed {
        #[allow(clippy::expect_used, reason = "`run_batch` calls the steps in order")]
        self.computed.as_ref().expect("STREAM-5: compute comes before what uses its results")
    }
}

/// What a source that has nothing in this batch gives: no rows.
#[derive(Debug)]
struct NoInput;

impl Input for NoInput {
    fn partitions(&self) -> u32 {
        1
    }

    fn rows(&self, _partition: u32, _out: &mut dyn FnMut(&[u8])) -> Result<()> {
        Ok(())
    }

    fn digest(&self) -> Result<Vec<u8>> {
        Ok(Vec::new())
    }

    fn describe(&self, _partition: u32) -> String {
        "nothing in this batch".to_owned()
    }
}

impl JobDriver {
    /// Takes the next batch through its life, or finds that there is none. STREAM-5: here, and
    /// only here, stands the order of the steps.
    pub(crate) fn run_batch(&mut self) -> Result<Stepped> {
        let Some(mut batch) = self.plan()? else { return Ok(Stepped::Idle) };
        let id = batch.plan.batch;
        self.hooks.at(Step::Planned, id)?;
        self.compute(&mut batch)?;
        self.hooks.at(Step::Computed, id)?;
        self.await_plan_durable(&batch)?;
        self.hooks.at(Step::PlanDurable, id)?;
        self.prepare(&mut batch)?;
        self.hooks.at(Step::Prepared, id)?;
        self.publish(&mut batch)?;
        self.hooks.at(Step::Published, id)?;
        self.complete(batch)?;
        self.hooks.at(Step::Completed, id)?;
        self.checkpoint()?;
        self.hooks.at(Step::Checkpointed, id)?;
        self.notify()?;
        Ok(Stepped::Batch(id))
    }

    /// Step 1: a planned batch that recovery found, or a new one, whose plan is submitted.
    fn plan(&mut self) -> Result<Option<Batch>> {
        if let Some(batch) = self.unfinished.take() {
            return Ok(Some(batch));
        }
        let inputs = self.plan_inputs()?;
        if inputs.is_empty() {
            return Ok(None);
        }
        let batch = self.boundary.batch.next();
        let plan = BatchPlan {
            job: self.shape.job.clone(),
            batch,
            generation: self.shape.generation,
            parallelism: self.shape.parallelism,
            batch_time_ns: self.env.clock.wall_ns().max(self.boundary.batch_time_ns + 1),
            inputs,
            sides: self.env.sides.plan(self.job.sides.iter().map(|side| side.name())),
        };
        let entry = Entry::BatchPlanned(plan);
        let pending = self.env.wal.submit_internal(JOURNAL, &entry.encode())?;
        let Entry::BatchPlanned(plan) = entry else { unreachable!("made above") };
        self.marks.reach(Mark::Planned, batch);
        Ok(Some(Batch::new(plan, pending.lsn(), 1)))
    }

    /// How many bytes of a batch each source may have.
    fn share(&self) -> u64 {
        let sources = crate::ids::to_u64(self.job.sources.len()).max(1);
        (self.options.trigger.limit_bytes() / sources).max(1)
    }

    /// What every source has, each up to its share of the batch's bytes.
    fn plan_inputs(&self) -> Result<Vec<PlannedInput>> {
        let share = self.share();
        let mut inputs = Vec::new();
        for source in &self.job.sources {
            let position = self.boundary.position(source.name());
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

    /// Whether available-now has had all of this source that it is to have.
    fn is_past_available(&self, source: &Arc<dyn Source>, position: Option<&[u8]>) -> Result<bool> {
        if !self.options.trigger.ends_when_idle() {
            return Ok(false);
        }
        Ok(source.retention(position)?.is_some_and(|next| next > self.available))
    }

    /// Step 2: outputs, overlays and digests, all private to this process.
    pub(crate) fn compute(&mut self, batch: &mut Batch) -> Result<()> {
        let plan = &batch.plan;
        let mut run = RunContext::new(plan.parallelism).with_batch(plan.batch, plan.batch_time_ns);
        let mut opened = Vec::new();
        for source in &self.job.sources {
            let planned = plan.inputs.iter().find(|input| input.source == source.name());
            let input = match planned {
                Some(planned) => source.open(self.source_context(), &planned.input)?,
                None => Arc::new(Opened::new(NoInput)),
            };
            if planned.is_some() {
                opened.push((source, Arc::clone(&input)));
            }
            run = run.with_input(source.name(), input);
        }
        for side in &self.job.sides {
            let planned = plan.sides.iter().find(|planned| planned.name == side.name());
            let version = planned.map(|planned| self.env.sides.get(planned)).transpose()?;
            run = side.provide(run, version.as_deref())?;
        }
        self.hooks.computing(plan.batch, &run);
        let executor = &self.env.executor;
        for operator in &self.job.operators {
            operator.keep_failed(planted(Bug::MergeFailedOverlay));
        }
        let job = &self.job;
        let compute = || -> Result<Vec<Output>> {
            let outputs = job.sinks.iter().map(|sink| sink.compute(executor, &run));
            let outputs = outputs.collect::<Result<_>>()?;
            job.operators.iter().try_for_each(|operator| operator.compute(executor, &run))?;
            Ok(outputs)
        };
        // A job on its own thread has the next batch's records read meanwhile; in a simulation
        // nothing happens beside anything.
        let outputs = match self.writing {
            Writing::Beside => {
                let (sources, share) = (&job.sources, self.share());
                executor.beside(|| sources.iter().for_each(|s| s.read_ahead(share)), compute)?
            }
            Writing::Inline | Writing::Late => compute()?,
        };
        let mut digests = Vec::new();
        for (source, opened) in opened {
            digests.push(Named::new(source.name(), opened.input().digest()?));
        }
        let digest = |(sink, output): (&Arc<dyn Sink>, &Output)| {
            Some((sink.name().to_owned(), sink.digest(&**output)?))
        };
        let digested = self.job.sinks.iter().zip(&outputs).filter_map(digest).collect();
        self.hooks.computed(plan.batch, &run);
        let accumulators = run.sums();
        let results = BatchResults { digests, outputs: digested, accumulators };
        batch.computed = Some(Computed { run, results, outputs });
        Ok(())
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
    fn complete(&mut self, batch: Batch) -> Result<()> {
        let entry = Entry::BatchCompleted(BatchCompletion {
            job: self.shape.job.clone(),
            batch: batch.plan.batch,
            attempt: batch.attempt,
            sinks: batch.published.clone(),
            results: batch.computed().results.clone(),
        });
        let pending = self.env.wal.submit_internal(JOURNAL, &entry.encode())?;
        let Entry::BatchCompleted(done) = entry else { unreachable!("made above") };
        self.merge(&batch);
        self.boundary.advance(&batch.plan, &done, pending.lsn());
        self.marks.reach(Mark::Completed, batch.plan.batch);
        self.report(&batch.plan);
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
