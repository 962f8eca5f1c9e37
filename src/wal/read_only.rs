//! Reading a log beside its writer, or without one, from any process, writing nothing (LOG.md L19).
//!
//! READ-ONLY-1: nothing is written, no lock is taken but the shared one of byte 1 on segments that
//! are open (LOG.md L18). READ-ONLY-2: nothing above what the living writer says is durable is
//! shown; without a writer, nothing that the next opening would not keep. READ-ONLY-3: what was
//! shown once stays: if it is gone, somebody has replaced the files, and that is an error.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use super::catalog::{CATALOG, Saying};
use super::get::OwnedRecord;
use super::index::{SegmentEntry, SegmentIndex};
use super::log_file::LogState;
use super::marks::{LiveMarks, Writer};
use super::options::WalOptions;
use super::recovery::view::{LOCK_NAME, View};
use super::replay::{Record, Replay, Shown};
use super::wal::Wal;
use crate::clock::{Clock, SystemClock};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{LogId, Lsn, StreamId, to_u64};
use crate::storage::{Directory, Storage, SystemStorage};
use crate::sync::{Arc, Mutex, lock};

/// How long, and how often, a reader waits for the writes of a killed writer: 1 s in all.
const SETTLE_STEP: Duration = Duration::from_millis(5);
const SETTLE_WAITS: u32 = 200;
/// How often a log is looked at again that a writer changes meanwhile.
const LOOKS: u32 = 20;

/// A log opened to be read only. Any number of them, in any processes, can be beside one writer.
///
/// They see each record as soon as it is durable and the reader is asked again: nothing wakes them.
/// They hold no record back from truncation. A reader that comes to records which were truncated
/// meanwhile gets an error of kind [`Invalid`](ErrorKind::Invalid) that names them.
///
/// ```
/// use sawmill::{Lsn, Wal, WalOptions};
/// # let place = tempfile::tempdir()?;
/// # let options = WalOptions { segment_size: 64 << 10, ..WalOptions::default() };
/// let wal = Wal::open(place.path(), options)?;
/// wal.append(b"first")?;
/// let reader = Wal::open_read_only(place.path())?; // usually in another process
/// assert_eq!(reader.last_lsn(), Lsn::FIRST);
/// let mut tail = reader.tail(Lsn::FIRST);
/// assert_eq!(tail.try_next().expect("a record")?.payload, b"first");
/// assert!(tail.try_next().is_none());
/// wal.append(b"second")?;
/// assert_eq!(tail.try_next().expect("a record")?.payload, b"second");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct WalReader {
    directory: Arc<dyn Directory>,
    log: LogId,
    seen: Arc<Mutex<Seen>>,
}

/// Who writes the log that a [`WalReader`] reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WriterState {
    /// Nobody. The reader shows what the next opening will keep.
    None,
    /// Somebody, who says nothing that can be understood here: the log is being opened or
    /// repaired, or its writer is another user's or in another container. The reader shows what
    /// the frames themselves say was durable.
    Silent,
    /// A process that says at every moment how far the log is durable.
    Live,
}

/// What a [`WalReader`] has seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReaderStats {
    /// Who writes the log.
    pub writer: WriterState,
    /// The LSN at which the log starts.
    pub first_lsn: Lsn,
    /// The last record that is shown.
    pub last_lsn: Lsn,
    /// Segments that hold them.
    pub segments: u64,
    /// Bytes of each segment prepared from now on.
    pub segment_size: u64,
    /// Whether the log was closed cleanly.
    pub clean: bool,
    /// How often the whole directory was looked at.
    pub looks: u64,
}

#[derive(Debug)]
struct Seen {
    index: Arc<SegmentIndex>,
    state: LogState,
    durable: Lsn,
    /// The last record that stands, or was told to.
    last: Lsn,
    /// From which record on the log says what its streams are called, or the first that may.
    catalog: Lsn,
    writer: Writer,
    looks: u64,
}

impl Wal {
    /// Opens the log in `path` to be read, writing nothing: also beside its writer, from a
    /// read-only file system, or from a copy.
    ///
    /// # Errors
    /// `Invalid` if there is no log; without a writer what [`open`](Wal::open) would fail with:
    /// `Corrupt`, `Unreadable`, `Unsupported`; `Io`.
    pub fn open_read_only(path: impl AsRef<Path>) -> Result<WalReader> {
        let storage = SystemStorage::new(WalOptions::default().backend)?;
        Wal::open_read_only_with(&storage, path)
    }

    /// As [`open_read_only`](Wal::open_read_only), on another storage.
    ///
    /// # Errors
    /// As [`open_read_only`](Wal::open_read_only).
    #[doc(hidden)]
    pub fn open_read_only_with(storage: &dyn Storage, path: impl AsRef<Path>) -> Result<WalReader> {
        let directory = storage.directory(path.as_ref(), false)?;
        let seen = Seen::look(&directory)?;
        Ok(WalReader { log: seen.state.log, directory, seen: Arc::new(Mutex::new(seen)) })
    }
}

impl Seen {
    /// Looks at everything.
    fn look(directory: &Arc<dyn Directory>) -> Result<Seen> {
        let (mut looks, mut waits) = (0, 0);
        loop {
            looks += 1;
            let before = View::state_of(directory)?;
            let writer = Writer::look(&**directory, LOCK_NAME, before.log)?;
            // Before the walk: all of it must be found there.
            let told = match &writer {
                Writer::Live(marks) => marks.durable(),
                Writer::None | Writer::Silent => None,
            };
            let view = View::take(directory, matches!(writer, Writer::None));
            let same = || -> Result<bool> {
                let after = Writer::look(&**directory, LOCK_NAME, before.log)?;
                let alike = writer.is_like(&after);
                Ok(alike && View::state_of(directory)?.start_segment == before.start_segment)
            };
            // Read by read, a writer may have come, gone, or removed what was to be read.
            if looks < LOOKS && !same()? {
                continue;
            }
            let view = view.map_err(|error| overtaken(directory, &before, error))?;
            // Writes of a killed one are in flight, which an opening would wait for, too.
            if matches!(writer, Writer::None) && !view.settled && waits < SETTLE_WAITS {
                waits += 1;
                looks -= 1;
                SystemClock.sleep(SETTLE_STEP);
                continue;
            }
            let writer = match writer {
                Writer::None if !view.settled => Writer::Silent,
                writer @ (Writer::None | Writer::Silent | Writer::Live(_)) => writer,
            };
            let durable = match (&writer, told) {
                (Writer::Live(_), Some(told)) => told,
                // The writer went in between; it is looked at again when the reader asks.
                (Writer::Live(_) | Writer::Silent, _) => view.attested.min(view.last),
                (Writer::None, _) => view.last,
            };
            let index = index_of(directory, view.entries);
            let looks = u64::from(looks);
            let catalog = if view.catalog > Lsn::ZERO { view.catalog } else { view.last.next() };
            let last = view.last.max(durable);
            return Ok(Seen { index, state: view.state, durable, last, catalog, writer, looks });
        }
    }

    /// Takes in what a live writer has added; `false` if that takes a whole look.
    fn follow(&mut self, directory: &Arc<dyn Directory>) -> Result<bool> {
        let Writer::Live(marks) = &self.writer else { return Ok(false) };
        let Some(durable) = marks.durable() else { return Ok(false) };
        if durable <= self.durable {
            return Ok(true);
        }
        loop {
            match next_entry(directory, &self.index, self.state.log, marks) {
                Ok(Some(entry)) => self.index.push(entry),
                Ok(None) => break,
                // What is recycled at this moment cannot be opened.
                Err(_) if self.is_overtaken(&View::state_of(directory)?) => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        let state = View::state_of(directory)?;
        if self.is_overtaken(&state) {
            return Ok(false);
        }
        self.durable = durable;
        self.move_start(state);
        Ok(true)
    }

    /// Whether a truncation has passed all segments that are known: none of the ones that are there
    /// follows them, so they are looked for from scratch.
    fn is_overtaken(&self, state: &LogState) -> bool {
        self.index.last().is_some_and(|last| last.segment.number() < state.start_segment)
    }

    /// Forgets what a truncation has taken away.
    fn move_start(&mut self, state: LogState) {
        self.state = state;
        drop(self.index.remove_before(state.start_segment));
    }

    fn writer_state(&self) -> WriterState {
        match self.writer {
            Writer::None => WriterState::None,
            Writer::Silent => WriterState::Silent,
            Writer::Live(_) => WriterState::Live,
        }
    }
}

/// What an error means of a look at a log that was in this state before: if the log was truncated
/// meanwhile, as each time before, that what was to be read is gone.
fn overtaken(directory: &Arc<dyn Directory>, before: &LogState, error: Error) -> Error {
    match View::state_of(directory) {
        Ok(state) if state.start_segment > before.start_segment => {
            truncated(before.start_lsn, state.start_lsn).caused_by(error)
        }
        Ok(_) | Err(_) => error,
    }
}

/// The segment behind the last one, if the living writer has begun it: frames of no other
/// incarnation can follow its own.
fn next_entry(
    directory: &Arc<dyn Directory>,
    index: &SegmentIndex,
    log: LogId,
    marks: &LiveMarks,
) -> Result<Option<SegmentEntry>> {
    let Some(last) = index.last() else { return Ok(None) };
    let number = last.segment.number().next();
    let found = View::first_frame(directory, log, last.segment.home(), number)?;
    let own =
        found.filter(|(header, _)| (header.epoch, header.nonce) == (marks.epoch, marks.nonce));
    Ok(own.map(|(header, segment)| SegmentEntry { segment, first_lsn: header.first_lsn }))
}

/// An index that knows when what it names was truncated.
fn index_of(directory: &Arc<dyn Directory>, entries: Vec<SegmentEntry>) -> Arc<SegmentIndex> {
    let directory = Arc::clone(directory);
    let start = move || View::state_of(&directory).ok().map(|state| state.start_lsn);
    Arc::new(SegmentIndex::new(entries).with_start(Box::new(start)))
}

impl WalReader {
    /// Looks how far the log has come; returns the last LSN that is shown now. Replays, tails and
    /// look-ups do so by themselves.
    ///
    /// # Errors
    /// As [`Wal::open_read_only`]; `Corrupt` if records that were shown are gone, which no writer
    /// and no crash does.
    pub fn refresh(&self) -> Result<Lsn> {
        let mut seen = lock(&self.seen);
        self.refresh_locked(&mut seen)?;
        Ok(seen.durable)
    }

    fn refresh_locked(&self, seen: &mut Seen) -> Result<()> {
        if seen.follow(&self.directory)? {
            return Ok(());
        }
        let state = View::state_of(&self.directory)?;
        let unwritten = matches!(seen.writer, Writer::None) && state == seen.state;
        // A writer that came and went has written a slot of `LOG`.
        if unwritten && matches!(self.writer()?, Writer::None) {
            return Ok(());
        }
        self.look_again(seen)
    }

    fn look_again(&self, seen: &mut Seen) -> Result<()> {
        let found = Seen::look(&self.directory)?;
        if found.state.log != self.log || found.last < seen.durable {
            let message = "records that were shown are gone: the log's files were replaced";
            let error = Error::new(ErrorKind::Corrupt, message).at_path(self.directory.path());
            return Err(error.for_lsns(found.durable.next(), seen.durable));
        }
        // What was shown was durable, whatever a silent writer's frames attest by now.
        let durable = found.durable.max(seen.durable);
        let looks = seen.looks + found.looks;
        *seen = Seen { looks, durable, ..found };
        Ok(())
    }

    fn writer(&self) -> Result<Writer> {
        Writer::look(&*self.directory, LOCK_NAME, self.log)
    }

    /// Reads the user's records in LSN order, from the first to the last one that is durable now.
    ///
    /// # Errors
    /// As [`refresh`](WalReader::refresh).
    pub fn replay(&self) -> Result<Replay> {
        self.replay_from(Lsn::ZERO)
    }

    /// As [`replay`](WalReader::replay), from `lsn` on.
    ///
    /// # Errors
    /// As [`refresh`](WalReader::refresh).
    pub fn replay_from(&self, lsn: Lsn) -> Result<Replay> {
        self.begin(lsn, Lsn::new(u64::MAX), false)
    }

    /// As [`replay_from`](WalReader::replay_from), the engine's internal records included.
    ///
    /// # Errors
    /// As [`refresh`](WalReader::refresh).
    #[doc(hidden)]
    pub fn replay_all_from(&self, lsn: Lsn) -> Result<Replay> {
        self.begin(lsn, Lsn::new(u64::MAX), true)
    }

    fn begin(&self, from: Lsn, to: Lsn, internal: bool) -> Result<Replay> {
        let mut seen = lock(&self.seen);
        self.refresh_locked(&mut seen)?;
        let mut state = View::state_of(&self.directory)?;
        for _ in 0..LOOKS {
            if !seen.is_overtaken(&state) {
                break;
            }
            self.look_again(&mut seen)?;
            state = View::state_of(&self.directory)?;
        }
        seen.move_start(state);
        let (index, directory) = (Arc::clone(&seen.index), Arc::clone(&self.directory));
        let through = seen.durable.min(to);
        Ok(Replay::new(index, directory, self.log, from, through, internal))
    }

    /// The record with this LSN; `None` if there is none to be shown.
    ///
    /// # Errors
    /// As [`refresh`](WalReader::refresh), and as [`Wal::get`].
    pub fn get(&self, lsn: Lsn) -> Result<Option<OwnedRecord>> {
        if lsn > self.refresh()? || lsn < self.first_lsn() {
            return Ok(None);
        }
        let mut replay = self.begin(lsn, lsn, false)?;
        let Some(record) = replay.next().transpose()? else { return Ok(None) };
        Ok((record.lsn == lsn).then(|| record.to_owned_record()))
    }

    /// The number of the stream of this name; `None` if there is none yet.
    ///
    /// # Errors
    /// As [`refresh`](WalReader::refresh), and as a replay.
    ///
    /// ```
    /// # let place = tempfile::tempdir()?;
    /// # let options = sawmill::WalOptions { segment_size: 64 << 10, ..Default::default() };
    /// let wal = sawmill::Wal::open(place.path(), options)?;
    /// let reader = sawmill::Wal::open_read_only(place.path())?;
    /// let orders = wal.stream("orders")?;
    /// assert_eq!(reader.find_stream("orders")?, Some(orders.id()));
    /// assert_eq!(reader.find_stream("no such")?, None);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn find_stream(&self, name: &str) -> Result<Option<StreamId>> {
        let from = lock(&self.seen).catalog;
        let (found, whole) = self.find_stream_from(name, from)?;
        if found.is_some() || whole {
            return Ok(found);
        }
        // What a repair gave up may have been said before, too, as for an opening.
        Ok(self.find_stream_from(name, self.first_lsn())?.0)
    }

    /// The number that the catalog gives a name from `from` on, and whether all of that is there.
    fn find_stream_from(&self, name: &str, from: Lsn) -> Result<(Option<StreamId>, bool)> {
        let mut whole = true;
        let mut replay = self.begin(from, Lsn::new(u64::MAX), true)?.stream(CATALOG);
        while let Some(record) = replay.next() {
            let record = match record {
                // A name that was given up with its record.
                Err(error) if error.kind() == ErrorKind::Lost => {
                    whole = false;
                    continue;
                }
                record => record?,
            };
            let here = |error: Error| error.at_path(self.path()).for_lsns(record.lsn, record.lsn);
            if let Some(Saying::Stream(id, known)) = Saying::decode(record.payload).map_err(here)?
                && known == name
            {
                return Ok((Some(id), whole));
            }
        }
        Ok((None, whole))
    }

    /// Follows the user's records from `from` on; from below the start it begins at the start.
    #[must_use]
    pub fn tail(&self, from: Lsn) -> ReaderTail {
        let (reader, next) = (self.clone(), from.max(Lsn::FIRST));
        let (through, last) = (Lsn::ZERO, Lsn::new(u64::MAX));
        ReaderTail { reader, replay: None, next, through, last, stream: None, internal: false }
    }

    /// The LSN at which the log started when the reader last looked.
    #[must_use]
    pub fn first_lsn(&self) -> Lsn {
        lock(&self.seen).state.start_lsn
    }

    /// The last record that was durable when the reader last looked; one below
    /// [`first_lsn`](WalReader::first_lsn) if there was none.
    #[must_use]
    pub fn last_lsn(&self) -> Lsn {
        lock(&self.seen).durable
    }

    /// The log's identity.
    #[must_use]
    pub fn log_id(&self) -> LogId {
        self.log
    }

    /// The log's directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// What the reader has seen when it last looked.
    #[must_use]
    pub fn stats(&self) -> ReaderStats {
        let seen = lock(&self.seen);
        ReaderStats {
            writer: seen.writer_state(),
            first_lsn: seen.state.start_lsn,
            last_lsn: seen.durable,
            segments: to_u64(seen.index.reaching(Lsn::ZERO).len()),
            segment_size: seen.state.segment_size,
            clean: seen.state.clean,
            looks: seen.looks,
        }
    }
}

/// The log's records as a [`WalReader`] sees them become durable. It does not wait.
pub struct ReaderTail {
    reader: WalReader,
    replay: Option<Box<Replay>>,
    next: Lsn,
    through: Lsn,
    last: Lsn,
    stream: Option<StreamId>,
    internal: bool,
}

impl ReaderTail {
    /// Shows only the records of one stream.
    #[must_use]
    pub fn stream(mut self, stream: StreamId) -> ReaderTail {
        self.stream = Some(stream);
        self
    }

    /// Shows nothing above this record, so that it ends also beside a writer that never rests.
    #[must_use]
    pub fn through(mut self, last: Lsn) -> ReaderTail {
        self.last = last;
        self
    }

    /// Shows the engine's internal records too.
    #[doc(hidden)]
    #[must_use]
    pub fn with_internal(mut self) -> ReaderTail {
        self.internal = true;
        self
    }

    /// The LSN from which it goes on.
    #[must_use]
    pub fn next_lsn(&self) -> Lsn {
        self.next
    }

    /// The next record, if it is durable by now; `None` if not: ask again later. After an error it
    /// tries again, but for [`Lost`](ErrorKind::Lost): then it goes on behind what is lost.
    ///
    /// # Errors
    /// As [`WalReader::refresh`] and [`Replay::next`]. `Invalid` if records that were not shown
    /// were truncated: take another tail, from the log's start.
    pub fn try_next(&mut self) -> Option<Result<Record<'_>>> {
        let shown = match self.look()? {
            Ok(shown) => shown,
            Err(error) => return Some(Err(error)),
        };
        let bytes = self.replay.as_ref().map_or(&[][..], |replay| replay.bytes());
        let extension = &bytes[shown.extension()];
        let Shown { lsn, stream, internal, payload, .. } = shown;
        Some(Ok(Record { lsn, stream, internal, payload: &bytes[payload], extension }))
    }

    fn look(&mut self) -> Option<Result<Shown>> {
        loop {
            if self.replay.is_none() {
                match self.turn() {
                    Ok(true) => {}
                    Ok(false) => return None,
                    Err(error) => return Some(Err(error)),
                }
            }
            match self.replay.as_mut()?.advance() {
                Some(Ok(shown)) => {
                    self.next = shown.lsn.next();
                    if self.stream.is_none_or(|stream| stream == shown.stream) {
                        return Some(Ok(shown));
                    }
                }
                Some(Err(error)) => {
                    match (error.kind(), error.lsns()) {
                        (ErrorKind::Lost, Some((_, last))) => self.next = last.next(),
                        _ => self.replay = None,
                    }
                    return Some(Err(error));
                }
                None => {
                    self.next = self.next.max(self.through.next());
                    self.replay = None;
                }
            }
        }
    }

    /// Reads on what became durable meanwhile; `false` if nothing did.
    fn turn(&mut self) -> Result<bool> {
        let durable = self.reader.refresh()?.min(self.last);
        if self.next > durable {
            return Ok(false);
        }
        let replay = self.reader.begin(self.next, durable, self.internal)?;
        let start = self.reader.first_lsn();
        if self.next < start && self.through > Lsn::ZERO {
            let error = truncated(self.next, start);
            return Err(error.at_path(self.reader.path()));
        }
        (self.replay, self.through) = (Some(Box::new(replay)), durable);
        Ok(true)
    }
}

/// The error of who comes to records that a truncation has taken away.
pub(super) fn truncated(next: Lsn, start: Lsn) -> Error {
    let message = "records were removed by truncation before this reader came to them";
    Error::new(ErrorKind::Invalid, message).for_lsns(next, start.previous())
}

impl fmt::Debug for WalReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WalReader({}, durable {})", self.path().display(), self.last_lsn())
    }
}

impl fmt::Debug for ReaderTail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ReaderTail(next {})", self.next)
    }
}

#[cfg(test)]
mod tests;
