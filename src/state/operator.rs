//! A named operator's state: its partitions, typed for the operator, type-erased for the engine.

use std::any::Any;
use std::fmt;

use super::changes::Changes;
use super::frozen::Encoding;
use super::overlay::Overlay;
use super::restoring::{Load, Restoring, load};
use super::schema::schema_id;
use super::table::StateTable;
use super::{State, hash_key};
use crate::error::{Error, Result};
use crate::exec::partition_of;
use crate::ids::{BatchId, to_usize};
use crate::sync::{Arc, RwLock};

/// One partition: completed state, and the batch that completed it.
#[derive(Clone)]
struct Partition<S> {
    completed: BatchId,
    table: StateTable<S>,
}

/// An operator's partitions, typed. Shared: a batch and the readers of queryable state read at the
/// same time; a completing batch locks one partition for the time of its merge. It merges in
/// place, and into a copy only while somebody holds a snapshot.
pub struct KeyedState<S> {
    partitions: Vec<RwLock<Arc<Partition<S>>>>,
}

/// The completed state of a partition as it was at a moment.
pub(crate) struct Snapshot<S>(Arc<Partition<S>>);

impl<S> Snapshot<S> {
    pub(crate) fn table(&self) -> &StateTable<S> {
        &self.0.table
    }
}

impl<S> fmt::Debug for KeyedState<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyedState({} partitions)", self.partitions.len())
    }
}

impl<S: State> KeyedState<S> {
    fn new(partitions: u32) -> KeyedState<S> {
        let empty = || Partition { completed: BatchId::default(), table: StateTable::new() };
        let partitions = (0..partitions).map(|_| RwLock::new(Arc::new(empty())));
        KeyedState { partitions: partitions.collect() }
    }

    fn partition(&self, partition: u32) -> &RwLock<Arc<Partition<S>>> {
        &self.partitions[to_usize(u64::from(partition))]
    }

    /// Number of partitions.
    #[must_use]
    pub fn partitions(&self) -> usize {
        self.partitions.len()
    }

    /// Calls `body` with the completed state of a partition and the batch that completed it. No
    /// merge into this partition happens meanwhile, so a task may compute in there; it must not
    /// merge, nor wait for one.
    ///
    /// # Panics
    /// If there is no such partition.
    pub fn read<T>(&self, partition: u32, body: impl FnOnce(BatchId, &StateTable<S>) -> T) -> T {
        let lock = self.partition(partition);
        let guard = lock.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        body(guard.completed, &guard.table)
    }

    /// The partition as it is now, to be looked at without keeping batches from completing. The
    /// next merge copies the partition if this still lives then.
    pub(crate) fn snapshot(&self, partition: u32) -> Snapshot<S> {
        let lock = self.partition(partition);
        Snapshot(Arc::clone(&lock.read().unwrap_or_else(std::sync::PoisonError::into_inner)))
    }

    /// The completed value of a key in its partition, and the batch that completed it.
    ///
    /// # Panics
    /// If there is no such partition.
    #[must_use]
    pub fn get(&self, partition: u32, key: &[u8]) -> (BatchId, Option<S>) {
        let hash = hash_key(key);
        self.read(partition, |completed, table| (completed, table.get(hash, key).cloned()))
    }

    /// Makes a table a partition's completed state.
    pub(crate) fn replace(&self, partition: u32, completed: BatchId, table: StateTable<S>) {
        self.write(partition, |here| *here = Partition { completed, table });
    }

    fn write<T>(&self, partition: u32, body: impl FnOnce(&mut Partition<S>) -> T) -> T {
        let lock = self.partition(partition);
        let mut guard = lock.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        body(Arc::make_mut(&mut guard))
    }
}

/// A step in the life of what a partition knows about its changes (STATE-6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tracking {
    /// What is there now is in a checkpoint, or nothing is: from here on changes are known.
    Begin,
    /// A checkpoint takes what has changed.
    Cut,
    /// That checkpoint stands.
    Settle,
    /// It failed: the next one has to hold what it took.
    Revert,
}

/// State whose type the engine does not know, and the same with its type.
type Both = (Arc<dyn Erased>, Arc<dyn Any + Send + Sync>);

/// What the engine does with state whose type it does not know.
trait Erased: fmt::Debug + Send + Sync {
    fn partitions(&self) -> usize;
    fn encode(&self, partition: u32) -> Result<Vec<u8>>;
    fn encode_some(&self, partition: u32, encoding: &mut Encoding, rows: usize) -> Result<bool>;
    fn loading(&self, partition: u32, length: usize) -> Box<dyn Load + '_>;
    fn touched(&self, partition: u32) -> usize;
    fn track(&self, partition: u32, step: Tracking);
    fn merge(&self, partition: u32, completed: BatchId, overlay: Box<dyn Any + Send>);
    fn complete(&self, partition: u32, completed: BatchId);
    fn completed(&self, partition: u32) -> BatchId;
    fn len(&self, partition: u32) -> usize;
    fn clear(&self, partition: u32);
    fn in_partitions(&self, partitions: u32) -> Both;
}

impl<S: State> Erased for KeyedState<S> {
    fn partitions(&self) -> usize {
        self.partitions.len()
    }

    fn encode(&self, partition: u32) -> Result<Vec<u8>> {
        self.read(partition, |_, table| {
            let mut bytes = Vec::with_capacity(table.encoded_hint());
            table.encode(&mut bytes)?;
            Ok(bytes)
        })
    }

    fn encode_some(&self, partition: u32, encoding: &mut Encoding, rows: usize) -> Result<bool> {
        self.read(partition, |_, table| table.encode_some(encoding, rows))
    }

    fn loading(&self, partition: u32, length: usize) -> Box<dyn Load + '_> {
        load(self, partition, length)
    }

    fn touched(&self, partition: u32) -> usize {
        self.read(partition, |_, table| {
            table.touched().map_or(table.len(), |touched| touched.keys(table.rows()))
        })
    }

    fn track(&self, partition: u32, step: Tracking) {
        self.write(partition, |here| here.table.track(step));
    }

    fn merge(&self, partition: u32, completed: BatchId, overlay: Box<dyn Any + Send>) {
        let overlay = match overlay.downcast::<Changes<S>>() {
            Ok(changes) => {
                return self.write(partition, |here| {
                    changes.merge_into(&mut here.table);
                    here.completed = completed;
                });
            }
            Err(other) => other.downcast::<Overlay<S>>(),
        };
        assert!(overlay.is_ok(), "STATE-3: an overlay is of its operator's type");
        if let Ok(overlay) = overlay {
            self.write(partition, |here| {
                here.table.merge(*overlay);
                here.completed = completed;
            });
        }
    }

    fn complete(&self, partition: u32, completed: BatchId) {
        self.write(partition, |here| here.completed = completed);
    }

    fn completed(&self, partition: u32) -> BatchId {
        self.read(partition, |completed, _| completed)
    }

    fn len(&self, partition: u32) -> usize {
        self.read(partition, |_, table| table.len())
    }

    fn clear(&self, partition: u32) {
        let empty = Partition { completed: BatchId::default(), table: StateTable::new() };
        self.write(partition, |here| *here = empty);
    }

    fn in_partitions(&self, partitions: u32) -> Both {
        let other = KeyedState::<S>::new(partitions);
        for from in (0_u32..).take(self.partitions()) {
            self.read(from, |completed, table| {
                for (key, value) in table.iter() {
                    let hash = hash_key(key);
                    other.write(partition_of(hash, partitions), |to| {
                        to.table.insert(hash, key, value.clone());
                    });
                }
                for to in 0..partitions {
                    other.write(to, |to| to.completed = to.completed.max(completed));
                }
            });
        }
        let typed = Arc::new(other);
        (Arc::clone(&typed) as Arc<dyn Erased>, typed)
    }
}

/// The state of one named operator, its type erased.
///
/// STATE-3: an overlay, and bytes, are of the operator's own type: the first is asserted, the
/// second the engine ensures by comparing [`OperatorState::schema`].
/// STATE-4: batches complete in order: a partition's batch never falls, except by restoring.
#[derive(Clone, Debug)]
pub struct OperatorState {
    name: Arc<str>,
    schema: u64,
    erased: Arc<dyn Erased>,
    typed: Arc<dyn Any + Send + Sync>,
}

impl OperatorState {
    /// Empty state of so many partitions.
    #[must_use]
    pub fn new<S: State>(name: &str, partitions: u32) -> OperatorState {
        let state = Arc::new(KeyedState::<S>::new(partitions));
        let erased: Arc<dyn Erased> = Arc::clone(&state) as Arc<dyn Erased>;
        OperatorState { name: Arc::from(name), schema: schema_id::<S>(), erased, typed: state }
    }

    /// The operator's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The schema id of its values.
    #[must_use]
    pub fn schema(&self) -> u64 {
        self.schema
    }

    /// Number of partitions.
    #[must_use]
    pub fn partitions(&self) -> usize {
        self.erased.partitions()
    }

    /// The same state, typed; `None` if its values are not of type `S`.
    #[must_use]
    pub fn typed<S: State>(&self) -> Option<Arc<KeyedState<S>>> {
        Arc::clone(&self.typed).downcast().ok()
    }

    /// The same state in another number of partitions, of which nothing is known to have changed
    /// or not. Within a partition keys stand by their place before: that decides no result.
    pub(crate) fn in_partitions(&self, partitions: u32) -> OperatorState {
        let (erased, typed) = self.erased.in_partitions(partitions);
        OperatorState { name: Arc::clone(&self.name), schema: self.schema, erased, typed }
    }

    /// Number of keys of a partition.
    ///
    /// # Panics
    /// If there is no such partition.
    #[must_use]
    pub fn len(&self, partition: u32) -> usize {
        self.erased.len(partition)
    }

    /// Whether no partition has a key.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        (0_u32..).take(self.partitions()).all(|partition| self.len(partition) == 0)
    }

    /// The batch that completed a partition last.
    ///
    /// # Panics
    /// If there is no such partition.
    #[must_use]
    pub fn completed(&self, partition: u32) -> BatchId {
        self.erased.completed(partition)
    }

    /// The bytes of a partition's completed state, for an extent of a checkpoint.
    ///
    /// # Errors
    /// `Invalid` if a value's `Serialize` refuses; the operator is named.
    ///
    /// # Panics
    /// If there is no such partition.
    pub fn encode_partition(&self, partition: u32) -> Result<Vec<u8>> {
        self.erased.encode(partition).map_err(|error| self.name_in(partition, &error))
    }

    /// Encodes at most so many more rows of a partition as it was at the last cut, while batches
    /// complete: one that changes it waits for no more of them. Returns whether there is more.
    pub(crate) fn encode_some(
        &self,
        partition: u32,
        encoding: &mut Encoding,
        rows: usize,
    ) -> Result<bool> {
        let more = self.erased.encode_some(partition, encoding, rows);
        more.map_err(|error| self.name_in(partition, &error))
    }

    /// About how many keys of a partition have changed since the last cut: not less.
    pub(crate) fn touched(&self, partition: u32) -> usize {
        self.erased.touched(partition)
    }

    /// Takes a step with every partition.
    pub(crate) fn track(&self, step: Tracking) {
        let partitions = (0_u32..).take(self.partitions());
        partitions.for_each(|partition| self.erased.track(partition, step));
    }

    /// Replaces a partition's state by what these bytes say; `completed` is their batch. On an
    /// error the partition is as it was.
    ///
    /// # Errors
    /// `Corrupt` if the bytes are not such state.
    ///
    /// # Panics
    /// If there is no such partition.
    pub fn decode_partition(&self, partition: u32, completed: BatchId, bytes: &[u8]) -> Result<()> {
        let mut restoring = self.restoring(partition, bytes.len());
        restoring.base(bytes)?;
        restoring.install(completed)
    }

    /// A partition that comes in pieces, its base having so many bytes.
    pub(crate) fn restoring(&self, partition: u32, base: usize) -> Restoring<'_> {
        Restoring::new(self, partition, self.erased.loading(partition, base))
    }

    /// Makes a completed batch's changes: `overlay` is an [`Overlay`] of the operator's type.
    ///
    /// # Panics
    /// If there is no such partition, if the overlay is of another type (STATE-3), or if a later
    /// batch has completed the partition (STATE-4).
    pub fn merge(&self, partition: u32, batch: BatchId, overlay: Box<dyn Any + Send>) {
        assert!(self.completed(partition) <= batch, "STATE-4: batches complete in order");
        self.erased.merge(partition, batch, overlay);
    }

    /// Labels every partition with a batch whose changes are all merged.
    ///
    /// # Panics
    /// If a later batch has completed a partition (STATE-4).
    pub fn complete(&self, batch: BatchId) {
        for partition in (0_u32..).take(self.partitions()) {
            assert!(self.completed(partition) <= batch, "STATE-4: batches complete in order");
            self.erased.complete(partition, batch);
        }
    }

    /// Labels one partition, whose changes are all merged.
    ///
    /// # Panics
    /// As [`complete`](OperatorState::complete).
    pub(crate) fn label(&self, partition: u32, batch: BatchId) {
        assert!(self.completed(partition) <= batch, "STATE-4: batches complete in order");
        self.erased.complete(partition, batch);
    }

    /// Empties a partition, as if it was new.
    ///
    /// # Panics
    /// If there is no such partition.
    pub fn clear(&self, partition: u32) {
        self.erased.clear(partition);
    }

    pub(super) fn name_in(&self, partition: u32, error: &Error) -> Error {
        let message = format!("state of operator {}, partition {partition}", self.name);
        Error::new(error.kind(), message).caused_by(error.clone())
    }
}
