//! Where records are put without the log's mutex: the staging buffers, and which of them takes
//! records. The protocol is in the module's documentation, "Reserving without the mutex".
//!
//! STAGE-2: a record's LSN is its frame's first LSN and its ordinal: dense, in the order of
//! reservation. STAGE-3: what was reserved and never copied reads as void records (LOG.md L6).

use super::options::Limits;
use super::range::LsnRange;
use super::record::{RECORD_HEADER, RecordKind, encode_header_of};
use super::staging::Want;
use super::turns;
use crate::ids::{Lsn, StreamId, to_u64, to_usize};
use crate::storage::staging_buffer::{Range, StagingBuffer};
use crate::storage::staging_word::{Claimed, Room};
use crate::storage::{AlignedBuf, BLOCK};
use crate::sync::atomic::{AtomicUsize, Ordering};

/// The most staging buffers, whatever the memory.
const BUFFERS_MAX: usize = 512;
/// No buffer takes records from whoever comes.
const NONE: usize = usize::MAX;

/// The staging buffers of a log.
#[derive(Debug)]
pub(crate) struct Stage {
    buffers: Box<[StagingBuffer]>,
    /// A hint: the buffer that takes records, or one that did. Its own word decides.
    open: AtomicUsize,
}

impl Stage {
    pub(crate) fn new(limits: &Limits) -> Stage {
        let count = limits.memory / limits.frame.next_multiple_of(BLOCK);
        let count = count.clamp(2, BUFFERS_MAX);
        Stage {
            buffers: (0..count).map(|_| StagingBuffer::new()).collect(),
            open: AtomicUsize::new(NONE),
        }
    }

    /// How many buffers there are.
    pub(crate) fn count(&self) -> usize {
        self.buffers.len()
    }

    /// Before one record that nobody waits for: whoever submits so one after the other takes turns
    /// with others that do.
    #[inline]
    pub(crate) fn take_turns(&self) {
        if let Some(buffer) = self.buffers.get(self.open.load(Ordering::Relaxed)) {
            turns::stand_back(|| buffer.next_number());
        }
    }

    /// Reserves room for `count` records in the frame that takes records, without any lock; `None`
    /// if the log's mutex is needed for it.
    #[inline]
    pub(crate) fn reserve(&self, count: usize, bytes: usize) -> Option<Reservation<'_>> {
        // A buffer that was closed and opened again since takes records as well: its word says so.
        let buffer = self.buffers.get(self.open.load(Ordering::Acquire))?;
        Reservation::new(buffer, count, bytes, false)
    }

    /// Reserves room in a frame, which may be reserved for those who `may`. Under the log's mutex.
    pub(crate) fn reserve_in(
        &self,
        number: usize,
        count: usize,
        bytes: usize,
        may: bool,
    ) -> Option<Reservation<'_>> {
        Reservation::new(&self.buffers[number], count, bytes, may)
    }

    /// Opens a buffer for a frame, with the records for which it is opened. Under the log's mutex.
    pub(crate) fn open(
        &self,
        number: usize,
        memory: AlignedBuf,
        room: Room,
        count: usize,
        bytes: usize,
    ) -> Reservation<'_> {
        let reserved = room.reserved;
        let range = self.buffers[number].open(memory, room, bytes, count);
        if !reserved {
            self.open.store(number, Ordering::Release);
        }
        Reservation::of(range, count)
    }

    /// Takes no more records into a buffer; how many bytes and records it has is final. Under the
    /// log's mutex.
    pub(crate) fn close(&self, number: usize) -> Claimed {
        self.open.store(NONE, Ordering::Relaxed);
        self.buffers[number].close()
    }

    /// How many bytes and records a buffer has by now.
    pub(crate) fn claimed(&self, number: usize) -> Claimed {
        self.buffers[number].claimed()
    }

    /// The memory of a closed buffer, when everybody has copied.
    pub(crate) fn take(&self, number: usize) -> AlignedBuf {
        self.buffers[number].take()
    }
}

/// Room for records that have their LSNs already, on its way to be filled. If it is dropped before,
/// by a panic, they become void records.
#[derive(Debug)]
#[must_use = "dropped, its records become void"]
pub(crate) struct Reservation<'a> {
    range: Range<'a>,
    lsns: LsnRange,
    filled: bool,
}

impl<'a> Reservation<'a> {
    #[inline]
    fn new(
        buffer: &'a StagingBuffer,
        count: usize,
        bytes: usize,
        may: bool,
    ) -> Option<Reservation<'a>> {
        Some(Reservation::of(buffer.reserve(bytes, count, may)?, count))
    }

    #[inline]
    fn of(range: Range<'a>, count: usize) -> Reservation<'a> {
        let lsns = LsnRange::new(Lsn::new(range.tag() + range.ordinal()), to_u64(count));
        Reservation { range, lsns, filled: false }
    }

    /// The LSNs of the records.
    #[inline]
    pub(crate) fn lsns(&self) -> LsnRange {
        self.lsns
    }

    /// Copies the records there: nothing but a memory copy between reserved and copied (L6).
    #[inline]
    pub(crate) fn fill(mut self, want: Want, payloads: &[&[u8]]) -> LsnRange {
        let mut rest = self.range.bytes_mut();
        for payload in payloads {
            #[allow(clippy::cast_possible_truncation, reason = "max_record is at most 1 GiB")]
            let length = payload.len() as u32;
            let (record, behind) = rest.split_at_mut(RECORD_HEADER + payload.len());
            encode_header_of(record, length, want.stream, want.kind, want.extended);
            record[RECORD_HEADER..].copy_from_slice(payload);
            rest = behind;
        }
        assert!(rest.is_empty(), "STAGE-2: records leave a gap in their frame");
        self.filled = true;
        self.lsns
    }
}

impl Drop for Reservation<'_> {
    #[inline]
    fn drop(&mut self) {
        if !self.filled {
            self.make_void();
        }
    }
}

impl Reservation<'_> {
    /// As many void records as were reserved: all but the last one empty, the last one over the
    /// rest.
    #[cold]
    fn make_void(&mut self) {
        let count = self.lsns.len();
        if count == 0 {
            return;
        }
        let bytes = self.range.bytes_mut();
        bytes.fill(0);
        let last = bytes.len() - (to_usize(count) - 1) * RECORD_HEADER;
        #[allow(clippy::cast_possible_truncation, reason = "a frame is smaller than 4 GiB")]
        let length = (last - RECORD_HEADER) as u32;
        let mut rest = bytes;
        for number in 1..=count {
            let length = if number == count { length } else { 0 };
            encode_header_of(rest, length, StreamId::DEFAULT, RecordKind::Void, false);
            rest = &mut rest[RECORD_HEADER..];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::{Arc, spawn};
    use crate::wal::frame::FRAME_HEADER;
    use crate::wal::record;
    use crate::wal::staging::Mark;

    const WANT: Want = Want::user(StreamId::new(3), Mark::Appended);
    const FIRST: u64 = 100;
    const ONE: &[u8] = b"first";

    /// A stage whose first buffer is open with one record in it.
    fn stage(size: usize, reserved: bool) -> Stage {
        let stage =
            Stage::new(&Limits { record: 1, batch: 1, frame: 4096, memory: 8192, ahead: 2 });
        open(&stage, size, FIRST, reserved);
        stage
    }

    fn open(stage: &Stage, size: usize, tag: u64, reserved: bool) {
        let (start, end) = (to_u64(FRAME_HEADER), to_u64(size));
        let room = Room { start, end, tag, reserved };
        let memory = AlignedBuf::zeroed(size);
        stage.open(0, memory, room, 1, RECORD_HEADER + ONE.len()).fill(WANT, &[ONE]);
    }

    /// The records of a buffer, with their LSNs.
    fn records(stage: &Stage) -> Vec<(u64, RecordKind, Vec<u8>)> {
        let claimed = stage.close(0);
        let memory = stage.take(0);
        let mut rest = &memory[FRAME_HEADER..to_usize(claimed.end)];
        let mut found = Vec::new();
        while !rest.is_empty() {
            let record = record::decode(&mut rest).unwrap();
            let lsn = FIRST + to_u64(found.len());
            found.push((lsn, record.kind, record.payload.to_vec()));
        }
        assert_eq!(to_u64(found.len()), claimed.records);
        found
    }

    fn append(stage: &Stage, payload: &[u8]) -> Option<u64> {
        let reservation = stage.reserve(1, RECORD_HEADER + payload.len())?;
        Some(reservation.fill(WANT, &[payload]).first().get())
    }

    #[test]
    fn every_lsn_has_its_bytes_whoever_reserves() {
        let stage = Arc::new(stage(64 << 10, false));
        let workers: Vec<_> = (0..4_u8)
            .map(|worker| {
                let stage = Arc::clone(&stage);
                let body = move || {
                    let mut mine = Vec::new();
                    for number in 0..=u8::MAX {
                        let payload = vec![worker ^ number; 1 + usize::from(number)];
                        let Some(lsn) = append(&stage, &payload) else { break };
                        mine.push((lsn, RecordKind::User, payload));
                    }
                    mine
                };
                spawn("reserver", body).unwrap()
            })
            .collect();
        let mut expected = vec![(FIRST, RecordKind::User, ONE.to_vec())];
        expected.extend(workers.into_iter().flat_map(|worker| worker.join().unwrap()));
        expected.sort_by_key(|record| record.0);
        assert_eq!(records(&stage), expected);
        assert_eq!(append(&stage, b"late"), None, "closed");
        open(&stage, 4096, FIRST, false);
        assert_eq!(append(&stage, b"again"), Some(FIRST + 1), "opened again");
    }

    #[test]
    fn a_dropped_reservation_becomes_void_records() {
        let stage = stage(4096, false);
        drop(stage.reserve(3, 3 * RECORD_HEADER + 20));
        assert_eq!(append(&stage, b"behind"), Some(FIRST + 4));
        let found = records(&stage);
        let kinds: Vec<_> = found.iter().map(|record| record.1).collect();
        let void = RecordKind::Void;
        assert_eq!(kinds, [RecordKind::User, void, void, void, RecordKind::User]);
        assert_eq!(found[4].2, b"behind");
    }

    #[test]
    fn a_panic_between_reserved_and_copied_leaves_a_frame_that_can_be_sealed() {
        let stage = stage(4096, false);
        let broken = std::panic::AssertUnwindSafe(|| {
            // Shorter than what was reserved: an impossible state, which asserts.
            stage.reserve(1, RECORD_HEADER + 9).unwrap().fill(WANT, &[b"short"])
        });
        std::panic::catch_unwind(broken).unwrap_err();
        let found = records(&stage);
        assert_eq!(found[1], (FIRST + 1, RecordKind::Void, vec![0; 9]));
    }

    #[test]
    fn what_is_sealed_comes_out_only_when_everybody_has_copied() {
        let stage = Arc::new(stage(4096, false));
        let slow = stage.reserve(1, RECORD_HEADER + 4).unwrap();
        let sealing = Arc::clone(&stage);
        let leader = spawn("leader", move || records(&sealing)).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(20));
        assert!(!leader.is_finished(), "taken out under a copy");
        slow.fill(WANT, &[b"slow"]);
        assert_eq!(leader.join().unwrap()[1].2, b"slow");
    }

    #[test]
    fn a_reserved_frame_is_for_those_who_may() {
        let stage = stage(4096, true);
        assert_eq!(append(&stage, b"user"), None, "not published");
        let bytes = RECORD_HEADER + 4;
        assert!(stage.reserve_in(0, 1, bytes, false).is_none(), "and its word refuses");
        assert!(stage.reserve_in(0, 1, bytes, true).is_some());
    }
}
