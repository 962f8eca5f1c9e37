//! One run of a lineage: what comes in from outside, what is held, what was done.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;

use super::accumulator::{Accumulator, Sums, Tally};
use super::broadcast::CancelToken;
use super::drill::Drills;
use super::node::OperatorId;
use super::store::{Slot, Store};
use super::suspect::Fault;
use crate::ids::BatchId;
use crate::sync::{Arc, Mutex, lock};

/// What of an operator's held partitions is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    /// A partition; of a shuffle, every bucket of one map task.
    Partition(u32),
    /// One bucket: what map task `map` holds for reduce partition `reduce`.
    Bucket {
        /// The map task: a partition of the shuffle's parent.
        map: u32,
        /// The reduce partition.
        reduce: u32,
    },
    /// All that the operator holds.
    All,
}

impl Lost {
    pub(crate) fn covers(self, slot: Slot) -> bool {
        match (self, slot) {
            (Lost::All, _) => true,
            (Lost::Partition(lost), Slot::Partition(partition)) => lost == partition,
            (Lost::Partition(lost), Slot::Bucket { map, .. }) => lost == map,
            (Lost::Bucket { map, reduce }, slot) => slot == Slot::Bucket { map, reduce },
        }
    }
}

/// What a task was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TaskKind {
    /// Filled buckets of a shuffle from one partition.
    Map,
    /// Computed a partition that is held.
    Hold,
    /// Computed a partition for the action that asked.
    Action,
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TaskOutcome {
    /// It succeeded.
    Done,
    /// It failed, by an error or a panic.
    Failed,
    /// What it needed had been lost: it is computed again, then this task.
    InputLost,
}

/// One attempt at one task, as the run's log has it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TaskRecord {
    /// The operator computed; the last one of its fused chain.
    pub operator: OperatorId,
    /// Its name.
    pub name: String,
    /// The partition.
    pub partition: u32,
    /// The attempt, from 1.
    pub attempt: u32,
    /// What it was for.
    pub kind: TaskKind,
    /// How it ended.
    pub outcome: TaskOutcome,
}

/// One run of a lineage: for a stream, one batch; for batch work, one use of a dataset.
///
/// Sources read their planned input from it, held partitions live in it and go with it. The same
/// dataset may be run any number of times, each time with a new `RunContext`.
///
/// ```
/// use sawmill::{Dataset, Executor};
/// let executor = Executor::new(2, 4)?;
/// let numbers = Dataset::from_vec((1..=10).collect(), 3);
/// let run = executor.context();
/// assert_eq!(executor.count(&run, &numbers)?, 10);
/// assert_eq!(run.tasks().len(), 3);
/// # Ok::<(), sawmill::Error>(())
/// ```
pub struct RunContext {
    parallelism: u32,
    batch: Option<BatchId>,
    batch_time_ns: Option<u64>,
    inputs: BTreeMap<String, Arc<dyn Any + Send + Sync>>,
    store: Store,
    tasks: Mutex<Vec<TaskRecord>>,
    sums: Mutex<Sums>,
    faults: Mutex<Vec<Fault>>,
    cancel: CancelToken,
    drills: Drills,
}

impl fmt::Debug for RunContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunContext")
            .field("parallelism", &self.parallelism)
            .field("batch", &self.batch)
            .field("inputs", &self.inputs.keys())
            .finish_non_exhaustive()
    }
}

impl RunContext {
    /// A run whose shuffles have `parallelism` partitions (at least 1). That number, never the
    /// number of threads, decides where keys go: a planned batch is run with the one its plan
    /// names (ENGINE.md E4).
    #[must_use]
    pub fn new(parallelism: u32) -> RunContext {
        RunContext {
            parallelism: parallelism.max(1),
            batch: None,
            batch_time_ns: None,
            inputs: BTreeMap::new(),
            store: Store::default(),
            tasks: Mutex::default(),
            sums: Mutex::default(),
            faults: Mutex::default(),
            cancel: CancelToken::default(),
            drills: Drills::default(),
        }
    }

    /// Makes this the run of a batch: its number, and its time in nanoseconds since the epoch.
    #[must_use]
    pub fn with_batch(mut self, batch: BatchId, batch_time_ns: u64) -> RunContext {
        self.batch = Some(batch);
        self.batch_time_ns = Some(batch_time_ns);
        self
    }

    /// Limits what this run keeps to so many bytes: persisted partitions (encoded) and the buckets
    /// of shuffles whose consumers are done with them. What was used longest ago goes first and is
    /// computed again when it is asked for, as is a partition that never fitted. Without a limit
    /// everything stays until the run ends.
    ///
    /// What has to be there, for the stage that runs and those behind it, stays whatever the limit,
    /// but takes from what others may keep: buckets that are still to be read, the tables of keyed
    /// operators, sorted runs, and persisted datasets that end a chain of more than 1,024 operators
    /// (without them it could not be run). Of rows that own memory themselves only the rows count.
    ///
    /// ```
    /// use sawmill::{Dataset, Executor, StorageLevel};
    /// let squares = Dataset::from_vec((0..1000u64).collect(), 10).map(|n| n * n);
    /// let squares = squares.persist(StorageLevel::Memory);
    /// let executor = Executor::new(2, 4)?;
    /// let run = executor.context().with_memory(1500);
    /// let sum = |a: u64, b: u64| a + b;
    /// let first = executor.reduce(&run, &squares, sum)?;
    /// assert_eq!(executor.reduce(&run, &squares, sum)?, first);
    /// assert!(run.persisted_bytes() > 0 && run.persisted_bytes() <= 1500);
    /// # Ok::<(), sawmill::Error>(())
    /// ```
    #[must_use]
    pub fn with_memory(mut self, bytes: usize) -> RunContext {
        self.store = Store::with_budget(bytes);
        self
    }

    /// Bytes of persisted partitions that are kept under the limit of [`RunContext::with_memory`].
    #[must_use]
    pub fn persisted_bytes(&self) -> usize {
        self.store.usage().persisted
    }

    /// Bytes of everything that this run holds at the moment.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        let usage = self.store.usage();
        usage.needed + usage.spare
    }

    /// How many persisted partitions had to go for others.
    #[must_use]
    pub fn evictions(&self) -> u64 {
        self.store.usage().evicted
    }

    /// Makes the run end when the token is cancelled.
    #[must_use]
    pub fn with_cancel(mut self, token: &CancelToken) -> RunContext {
        self.cancel = token.clone();
        self
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.cancel.is_cancelled()
    }

    /// Gives the source of this name its planned input.
    #[must_use]
    pub fn with_input<T: Any + Send + Sync>(mut self, name: &str, input: Arc<T>) -> RunContext {
        self.inputs.insert(name.to_owned(), input);
        self
    }

    /// Number of partitions of every shuffle.
    #[must_use]
    pub fn parallelism(&self) -> u32 {
        self.parallelism
    }

    /// The batch, if this is the run of one.
    #[must_use]
    pub fn batch(&self) -> Option<BatchId> {
        self.batch
    }

    /// The batch's time in nanoseconds since the epoch: the only time user code may use.
    #[must_use]
    pub fn batch_time_ns(&self) -> Option<u64> {
        self.batch_time_ns
    }

    /// The planned input of the source of this name, if it has one of this type.
    #[must_use]
    pub fn input<T: Any + Send + Sync>(&self, name: &str) -> Option<Arc<T>> {
        Arc::clone(self.inputs.get(name)?).downcast().ok()
    }

    /// Loses held partitions or buckets on purpose, for tests and drills: what is needed again is
    /// computed again, and nothing else. Returns how many were held.
    pub fn drop_partition(&self, operator: OperatorId, lost: Lost) -> usize {
        self.store.remove(operator, lost)
    }

    /// Every attempt at every task so far: by stage, then partition, then attempt.
    #[must_use]
    pub fn tasks(&self) -> Vec<TaskRecord> {
        lock(&self.tasks).clone()
    }

    /// What the closures of this run have added to an accumulator, each partition of each operator
    /// counted once.
    #[must_use]
    pub fn accumulated(&self, accumulator: &Accumulator) -> i64 {
        lock(&self.sums).get(accumulator.name().get())
    }

    /// All sums of this run, by name.
    pub(crate) fn sums(&self) -> Vec<(String, i64)> {
        lock(&self.sums).all()
    }

    pub(crate) fn accumulate(&self, tally: Tally) {
        if !tally.is_empty() {
            lock(&self.sums).take(tally);
        }
    }

    /// Notes that user code failed for good.
    pub(crate) fn fault(&self, fault: Option<Fault>) {
        lock(&self.faults).extend(fault);
    }

    /// Where user code failed for good, by the row that was on its way.
    pub(crate) fn faults(&self) -> Vec<Fault> {
        let mut faults = lock(&self.faults).clone();
        faults.sort_by_key(|fault| fault.row);
        faults
    }

    /// Faults to be struck in this run.
    #[must_use]
    pub fn drills(&self) -> &Drills {
        &self.drills
    }

    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    pub(crate) fn log(&self, tasks: impl IntoIterator<Item = TaskRecord>) {
        lock(&self.tasks).extend(tasks);
    }

    /// A held partition, after a run that asked for it: what stateful operators left.
    pub(crate) fn held<T: Any + Send + Sync>(
        &self,
        operator: OperatorId,
        partition: u32,
    ) -> Option<Arc<T>> {
        self.store.get(operator, Slot::Partition(partition))?.value.downcast().ok()
    }

    /// A held bucket.
    pub(crate) fn bucket<T: Any + Send + Sync>(
        &self,
        operator: OperatorId,
        map: u32,
        reduce: u32,
    ) -> Option<Arc<T>> {
        self.store.get(operator, Slot::Bucket { map, reduce })?.value.downcast().ok()
    }
}
