//! Whole reads and writes through a channel: short ones are failures here (STORAGE-3).

use std::io;
use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};
use crate::ids::{to_u64, to_usize};
use crate::storage::{AlignedBuf, BLOCK, Channel, Completion, File, IoFailure, Op};

/// Bytes moved by one operation.
pub(super) const CHUNK: usize = 1 << 20;

const _: () = assert!(CHUNK.is_multiple_of(BLOCK), "chunks tile device blocks");

/// The buffer of a completion that moved exactly `expected` bytes.
pub(super) fn whole(
    completion: Completion,
    file: &dyn File,
    operation: &'static str,
    offset: u64,
    expected: usize,
) -> Result<AlignedBuf, IoFailure> {
    let moved = completion.result?;
    let short = |kind: io::ErrorKind| {
        IoFailure::new(operation, file.path(), &io::Error::from(kind)).at(offset)
    };
    match completion.buffer {
        Some(buffer) if moved == expected => Ok(buffer),
        _ if operation == "write" => Err(short(io::ErrorKind::WriteZero)),
        _ => Err(short(io::ErrorKind::UnexpectedEof)),
    }
}

/// Calls `each` with the bytes from `from` up to `to`, in pieces and in order, while the next piece
/// is on its way; so a file of any size is digested in two pieces of memory. Both are multiples
/// of [`BLOCK`] inside the file.
pub(super) fn read_pieces(
    channel: &mut dyn Channel,
    file: &Arc<dyn File>,
    from: u64,
    to: u64,
    mut each: impl FnMut(&[u8]),
) -> Result<()> {
    if from >= to {
        return Ok(());
    }
    let mut offset = from;
    let mut want = to_usize(to - from).min(CHUNK);
    let first = AlignedBuf::zeroed(want);
    channel.submit(Op::Read { file: Arc::clone(file), offset, buffer: first });
    let mut spare = None;
    loop {
        #[allow(clippy::expect_used, reason = "one operation was submitted and not yet completed")]
        let completion = channel.complete().expect("STORAGE: what was submitted completes");
        let piece = whole(completion, &**file, "read", offset, want).map_err(unreadable)?;
        offset += to_u64(want);
        let more = offset < to;
        if more {
            want = to_usize(to - offset).min(CHUNK);
            let mut buffer = spare.take().unwrap_or_else(|| AlignedBuf::zeroed(CHUNK));
            buffer.set_len(want);
            channel.submit(Op::Read { file: Arc::clone(file), offset, buffer });
        }
        each(&piece);
        if !more {
            return Ok(());
        }
        spare = Some(piece);
    }
}

/// The bytes from `from` up to `to`, wherever they begin and end. The caller has checked that they
/// lie inside the file, whose length is a multiple of [`BLOCK`].
pub(super) fn read_range(
    channel: &mut dyn Channel,
    file: &Arc<dyn File>,
    from: u64,
    to: u64,
) -> Result<Vec<u8>> {
    let block = to_u64(BLOCK);
    let first = from - from % block;
    let mut bytes = Vec::with_capacity(to_usize(to - from));
    let mut skip = to_usize(from - first);
    read_pieces(channel, file, first, to.next_multiple_of(block), |piece| {
        let start = skip.min(piece.len());
        skip -= start;
        let want = to_usize(to - from) - bytes.len();
        let end = piece.len().min(start + want);
        bytes.extend_from_slice(&piece[start..end]);
    })?;
    Ok(bytes)
}

/// A medium that refuses to return bytes.
pub(super) fn unreadable(failure: IoFailure) -> Error {
    let path = failure.path().to_owned();
    Error::new(ErrorKind::Unreadable, "the medium did not return a checkpoint's bytes")
        .at_path(path)
        .caused_by(failure)
}
