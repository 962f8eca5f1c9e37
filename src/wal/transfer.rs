//! One operation at a time, whole or an error: for everything that is not on the commit path.

use std::io;

use crate::ids::to_u64;
use crate::storage::{AlignedBuf, BLOCK, Channel, File, IoFailure, Op};
use crate::sync::Arc;

/// Writes all of `buffer` at `offset` and hands it back; with `durable` it is on stable storage
/// then. Nothing else may be in flight on `channel`.
///
/// # Errors
/// The operating system's; a short write is one. Never repeated (LOG.md L12).
pub(crate) fn write_all(
    channel: &mut dyn Channel,
    file: &Arc<dyn File>,
    offset: u64,
    buffer: AlignedBuf,
    durable: bool,
) -> Result<AlignedBuf, IoFailure> {
    let wanted = buffer.len();
    let completion = channel.run(Op::Write { file: Arc::clone(file), offset, buffer, durable });
    match (completion.result, completion.buffer) {
        (Ok(moved), Some(buffer)) if moved == wanted => Ok(buffer),
        (Ok(_), _) => Err(short("write", file, offset)),
        (Err(failure), _) => Err(failure.at(offset)),
    }
}

/// Reads `buffer.len()` bytes at `offset`, fewer at the end of the file; the buffer's length says
/// how many came. A read that moved less than it could is no end of the file: the rest is asked
/// for until nothing more comes. Nothing else may be in flight on `channel`.
///
/// # Errors
/// The operating system's.
pub(crate) fn read(
    channel: &mut dyn Channel,
    file: &Arc<dyn File>,
    offset: u64,
    buffer: AlignedBuf,
) -> Result<AlignedBuf, IoFailure> {
    let wanted = buffer.len();
    let (mut whole, mut done) = read_once(channel, file, offset, buffer)?;
    while done < wanted {
        // From a block boundary, as direct files want.
        let from = done - done % BLOCK;
        let rest = AlignedBuf::zeroed(wanted - from);
        let (rest, got) = read_once(channel, file, offset + to_u64(from), rest)?;
        if from + got <= done {
            if file.stamp()?.length > offset.saturating_add(to_u64(done)) {
                return Err(short("read", file, offset + to_u64(done)));
            }
            break;
        }
        whole[from..from + got].copy_from_slice(&rest[..got]);
        done = from + got;
    }
    whole.set_len(done);
    Ok(whole)
}

/// What one operation reads: the buffer, as long as it was, and how many bytes came.
fn read_once(
    channel: &mut dyn Channel,
    file: &Arc<dyn File>,
    offset: u64,
    buffer: AlignedBuf,
) -> Result<(AlignedBuf, usize), IoFailure> {
    let wanted = buffer.len();
    let completion = channel.run(Op::Read { file: Arc::clone(file), offset, buffer });
    match (completion.result, completion.buffer) {
        (Ok(moved), Some(buffer)) if moved <= wanted => Ok((buffer, moved)),
        (Ok(_), _) => Err(short("read", file, offset)),
        (Err(failure), _) => Err(failure.at(offset)),
    }
}

/// Reads exactly `length` bytes at `offset`.
///
/// # Errors
/// The operating system's; `UnexpectedEof` if the file ends before.
pub(crate) fn read_exact(
    channel: &mut dyn Channel,
    file: &Arc<dyn File>,
    offset: u64,
    length: usize,
) -> Result<AlignedBuf, IoFailure> {
    let buffer = read(channel, file, offset, AlignedBuf::zeroed(length))?;
    if buffer.len() == length {
        return Ok(buffer);
    }
    let error = io::Error::from(io::ErrorKind::UnexpectedEof);
    Err(IoFailure::new("read", file.path(), &error).at(offset + to_u64(buffer.len())))
}

fn short(operation: &'static str, file: &Arc<dyn File>, offset: u64) -> IoFailure {
    let error = io::Error::from(io::ErrorKind::WriteZero);
    IoFailure::new(operation, file.path(), &error).at(offset)
}
