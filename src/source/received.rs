//! Records that came through the log: the handle that appends them, and the source that reads them.

use std::fmt;

use super::attach::sealed::Sealed;
use super::cursor::Cursor;
use super::received_plan::{PlannedRecords, ReceivedInput, compare, decode_position, position_at};
use super::reread::Reread;
use super::{
    Amount, Attached, LastRead, Limit, Meter, Opened, Planned, Source, SourceContext, StreamSource,
};
use crate::error::{Error, ErrorKind, Result};
use crate::exec::{Bytes, Name, Spares};
use crate::ids::{LogId, Lsn, StreamId};
use crate::sync::{Arc, Mutex, lock};
use crate::wal::{LsnRange, Pending, Wal};

/// A handle that appends records to one stream of an engine's log. Clones append to the same
/// stream, from any thread.
///
/// A record is processed when it is durable, in the log's order, once. What was acknowledged is
/// never lost: it waits in the log until a completed batch and a checkpoint cover it.
///
/// The handle works without any job, and keeps the log open (and its directory locked) while it
/// lives.
///
/// ```
/// use sawmill::{Engine, EngineOptions, name};
/// # let place = tempfile::tempdir()?;
/// let engine = Engine::open(place.path(), EngineOptions::default())?;
/// let events = engine.ingest(name!("events"))?;
/// let first = events.append(b"durable when this returns")?;
/// let both = events.append_batch(&["all of them", "or none"])?;
/// let pending = events.submit(b"durable soon")?;
/// assert!(first < both.first() && both.last() < pending.lsn());
/// pending.wait()?;
/// assert!(engine.log().durable_lsn() >= both.last());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Ingest {
    name: Name,
    wal: Wal,
    stream: StreamId,
}

impl Ingest {
    /// The handle of this stream of the log, under the name that the engine keeps for it.
    pub(crate) fn new(name: Name, wal: &Wal, stream: StreamId) -> Ingest {
        Ingest { name, wal: wal.clone(), stream }
    }

    /// The stream's name.
    #[must_use]
    pub fn name(&self) -> Name {
        self.name
    }

    pub(super) fn wal(&self) -> &Wal {
        &self.wal
    }

    /// The stream in the log.
    #[must_use]
    pub fn stream(&self) -> StreamId {
        self.stream
    }

    /// Appends a record and returns when it is on stable storage. An empty payload is a record,
    /// too.
    ///
    /// # Errors
    /// As [`Wal::append`].
    pub fn append(&self, payload: &[u8]) -> Result<Lsn> {
        self.wal.append_to(self.stream, payload)
    }

    /// Appends records as one: after a crash all of them are there, or none. Returns when they are
    /// on stable storage. A batch of the job may still be cut between them.
    ///
    /// # Errors
    /// As [`Wal::append_batch`].
    pub fn append_batch(&self, payloads: &[impl AsRef<[u8]>]) -> Result<LsnRange> {
        self.wal.append_batch_to(self.stream, payloads)
    }

    /// Appends a record without waiting until it is on stable storage: its place in the order is
    /// fixed. Waits only while the log has more in memory than it may.
    ///
    /// # Errors
    /// As [`Wal::submit`].
    pub fn submit(&self, payload: &[u8]) -> Result<Pending> {
        self.wal.submit_to(self.stream, payload)
    }
}

/// The records of an [`Ingest`] handle, as a source: a row is a record's bytes.
///
/// A batch is cut at the trigger's bytes, to the end of the record; records are split over
/// partitions by their order and bytes, never by how they were grouped in the log.
///
/// The source starts at the stream's first record that is still in the log, and goes on after a
/// restart behind the last completed batch. Records are kept until a checkpoint covers them. The
/// handle must be of the engine in which the job is started; else starting fails with `Invalid`.
///
/// ```
/// use sawmill::{Engine, EngineOptions, Job, Received, RunOptions, Trigger, name};
/// # let place = tempfile::tempdir()?;
/// let engine = Engine::open(place.path(), EngineOptions::default())?;
/// let lines = engine.ingest(name!("lines"))?;
/// lines.append(b"before the job is started")?;
/// let (job, ()) = Job::build(name!("echo"), |job| {
///     let rows = job.source(name!("in"), Received::from(&lines));
///     rows.for_each_batch(name!("check"), |batch| {
///         assert_eq!(batch.rows().next().unwrap().as_slice(), b"before the job is started");
///         Ok(())
///     });
/// })?;
/// let trigger = Trigger::AvailableNow { bytes: 1 << 20 };
/// let run = engine.start(job, RunOptions { trigger, ..RunOptions::default() })?;
/// assert_eq!(run.await_termination()?.records_read, 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Received(Ingest);

impl From<&Ingest> for Received {
    fn from(ingest: &Ingest) -> Received {
        Received(ingest.clone())
    }
}

impl Sealed for Received {}

impl StreamSource for Received {
    type Row = Bytes;

    fn attach(self, name: Name) -> Attached<Bytes> {
        let spares = Spares::default();
        Attached::new(ReceivedSource {
            name,
            cursor: Mutex::new(Cursor::new(&self.0.wal, self.0.stream, &spares)),
            reread: Mutex::new(Reread::new(&self.0.wal, self.0.stream, &spares)),
            wal: self.0.wal,
            stream: self.0.stream,
            read: Meter::default(),
        })
    }
}

/// [`Received`] in a job.
struct ReceivedSource {
    name: Name,
    wal: Wal,
    stream: StreamId,
    /// What is planned.
    cursor: Mutex<Cursor>,
    /// What was planned before.
    reread: Mutex<Reread>,
    read: Meter,
}

impl fmt::Debug for ReceivedSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReceivedSource")
            .field("name", &self.name)
            .field("stream", &self.stream)
            .finish_non_exhaustive()
    }
}

impl ReceivedSource {
    /// The first LSN not planned yet. What is at and behind a recorded position is in the log, if
    /// retention kept its word (ENGINE.md E3); who never planned anything takes what there is.
    fn check_position(&self, position: Option<&[u8]>) -> Result<Lsn> {
        let from = decode_position(position)?;
        let first = self.wal.first_lsn();
        if position.is_none() || first <= from {
            return Ok(from);
        }
        let text = format!(
            "records that the source `{}` has not processed were removed from the log",
            self.name
        );
        let error = Error::new(ErrorKind::Corrupt, text).at_path(self.wal.path());
        Err(error.for_lsns(from, first.previous()))
    }
}

impl Source for ReceivedSource {
    fn name(&self) -> &str {
        self.name.get()
    }

    fn rests_on(&self) -> &'static str {
        "records are kept in the log until a checkpoint covers them"
    }

    fn stream(&self) -> Option<StreamId> {
        Some(self.stream)
    }

    fn check_log(&self, log: LogId) -> Result<()> {
        if self.wal.log_id() == log {
            return Ok(());
        }
        let text = format!(
            "the source `{}` reads a stream of another engine: use a handle of the engine that \
             the job is started in",
            self.name
        );
        Err(Error::new(ErrorKind::Invalid, text).at_path(self.wal.path()))
    }

    fn plan(
        &self,
        _cx: SourceContext<'_>,
        position: Option<&[u8]>,
        limit: Limit,
    ) -> Result<Option<Planned>> {
        let from = self.check_position(position)?;
        lock(&self.cursor).plan(from, limit)
    }

    fn open(&self, _cx: SourceContext<'_>, input: &[u8]) -> Result<Arc<Opened>> {
        let planned = PlannedRecords::decode(input)?;
        if planned.stream != self.stream {
            let text = format!(
                "a planned input is of stream {}, and the source `{}` reads stream {}",
                planned.stream.get(),
                self.name,
                self.stream.get()
            );
            return Err(Error::new(ErrorKind::JobMismatch, text));
        }
        let taken = lock(&self.cursor).take(&planned);
        let records = match taken {
            Some(records) => records,
            None => lock(&self.reread).read(&planned)?,
        };
        let records_read = crate::ids::to_u64(records.len());
        self.read.add(Amount { bytes: records.bytes(), records: records_read });
        Ok(Arc::new(Opened::new(ReceivedInput::new(planned, records)?)))
    }

    fn read_ahead(&self, limit: Limit) {
        lock(&self.cursor).read_ahead(limit);
    }

    fn let_go(&self) {
        lock(&self.reread).end();
    }

    fn verify_digest(&self, input: &[u8], recorded: &[u8], actual: &[u8]) -> Result<()> {
        compare(&PlannedRecords::decode(input)?, recorded, actual)
    }

    /// Nothing to do: what is durable in the log stays as it is, and replay checks it.
    fn verify_position(
        &self,
        _cx: SourceContext<'_>,
        position: &[u8],
        _last: Option<LastRead<'_>>,
    ) -> Result<()> {
        self.check_position(Some(position)).map(|_| ())
    }

    fn retention(&self, position: Option<&[u8]>) -> Result<Option<Lsn>> {
        decode_position(position).map(Some)
    }

    fn settled(&self, position: Option<&[u8]>) -> Result<Option<Vec<u8>>> {
        let from = self.check_position(position)?;
        Ok(lock(&self.cursor).settle(from).map(position_at))
    }

    fn exhausted(&self, _position: Option<&[u8]>) -> Result<bool> {
        Ok(false)
    }

    fn amount_read(&self) -> Amount {
        self.read.total()
    }
}
