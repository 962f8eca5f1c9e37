//! Following the log: each record as soon as it is durable.
//!
//! TAIL-1: a tail shows what a replay would, in the same order, each record once, none above the
//! durable LSN (LOG.md L19). TAIL-2: nothing polls: who waits is woken by the leader that raised
//! the durable mark, by poison, or by the close. TAIL-3: while it waits, a tail holds no segment.

use std::fmt;
use std::ops::Range;
use std::task::{Context, Poll, Waker};

use super::core::{Core, Open, Phase, closed};
use super::group::Resolved;
use super::recent::RecentFrame;
use super::record::{self, RecordKind};
use super::replay::{Record, Replay};
use super::wal::Wal;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{Lsn, StreamId};
use crate::planted::{Bug, planted};
use crate::sync::{Arc, lock};

/// The log's user records as they become durable.
///
/// A tail that keeps up is served from memory: while there are tails, the log keeps the frames
/// written last, up to 4 MiB of records. One that is too slow, or begins in the past, reads the
/// files until it has caught up. It never holds up a writer, and it neither writes nor syncs:
/// what was only submitted is shown when somebody has made it durable.
///
/// A tail does not keep the log open. When the log is closed, or its last handle dropped, a tail
/// that keeps up ends after the last durable record, and one that would have to open files gets
/// [`Closed`](ErrorKind::Closed). When the log is poisoned, the tail shows what is durable and
/// then the error.
///
/// ```
/// use sawmill::{Lsn, Wal, WalOptions};
/// # let place = tempfile::tempdir()?;
/// # let options = WalOptions { segment_size: 64 << 10, ..WalOptions::default() };
/// let wal = Wal::open(place.path(), options)?;
/// wal.append(b"before")?;
/// let mut tail = wal.tail(Lsn::FIRST)?;
/// let writer = std::thread::spawn(move || wal.append(b"after"));
/// assert_eq!(tail.next().expect("a record")?.payload, b"before");
/// assert_eq!(tail.next().expect("a record")?.payload, b"after"); // waits for it
/// writer.join().expect("no panic")?;
/// assert!(tail.next().is_none()); // the last handle was dropped
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Tail {
    core: Arc<Core>,
    source: Source,
    /// What is shown next is not below.
    next: Lsn,
    /// Whether a record was shown already, or a place was found.
    begun: bool,
    stream: Option<StreamId>,
    ended: bool,
    file_reads: u64,
}

/// Where the records come from at the moment.
enum Source {
    /// Nowhere: whatever was durable was shown.
    Nothing,
    /// A frame in memory, and what was not shown of it.
    Memory { frame: RecentFrame, rest: Range<usize> },
    /// The files, through the LSN that was durable when they were opened.
    Files { replay: Box<Replay>, through: Lsn },
}

/// What a look at the source gave.
enum Step {
    /// A record, and its place in the source.
    Found(Place),
    /// Whatever is durable was shown.
    CaughtUp,
}

impl Wal {
    /// Follows the user's records from `from` on: those that are durable already, and then each
    /// as soon as it is. From below the start it begins at the start; `durable_lsn().next()`
    /// shows new records only.
    ///
    /// # Errors
    /// `Poisoned`, `Closed`, `Forked`.
    pub fn tail(&self, from: Lsn) -> Result<Tail> {
        let core = Arc::clone(self.core());
        core.check()?;
        core.progress.recent.join();
        let (source, next) = (Source::Nothing, from.max(Lsn::FIRST));
        let (begun, stream, ended, file_reads) = (false, None, false, 0);
        let mut tail = Tail { core, source, next, begun, stream, ended, file_reads };
        tail.turn()?;
        tail.begun = true;
        Ok(tail)
    }
}

impl Tail {
    /// Shows only the records of one stream, given by its number or by the handle of a
    /// [named one](crate::WalStream).
    #[must_use]
    pub fn stream(mut self, stream: impl Into<StreamId>) -> Tail {
        self.stream = Some(stream.into());
        self
    }

    /// The LSN from which it goes on.
    #[must_use]
    pub fn next_lsn(&self) -> Lsn {
        self.next
    }

    /// How often it turned to the files. While it keeps up, this does not grow.
    #[must_use]
    pub fn file_reads(&self) -> u64 {
        self.file_reads
    }

    /// The next record, waiting for it; `None` when the log was closed. After an error there is
    /// nothing more, unless it is [`Lost`](ErrorKind::Lost), as in a [`Replay`].
    ///
    /// # Errors
    /// What the log was poisoned with, after the last durable record. `Invalid` if records that
    /// were not shown were removed by truncation. As [`Replay::next`]. `Forked`.
    #[allow(clippy::should_implement_trait, reason = "records borrow from the tail")]
    pub fn next(&mut self) -> Option<Result<Record<'_>>> {
        loop {
            match self.look() {
                Some(Ok(Step::Found(place))) => return Some(Ok(self.record(place))),
                Some(Ok(Step::CaughtUp)) => {
                    if let Err(error) = self.wait(None) {
                        return self.end(error).map(Err);
                    }
                }
                Some(Err(error)) => return self.end(Some(error)).map(Err),
                None => return None,
            }
        }
    }

    /// The next record if it is durable already; `None` if not, or if there is nothing more.
    ///
    /// # Errors
    /// As [`next`](Tail::next), but nothing of poison.
    pub fn try_next(&mut self) -> Option<Result<Record<'_>>> {
        match self.look()? {
            Ok(Step::Found(place)) => Some(Ok(self.record(place))),
            Ok(Step::CaughtUp) => None,
            Err(error) => self.end(Some(error)).map(Err),
        }
    }

    /// As [`next`](Tail::next), without blocking: when it is not there yet, the context's waker is
    /// woken once something more is durable. For a `Stream` of any runtime. It may read files.
    ///
    /// # Errors
    /// As [`next`](Tail::next).
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Record<'_>>>> {
        loop {
            match self.look() {
                Some(Ok(Step::Found(place))) => return Poll::Ready(Some(Ok(self.record(place)))),
                Some(Ok(Step::CaughtUp)) => match self.wait(Some(context.waker())) {
                    Ok(true) => {}
                    Ok(false) => return Poll::Pending,
                    Err(error) => return Poll::Ready(self.end(error).map(Err)),
                },
                Some(Err(error)) => return Poll::Ready(self.end(Some(error)).map(Err)),
                None => return Poll::Ready(None),
            }
        }
    }

    fn end(&mut self, error: Option<Error>) -> Option<Error> {
        if error.as_ref().is_some_and(|error| error.kind() == ErrorKind::Lost) {
            return error;
        }
        self.ended = true;
        self.source = Source::Nothing;
        error
    }

    fn record(&self, place: Place) -> Record<'_> {
        let bytes: &[u8] = match &self.source {
            Source::Memory { frame, .. } => &frame.payload,
            Source::Files { replay, .. } => replay.bytes(),
            Source::Nothing => &[],
        };
        let Place { lsn, stream, extension, payload } = place;
        let (payload, extension) = (&bytes[payload], &bytes[extension]);
        Record { lsn, stream, internal: false, payload, extension }
    }

    /// The next record that is durable; `None` after the end.
    fn look(&mut self) -> Option<Result<Step>> {
        while !self.ended {
            let found = match &mut self.source {
                Source::Memory { frame, rest } => from_memory(frame, rest, &mut self.next),
                Source::Files { replay, through } => match replay.advance() {
                    Some(Ok(shown)) => {
                        self.next = shown.lsn.next();
                        let extension = shown.extension();
                        let (lsn, stream) = (shown.lsn, shown.stream);
                        Some(Ok(Place { lsn, stream, extension, payload: shown.payload }))
                    }
                    Some(Err(error)) => {
                        if let (ErrorKind::Lost, Some((_, last))) = (error.kind(), error.lsns()) {
                            self.next = last.next();
                        }
                        Some(Err(error))
                    }
                    None => {
                        self.next = self.next.max(through.next());
                        None
                    }
                },
                Source::Nothing => None,
            };
            match found {
                Some(Ok(place)) => {
                    if self.stream.is_none_or(|wanted| wanted == place.stream) {
                        return Some(Ok(Step::Found(place)));
                    }
                }
                Some(Err(error)) => return Some(Err(error)),
                None => match self.turn() {
                    Ok(true) => {}
                    Ok(false) => return Some(Ok(Step::CaughtUp)),
                    Err(error) => return Some(Err(error)),
                },
            }
        }
        None
    }

    /// Finds the next source; `false` if nothing more is durable.
    fn turn(&mut self) -> Result<bool> {
        self.source = Source::Nothing;
        self.core.check_fork()?;
        let durable = self.core.progress.durable();
        if self.next > durable && !planted(Bug::ReadAboveDurable) {
            return Ok(false);
        }
        if let Some(frame) = self.core.progress.recent.holding(self.next)
            && (frame.next <= durable.next() || planted(Bug::ReadAboveDurable))
        {
            self.begun = true;
            // Records below are passed when they are come to.
            let rest = 0..frame.payload.len();
            let skip = self.next;
            self.next = frame.first;
            self.source = Source::Memory { frame, rest };
            self.skip_to(skip)?;
            return Ok(true);
        }
        if self.next > durable {
            return Ok(false);
        }
        let replay = self.core.replay_through(self.next, durable, false);
        let Some(start) = replay.begins_at() else { return Err(closed()) };
        if self.begun && self.next < start {
            let message = "records were removed by truncation before this tail came to them: pin \
                           what is still to be read";
            let error = Error::new(ErrorKind::Invalid, message);
            let error = error.at_path(self.core.directory.path());
            return Err(error.for_lsns(self.next, start.previous()));
        }
        (self.begun, self.file_reads) = (true, self.file_reads + 1);
        self.source = Source::Files { replay: Box::new(replay), through: durable };
        Ok(true)
    }

    /// Passes the records below `lsn` of a frame in memory.
    fn skip_to(&mut self, lsn: Lsn) -> Result<()> {
        if let Source::Memory { frame, rest } = &mut self.source {
            while self.next < lsn {
                let Some(_) = take(frame, rest, &mut self.next).transpose()? else { break };
            }
        }
        Ok(())
    }

    /// Waits until there may be more to see: in a call, or with a waker. `Ok(true)`: look again;
    /// `Ok(false)`: the waker will be woken. `Err(None)`: the log was closed.
    fn wait(&mut self, waker: Option<&Waker>) -> Result<bool, Option<Error>> {
        let mut open = lock(&self.core.open);
        if self.core.progress.durable() >= self.next {
            return Ok(true);
        }
        if let Some(error) = &open.failed {
            return Err(Some(error.clone()));
        }
        if open.phase == Phase::Closed {
            return Err(None);
        }
        let Some(waker) = waker else {
            let ticket = open.tails.follow();
            drop(open);
            ticket.group.wait().map_err(Some)?;
            return Ok(true);
        };
        open.tails.join_future(waker);
        Ok(false)
    }
}

impl Open {
    /// Lets the tails look again: they are woken with the others, by whoever has the result.
    pub(super) fn tails_look(&mut self) -> Option<Resolved> {
        let waiting = self.tails.is_awaited().then(|| std::mem::take(&mut self.tails));
        waiting.map(|waiting| waiting.resolve(None))
    }
}

/// A record, and where it is in the source.
struct Place {
    lsn: Lsn,
    stream: StreamId,
    extension: Range<usize>,
    payload: Range<usize>,
}

/// The next user record of a frame in memory.
fn from_memory(
    frame: &RecentFrame,
    rest: &mut Range<usize>,
    next: &mut Lsn,
) -> Option<Result<Place>> {
    loop {
        match take(frame, rest, next)? {
            Ok((RecordKind::User, place)) => return Some(Ok(place)),
            Ok((RecordKind::Internal | RecordKind::Void, _)) => {}
            Err(error) => return Some(Err(error)),
        }
    }
}

/// Takes a record off a frame in memory; its LSN is `next`.
fn take(
    frame: &RecentFrame,
    rest: &mut Range<usize>,
    next: &mut Lsn,
) -> Option<Result<(RecordKind, Place)>> {
    if rest.start >= rest.end {
        return None;
    }
    let mut bytes = frame.payload.get(rest.clone())?;
    let Some(record) = record::decode(&mut bytes) else {
        let message = "a frame in memory holds no whole record where one must begin";
        return Some(Err(Error::new(ErrorKind::Corrupt, message).for_lsns(*next, *next)));
    };
    let end = rest.end - bytes.len();
    rest.start = end;
    let lsn = *next;
    *next = lsn.next();
    let payload = end - record.payload.len()..end;
    let extension = payload.start - record.extension.len()..payload.start;
    Some(Ok((record.kind, Place { lsn, stream: record.stream, extension, payload })))
}

impl Drop for Tail {
    fn drop(&mut self) {
        // In a forked child the parent's other threads may hold the lock for ever.
        if self.core.fork.is_forked() {
            return;
        }
        self.core.progress.recent.leave();
    }
}

impl fmt::Debug for Tail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tail(next {}, {} turns to the files)", self.next, self.file_reads)
    }
}
