//! The payload of a barrier. Layout: `docs/format.md`, "Barrier".

use crate::ids::{Epoch, Lsn, Position, SegmentNumber, to_usize};
use crate::wal::frame::FrameHeader;
use crate::wal::segment::{half, word};

/// How many (epoch, first LSN) pairs a barrier carries at most.
pub(crate) const PAIRS_MAX: usize = 256;
const FIXED: usize = 48;
const PAIR: usize = 16;

/// What a barrier says of the log before it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Barrier {
    /// The last record that recovery kept; start LSN - 1 if none.
    pub(crate) last_good_lsn: Lsn,
    /// The last frame that recovery kept; zeros if none.
    pub(crate) last_good: Position,
    /// That frame's header CRC.
    pub(crate) last_good_crc: u32,
    /// The barrier before; zeros if none, or if it was truncated.
    pub(crate) previous: Position,
    /// Epochs and the first LSN written in each, ascending.
    pub(crate) pairs: Vec<(Epoch, Lsn)>,
}

impl Barrier {
    /// The payload's length.
    pub(crate) fn length(&self) -> usize {
        FIXED + PAIR * self.pairs.len()
    }

    /// Writes the payload into the first [`Barrier::length`] bytes of `out`.
    ///
    /// # Panics
    /// If `out` is shorter, or if there are more than [`PAIRS_MAX`] pairs.
    pub(crate) fn encode(&self, out: &mut [u8]) {
        assert!(self.pairs.len() <= PAIRS_MAX, "BARRIER: older pairs are left out");
        let words = [self.last_good_lsn.get(), self.last_good.segment.get(), self.last_good.offset];
        for (slot, word) in out[..24].chunks_exact_mut(8).zip(words) {
            slot.copy_from_slice(&word.to_le_bytes());
        }
        let count = u32::try_from(self.pairs.len()).unwrap_or(u32::MAX);
        out[24..28].copy_from_slice(&self.last_good_crc.to_le_bytes());
        out[28..32].copy_from_slice(&count.to_le_bytes());
        out[32..40].copy_from_slice(&self.previous.segment.get().to_le_bytes());
        out[40..48].copy_from_slice(&self.previous.offset.to_le_bytes());
        for (slot, (epoch, lsn)) in out[FIXED..].chunks_exact_mut(PAIR).zip(&self.pairs) {
            slot[..8].copy_from_slice(&epoch.get().to_le_bytes());
            slot[8..].copy_from_slice(&lsn.get().to_le_bytes());
        }
    }

    /// The barrier in the payload of the frame of `header`; `None` if the bytes are none, or say
    /// what no barrier there can say: the next one, which repeats it, would not be read again.
    pub(crate) fn decode(header: &FrameHeader, payload: &[u8]) -> Option<Barrier> {
        let (fixed, rest) = payload.split_at_checked(FIXED)?;
        let count = to_usize(u64::from(half(fixed, 28)));
        if count > PAIRS_MAX || rest.len() != count * PAIR {
            return None;
        }
        let pair = |at: usize| (Epoch::new(word(rest, at)), Lsn::new(word(rest, at + 8)));
        let pairs: Vec<_> = (0..count).map(|index| pair(index * PAIR)).collect();
        let ascending = pairs.windows(2).all(|two| two[0].0 < two[1].0 && two[0].1 <= two[1].1);
        let earlier =
            pairs.last().is_none_or(|last| last.0 < header.epoch && last.1 <= header.first_lsn);
        let place = |at: usize| Position {
            segment: SegmentNumber::new(word(fixed, at)),
            offset: word(fixed, at + 8),
        };
        let previous = place(32);
        (ascending && earlier && previous < header.position).then(|| Barrier {
            last_good_lsn: Lsn::new(word(fixed, 0)),
            last_good: place(8),
            last_good_crc: half(fixed, 24),
            previous,
            pairs,
        })
    }

    /// The pairs of the next barrier: this one's and its own epoch's, without those whose records
    /// all lie below `start`, the newest [`PAIRS_MAX`] of them.
    pub(crate) fn pairs_after(&self, epoch: Epoch, first: Lsn, start: Lsn) -> Vec<(Epoch, Lsn)> {
        let mut pairs = self.pairs.clone();
        pairs.retain(|(earlier, _)| *earlier < epoch);
        pairs.push((epoch, first));
        // An epoch's records end where the next one's start.
        let below = pairs.windows(2).take_while(|two| two[1].1 <= start).count();
        let surplus = pairs.len().saturating_sub(PAIRS_MAX);
        pairs.split_off(below.max(surplus))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::LogId;
    use crate::wal::frame::FrameKind;

    /// Of a frame behind everything that `example(256)` names.
    fn header() -> FrameHeader {
        FrameHeader {
            log: LogId::from_bytes([0x11; 16]),
            position: Position { segment: SegmentNumber::new(1), offset: 12288 },
            epoch: Epoch::new(257),
            nonce: 7,
            first_lsn: Lsn::new(2560),
            durable_lsn: Lsn::new(2559),
            seal_time_ns: 9,
            records: 0,
            payload_length: 48,
            payload_crc: 5,
            chain: 77,
            kind: FrameKind::Barrier,
            plain: None,
            catalog: Lsn::ZERO,
        }
    }

    fn example(pairs: u64) -> Barrier {
        Barrier {
            last_good_lsn: Lsn::new(9),
            last_good: Position { segment: SegmentNumber::new(1), offset: 8192 },
            last_good_crc: 77,
            previous: Position { segment: SegmentNumber::new(1), offset: 4096 },
            pairs: (1..=pairs).map(|epoch| (Epoch::new(epoch), Lsn::new(epoch * 10))).collect(),
        }
    }

    #[test]
    fn decodes_what_it_encodes_with_no_pair_and_with_all() {
        for pairs in [0, 1, 256] {
            let barrier = example(pairs);
            let mut bytes = vec![0; barrier.length()];
            barrier.encode(&mut bytes);
            assert_eq!(Barrier::decode(&header(), &bytes), Some(barrier));
        }
    }

    #[test]
    fn refuses_counts_that_do_not_match_and_pairs_that_fall() {
        let mut bytes = vec![0; example(2).length()];
        example(2).encode(&mut bytes);
        assert_eq!(Barrier::decode(&header(), &bytes[..bytes.len() - 1]), None);
        bytes[48] = 5;
        assert_eq!(Barrier::decode(&header(), &bytes), None);
        assert_eq!(Barrier::decode(&header(), &[]), None);
    }

    /// What is read once is repeated by the next opening, and read again.
    #[test]
    fn refuses_what_no_barrier_there_can_say() {
        let mut bytes = vec![0; example(256).length()];
        example(256).encode(&mut bytes);
        for wrong in [
            FrameHeader { epoch: Epoch::new(256), ..header() },
            FrameHeader { first_lsn: Lsn::new(2559), ..header() },
            FrameHeader { position: example(0).previous, ..header() },
        ] {
            assert_eq!(Barrier::decode(&wrong, &bytes), None, "{wrong:?}");
        }
    }

    #[test]
    fn pairs_keep_what_reaches_the_start_and_the_newest() {
        let after = |start| example(3).pairs_after(Epoch::new(4), Lsn::new(40), Lsn::new(start));
        assert_eq!(after(1).len(), 4);
        assert_eq!(after(20).first(), Some(&(Epoch::new(2), Lsn::new(20))));
        assert_eq!(after(29).first(), Some(&(Epoch::new(2), Lsn::new(20))));
        assert_eq!(after(99).as_slice(), [(Epoch::new(4), Lsn::new(40))]);
        let many = example(256).pairs_after(Epoch::new(257), Lsn::new(3000), Lsn::FIRST);
        assert_eq!((many.len(), many[0].0), (256, Epoch::new(2)));
    }
}
