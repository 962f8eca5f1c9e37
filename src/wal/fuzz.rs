//! Arbitrary bytes through every decoder of the log, for fuzzing.

use crate::ids::{LogId, Lsn, Position, SegmentNumber, to_u64};
use crate::storage::BLOCK;
use crate::wal::barrier::Barrier;
use crate::wal::catalog::Saying;
use crate::wal::compress::unpack;
use crate::wal::frame::FrameHeader;
use crate::wal::log_file;
use crate::wal::record;
use crate::wal::scan::{self, Expected, Verdict};
use crate::wal::segment::{FIRST_FRAME, SegmentHeader, seal_block};
use crate::wal::tombstone::Tombstone;

/// Every decoder of the log over `bytes`: each returns or refuses.
///
/// # Panics
/// If one accepts what its invariants exclude: that is the finding.
pub fn decode_wal(bytes: &[u8]) {
    std::hint::black_box(log_file::judge(bytes));
    std::hint::black_box(SegmentHeader::decode(bytes).is_ok());
    walk_records(bytes);
    if let Ok(Some(saying)) = Saying::decode(bytes) {
        let again = saying.encode();
        let read = Saying::decode(&again);
        assert!(matches!(read, Ok(Some(read)) if read == saying), "CATALOG-3: read differently");
    }
    let place = Position { segment: SegmentNumber::new(1), offset: FIRST_FRAME };
    let log = scan::log_named_by(bytes, place).unwrap_or(LogId::from_bytes([0; 16]));
    for (header, _) in scan::headers(bytes, log, place) {
        assert!(header.first_lsn.get() < u64::MAX / 2, "SCAN-1: counters are in range");
    }
    let size = FIRST_FRAME + to_u64(bytes.len()).next_multiple_of(to_u64(BLOCK));
    let mut expected = Expected::start_of(log, place.segment, size);
    let mut rest = bytes;
    let mut out = Vec::new();
    while let Verdict::Frame { header, crc, payload } = scan::judge(rest, &expected) {
        match header.plain {
            None => walk_records(payload),
            Some(plain) if unpack(payload, plain, &mut out).is_ok() => walk_records(&out),
            Some(_) => {}
        }
        std::hint::black_box(Tombstone::decode(&header, payload).is_some());
        if let Some(barrier) = Barrier::decode(&header, payload) {
            repeat(&header, &barrier);
        }
        expected = expected.after(&header, crc);
        rest = rest.get(scan::length_in(&header, rest)..).unwrap_or_default();
    }
}

/// The next opening's barrier says what this one says, and is read again.
fn repeat(header: &FrameHeader, barrier: &Barrier) {
    let pairs = barrier.pairs_after(header.epoch, header.first_lsn, Lsn::FIRST);
    let next = Barrier { pairs, previous: header.position, ..Barrier::default() };
    let mut bytes = vec![0; next.length()];
    next.encode(&mut bytes);
    let behind = FrameHeader { epoch: header.epoch.next(), position: header.end(), ..*header };
    let read = Barrier::decode(&behind, &bytes);
    assert!(read.as_ref() == Some(&next), "BARRIER: read once, not again: {next:?}");
}

fn walk_records(mut payload: &[u8]) {
    while !payload.is_empty() && record::decode(&mut payload).is_some() {}
}

/// Any content of a `LOG` file whose checksums hold: what counts is what would be written for it.
///
/// # Panics
/// If a slot is believed that nobody writes: that is the finding.
pub fn decode_log_slots(bytes: &[u8]) {
    let mut file = bytes.to_vec();
    file.resize(log_file::LOG_LENGTH, 0);
    for slot in file.chunks_mut(BLOCK) {
        seal_block(slot);
    }
    if let log_file::LogVerdict::Valid { state, sequence } = log_file::judge(&file) {
        let mut written = vec![0; BLOCK];
        state.encode(sequence, &mut written);
        let at = if sequence % 2 == 0 { 0 } else { BLOCK };
        assert_eq!(written, file[at..at + BLOCK], "LOG-1: a slot that nobody writes");
        assert!(state.durable_lsn.next() >= state.start_lsn, "LOG-2: starts behind its end");
    }
}
