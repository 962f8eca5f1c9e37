//! Where records wait for their write: frames in memory, each with its place in the log.
//!
//! STAGING-1: a record gets an LSN only when its frame has a place in a prepared segment and a
//! buffer (LOG.md L5). STAGING-2: frames leave in the order of their positions and LSNs.
//! STAGING-3: all buffers together stay below the memory limit, or there is only one. (Where two
//! share a huge page and one is given up for a larger one, its memory goes with its neighbour's.)
//! STAGING-4: user records leave one prepared segment untouched, for internal ones.

use std::collections::VecDeque;

use super::ahead::{AT_REST, Ahead};
use super::frame::{FRAME_HEADER, FrameKind, frame_length};
use super::group::Waiting;
use super::options::Limits;
use super::record::{self, RecordKind};
use super::recovery::Tail;
use super::segment::{FIRST_FRAME, Segment};
use super::stage::{Reservation, Stage};
use crate::ids::{Lsn, Position, SegmentNumber, StreamId, to_u64, to_usize};
use crate::planted::{Bug, planted};
use crate::storage::buffer::HUGE;
use crate::storage::staging_word::{Claimed, Room};
use crate::storage::{AlignedBuf, BLOCK};
use crate::sync::Arc;

/// What one call appends.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Want {
    pub(crate) stream: StreamId,
    pub(crate) kind: RecordKind,
    /// Whether each of the bodies begins with an extension.
    pub(crate) extended: bool,
    /// What the caller waits for.
    pub(crate) until: Mark,
    /// Whether the committer is told that there is something to write. It is not where the caller
    /// is about to wait for it, or for what comes behind it.
    pub(crate) told: bool,
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

impl Want {
    /// An internal record of the default stream that nobody waits for.
    const INTERNAL: Want = Want {
        stream: StreamId::DEFAULT,
        kind: RecordKind::Internal,
        extended: false,
        until: Mark::Appended,
        told: true,
    };

    /// The user's records, without extensions.
    #[inline]
    pub(crate) const fn user(stream: StreamId, until: Mark) -> Want {
        Want { stream, kind: RecordKind::User, extended: false, until, told: true }
    }

    /// Records of the log or the engine.
    #[inline]
    pub(crate) const fn internal(stream: StreamId, until: Mark) -> Want {
        Want { stream, kind: RecordKind::Internal, extended: false, until, told: true }
    }

    /// Records of the engine for which it is about to wait.
    pub(crate) const fn left(stream: StreamId) -> Want {
        Want { told: false, ..Want::internal(stream, Mark::Appended) }
    }
}

/// Why nothing could be placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoRoom {
    /// Too many bytes wait for their write.
    Memory,
    /// No prepared segment may be taken. A frame of so many bytes is wanted.
    Segment(u64),
}

/// A frame in memory: where its bytes are, and what its header will say.
#[derive(Debug)]
pub(crate) struct Frame {
    /// The number of its staging buffer, which belongs to the frame until it is taken.
    pub(crate) buffer: usize,
    /// Bytes used, the header's included. Known when it is sealed, as the next one.
    pub(crate) used: usize,
    pub(crate) records: u32,
    pub(crate) kind: FrameKind,
    pub(crate) first_lsn: Lsn,
    pub(crate) segment: Arc<Segment>,
    pub(crate) offset: u64,
    /// The furthest that it may reach in its segment.
    bound: u64,
    /// Records, counted from its first one, that shall be void (LOG.md L6).
    voids: Vec<u64>,
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

    /// Makes the records void that were given up, now that nobody copies any more.
    pub(crate) fn apply_voids(&self, buffer: &mut [u8]) {
        for number in &self.voids {
            let found = record::make_void(&mut buffer[FRAME_HEADER..self.used], *number);
            assert!(found, "STAGING-2: record {number} is not in its frame");
        }
    }

    fn set_claimed(&mut self, claimed: Claimed) {
        self.used = to_usize(claimed.end);
        #[allow(clippy::cast_possible_truncation, reason = "a record has 8 bytes of 2 GiB")]
        let records = claimed.records as u32;
        self.records = records;
    }
}

/// What is said of the frame that is written next.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Oldest<'a> {
    pub(crate) waiting: &'a Waiting,
    /// Whether it is full: takes no more records.
    pub(crate) is_sealed: bool,
    /// How many it has by now.
    pub(crate) records: u64,
}

/// The frames in memory, and what the next ones are made of.
#[derive(Debug)]
pub(crate) struct Staging {
    limits: Limits,
    stage: Arc<Stage>,
    /// Staging buffers that no frame has.
    free: Vec<usize>,
    /// Takes records, also from those who do not hold the mutex.
    open: Option<Frame>,
    /// Full ones, oldest first.
    sealed: VecDeque<Frame>,
    /// Where the frame behind the newest sealed one goes, if it fits.
    segment: Option<Arc<Segment>>,
    offset: u64,
    /// The LSN behind the newest sealed frame.
    next_lsn: Lsn,
    spares: VecDeque<Arc<Segment>>,
    /// How many of these there shall be.
    ahead: Ahead,
    pool: Vec<AlignedBuf>,
    /// Bytes of all buffers: open, sealed, in flight and pooled.
    allocated: usize,
    /// Whether preparing the reserve has failed for want of space.
    reserve_failed: bool,
}

impl Staging {
    pub(crate) fn new(
        limits: Limits,
        stage: Arc<Stage>,
        tail: &Tail,
        active: Arc<Segment>,
        spares: VecDeque<Arc<Segment>>,
    ) -> Staging {
        assert!(tail.position.segment == active.number(), "STAGING-1: the tail is elsewhere");
        Staging {
            limits,
            free: (0..stage.count()).rev().collect(),
            stage,
            open: None,
            sealed: VecDeque::new(),
            segment: Some(active),
            offset: tail.position.offset,
            next_lsn: tail.next_lsn,
            spares,
            ahead: Ahead::new(limits.ahead),
            pool: Vec::new(),
            allocated: 0,
            reserve_failed: false,
        }
    }

    /// Gives `count` records their place, in one frame. `bytes` is what they take with their
    /// headers. When it fails, no record has a place, but the open frame is sealed.
    pub(crate) fn place<'a>(
        &mut self,
        stage: &'a Stage,
        want: Want,
        count: usize,
        bytes: usize,
    ) -> Result<Reservation<'a>, NoRoom> {
        if let Some(open) = &self.open {
            // One that was opened for internal records is for everybody when a spare has come.
            let may = want.kind == RecordKind::Internal || open.bound <= self.limit_of_users();
            if let Some(reservation) = stage.reserve_in(open.buffer, count, bytes, may) {
                return Ok(reservation);
            }
        }
        self.seal();
        let first = self.next_lsn;
        if planted(Bug::LsnBeforeSpace) {
            self.next_lsn = first.advance(to_u64(count));
        }
        self.open_frame(stage, want, first, count, bytes)
    }

    /// Opens the closing frame: everything before it has been written, and no record follows.
    pub(crate) fn place_closing(&mut self, stage: &Stage) -> Result<(), NoRoom> {
        assert!(self.is_empty(), "STAGING-2: the closing frame is the last");
        let nothing = self.open_frame(stage, Want::INTERNAL, self.next_lsn, 0, 0)?;
        nothing.fill(Want::INTERNAL, &[]);
        if let Some(open) = self.open.as_mut() {
            open.kind = FrameKind::Closing;
        }
        Ok(())
    }

    /// Opens an attestation: nothing else is here. It may stand where internal records may, but a
    /// new segment it takes only if another one is left (LOG.md L5).
    pub(crate) fn place_attestation(&mut self, stage: &Stage) -> Result<(), NoRoom> {
        assert!(self.is_empty(), "STAGING-2: an attestation follows what it attests");
        let need = frame_length(0);
        if self.offset + need > self.active().size() && self.spares.len() <= 1 {
            return Err(NoRoom::Segment(need));
        }
        let nothing = self.open_frame(stage, Want::INTERNAL, self.next_lsn, 0, 0)?;
        nothing.fill(Want::INTERNAL, &[]);
        if let Some(open) = self.open.as_mut() {
            open.kind = FrameKind::Attestation;
        }
        Ok(())
    }

    fn active(&self) -> &Arc<Segment> {
        match &self.segment {
            Some(segment) => segment,
            None => unreachable!("STAGING-1: nothing is placed in a log that was closed"),
        }
    }

    /// Up to where in the active segment user records may stand (STAGING-4). While the reserve is
    /// on its way, the first half is for everybody; the second half then stands in for it. It
    /// changes to less only at a rotation, and when preparing has failed.
    fn limit_of_users(&self) -> u64 {
        let size = self.active().size();
        match (self.spares.is_empty(), self.reserve_failed) {
            (false, _) => size,
            (true, false) => size / 2,
            (true, true) => 0,
        }
    }

    /// Opens the next frame, large enough for `bytes`, with the records that take them.
    fn open_frame<'a>(
        &mut self,
        stage: &'a Stage,
        want: Want,
        first: Lsn,
        count: usize,
        bytes: usize,
    ) -> Result<Reservation<'a>, NoRoom> {
        assert!(self.open.is_none(), "STAGING-2: one open frame");
        let need = frame_length(to_u64(bytes));
        let internal = want.kind == RecordKind::Internal;
        let mut offset = self.offset;
        let rotate = offset + need > self.active().size();
        if rotate && self.spares.len() <= usize::from(!internal) {
            return Err(NoRoom::Segment(need));
        }
        if !rotate && !internal && offset + need > self.limit_of_users() {
            return Err(NoRoom::Segment(need));
        }
        let Some(number) = self.free.last().copied() else { return Err(NoRoom::Memory) };
        let size = self.limits.frame.next_multiple_of(BLOCK).max(to_usize(need));
        let buffer = self.take_buffer(size)?;
        self.free.pop();
        if rotate {
            self.ahead.taken(self.spares.len());
        }
        if rotate && let Some(spare) = self.spares.pop_front() {
            assert!(spare.number() == self.active().number().next(), "STAGING-2: a number skipped");
            assert!(FIRST_FRAME + need <= spare.size(), "L4: a frame outgrows its segment");
            self.segment = Some(spare);
            offset = FIRST_FRAME;
        }
        self.offset = offset;
        // A frame within the users' part is for everybody; one beyond it is reserved. So is one
        // that the committer was not told of: who adds to it without the mutex would not tell it.
        let limit = self.limit_of_users();
        let beyond = offset + need > limit;
        let reserved = beyond || !want.told;
        let limit = if beyond { self.active().size() } else { limit };
        let end = if bytes == 0 { FRAME_HEADER } else { to_usize(limit - offset) };
        let end = to_u64(end.min(buffer.capacity()));
        let room = Room { start: to_u64(FRAME_HEADER), end, tag: first.get(), reserved };
        let reservation = stage.open(number, buffer, room, count, bytes);
        self.open = Some(Frame {
            buffer: number,
            used: FRAME_HEADER,
            records: 0,
            kind: FrameKind::Records,
            first_lsn: first,
            segment: Arc::clone(self.active()),
            offset,
            bound: offset + end,
            voids: Vec::new(),
            waiting: Waiting::default(),
        });
        Ok(reservation)
    }

    fn take_buffer(&mut self, size: usize) -> Result<AlignedBuf, NoRoom> {
        if let Some(at) = self.pool.iter().rposition(|buffer| buffer.capacity() >= size) {
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
        // Buffers of the usual size come as many as fill a huge page; the others wait in the pool.
        let usual = size == self.limits.frame.next_multiple_of(BLOCK) && size >= HUGE / 8;
        let most = self.limits.memory.saturating_sub(self.allocated) / size;
        let count = if usual { (HUGE / size).min(most).max(1) } else { 1 };
        self.allocated += size * count;
        self.pool.extend(AlignedBuf::several(size, count));
        Ok(self.pool.pop().unwrap_or_else(|| AlignedBuf::zeroed(size)))
    }

    /// Takes back the buffer of a frame that was written.
    pub(crate) fn recycle(&mut self, number: usize, buffer: AlignedBuf) {
        self.free.push(number);
        if buffer.capacity() == self.limits.frame.next_multiple_of(BLOCK) {
            self.pool.push(buffer);
        } else {
            self.allocated -= buffer.capacity();
        }
    }

    /// Forgets the buffer of a frame that could not be written.
    pub(crate) fn forget(&mut self, number: usize, capacity: usize) {
        self.free.push(number);
        self.allocated -= capacity;
    }

    /// Seals the open frame, if there is one: it gets no more records from anybody.
    pub(crate) fn seal(&mut self) {
        if let Some(mut open) = self.open.take() {
            open.set_claimed(self.stage.close(open.buffer));
            self.offset = open.end();
            self.next_lsn = open.last_lsn().next();
            self.sealed.push_back(open);
        }
    }

    /// A frame of this segment, which was taken out, is shorter by so many bytes than what was
    /// reserved for it: all behind it stand nearer to it.
    pub(super) fn draw_up(&mut self, segment: SegmentNumber, saved: u64) {
        let here = |frame: &&mut Frame| frame.segment.number() == segment;
        for frame in self.sealed.iter_mut().chain(&mut self.open).filter(here) {
            frame.offset -= saved;
            frame.bound -= saved;
        }
        if self.segment.as_ref().is_some_and(|active| active.number() == segment) {
            self.offset -= saved;
        }
    }

    /// Takes the oldest frame for its write, sealing the open one if there is no other.
    pub(crate) fn take_oldest(&mut self) -> Option<Frame> {
        if self.sealed.is_empty() {
            self.seal();
        }
        self.sealed.pop_front()
    }

    /// What is written next.
    pub(crate) fn oldest(&self) -> Option<Oldest<'_>> {
        let sealed = self.sealed.front();
        let frame = sealed.or(self.open.as_ref())?;
        let records = match sealed {
            Some(frame) => u64::from(frame.records),
            None => self.stage.claimed(frame.buffer).records,
        };
        Some(Oldest { waiting: &frame.waiting, is_sealed: sealed.is_some(), records })
    }

    /// Whether there is only a frame that still takes records.
    pub(crate) fn has_open_only(&self) -> bool {
        self.sealed.is_empty() && self.open.is_some()
    }

    /// Whether nothing waits for its write.
    pub(crate) fn is_empty(&self) -> bool {
        self.sealed.is_empty() && self.open.is_none()
    }

    /// The last record that has its place in the log.
    pub(crate) fn appended(&self) -> Lsn {
        match &self.open {
            Some(open) => {
                open.first_lsn.advance(self.stage.claimed(open.buffer).records).previous()
            }
            None => self.next_lsn.previous(),
        }
    }

    /// Those who wait for the frame that holds `lsn`, if it is here.
    pub(crate) fn waiting_for(&mut self, lsn: Lsn) -> Option<&mut Waiting> {
        self.frame_of(lsn).map(|frame| &mut frame.waiting)
    }

    /// The frame that holds `lsn`, if it was not taken out yet.
    fn frame_of(&mut self, lsn: Lsn) -> Option<&mut Frame> {
        if let Some(open) = &mut self.open {
            open.set_claimed(self.stage.claimed(open.buffer));
        }
        let mut frames = self.sealed.iter_mut().chain(self.open.as_mut());
        let frame = frames.find(|frame| lsn <= frame.last_lsn())?;
        (lsn >= frame.first_lsn).then_some(frame)
    }

    /// Has the record with this LSN made void, if its frame was not taken out yet (LOG.md L6).
    pub(crate) fn make_void(&mut self, lsn: Lsn) -> bool {
        let Some(frame) = self.frame_of(lsn) else { return false };
        frame.voids.push(lsn.get() - frame.first_lsn.get());
        true
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
        (self.spares.len() < self.ahead.wanted()).then(|| newest.number().next())
    }

    /// Takes a segment that was prepared.
    pub(crate) fn add_spare(&mut self, spare: Arc<Segment>) {
        self.spares.push_back(spare);
        self.reserve_failed = false;
    }

    /// Takes note that there was no space to prepare one.
    pub(crate) fn preparation_failed(&mut self) {
        self.reserve_failed = true;
        self.ahead.failed();
    }

    /// Whether there is no time to prepare the next segment gently.
    pub(crate) fn is_short(&self) -> bool {
        self.spares.len() < AT_REST
    }

    /// Whether the segment that is being prepared, of which `done` bytes are there, may be needed
    /// before the rest is. The spare is needed when the active segment is full; if there is none,
    /// the users stop in its middle (STAGING-4). Either way twice as fast as it is filled is fast
    /// enough.
    pub(crate) fn needs_more_than(&self, done: u64) -> bool {
        let pace = if self.spares.is_empty() { 4 } else { 2 };
        self.offset.saturating_mul(pace) > done
    }

    /// Bytes of all buffers.
    #[cfg(test)]
    pub(crate) fn allocated(&self) -> usize {
        self.allocated
    }
}
