//! Many small files become one: the same rows, the same batches, one entry of the manifest.

use super::io::{FileIo, failed};
use super::parts::{FileNames, changed};
use super::progress::{FileMark, Progress};
use crate::checksum::{crc32c, crc32c_append};
use crate::error::Result;
use crate::ids::{to_u64, to_usize};
use crate::planted::{Bug, planted};
use crate::storage::OpenMode;

/// Replaces the oldest `files` files that were not replaced yet, if there are so many. The new file
/// is durable but for its name; the old ones stay until the batch is completed (PARTS-5). `true` if
/// there is one.
pub(super) fn compact(
    io: &mut FileIo,
    names: &FileNames,
    header: &[u8],
    next: &mut Progress,
    files: usize,
) -> Result<bool> {
    // Those that replaced others come first: it is always the oldest ones that are replaced.
    let from = next.finished.iter().take_while(|mark| mark.is_compacted()).count();
    if files == 0 || next.finished.len() < from + files {
        return Ok(false);
    }
    let parts: Vec<FileMark> = next.finished[from..from + files].to_vec();
    let (first, last) = (&parts[0], &parts[files - 1]);
    let mut whole = FileMark {
        through: last.through,
        length: 0,
        crc32c: crc32c(b""),
        rows: parts.iter().map(|part| part.rows).sum(),
        last: last.last,
        ..first.clone()
    };
    if planted(Bug::CompactionForgetsRange) {
        (whole.first, whole.last) = (next.last, next.last);
    }
    let target = io.open(&names.of(&whole), OpenMode::Create)?;
    for part in &parts {
        let name = names.of(part);
        let file = io.open(&name, OpenMode::Read)?;
        let bytes = io.read_all(&file, part.length)?;
        if crc32c(&bytes) != part.crc32c {
            return Err(changed(io, &name));
        }
        // One header is enough.
        let skipped = if part.number == first.number { 0 } else { header.len() };
        let bytes = bytes.get(skipped..).unwrap_or_default();
        io.write(&target, whole.length, bytes)?;
        whole.length += to_u64(bytes.len());
        whole.crc32c = crc32c_append(whole.crc32c, bytes);
    }
    target.sync().map_err(failed)?;
    next.finished.splice(from..from + files, [whole]);
    debug_assert!(to_usize(next.next_number()) >= files, "PARTS: numbers are not given again");
    Ok(true)
}
