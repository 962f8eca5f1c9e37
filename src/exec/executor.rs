//! Runs lineages on a private thread pool, stage by stage.
//!
//! - EXEC-1: a result depends on the lineage, its inputs and the parallelism, never on the number
//!   of threads or the schedule: tasks share nothing, and their results are taken in partition
//!   order (ENGINE.md E6, E7).
//! - EXEC-2: what a task computes becomes visible when it has succeeded, as a whole. A failed
//!   attempt leaves nothing behind.
//! - EXEC-3: nothing holds a lock across a call into the pool.

use std::any::Any;
use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};

use rayon::prelude::*;

use super::accumulator::{Tally, tallied};
use super::node::{Held, Node, OperatorId, Role};
use super::plan::{Plan, Stage, Work};
use super::run::{RunContext, TaskKind, TaskOutcome, TaskRecord};
use super::store::Slot;
use super::suspect::{Fault, InputRow, on_its_way};
use super::task::{Attempt, Task};
use crate::error::{Error, ErrorKind, Result};
use crate::sync::Arc;

/// Attempts at a task before its failure is the run's, unless chosen otherwise.
const MAX_ATTEMPTS: u32 = 4;
/// How often a run plans anew because something was lost that it had just computed.
const MAX_LOSSES: u32 = 64;
/// Enough for the longest fused chain in a debug build; only what is touched is ever backed.
const STACK_BYTES: usize = 16 << 20;

/// A private thread pool that runs datasets.
///
/// Results are the same bytes for any number of threads. `parallelism` is the number of partitions
/// of every shuffle: it decides where keys go, and is recorded with a job.
///
/// User code fails by `Err` (the `try_` operators) or by a panic, which is caught. A failed task is
/// attempted again, up to [`Executor::with_max_attempts`] times (default 4), then the run fails
/// with [`ErrorKind::TaskFailed`], which names operator and partition. A closure must not leave
/// shared data of its own half-changed when it panics. Aborts, stack overflow and lack of memory
/// cannot be caught (ENGINE.md E11).
///
/// ```
/// use sawmill::{Dataset, Executor};
/// let executor = Executor::new(2, 4)?;
/// let words = Dataset::from_vec(vec!["oak", "ash", "oak"], 2);
/// let counts = words.map_to_pair(|word| (word.to_owned(), 1u32)).reduce_by_key(|a, b| a + b);
/// let mut counts = counts.collect(&executor)?;
/// counts.sort();
/// assert_eq!(counts, [("ash".to_owned(), 1), ("oak".to_owned(), 2)]);
/// # Ok::<(), sawmill::Error>(())
/// ```
pub struct Executor {
    pool: rayon::ThreadPool,
    parallelism: u32,
    max_attempts: u32,
}

impl fmt::Debug for Executor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Executor")
            .field("threads", &self.threads())
            .field("parallelism", &self.parallelism)
            .field("max_attempts", &self.max_attempts)
            .finish()
    }
}

/// How the attempts at one task ended.
enum Outcome<T> {
    Done(T, Tally),
    Lost,
    Failed(Error),
}

impl Executor {
    /// A pool of `threads` threads (0: one for each core), with `parallelism` partitions (at
    /// least 1) in every shuffle.
    ///
    /// # Errors
    /// `Io` if the operating system gives no threads.
    pub fn new(threads: usize, parallelism: u32) -> Result<Executor> {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .stack_size(STACK_BYTES)
            .thread_name(|index| format!("sawmill-exec-{index}"))
            .build()
            .map_err(|error| {
                Error::new(ErrorKind::Io, "the executor's threads could not be started")
                    .caused_by(error)
            })?;
        Ok(Executor { pool, parallelism: parallelism.max(1), max_attempts: MAX_ATTEMPTS })
    }

    /// Sets how often a task is attempted, 1 to 100.
    #[must_use]
    pub fn with_max_attempts(mut self, attempts: u32) -> Executor {
        self.max_attempts = attempts.clamp(1, 100);
        self
    }

    /// Number of threads.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.pool.current_num_threads()
    }

    /// Number of partitions of every shuffle.
    #[must_use]
    pub fn parallelism(&self) -> u32 {
        self.parallelism
    }

    pub(super) fn pool(&self) -> &rayon::ThreadPool {
        &self.pool
    }

    /// A new run with this parallelism.
    #[must_use]
    pub fn context(&self) -> RunContext {
        RunContext::new(self.parallelism)
    }

    /// Calls `each` for every number below `count`, in parallel; the results stand in order.
    pub(crate) fn for_each_number<T: Send>(
        &self,
        count: usize,
        each: impl Fn(usize) -> T + Send + Sync,
    ) -> Vec<T> {
        if count == 0 {
            return Vec::new(); // a thread of the pool would be woken for nothing
        }
        self.pool.install(|| (0..count).into_par_iter().with_max_len(1).map(each).collect())
    }

    /// Has a thread of the pool do this when it has nothing else to do. It must not panic.
    pub(crate) fn when_idle(&self, job: impl FnOnce() + Send + 'static) {
        self.pool.spawn(job);
    }

    /// Does `aside` beside `body`, both on the pool's threads, and returns when both are done. What
    /// `body` runs on this executor begins and ends there without waking anybody: a caller that
    /// stays outside is put to sleep and woken for each stage.
    pub(crate) fn beside<T: Send>(
        &self,
        aside: impl FnOnce() + Send,
        body: impl FnOnce() -> T + Send,
    ) -> T {
        self.pool.scope(|scope| {
            scope.spawn(|_| aside());
            body()
        })
    }

    /// Computes `target` and calls `action` for each of its partitions, in parallel; the results
    /// stand in partition order. What is missing of held partitions is computed first.
    pub(crate) fn run<T: Send>(
        &self,
        run: &RunContext,
        target: &Arc<dyn Node>,
        action: &(dyn Fn(&Task<'_>) -> Result<T> + Sync),
    ) -> Result<Vec<T>> {
        self.run_some(run, target, 0..u32::MAX, action)
    }

    /// As [`Executor::run`], for those of the target's partitions that are in `some`.
    pub(crate) fn run_some<T: Send>(
        &self,
        run: &RunContext,
        target: &Arc<dyn Node>,
        some: Range<u32>,
        action: &(dyn Fn(&Task<'_>) -> Result<T> + Sync),
    ) -> Result<Vec<T>> {
        let plan = Plan::new(target, run)?;
        let partitions = plan.target_partitions();
        let mut results: Vec<Option<T>> = (0..partitions).map(|_| None).collect();
        let mut wanted: BTreeSet<u32> = (some.start..some.end.min(partitions)).collect();
        for _ in 0..MAX_LOSSES {
            self.prepare(run, &plan, &wanted)?;
            let work: Vec<Work> =
                wanted.iter().map(|&partition| Work { partition, wanted: Vec::new() }).collect();
            let node = (plan.len() - 1, target);
            let act = |task: &Task<'_>, _: &Work| action(task);
            let outcomes = self.stage(run, &plan, node, TaskKind::Action, &act, &work)?;
            for (work, result) in work.iter().zip(outcomes) {
                if let Some(result) = result {
                    results[work.partition as usize] = Some(result);
                    wanted.remove(&work.partition);
                }
            }
            release(run, &plan, &wanted);
            if wanted.is_empty() {
                return Ok(results.into_iter().flatten().collect());
            }
        }
        Err(lost_again(&plan.label(target.meta().id)))
    }

    /// Computes and holds all partitions of `target`, a node that is held, and takes none of them:
    /// they are then in the run's store.
    pub(crate) fn hold(&self, run: &RunContext, target: &Arc<dyn Node>) -> Result<()> {
        let plan = Plan::new(target, run)?;
        let all: BTreeSet<u32> = (0..plan.target_partitions()).collect();
        self.prepare(run, &plan, &all)
    }

    /// As [`hold`](Executor::hold), of some partitions alone, and of what they need.
    pub(crate) fn hold_some(
        &self,
        run: &RunContext,
        target: &Arc<dyn Node>,
        wanted: &BTreeSet<u32>,
    ) -> Result<()> {
        self.prepare(run, &Plan::new(target, run)?, wanted)
    }

    /// Computes what is held and missing, stage by stage, until the action can run. When something
    /// is found lost on the way, the rest is planned anew.
    fn prepare(&self, run: &RunContext, plan: &Plan, wanted: &BTreeSet<u32>) -> Result<()> {
        for _ in 0..MAX_LOSSES {
            let stages = plan.stages(run.store(), wanted);
            if stages.is_empty() {
                return Ok(());
            }
            for stage in &stages {
                let lost = self.fill(run, plan, stage)?;
                release(run, plan, wanted);
                if lost {
                    break;
                }
            }
        }
        Err(lost_again(&plan.label(plan.target())))
    }

    /// Computes what one stage holds. Returns whether something was lost meanwhile.
    pub(super) fn fill(&self, run: &RunContext, plan: &Plan, stage: &Stage<'_>) -> Result<bool> {
        let Stage { index, node, work } = stage;
        let id = node.meta().id;
        let place = (*index, *node);
        let results = match node.role() {
            Role::Held(hold) => {
                let compute = |task: &Task<'_>, _: &Work| Ok(vec![hold.hold(task)?]);
                self.stage(run, plan, place, TaskKind::Hold, &compute, work)?
            }
            Role::Shuffle(shuffle) => {
                let compute = |task: &Task<'_>, work: &Work| shuffle.buckets(task, &work.wanted);
                self.stage(run, plan, place, TaskKind::Map, &compute, work)?
            }
            Role::Fused => unreachable!("PLAN-2: only what is held has work"),
        };
        let mut lost = false;
        for (work, held) in work.iter().zip(results) {
            match held {
                Some(held) => keep(run, id, work, held),
                None => lost = true,
            }
        }
        for (operator, what) in run.drills().losses_after(id) {
            run.drop_partition(operator, what);
            lost = true;
        }
        Ok(lost)
    }

    /// Runs the tasks of one stage; `None` where something needed had been lost. The failure
    /// reported is the one of the lowest partition, whichever happened first.
    fn stage<T: Send>(
        &self,
        run: &RunContext,
        plan: &Plan,
        (index, node): (usize, &Arc<dyn Node>),
        kind: TaskKind,
        compute: &(dyn Fn(&Task<'_>, &Work) -> Result<T> + Sync),
        work: &[Work],
    ) -> Result<Vec<Option<T>>> {
        let operator = node.meta().id;
        let ended: Vec<(Outcome<T>, Vec<TaskOutcome>)> = self.pool.install(|| {
            work.par_iter()
                .with_max_len(1)
                .map(|work| {
                    self.attempts(
                        run,
                        plan,
                        operator,
                        kind,
                        &|task| compute(task, work),
                        work.partition,
                    )
                })
                .collect()
        });
        let mut results = Vec::with_capacity(work.len());
        let mut failure = None;
        for (work, (outcome, attempts)) in work.iter().zip(ended) {
            run.log((1..).zip(attempts).map(|(attempt, outcome)| TaskRecord {
                operator,
                name: plan.name(index).to_owned(),
                partition: work.partition,
                attempt,
                kind,
                outcome,
            }));
            results.push(match outcome {
                Outcome::Done(result, tally) => {
                    run.accumulate(tally);
                    Some(result)
                }
                Outcome::Lost => None,
                Outcome::Failed(error) => {
                    failure.get_or_insert(error);
                    None
                }
            });
        }
        failure.map_or(Ok(results), Err)
    }

    /// Attempts one task until it succeeds, something it needs is found lost, or it may not be
    /// attempted again.
    fn attempts<T>(
        &self,
        run: &RunContext,
        plan: &Plan,
        operator: OperatorId,
        kind: TaskKind,
        compute: &dyn Fn(&Task<'_>) -> Result<T>,
        partition: u32,
    ) -> (Outcome<T>, Vec<TaskOutcome>) {
        let mut log = Vec::with_capacity(1);
        let mut failure = Error::new(ErrorKind::TaskFailed, "no attempt was made");
        let mut fault = None;
        // A thread of the pool may take up this task in the middle of another one.
        let _outer = OnItsWay(on_its_way(None));
        for number in 1..=self.max_attempts {
            if run.is_cancelled() {
                let error = Error::new(ErrorKind::Closed, "the run was cancelled");
                return (Outcome::Failed(error), log);
            }
            let attempt = Attempt::new(run, plan);
            let task = Task::new(&attempt, partition);
            let (result, tally) = tallied(|| {
                catch_unwind(AssertUnwindSafe(|| {
                    let result = compute(&task)?;
                    run.drills().strike(operator, kind, partition, number);
                    Ok::<T, Error>(result)
                }))
            });
            if let Ok(Ok(result)) = result {
                log.push(TaskOutcome::Done);
                attempt.keep_offers();
                return (Outcome::Done(result, tally), log);
            }
            if attempt.lost() {
                log.push(TaskOutcome::InputLost);
                return (Outcome::Lost, log);
            }
            log.push(TaskOutcome::Failed);
            let row = attempt.row();
            on_its_way(None);
            let text = match result {
                // What is wrong with a source or a definition is not user code failing: it keeps
                // its kind, and only what may pass is attempted again.
                Ok(Err(error)) if error.kind() != ErrorKind::TaskFailed => {
                    let passes = error.kind() == ErrorKind::Io;
                    (failure, fault) = (error, None);
                    if passes {
                        continue;
                    }
                    break;
                }
                Ok(Err(error)) => error.to_string(),
                Err(panic) => format!("panicked: {}", panic_text(&*panic)),
                Ok(Ok(_)) => unreachable!("returned above"),
            };
            let blamed = plan.label(attempt.blamed().unwrap_or(operator));
            failure = Error::new(
                ErrorKind::TaskFailed,
                format!("{blamed} failed on partition {partition}, attempt {number}: {text}"),
            );
            fault = Some(Fault { operator: blamed, error: text, row });
        }
        run.fault(fault);
        (Outcome::Failed(failure), log)
    }
}

/// Puts back what was on its way before.
struct OnItsWay(Option<InputRow>);

impl Drop for OnItsWay {
    fn drop(&mut self) {
        on_its_way(self.0);
    }
}

/// Under a budget: lets buckets go that nobody is going to read for these partitions.
fn release(run: &RunContext, plan: &Plan, wanted: &BTreeSet<u32>) {
    let store = run.store();
    if store.budget().is_some() {
        store.release(&plan.still_read(store, wanted));
    }
}

/// EXEC-2: the partition or buckets of a task that succeeded become visible.
fn keep(run: &RunContext, operator: OperatorId, work: &Work, held: Vec<Held>) {
    if work.wanted.is_empty() {
        assert_eq!(held.len(), 1, "EXEC-2: a task holds one partition");
    } else {
        assert_eq!(held.len(), work.wanted.len(), "EXEC-2: a map task holds what was wanted");
    }
    for (at, held) in held.into_iter().enumerate() {
        let slot = match work.wanted.get(at) {
            Some(&reduce) => Slot::Bucket { map: work.partition, reduce },
            None => Slot::Partition(work.partition),
        };
        run.store().put(operator, slot, held);
    }
}

fn lost_again(label: &str) -> Error {
    Error::new(
        ErrorKind::TaskFailed,
        format!("partitions of {label} were lost again {MAX_LOSSES} times while it ran"),
    )
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("with something that is not text")
}
