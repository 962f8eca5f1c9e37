//! Whole-file and whole-range helpers for cold paths: opening, preparing, checkpoints.
//!
//! FILES-1: a failed or short write ends the helper; nothing is written after it, nothing is
//! repeated.

use std::io;
use std::sync::Arc;

use super::{AlignedBuf, BLOCK, Channel, Directory, File, IoFailure, Op, OpenMode};

/// Bytes in one write or read of these helpers.
const PIECE: usize = 1 << 20;

/// Writes of one helper in flight at once.
const IN_FLIGHT: usize = 4;

/// Reads exactly `length` bytes at `offset`. For direct files `offset` is a multiple of [`BLOCK`];
/// `length` may be any. Nothing else may be in flight on the channel.
///
/// # Errors
/// `UnexpectedEof` if the file ends before; else the operating system's.
pub fn read_exact_at(
    channel: &mut dyn Channel,
    file: &Arc<dyn File>,
    offset: u64,
    length: usize,
) -> Result<AlignedBuf, IoFailure> {
    let mut whole = AlignedBuf::zeroed(length.max(1));
    whole.set_len(whole.capacity());
    let mut done = 0;
    let read = |offset, buffer| Op::Read { file: Arc::clone(file), offset, buffer };
    while done < length {
        // After a short read the rest is asked for from a block boundary, as direct files want.
        let from = done - done % BLOCK;
        let at = offset.saturating_add(from as u64);
        let (target, got) = if from == 0 {
            let completion = channel.run(read(at, whole));
            (completion.buffer, completion.result?)
        } else {
            let rest = AlignedBuf::zeroed(whole.capacity() - from);
            let completion = channel.run(read(at, rest));
            let got = completion.result?;
            if let Some(rest) = completion.buffer {
                whole[from..from + got].copy_from_slice(&rest[..got]);
            }
            (Some(whole), got)
        };
        let Some(target) = target else { return Err(failure("read", file, at, libc::EIO)) };
        whole = target;
        if from + got <= done {
            let error = io::Error::from(io::ErrorKind::UnexpectedEof);
            return Err(IoFailure::new("read", file.path(), &error).at(offset + done as u64));
        }
        done = from + got;
    }
    whole.set_len(length);
    Ok(whole)
}

/// Writes all `bytes` at `offset`, in pieces of at most 1 MiB. With `durable` they are on stable
/// storage when it returns. For direct files `offset` and length are multiples of [`BLOCK`].
/// Nothing else may be in flight on the channel.
///
/// # Errors
/// The operating system's, or `WriteZero` after a short write: then some bytes may be there.
pub fn write_all_at(
    channel: &mut dyn Channel,
    file: &Arc<dyn File>,
    offset: u64,
    bytes: &[u8],
    durable: bool,
) -> Result<(), IoFailure> {
    let end = offset.saturating_add(bytes.len() as u64);
    // Several pieces share one flush.
    let each_durable = durable && bytes.len() <= PIECE;
    let mut rest = bytes;
    write_pieces(channel, file, offset, end, each_durable, |buffer| {
        let (piece, behind) = rest.split_at(buffer.len());
        buffer.copy_from_slice(piece);
        rest = behind;
    })?;
    if durable && !each_durable { sync_data(channel, file) } else { Ok(()) }
}

/// Writes zeros from `from` to `to`, really: afterwards these blocks are written ones, that a
/// later write only overwrites. Not durable yet. For direct files both are multiples of
/// [`BLOCK`]. Nothing else may be in flight on the channel.
///
/// # Errors
/// The operating system's, or `WriteZero` after a short write.
pub fn fill_zeros(
    channel: &mut dyn Channel,
    file: &Arc<dyn File>,
    from: u64,
    to: u64,
) -> Result<(), IoFailure> {
    // Buffers begin zeroed, and come back as they went.
    write_pieces(channel, file, from, to, false, |_| ())
}

/// Makes the completed writes of the file durable (`fdatasync`).
///
/// # Errors
/// The operating system's. Never repeated.
pub fn sync_data(channel: &mut dyn Channel, file: &Arc<dyn File>) -> Result<(), IoFailure> {
    channel.run(Op::Sync { file: Arc::clone(file) }).result.map(|_| ())
}

/// Reads a whole file of at most `limit` bytes.
///
/// # Errors
/// `FileTooLarge` if it is longer; else the operating system's.
pub fn read_to_vec(
    directory: &dyn Directory,
    name: &str,
    limit: u64,
) -> Result<Vec<u8>, IoFailure> {
    let file = directory.open(name, OpenMode::Read)?;
    let too_large = || {
        let error = io::Error::from(io::ErrorKind::FileTooLarge);
        IoFailure::new("read of a whole file", file.path(), &error)
    };
    if file.stamp()?.length > limit {
        return Err(too_large());
    }
    let mut channel = directory.channel()?;
    let mut bytes = Vec::new();
    let mut buffer = AlignedBuf::zeroed(PIECE);
    loop {
        let offset = bytes.len() as u64;
        let completion = channel.run(Op::Read { file: Arc::clone(&file), offset, buffer });
        let got = completion.result?;
        let Some(returned) = completion.buffer else {
            return Err(failure("read", &file, offset, libc::EIO));
        };
        if got == 0 {
            return Ok(bytes);
        }
        bytes.extend_from_slice(&returned[..got]);
        if bytes.len() as u64 > limit {
            return Err(too_large());
        }
        buffer = returned;
    }
}

/// Puts `bytes` under `name`, replacing what was there: after a crash the name has the old bytes
/// or all of the new ones. Durable when it returns. `NAME.tmp` is used on the way.
///
/// # Errors
/// The operating system's. Before the rename the old bytes stay; a failure of the last step, the
/// directory's sync, leaves open which of the two a crash would show.
pub fn replace_file(directory: &dyn Directory, name: &str, bytes: &[u8]) -> Result<(), IoFailure> {
    let temporary = format!("{name}.tmp");
    remove_if_there(directory, &temporary)?;
    let file = directory.open(&temporary, OpenMode::Create)?;
    let mut channel = directory.channel()?;
    let written = write_all_at(&mut *channel, &file, 0, bytes, false)
        .and_then(|()| sync_data(&mut *channel, &file));
    if let Err(failure) = written {
        // On a full disk its space is missed; that it stays when even this fails hurts nobody,
        // the next call removes it.
        drop(remove_if_there(directory, &temporary));
        return Err(failure);
    }
    directory.rename(&temporary, name)?;
    directory.sync()
}

/// Removes a name, unless it is not there.
///
/// # Errors
/// The operating system's.
pub fn remove_if_there(directory: &dyn Directory, name: &str) -> Result<(), IoFailure> {
    match directory.unlink(name) {
        Err(failure) if failure.kind() != io::ErrorKind::NotFound => Err(failure),
        _ => Ok(()),
    }
}

fn failure(operation: &'static str, file: &Arc<dyn File>, offset: u64, errno: i32) -> IoFailure {
    IoFailure::from_errno(operation, file.path(), errno).at(offset)
}

/// Writes `from..to` in pieces, several in flight; `fill` is called for each in ascending order.
fn write_pieces(
    channel: &mut dyn Channel,
    file: &Arc<dyn File>,
    from: u64,
    to: u64,
    durable: bool,
    mut fill: impl FnMut(&mut AlignedBuf),
) -> Result<(), IoFailure> {
    let mut next = from;
    let pieces = usize::try_from((to - from).div_ceil(PIECE as u64)).unwrap_or(usize::MAX);
    let mut spare =
        if pieces > 1 { AlignedBuf::several(PIECE, pieces.min(IN_FLIGHT)) } else { Vec::new() };
    let mut in_flight: Vec<(u64, u64, usize)> = Vec::new();
    let mut failed = None;
    loop {
        while next < to && in_flight.len() < IN_FLIGHT && failed.is_none() {
            let length = usize::try_from(to - next).map_or(PIECE, |rest| rest.min(PIECE));
            let mut buffer = spare.pop().unwrap_or_else(|| AlignedBuf::zeroed(length));
            // Only the last piece is shorter, so a returned buffer has room.
            buffer.set_len(length);
            fill(&mut buffer);
            let write = Op::Write { file: Arc::clone(file), offset: next, buffer, durable };
            in_flight.push((channel.submit(write), next, length));
            next += length as u64;
        }
        let Some(completion) = channel.complete() else { break };
        let place = in_flight.iter().position(|(token, ..)| *token == completion.token);
        assert!(place.is_some(), "FILES: nothing else in flight on the channel");
        let Some((_, offset, length)) = place.map(|place| in_flight.swap_remove(place)) else {
            continue;
        };
        spare.extend(completion.buffer);
        let result = completion.result.and_then(|written| {
            if written == length {
                return Ok(());
            }
            let error = io::Error::from(io::ErrorKind::WriteZero);
            Err(IoFailure::new("write", file.path(), &error).at(offset))
        });
        // What was in flight beside a failure is waited for; the first failure is told.
        failed = failed.or(result.err());
    }
    failed.map_or(Ok(()), Err)
}
