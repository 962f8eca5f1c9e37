//! Finds out which backend works in a directory, by using it.
//!
//! What a kernel version, a mount option or a flag promises is not asked: containers forbid
//! io_uring, file systems accept `O_DIRECT` and refuse the write. A file without a name is written
//! durably through the very channel and read back; the first backend that can do so is taken.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags};
use rustix::io::Errno;

use super::pace::SharedPace;
use super::posix::{BackendChoice, SystemFile, random};
use super::pwrite::PwriteChannel;
use super::uring::UringChannel;
use super::{AlignedBuf, BLOCK, Backend, BackendKind, Channel, File, IoFailure, Op};

/// What the user wants.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wish {
    pub(super) choice: BackendChoice,
    pub(super) buffered: bool,
}

enum Trial {
    Works,
    Refused(IoFailure),
}

/// Finds the backend for writing in a directory.
pub(super) fn find(
    directory: BorrowedFd<'_>,
    path: &Path,
    wish: Wish,
) -> Result<Backend, IoFailure> {
    let mut refusal = None;
    for &kind in kinds(wish) {
        let direct_first: &[bool] = if wish.buffered { &[false] } else { &[true, false] };
        for &direct in direct_first {
            let backend = Backend { kind, direct };
            match attempt(directory, path, backend)? {
                Trial::Works => return Ok(backend),
                Trial::Refused(failure) => refusal = Some(failure),
            }
        }
    }
    Err(refusal.unwrap_or_else(|| IoFailure::from_errno("trial write", path, libc::ENOSYS)))
}

/// Finds who carries reads, without touching the directory: users' files are not ours to write
/// beside.
pub(super) fn find_for_reading(path: &Path, wish: Wish) -> Result<BackendKind, IoFailure> {
    let mut refusal = None;
    for &kind in kinds(wish) {
        match channel(path, kind, None) {
            Ok(_) => return Ok(kind),
            Err(failure) => refusal = Some(failure),
        }
    }
    Err(refusal.unwrap_or_else(|| IoFailure::from_errno("trial", path, libc::ENOSYS)))
}

fn kinds(wish: Wish) -> &'static [BackendKind] {
    match wish.choice {
        BackendChoice::Auto => &[BackendKind::Uring, BackendKind::Pwrite],
        BackendChoice::Uring => &[BackendKind::Uring],
        BackendChoice::Pwrite => &[BackendKind::Pwrite],
    }
}

/// A channel of this kind. A ring is tried with an operation that does nothing: some sandboxes
/// allow its setup and forbid its use. With a pace, lone durable writes may bypass the ring.
pub(super) fn channel(
    path: &Path,
    kind: BackendKind,
    pace: Option<&Arc<SharedPace>>,
) -> Result<Box<dyn Channel>, IoFailure> {
    match kind {
        BackendKind::Uring => match UringChannel::new(pace.cloned()) {
            Ok(channel) => Ok(Box::new(channel)),
            Err(error) => Err(IoFailure::new("setup of io_uring for files", path, &error)),
        },
        BackendKind::Pwrite => Ok(Box::new(PwriteChannel::default())),
        BackendKind::Simulated => Err(IoFailure::from_errno("channel", path, libc::EINVAL)),
    }
}

fn is_refusal(errno: Option<i32>) -> bool {
    let refusals =
        [libc::EINVAL, libc::EOPNOTSUPP, libc::ENOSYS, libc::EPERM, libc::EACCES, libc::ENOMEM];
    errno.is_none_or(|errno| refusals.contains(&errno))
}

fn attempt(directory: BorrowedFd<'_>, path: &Path, backend: Backend) -> Result<Trial, IoFailure> {
    let mut channel = match channel(path, backend.kind, None) {
        Ok(channel) => channel,
        Err(refused) => return Ok(Trial::Refused(refused)),
    };
    let failed = |errno: Errno| {
        IoFailure::from_errno("creation of a trial file", path, errno.raw_os_error())
    };
    let descriptor = match trial_file(directory, backend.direct) {
        Ok(descriptor) => descriptor,
        Err(errno @ (Errno::INVAL | Errno::OPNOTSUPP)) => {
            return Ok(Trial::Refused(failed(errno)));
        }
        // A full disk must not keep a log from being opened, which may then free space. Without
        // a file the page cache is the safe guess.
        Err(errno) if failed(errno).is_disk_full() => {
            let full = Trial::Refused(failed(errno));
            return Ok(if backend.direct { full } else { Trial::Works });
        }
        Err(errno) => return Err(failed(errno)),
    };
    if backend.direct && !block_is_aligned(&descriptor) {
        return Ok(Trial::Refused(failed(Errno::INVAL)));
    }
    let file: Arc<dyn File> = Arc::new(SystemFile::new(path.to_owned(), descriptor));
    match write_and_read(&mut *channel, &file) {
        Ok(()) => Ok(Trial::Works),
        // The channel carried the write, and the file took the flags: only space is missing.
        Err(failure) if failure.is_disk_full() => Ok(Trial::Works),
        Err(failure) if is_refusal(failure.errno()) => Ok(Trial::Refused(failure)),
        Err(failure) => Err(failure),
    }
}

/// A file that vanishes by itself: nameless where the file system can, else unlinked at once.
fn trial_file(directory: BorrowedFd<'_>, direct: bool) -> Result<OwnedFd, Errno> {
    let direct = if direct { OFlags::DIRECT } else { OFlags::empty() };
    let flags = OFlags::RDWR | OFlags::CLOEXEC | direct;
    let mode = Mode::from_raw_mode(0o600);
    match rustix::fs::openat(directory, ".", flags | OFlags::TMPFILE, mode) {
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::NOENT | Errno::INVAL) => {}
        done => return done,
    }
    let number = u128::from_le_bytes(random());
    let name = format!(".sawmill-trial-{number:032x}");
    let opened =
        rustix::fs::openat(directory, name.as_str(), flags | OFlags::CREATE | OFlags::EXCL, mode);
    // Also after a failure: a file system that refuses O_DIRECT may have made the file before.
    match rustix::fs::unlinkat(directory, name.as_str(), AtFlags::empty()) {
        Ok(()) => opened,
        Err(errno) => opened.and(Err(errno)),
    }
}

/// Whether the device takes pieces of [`BLOCK`] bytes. Kernels before 6.1 do not say: then the
/// trial decides alone.
pub(super) fn block_is_aligned(descriptor: &OwnedFd) -> bool {
    let wanted = StatxFlags::DIOALIGN;
    let Ok(stat) = rustix::fs::statx(descriptor, c"", AtFlags::EMPTY_PATH, wanted) else {
        return true;
    };
    let fits = |align: u32| align != 0 && (BLOCK as u64).is_multiple_of(u64::from(align));
    let said = stat.stx_mask & wanted.bits() != 0;
    !said || (fits(stat.stx_dio_offset_align) && fits(stat.stx_dio_mem_align))
}

fn write_and_read(channel: &mut dyn Channel, file: &Arc<dyn File>) -> Result<(), IoFailure> {
    let short = || {
        let error = io::Error::from(io::ErrorKind::UnexpectedEof);
        IoFailure::new("trial write", file.path(), &error)
    };
    let mut buffer = AlignedBuf::zeroed(BLOCK);
    buffer.fill(0xA5);
    let write = Op::Write { file: Arc::clone(file), offset: 0, buffer, durable: true };
    if channel.run(write).result? != BLOCK {
        return Err(short());
    }
    let buffer = AlignedBuf::zeroed(BLOCK);
    let completion = channel.run(Op::Read { file: Arc::clone(file), offset: 0, buffer });
    let read = completion.result?;
    let same = completion.buffer.is_some_and(|bytes| bytes.iter().all(|byte| *byte == 0xA5));
    if read == BLOCK && same { Ok(()) } else { Err(short()) }
}
