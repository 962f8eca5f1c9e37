//! The frames of a log's files: how many durable writes there were, and how long. Layout:
//! `docs/format.md`.

use std::path::Path;

use sawmill::Lsn;
use sawmill::storage::{
    AlignedBuf, BLOCK, BackendChoice, Op, OpenMode, Storage as _, SystemStorage,
};

use super::Outcome;
use super::contender::Written;

/// Bytes of a frame's header.
pub(crate) const FRAME_HEADER: usize = 128;
/// Bytes read at once.
const WINDOW: usize = 256 << 10;

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

/// The frames that hold records from `first` on, read from the device: the page cache stays as it
/// is.
pub(crate) fn count(path: &Path, first: Lsn) -> Outcome<Written> {
    let storage = SystemStorage::new(BackendChoice::Auto)?;
    let directory = storage.directory(path, false)?;
    let mut channel = directory.channel()?;
    let mut window = AlignedBuf::zeroed(WINDOW);
    let mut written = Written::default();
    for name in directory.list()? {
        let Some(number) = number_of(&name) else { continue };
        let file = directory.open(&name, OpenMode::ReadDirect)?;
        let (mut offset, mut from, mut valid) = (BLOCK as u64, 0, 0);
        loop {
            if offset < from || offset + BLOCK as u64 > from + valid {
                window.set_len(WINDOW);
                let file = std::sync::Arc::clone(&file);
                let read = channel.run(Op::Read { file, offset, buffer: window });
                let Some(buffer) = read.buffer else { return Err("a read kept its buffer".into()) };
                window = buffer;
                (from, valid) = (offset, read.result? as u64);
            }
            let at = (offset - from) as usize;
            let Some(header) = window.get(at..(at + FRAME_HEADER).min(valid as usize)) else {
                break;
            };
            if !is_frame(header, number, offset) {
                break;
            }
            // Kind 1: records.
            if header[96] == 1 && word(header, 56) >= first.get() {
                written.flushes += 1;
                written.bytes += length(header);
            }
            offset += length(header);
        }
    }
    Ok(written)
}
