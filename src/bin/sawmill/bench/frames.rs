//! The frames of a log's files. Layout: `docs/format.md`.

use sawmill::storage::BLOCK;

/// Bytes of a frame's header.
pub(crate) const FRAME_HEADER: usize = 128;

fn word(bytes: &[u8], at: usize) -> u64 {
    bytes[at..].first_chunk().copied().map_or(0, u64::from_le_bytes)
}

pub(crate) fn half(bytes: &[u8], at: usize) -> usize {
    bytes[at..].first_chunk().copied().map_or(0, u32::from_le_bytes) as usize
}

/// Whether a frame of segment `number` stands here: not one that is left from another segment
/// whose file this was.
pub(crate) fn is_frame(header: &[u8], number: u64, offset: u64) -> bool {
    header.len() >= FRAME_HEADER
        && header[..4] == *b"FRAM"
        && word(header, 24) == number
        && word(header, 32) == offset
}

/// Bytes of the frame on the disk.
pub(crate) fn length(header: &[u8]) -> u64 {
    (FRAME_HEADER + half(header, 84)).next_multiple_of(BLOCK) as u64
}

/// The number in a segment's file name.
pub(crate) fn number_of(name: &str) -> Option<u64> {
    name.strip_suffix(".seg")?.parse().ok()
}
