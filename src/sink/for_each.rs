//! Rows handed to user code, batch by batch (ENGINE.md E20).

use std::any::Any;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::custom::{BatchSink, Opening, SinkError, custom};
use super::{Promise, Sink};
use crate::error::Result;
use crate::exec::{Dataset, Name, Row};
use crate::ids::BatchId;
use crate::sync::Arc;

/// One batch of rows, as user code gets it.
///
/// At least once: the batch that was in flight when the process died is handed over again, with the
/// same id, the same rows and a higher attempt. A batch that is completed never is. Who needs
/// exactly once stores the id with the effect, and does nothing for an id that is stored.
///
/// ```
/// use std::sync::Mutex;
/// use sawmill::{Engine, EngineOptions, Job, Received, RunOptions, Trigger, name};
/// # let place = tempfile::tempdir()?;
/// let engine = Engine::open(place.path(), EngineOptions::default())?;
/// let events = engine.ingest(name!("events"))?;
/// events.append(b"oak")?;
/// // What the other side keeps together: rows, and the batch that they came with.
/// static STORED: Mutex<(u64, Vec<Vec<u8>>)> = Mutex::new((0, Vec::new()));
/// let (job, ()) = Job::build(name!("store"), |job| {
///     let rows = job.source(name!("in"), Received::from(&events));
///     rows.for_each_batch(name!("store"), |batch| {
///         let mut stored = STORED.lock().unwrap();
///         if batch.id().get() > stored.0 {
///             stored.1.extend(batch.rows().cloned());
///             stored.0 = batch.id().get();
///         }
///         if batch.attempt() == 1 { Err("the answer was lost".into()) } else { Ok(()) }
///     });
/// })?;
/// let trigger = Trigger::AvailableNow { bytes: 1 << 20 };
/// let run = engine.start(job, RunOptions { trigger, ..RunOptions::default() })?;
/// run.await_termination()?;
/// assert_eq!(*STORED.lock().unwrap(), (1, vec![b"oak".to_vec()]));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct BatchOutput<'a, R: Row> {
    id: BatchId,
    attempt: u32,
    batch_time_ns: u64,
    partitions: &'a [Vec<R::Owned>],
}

impl<R: Row> BatchOutput<'_, R> {
    /// The batch's number: the same at every attempt, also after a crash. Never that of other rows.
    #[must_use]
    pub fn id(&self) -> BatchId {
        self.id
    }

    /// 1 at first; higher if the batch was, or may have been, handed over before.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// The batch's time: the same at every attempt.
    #[must_use]
    pub fn batch_time(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_nanos(self.batch_time_ns)
    }

    /// The rows of each partition, in order.
    #[must_use]
    pub fn partitions(&self) -> &[Vec<R::Owned>] {
        self.partitions
    }

    /// All rows, in order.
    pub fn rows(&self) -> impl Iterator<Item = &R::Owned> {
        let rows = self.partitions.iter().flatten();
        #[cfg(any(test, feature = "testing"))]
        let rows = rows.inspect(|_| drill::row());
        rows
    }
}

/// Lets the conformance kit end the process while a sink looks at the rows.
#[cfg(any(test, feature = "testing"))]
pub(crate) mod drill {
    use std::cell::Cell;

    thread_local!(static LEFT: Cell<Option<usize>> = const { Cell::new(None) });

    /// Runs `call`, which panics at the row behind so many, if it looks at that many.
    pub(crate) fn dying_at_row<T>(rows: usize, call: impl FnOnce() -> T) -> T {
        LEFT.set(Some(rows));
        let done = call();
        LEFT.set(None);
        done
    }

    pub(super) fn row() {
        match LEFT.get() {
            // Not a bug of anybody: it says nothing on the way.
            Some(0) => std::panic::resume_unwind(Box::new("the process dies at this row")),
            left => LEFT.set(left.map(|left| left - 1)),
        }
    }
}

/// What `compute` gives to a sink over rows.
pub(super) struct Collected<R: Row> {
    pub(super) batch_time_ns: u64,
    pub(super) partitions: Vec<Vec<R::Owned>>,
}

impl<R: Row> Collected<R> {
    /// What this sink computed.
    pub(super) fn of(output: &(dyn Any + Send + Sync)) -> &Collected<R> {
        let Some(collected) = output.downcast_ref() else {
            unreachable!("SINK: a sink is given what it computed")
        };
        collected
    }

    pub(super) fn as_batch(&self, id: BatchId, attempt: u32) -> BatchOutput<'_, R> {
        let Collected { batch_time_ns, partitions } = self;
        BatchOutput { id, attempt, batch_time_ns: *batch_time_ns, partitions }
    }
}

/// The sink that calls `f` with each batch.
pub(crate) fn for_each_batch<R: Row>(
    name: Name,
    rows: Dataset<R>,
    f: impl for<'a> Fn(&BatchOutput<'a, R>) -> Result<(), SinkError> + Send + Sync + 'static,
) -> Arc<dyn Sink> {
    custom(name, rows, Callback(f))
}

struct Callback<F>(F);

impl<R, F> BatchSink<R> for Callback<F>
where
    R: Row,
    F: for<'a> Fn(&BatchOutput<'a, R>) -> Result<(), SinkError> + Send + Sync + 'static,
{
    fn open(&self, _opening: &Opening<'_>) -> Result<(), SinkError> {
        Ok(())
    }

    fn publish(&self, batch: &BatchOutput<'_, R>) -> Result<(), SinkError> {
        (self.0)(batch)
    }

    fn promise(&self) -> (Promise, &'static str) {
        (Promise::AtLeastOnce, "a function cannot be fenced; it may recognise a batch by its id")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use crate::exec::Executor;
    use crate::ids::{Epoch, LogId};
    use crate::sim::SimDisk;
    use crate::sink::{SinkContext, SinkIdentity};
    use crate::storage::Storage;
    use crate::sync::{Mutex, lock};

    #[test]
    fn batches_are_handed_over_with_their_id_and_attempt_until_they_succeed() {
        let storage: Arc<dyn Storage> = Arc::new(SimDisk::new(1));
        let cx = SinkContext { storage: &storage, epoch: Epoch::new(1) };
        let identity =
            SinkIdentity { log: LogId::from_bytes([1; 16]), job: "j".into(), sink: "s".into() };
        let calls = Arc::new(Mutex::new(Vec::<(u64, u32, Vec<u64>)>::new()));
        let seen = Arc::clone(&calls);
        let rows = Dataset::from_vec(vec![1u64, 2, 3], 2);
        let sink = for_each_batch(Name::new("callback"), rows, move |batch| {
            assert_eq!(batch.partitions().len(), 2);
            assert_eq!(batch.batch_time(), UNIX_EPOCH + Duration::from_secs(5));
            let rows = batch.rows().copied().collect();
            lock(&seen).push((batch.id().get(), batch.attempt(), rows));
            match batch.attempt() {
                1 => Err("the other side is not there".into()),
                2 => panic!("oak"),
                _ => Ok(()),
            }
        });
        sink.open(cx, &identity, None).unwrap();
        let executor = Executor::new(1, 2).unwrap();
        let run = executor.context().with_batch(BatchId::new(4), 5_000_000_000);
        let output = sink.compute(&executor, &run).unwrap();
        let publish = |attempt| sink.publish(BatchId::new(4), attempt, &*output);
        let error = publish(1).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::SinkFailed);
        assert!(error.to_string().contains("is not there"), "{error}");
        let panicked = publish(2).unwrap_err().to_string();
        assert!(panicked.contains("failed at batch 4, attempt 2: it panicked: oak"), "{panicked}");
        let progress = publish(3).unwrap();
        assert_eq!(publish(4).unwrap(), progress);
        let expected = [1, 2, 3].map(|attempt| (4, attempt, vec![1, 2, 3]));
        assert_eq!(*lock(&calls), expected);
        // A completed batch is never handed over, also after a restart.
        sink.open(cx, &identity, Some(&progress)).unwrap();
        assert_eq!(publish(5).unwrap(), progress);
        assert_eq!(lock(&calls).len(), 3);
        assert_eq!(
            sink.open(cx, &identity, Some(b"?")).unwrap_err().kind(),
            ErrorKind::Unsupported
        );
    }
}
