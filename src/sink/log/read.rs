//! Reading what sinks have committed into a log.
//!
//! READ-1: rows are shown when their commit was found, all or none. Those of a commit that follows
//! them closely are still in memory then; a larger transaction is read a second time, from its
//! first row, so that memory is bounded whatever its size.

use std::collections::VecDeque;
use std::fmt;

use super::follow::{Elsewhere, Follow, Own};
use super::format::{Commit, Found, Note, RowDigest, TransactionId, decode, hash_of};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{BatchId, Lsn, StreamId};
use crate::wal::{Wal, WalReader};

/// A row of a committed batch.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CommittedRow {
    /// Log, job and sink that wrote it, as one text.
    pub output: String,
    /// The batch it came with.
    pub batch: BatchId,
    /// The record that committed the batch: a position to go on from, behind it.
    pub commit: Lsn,
    /// Its own record.
    pub lsn: Lsn,
    /// The row.
    pub payload: Vec<u8>,
}

/// The committed rows of a stream that sinks write: whole batches, in the order of their commits.
/// What a crash left of a transaction is passed over.
///
/// ```
/// use sawmill::{CommittedRows, Engine, EngineOptions, Job, Received, RunOptions, Trigger, Wal};
/// use sawmill::{WalOptions, name};
/// # let place = tempfile::tempdir()?;
/// let target = Wal::open(place.path().join("target"), WalOptions::default())?;
/// let engine = Engine::open(place.path().join("data"), EngineOptions::default())?;
/// let events = engine.ingest(name!("events"))?;
/// events.append_batch(&["oak", "ash"])?;
/// let (job, ()) = Job::build(name!("copy"), |job| {
///     let words = job.source(name!("in"), Received::from(&events));
///     words.write_log(name!("out"), &target, "words");
/// })?;
/// let trigger = Trigger::AvailableNow { bytes: 1 << 20 };
/// engine.start(job, RunOptions { trigger, ..RunOptions::default() })?.await_termination()?;
/// let mut rows = CommittedRows::of(&target, "words")?;
/// assert_eq!(rows.next().unwrap()?.payload, b"oak");
/// assert_eq!(rows.next().unwrap()?.payload, b"ash");
/// assert!(rows.next().is_none(), "for now");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct CommittedRows {
    log: Box<dyn Follow>,
    stream: StreamId,
    next: Lsn,
    /// Rows whose commit was not found yet.
    waiting: Waiting,
    /// Rows of the commit in hand.
    ready: VecDeque<CommittedRow>,
    /// A commit whose rows are read on from here, with the rest of them.
    within: Option<Within>,
    /// What ended it.
    failed: Option<Error>,
}

/// The rows that were read last, of whatever transaction.
#[derive(Default)]
struct Waiting {
    rows: VecDeque<(TransactionId, Lsn, Vec<u8>)>,
    bytes: usize,
    /// No row up to here is among them.
    gone: Lsn,
}

impl Waiting {
    fn push(&mut self, transaction: TransactionId, lsn: Lsn, row: &[u8]) {
        self.bytes += row.len() + ROW_OVERHEAD;
        self.rows.push_back((transaction, lsn, row.to_vec()));
        while self.bytes > READ {
            let Some((_, lsn, row)) = self.rows.pop_front() else { break };
            self.bytes -= row.len() + ROW_OVERHEAD;
            self.gone = lsn;
        }
    }

    /// Takes the rows of a transaction out, in order.
    fn take(&mut self, transaction: TransactionId) -> Vec<(Lsn, Vec<u8>)> {
        let mut taken = Vec::new();
        for (other, lsn, row) in std::mem::take(&mut self.rows) {
            if other == transaction {
                self.bytes -= row.len() + ROW_OVERHEAD;
                taken.push((lsn, row));
            } else {
                self.rows.push_back((other, lsn, row));
            }
        }
        taken
    }
}

/// Where in a transaction the reader is.
struct Within {
    commit: Commit,
    lsn: Lsn,
    from: Lsn,
    seen: u64,
    digest: RowDigest,
}

/// Bytes of rows that are kept, or read again at a time.
const READ: usize = 256 << 10;
/// What a row costs besides its bytes.
const ROW_OVERHEAD: usize = 48;

impl fmt::Debug for CommittedRows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CommittedRows(next {})", self.next)
    }
}

impl CommittedRows {
    /// Of a log that this process has open.
    ///
    /// # Errors
    /// `Invalid` if there is no stream of this name.
    pub fn of(wal: &Wal, stream: &str) -> Result<CommittedRows> {
        let found = wal.find_stream(stream).map(|stream| stream.id());
        let (wal, stream) = (wal.clone(), found.ok_or_else(|| no_stream(stream))?);
        Ok(CommittedRows::new(stream, Box::new(Own { wal, stream, tail: None })))
    }

    /// Of a log that another process may write. See [`WalReader::refresh`].
    ///
    /// # Errors
    /// `Invalid` if there is no stream of this name; the reader's.
    pub fn of_reader(reader: WalReader, stream: &str) -> Result<CommittedRows> {
        let stream = reader.find_stream(stream)?.ok_or_else(|| no_stream(stream))?;
        Ok(CommittedRows::new(stream, Box::new(Elsewhere { reader, stream, tail: None })))
    }

    fn new(stream: StreamId, log: Box<dyn Follow>) -> CommittedRows {
        let (ready, within, failed) = (VecDeque::new(), None, None);
        CommittedRows {
            log,
            stream,
            next: Lsn::ZERO,
            waiting: Waiting::default(),
            ready,
            within,
            failed,
        }
    }

    /// Goes on behind a commit, as [`CommittedRow::commit`] names it.
    #[must_use]
    pub fn behind(mut self, commit: Lsn) -> CommittedRows {
        self.next = commit.next();
        self.waiting.gone = commit;
        self
    }

    /// The next row; `None` when nothing more is committed at the moment: ask again later. A reader
    /// of this process's log that keeps up is served from memory. An error ends it: every further
    /// call returns it again, unless it is [`Lost`](ErrorKind::Lost), which is passed.
    ///
    /// # Errors
    /// What reading the log gives: `Corrupt`, `Unreadable`, `Lost`, `Poisoned`, `Closed`; `Invalid`
    /// if records were truncated before this came to them; `Corrupt` for a commit whose rows are
    /// not all there, and for records that are no sink's.
    #[allow(clippy::should_implement_trait, reason = "it goes on after `None`")]
    pub fn next(&mut self) -> Option<Result<CommittedRow>> {
        loop {
            if let Some(row) = self.ready.pop_front() {
                return Some(Ok(row));
            }
            if let Some(error) = &self.failed {
                return Some(Err(error.clone()));
            }
            let more = if self.within.is_some() { self.read_rows() } else { self.find_commit() };
            match more {
                Ok(true) => {}
                Ok(false) => return None,
                Err(error) => {
                    if error.kind() != ErrorKind::Lost {
                        self.failed = Some(error.clone());
                    }
                    return Some(Err(error));
                }
            }
        }
    }

    /// Looks for the next commit; `false` if there is none yet.
    fn find_commit(&mut self) -> Result<bool> {
        while let Some(record) = self.log.try_next(self.next)? {
            let lsn = record.lsn;
            self.next = lsn.next();
            match decode(record.payload, lsn)? {
                Found::Row(transaction, row) => self.waiting.push(transaction, lsn, row),
                Found::Note(Note::Opened { .. }) => {}
                Found::Note(Note::Committed(commit)) => {
                    self.found(commit, lsn)?;
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// Shows the rows of a commit, or has them read again.
    fn found(&mut self, commit: Commit, lsn: Lsn) -> Result<()> {
        let held = self.waiting.take(commit.transaction);
        let behind = Lsn::new(lsn.get().saturating_sub(commit.rows));
        let from = commit.first.unwrap_or(behind);
        let mut at = Within { commit, lsn, from, seen: 0, digest: RowDigest::default() };
        if from <= self.waiting.gone {
            self.within = Some(at);
            return Ok(());
        }
        for (lsn, row) in held {
            self.ready.push_back(at.show(lsn, row));
        }
        let whole = at.check();
        if whole.is_err() {
            self.ready.clear();
        }
        whole
    }

    /// Reads some rows of the commit in hand: those of its transaction, of all that stand there.
    fn read_rows(&mut self) -> Result<bool> {
        let Some(mut at) = self.within.take() else { return Ok(true) };
        let mut replay = self.log.again(at.from)?.stream(self.stream).to(at.lsn);
        let mut bytes = 0;
        while let Some(record) = replay.next() {
            let record = record?;
            if record.lsn == at.lsn {
                return at.check().map(|()| true);
            }
            at.from = record.lsn.next();
            let Found::Row(transaction, row) = decode(record.payload, record.lsn)? else {
                continue;
            };
            if transaction != at.commit.transaction {
                continue;
            }
            bytes += row.len();
            self.ready.push_back(at.show(record.lsn, row.to_vec()));
            if bytes >= READ {
                self.within = Some(at);
                return Ok(true);
            }
        }
        Err(missing(&at))
    }
}

impl Within {
    fn show(&mut self, lsn: Lsn, payload: Vec<u8>) -> CommittedRow {
        self.seen += 1;
        self.digest.add(hash_of(&payload));
        let (output, batch) = (self.commit.output.clone(), self.commit.batch);
        CommittedRow { output, batch, commit: self.lsn, lsn, payload }
    }

    fn check(&self) -> Result<()> {
        let whole = self.seen == self.commit.rows && self.digest.get() == self.commit.digest;
        if whole { Ok(()) } else { Err(missing(self)) }
    }
}

fn no_stream(stream: &str) -> Error {
    Error::new(ErrorKind::Invalid, format!("the log has no stream named `{stream}`"))
}

/// Truncated within the transaction, most likely.
fn missing(at: &Within) -> Error {
    let message = format!(
        "batch {} was committed with {} rows, and {} of them are in the log",
        at.commit.batch, at.commit.rows, at.seen
    );
    Error::new(ErrorKind::Corrupt, message).for_lsns(at.from, at.lsn)
}
