//! Whole reads and writes through a channel: short ones are failures here (STORAGE-3).

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};
use crate::ids::{to_u64, to_usize};
use crate::storage::{AlignedBuf, BLOCK, Channel, Completion, File, IoFailure, Op};

/// Bytes moved by one operation.
pub(super) const CHUNK: usize = 256 << 10;
/// Operations in flight at once.
pub(super) const IN_FLIGHT: usize = 8;

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

/// Calls `each` with the bytes from `from` up to `to`, in pieces and in order, while the next
/// pieces are on their way; so a file of any size is digested in a few pieces of memory. Both are
/// multiples of [`BLOCK`] inside the file.
pub(super) fn read_pieces(
    channel: &mut dyn Channel,
    file: &Arc<dyn File>,
    from: u64,
    to: u64,
    mut each: impl FnMut(&[u8]),
) -> Result<()> {
    let length = |at: u64| to_usize(to - at).min(CHUNK);
    let (mut asked, mut told) = (from, from);
    let pieces = to_usize((to - from).div_ceil(to_u64(CHUNK))).min(IN_FLIGHT);
    let mut spare = if pieces > 1 { AlignedBuf::several(CHUNK, pieces) } else { Vec::new() };
    // By the token of the operation: completions come in any order.
    let mut on_the_way: VecDeque<(u64, Option<Completion>)> = VecDeque::new();
    let mut outcome = Ok(());
    while told < to {
        while asked < to && on_the_way.len() < IN_FLIGHT && outcome.is_ok() {
            let mut buffer = spare.pop().unwrap_or_else(|| AlignedBuf::zeroed(length(asked)));
            buffer.set_len(length(asked));
            let read = Op::Read { file: Arc::clone(file), offset: asked, buffer };
            on_the_way.push_back((channel.submit(read), None));
            asked += to_u64(length(asked));
        }
        channel.start();
        while on_the_way.front().is_some_and(|(_, arrived)| arrived.is_none()) {
            #[allow(clippy::expect_used, reason = "operations are in flight")]
            let completion = channel.complete().expect("STORAGE: what was submitted completes");
            let place = on_the_way.iter_mut().find(|(token, _)| *token == completion.token);
            if let Some((_, arrived)) = place {
                *arrived = Some(completion);
            }
        }
        let Some((_, Some(completion))) = on_the_way.pop_front() else { break };
        let piece = whole(completion, &**file, "read", told, length(told)).map_err(unreadable);
        match piece {
            Ok(piece) if outcome.is_ok() => {
                each(&piece);
                spare.push(piece);
            }
            Ok(_) => {}
            Err(error) => outcome = outcome.and(Err(error)),
        }
        told += to_u64(length(told));
        if outcome.is_err() && on_the_way.is_empty() {
            break;
        }
    }
    outcome
}

/// As [`read_pieces`], of bytes that begin and end anywhere. The caller has checked that they lie
/// inside the file, whose length is a multiple of [`BLOCK`].
pub(super) fn read_range_in_pieces(
    channel: &mut dyn Channel,
    file: &Arc<dyn File>,
    from: u64,
    to: u64,
    mut each: impl FnMut(&[u8]),
) -> Result<()> {
    let block = to_u64(BLOCK);
    let first = from - from % block;
    let (mut skip, mut left) = (to_usize(from - first), to_usize(to - from));
    read_pieces(channel, file, first, to.next_multiple_of(block), |piece| {
        let start = skip.min(piece.len());
        skip -= start;
        let end = piece.len().min(start + left);
        left -= end - start;
        each(&piece[start..end]);
    })
}

/// The bytes from `from` up to `to`, as [`read_range_in_pieces`].
pub(super) fn read_range(
    channel: &mut dyn Channel,
    file: &Arc<dyn File>,
    from: u64,
    to: u64,
) -> Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(to_usize(to - from));
    read_range_in_pieces(channel, file, from, to, |piece| bytes.extend_from_slice(piece))?;
    Ok(bytes)
}

/// A medium that refuses to return bytes.
pub(super) fn unreadable(failure: IoFailure) -> Error {
    let path = failure.path().to_owned();
    Error::new(ErrorKind::Unreadable, "the medium did not return a checkpoint's bytes")
        .at_path(path)
        .caused_by(failure)
}
