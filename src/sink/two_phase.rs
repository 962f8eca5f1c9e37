//! Sinks that prepare a batch, and publish it by a token once the log has the token.

use std::any::Any;
use std::fmt;

use serde::Serialize;

use super::custom::{Head, Opening, SinkError};
use super::for_each::{BatchOutput, Collected};
use super::{Output, Promise, Sink, SinkContext, SinkIdentity};
use crate::checksum::Xxh3;
use crate::error::{Error, ErrorKind, Result};
use crate::exec::{Dataset, Executor, Name, Row, RunContext};
use crate::ids::{BatchId, to_u64};
use crate::sync::{Arc, Mutex};

/// What came of publishing by a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is published, by this call or an earlier one.
    Published,
    /// What was prepared is gone, and was never published.
    Expired,
}

/// A sink of the user's own that can prepare: staged files, a transaction that is prepared.
///
/// ```text
/// prepare(rows) -> token      nobody sees the rows; they survive the sink's own crash
///     the token becomes durable in the job's log (`BatchPrepared`)
/// publish(token)              they are seen, all at once
/// ```
///
/// After a crash the log decides. Without a durable token: `abort`, then `prepare` again. With one:
/// `publish` with that token, again and again until it is answered, and never `abort`. An answer of
/// [`Outcome::Expired`] has the batch computed again, compared with the digest of what was prepared
/// (`OutputChanged`), and prepared anew.
pub trait TwoPhaseSink<R: Row>: Send + Sync + 'static {
    /// Called before anything else in each run of the job.
    ///
    /// # Errors
    /// Any: the job does not start.
    fn open(&self, opening: &Opening<'_>) -> Result<(), SinkError>;

    /// Keeps the rows of a batch, unseen and safe, and returns the token by which to publish them.
    /// Nothing is held under the batch's id when it is called.
    ///
    /// # Errors
    /// Any: `abort`, then `prepare` again.
    fn prepare(&self, batch: &BatchOutput<'_, R>) -> Result<Vec<u8>, SinkError>;

    /// Makes what the token stands for visible, once, however often it is called. The last token
    /// that was published must be known as published: it is not [`Outcome::Expired`].
    ///
    /// # Errors
    /// Any: it is called again with the same token.
    fn publish(&self, batch: BatchId, token: &[u8]) -> Result<Outcome, SinkError>;

    /// Drops what is held under the batch's id and was not published, whatever its token; nothing
    /// may be held.
    ///
    /// # Errors
    /// Any: it is called again.
    fn abort(&self, batch: BatchId) -> Result<(), SinkError>;

    /// As [`BatchSink::promise`](crate::BatchSink::promise).
    fn promise(&self) -> (Promise, &'static str) {
        (Promise::Idempotent, "what is prepared is published by its token, once")
    }
}

/// The two phases, as the driver sees them.
pub(crate) trait TwoPhase {
    /// As [`TwoPhaseSink::prepare`].
    ///
    /// # Errors
    /// As [`Sink::publish`].
    fn prepare(
        &self,
        batch: BatchId,
        attempt: u32,
        output: &(dyn Any + Send + Sync),
    ) -> Result<Vec<u8>>;

    /// As [`TwoPhaseSink::publish`]; the progress, or `None` if the token has expired.
    ///
    /// # Errors
    /// As [`Sink::publish`].
    fn publish_prepared(&self, batch: BatchId, token: &[u8]) -> Result<Option<Vec<u8>>>;

    /// As [`TwoPhaseSink::abort`].
    ///
    /// # Errors
    /// As [`Sink::publish`].
    fn abort(&self, batch: BatchId) -> Result<()>;
}

/// The sink that has `sink` prepare and publish each batch.
pub(crate) fn in_two_phases<R: Row<Owned: Serialize>>(
    name: Name,
    rows: Dataset<R>,
    sink: impl TwoPhaseSink<R>,
) -> Arc<dyn Sink> {
    Arc::new(InTwoPhases { head: Head { name, rows, last: Mutex::default() }, sink })
}

struct InTwoPhases<R: Row, S> {
    head: Head<R>,
    sink: S,
}

impl<R: Row, S> fmt::Debug for InTwoPhases<R, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "InTwoPhases({:?})", self.head)
    }
}

impl<R: Row<Owned: Serialize>, S: TwoPhaseSink<R>> Sink for InTwoPhases<R, S> {
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

    fn digest(&self, output: &(dyn Any + Send + Sync)) -> Option<u64> {
        Some(digest_rows(&Collected::<R>::of(output).partitions))
    }

    fn publish(
        &self,
        batch: BatchId,
        _attempt: u32,
        _output: &(dyn Any + Send + Sync),
    ) -> Result<Vec<u8>> {
        let message = format!("the sink `{}` publishes batch {batch} by a token", self.head.name);
        Err(Error::new(ErrorKind::Invalid, message))
    }

    fn promise(&self) -> (Promise, &'static str) {
        self.sink.promise()
    }

    fn two_phase(&self) -> Option<&dyn TwoPhase> {
        Some(self)
    }
}

impl<R: Row<Owned: Serialize>, S: TwoPhaseSink<R>> TwoPhase for InTwoPhases<R, S> {
    fn prepare(
        &self,
        batch: BatchId,
        attempt: u32,
        output: &(dyn Any + Send + Sync),
    ) -> Result<Vec<u8>> {
        self.head.with((batch, attempt), output, |output| self.sink.prepare(output))
    }

    fn publish_prepared(&self, batch: BatchId, token: &[u8]) -> Result<Option<Vec<u8>>> {
        let failed = format!("could not publish batch {batch}, which it has prepared");
        let outcome = self.head.call(&failed, || self.sink.publish(batch, token))?;
        Ok(match outcome {
            Outcome::Published => Some(self.head.published(batch)),
            Outcome::Expired => None,
        })
    }

    fn abort(&self, batch: BatchId) -> Result<()> {
        let failed = format!("could not drop what it holds of batch {batch}");
        self.head.call(&failed, || self.sink.abort(batch))
    }
}

struct Hashing(Xxh3);

impl postcard::ser_flavors::Flavor for Hashing {
    type Output = u64;

    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.0.update(&[byte]);
        Ok(())
    }

    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        self.0.update(bytes);
        Ok(())
    }

    fn finalize(self) -> postcard::Result<u64> {
        Ok(self.0.digest())
    }
}

fn digest_rows<T: Serialize>(partitions: &[Vec<T>]) -> u64 {
    let mut digest = Xxh3::new();
    for part in partitions {
        digest.update(&to_u64(part.len()).to_le_bytes());
        for row in part {
            // A row that refuses to be serialised refuses each time: it counts as no bytes.
            let row = postcard::serialize_with_flavor(row, Hashing(Xxh3::new())).unwrap_or(0);
            digest.update(&row.to_le_bytes());
        }
    }
    digest.digest()
}
