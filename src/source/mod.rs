//! Where records come from: *direct* sources, which can be read again and of which only positions
//! and digests go into the log, and *received* ones, whose bytes went through the log.
//!
//! The driver knows a source as bytes: it writes the planned input into the log before anything of
//! the batch can be seen (ENGINE.md E1), and whenever the batch is executed again, opens that very
//! input (E2).
//!
//! SOURCE-1: a planned input is a pure function of the source's content, its position and the
//! limit: never of thread counts, time, or what other batches did.
//! SOURCE-2: an input that is opened again gives the same rows in the same partitions, or an error
//! of kind [`SourceChanged`](crate::ErrorKind::SourceChanged) or
//! [`Corrupt`](crate::ErrorKind::Corrupt).

mod attach;
mod cursor;
mod datasets;
mod dead_letter;
mod files;
mod lines;
#[cfg(feature = "testing")]
mod queue;
mod received;
mod received_plan;
#[cfg(test)]
mod received_tests;
mod records;
mod reread;
mod sieve;
mod text_files;
mod text_plan;
mod text_read;
#[cfg(test)]
mod text_tests;

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::Result;
use crate::ids::{LogId, Lsn, StreamId};
use crate::storage::Storage;

pub use attach::{Attached, StreamSource};
pub use dead_letter::{DeadLetter, RecordPlace};
#[cfg(feature = "testing")]
pub use queue::Queue;
pub use received::{Ingest, Received};
pub(crate) use sieve::Sieve;
pub use text_files::TextFiles;

/// What a source may use of the engine. A received source brings its log with it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SourceContext<'a> {
    /// Where files are opened.
    pub(crate) storage: &'a Arc<dyn Storage>,
}

/// About how much a source gives for one batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limit {
    /// Bytes, to the end of the record that reaches them. At least 1.
    pub(crate) bytes: u64,
    /// Records. At least 1.
    pub(crate) records: u64,
}

impl Limit {
    /// So many bytes, however many records they are.
    pub(crate) fn bytes(bytes: u64) -> Limit {
        Limit { bytes: bytes.max(1), records: u64::MAX }
    }

    /// At most so many bytes.
    pub(crate) fn at_most(self, bytes: u64) -> Limit {
        Limit { bytes: self.bytes.min(bytes), ..self }
    }

    /// What each of so many sources may give.
    pub(crate) fn share(self, sources: u64) -> Limit {
        let sources = sources.max(1);
        Limit { bytes: (self.bytes / sources).max(1), records: (self.records / sources).max(1) }
    }
}

/// What the next batch takes from one source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Planned {
    /// What [`Source::open`] needs, and nothing else: goes into `BatchPlanned`.
    pub(crate) input: Vec<u8>,
    /// The position behind it: that of the source once the batch is completed.
    pub(crate) next: Vec<u8>,
    /// Payload bytes in it.
    pub(crate) bytes: u64,
    /// Records in it, where they are known without reading them.
    pub(crate) records: Option<u64>,
}

/// A planned input, opened: what the driver puts into the run's inputs under the source's name,
/// and the source's dataset reads.
#[derive(Debug)]
pub(crate) struct Opened {
    input: Arc<dyn Input>,
    /// The input's place in the job, and what is shown of it.
    sieve: Option<(u32, Arc<Sieve>)>,
}

impl Opened {
    pub(crate) fn new(input: impl Input + 'static) -> Opened {
        Opened { input: Arc::new(input), sieve: None }
    }

    /// The same input, of which only a part is shown.
    pub(crate) fn sifted(&self, number: u32, sieve: &Arc<Sieve>) -> Opened {
        Opened { input: Arc::clone(&self.input), sieve: Some((number, Arc::clone(sieve))) }
    }

    /// The input, with all of its rows.
    pub(crate) fn input(&self) -> &dyn Input {
        &*self.input
    }

    /// Passes on the rows of one partition that are shown.
    ///
    /// # Errors
    /// As [`Input::rows`].
    pub(crate) fn rows(&self, partition: u32, out: &mut dyn FnMut(&[u8])) -> Result<()> {
        match &self.sieve {
            None => self.input.rows(partition, out),
            Some((number, sieve)) => sieve.rows(*number, &*self.input, partition, out),
        }
    }
}

/// The rows of a planned input, by partitions. All of this crate's sources give bytes.
pub(crate) trait Input: Debug + Send + Sync {
    /// Number of partitions; at least 1.
    fn partitions(&self) -> u32;

    /// Passes on the rows of one partition, in order. May be called any number of times, from any
    /// thread, and gives the same rows each time (SOURCE-2).
    ///
    /// # Errors
    /// `SourceChanged` or `Corrupt`; the operating system's. Rows passed on before count for
    /// nothing then.
    fn rows(&self, partition: u32, out: &mut dyn FnMut(&[u8])) -> Result<()>;

    /// The digest of everything in it. What was not read until now is read now.
    ///
    /// # Errors
    /// As [`Input::rows`].
    fn digest(&self) -> Result<Vec<u8>>;

    /// Where the rows of a partition come from, for people.
    fn describe(&self, partition: u32) -> String;

    /// Where a row of a partition comes from, and its bytes; `None` if there is no such row.
    ///
    /// # Errors
    /// As [`Input::rows`].
    fn locate(&self, partition: u32, row: u64) -> Result<Option<(RecordPlace, Vec<u8>)>>;
}

/// How much was read. What was read again counts again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Amount {
    /// Payload bytes.
    pub(crate) bytes: u64,
    /// Records that were passed on.
    pub(crate) records: u64,
}

/// Adds up an [`Amount`], on any number of threads.
#[derive(Debug, Default)]
struct Meter {
    bytes: AtomicU64,
    records: AtomicU64,
}

impl Meter {
    fn add(&self, amount: Amount) {
        self.bytes.fetch_add(amount.bytes, Ordering::Relaxed);
        self.records.fetch_add(amount.records, Ordering::Relaxed);
    }

    fn total(&self) -> Amount {
        Amount {
            bytes: self.bytes.load(Ordering::Relaxed),
            records: self.records.load(Ordering::Relaxed),
        }
    }
}

/// The last planned input of a source and the digest its completion recorded.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LastRead<'a> {
    /// [`Planned::input`].
    pub(crate) input: &'a [u8],
    /// [`Input::digest`], as `BatchCompleted` has it.
    pub(crate) digest: &'a [u8],
}

/// One source of a job, as the driver sees it.
pub(crate) trait Source: Debug + Send + Sync {
    /// The name the job gave it.
    fn name(&self) -> &str;

    /// On what it rests that each record counts once.
    fn rests_on(&self) -> &'static str;

    /// The stream of the engine's log that it reads; `None` for a direct source.
    fn stream(&self) -> Option<StreamId>;

    /// Refuses to be read by an engine whose log is not the one that the source reads.
    ///
    /// # Errors
    /// `Invalid`, naming the source.
    fn check_log(&self, _log: LogId) -> Result<()> {
        Ok(())
    }

    /// Cuts the next input behind `position` (`None`: from the start) at about `limit`.
    /// `None`: nothing new now. Changes nothing: what is not written to the log was never planned,
    /// and asking again with the same position takes what came meanwhile, too.
    ///
    /// # Errors
    /// The source's, naming the file or the records.
    fn plan(
        &self,
        cx: SourceContext<'_>,
        position: Option<&[u8]>,
        limit: Limit,
    ) -> Result<Option<Planned>>;

    /// Opens a planned input. Its rows are read by the dataset that was made with this source.
    ///
    /// # Errors
    /// `SourceChanged` or `Corrupt` (SOURCE-2); the operating system's.
    fn open(&self, cx: SourceContext<'_>, input: &[u8]) -> Result<Arc<Opened>>;

    /// Reads on from where the last opened input ends, so that the next plan of about
    /// `limit` finds it at hand. Changes nothing that can be seen (SOURCE-1), and may do
    /// nothing. Runs beside the batch that is being computed.
    fn read_ahead(&self, _limit: Limit) {}

    /// Compares the digest that a completion recorded for `input` with that of another reading.
    ///
    /// # Errors
    /// `SourceChanged`, naming the file and the range.
    fn verify_digest(&self, input: &[u8], recorded: &[u8], actual: &[u8]) -> Result<()>;

    /// After a restart: whether what was read up to `position` is still there and still the same,
    /// as far as can be told without reading all of it again.
    ///
    /// # Errors
    /// `SourceChanged` naming the file; `JobMismatch` if the source is given other input now than
    /// the one the position belongs to.
    fn verify_position(
        &self,
        cx: SourceContext<'_>,
        position: &[u8],
        last: Option<LastRead<'_>>,
    ) -> Result<()>;

    /// Gives back what it keeps for inputs of before this process that are opened one behind the
    /// other: none is opened next.
    fn let_go(&self) {}

    /// The first LSN of its log that a source at `position` still needs (ENGINE.md E3). `None`: it
    /// needs nothing of the log.
    ///
    /// # Errors
    /// `Corrupt` if this is no position.
    fn retention(&self, position: Option<&[u8]>) -> Result<Option<Lsn>>;

    /// A position further on that means the same: nothing that this source reads lies between.
    /// `None`: as far as it is known, there is none.
    ///
    /// # Errors
    /// `Corrupt` if this is no position.
    fn settled(&self, _position: Option<&[u8]>) -> Result<Option<Vec<u8>>> {
        Ok(None)
    }

    /// Whether nothing can come behind `position` any more.
    ///
    /// # Errors
    /// `Corrupt` if this is no position.
    fn exhausted(&self, position: Option<&[u8]>) -> Result<bool>;

    /// What this process read: to compute, and to verify after a restart; not what it only looked
    /// at to plan.
    fn amount_read(&self) -> Amount;
}
