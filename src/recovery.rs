//! Recovery of a job: orders checkpoint, log and batches (ENGINE.md E2). Touches no bytes of the
//! log; only `wal/recovery` cuts one.
//!
//! RECOVERY-1: every planned batch above the checkpoint is executed as planned, never planned anew.
//! RECOVERY-2: at most the last planned batch is not completed.
//! RECOVERY-3: a job that is not the recorded one is refused before anything is touched.
//! RECOVERY-4: what this process appended before is durable, and seen, before anything is decided.
//! RECOVERY-5: of state that is restored in part, what was not lost is the newest checkpoint's.

mod partial;
mod parts;

use std::collections::VecDeque;
use std::time::Duration;

use self::parts::load_parts;
use crate::checkpoint::{CheckpointStore, Loaded, Pace as CheckpointPace, Turns};
use crate::error::{Error, ErrorKind, Result};
use crate::exec::CancelToken;
use crate::ids::{BatchId, Generation, Lsn};
use crate::planted::{Bug, planted};
use crate::savepoint::Origin;
use crate::sink::{SinkContext, SinkIdentity};
use crate::state::Tracking;
use crate::stream::{
    Batch, BatchCompletion, BatchPlan, BatchPreparation, Board, Boundary, Budget, Coming,
    EngineState, Entry, Env, Hooks, JOURNAL, Job, JobDriver, JobShape, Lineage, Marks,
    OpenedStream, Pace, RunOptions, Saves, SideVersion, add_stream,
};
use crate::sync::{Arc, Mutex};
use crate::wal::Wal;

impl Turns for Wal {
    fn commits(&self) -> u64 {
        self.durable_lsn().get()
    }
}

/// A planned batch, as the log has it.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) plan: BatchPlan,
    pub(crate) lsn: Lsn,
    /// How often its sinks may have been called.
    pub(crate) attempts: u32,
    /// What two-phase sinks hold: the last record counts.
    pub(crate) prepared: Option<BatchPreparation>,
    pub(crate) completion: Option<(BatchCompletion, Lsn)>,
    /// How many processes ended within it before the last one.
    pub(crate) deaths: u32,
    /// The record that says that it is none.
    pub(crate) withdrawn: Option<Lsn>,
}

impl Found {
    fn new(plan: BatchPlan, lsn: Lsn) -> Found {
        let (prepared, completion, withdrawn) = (None, None, None);
        Found { plan, lsn, attempts: 1, prepared, completion, deaths: 0, withdrawn }
    }

    fn is_open(&self) -> bool {
        self.completion.is_none() && self.withdrawn.is_none()
    }
}

/// What checkpoint and log say.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    pub(crate) streams: Vec<OpenedStream>,
    pub(crate) sides: Vec<SideVersion>,
    pub(crate) shape: Option<JobShape>,
    /// The partitions that the checkpoint has, or the first batch.
    parallelism: Option<u32>,
    /// The checkpoint's boundary.
    pub(crate) boundary: Boundary,
    /// Batches above the checkpoint, dense and ascending.
    pub(crate) batches: VecDeque<Found>,
    /// The last record that was looked at, or that the checkpoint makes unnecessary to look at.
    through: Lsn,
}

/// All that a start stands on. Read when the directory is opened; the first start goes on from
/// there, so that nothing is read twice.
#[derive(Debug)]
pub(crate) struct Ground {
    pub(crate) store: CheckpointStore,
    pub(crate) loaded: Option<Loaded>,
    pub(crate) scan: Scan,
    /// What a directory without a job is to begin with.
    pub(crate) savepoint: Option<Loaded>,
}

impl Ground {
    /// Reads the newest whole checkpoint, and what the log says behind it.
    ///
    /// # Errors
    /// `Corrupt` if the two contradict each other, or the log itself; `Unsupported`.
    pub(crate) fn read(wal: &Wal, store: CheckpointStore) -> Result<Ground> {
        let loaded = store.newest_unread()?;
        let mut scan = Scan::new(wal, loaded.as_ref())?;
        scan.read_on(wal)?;
        Ok(Ground { store, loaded, scan, savepoint: None })
    }

    /// A job that never planned a batch has left nothing that another one could contradict.
    pub(crate) fn holds_job(&self) -> bool {
        self.loaded.is_some() || !self.scan.batches.is_empty()
    }
}

impl Scan {
    /// What the newest whole checkpoint says, which must be one of this log.
    fn new(wal: &Wal, checkpoint: Option<&Loaded>) -> Result<Scan> {
        let mut scan = Scan::default();
        match checkpoint {
            Some(loaded) => {
                if loaded.meta.log_id != wal.log_id() {
                    let message = "the checkpoints belong to another log than the one beside them";
                    return Err(Error::new(ErrorKind::Corrupt, message).at_path(wal.path()));
                }
                let state = EngineState::decode(&loaded.meta.engine)?;
                scan.streams = state.streams;
                scan.sides = state.sides;
                scan.parallelism = Some(state.shape.parallelism);
                scan.shape = Some(state.shape);
                scan.boundary = state.boundary;
                scan.check_log_covers(wal, loaded.meta.floor)?;
                // What the engine wrote before is in the checkpoint: streams and the job too.
                scan.through = scan.boundary.completion;
            }
            None if wal.first_lsn() > Lsn::FIRST => {
                let message = "the log was truncated, and no checkpoint has what it held; restore \
                               the checkpoints' directory";
                return Err(Error::new(ErrorKind::Corrupt, message).at_path(wal.path()));
            }
            None => {}
        }
        Ok(scan)
    }

    /// Looks at all records that were not looked at yet.
    ///
    /// # Errors
    /// `Corrupt` if they contradict the checkpoint or each other; the log's.
    fn read_on(&mut self, wal: &Wal) -> Result<()> {
        // Another run of this process may have left its last completion behind, on its way to the
        // disk: a batch that is completed must not be taken for one in flight (RECOVERY-4).
        wal.sync()?;
        let mut replay = wal.replay_all_from(self.through.next())?;
        while let Some(record) = replay.next() {
            let record = record?;
            self.through = record.lsn;
            if record.internal && record.stream == JOURNAL {
                self.add(Entry::decode(record.payload, record.lsn)?, record.lsn)?;
            }
        }
        self.check_order()
    }

    /// A checkpoint is visible only when its batch's completion is durable (E1): a log that ends
    /// before, or begins behind what the checkpoint needs, is not the one that it was taken with.
    fn check_log_covers(&self, wal: &Wal, floor: Lsn) -> Result<()> {
        let (first, completion) = (wal.first_lsn(), self.boundary.completion);
        if first > floor {
            let message = format!(
                "the log was truncated behind what the checkpoint of batch {} needs",
                self.boundary.batch
            );
            let error = Error::new(ErrorKind::Corrupt, message).at_path(wal.path());
            return Err(error.for_lsns(floor, first.previous()));
        }
        if wal.durable_lsn() >= completion {
            return Ok(());
        }
        let message = format!(
            "the checkpoint of batch {} is newer than the log: record {completion} is missing",
            self.boundary.batch
        );
        let error = Error::new(ErrorKind::Corrupt, message).at_path(wal.path());
        Err(error.for_lsns(wal.durable_lsn().next(), completion))
    }

    fn add(&mut self, entry: Entry, lsn: Lsn) -> Result<()> {
        match entry {
            Entry::StreamOpened(new) => {
                let opened = OpenedStream { name: new.name, stream: new.stream, opened: lsn };
                add_stream(&mut self.streams, opened)?;
            }
            Entry::SideInputSet(new) => {
                self.sides.push(SideVersion { name: new.name, version: lsn, bytes: new.bytes });
            }
            Entry::JobStarted(shape) => self.shape = Some(shape),
            Entry::BatchPlanned(plan) if plan.batch > self.boundary.batch => {
                let expected =
                    self.batches.back().map_or(self.boundary.batch, |last| last.plan.batch).next();
                if plan.batch != expected {
                    let text = format!("batch {} is planned where {expected} is due", plan.batch);
                    return Err(disorder(text, lsn));
                }
                self.parallelism.get_or_insert(plan.parallelism);
                self.batches.push_back(Found::new(plan, lsn));
            }
            Entry::BatchAttempted(again) if again.batch > self.boundary.batch => {
                let found = self.find(again.batch, "attempted", lsn)?;
                found.attempts = found.attempts.max(again.attempt);
            }
            Entry::BatchCompleted(done) if done.batch > self.boundary.batch => {
                let found = self.find(done.batch, "completed", lsn)?;
                found.completion = Some((done, lsn));
            }
            Entry::BatchPrepared(held) if held.batch > self.boundary.batch => {
                let found = self.find(held.batch, "prepared", lsn)?;
                found.prepared = Some(held);
            }
            Entry::BatchResumed(end) if end.batch > self.boundary.batch => {
                self.find(end.batch, "resumed", lsn)?.deaths = end.deaths;
            }
            Entry::BatchWithdrawn(end) if end.batch > self.boundary.batch => {
                let found = self.find(end.batch, "withdrawn", lsn)?;
                if found.prepared.is_some() {
                    let text = format!("batch {} is withdrawn, but was prepared", end.batch);
                    return Err(disorder(text, lsn));
                }
                found.withdrawn = Some(lsn);
            }
            // The checkpoint has what came of these.
            Entry::BatchPlanned(_)
            | Entry::BatchAttempted(_)
            | Entry::BatchPrepared(_)
            | Entry::BatchResumed(_)
            | Entry::BatchWithdrawn(_)
            | Entry::BatchCompleted(_) => {}
        }
        Ok(())
    }

    fn find(&mut self, batch: BatchId, what: &str, lsn: Lsn) -> Result<&mut Found> {
        let found = self.batches.iter_mut().find(|found| found.plan.batch == batch);
        let found = found.ok_or_else(|| {
            disorder(format!("batch {batch} is {what}, but was not planned"), lsn)
        })?;
        if found.is_open() {
            return Ok(found);
        }
        let ended = if found.withdrawn.is_some() { "withdrawn" } else { "completed" };
        Err(disorder(format!("batch {batch} is {what}, but was {ended} before"), lsn))
    }

    fn check_order(&self) -> Result<()> {
        let open = self.batches.iter().position(Found::is_open);
        match open {
            Some(at) if at + 1 < self.batches.len() => {
                let found = &self.batches[at];
                let text = format!("batch {} is not completed, but planned over", found.plan.batch);
                Err(disorder(text, found.lsn))
            }
            _ => Ok(()),
        }
    }
}

fn disorder(message: String, lsn: Lsn) -> Error {
    Error::new(ErrorKind::Corrupt, message).for_lsns(lsn, lsn)
}

/// Brings a job to where the log says that it is, and returns its driver.
///
/// # Errors
/// `JobMismatch`, naming what differs, before anything is touched; `SourceChanged`; `Corrupt`.
pub(crate) fn recover(
    env: Env,
    job: Job,
    options: RunOptions,
    hooks: Box<dyn Hooks>,
    ground: Ground,
) -> Result<JobDriver> {
    options.validate()?;
    job.check_required()?;
    for source in &job.sources {
        source.check_log(env.wal.log_id())?;
    }
    check_sides(&env, &job)?;
    let Ground { store, loaded, mut scan, savepoint } = ground;
    scan.read_on(&env.wal)?;
    env.sides.restore(std::mem::take(&mut scan.sides));
    let mut shape = job.shape(Generation::new(1), options.parallelism);
    // A job that never planned a batch has left nothing that another one could contradict.
    let planned = loaded.is_some() || !scan.batches.is_empty();
    let origin = savepoint.map(|loaded| Origin::of(loaded, &shape)).transpose()?;
    if let Some(origin) = &origin {
        shape.parallelism = origin.parallelism;
    }
    match &scan.shape {
        Some(recorded) if planned => {
            shape.check_against(recorded)?;
            shape.generation = recorded.generation;
            shape.parallelism = scan.parallelism.unwrap_or(recorded.parallelism);
        }
        Some(recorded) if *recorded == shape && origin.is_none() => {}
        _ => {
            let entry = Entry::JobStarted(shape.clone());
            let started = env.wal.append_internal(JOURNAL, &[&entry.encode()])?.first();
            if let Some(origin) = &origin {
                scan.boundary = origin.boundary(started);
            }
        }
    }
    let mut driver = at_rest(env, job, options, hooks, shape)?;
    if let Some(origin) = &origin {
        let lost = load_parts(&driver.env, &origin.loaded, &driver.states, |_, _| true)?;
        lost.into_iter().try_for_each(|lost| Err(lost.error))?;
    }
    let mut whole = true;
    if let Some(loaded) = loaded {
        let begun = driver.env.clock.monotonic_ns();
        (scan, whole) = partial::load(&mut driver, &store, loaded, scan)?;
        let took = driver.env.clock.monotonic_ns().saturating_sub(begun);
        driver.budget.loaded(store.newest_bytes(), took);
    }
    // What is replayed from here on is what the next checkpoint has to add.
    driver.states.iter().for_each(|state| state.track(Tracking::Begin));
    let turns = Arc::new(driver.env.wal.clone());
    let pace = CheckpointPace::by(turns, Arc::clone(&driver.env.clock));
    driver.saves.pace_by(pace.clone());
    driver.store = Some(Arc::new(Mutex::new(store.paced(pace))));
    driver.boundary = scan.boundary;
    driver.marks = Marks::restored(driver.boundary.batch);
    open_sinks(&driver, &scan.batches)?;
    let begun = (driver.env.clock.monotonic_ns(), driver.boundary.input_bytes);
    replay_batches(&mut driver, scan.batches)?;
    let took = driver.env.clock.monotonic_ns().saturating_sub(begun.0);
    driver.budget.replayed(driver.boundary.input_bytes - begun.1, took);
    driver.env.sides.settle(driver.unfinished.as_ref().map(|batch| &batch.plan));
    if origin.is_some() {
        driver.found()?;
    }
    driver.resume()?;
    if !whole && driver.lineage.parent.is_none() && driver.flight.is_none() {
        // What was lost is whole again, in memory only: from here on on the disk, too.
        driver.take_checkpoint()?;
    }
    Ok(driver)
}

/// Side inputs come from the log that the job runs in.
fn check_sides(env: &Env, job: &Job) -> Result<()> {
    match job.sides.iter().find(|side| side.log() != env.wal.log_id()) {
        None => Ok(()),
        Some(side) => {
            let text = format!("side input `{}` belongs to another engine", side.name());
            Err(Error::new(ErrorKind::Invalid, text).at_path(env.wal.path()))
        }
    }
}

/// A driver before the first batch, with empty state.
fn at_rest(
    env: Env,
    job: Job,
    options: RunOptions,
    hooks: Box<dyn Hooks>,
    shape: JobShape,
) -> Result<JobDriver> {
    let bind = job.operators.iter().map(|operator| operator.bind(shape.parallelism));
    let states = bind.collect::<Result<Vec<_>>>()?;
    let budget = Budget::new(options.recovery_budget);
    Ok(JobDriver {
        env,
        job,
        shape,
        options,
        hooks,
        store: None,
        flight: None,
        folding: None,
        lineage: Lineage::default(),
        budget,
        checkpointing: Duration::ZERO,
        saves: Saves::default(),
        states,
        boundary: Boundary::default(),
        marks: Marks::default(),
        unfinished: None,
        draft: None,
        coming: None,
        read_in_vain: (0, 0),
        board: Board::default(),
        last_checkpoint_ns: 0,
        available: Lsn::ZERO,
        ending: Arc::default(),
        cancel: CancelToken::default(),
        pace: Pace::new(0, 0),
        planned_here: false,
        draining: false,
        published_last: Vec::new(),
        last_begun_ns: None,
        last_computing_ns: u64::MAX,
    })
}

/// Executes every completed batch of a log again, from batch 1, into sinks that are empty. Writes
/// nothing into the log. Returns how many batches there were.
#[cfg(feature = "testing")]
pub(crate) fn reexecute(env: Env, job: Job) -> Result<u64> {
    for source in &job.sources {
        source.check_log(env.wal.log_id())?;
    }
    if env.wal.first_lsn() > Lsn::FIRST {
        let message = "the log was truncated: it does not hold batch 1 any more";
        return Err(Error::new(ErrorKind::Invalid, message).at_path(env.wal.path()));
    }
    let mut scan = Scan::new(&env.wal, None)?;
    scan.read_on(&env.wal)?;
    env.sides.restore(scan.sides);
    let Some(recorded) = scan.shape else { return Ok(0) };
    let parallelism = scan.parallelism.unwrap_or(recorded.parallelism);
    let shape = job.shape(recorded.generation, parallelism);
    shape.check_against(&recorded)?;
    let hooks = Box::new(crate::stream::NoHooks);
    // One attempt: a further one would write into the log.
    let options = RunOptions { sink_attempts: 1, ..RunOptions::default() };
    let mut driver = at_rest(env, job, options, hooks, shape)?;
    open_sinks(&driver, &VecDeque::new())?;
    let mut batches = 0;
    for found in scan.batches {
        if let Some(lsn) = found.withdrawn {
            driver.pass_withdrawn(&found.plan, lsn);
            continue;
        }
        let Some((done, lsn)) = found.completion else { break };
        driver.bring_to(found.plan.parallelism);
        driver.reexecute(Batch::new(found.plan, found.lsn, 1), &done, lsn)?;
        batches += 1;
    }
    Ok(batches)
}

/// Opens every sink at the progress of the last completed batch: what is behind it is undone.
fn open_sinks(driver: &JobDriver, batches: &VecDeque<Found>) -> Result<()> {
    let completions = batches.iter().rev().filter_map(|found| found.completion.as_ref());
    let last = completions.map(|(done, _)| &done.sinks).next();
    let progress = last.unwrap_or(&driver.boundary.sinks);
    for sink in &driver.job.sinks {
        let identity = SinkIdentity {
            log: driver.env.wal.log_id(),
            job: driver.shape.job.clone(),
            sink: sink.name().to_owned(),
        };
        let recorded = progress.iter().find(|named| named.name == sink.name());
        let epoch = driver.env.wal.position_at(Lsn::ZERO).epoch;
        let cx = SinkContext { storage: &driver.env.storage, epoch };
        sink.open(cx, &identity, recorded.map(|named| named.bytes.as_slice()))?;
    }
    Ok(())
}

/// Completed batches rebuild state; the one that is not is left for the first step to finish.
fn replay_batches(driver: &mut JobDriver, batches: VecDeque<Found>) -> Result<()> {
    let mut batches = batches.into_iter().peekable();
    while let Some(mut found) = batches.next() {
        let next = batches.peek().filter(|next| next.completion.is_some());
        let next = next.map(|next| Coming::new(next.plan.clone()));
        let came = std::mem::replace(&mut driver.coming, next);
        if let Some(lsn) = found.withdrawn {
            driver.pass_withdrawn(&found.plan, lsn);
            continue;
        }
        if planted(Bug::ParallelismUnderPlan) {
            found.plan.parallelism = driver.options.parallelism;
        }
        driver.bring_to(found.plan.parallelism);
        let attempt = if found.completion.is_some() { 1 } else { found.attempts + 1 };
        let mut batch = Batch::new(found.plan, found.lsn, attempt);
        batch.came = came;
        batch.skipped = found.prepared.as_ref().map(|held| held.results.skipped.clone());
        batch.prepared = found.prepared;
        match found.completion {
            Some((done, lsn)) => driver.rebuild(batch, &done, lsn)?,
            None if planted(Bug::ReplanAfterRestart) => {}
            None => driver.take_up(batch, found.deaths)?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::StreamId;
    use crate::stream::{BatchAttempt, BatchEnd, BatchResults, StreamEntry};

    fn plan(batch: u64) -> Entry {
        Entry::BatchPlanned(BatchPlan {
            job: "job".to_owned(),
            batch: BatchId::new(batch),
            generation: Generation::new(1),
            parallelism: 1,
            batch_time_ns: batch,
            ..BatchPlan::default()
        })
    }

    fn done(batch: u64) -> Entry {
        let (job, batch, attempt) = ("job".to_owned(), BatchId::new(batch), 1);
        let (sinks, results) = (Vec::new(), BatchResults::default());
        Entry::BatchCompleted(BatchCompletion { job, batch, attempt, sinks, results })
    }

    fn held(batch: u64) -> Entry {
        let (job, batch, attempt) = ("job".to_owned(), BatchId::new(batch), 1);
        let (tokens, results) = (Vec::new(), BatchResults::default());
        Entry::BatchPrepared(BatchPreparation { job, batch, attempt, tokens, results })
    }

    fn again(batch: u64, attempt: u32) -> Entry {
        let (job, batch) = ("job".to_owned(), BatchId::new(batch));
        Entry::BatchAttempted(BatchAttempt { job, batch, attempt })
    }

    fn end(batch: u64, withdrawn: bool) -> Entry {
        let end = BatchEnd { job: "job".to_owned(), batch: BatchId::new(batch), deaths: 2 };
        if withdrawn { Entry::BatchWithdrawn(end) } else { Entry::BatchResumed(end) }
    }

    fn scan(checkpointed: u64, entries: Vec<Entry>) -> Result<Scan> {
        let mut scan = Scan::default();
        scan.boundary.batch = BatchId::new(checkpointed);
        for (lsn, entry) in (1..).zip(entries) {
            scan.add(entry, Lsn::new(lsn))?;
        }
        scan.check_order()?;
        Ok(scan)
    }

    #[test]
    fn what_the_checkpoint_has_is_left_out_and_the_rest_is_in_order() {
        let log = vec![done(3), plan(4), done(4), plan(5), held(5), done(5), plan(6), again(6, 2)];
        let scan = scan(4, log).unwrap();
        let batches = scan
            .batches
            .iter()
            .map(|found| (found.plan.batch.get(), found.attempts, found.completion.is_some()));
        assert_eq!(batches.collect::<Vec<_>>(), [(5, 1, true), (6, 2, false)]);
    }

    #[test]
    fn a_log_that_contradicts_itself_is_corrupt() {
        let open = |name: &str, number| {
            let (name, stream) = (name.to_owned(), StreamId::new(number));
            Entry::StreamOpened(StreamEntry { name, stream })
        };
        for log in [
            vec![plan(2)],
            vec![plan(1), plan(1)],
            vec![done(1)],
            vec![again(1, 2)],
            vec![plan(1), done(1), done(1)],
            vec![plan(1), plan(2), done(2)],
            vec![held(1)],
            vec![plan(1), done(1), held(1)],
            vec![plan(1), end(1, true), done(1)],
            vec![plan(1), held(1), end(1, true)],
            vec![end(1, false)],
            vec![plan(1), end(1, false), plan(2)],
            vec![open("a", 1), open("b", 1)],
        ] {
            let story = format!("{log:?}");
            assert_eq!(scan(0, log).unwrap_err().kind(), ErrorKind::Corrupt, "{story}");
        }
    }
}
