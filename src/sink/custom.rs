//! Sinks of the user's own that publish in one step, and what all sinks over rows share.

use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::for_each::{BatchOutput, Collected};
use super::{Output, Promise, Sink, SinkContext, SinkIdentity};
use crate::error::{Error, ErrorKind, Result};
use crate::exec::{Dataset, Executor, Name, Row, RunContext};
use crate::ids::{BatchId, Epoch};
use crate::sync::{Arc, Mutex, lock};
use crate::versioned;

const VERSION: u8 = 1;

/// What user code returns if it fails: any error. An [`Error`] of sawmill's stays what it is:
/// kinds other than `SinkFailed`, `DiskFull` and `Io` end the job without another attempt.
pub type SinkError = Box<dyn std::error::Error + Send + Sync>;

/// What a sink is told when the job starts, and after every crash: who writes, and from where on.
#[derive(Debug)]
pub struct Opening<'a> {
    pub(super) identity: &'a SinkIdentity,
    pub(super) epoch: Epoch,
    pub(super) last: BatchId,
}

impl Opening<'_> {
    /// Whose outputs these are: store it with them, and keep those of others apart.
    #[must_use]
    pub fn identity(&self) -> &SinkIdentity {
        self.identity
    }

    /// The writer's incarnation: grows each time the job's directory is opened. A sink that stores
    /// it with its outputs can refuse a writer of a lower one, which was given up for dead.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The last batch that is completed; zero before the first. The next one may have been
    /// published, and its completion lost.
    #[must_use]
    pub fn last(&self) -> BatchId {
        self.last
    }
}

/// A sink of the user's own.
///
/// A batch is published once its plan is durable, and again under the same id until the outcome is
/// known: after an `Err`, after a panic, after a crash. A sink that stores the id in the same step
/// as the rows, and does nothing for an id that is stored, is exactly once; `sawmill::testing`
/// certifies which promise a sink keeps.
///
/// ```
/// use std::sync::{Arc, Mutex};
/// use sawmill::{BatchId, BatchOutput, BatchSink, Bytes, Opening, SinkError};
///
/// /// Rows, and the last batch that is among them: changed together.
/// #[derive(Clone, Default)]
/// struct Memory(Arc<Mutex<(BatchId, Vec<Vec<u8>>)>>);
///
/// impl BatchSink<Bytes> for Memory {
///     fn open(&self, _opening: &Opening<'_>) -> Result<(), SinkError> {
///         Ok(())
///     }
///
///     fn publish(&self, batch: &BatchOutput<'_, Bytes>) -> Result<(), SinkError> {
///         let mut stored = self.0.lock().map_err(|_| "poisoned")?;
///         if batch.id() > stored.0 {
///             stored.1.extend(batch.rows().cloned());
///             stored.0 = batch.id();
///         }
///         Ok(())
///     }
/// }
///
/// use sawmill::{Engine, EngineOptions, Job, Received, RunOptions, Trigger, name};
/// # let place = tempfile::tempdir()?;
/// let engine = Engine::open(place.path(), EngineOptions::default())?;
/// let events = engine.ingest(name!("events"))?;
/// events.append(b"oak")?;
/// let memory = Memory::default();
/// let (job, ()) = Job::build(name!("keep"), |job| {
///     job.source(name!("in"), Received::from(&events)).write_to(name!("kept"), memory.clone());
/// })?;
/// let trigger = Trigger::AvailableNow { bytes: 1 << 20 };
/// engine.start(job, RunOptions { trigger, ..RunOptions::default() })?.await_termination()?;
/// assert_eq!(*memory.0.lock().unwrap(), (BatchId::new(1), vec![b"oak".to_vec()]));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait BatchSink<R: Row>: Send + Sync + 'static {
    /// Called before anything else in each run of the job.
    ///
    /// # Errors
    /// Any: the job does not start.
    fn open(&self, opening: &Opening<'_>) -> Result<(), SinkError>;

    /// Publishes a batch, or does nothing if it is published.
    ///
    /// # Errors
    /// Any: it is called again with the same batch.
    fn publish(&self, batch: &BatchOutput<'_, R>) -> Result<(), SinkError>;

    /// Whether it has anything of this batch, which is not completed; asked after `open`. `None`:
    /// it cannot tell. A batch in which the process ends again and again can be cut smaller only if
    /// all sinks say `Some(false)`.
    ///
    /// # Errors
    /// Any: the job does not start.
    fn has(&self, _batch: BatchId) -> Result<Option<bool>, SinkError> {
        Ok(None)
    }

    /// What the sink promises: [`Job::guarantees`](crate::Job::guarantees) says so, and
    /// `sawmill::testing::certify` finds out whether it is true.
    fn promise(&self) -> (Promise, &'static str) {
        (Promise::AtLeastOnce, "a sink of the user's own, which promises no more")
    }
}

/// The sink that hands each batch to `sink`.
pub(crate) fn custom<R: Row>(
    name: Name,
    rows: Dataset<R>,
    sink: impl BatchSink<R>,
) -> Arc<dyn Sink> {
    Arc::new(Custom { head: Head { name, rows, last: Mutex::default() }, sink })
}

/// What every sink has that is given rows.
pub(super) struct Head<R: Row> {
    pub(super) name: Name,
    pub(super) rows: Dataset<R>,
    /// The last batch published.
    pub(super) last: Mutex<BatchId>,
}

impl<R: Row> fmt::Debug for Head<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.name)
    }
}

impl<R: Row> Head<R> {
    /// Goes to where the progress says, and has user code open what is outside.
    pub(super) fn open(
        &self,
        cx: SinkContext<'_>,
        identity: &SinkIdentity,
        progress: Option<&[u8]>,
        open: impl FnOnce(&Opening<'_>) -> Result<(), SinkError>,
    ) -> Result<()> {
        let decode = |bytes| versioned::decode("progress of a sink", VERSION, bytes);
        let last = progress.map_or(Ok(BatchId::default()), decode)?;
        *lock(&self.last) = last;
        let opening = Opening { identity, epoch: cx.epoch, last };
        self.call("could not be opened", || open(&opening))
    }

    pub(super) fn compute(&self, executor: &Executor, run: &RunContext) -> Result<Output> {
        let partitions = executor.for_each_partition(run, &self.rows, |rows| {
            let mut part = Vec::new();
            rows.for_each(|view| part.push(R::own(view)))?;
            Ok(part)
        })?;
        let batch_time_ns = run.batch_time_ns().unwrap_or(0);
        Ok(Box::new(Collected::<R> { batch_time_ns, partitions }))
    }

    /// Calls user code with a batch.
    pub(super) fn with<T>(
        &self,
        (batch, attempt): (BatchId, u32),
        output: &(dyn Any + Send + Sync),
        call: impl FnOnce(&BatchOutput<'_, R>) -> Result<T, SinkError>,
    ) -> Result<T> {
        let output = Collected::<R>::of(output).as_batch(batch, attempt);
        self.call(&format!("failed at batch {batch}, attempt {attempt}"), || call(&output))
    }

    /// Whether a batch was published before.
    pub(super) fn has(&self, batch: BatchId) -> bool {
        batch <= *lock(&self.last)
    }

    /// Notes that a batch is published, and returns the progress.
    pub(super) fn published(&self, batch: BatchId) -> Vec<u8> {
        let mut last = lock(&self.last);
        *last = batch.max(*last);
        versioned::encode(VERSION, &*last)
    }

    /// Calls user code; what it does is the sink's failure, never ours.
    pub(super) fn call<T>(
        &self,
        failed: &str,
        call: impl FnOnce() -> Result<T, SinkError>,
    ) -> Result<T> {
        let text = |why: &str| format!("the sink `{}` {failed}{why}", self.name);
        match catch_unwind(AssertUnwindSafe(call)) {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(error)) => Err(match error.downcast::<Error>() {
                Ok(ours) => *ours,
                Err(theirs) => {
                    Error::new(ErrorKind::SinkFailed, text("")).caused_by(Theirs(theirs))
                }
            }),
            Err(panic) => {
                let said = panic.downcast_ref::<String>().map(String::as_str);
                let said = said.or_else(|| panic.downcast_ref::<&str>().copied());
                let said = said.unwrap_or("with something that is not text");
                Err(Error::new(ErrorKind::SinkFailed, text(&format!(": it panicked: {said}"))))
            }
        }
    }
}

/// An error of user code as the cause of ours.
#[derive(Debug)]
struct Theirs(SinkError);

impl fmt::Display for Theirs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Theirs {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source()
    }
}

struct Custom<R: Row, S> {
    head: Head<R>,
    sink: S,
}

impl<R: Row, S> fmt::Debug for Custom<R, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Custom({:?})", self.head)
    }
}

impl<R: Row, S: BatchSink<R>> Sink for Custom<R, S> {
    fn name(&self) -> &str {
        self.head.name.get()
    }

    fn open(
        &self,
        cx: SinkContext<'_>,
        identity: &SinkIdentity,
        progress: Option<&[u8]>,
    ) -> Result<()> {
        self.head.open(cx, identity, progress, |opening| self.sink.open(opening))
    }

    fn compute(&self, executor: &Executor, run: &RunContext) -> Result<Output> {
        self.head.compute(executor, run)
    }

    /// Rows need no codec here.
    fn digest(&self, _output: &(dyn Any + Send + Sync)) -> Option<u64> {
        None
    }

    fn publish(
        &self,
        batch: BatchId,
        attempt: u32,
        output: &(dyn Any + Send + Sync),
    ) -> Result<Vec<u8>> {
        if !self.head.has(batch) {
            self.head.with((batch, attempt), output, |output| self.sink.publish(output))?;
        }
        Ok(self.head.published(batch))
    }

    fn has(&self, batch: BatchId) -> Result<Option<bool>> {
        if self.head.has(batch) {
            return Ok(Some(true));
        }
        self.head.call("could not say what it has", || self.sink.has(batch))
    }

    fn promise(&self) -> (Promise, &'static str) {
        self.sink.promise()
    }
}
