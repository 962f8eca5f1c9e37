//! What lies on a medium, read by `docs/format.md` and by none of the log's own code.

use std::path::Path;

use crc_fast::{CrcAlgorithm, checksum};
use sawmill::sim::SimDisk;

const BLOCK: usize = 4096;
const HEADER: usize = 128;

/// What a crash left.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Left {
    /// A frame whose header stands, and whose payload does not.
    pub(super) torn: bool,
    /// A whole frame that does not follow the whole one before it.
    pub(super) behind_hole: bool,
    /// The same, in the next segment.
    pub(super) across_rotation: bool,
    /// A frame of the newest epoch in a segment that it was not written for.
    pub(super) stale: bool,
}

/// A header whose checksum holds.
struct Header {
    crc: u32,
    /// Of the segment that it was written for.
    segment: u64,
    epoch: u64,
    chain: u32,
    /// Whether the payload stands as well.
    whole: bool,
}

fn word(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

fn half(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn crc32c(bytes: &[u8]) -> u32 {
    u32::try_from(checksum(CrcAlgorithm::Crc32Iscsi, bytes)).unwrap()
}

/// The frame that `bytes` start with, which reach to the end of a segment.
fn header(bytes: &[u8]) -> Option<Header> {
    if !bytes.starts_with(b"FRAM") || crc32c(&bytes[8..HEADER]) != half(bytes, 4) {
        return None;
    }
    let payload = bytes[HEADER..].get(..half(bytes, 84) as usize);
    Some(Header {
        crc: half(bytes, 4),
        segment: word(bytes, 24),
        epoch: word(bytes, 40),
        chain: half(bytes, 92),
        whole: payload.is_some_and(|payload| crc32c(payload) == half(bytes, 88)),
    })
}

/// The headers in the segments of a log, with the number of the segment they stand in.
fn headers(disk: &SimDisk, place: &str) -> Vec<(u64, Header)> {
    let mut all = Vec::new();
    for path in disk.files().iter().filter(|path| path.starts_with(place)) {
        let Some(number) = number(path) else { continue };
        let bytes = disk.read_file(path).unwrap_or_default();
        let starts = (BLOCK..bytes.len()).step_by(BLOCK).filter(|at| bytes.len() - at >= HEADER);
        all.extend(starts.filter_map(|at| Some((number, header(&bytes[at..])?))));
    }
    all
}

fn number(path: &Path) -> Option<u64> {
    path.file_name()?.to_str()?.strip_suffix(".seg")?.parse().ok()
}

/// Looks at a log that nobody has open.
pub(super) fn look(disk: &SimDisk, place: &str) -> Left {
    let headers = headers(disk, place);
    let newest = headers.iter().map(|(_, header)| header.epoch).max();
    let mut left = Left::default();
    let mut before: Option<(u64, u32)> = None;
    for (number, header) in headers.iter().filter(|(_, header)| Some(header.epoch) == newest) {
        if header.segment != *number {
            left.stale = true;
        } else if !header.whole {
            left.torn = true;
        } else {
            let follows = before.is_none_or(|(_, crc)| crc == header.chain);
            left.behind_hole |= !follows;
            left.across_rotation |= !follows && before.is_some_and(|(last, _)| last != *number);
            before = Some((*number, header.crc));
        }
    }
    left
}
