//! Sealing the place where the log ends: the barrier, and what goes with it (LOG.md L16).

use std::collections::VecDeque;

use super::Tail;
use super::walk::{Device, FoundBarrier, Segments, Walked};
use crate::checksum::crc32c;
use crate::clock::Clock;
use crate::error::Result;
use crate::ids::{Epoch, Lsn, Position, SegmentNumber, to_u64, to_usize};
use crate::planted::{Bug, planted};
use crate::storage::{AlignedBuf, BLOCK, Directory, Storage};
use crate::sync::Arc;
use crate::wal::barrier::Barrier;
use crate::wal::frame::{FRAME_HEADER, FrameHeader, FrameKind, frame_length};
use crate::wal::home::Home;
use crate::wal::index::SegmentEntry;
use crate::wal::lineage::Lineage;
use crate::wal::log_file::LogFile;
use crate::wal::segment::{FIRST_FRAME, Segment, file_name};
use crate::wal::transfer;
use crate::wal::window::WINDOW;

/// An opening whose decision is made, and whose barrier is not yet written.
pub(super) struct Opening<'a> {
    pub(super) home: &'a Arc<Home>,
    pub(super) clock: &'a dyn Clock,
    pub(super) segments: Segments,
    /// Files to be removed: their numbers are needed again.
    pub(super) unfinished: Vec<SegmentNumber>,
    pub(super) entries: Vec<SegmentEntry>,
    pub(super) epoch: Epoch,
    pub(super) nonce: u64,
    pub(super) segment_size: u64,
    /// What the barrier says of earlier epochs, and this one.
    pub(super) lineage: Lineage,
}

impl Opening<'_> {
    /// Writes the barrier where the chain ends, alone and durable, and then says so in `LOG`.
    pub(super) fn seal(
        &mut self,
        device: &mut Device<'_>,
        walked: &Walked,
        previous: Option<FoundBarrier>,
        log_file: &mut LogFile,
    ) -> Result<Tail> {
        // The highest first: whatever a crash keeps of it leaves no gap behind.
        let mut names: Vec<_> = self.unfinished.iter().map(|number| file_name(*number)).collect();
        names.reverse();
        remove(&**self.home.directory(), &names)?;

        let next_lsn = match walked.next_lsn() {
            next if planted(Bug::ShownLsnReused) && next > Lsn::FIRST => next.previous(),
            next => next,
        };
        let state = *log_file.state();
        let barrier = describe(walked, previous, state.start_lsn);
        let mut pairs = barrier.pairs.clone();
        pairs.push((self.epoch, next_lsn));
        self.lineage = Lineage { pairs, previous: barrier.previous };
        let length = frame_length(to_u64(barrier.length()));
        let position = self.place(device, walked, length, &state)?;
        let before = walked.last.map_or(0, |last| last.seal_time_ns);
        let before = if planted(Bug::SealTimeFalls) { 0 } else { before };
        let seal_time_ns = self.clock.wall_ns().max(before);
        // The frame may have said that the catalog begins in records that are not there.
        let catalog = walked.last.map_or(Lsn::ZERO, |last| last.catalog).min(next_lsn);
        let mut buffer = AlignedBuf::zeroed(to_usize(length));
        barrier.encode(&mut buffer[FRAME_HEADER..]);
        let header = FrameHeader {
            log: state.log,
            position,
            epoch: self.epoch,
            nonce: self.nonce,
            first_lsn: next_lsn,
            durable_lsn: next_lsn.previous(),
            seal_time_ns,
            records: 0,
            payload_length: u32::try_from(barrier.length()).unwrap_or(u32::MAX),
            payload_crc: crc32c(&buffer[FRAME_HEADER..FRAME_HEADER + barrier.length()]),
            chain: barrier.last_good_crc,
            kind: FrameKind::Barrier,
            plain: None,
            catalog,
        };
        let chain = header.encode(&mut buffer);
        if planted(Bug::NoBarrier) {
            let chain = barrier.last_good_crc;
            return Ok(Tail { position, chain, next_lsn, seal_time_ns, catalog });
        }
        let file = Arc::clone(self.segments[&position.segment].file());
        let durable = !planted(Bug::ShowBeforeBarrier);
        transfer::write_all(device.channel, &file, position.offset, buffer, durable)?;

        let mut state = state;
        state.highest_epoch = self.epoch;
        state.barrier = position;
        state.durable_lsn = next_lsn.previous();
        state.durable_segment = self.segment_of(state.durable_lsn);
        state.segment_size = self.segment_size;
        state.clean = false;
        log_file.write_slot(state, device.channel)?;
        Ok(Tail { position: header.end(), chain, next_lsn, seal_time_ns, catalog })
    }

    /// Where a frame of `length` bytes goes: the end of the chain, or the next segment if it does
    /// not fit, which is prepared if there is none.
    fn place(
        &mut self,
        device: &mut Device<'_>,
        walked: &Walked,
        length: u64,
        state: &crate::wal::log_file::LogState,
    ) -> Result<Position> {
        let end = walked.end.position;
        let room = self.segments.get(&end.segment).map_or(0, |segment| segment.size());
        let fits = end.offset + length <= room;
        let (number, offset) = match (fits, room) {
            (true, _) => (end.segment, end.offset),
            (false, 0) => (end.segment, FIRST_FRAME),
            (false, _) => (end.segment.next(), FIRST_FRAME),
        };
        if !self.segments.contains_key(&number) {
            let size = self.segment_size;
            let segment = Segment::prepare(self.home, state.log, number, size, device.channel)?;
            self.segments.insert(number, Arc::new(segment));
        }
        if self.entries.last().is_none_or(|last| last.segment.number() < number) {
            let segment = Arc::clone(&self.segments[&number]);
            self.entries.push(SegmentEntry { segment, first_lsn: walked.next_lsn() });
        }
        Ok(Position { segment: number, offset })
    }

    fn segment_of(&self, lsn: Lsn) -> SegmentNumber {
        let before = self.entries.partition_point(|entry| entry.first_lsn <= lsn);
        self.entries[before.saturating_sub(1)].segment.number()
    }

    /// The prepared segments behind the active one. What an earlier incarnation left in them stays
    /// until it is written over: chain, epoch and nonce keep it from coming back.
    pub(super) fn spares(&self, active: SegmentNumber) -> VecDeque<Arc<Segment>> {
        self.segments.range(active.next()..).map(|(_, segment)| Arc::clone(segment)).collect()
    }
}

/// What the barrier says of the log before it.
fn describe(walked: &Walked, previous: Option<FoundBarrier>, start: Lsn) -> Barrier {
    let pairs = match (&previous, walked.last) {
        (Some(found), _) => found.barrier.pairs_after(found.epoch, found.first_lsn, start),
        // Its barrier was truncated, and with it everything older.
        (None, Some(last)) => vec![(last.epoch, start)],
        (None, None) => Vec::new(),
    };
    Barrier {
        last_good_lsn: walked.next_lsn().previous(),
        last_good: walked.last.map_or(Position::default(), |last| last.position),
        last_good_crc: walked.end.chain.unwrap_or(0),
        previous: previous.map_or(Position::default(), |found| found.position),
        pairs,
    }
}

/// A nonce for the incarnation.
pub(super) fn nonce(storage: &dyn Storage) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&storage.random()[..8]);
    u64::from_le_bytes(bytes)
}

/// Removes files and makes that durable.
pub(super) fn remove(directory: &dyn Directory, names: &[String]) -> Result<()> {
    if names.is_empty() {
        return Ok(());
    }
    for name in names {
        directory.unlink(name)?;
    }
    directory.sync()?;
    Ok(())
}

/// Where the page cache cannot be passed by, what it shows may never have reached the medium: a
/// sync that failed under the last writer leaves pages that look clean. So the same bytes are
/// written again, durable, from the start of segment `start` to `end` (LOG.md L14).
pub(super) fn write_again(
    device: &mut Device<'_>,
    segments: &Segments,
    start: SegmentNumber,
    end: Position,
) -> Result<()> {
    for (number, segment) in segments.range(start..=end.segment) {
        let last = if *number == end.segment { end.offset } else { segment.size() };
        let mut offset = 0;
        while offset < last {
            let length = to_usize((last - offset).min(WINDOW)).next_multiple_of(BLOCK);
            let bytes = transfer::read_exact(device.channel, segment.file(), offset, length)?;
            transfer::write_all(device.channel, segment.file(), offset, bytes, true)?;
            offset += to_u64(length);
        }
    }
    Ok(())
}
