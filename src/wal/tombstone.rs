//! The payload of a tombstone: what explicit salvage gave up, and where the log goes on. Layout:
//! `docs/format.md`, "Tombstone".

use crate::checksum::is_zero;
use crate::error::{Error, ErrorKind};
use crate::ids::{Epoch, Lsn, Position, SegmentNumber, to_u64};
use crate::storage::BLOCK;
use crate::wal::frame::FrameHeader;
use crate::wal::segment::{half, word};

/// Bytes of the payload.
pub(crate) const TOMBSTONE: usize = 64;

/// The frame behind the hole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Resume {
    pub(crate) position: Position,
    /// The incarnation that it continues: its own, or, of a barrier, any earlier one.
    pub(crate) epoch: Epoch,
    pub(crate) nonce: u64,
    /// What it carries as header CRC of the frame before it, which is lost.
    pub(crate) chain: u32,
}

/// What a tombstone says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tombstone {
    /// The first LSN that is not lost; what its frame's first LSN is, if it took no record.
    pub(crate) next: Lsn,
    /// The highest that anything attested when the log was salvaged.
    pub(crate) durable: Lsn,
    /// When that was, in nanoseconds since the Unix epoch.
    pub(crate) time_ns: u64,
    /// Where the log goes on; `None`: right behind the tombstone, by whoever opens it next.
    pub(crate) resume: Option<Resume>,
}

impl Tombstone {
    /// Writes the payload into the first [`TOMBSTONE`] bytes of `out`.
    ///
    /// # Panics
    /// If `out` is shorter.
    pub(crate) fn encode(&self, out: &mut [u8]) {
        let out = &mut out[..TOMBSTONE];
        out.fill(0);
        let place = self.resume.map_or((Position::default(), Epoch::new(0), 0, 0), |resume| {
            (resume.position, resume.epoch, resume.nonce, resume.chain)
        });
        let (position, epoch, nonce, chain) = place;
        let words = [
            self.next.get(),
            self.durable.get(),
            self.time_ns,
            position.segment.get(),
            position.offset,
            epoch.get(),
            nonce,
        ];
        for (slot, word) in out[..56].chunks_exact_mut(8).zip(words) {
            slot.copy_from_slice(&word.to_le_bytes());
        }
        out[56..60].copy_from_slice(&chain.to_le_bytes());
    }

    /// The tombstone in the payload of the frame of `header`; `None` if the bytes are none.
    pub(crate) fn decode(header: &FrameHeader, payload: &[u8]) -> Option<Tombstone> {
        if payload.len() != TOMBSTONE || !is_zero(&payload[60..]) {
            return None;
        }
        let position =
            Position { segment: SegmentNumber::new(word(payload, 24)), offset: word(payload, 32) };
        let (epoch, nonce) = (Epoch::new(word(payload, 40)), word(payload, 48));
        let chain = half(payload, 56);
        let next = Lsn::new(word(payload, 0));
        let durable = Lsn::new(word(payload, 8));
        // Counters near the end of their range would overflow what is computed from them.
        let limit = u64::MAX / 2;
        let counters = [next.get(), durable.get(), position.segment.get(), epoch.get()];
        let behind = position >= header.end() && position.offset.is_multiple_of(to_u64(BLOCK));
        let resume = match position.segment.get() {
            0 if is_zero(&payload[24..60]) => None,
            0 => return None,
            _ if behind && position.offset > 0 => Some(Resume { position, epoch, nonce, chain }),
            _ => return None,
        };
        let sane = next >= header.first_lsn && counters.iter().all(|counter| *counter < limit);
        sane.then_some(Tombstone { next, durable, time_ns: word(payload, 16), resume })
    }

    /// The error by which readers are told, once; `None` if no record was lost.
    pub(crate) fn lost(&self, header: &FrameHeader) -> Option<Error> {
        if self.next == header.first_lsn {
            return None;
        }
        let message = "records were damaged and given up by an explicit repair of the log, which \
                       kept their bytes aside; what follows them is intact";
        let error = Error::new(ErrorKind::Lost, message).at_position(header.position);
        Some(error.for_lsns(header.first_lsn, self.next.previous()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::LogId;
    use crate::wal::frame::FrameKind;

    fn header() -> FrameHeader {
        FrameHeader {
            log: LogId::from_bytes([0x11; 16]),
            position: Position { segment: SegmentNumber::new(3), offset: 8192 },
            epoch: Epoch::new(1),
            nonce: 7,
            first_lsn: Lsn::new(5),
            durable_lsn: Lsn::new(4),
            seal_time_ns: 9,
            records: 0,
            payload_length: 64,
            payload_crc: 5,
            chain: 6,
            catalog: Lsn::ZERO,
            kind: FrameKind::Tombstone,
            plain: None,
        }
    }

    fn example(offset: u64) -> Tombstone {
        let position = Position { segment: SegmentNumber::new(3), offset };
        let resume = Some(Resume { position, epoch: Epoch::new(2), nonce: 8, chain: 9 });
        Tombstone { next: Lsn::new(8), durable: Lsn::new(12), time_ns: 1, resume }
    }

    #[test]
    fn decodes_what_it_encodes() {
        for tombstone in [example(16384), Tombstone { resume: None, ..example(0) }] {
            let mut bytes = [0xaa; TOMBSTONE];
            tombstone.encode(&mut bytes);
            assert_eq!(Tombstone::decode(&header(), &bytes), Some(tombstone));
            assert_eq!(Tombstone::decode(&header(), &bytes[1..]), None);
        }
        let lost = example(16384).lost(&header()).unwrap();
        assert_eq!((lost.kind(), lost.lsns()), (ErrorKind::Lost, Some((Lsn::new(5), Lsn::new(7)))));
    }

    #[test]
    fn refuses_what_leads_back_and_what_falls() {
        let mut bytes = [0; TOMBSTONE];
        for wrong in [
            example(8192),
            example(12289),
            Tombstone { next: Lsn::new(4), ..example(16384) },
            Tombstone { durable: Lsn::new(u64::MAX), ..example(16384) },
        ] {
            wrong.encode(&mut bytes);
            assert_eq!(Tombstone::decode(&header(), &bytes), None, "{wrong:?}");
        }
        Tombstone { resume: None, ..example(0) }.encode(&mut bytes);
        bytes[58] = 1;
        assert_eq!(Tombstone::decode(&header(), &bytes), None, "a chain that leads nowhere");
    }
}
