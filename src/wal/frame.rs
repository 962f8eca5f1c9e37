//! Frame headers: encoding, and decoding of hostile bytes. Layout: `docs/format.md`, "Frame".
//!
//! FRAME-1: what `encode` writes, `decode` returns. FRAME-2: `decode` accepts nothing whose log,
//! segment or offset is not that of the place it was read from (LOG.md L3).

use crate::checksum::{crc32c, is_zero};
use crate::ids::{Epoch, LogId, Lsn, Position, SegmentNumber, to_u64, to_usize};
use crate::planted::{Bug, planted};
use crate::storage::BLOCK;

/// Bytes of a frame's header.
pub(crate) const FRAME_HEADER: usize = 128;
const MAGIC: [u8; 4] = *b"FRAM";
/// How a payload is compressed that is.
const LZ4: u8 = 1;
const _: () = assert!(FRAME_HEADER < BLOCK);

/// What a frame is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FrameKind {
    /// Holds records.
    Records,
    /// The first frame of an incarnation.
    Barrier,
    /// Says how far the log is durable.
    Attestation,
    /// The last frame of a clean close.
    Closing,
    /// Marks records given up by explicit salvage.
    Tombstone,
}

impl FrameKind {
    const fn to_byte(self) -> u8 {
        match self {
            FrameKind::Records => 1,
            FrameKind::Barrier => 2,
            FrameKind::Attestation => 3,
            FrameKind::Closing => 4,
            FrameKind::Tombstone => 5,
        }
    }

    const fn from_byte(byte: u8) -> Option<FrameKind> {
        match byte {
            1 => Some(FrameKind::Records),
            2 => Some(FrameKind::Barrier),
            3 => Some(FrameKind::Attestation),
            4 => Some(FrameKind::Closing),
            5 => Some(FrameKind::Tombstone),
            _ => None,
        }
    }
}

/// A frame's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FrameHeader {
    pub(crate) log: LogId,
    pub(crate) position: Position,
    pub(crate) epoch: Epoch,
    pub(crate) nonce: u64,
    pub(crate) first_lsn: Lsn,
    /// The writer's durable LSN when it sealed the frame.
    pub(crate) durable_lsn: Lsn,
    pub(crate) seal_time_ns: u64,
    pub(crate) records: u32,
    pub(crate) payload_length: u32,
    pub(crate) payload_crc: u32,
    /// Header CRC of the frame before.
    pub(crate) chain: u32,
    pub(crate) kind: FrameKind,
    /// Bytes of the payload before it was compressed, if it was.
    pub(crate) plain: Option<u32>,
    /// From which record on the log says what its catalog holds; zero if it never held anything.
    pub(crate) catalog: Lsn,
}

impl FrameHeader {
    /// Bytes of the frame on disk: header, payload, padding.
    pub(crate) fn length_on_disk(&self) -> u64 {
        frame_length(u64::from(self.payload_length))
    }

    /// The position behind the frame.
    pub(crate) fn end(&self) -> Position {
        let offset = self.position.offset + self.length_on_disk();
        Position { segment: self.position.segment, offset }
    }

    /// The LSN of the record after this frame's.
    pub(crate) fn next_lsn(&self) -> Lsn {
        self.first_lsn.advance(u64::from(self.records))
    }

    /// Writes the header into the first [`FRAME_HEADER`] bytes of `out`; returns its CRC, which the
    /// next frame carries as `chain`.
    ///
    /// # Panics
    /// If `out` is shorter than a header.
    pub(crate) fn encode(&self, out: &mut [u8]) -> u32 {
        let out = &mut out[..FRAME_HEADER];
        out.fill(0);
        out[0..4].copy_from_slice(&MAGIC);
        out[8..24].copy_from_slice(self.log.as_bytes());
        let words = [
            self.position.segment.get(),
            self.position.offset,
            self.epoch.get(),
            self.nonce,
            self.first_lsn.get(),
            self.durable_lsn.get(),
            self.seal_time_ns,
        ];
        for (slot, word) in out[24..80].chunks_exact_mut(8).zip(words) {
            slot.copy_from_slice(&word.to_le_bytes());
        }
        let halves = [self.records, self.payload_length, self.payload_crc, self.chain];
        for (slot, half) in out[80..96].chunks_exact_mut(4).zip(halves) {
            slot.copy_from_slice(&half.to_le_bytes());
        }
        out[96] = self.kind.to_byte();
        out[97] = u8::from(self.plain.is_some());
        let plain = self.plain.unwrap_or(self.payload_length);
        out[100..104].copy_from_slice(&plain.to_le_bytes());
        out[104..112].copy_from_slice(&self.catalog.get().to_le_bytes());
        let crc = crc32c(&out[8..]);
        out[4..8].copy_from_slice(&crc.to_le_bytes());
        crc
    }

    /// The header at `position` of log `log`, and its CRC; `None` if these bytes are not a frame
    /// header that was written there.
    pub(crate) fn decode(bytes: &[u8], log: LogId, position: Position) -> Option<(Self, u32)> {
        let bytes = bytes.get(..FRAME_HEADER)?;
        if bytes[0..4] != MAGIC {
            return None;
        }
        let crc = half(bytes, 4);
        if crc32c(&bytes[8..]) != crc {
            return None;
        }
        let reserved = is_zero(&bytes[98..100]) && is_zero(&bytes[112..]);
        let payload_length = half(bytes, 84);
        let kind = FrameKind::from_byte(bytes[96])?;
        let plain = match (bytes[97], half(bytes, 100)) {
            (0, plain) if plain == payload_length => None,
            (LZ4, plain) if plain > payload_length && kind == FrameKind::Records => Some(plain),
            _ => return None,
        };
        if !reserved {
            return None;
        }
        let header = FrameHeader {
            log: LogId::from_bytes(bytes[8..24].try_into().ok()?),
            position: Position {
                segment: SegmentNumber::new(word(bytes, 24)),
                offset: word(bytes, 32),
            },
            epoch: Epoch::new(word(bytes, 40)),
            nonce: word(bytes, 48),
            first_lsn: Lsn::new(word(bytes, 56)),
            durable_lsn: Lsn::new(word(bytes, 64)),
            seal_time_ns: word(bytes, 72),
            records: half(bytes, 80),
            payload_length,
            payload_crc: half(bytes, 88),
            chain: half(bytes, 92),
            kind,
            plain,
            catalog: Lsn::new(word(bytes, 104)),
        };
        // Counters near the end of their range would overflow what is computed from them.
        let limit = u64::MAX / 2;
        let sane = header.first_lsn.get() < limit
            && header.epoch.get() < limit
            // What a frame takes is not durable when it is sealed.
            && header.durable_lsn < header.first_lsn
            && header.catalog.get() < limit;
        let here = header.log == log && header.position == position;
        (sane && (here || planted(Bug::ChecksumWithoutPosition))).then_some((header, crc))
    }
}

/// Bytes on disk of a frame with a payload of `payload` bytes.
pub(crate) fn frame_length(payload: u64) -> u64 {
    (to_u64(FRAME_HEADER) + payload).next_multiple_of(to_u64(BLOCK))
}

/// Whether `bytes`, which start with `header` and reach to the end of the segment or further than
/// the frame, hold its whole payload undamaged, and zeros behind it.
pub(crate) fn payload<'a>(header: &FrameHeader, bytes: &'a [u8]) -> Option<&'a [u8]> {
    let end = FRAME_HEADER + to_usize(u64::from(header.payload_length));
    let payload = bytes.get(FRAME_HEADER..end)?;
    let padding = bytes.get(end..to_usize(header.length_on_disk()))?;
    let whole = crc32c(payload) == header.payload_crc && is_zero(padding);
    whole.then_some(payload)
}

fn word(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

fn half(bytes: &[u8], at: usize) -> u32 {
    let mut half = [0; 4];
    half.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(half)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> FrameHeader {
        FrameHeader {
            log: LogId::from_bytes([0x11; 16]),
            position: Position { segment: SegmentNumber::new(1), offset: 8192 },
            epoch: Epoch::new(1),
            nonce: 7,
            first_lsn: Lsn::FIRST,
            durable_lsn: Lsn::ZERO,
            seal_time_ns: 9,
            records: 1,
            payload_length: 13,
            payload_crc: 5,
            chain: 6,
            kind: FrameKind::Records,
            plain: None,
            catalog: Lsn::new(3),
        }
    }

    #[test]
    fn decodes_what_it_encodes() {
        let mut bytes = [0; FRAME_HEADER];
        let crc = example().encode(&mut bytes);
        let decoded = FrameHeader::decode(&bytes, example().log, example().position);
        assert_eq!(decoded, Some((example(), crc)));
    }

    #[test]
    fn counters_that_no_writer_writes_are_no_header() {
        let wrong = [
            FrameHeader { durable_lsn: Lsn::new(u64::MAX), ..example() },
            FrameHeader { durable_lsn: example().first_lsn, ..example() },
            FrameHeader { first_lsn: Lsn::new(u64::MAX), ..example() },
            FrameHeader { first_lsn: Lsn::ZERO, ..example() },
            FrameHeader { catalog: Lsn::new(u64::MAX), ..example() },
        ];
        for header in wrong {
            let mut bytes = [0; FRAME_HEADER];
            header.encode(&mut bytes);
            let decoded = FrameHeader::decode(&bytes, header.log, header.position);
            assert_eq!(decoded, None, "{header:?}");
        }
    }

    #[test]
    fn a_compressed_frame_says_how_long_it_was() {
        let example = FrameHeader { plain: Some(14), ..example() };
        let mut bytes = [0; FRAME_HEADER];
        let crc = example.encode(&mut bytes);
        assert_eq!((bytes[97], bytes[100]), (1, 14));
        let decode = |header: FrameHeader| {
            let mut bytes = [0; FRAME_HEADER];
            header.encode(&mut bytes);
            FrameHeader::decode(&bytes, header.log, header.position)
        };
        assert_eq!(decode(example), Some((example, crc)));
        assert_eq!(decode(FrameHeader { plain: Some(13), ..example }), None, "saves nothing");
        assert_eq!(decode(FrameHeader { kind: FrameKind::Barrier, ..example }), None);
    }

    #[test]
    fn refuses_every_flipped_bit() {
        let mut bytes = [0; FRAME_HEADER];
        example().encode(&mut bytes);
        for bit in 0..FRAME_HEADER * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            let decoded = FrameHeader::decode(&bytes, example().log, example().position);
            assert_eq!(decoded, None, "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn refuses_another_place_or_log() {
        let mut bytes = [0; FRAME_HEADER];
        example().encode(&mut bytes);
        let elsewhere = Position { offset: 4096, ..example().position };
        assert_eq!(FrameHeader::decode(&bytes, example().log, elsewhere), None);
        let other = LogId::from_bytes([0x12; 16]);
        assert_eq!(FrameHeader::decode(&bytes, other, example().position), None);
    }

    #[test]
    fn planted_checksum_without_position_is_seen() {
        let mut bytes = [0; FRAME_HEADER];
        example().encode(&mut bytes);
        let elsewhere = Position { offset: 4096, ..example().position };
        crate::planted::with_planted(Bug::ChecksumWithoutPosition, || {
            assert!(FrameHeader::decode(&bytes, example().log, elsewhere).is_some());
        });
    }
}
