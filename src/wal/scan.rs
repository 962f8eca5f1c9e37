//! Whether bytes are the log's next frame. Pure: bytes in, verdict out; it never panics, whatever
//! the bytes. Recovery, replay and the fuzzer all ask here. Rules: `docs/format.md`, "Frame".
//!
//! SCAN-1: a frame stands only if everything the format asks of it holds.
//! SCAN-2: no length is used before it was checked against the segment (LOG.md L4).

use crate::checksum::is_zero;
use crate::ids::{Epoch, LogId, Lsn, Position, SegmentNumber, to_u64, to_usize};
use crate::planted::{Bug, planted};
use crate::storage::BLOCK;
use crate::wal::frame::{self, FRAME_HEADER, FrameHeader, FrameKind};
use crate::wal::segment::FIRST_FRAME;
use crate::wal::tombstone::Tombstone;

/// What the next frame must continue. `None`: unknown, whatever the frame says is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Expected {
    pub(crate) log: LogId,
    pub(crate) position: Position,
    pub(crate) segment_size: u64,
    /// Header CRC of the frame before.
    pub(crate) chain: Option<u32>,
    pub(crate) next_lsn: Option<Lsn>,
    /// Epoch and nonce of the frame before.
    pub(crate) incarnation: Option<(Epoch, u64)>,
}

impl Expected {
    /// The start of a segment, with nothing known of what came before.
    pub(crate) fn start_of(log: LogId, segment: SegmentNumber, segment_size: u64) -> Expected {
        let position = Position { segment, offset: FIRST_FRAME };
        let (chain, next_lsn, incarnation) = (None, None, None);
        Expected { log, position, segment_size, chain, next_lsn, incarnation }
    }

    /// What follows a frame that stands.
    pub(crate) fn after(&self, header: &FrameHeader, crc: u32) -> Expected {
        Expected {
            position: header.end(),
            chain: Some(crc),
            next_lsn: Some(header.next_lsn()),
            incarnation: Some((header.epoch, header.nonce)),
            ..*self
        }
    }

    /// What follows a tombstone that stands; `size` is that of a segment.
    pub(crate) fn over(
        &self,
        header: &FrameHeader,
        crc: u32,
        tombstone: &Tombstone,
        size: impl FnOnce(SegmentNumber) -> u64,
    ) -> Expected {
        let next_lsn = Some(tombstone.next);
        let Some(resume) = tombstone.resume else {
            return Expected { next_lsn, ..self.after(header, crc) };
        };
        Expected {
            log: self.log,
            position: resume.position,
            segment_size: size(resume.position.segment),
            chain: Some(resume.chain),
            next_lsn,
            incarnation: Some((resume.epoch, resume.nonce)),
        }
    }

    /// The same, at the first place of another segment.
    pub(crate) fn at_segment(&self, segment: SegmentNumber, segment_size: u64) -> Expected {
        let position = Position { segment, offset: FIRST_FRAME };
        Expected { position, segment_size, ..*self }
    }
}

/// Why no frame stands at a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The first block is zeros: nothing was ever written here, or nothing of it arrived.
    Blank,
    /// No header that was written at this place.
    NoHeader,
    /// A whole header whose length does not fit the segment.
    Length,
    /// The header stands, its payload or its padding does not.
    Payload,
    /// A whole frame that does not continue what came before: left from a dropped tail, or
    /// something before it is missing.
    Stranger,
    /// A header whose fields contradict each other.
    Senseless,
}

/// What stands at a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict<'a> {
    /// The next frame.
    Frame { header: FrameHeader, crc: u32, payload: &'a [u8] },
    /// The header stands, and asks for this many bytes from its start: more than there are.
    More(u64),
    /// No frame stands here.
    Not(Fault),
}

/// The header at the start of `bytes`, if it can be the next frame's.
///
/// # Errors
/// Why it cannot.
#[inline]
pub(crate) fn judge_header(bytes: &[u8], expected: &Expected) -> Result<(FrameHeader, u32), Fault> {
    let Some((header, crc)) = FrameHeader::decode(bytes, expected.log, expected.position) else {
        let block = bytes.get(..BLOCK).unwrap_or(bytes);
        let blank = is_zero(block);
        return Err(if blank { Fault::Blank } else { Fault::NoHeader });
    };
    let plain = header.plain.map_or(0, |plain| frame::frame_length(u64::from(plain)));
    let room = expected.segment_size.saturating_sub(expected.position.offset);
    let too_long = header.length_on_disk() > room || plain > expected.segment_size;
    if too_long && !planted(Bug::TrustLength) {
        return Err(Fault::Length);
    }
    if (header.kind == FrameKind::Records) != (header.records > 0)
        || header.durable_lsn >= header.first_lsn
    {
        return Err(Fault::Senseless);
    }
    let chained = expected.chain.is_none_or(|chain| chain == header.chain);
    let dense = expected.next_lsn.is_none_or(|lsn| lsn == header.first_lsn);
    let own = expected.incarnation.is_none_or(|(epoch, nonce)| match header.kind {
        FrameKind::Barrier => header.epoch > epoch,
        // Not written by an incarnation: where nothing follows the hole, it is above all of them.
        FrameKind::Tombstone => header.epoch >= epoch,
        FrameKind::Records | FrameKind::Attestation | FrameKind::Closing => {
            header.epoch == epoch && header.nonce == nonce
        }
    });
    if chained && dense && own { Ok((header, crc)) } else { Err(Fault::Stranger) }
}

/// What stands at the start of `bytes`, which were read from `expected.position` and may end
/// before the frame does.
#[inline]
pub(crate) fn judge<'a>(bytes: &'a [u8], expected: &Expected) -> Verdict<'a> {
    let (header, crc) = match judge_header(bytes, expected) {
        Ok(found) => found,
        Err(fault) => return Verdict::Not(fault),
    };
    if header.length_on_disk() > to_u64(bytes.len()) {
        return Verdict::More(header.length_on_disk());
    }
    match frame::payload(&header, bytes) {
        Some(payload) => Verdict::Frame { header, crc, payload },
        None => Verdict::Not(Fault::Payload),
    }
}

/// The decodable headers at the block boundaries of `bytes`, which were read from `position`: what
/// counts for epochs and as evidence, accepted or not (LOG.md L15, L16).
pub(crate) fn headers(
    bytes: &[u8],
    log: LogId,
    position: Position,
) -> impl Iterator<Item = (FrameHeader, u32)> + '_ {
    bytes.chunks(BLOCK).enumerate().filter_map(move |(index, block)| {
        let offset = position.offset + to_u64(index * BLOCK);
        FrameHeader::decode(block, log, Position { offset, ..position })
    })
}

/// The log that a frame header at the start of `bytes` names, whichever it is.
pub(crate) fn log_named_by(bytes: &[u8], position: Position) -> Option<LogId> {
    let id = LogId::from_bytes(bytes.get(8..24)?.try_into().ok()?);
    FrameHeader::decode(bytes, id, position).map(|_| id)
}

/// How many bytes of `bytes` the frame of `header` takes; `bytes` hold all of it.
pub(crate) fn length_in(header: &FrameHeader, bytes: &[u8]) -> usize {
    to_usize(header.length_on_disk()).min(bytes.len()).max(FRAME_HEADER)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A header that stands at the start of segment 1 and claims almost 4 GiB of payload.
    fn lying() -> (Vec<u8>, Expected) {
        let log = LogId::from_bytes([0x11; 16]);
        let expected = Expected::start_of(log, SegmentNumber::new(1), 65536);
        let header = FrameHeader {
            log,
            position: expected.position,
            epoch: Epoch::new(1),
            nonce: 7,
            first_lsn: Lsn::FIRST,
            durable_lsn: Lsn::ZERO,
            seal_time_ns: 0,
            records: 1,
            payload_length: u32::MAX - 4096,
            payload_crc: 0,
            chain: 0,
            kind: FrameKind::Records,
            plain: None,
            catalog: Lsn::ZERO,
        };
        let mut bytes = vec![0; BLOCK];
        header.encode(&mut bytes);
        (bytes, expected)
    }

    #[test]
    fn a_length_beyond_the_segment_is_never_used() {
        let (bytes, expected) = lying();
        assert_eq!(judge(&bytes, &expected), Verdict::Not(Fault::Length));
        assert_eq!(judge(&[0; BLOCK], &expected), Verdict::Not(Fault::Blank));
        assert_eq!(judge(&[7; 100], &expected), Verdict::Not(Fault::NoHeader));
    }

    #[test]
    fn planted_trust_length_is_seen() {
        let (bytes, expected) = lying();
        let verdict = crate::planted::with_planted(Bug::TrustLength, || judge(&bytes, &expected));
        assert!(matches!(verdict, Verdict::More(wanted) if wanted > expected.segment_size));
    }
}
