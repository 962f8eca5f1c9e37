//! Rows kept in memory, for tests.

use std::collections::BTreeMap;
use std::fmt;

use super::custom::{BatchSink, Opening, SinkError};
use super::for_each::BatchOutput;
use super::promise::Promise;
use crate::exec::Row;
use crate::ids::BatchId;
use crate::sync::{Arc, Mutex, lock};

/// The rows that a stream has given in this process, as of its last published batch. Cheap to
/// clone. For tests: nothing is kept over a restart, and nothing is ever given up.
///
/// ```
/// use sawmill::{Engine, EngineOptions, Job, Received, RunOptions, Trigger, name};
/// # let place = tempfile::tempdir()?;
/// let engine = Engine::open(place.path(), EngineOptions::default())?;
/// let events = engine.ingest(name!("events"))?;
/// events.append_batch(&["oak", "ash"])?;
/// let (job, lengths) = Job::build(name!("lengths"), |job| {
///     job.source(name!("in"), Received::from(&events)).map(<[u8]>::len).collect(name!("lengths"))
/// })?;
/// let trigger = Trigger::AvailableNow { bytes: 1 << 20 };
/// engine.start(job, RunOptions { trigger, ..RunOptions::default() })?.await_termination()?;
/// assert_eq!(lengths.rows(), [3, 3]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct CollectedRows<R: Row>(Arc<Mutex<BTreeMap<BatchId, Vec<R::Owned>>>>);

impl<R: Row> Clone for CollectedRows<R> {
    fn clone(&self) -> CollectedRows<R> {
        CollectedRows(Arc::clone(&self.0))
    }
}

impl<R: Row> fmt::Debug for CollectedRows<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CollectedRows({} batches)", lock(&self.0).len())
    }
}

impl<R: Row> Default for CollectedRows<R> {
    fn default() -> CollectedRows<R> {
        CollectedRows(Arc::default())
    }
}

impl<R: Row> CollectedRows<R> {
    /// All rows, batch after batch.
    #[must_use]
    pub fn rows(&self) -> Vec<R::Owned> {
        lock(&self.0).values().flatten().cloned().collect()
    }

    /// The rows of each batch.
    #[must_use]
    pub fn batches(&self) -> BTreeMap<BatchId, Vec<R::Owned>> {
        lock(&self.0).clone()
    }
}

impl<R: Row> BatchSink<R> for CollectedRows<R> {
    fn open(&self, _opening: &Opening<'_>) -> Result<(), SinkError> {
        Ok(())
    }

    fn publish(&self, batch: &BatchOutput<'_, R>) -> Result<(), SinkError> {
        lock(&self.0).insert(batch.id(), batch.rows().cloned().collect());
        Ok(())
    }

    fn has(&self, batch: BatchId) -> Result<Option<bool>, SinkError> {
        Ok(Some(lock(&self.0).contains_key(&batch)))
    }

    fn promise(&self) -> (Promise, &'static str) {
        (Promise::Idempotent, "in the memory of this process, which is gone with it")
    }
}
