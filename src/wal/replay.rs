//! Reading the log back, in order, as borrowed slices.
//!
//! REPLAY-1: nothing above the LSN that was durable when the replay began is shown (LOG.md L19).
//! REPLAY-2: every frame's payload is verified before the first of its records is shown, and every
//! frame continues the one before, across segments too. A place where that fails is read again
//! from the device before it is called corruption (LOG.md L14).
//!
//! Sealed segments are mapped and never change. The active one is read through the description
//! that writes it, past the page cache: only frames that are durable are looked at, and those
//! never change either.

use std::fmt;
use std::ops::Range;

use crate::error::{Error, ErrorKind, Result};
use crate::ids::{LogId, Lsn, SegmentNumber, StreamId, to_u64, to_usize};
use crate::planted::{Bug, planted};
use crate::storage::{BLOCK, Channel, Directory};
use crate::sync::Arc;
use crate::wal::frame::{FRAME_HEADER, FrameHeader, FrameKind};
use crate::wal::index::{SegmentEntry, SegmentIndex};
use crate::wal::record::{self, RecordKind};
use crate::wal::scan::{self, Expected, Fault, Verdict};
use crate::wal::segment::{Segment, SegmentMap};
use crate::wal::window::Window;

/// How much of the active segment is read at once: a poll of a few records reads little.
const STEP: u64 = 256 * 1024;

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
}

/// The log's records in LSN order, from a place up to what was durable when the replay began.
///
/// Only user records are shown: LSNs rise, but some may be skipped. A replay keeps the segments it
/// started with: truncation meanwhile takes nothing from it. To see what was appended since, take
/// another one from the next LSN.
pub struct Replay {
    index: Arc<SegmentIndex>,
    directory: Arc<dyn Directory>,
    channel: Option<Box<dyn Channel>>,
    entries: Vec<SegmentEntry>,
    /// Which entry `expected` points into.
    at: usize,
    expected: Expected,
    from: Lsn,
    through: Lsn,
    internal: bool,
    map: Option<(SegmentNumber, SegmentMap)>,
    window: Window,
    /// Whether the current frame is in `map`, else in `window`.
    mapped: bool,
    /// The current frame's records that were not shown yet, in those bytes.
    rest: Range<usize>,
    records: u32,
    next_lsn: Lsn,
    ended: bool,
}

/// A frame that stands, in the map or in the window.
struct Found {
    header: FrameHeader,
    crc: u32,
    mapped: bool,
    /// Where the payload is.
    payload: Range<usize>,
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
        let entries = index.reaching(from);
        let expected = match (index.place_before(from), entries.first()) {
            (Some(place), Some(first)) if place.position.segment >= first.segment.number() => place,
            (_, Some(first)) => {
                let segment = &first.segment;
                let start = Expected::start_of(log, segment.number(), segment.size());
                Expected { next_lsn: Some(first.first_lsn), ..start }
            }
            (_, None) => Expected::start_of(log, SegmentNumber::new(0), 0),
        };
        let place = expected.position.segment;
        let at = entries.iter().position(|entry| entry.segment.number() == place);
        let (ended, at) = (at.is_none(), at.unwrap_or(0));
        let (map, window) = (None, Window::new(STEP));
        let (channel, mapped, rest, records, next_lsn) = (None, false, 0..0, 0, from);
        Replay {
            index,
            directory,
            channel,
            entries,
            at,
            expected,
            from,
            through,
            internal,
            map,
            window,
            mapped,
            rest,
            records,
            next_lsn,
            ended,
        }
    }

    /// The next record; `None` at the end. After an error there is nothing more.
    ///
    /// # Errors
    /// `Corrupt` with the position and the records that are lost, confirmed by reading the device
    /// again; `Unreadable` if it returns no bytes; `Unsupported` where the log was salvaged by a
    /// newer version.
    #[allow(clippy::should_implement_trait, reason = "records borrow from the replay")]
    #[inline]
    pub fn next(&mut self) -> Option<Result<Record<'_>>> {
        let (lsn, stream, internal, payload) = loop {
            if self.records == 0 {
                match self.next_frame() {
                    Ok(true) => continue,
                    Ok(false) => return None,
                    Err(error) => return Some(Err(self.end(error))),
                }
            }
            let bytes = current(self.mapped, &self.map, &self.window);
            let mut rest = bytes.get(self.rest.clone()).unwrap_or_default();
            let Some(record) = record::decode(&mut rest) else {
                let error = self.senseless();
                return Some(Err(self.end(error)));
            };
            let lsn = self.next_lsn;
            self.next_lsn = lsn.next();
            self.records -= 1;
            self.rest.start = self.rest.end - rest.len();
            let internal = match record.kind {
                RecordKind::User => false,
                RecordKind::Internal if self.internal => true,
                RecordKind::Internal | RecordKind::Void => continue,
            };
            if lsn >= self.from {
                let payload = self.rest.start - record.payload.len()..self.rest.start;
                break (lsn, record.stream, internal, payload);
            }
        };
        let payload = &current(self.mapped, &self.map, &self.window)[payload];
        Some(Ok(Record { lsn, stream, internal, payload }))
    }

    fn end(&mut self, error: Error) -> Error {
        self.ended = true;
        self.records = 0;
        error
    }

    /// Makes the next frame that holds records from `from` on the current one; `false` at the end.
    fn next_frame(&mut self) -> Result<bool> {
        if self.records == 0 && !self.rest.is_empty() {
            return Err(self.senseless());
        }
        while !self.ended {
            let next = self.expected.next_lsn.unwrap_or(Lsn::FIRST);
            if next > self.through && !planted(Bug::ReadAboveDurable) {
                break;
            }
            let Some(found) = self.find()? else { break };
            self.expected = self.expected.after(&found.header, found.crc);
            match found.header.kind {
                FrameKind::Records if found.header.next_lsn() > self.from => {
                    self.mapped = found.mapped;
                    self.rest = found.payload;
                    self.records = found.header.records;
                    self.next_lsn = found.header.first_lsn;
                    return Ok(true);
                }
                FrameKind::Tombstone => return Err(self.tombstone(&found.header)),
                FrameKind::Records
                | FrameKind::Barrier
                | FrameKind::Attestation
                | FrameKind::Closing => {}
            }
        }
        if !self.ended {
            self.index.remember(self.expected);
        }
        self.ended = true;
        Ok(false)
    }

    /// The frame that continues the log, here or at the start of the next segment. A durable one
    /// must: if none does, not even read from the device again, it is corruption.
    fn find(&mut self) -> Result<Option<Found>> {
        for direct in [false, true] {
            let fault = match self.look(self.at, &self.expected.clone(), direct)? {
                Ok(found) => return Ok(Some(found)),
                Err(fault) => fault,
            };
            if planted(Bug::PaddingIsEnd) && fault == Fault::Blank {
                return Ok(None);
            }
            let Some(next) = self.entries.get(self.at + 1) else { continue };
            let there = self.expected.at_segment(next.segment.number(), next.segment.size());
            if let Ok(found) = self.look(self.at + 1, &there, direct)? {
                self.at += 1;
                self.expected = there;
                return Ok(Some(found));
            }
        }
        if self.expected.next_lsn.is_some_and(|next| next > self.through) {
            return Ok(None);
        }
        Err(self.corrupt())
    }

    /// What stands at a place: in the map of a sealed segment, or, of the active one and when
    /// `direct`, on the device.
    fn look(
        &mut self,
        at: usize,
        expected: &Expected,
        direct: bool,
    ) -> Result<Result<Found, Fault>> {
        let Some(entry) = self.entries.get(at) else { return Ok(Err(Fault::Blank)) };
        let segment = Arc::clone(&entry.segment);
        let offset = expected.position.offset;
        if offset >= segment.size() {
            return Ok(Err(Fault::Blank));
        }
        let sealed = at + 1 < self.entries.len();
        if sealed && !direct {
            if self.map.as_ref().is_none_or(|(number, _)| *number != segment.number()) {
                self.map = None;
                let map = segment.map()?;
                self.map = Some((segment.number(), map));
            }
            let bytes = current(true, &self.map, &self.window);
            let start = to_usize(offset);
            let bytes = bytes.get(start..).unwrap_or_default();
            return Ok(judge(bytes, expected, self.from, start, true).map_err(|(fault, _)| fault));
        }
        if direct {
            self.window.forget();
        }
        let mut wanted = to_u64(BLOCK);
        loop {
            let channel = match &mut self.channel {
                Some(channel) => channel,
                None => self.channel.insert(self.index.channel(&*self.directory)?),
            };
            let bytes = self.window.load(&mut **channel, &segment, offset, wanted)?;
            let judged = judge(bytes, expected, self.from, 0, false);
            match judged {
                Err((_, more)) if more > wanted => wanted = more,
                Err((fault, _)) => return Ok(Err(fault)),
                Ok(mut found) => {
                    let start = to_usize(offset - self.window.start());
                    found.payload = found.payload.start + start..found.payload.end + start;
                    return Ok(Ok(found));
                }
            }
        }
    }

    fn segment(&self) -> Option<&Segment> {
        self.entries.get(self.at).map(|entry| &*entry.segment)
    }

    fn place(&self, error: Error) -> Error {
        let error = error.at_position(self.expected.position);
        match self.segment() {
            Some(segment) => error.at_path(segment.path()),
            None => error,
        }
    }

    fn corrupt(&self) -> Error {
        let next = self.expected.next_lsn.unwrap_or(self.from);
        let message = format!(
            "acknowledged records are damaged, also when read from the device again; everything \
             before record {next} is intact: restore the segment from a copy, or salvage the log"
        );
        let last = match self.entries.get(self.at + 1) {
            Some(entry) if entry.first_lsn > next => entry.first_lsn.previous(),
            _ => self.through.max(next),
        };
        self.place(Error::new(ErrorKind::Corrupt, message).for_lsns(next, last))
    }

    fn senseless(&self) -> Error {
        let message = "a frame's checksum holds and its records make no sense: it was not written \
                       by a correct writer";
        let error = Error::new(ErrorKind::Corrupt, message);
        self.place(error.for_lsns(self.next_lsn, self.next_lsn))
    }

    fn tombstone(&self, header: &FrameHeader) -> Error {
        let message = "the log was salvaged by a newer version of sawmill: read it with that one";
        let error = Error::new(ErrorKind::Unsupported, message);
        self.place(error).for_lsns(header.first_lsn, header.first_lsn)
    }
}

/// The bytes that hold the current frame.
#[inline]
fn current<'a>(
    mapped: bool,
    map: &'a Option<(SegmentNumber, SegmentMap)>,
    window: &'a Window,
) -> &'a [u8] {
    match map {
        Some((_, map)) if mapped => map,
        _ => window.loaded(),
    }
}

/// Judges `bytes`, which stand `start` bytes into the map or window. Of frames that lie wholly
/// below `from` only the header is looked at. A fault comes with the bytes that are wanted to
/// decide, if there are too few.
fn judge(
    bytes: &[u8],
    expected: &Expected,
    from: Lsn,
    start: usize,
    mapped: bool,
) -> Result<Found, (Fault, u64)> {
    let (header, crc) = scan::judge_header(bytes, expected).map_err(|fault| (fault, 0))?;
    let payload = start + FRAME_HEADER;
    let found = Found { header, crc, mapped, payload: payload..payload };
    if header.kind == FrameKind::Records && header.next_lsn() <= from {
        return Ok(found);
    }
    match scan::judge(bytes, expected) {
        Verdict::Frame { payload: bytes, .. } => {
            Ok(Found { payload: payload..payload + bytes.len(), ..found })
        }
        Verdict::More(length) => Err((Fault::Length, length)),
        Verdict::Not(fault) => Err((fault, 0)),
    }
}

impl Drop for Replay {
    fn drop(&mut self) {
        if let Some(channel) = self.channel.take() {
            self.index.give_back(channel);
        }
    }
}

impl fmt::Debug for Replay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replay")
            .field("at", &self.expected.position)
            .field("next_lsn", &self.next_lsn)
            .field("through", &self.through)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
