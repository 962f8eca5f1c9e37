//! Reading what sinks have committed into a log.

use std::collections::VecDeque;
use std::fmt;

use super::format::{Commit, Found, Note, RowDigest, decode};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{BatchId, Lsn, StreamId};
use crate::wal::{Replay, Wal, WalReader};

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
    open: Box<dyn Fn(Lsn) -> Result<Replay> + Send>,
    stream: StreamId,
    next: Lsn,
    /// Rows of the commit in hand.
    ready: VecDeque<CommittedRow>,
    /// A commit whose rows are read on from here, with the rest of them.
    within: Option<Within>,
}

/// Where in a transaction the reader is.
struct Within {
    commit: Commit,
    lsn: Lsn,
    from: Lsn,
    seen: u64,
    digest: RowDigest,
}

/// Bytes of rows that are read at a time.
const READ: usize = 256 << 10;

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
        let (wal, found) = (wal.clone(), found.ok_or_else(|| no_stream(stream))?);
        Ok(CommittedRows::new(found, move |from| wal.replay_from(from)))
    }

    /// Of a log that another process may write. See [`WalReader::refresh`].
    ///
    /// # Errors
    /// `Invalid` if there is no stream of this name; the reader's.
    pub fn of_reader(reader: WalReader, stream: &str) -> Result<CommittedRows> {
        let found = reader.find_stream(stream)?.ok_or_else(|| no_stream(stream))?;
        Ok(CommittedRows::new(found, move |from| {
            reader.refresh()?;
            reader.replay_from(from)
        }))
    }

    fn new(
        stream: StreamId,
        open: impl Fn(Lsn) -> Result<Replay> + Send + 'static,
    ) -> CommittedRows {
        let (ready, within) = (VecDeque::new(), None);
        CommittedRows { open: Box::new(open), stream, next: Lsn::ZERO, ready, within }
    }

    /// Goes on behind a commit, as [`CommittedRow::commit`] names it.
    #[must_use]
    pub fn behind(mut self, commit: Lsn) -> CommittedRows {
        self.next = commit.next();
        self
    }

    /// The next row; `None` when nothing more is committed at the moment: ask again later.
    #[allow(clippy::should_implement_trait, reason = "it goes on after `None`")]
    pub fn next(&mut self) -> Option<Result<CommittedRow>> {
        loop {
            if let Some(row) = self.ready.pop_front() {
                return Some(Ok(row));
            }
            let more = if self.within.is_some() { self.read_rows() } else { self.find_commit() };
            match more {
                Ok(true) => {}
                Ok(false) => return None,
                Err(error) => return Some(Err(error)),
            }
        }
    }

    /// Looks for the next commit; `false` if there is none yet.
    fn find_commit(&mut self) -> Result<bool> {
        let mut replay = (self.open)(self.next)?.stream(self.stream);
        while let Some(record) = replay.next() {
            let record = record?;
            self.next = record.lsn.next();
            let Found::Note(Note::Committed(commit)) = decode(record.payload, record.lsn)? else {
                continue;
            };
            let lsn = record.lsn;
            let behind = Lsn::new(lsn.get().saturating_sub(commit.rows));
            let from = commit.first.unwrap_or(behind);
            let digest = RowDigest::default();
            self.within = Some(Within { commit, lsn, from, seen: 0, digest });
            return Ok(true);
        }
        Ok(false)
    }

    /// Reads some rows of the commit in hand: those of its transaction, of all that stand there.
    fn read_rows(&mut self) -> Result<bool> {
        let Some(mut at) = self.within.take() else { return Ok(true) };
        let mut replay = (self.open)(at.from)?.stream(self.stream).to(at.lsn);
        let mut bytes = 0;
        while let Some(record) = replay.next() {
            let record = record?;
            if record.lsn == at.lsn {
                return self.check(&at).map(|()| true);
            }
            at.from = record.lsn.next();
            let Found::Row(transaction, row) = decode(record.payload, record.lsn)? else {
                continue;
            };
            if transaction != at.commit.transaction {
                continue;
            }
            at.seen += 1;
            at.digest.add(row);
            bytes += row.len();
            self.ready.push_back(CommittedRow {
                output: at.commit.output.clone(),
                batch: at.commit.batch,
                commit: at.lsn,
                lsn: record.lsn,
                payload: row.to_vec(),
            });
            if bytes >= READ {
                self.within = Some(at);
                return Ok(true);
            }
        }
        Err(missing(&at))
    }

    fn check(&self, at: &Within) -> Result<()> {
        let whole = at.seen == at.commit.rows && at.digest.get() == at.commit.digest;
        if whole { Ok(()) } else { Err(missing(at)) }
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
