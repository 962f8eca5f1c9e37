//! Where records wait for their write: frames in memory, each with its place in the log.
//!
//! STAGING-1: a record gets an LSN only when its frame has a place in a prepared segment and a
//! buffer (LOG.md L5). STAGING-2: frames leave in the order of their positions and LSNs.
//! STAGING-3: all buffers together stay below the memory limit, or there is only one.
//! STAGING-4: user records leave one prepared segment untouched, for internal ones.

use std::collections::VecDeque;

use super::frame::{FRAME_HEADER, FrameKind, frame_length};
use super::group::Waiting;
use super::options::Limits;
use super::range::LsnRange;
use super::record::{self, RECORD_HEADER, RecordKind, encode_header};
use super::recovery::Tail;
use super::segment::{FIRST_FRAME, Segment};
use crate::ids::{Lsn, Position, SegmentNumber, StreamId, to_u64, to_usize};
use crate::planted::{Bug, planted};
use crate::storage::{AlignedBuf, BLOCK};
use crate::sync::Arc;

/// What one call appends.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Want {
    pub(crate) stream: StreamId,
    pub(crate) kind: RecordKind,
    /// What the caller waits for.
    pub(crate) until: Mark,
}

/// How far a record has to come before its append returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mark {
    /// It has its place.
    Appended,
    /// The kernel has it, and all before it.
    Written,
    /// It and all before it are on stable storage.
    Durable,
}

/// Why nothing could be placed. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoRoom {
    /// Too many bytes wait for their write.
    Memory,
    /// No prepared segment may be taken. A frame of so many bytes is wanted.
    Segment(u64),
}

/// A frame in memory: the header's room, records, and what its header will say.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) buffer: AlignedBuf,
    /// Bytes used, the header's included.
    pub(crate) used: usize,
    /// Bytes it may grow to.
    room: usize,
    pub(crate) kind: FrameKind,
    pub(crate) records: u32,
    pub(crate) first_lsn: Lsn,
    pub(crate) segment: Arc<Segment>,
    pub(crate) offset: u64,
    pub(crate) waiting: Waiting,
}

impl Frame {
    pub(crate) fn position(&self) -> Position {
        Position { segment: self.segment.number(), offset: self.offset }
    }

    /// The last LSN in it; of a frame without records, the one before its first.
    pub(crate) fn last_lsn(&self) -> Lsn {
        self.first_lsn.advance(u64::from(self.records)).previous()
    }

    fn end(&self) -> u64 {
        self.offset + frame_length(to_u64(self.used - FRAME_HEADER))
    }

    fn put(&mut self, want: Want, payloads: &[&[u8]]) {
        for payload in payloads {
            #[allow(clippy::cast_possible_truncation, reason = "max_record is at most 1 GiB")]
            let length = payload.len() as u32;
            let body = self.used + RECORD_HEADER;
            encode_header(&mut self.buffer[self.used..body], length, want.stream, want.kind);
            self.used = body + payload.len();
            self.buffer[body..self.used].copy_from_slice(payload);
            self.records += 1;
        }
        assert!(self.used <= self.room, "STAGING-1: records outgrow their frame");
    }
}

/// The frames in memory, and what the next ones are made of.
#[derive(Debug)]
pub(crate) struct Staging {
    limits: Limits,
    /// Takes records.
    open: Option<Frame>,
    /// Full ones, oldest first.
    sealed: VecDeque<Frame>,
    /// Where the frame behind the newest sealed one goes, if it fits.
    segment: Option<Arc<Segment>>,
    offset: u64,
    next_lsn: Lsn,
    spares: VecDeque<Arc<Segment>>,
    pool: Vec<AlignedBuf>,
    /// Bytes of all buffers: open, sealed, in flight and pooled.
    allocated: usize,
    /// Whether preparing the reserve has failed for want of space.
    reserve_failed: bool,
}

impl Staging {
    /// Prepared segments at rest beside the active one: a spare and the reserve (LOG.md L4).
    pub(crate) const SPARES: usize = 2;

    pub(crate) fn new(
        limits: Limits,
        tail: &Tail,
        active: Arc<Segment>,
        spares: VecDeque<Arc<Segment>>,
    ) -> Staging {
        assert!(tail.position.segment == active.number(), "STAGING-1: the tail is elsewhere");
        Staging {
            limits,
            open: None,
            sealed: VecDeque::new(),
            segment: Some(active),
            offset: tail.position.offset,
            next_lsn: tail.next_lsn,
            spares,
            pool: Vec::new(),
            allocated: 0,
            reserve_failed: false,
        }
    }

    /// Gives records their place, in one frame. `bytes` is what they take with their headers.
    pub(crate) fn place(
        &mut self,
        want: Want,
        payloads: &[&[u8]],
        bytes: usize,
    ) -> Result<LsnRange, NoRoom> {
        let count = to_u64(payloads.len());
        let first = self.next_lsn;
        if planted(Bug::LsnBeforeSpace) {
            self.next_lsn = first.advance(count);
        }
        if self.open.as_ref().is_none_or(|open| open.room - open.used < bytes) {
            self.open_frame(want.kind, bytes, first)?;
        } else {
            self.check_reserve(want.kind, bytes)?;
        }
        self.next_lsn = first.advance(count);
        let Some(open) = self.open.as_mut() else { unreachable!("opened above") };
        open.put(want, payloads);
        Ok(LsnRange::new(first, count))
    }

    /// Opens the closing frame: everything before it has been written, and no record follows.
    pub(crate) fn place_closing(&mut self) -> Result<(), NoRoom> {
        assert!(self.is_empty(), "STAGING-2: the closing frame is the last");
        self.open_frame(RecordKind::Internal, 0, self.next_lsn)?;
        if let Some(open) = self.open.as_mut() {
            open.kind = FrameKind::Closing;
        }
        Ok(())
    }

    fn active(&self) -> &Arc<Segment> {
        match &self.segment {
            Some(segment) => segment,
            None => unreachable!("STAGING-1: nothing is placed in a log that was closed"),
        }
    }

    fn check_reserve(&self, kind: RecordKind, bytes: usize) -> Result<(), NoRoom> {
        let need = frame_length(to_u64(bytes));
        let end = self.open.as_ref().map_or(self.offset, Frame::end) + need;
        // While the reserve is on its way, the first half of the active segment is for everybody;
        // the second half then stands in for the reserve.
        let half = end <= self.active().size() / 2 && !self.reserve_failed;
        let allowed = kind == RecordKind::Internal || !self.spares.is_empty() || half;
        if allowed { Ok(()) } else { Err(NoRoom::Segment(need)) }
    }

    /// Seals the open frame, if there is one, and opens the next, large enough for `bytes`.
    fn open_frame(&mut self, kind: RecordKind, bytes: usize, first: Lsn) -> Result<(), NoRoom> {
        let need = frame_length(to_u64(bytes));
        let mut offset = self.open.as_ref().map_or(self.offset, Frame::end);
        let rotate = offset + need > self.active().size();
        if rotate {
            let kept = usize::from(kind != RecordKind::Internal);
            if self.spares.len() <= kept {
                return Err(NoRoom::Segment(need));
            }
            offset = FIRST_FRAME;
        } else {
            self.check_reserve(kind, bytes)?;
        }
        let size = self.limits.frame.next_multiple_of(BLOCK).max(to_usize(need));
        let buffer = self.take_buffer(size)?;
        self.seal();
        if rotate && let Some(spare) = self.spares.pop_front() {
            assert!(spare.number() == self.active().number().next(), "STAGING-2: a number skipped");
            assert!(FIRST_FRAME + need <= spare.size(), "L4: a frame outgrows its segment");
            self.segment = Some(spare);
        }
        self.offset = offset;
        let room = to_usize(self.active().size() - offset).min(buffer.capacity());
        self.open = Some(Frame {
            buffer,
            used: FRAME_HEADER,
            room,
            kind: FrameKind::Records,
            records: 0,
            first_lsn: first,
            segment: Arc::clone(self.active()),
            offset,
            waiting: Waiting::default(),
        });
        Ok(())
    }

    fn take_buffer(&mut self, size: usize) -> Result<AlignedBuf, NoRoom> {
        if let Some(at) = self.pool.iter().position(|buffer| buffer.capacity() >= size) {
            let mut buffer = self.pool.swap_remove(at);
            buffer.set_len(buffer.capacity());
            return Ok(buffer);
        }
        if self.allocated + size > self.limits.memory {
            let pooled: usize = self.pool.drain(..).map(|buffer| buffer.capacity()).sum();
            self.allocated -= pooled;
        }
        if self.allocated > 0 && self.allocated + size > self.limits.memory {
            return Err(NoRoom::Memory);
        }
        self.allocated += size;
        Ok(AlignedBuf::zeroed(size))
    }

    /// Takes back the buffer of a frame that was written.
    pub(crate) fn recycle(&mut self, buffer: AlignedBuf) {
        if buffer.capacity() == self.limits.frame.next_multiple_of(BLOCK) {
            self.pool.push(buffer);
        } else {
            self.allocated -= buffer.capacity();
        }
    }

    /// Forgets the buffer of a frame that could not be written.
    pub(crate) fn forget(&mut self, capacity: usize) {
        self.allocated -= capacity;
    }

    fn seal(&mut self) {
        if let Some(open) = self.open.take() {
            self.offset = open.end();
            self.sealed.push_back(open);
        }
    }

    /// Takes the oldest frame for its write, sealing the open one if there is no other.
    pub(crate) fn take_oldest(&mut self) -> Option<Frame> {
        if self.sealed.is_empty() {
            self.seal();
        }
        self.sealed.pop_front()
    }

    /// Whether nothing waits for its write.
    pub(crate) fn is_empty(&self) -> bool {
        self.sealed.is_empty() && self.open.is_none()
    }

    /// Those who wait for the frame that holds `lsn`, if it is here.
    pub(crate) fn waiting_for(&mut self, lsn: Lsn) -> Option<&mut Waiting> {
        let mut frames = self.sealed.iter_mut().chain(self.open.as_mut());
        let frame = frames.find(|frame| lsn <= frame.last_lsn())?;
        (lsn >= frame.first_lsn).then_some(&mut frame.waiting)
    }

    /// Makes the record with this LSN void, if its frame was not taken out yet (LOG.md L6).
    pub(crate) fn make_void(&mut self, lsn: Lsn) -> bool {
        let mut frames = self.sealed.iter_mut().chain(self.open.as_mut());
        let Some(frame) = frames.find(|frame| lsn <= frame.last_lsn()) else { return false };
        let Some(number) = lsn.get().checked_sub(frame.first_lsn.get()) else { return false };
        record::make_void(&mut frame.buffer[FRAME_HEADER..frame.used], number)
    }

    /// Those who wait for the open frame.
    ///
    /// # Panics
    /// If there is none.
    pub(crate) fn waiting_for_open(&mut self) -> &mut Waiting {
        match &mut self.open {
            Some(open) => &mut open.waiting,
            None => unreachable!("STAGING-1: asked for right after a record was placed"),
        }
    }

    /// Who waits, oldest frame first.
    pub(crate) fn all_waiting(&mut self) -> impl Iterator<Item = &mut Waiting> {
        self.sealed.iter_mut().chain(self.open.as_mut()).map(|frame| &mut frame.waiting)
    }

    /// Gives up every frame and every spare: nothing is written any more.
    pub(crate) fn abandon(&mut self) -> Vec<Waiting> {
        self.seal();
        self.spares.clear();
        self.pool.clear();
        self.allocated = 0;
        self.sealed.drain(..).map(|frame| frame.waiting).collect()
    }

    /// Gives the spares and the memory away: the log is closed.
    pub(crate) fn let_go(&mut self) {
        self.segment = None;
        self.spares.clear();
        self.pool.clear();
    }

    /// The number of the segment to prepare next, if one is missing.
    pub(crate) fn missing_spare(&self) -> Option<SegmentNumber> {
        let newest = self.spares.back().unwrap_or_else(|| self.active());
        (self.spares.len() < Self::SPARES).then(|| newest.number().next())
    }

    /// Takes a segment that was prepared.
    pub(crate) fn add_spare(&mut self, spare: Arc<Segment>) {
        self.spares.push_back(spare);
        self.reserve_failed = false;
    }

    /// Takes note that there was no space to prepare one.
    pub(crate) fn preparation_failed(&mut self) {
        self.reserve_failed = true;
    }

    /// Bytes of all buffers.
    #[cfg(test)]
    pub(crate) fn allocated(&self) -> usize {
        self.allocated
    }
}
