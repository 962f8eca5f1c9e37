//! Reading the log back, in order, as borrowed slices.
//!
//! REPLAY-1: nothing above the LSN that was durable when the replay began is shown (LOG.md L19).
//! REPLAY-2: every frame's payload is verified before the first of its records is shown, and every
//! frame continues the one before, across segments too. A place where that fails is read again
//! from the device before it is called corruption (LOG.md L14).

mod ahead;
mod cold;
mod frames;
mod mapped;
pub(crate) mod par;
mod reader;
mod source;

use std::fmt;
use std::ops::Range;

use crate::checksum::bring_in;
use crate::error::{Error, Result};
use crate::ids::{LogId, Lsn, Position, StreamId};
use crate::storage::Directory;
use crate::sync::Arc;
use crate::wal::compress::{Packed, unpack};
use crate::wal::index::SegmentIndex;
use crate::wal::record::{self, RecordKind};
use frames::{Frames, Step};
use source::Held;
#[cfg(test)]
pub(in crate::wal) use source::tests::past_the_cache;

/// How much is brought into the cache at once, of what another core has verified: well within the
/// smallest cache.
const WARM: usize = 16 * 1024;
/// How many threads verify ahead at most.
const MAX_THREADS: usize = 64;

/// A record as [`Replay`] shows it. Its bytes are borrowed from the replay, not copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Record<'a> {
    /// Its place in the total order.
    pub lsn: Lsn,
    /// The stream it was appended to.
    pub stream: StreamId,
    /// Whether the engine wrote it for itself.
    pub internal: bool,
    /// The bytes that were appended.
    pub payload: &'a [u8],
    /// The extension's fields, which decode.
    pub(super) extension: &'a [u8],
}

/// The log's records in LSN order, from a place up to what was durable when the replay began.
///
/// Only user records are shown: LSNs rise, but some may be skipped. A replay keeps the segments
/// it started with: truncation meanwhile takes nothing from it. To see what was appended since,
/// take another one from the next LSN. What the page cache holds of a sealed segment is read
/// there, by a map; a segment that it does not hold is read past it, with up to four reads of 1
/// MiB in flight and 20 MiB of memory at most, and is not there afterwards either: who means to
/// read a log again and again, and has the memory, reads its files once, or
/// [`copied`](Replay::copied). It also keeps the lock of the segment that was active: drop it
/// before the log is opened again, or that fails with [`Locked`](crate::ErrorKind::Locked).
///
/// A segment file that somebody else cuts short meanwhile is an error, not a signal, unless it
/// is cut under the very piece (256 KiB, or one frame) that is being read, or under a record that
/// is still being looked at: no program should touch the files of an open log. Where one might,
/// [`copied`](Replay::copied) closes that gap too.
///
/// ```
/// use sawmill::{Lsn, StreamId, Wal, WalOptions};
/// # let place = tempfile::tempdir()?;
/// # let options = WalOptions { segment_size: 64 << 10, ..WalOptions::default() };
/// let wal = Wal::open(place.path(), options)?;
/// for (stream, payload) in [(1, "a"), (2, "b"), (1, "c"), (1, "d")] {
///     wal.append_to(StreamId::new(stream), payload.as_bytes())?;
/// }
/// let mut replay = wal.replay()?.stream(StreamId::new(1)).from(Lsn::new(2)).to(Lsn::new(3));
/// let mut shown = Vec::new();
/// while let Some(record) = replay.next() {
///     shown.push(record?.payload.to_vec());
/// }
/// assert_eq!(shown, [b"c"]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Replay {
    frames: Frames,
    /// What holds the current frame; if nothing, the frames' own window.
    map: Option<Held>,
    /// The current frame's records, if it is compressed; and the memory for the next one.
    plain: Vec<u8>,
    unpacked: bool,
    /// The current frame's records that were not shown yet, in those bytes.
    rest: Range<usize>,
    records: u32,
    next_lsn: Lsn,
    /// Up to where the bytes are in this core's cache, as far as that matters.
    warm: usize,
    /// Whether no frame was looked at yet.
    fresh: bool,
    internal: bool,
    stream: Option<StreamId>,
    to: Lsn,
}

/// A record found: where its payload is in the current frame's bytes.
pub(super) struct Shown {
    pub(super) lsn: Lsn,
    pub(super) stream: StreamId,
    pub(super) internal: bool,
    /// Bytes of the extension's fields, right before the payload.
    extension: u16,
    pub(super) payload: Range<usize>,
}

impl Shown {
    /// Where the extension's fields are.
    #[inline]
    pub(super) fn extension(&self) -> Range<usize> {
        self.payload.start - usize::from(self.extension)..self.payload.start
    }
}

impl Replay {
    /// A replay of the records from `from` through `through`, which must be durable; with the
    /// engine's own ones if `internal`. From below the start it begins at the start.
    pub(crate) fn new(
        index: Arc<SegmentIndex>,
        directory: Arc<dyn Directory>,
        log: LogId,
        from: Lsn,
        through: Lsn,
        internal: bool,
    ) -> Replay {
        Replay::of(Frames::new(index, directory, log, from, through), internal)
    }

    fn of(frames: Frames, internal: bool) -> Replay {
        let next_lsn = frames.from;
        let (map, rest, records, warm, fresh) = (None, 0..0, 0, usize::MAX, true);
        let (stream, to) = (None, Lsn::new(u64::MAX));
        let (plain, unpacked) = (Vec::new(), false);
        Replay {
            frames,
            map,
            plain,
            unpacked,
            rest,
            records,
            next_lsn,
            warm,
            fresh,
            internal,
            stream,
            to,
        }
    }

    /// Behind the last frame that was read.
    pub(crate) fn position(&self) -> Position {
        self.frames.position()
    }

    /// Whether a record above those that were read is in the current segment, or the next one.
    pub(crate) fn comes_to(&self, lsn: Lsn) -> bool {
        self.frames.comes_to(lsn)
    }

    /// The first LSN of the oldest segment it reads; `None` if the log has given its segments away.
    pub(super) fn begins_at(&self) -> Option<Lsn> {
        self.frames.first_lsn()
    }

    /// Shows only the records of one stream, given by its number or by the handle of a
    /// [named one](crate::WalStream).
    #[must_use]
    pub fn stream(mut self, stream: impl Into<StreamId>) -> Replay {
        self.stream = Some(stream.into());
        self
    }

    /// Leaves out the records below `lsn`. Segments that lie wholly below are not looked at.
    #[must_use]
    pub fn from(mut self, lsn: Lsn) -> Replay {
        self.frames.skip_to(lsn, self.fresh);
        self
    }

    /// Ends with the record `lsn`; `lsn` may be above what is durable.
    #[must_use]
    pub fn to(mut self, lsn: Lsn) -> Replay {
        self.to = self.to.min(lsn);
        self.frames.end_with(lsn);
        self
    }

    /// Reads sealed segments into memory of its own instead of mapping them, which costs a copy,
    /// and a [`verify_ahead`](Replay::verify_ahead) does nothing. Then nothing that happens to the
    /// log's files can raise a signal: a file that is cut while a record of it is looked at is an
    /// error of the next call. For places where others may touch the files, as on a network.
    ///
    /// ```
    /// # let place = tempfile::tempdir()?;
    /// # let options = sawmill::WalOptions { segment_size: 64 << 10, ..Default::default() };
    /// let wal = sawmill::Wal::open(place.path(), options)?;
    /// for _ in 0..40 {
    ///     wal.append(&[7; 10_000])?;
    /// }
    /// let (mut replay, mut count) = (wal.replay()?.copied(), 0);
    /// while let Some(record) = replay.next() {
    ///     count += record?.payload.len();
    /// }
    /// assert_eq!(count, 400_000);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn copied(mut self) -> Replay {
        self.frames.mapped = false;
        self
    }

    /// Verifies frames ahead of the reader on `threads` threads of its own, at most 64; 0 (the
    /// default): on the reader's. Only sealed segments that the page cache holds, and at most
    /// `8 * threads` pieces of 512 KiB (or one frame) at once. Records, their order and errors
    /// are the same. The threads start with the first [`next`](Replay::next) and end before the
    /// replay is dropped, or when there is nothing left to verify. There are no more than
    /// the other processors can run, and fewer if the system refuses some.
    ///
    /// ```
    /// # let place = tempfile::tempdir()?;
    /// # let options = sawmill::WalOptions { segment_size: 64 << 10, ..Default::default() };
    /// let wal = sawmill::Wal::open(place.path(), options)?;
    /// for _ in 0..40 {
    ///     wal.append(&[7; 10_000])?;
    /// }
    /// let (mut replay, mut count) = (wal.replay()?.verify_ahead(2), 0);
    /// while let Some(record) = replay.next() {
    ///     count += record?.payload.len();
    /// }
    /// assert_eq!(count, 400_000);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn verify_ahead(mut self, threads: usize) -> Replay {
        self.frames.threads = threads.min(MAX_THREADS);
        self
    }

    /// The next record; `None` at the end. After an error there is nothing more, unless it is
    /// [`Lost`](crate::ErrorKind::Lost): where an explicit repair gave records up, a replay says so
    /// once, with their LSNs, and goes on with the first record behind them.
    ///
    /// # Errors
    /// `Corrupt` with the position and the records that are lost, confirmed by reading the device
    /// again; `Unreadable` if it returns no bytes; `Lost`.
    #[allow(clippy::should_implement_trait, reason = "records borrow from the replay")]
    #[inline]
    pub fn next(&mut self) -> Option<Result<Record<'_>>> {
        let shown = match self.advance()? {
            Ok(shown) => shown,
            Err(error) => return Some(Err(error)),
        };
        let extension = &self.bytes()[shown.extension()];
        let Shown { lsn, stream, internal, payload, .. } = shown;
        let payload = &self.bytes()[payload];
        Some(Ok(Record { lsn, stream, internal, payload, extension }))
    }

    /// The bytes that hold the current frame.
    #[inline]
    pub(super) fn bytes(&self) -> &[u8] {
        match &self.map {
            Some(map) => map,
            None if self.unpacked => &self.plain,
            None => self.frames.window(),
        }
    }

    #[inline]
    pub(super) fn advance(&mut self) -> Option<Result<Shown>> {
        loop {
            if self.records == 0 {
                match self.next_frame() {
                    Ok(Turn::Frame) => continue,
                    Ok(Turn::End) => return None,
                    Ok(Turn::Lost(error))
                        if error.lsns().is_some_and(|(lost, _)| lost > self.to) =>
                    {
                        return None;
                    }
                    Ok(Turn::Lost(error)) => return Some(Err(error)),
                    Err(error) => return Some(Err(self.end(error))),
                }
            }
            if self.rest.start >= self.warm {
                self.warm_up();
            }
            let mut rest = self.bytes().get(self.rest.clone()).unwrap_or_default();
            let Some(record) = record::decode(&mut rest) else {
                let error = self.frames.senseless(self.next_lsn);
                return Some(Err(self.end(error)));
            };
            let (stream, kind, length) = (record.stream, record.kind, record.payload.len());
            #[allow(clippy::cast_possible_truncation, reason = "its length has 16 bits")]
            let extension = record.extension.len() as u16;
            let lsn = self.next_lsn;
            self.rest.start = self.rest.end - rest.len();
            self.next_lsn = lsn.next();
            self.records -= 1;
            let internal = match kind {
                RecordKind::User => false,
                RecordKind::Internal if self.internal => true,
                RecordKind::Internal | RecordKind::Void => continue,
            };
            if lsn > self.to {
                self.frames.ended = true;
                (self.records, self.rest) = (0, 0..0);
                return None;
            }
            if lsn >= self.frames.from && self.stream.is_none_or(|wanted| wanted == stream) {
                let payload = self.rest.start - length..self.rest.start;
                return Some(Ok(Shown { lsn, stream, internal, extension, payload }));
            }
        }
    }

    /// Brings the next bytes into this core's cache. Records are walked from length to length, one
    /// miss after the other; here the misses overlap.
    #[inline(never)]
    fn warm_up(&mut self) {
        let end = self.rest.end.min(self.rest.start.saturating_add(WARM));
        let bytes = self.bytes().get(self.rest.start..end).unwrap_or_default();
        bring_in(bytes);
        self.warm = end;
    }

    fn end(&mut self, error: Error) -> Error {
        self.frames.ended = true;
        (self.records, self.rest) = (0, 0..0);
        error
    }

    /// Makes the next frame that holds records from `from` on the current one.
    fn next_frame(&mut self) -> Result<Turn> {
        if !self.rest.is_empty() {
            return Err(self.frames.senseless(self.next_lsn));
        }
        self.fresh = false;
        let found = match self.frames.next()? {
            Some(Step::Found(found)) => found,
            Some(Step::Lost(error)) => {
                // The window has moved on.
                (self.rest, self.map) = (0..0, None);
                return Ok(Turn::Lost(error));
            }
            None => return Ok(Turn::End),
        };
        self.warm = if found.far { found.payload.start } else { usize::MAX };
        self.rest = found.payload;
        self.map = found.map;
        self.records = found.header.records;
        self.next_lsn = found.header.first_lsn;
        self.unpacked = false;
        if let Some(plain) = found.header.plain {
            self.unpack(plain)?;
        }
        Ok(Turn::Frame)
    }
}

impl Replay {
    /// Unpacks the current frame, whose checksum holds, into `plain` bytes (PACK-2).
    #[cold]
    fn unpack(&mut self, plain: u32) -> Result<()> {
        let mut out = std::mem::take(&mut self.plain);
        let packed = self.bytes().get(self.rest.clone()).unwrap_or_default();
        let unpacked = unpack(packed, plain, &mut out);
        (self.plain, self.map, self.unpacked) = (out, None, true);
        self.rest = 0..self.plain.len();
        // This core has just written them.
        self.warm = usize::MAX;
        unpacked.map_err(|reason| match reason {
            Packed::Senseless => self.frames.senseless(self.next_lsn),
            Packed::Unknown => self.frames.packed(self.next_lsn),
        })
    }
}

/// What reading on led to.
enum Turn {
    Frame,
    Lost(Error),
    End,
}

impl fmt::Debug for Replay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replay")
            .field("next_lsn", &self.next_lsn)
            .field("frames", &self.frames)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod cold_tests;
#[cfg(test)]
mod tests;
