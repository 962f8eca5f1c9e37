//! Step 2: outputs, overlays and digests, all private to this process.

use std::collections::{BTreeMap, BTreeSet};

use super::batch::Batch;
use super::cut::Writing;
use super::draft::Begun;
use super::driver::JobDriver;
use super::faults::DEAD_LETTERS;
use super::journal::{BatchPlan, BatchResults, Named, SkippedRecord, named};
use crate::error::{Error, Result};
use crate::exec::{Fault, InputRow, RunContext};
use crate::ids::to_u64;
use crate::planted::{Bug, planted};
use crate::sink::{Output, Sink};
use crate::source::{DeadLetter, Input, Opened, RecordPlace, Sieve, Source, SourceContext};
use crate::sync::{Arc, OnceLock};

/// Private results of step 2.
pub(crate) struct Computed {
    pub(crate) run: Arc<RunContext>,
    pub(crate) results: BatchResults,
    /// In the order of the job's sinks.
    pub(crate) outputs: Vec<Output>,
    /// Records that the sources passed on.
    pub(crate) records: u64,
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

    fn locate(&self, _partition: u32, _row: u64) -> Result<Option<(RecordPlace, Vec<u8>)>> {
        Ok(None)
    }
}

/// What a batch is computed from.
pub(super) struct Inputs<'b> {
    pub(super) plan: &'b BatchPlan,
    /// In the order of the job's sources.
    pub(super) opened: Vec<Arc<Opened>>,
}

/// A batch that recovery computes when it has computed the one before, and its inputs, which are
/// opened meanwhile.
pub(crate) struct Coming {
    plan: BatchPlan,
    opened: OnceLock<Result<Vec<Arc<Opened>>>>,
}

impl Coming {
    pub(crate) fn new(plan: BatchPlan) -> Coming {
        Coming { plan, opened: OnceLock::new() }
    }

    /// What was opened, if there was time for it.
    fn into_opened(self) -> Option<Result<Vec<Arc<Opened>>>> {
        self.opened.into_inner()
    }
}

/// What of the inputs is shown.
#[derive(Default)]
pub(super) struct Shown {
    /// Left out: why, and where in the inputs.
    pub(super) skipped: Vec<(InputRow, SkippedRecord)>,
    /// This row and all behind it are left out, too.
    pub(super) end: Option<InputRow>,
    /// Whether a failure is to say at which row.
    pub(super) watched: bool,
}

/// Computing ended with an error.
pub(super) struct Failed {
    pub(super) error: Error,
    /// Where user code failed, if it did.
    pub(super) faults: Vec<Fault>,
}

impl From<Error> for Failed {
    fn from(error: Error) -> Failed {
        Failed { error, faults: Vec::new() }
    }
}

fn open(
    sources: &[Arc<dyn Source>],
    cx: SourceContext<'_>,
    plan: &BatchPlan,
) -> Result<Vec<Arc<Opened>>> {
    let open = |source: &Arc<dyn Source>| match plan
        .inputs
        .iter()
        .find(|input| input.source == source.name())
    {
        Some(planned) => source.open(cx, &planned.input),
        None => Ok(Arc::new(Opened::new(NoInput))),
    };
    sources.iter().map(open).collect()
}

impl JobDriver {
    /// Step 2. What the log says that the batch does without, it does without; only a batch that
    /// nobody has seen yet may have that decided (E11).
    pub(crate) fn compute(&mut self, batch: &mut Batch) -> Result<()> {
        let before = self.amount_read().1;
        let (inputs, begun, drafted) = match batch.begun.take() {
            Some(Begun { run, opened, outputs, records }) => {
                (Inputs { plan: &batch.plan, opened }, Some((run, outputs)), records)
            }
            None => {
                let came = batch.came.take().and_then(Coming::into_opened);
                let opened = came.unwrap_or_else(|| self.open(&batch.plan))?;
                (Inputs { plan: &batch.plan, opened }, None, 0)
            }
        };
        let opened = self.amount_read().1 - before + drafted;
        let obeyed = batch.skipped.take().filter(|_| !planted(Bug::SkipDecidedAgain));
        let shown = self.without(&inputs, obeyed.clone().unwrap_or_default())?;
        let tried = match begun {
            Some((run, outputs)) => self.compute_in(run, Some(outputs), &inputs, &shown),
            None => self.try_compute(&inputs, &shown),
        };
        let mut computed = match tried {
            Err(failed) if obeyed.is_none() => self.isolate(&inputs, failed)?,
            tried => tried.map_err(|failed| failed.error)?,
        };
        computed.records += opened;
        batch.computed = Some(computed);
        Ok(())
    }

    pub(super) fn open_inputs<'b>(&self, plan: &'b BatchPlan) -> Result<Inputs<'b>> {
        Ok(Inputs { plan, opened: self.open(plan)? })
    }

    fn open(&self, plan: &BatchPlan) -> Result<Vec<Arc<Opened>>> {
        open(&self.job.sources, self.source_context(), plan)
    }

    /// The run of a batch with what is shown of its inputs.
    pub(super) fn run_of(&self, inputs: &Inputs<'_>, shown: &Shown) -> Result<RunContext> {
        let plan = inputs.plan;
        let run = RunContext::new(plan.parallelism).with_cancel(&self.cancel);
        let mut run = run.with_batch(plan.batch, plan.batch_time_ns);
        let hidden = shown.skipped.iter().map(|(row, _)| *row).collect();
        let sieve = Arc::new(Sieve { hidden, end: shown.end });
        for ((number, source), opened) in (0..).zip(&self.job.sources).zip(&inputs.opened) {
            let input = match shown.watched || !shown.skipped.is_empty() {
                true => Arc::new(opened.sifted(number, &sieve)),
                false => Arc::clone(opened),
            };
            run = run.with_input(source.name(), input);
        }
        for side in &self.job.sides {
            let planned = plan.sides.iter().find(|planned| planned.name == side.name());
            let version = planned.map(|planned| self.env.sides.get(planned)).transpose()?;
            run = side.provide(run, version.as_deref())?;
        }
        if self.job.faults.letters {
            let letters: Vec<DeadLetter> = self.letters(inputs, shown)?;
            run = run.with_input(DEAD_LETTERS, Arc::new(letters));
        }
        Ok(run)
    }

    /// Computes the batch, once.
    pub(super) fn try_compute(
        &mut self,
        inputs: &Inputs<'_>,
        shown: &Shown,
    ) -> Result<Computed, Failed> {
        let run = Arc::new(self.run_of(inputs, shown)?);
        self.hooks.computing(inputs.plan.batch, &run);
        self.compute_in(run, None, inputs, shown)
    }

    /// Computes what of the outputs is not there yet, in a run of the batch; `drafted` are those of
    /// its draft.
    fn compute_in(
        &mut self,
        run: Arc<RunContext>,
        drafted: Option<Vec<Option<Output>>>,
        inputs: &Inputs<'_>,
        shown: &Shown,
    ) -> Result<Computed, Failed> {
        let (plan, before) = (inputs.plan, self.amount_read().1);
        for operator in &self.job.operators {
            operator.keep_failed(planted(Bug::MergeFailedOverlay));
        }
        let outputs = match self.outputs(&run, drafted) {
            Ok(outputs) => outputs,
            Err(error) => return Err(Failed { error, faults: run.faults() }),
        };
        let mut digests = Vec::new();
        for (source, opened) in self.job.sources.iter().zip(&inputs.opened) {
            if plan.inputs.iter().any(|input| input.source == source.name()) {
                digests.push(Named::new(source.name(), opened.input().digest()?));
            }
        }
        let digest = |(sink, output): (&Arc<dyn Sink>, &Output)| {
            Some((sink.name().to_owned(), sink.digest(&**output)?))
        };
        let digested = self.job.sinks.iter().zip(&outputs).filter_map(digest).collect();
        self.hooks.computed(plan.batch, &run);
        let accumulators = run.sums();
        let skipped = shown.skipped.iter().map(|(_, skipped)| skipped.clone()).collect();
        let results = BatchResults { digests, outputs: digested, accumulators, skipped };
        let records = self.amount_read().1 - before;
        Ok(Computed { run, results, outputs, records })
    }

    /// Computes some partitions of some operators for a batch that was completed before, and what
    /// they need, and makes their changes (ENGINE.md E13). Returns how many tasks that took.
    pub(crate) fn recompute_some(
        &mut self,
        plan: &BatchPlan,
        recorded: &BatchResults,
        wanted: &BTreeMap<usize, BTreeSet<u32>>,
    ) -> Result<u64> {
        let inputs = self.open_inputs(plan)?;
        let shown = self.without(&inputs, recorded.skipped.clone())?;
        let run = self.run_of(&inputs, &shown)?;
        self.hooks.computing(plan.batch, &run);
        for (place, partitions) in wanted {
            self.job.operators[*place].compute_some(&self.env.executor, &run, partitions)?;
        }
        for (source, opened) in self.job.sources.iter().zip(&inputs.opened) {
            let planned = plan.inputs.iter().find(|input| input.source == source.name());
            let Some(planned) = planned else { continue };
            let before = named(&recorded.digests, source.name()).unwrap_or_default();
            source.verify_digest(&planned.input, before, &opened.input().digest()?)?;
        }
        self.hooks.computed(plan.batch, &run);
        for (place, partition) in wanted.iter().flat_map(|(o, all)| all.iter().map(move |p| (o, p)))
        {
            let changes = self.job.operators[*place].overlay(&run, *partition);
            self.states[*place].merge(*partition, plan.batch, changes);
        }
        Ok(to_u64(run.tasks().len()))
    }

    /// Has every sink and every stateful operator computed.
    fn outputs(
        &self,
        run: &RunContext,
        drafted: Option<Vec<Option<Output>>>,
    ) -> Result<Vec<Output>> {
        let (job, executor) = (&self.job, &*self.env.executor);
        let is_drafted = drafted.is_some();
        let is_whole = job.operators.is_empty()
            && drafted.as_ref().is_some_and(|outputs| outputs.iter().all(Option::is_some));
        let drafted = drafted.unwrap_or_else(|| job.sinks.iter().map(|_| None).collect());
        let compute = || -> Result<Vec<Output>> {
            let missing = |sink: &Arc<dyn Sink>| sink.compute(executor, run);
            let outputs = job.sinks.iter().zip(drafted);
            let outputs = outputs.map(|(sink, drafted)| drafted.map_or_else(|| missing(sink), Ok));
            let outputs = outputs.collect::<Result<_>>()?;
            job.operators.iter().try_for_each(|operator| operator.compute(executor, run))?;
            Ok(outputs)
        };
        // A job on its own thread has the next batch's records read meanwhile, if that was not done
        // beside the draft; in a simulation nothing happens beside anything.
        match self.env.writing {
            Writing::Beside if is_whole => compute(),
            Writing::Beside => {
                let (sources, share, cx) = (&job.sources, self.share(), self.source_context());
                let coming = self.coming.as_ref();
                let aside = || match coming {
                    Some(coming) => {
                        coming.opened.get_or_init(|| open(sources, cx, &coming.plan));
                    }
                    None if is_drafted => {}
                    None => sources.iter().for_each(|source| source.read_ahead(share)),
                };
                executor.beside(aside, compute)
            }
            Writing::Inline | Writing::Late => compute(),
        }
    }
}
