//! The file `LOG`: where the log starts, and how far it was known to be durable. Layout:
//! `docs/format.md`, "`LOG`: two slots".
//!
//! LOG-1: a slot is never written over the only valid one: sequence `s` goes to slot `s % 2`.
//! LOG-2: start and durable LSN never fall from one slot to the next.

use crate::checksum::is_zero;
use crate::error::Result;
use crate::ids::{Epoch, LogId, Lsn, Position, SegmentNumber, to_u64};
use crate::storage::{AlignedBuf, BLOCK, Channel, Directory, File, IoFailure, OpenMode};
use crate::sync::Arc;
use crate::wal::segment::{
    HeaderFault, block_size, half, is_valid_size, open_block, seal_block, word,
};
use crate::wal::transfer;

/// Its name.
pub(crate) const LOG_NAME: &str = "LOG";
/// Its name until it is durable.
pub(crate) const LOG_UNFINISHED: &str = "LOG.tmp";
/// Its length.
pub(crate) const LOG_LENGTH: usize = 2 * BLOCK;
const MAGIC: [u8; 8] = *b"SAWMLOG1";
const VERSION: u32 = 1;
const END: usize = 112;

/// What a slot says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LogState {
    pub(crate) log: LogId,
    /// No record below it is part of the log any more.
    pub(crate) start_lsn: Lsn,
    /// The segment that holds the start LSN's frame, or will.
    pub(crate) start_segment: SegmentNumber,
    /// The highest epoch whose barrier is durable; zero before the first.
    pub(crate) highest_epoch: Epoch,
    /// Where that barrier stands; zeros before the first.
    pub(crate) barrier: Position,
    /// The highest known when this was written; may lag.
    pub(crate) durable_lsn: Lsn,
    /// The segment that holds it.
    pub(crate) durable_segment: SegmentNumber,
    /// Bytes of each segment prepared from now on.
    pub(crate) segment_size: u64,
    /// Whether the log was closed cleanly.
    pub(crate) clean: bool,
}

impl LogState {
    /// The state of a log that was just created.
    pub(crate) fn new(log: LogId, segment_size: u64) -> LogState {
        LogState {
            log,
            start_lsn: Lsn::FIRST,
            start_segment: SegmentNumber::new(1),
            highest_epoch: Epoch::new(0),
            barrier: Position::default(),
            durable_lsn: Lsn::ZERO,
            durable_segment: SegmentNumber::new(1),
            segment_size,
            clean: false,
        }
    }

    /// The last segment that must be there: of the durable records, or of the newest barrier, which
    /// may stand alone behind them.
    pub(crate) fn last_named(&self) -> SegmentNumber {
        self.durable_segment.max(self.barrier.segment)
    }

    /// Writes slot `sequence % 2`'s block into `out`.
    ///
    /// # Panics
    /// If `out` is shorter than a block.
    pub(crate) fn encode(&self, sequence: u64, out: &mut [u8]) {
        let out = &mut out[..BLOCK];
        out.fill(0);
        out[0..8].copy_from_slice(&MAGIC);
        out[8..12].copy_from_slice(&VERSION.to_le_bytes());
        out[12..16].copy_from_slice(&block_size().to_le_bytes());
        out[16..32].copy_from_slice(self.log.as_bytes());
        let words = [
            sequence,
            self.start_lsn.get(),
            self.start_segment.get(),
            self.highest_epoch.get(),
            self.durable_lsn.get(),
            self.durable_segment.get(),
            self.segment_size,
            if self.clean { 2 } else { 1 },
            self.barrier.segment.get(),
            self.barrier.offset,
        ];
        for (slot, word) in out[32..END].chunks_exact_mut(8).zip(words) {
            slot.copy_from_slice(&word.to_le_bytes());
        }
        seal_block(out);
    }

    /// The state in this block, and its sequence, if it is slot `slot`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn decode(bytes: &[u8], slot: u64) -> Result<(LogState, u64), HeaderFault> {
        let block = open_block(bytes, MAGIC, VERSION)?;
        let zeros = is_zero(&block[92..96]) && is_zero(&block[END..BLOCK - 4]);
        let mut log = [0; 16];
        log.copy_from_slice(&block[16..32]);
        let sequence = word(block, 32);
        let state = LogState {
            log: LogId::from_bytes(log),
            start_lsn: Lsn::new(word(block, 40)),
            start_segment: SegmentNumber::new(word(block, 48)),
            highest_epoch: Epoch::new(word(block, 56)),
            barrier: Position {
                segment: SegmentNumber::new(word(block, 96)),
                offset: word(block, 104),
            },
            durable_lsn: Lsn::new(word(block, 64)),
            durable_segment: SegmentNumber::new(word(block, 72)),
            segment_size: word(block, 80),
            clean: half(block, 88) == 2,
        };
        // Counters near the end of their range would overflow what is computed from them.
        let counters = [
            sequence,
            state.start_lsn.get(),
            state.start_segment.get(),
            state.highest_epoch.get(),
            state.durable_lsn.get(),
            state.durable_segment.get(),
            state.barrier.segment.get(),
        ];
        // Before the first barrier nothing was durable, and nothing can have been given up.
        let fresh = state == LogState::new(state.log, state.segment_size);
        let sane = counters.iter().all(|counter| *counter < u64::MAX / 2)
            && state.start_lsn >= Lsn::FIRST
            && state.durable_lsn.next() >= state.start_lsn
            && state.start_segment.get() >= 1
            && state.durable_segment >= state.start_segment
            && is_valid_size(state.segment_size)
            && state.barrier.offset.is_multiple_of(to_u64(BLOCK))
            && if state.highest_epoch.get() == 0 { fresh } else { state.barrier.offset > 0 }
            && matches!(half(block, 88), 1 | 2);
        if !zeros || !sane || sequence % 2 != slot {
            return Err(HeaderFault::Damaged);
        }
        Ok((state, sequence))
    }
}

/// What the bytes of a `LOG` file hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LogVerdict {
    /// The newest valid slot.
    Valid { state: LogState, sequence: u64 },
    /// No valid slot, and nothing that sawmill did not write: a creation that did not finish, or
    /// damage, which only the segments can tell.
    NoSlot,
    /// A whole slot of a version that this release does not know, and no newer one it does.
    Version(u32),
    /// Not sawmill's file.
    Foreign,
}

/// Judges the bytes of a `LOG` file. Pure; never panics.
pub(crate) fn judge(bytes: &[u8]) -> LogVerdict {
    let slots = [0, 1].map(|slot: u64| {
        let start = BLOCK * usize::from(slot == 1);
        LogState::decode(bytes.get(start..).unwrap_or_default(), slot)
    });
    let newest = slots.iter().flatten().max_by_key(|(_, sequence)| *sequence);
    for slot in &slots {
        if let Err(HeaderFault::Version(version)) = slot {
            return LogVerdict::Version(*version);
        }
    }
    if let Some((state, sequence)) = newest {
        return LogVerdict::Valid { state: *state, sequence: *sequence };
    }
    // Other programs also name a file LOG. What we wrote ourselves, torn or not, starts each slot
    // with the magic or with zeros, and is no longer than two slots.
    let ours = bytes.len() <= LOG_LENGTH
        && bytes.chunks(BLOCK).all(|slot| {
            let start = &slot[..slot.len().min(MAGIC.len())];
            MAGIC.starts_with(start) || is_zero(start)
        });
    if ours { LogVerdict::NoSlot } else { LogVerdict::Foreign }
}

/// The open `LOG` file. One thread at a time writes it.
#[derive(Debug)]
pub(crate) struct LogFile {
    file: Arc<dyn File>,
    state: LogState,
    sequence: u64,
}

impl LogFile {
    /// Makes the file with both slots, and makes it and its name durable. It gets its name when its
    /// bytes are durable: a crash in between leaves no `LOG`, never one with stale bytes. The
    /// caller has removed older ones.
    ///
    /// # Errors
    /// The operating system's.
    pub(crate) fn create(
        directory: &dyn Directory,
        state: LogState,
        channel: &mut dyn Channel,
    ) -> Result<LogFile, IoFailure> {
        let file = directory.open(LOG_UNFINISHED, OpenMode::CreateDirect)?;
        let mut buffer = AlignedBuf::zeroed(LOG_LENGTH);
        state.encode(0, &mut buffer);
        state.encode(1, &mut buffer[BLOCK..]);
        transfer::write_all(channel, &file, 0, buffer, true)?;
        file.sync()?;
        directory.rename(LOG_UNFINISHED, LOG_NAME)?;
        directory.sync()?;
        let file = directory.open(LOG_NAME, OpenMode::WriteDirect)?;
        Ok(LogFile { file, state, sequence: 1 })
    }

    /// Takes an open file that was read and judged.
    pub(crate) fn from_parts(file: Arc<dyn File>, state: LogState, sequence: u64) -> LogFile {
        LogFile { file, state, sequence }
    }

    /// What the newest slot says.
    pub(crate) fn state(&self) -> &LogState {
        &self.state
    }

    /// The open file.
    pub(crate) fn file(&self) -> &Arc<dyn File> {
        &self.file
    }

    /// Writes the older slot, durable. Nobody waits for it on the commit path (LOG.md L2).
    ///
    /// # Errors
    /// The operating system's: final, as every failed write (LOG.md L12).
    ///
    /// # Panics
    /// If start or durable LSN fall (LOG-2).
    pub(crate) fn write_slot(
        &mut self,
        state: LogState,
        channel: &mut dyn Channel,
    ) -> Result<(), IoFailure> {
        assert!(state.log == self.state.log, "LOG: a log keeps its identity");
        assert!(state.start_lsn >= self.state.start_lsn, "LOG-2: the start never falls");
        assert!(state.durable_lsn >= self.state.durable_lsn, "LOG-2: durable never falls");
        let sequence = self.sequence + 1;
        let mut buffer = AlignedBuf::zeroed(BLOCK);
        state.encode(sequence, &mut buffer);
        let offset = to_u64(BLOCK) * (sequence % 2);
        transfer::write_all(channel, &self.file, offset, buffer, true)?;
        self.state = state;
        self.sequence = sequence;
        Ok(())
    }

    /// Writes both slots, one after the other, each durable: so that neither alone is needed
    /// before a segment is removed (LOG.md L2, L17).
    ///
    /// # Errors
    /// As [`LogFile::write_slot`].
    ///
    /// # Panics
    /// As [`LogFile::write_slot`].
    pub(crate) fn write_both(
        &mut self,
        state: LogState,
        channel: &mut dyn Channel,
    ) -> Result<(), IoFailure> {
        self.write_slot(state, channel)?;
        self.write_slot(state, channel)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example(durable: u64) -> LogState {
        let mut state = LogState::new(LogId::from_bytes([0x11; 16]), 65536);
        state.durable_lsn = Lsn::new(durable);
        state.highest_epoch = Epoch::new(1);
        state.barrier = Position { segment: SegmentNumber::new(1), offset: 4096 };
        state
    }

    fn file(sequence: u64) -> Vec<u8> {
        let mut bytes = vec![0; LOG_LENGTH];
        for (sequence, durable) in [(sequence, 10), (sequence + 1, 11)] {
            let start = BLOCK * usize::from(sequence % 2 == 1);
            example(durable).encode(sequence, &mut bytes[start..]);
        }
        bytes
    }

    #[test]
    fn newest_slot_wins_in_either_place() {
        for sequence in [4, 5] {
            let valid = LogVerdict::Valid { state: example(11), sequence: sequence + 1 };
            assert_eq!(judge(&file(sequence)), valid);
        }
    }

    #[test]
    fn one_rotten_slot_leaves_the_other_whichever_bit_rots() {
        for bit in 0..LOG_LENGTH * 8 {
            let mut bytes = file(4);
            bytes[bit / 8] ^= 1 << (bit % 8);
            let (durable, sequence) = if bit < BLOCK * 8 { (11, 5) } else { (10, 4) };
            let valid = LogVerdict::Valid { state: example(durable), sequence };
            assert_eq!(judge(&bytes), valid, "bit {bit}");
        }
    }

    #[test]
    fn a_slot_counts_only_in_its_place() {
        let mut bytes = vec![0; LOG_LENGTH];
        example(1).encode(1, &mut bytes);
        assert_eq!(judge(&bytes), LogVerdict::NoSlot);
    }

    #[test]
    fn torn_creations_are_ours_and_other_programs_files_are_not() {
        assert_eq!(judge(&[]), LogVerdict::NoSlot);
        assert_eq!(judge(&[0; 100]), LogVerdict::NoSlot);
        assert_eq!(judge(&file(0)[..512]), LogVerdict::NoSlot);
        assert_eq!(judge(b"2026/11/21-01:00 7f RocksDB version: 9"), LogVerdict::Foreign);
        assert_eq!(judge(&[0; LOG_LENGTH + 1]), LogVerdict::Foreign);
    }

    /// A slot whose checksum holds and that no writer wrote: before the first barrier nothing can
    /// have been durable in segment 2^62. Recovery counted down from there, one segment at a time.
    #[test]
    fn a_slot_that_contradicts_itself_is_damaged() {
        let fresh = LogState::new(LogId::from_bytes([0x11; 16]), 65536);
        let mut wrong = [fresh, fresh, fresh, fresh, example(1), example(1)];
        wrong[0].durable_segment = SegmentNumber::new(1 << 62);
        wrong[1].durable_lsn = Lsn::new(1);
        wrong[2].barrier.segment = SegmentNumber::new(1);
        wrong[3].highest_epoch = Epoch::new(1);
        wrong[4].barrier.offset += 1;
        wrong[5].barrier.segment = SegmentNumber::new(u64::MAX);
        for state in wrong {
            let mut bytes = vec![0; LOG_LENGTH];
            state.encode(0, &mut bytes);
            assert_eq!(judge(&bytes), LogVerdict::NoSlot, "{state:?}");
        }
    }

    #[test]
    fn a_newer_version_is_named() {
        let mut bytes = file(4);
        bytes[8] = 2;
        seal_block(&mut bytes[..BLOCK]);
        assert_eq!(judge(&bytes), LogVerdict::Version(2));
    }
}
