//! Where results go. A sink publishes a whole batch at a time, once, by the batch's id.
//!
//! SINK-1: what a sink publishes for a batch is a pure function of the rows per partition, in
//! partition order.
//! SINK-2: a batch that is already in the progress a sink was opened with, or published since, is
//! never published again.
//! SINK-3: what a two-phase sink holds under a batch's id is published by its token or dropped by
//! `abort`, and the log says which: a durable `BatchPrepared` is published, whatever else is not
//! (ENGINE.md E2).

mod collect;
mod custom;
mod files;
mod for_each;
mod log;
mod promise;
#[cfg(feature = "sqlite")]
mod sqlite;
mod stdout;
mod two_phase;

use std::any::Any;
use std::fmt::{self, Debug};
use std::sync::Arc;

use crate::checksum::Xxh3;
use crate::error::Result;
use crate::exec::{Executor, RunContext};
use crate::ids::{BatchId, Epoch, LogId, to_u64};
use crate::planted::{Bug, planted};
use crate::storage::Storage;

pub use collect::CollectedRows;
pub use custom::{BatchSink, Opening, SinkError};
#[cfg(feature = "csv")]
pub use files::{CsvFields, CsvRow};
pub use files::{FileManifest, JsonRow, ManifestFile, OutputFiles, TextRow};
pub use for_each::BatchOutput;
pub use log::{CommittedRow, CommittedRows};
pub use promise::Promise;
#[cfg(feature = "sqlite")]
pub use sqlite::{SqlValue, SqliteTable};
pub use two_phase::{Outcome, TwoPhaseSink};

pub(crate) use custom::custom;
#[cfg(feature = "csv")]
pub(crate) use files::Csv;
pub(crate) use files::{Json, Text, file_sink};
#[cfg(feature = "testing")]
pub(crate) use for_each::drill::dying_at_row;
pub(crate) use for_each::for_each_batch;
pub(crate) use log::log_sink;
#[cfg(feature = "sqlite")]
pub(crate) use sqlite::SqliteSink;
pub(crate) use stdout::Stdout;
pub(crate) use two_phase::{TwoPhase, in_two_phases};

/// Whose outputs these are (ENGINE.md E5). With a batch's id, the identity of what is published.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SinkIdentity {
    /// The log that the job's plans are in.
    pub log: LogId,
    /// The job's name.
    pub job: String,
    /// The sink's name.
    pub sink: String,
}

impl fmt::Display for SinkIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "log {} job {}", self.log, self.job)?;
        if planted(Bug::SinkWithoutName) {
            return Ok(());
        }
        write!(f, " sink {}", self.sink)
    }
}

/// What a sink may use of the engine.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SinkContext<'a> {
    /// Where files are opened.
    pub(crate) storage: &'a Arc<dyn Storage>,
    /// The incarnation of the job's log (ENGINE.md E5).
    pub(crate) epoch: Epoch,
}

/// What a sink publishes for one batch: rows or bytes per partition, in partition order.
pub(crate) type Output = Box<dyn Any + Send + Sync>;

/// One sink of a job, as the driver sees it.
pub(crate) trait Sink: Debug + Send + Sync {
    /// The name the job gave it.
    fn name(&self) -> &str;

    /// Opens the output at the start and after a restart: everything behind `progress` is undone
    /// (`None`: nothing was ever completed). May be called again at any time.
    ///
    /// # Errors
    /// `SinkFailed` if what `progress` counts is not there any more, naming the file;
    /// `JobMismatch` if the output belongs to another sink; the operating system's.
    fn open(
        &self,
        cx: SinkContext<'_>,
        identity: &SinkIdentity,
        progress: Option<&[u8]>,
    ) -> Result<()>;

    /// Computes what is to be published for the batch that `run` is of: step 2, seen by nobody.
    ///
    /// # Errors
    /// As [`Executor::for_each_partition`].
    fn compute(&self, executor: &Executor, run: &RunContext) -> Result<Output>;

    /// Publishes what [`Sink::compute`] gave for this batch, and returns the progress, which counts
    /// once the batch's completion is durable. Publishing a batch that was published changes
    /// nothing and returns the same. `attempt` is 1 unless an earlier publication of this batch
    /// may have been seen outside.
    ///
    /// # Errors
    /// `SinkFailed`, `DiskFull` or the operating system's: nothing is known about the bytes
    /// of this batch, and publishing it again is allowed.
    fn publish(
        &self,
        batch: BatchId,
        attempt: u32,
        output: &(dyn Any + Send + Sync),
    ) -> Result<Vec<u8>>;

    /// Whether anybody may have seen anything of a batch that is not completed. `None`: the sink
    /// cannot tell.
    ///
    /// # Errors
    /// As [`Sink::open`], which was called before.
    fn has(&self, _batch: BatchId) -> Result<Option<bool>> {
        Ok(None)
    }

    /// Digest of what [`Sink::compute`] gave, if the rows have bytes: computed again, they must
    /// have the same.
    fn digest(&self, output: &(dyn Any + Send + Sync)) -> Option<u64>;

    /// Everything that was published is completed, durably: what follows from that may be done.
    /// Called between batches now and then, and before the job ends.
    ///
    /// # Errors
    /// As [`Sink::publish`]; it is called again later, and nothing depends on it.
    fn settle(&self) -> Result<()> {
        Ok(())
    }

    /// What the sink promises, and on what that rests.
    fn promise(&self) -> (Promise, &'static str);

    /// The two phases of a sink that has them: it is then never asked to
    /// [`publish`](Sink::publish).
    fn two_phase(&self) -> Option<&dyn TwoPhase> {
        None
    }
}

/// Digest of the parts of an output, in order.
fn digest_of<'a>(parts: impl Iterator<Item = &'a [u8]>) -> u64 {
    let mut digest = Xxh3::new();
    for part in parts {
        digest.update(&to_u64(part.len()).to_le_bytes());
        digest.update(part);
    }
    digest.digest()
}
