//! Finding the frames of the log one after the other, each verified before it is handed out.
//!
//! Sealed segments are mapped and never change. The active one is read: only frames that are
//! durable are looked at, and those never change either.

use std::ops::Range;

use super::ahead::{Ahead, Piece};
use super::mapped::PIECE;
use super::reader::Reader;
use super::source::{Held, Source};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{LogId, Lsn, Position, SegmentNumber, to_u64, to_usize};
use crate::planted::{Bug, planted};
use crate::storage::{BLOCK, Directory};
use crate::sync::Arc;
use crate::wal::frame::{self, FRAME_HEADER, FrameHeader, FrameKind};
use crate::wal::index::{SegmentEntry, SegmentIndex};
use crate::wal::read_only::truncated;
use crate::wal::scan::{self, Expected, Fault};
use crate::wal::segment::Segment;
use crate::wal::tombstone::Tombstone;

/// Where the frames come from, and how far it was read.
#[derive(Debug)]
pub(super) struct Frames {
    index: Arc<SegmentIndex>,
    entries: Vec<SegmentEntry>,
    /// Which entry `expected` points into.
    at: usize,
    expected: Expected,
    /// Frames that lie wholly below are passed by their headers.
    pub(super) from: Lsn,
    /// Frames that begin above are not looked at.
    pub(super) through: Lsn,
    source: Source,
    reader: Reader,
    /// Whether, behind the last record, the next segment must continue this one.
    seam: bool,
    /// Whether sealed segments are mapped; otherwise they are read into memory of our own.
    pub(super) mapped: bool,
    /// How many threads shall verify ahead, once reading begins.
    pub(super) threads: usize,
    ahead: Option<Ahead>,
    pub(super) ended: bool,
}

/// A frame that stands.
pub(super) struct Found {
    pub(super) header: FrameHeader,
    pub(super) crc: u32,
    /// What it is in, if not in the reader's window.
    pub(super) map: Option<Held>,
    /// Where the payload is; empty if nobody wants it.
    pub(super) payload: Range<usize>,
    /// Whether another core has read it, and this one has not.
    pub(super) far: bool,
}

/// What comes next.
pub(super) enum Step {
    Found(Found),
    /// Records that salvage gave up: told once, and then passed.
    Lost(Error),
}

impl Frames {
    /// The frames that hold records from `from` through `through`, which must be durable.
    pub(super) fn new(
        index: Arc<SegmentIndex>,
        directory: Arc<dyn Directory>,
        log: LogId,
        from: Lsn,
        through: Lsn,
    ) -> Frames {
        let entries = index.reaching(from);
        let expected = Expected::start_of(log, SegmentNumber::new(0), 0);
        let source = Source::new(Arc::clone(&index), Arc::clone(&directory), through, PIECE);
        let reader = Reader::new(Arc::clone(&index), directory, log, through);
        let start = expected;
        let bounds = (from, through);
        let mut frames = Frames::at_start(index, (source, reader), entries, start, bounds);
        frames.seat();
        frames
    }

    fn at_start(
        index: Arc<SegmentIndex>,
        (source, reader): (Source, Reader),
        entries: Vec<SegmentEntry>,
        expected: Expected,
        (from, through): (Lsn, Lsn),
    ) -> Frames {
        Frames {
            index,
            entries,
            at: 0,
            expected,
            from,
            through,
            source,
            reader,
            seam: false,
            mapped: true,
            threads: 0,
            ahead: None,
            ended: false,
        }
    }

    /// The frames of each segment that holds records, oldest first.
    pub(super) fn by_segment(
        index: &Arc<SegmentIndex>,
        directory: &Arc<dyn Directory>,
        log: LogId,
        through: Lsn,
    ) -> Vec<Frames> {
        let all = index.reaching(Lsn::ZERO);
        let mut parts = Vec::with_capacity(all.len());
        for (nth, entry) in all.iter().enumerate() {
            let from = entry.first_lsn;
            let next = all.get(nth + 1);
            let last = next.map_or(through, |next| next.first_lsn.previous().min(through));
            if from > last {
                continue;
            }
            // Segments without records are walked on the way to the next one that has some. If
            // there is none yet, the next segment's first frame may not be durable.
            let after = all.iter().skip(nth + 1).rposition(|other| other.first_lsn == last.next());
            let until = nth + after.map_or(0, |after| after + 1);
            let seam = until > nth && last < through;
            let until = if seam { until } else { nth + usize::from(next.is_some()) };
            let (index, directory) = (Arc::clone(index), Arc::clone(directory));
            let source = Source::new(Arc::clone(&index), Arc::clone(&directory), last, PIECE);
            let mut reader = Reader::new(Arc::clone(&index), directory, log, last);
            reader.go_on();
            let (entries, expected) = (all[nth..=until].to_vec(), start_of(log, entry));
            let part = Frames::at_start(index, (source, reader), entries, expected, (from, last));
            parts.push(Frames { seam, ..part });
        }
        parts
    }

    /// Lives as long as any thread that verifies ahead.
    #[cfg(test)]
    pub(super) fn verifiers(&self) -> Option<std::sync::Weak<super::ahead::Shared>> {
        self.ahead.as_ref().map(Ahead::shared)
    }

    /// The first LSN of the oldest segment.
    pub(super) fn first_lsn(&self) -> Option<Lsn> {
        self.entries.first().map(|entry| entry.first_lsn)
    }

    /// Ends with `last`.
    pub(super) fn end_with(&mut self, last: Lsn) {
        if last < self.through {
            self.through = last;
            self.seam = false;
        }
    }

    /// Goes to the best place from which to reach `from`, if nothing was read yet.
    fn seat(&mut self) {
        let behind = self.entries.partition_point(|entry| entry.first_lsn <= self.from);
        self.entries.drain(..behind.saturating_sub(1));
        let log = self.expected.log;
        let place = self.index.place_before(self.from);
        self.expected = match (place, self.entries.first()) {
            (Some(place), Some(first)) if place.position.segment >= first.segment.number() => place,
            (_, Some(first)) => start_of(log, first),
            (_, None) => self.expected,
        };
        let number = self.expected.position.segment;
        let at = self.entries.iter().position(|entry| entry.segment.number() == number);
        (self.at, self.ended) = (at.unwrap_or(0), at.is_none());
    }

    /// Whether `lsn` is in the current segment, or the next one.
    pub(super) fn comes_to(&self, lsn: Lsn) -> bool {
        self.entries.get(self.at + 2).is_none_or(|other| lsn < other.first_lsn)
    }

    /// Behind the last frame that was found.
    pub(super) fn position(&self) -> Position {
        self.expected.position
    }

    /// Leaves out what lies below `from`. `fresh`: nothing was read yet.
    pub(super) fn skip_to(&mut self, from: Lsn, fresh: bool) {
        if from <= self.from {
            return;
        }
        self.from = from;
        if fresh {
            self.seat();
        }
    }

    /// The bytes that hold a frame that is in no map.
    #[inline]
    pub(super) fn window(&self) -> &[u8] {
        self.reader.loaded()
    }

    /// The next frame that holds records from `from` on; `None` at the end.
    pub(super) fn next(&mut self) -> Result<Option<Step>> {
        while !self.ended {
            let next = self.expected.next_lsn.unwrap_or(Lsn::FIRST);
            let above = next > self.through;
            if above && !self.seam && !planted(Bug::ReadAboveDurable) {
                break;
            }
            let found = self.find().map_err(|error| self.explain(error))?;
            let Some(found) = found else {
                if self.seam && above {
                    return Err(self.corrupt());
                }
                break;
            };
            if self.seam && above && self.at + 1 == self.entries.len() {
                // It stands, so it continues this segment. Its records are somebody else's.
                self.ended = true;
                return Ok(None);
            }
            if found.header.kind == FrameKind::Tombstone {
                if let Some(lost) = self.pass(&found)? {
                    return Ok(Some(Step::Lost(lost)));
                }
                continue;
            }
            self.expected = self.expected.after(&found.header, found.crc);
            if found.map.is_some() {
                self.reader.go_on();
            }
            match found.header.kind {
                FrameKind::Records if found.header.next_lsn() > self.from => {
                    return Ok(Some(Step::Found(found)));
                }
                FrameKind::Tombstone
                | FrameKind::Records
                | FrameKind::Barrier
                | FrameKind::Attestation
                | FrameKind::Closing => {}
            }
        }
        if !self.ended {
            self.index.remember(self.expected);
        }
        self.ended = true;
        Ok(None)
    }

    /// What an error means where another process writes the log: it may have truncated what was to
    /// be read.
    fn explain(&self, error: Error) -> Error {
        let next = self.expected.next_lsn.unwrap_or(self.from);
        match self.index.start_elsewhere().filter(|start| *start > next) {
            Some(start) => truncated(next, start).caused_by(error),
            None => error,
        }
    }

    /// Goes on behind a tombstone; the error by which the reader is told, if it gives up records
    /// that are wanted.
    fn pass(&mut self, found: &Found) -> Result<Option<Error>> {
        let bytes: &[u8] = match &found.map {
            Some(map) => map,
            None => self.reader.loaded(),
        };
        let payload = bytes.get(found.payload.clone()).unwrap_or_default();
        let Some(tombstone) = Tombstone::decode(&found.header, payload) else {
            return Err(self.senseless(found.header.first_lsn));
        };
        let entries = &self.entries;
        let entry_of = |number| entries.iter().position(|entry| entry.segment.number() == number);
        let size = |number| entry_of(number).map_or(0, |at| entries[at].segment.size());
        let expected = self.expected.over(&found.header, found.crc, &tombstone, size);
        // A part of a replay side by side may end before.
        match entry_of(expected.position.segment) {
            Some(at) => self.at = at,
            None => self.ended = true,
        }
        let lost = tombstone.lost(&found.header).filter(|_| tombstone.next > self.from);
        let lost = lost.map(|error| self.place(error));
        self.expected = expected;
        Ok(lost)
    }

    /// The frame that continues the log, here or at the start of the next segment. A durable one
    /// must: if none does, not even read from the device again, it is corruption.
    fn find(&mut self) -> Result<Option<Found>> {
        if let Some(found) = self.find_ahead() {
            return Ok(Some(found));
        }
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

    /// The next frame that was verified ahead. When there is none any more, it is looked for here.
    fn find_ahead(&mut self) -> Option<Found> {
        if self.threads > 0 && self.mapped {
            let sealed = &self.entries[..self.entries.len().saturating_sub(1)];
            let offset = self.expected.position.offset;
            self.source.secure(sealed, self.at, offset, to_u64(BLOCK))?;
            if self.source.is_past_cache() {
                return None;
            }
            let threads = std::mem::take(&mut self.threads);
            let (bounds, past_cache) = ((self.from, self.through), self.source.past_cache());
            self.ahead = Ahead::start(threads, past_cache, sealed, self.at, self.expected, bounds);
        }
        let Some(next) = self.ahead.as_mut()?.next() else {
            self.ahead = None;
            return None;
        };
        if let Some((at, place)) = next.place {
            (self.at, self.expected) = (at, place);
        }
        let Piece { header, crc, payload } = next.piece.clone();
        Some(Found { header, crc, map: Some(Held::Map(Arc::clone(next.map))), payload, far: true })
    }

    /// What stands at a place: in the source of sealed segments, or, of the active one and of one
    /// that cannot be had so, in the file; when `direct`, on the device.
    fn look(
        &mut self,
        at: usize,
        expected: &Expected,
        direct: bool,
    ) -> Result<Result<Found, Fault>> {
        let Some(entry) = self.entries.get(at) else { return Ok(Err(Fault::Blank)) };
        let segment = Arc::clone(&entry.segment);
        if expected.position.offset >= segment.size() {
            return Ok(Err(Fault::Blank));
        }
        let sealed = at + 1 < self.entries.len();
        if sealed
            && !direct
            && self.mapped
            && let Some(judged) = self.look_at_sealed(at, expected)
        {
            return Ok(judged);
        }
        if direct {
            self.reader.forget();
        }
        self.look_at_file(&segment, expected, direct)
    }

    /// `None` if the bytes cannot be had by the source.
    fn look_at_sealed(&mut self, at: usize, expected: &Expected) -> Option<Result<Found, Fault>> {
        let sealed = &self.entries[..self.entries.len() - 1];
        let (source, offset) = (&mut self.source, expected.position.offset);
        let header = source.secure(sealed, at, offset, to_u64(BLOCK))?;
        let (header, crc) = match scan::judge_header(header, expected) {
            Ok(found) => found,
            Err(fault) => return Some(Err(fault)),
        };
        let mut length = 0;
        if is_wanted(&header, self.from, self.through) {
            let bytes = source.secure(sealed, at, offset, header.length_on_disk())?;
            let Some(bytes) = frame::payload(&header, bytes) else {
                return Some(Err(Fault::Payload));
            };
            length = bytes.len();
        }
        let held = source.share()?;
        let start = to_usize(offset - held.start()) + FRAME_HEADER;
        let payload = start..start + length;
        Some(Ok(Found { header, crc, map: Some(held), payload, far: false }))
    }

    fn look_at_file(
        &mut self,
        segment: &Segment,
        expected: &Expected,
        direct: bool,
    ) -> Result<Result<Found, Fault>> {
        let offset = expected.position.offset;
        let bytes = self.reader.load(segment, offset, to_u64(BLOCK), direct)?;
        let (header, crc) = match scan::judge_header(bytes, expected) {
            Ok(found) => found,
            Err(fault) => return Ok(Err(fault)),
        };
        let mut length = 0;
        if is_wanted(&header, self.from, self.through) {
            let bytes = self.reader.load(segment, offset, header.length_on_disk(), direct)?;
            match frame::payload(&header, bytes) {
                Some(payload) => length = payload.len(),
                None => return Ok(Err(Fault::Payload)),
            }
        }
        let start = to_usize(offset - self.reader.start()) + FRAME_HEADER;
        let payload = start..start + length;
        Ok(Ok(Found { header, crc, map: None, payload, far: false }))
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

    /// A compressed frame, at `lsn`, in a build that cannot unpack it.
    pub(super) fn packed(&self, lsn: Lsn) -> Error {
        let message = "a frame is compressed with LZ4: read the log with the feature lz4";
        self.place(Error::new(ErrorKind::Unsupported, message).for_lsns(lsn, lsn))
    }

    /// A frame whose checksum holds and whose records make no sense, at `lsn`.
    pub(super) fn senseless(&self, lsn: Lsn) -> Error {
        let message = "a frame's checksum holds and its records make no sense: it was not written \
                       by a correct writer";
        self.place(Error::new(ErrorKind::Corrupt, message).for_lsns(lsn, lsn))
    }
}

/// The start of a segment of which nothing but its first LSN is known.
fn start_of(log: LogId, entry: &SegmentEntry) -> Expected {
    let start = Expected::start_of(log, entry.segment.number(), entry.segment.size());
    Expected { next_lsn: Some(entry.first_lsn), ..start }
}

/// Whether a frame's payload is looked at; otherwise only its header is.
pub(super) fn is_wanted(header: &FrameHeader, from: Lsn, through: Lsn) -> bool {
    let above = header.first_lsn > through && !planted(Bug::ReadAboveDurable);
    header.kind != FrameKind::Records || (header.next_lsn() > from && !above)
}
