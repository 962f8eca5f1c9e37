//! Locks that belong to an open file description, the directory's lock, and the word that a fork
//! wipes.
//!
//! LOCK-1: a lock is never released by hand. It goes when the last reference to its description
//! goes: a request that a killed process left in flight still holds one (LOG.md L11).
//! LOCK-2: the lock's file is never unlinked, so that two holders cannot lock two inodes.
#![allow(unsafe_code, reason = "OFD locks and MADV_WIPEONFORK have no safe wrapper")]

use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, ProtFlags};

use super::failure::retry_on_intr;
use super::{BLOCK, IoFailure, Lock, LockKind};

/// Bytes of a holder's text that are read back.
const HOLDER_MAX: usize = 256;

/// Tries to lock `length` bytes from `start` (to the end for 0) on the description behind
/// `descriptor`. `false`: another description holds them.
pub(super) fn try_lock(
    descriptor: BorrowedFd<'_>,
    start: u64,
    length: u64,
    kind: LockKind,
) -> io::Result<bool> {
    let lock = range(start, length, kind)?;
    let taken = retry_on_intr(|| {
        // SAFETY: the descriptor is open while borrowed, and `lock` lives through the call.
        let answer = unsafe { libc::fcntl(descriptor.as_raw_fd(), libc::F_OFD_SETLK, &lock) };
        match outcome(answer) {
            Err(Errno::AGAIN | Errno::ACCESS) => Ok(false),
            outcome => outcome.map(|()| true),
        }
    });
    Ok(taken?)
}

/// What `fcntl` has answered.
fn outcome(answer: libc::c_int) -> rustix::io::Result<()> {
    match io::Error::last_os_error() {
        _ if answer == 0 => Ok(()),
        error => Err(Errno::from_io_error(&error).unwrap_or(Errno::IO)),
    }
}

/// Whether another description than the one behind `descriptor` holds this byte exclusively.
pub(super) fn is_locked(descriptor: BorrowedFd<'_>, byte: u64) -> io::Result<bool> {
    // What would be in the way of sharing it.
    let mut lock = range(byte, 1, LockKind::Shared)?;
    retry_on_intr(|| {
        // SAFETY: the descriptor is open while borrowed, and `lock` lives through the call, which
        // writes into it.
        let answer =
            unsafe { libc::fcntl(descriptor.as_raw_fd(), libc::F_OFD_GETLK, &raw mut lock) };
        outcome(answer)
    })?;
    Ok(i32::from(lock.l_type) != libc::F_UNLCK)
}

/// A range of bytes and how to lock it, for the kernel.
fn range(start: u64, length: u64, kind: LockKind) -> io::Result<libc::flock> {
    let lock_type = match kind {
        LockKind::Shared => libc::F_RDLCK,
        LockKind::Exclusive => libc::F_WRLCK,
    };
    let beyond = |_| io::Error::from_raw_os_error(libc::EINVAL);
    // SAFETY: all-zero bytes are a valid `flock`, which is made of integers.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = i16::try_from(lock_type).map_err(beyond)?;
    lock.l_whence = i16::try_from(libc::SEEK_SET).map_err(beyond)?;
    lock.l_start = i64::try_from(start).map_err(beyond)?;
    lock.l_len = i64::try_from(length).map_err(beyond)?;
    Ok(lock)
}

/// The exclusive lock of a directory.
#[derive(Debug)]
pub(super) struct DirectoryLock {
    descriptor: OwnedFd,
    path: PathBuf,
}

impl DirectoryLock {
    /// Takes the lock, or says who has it. `directory` is where `name` is opened, `path` the same
    /// place for [`Lock::is_current`] and messages.
    pub(super) fn take(
        directory: BorrowedFd<'_>,
        name: &str,
        path: PathBuf,
        holder: &str,
    ) -> Result<Result<DirectoryLock, String>, IoFailure> {
        let failed = |error: io::Error| IoFailure::new("lock", &path, &error);
        // Somebody may replace the file between our open and our lock: then what we locked guards
        // nothing, and the new file has to be tried.
        for _ in 0..8 {
            let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NONBLOCK;
            let descriptor = rustix::fs::openat(directory, name, flags, Mode::from_raw_mode(0o644))
                .map_err(|errno| failed(errno.into()))?;
            if !try_lock(descriptor.as_fd(), 0, 0, LockKind::Exclusive).map_err(failed)? {
                return Ok(Err(read_holder(descriptor.as_fd()).map_err(failed)?));
            }
            if !same_file(descriptor.as_fd(), directory, name).map_err(failed)? {
                continue;
            }
            write_holder(descriptor.as_fd(), holder).map_err(failed)?;
            return Ok(Ok(DirectoryLock { descriptor, path }));
        }
        Err(failed(io::Error::from_raw_os_error(libc::ESTALE)))
    }
}

impl Lock for DirectoryLock {
    fn is_current(&self) -> Result<bool, IoFailure> {
        same_file(self.descriptor.as_fd(), rustix::fs::CWD, &self.path)
            .map_err(|error| IoFailure::new("check of the lock", &self.path, &error))
    }
}

fn same_file(
    descriptor: BorrowedFd<'_>,
    directory: BorrowedFd<'_>,
    path: impl AsRef<Path>,
) -> io::Result<bool> {
    let locked = rustix::fs::fstat(descriptor)?;
    match rustix::fs::statat(directory, path.as_ref(), AtFlags::SYMLINK_NOFOLLOW) {
        Ok(named) => Ok((named.st_dev, named.st_ino) == (locked.st_dev, locked.st_ino)),
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

fn read_holder(descriptor: BorrowedFd<'_>) -> io::Result<String> {
    let mut text = [0; HOLDER_MAX];
    let length = retry_on_intr(|| rustix::io::pread(descriptor, &mut text, 0))?;
    Ok(String::from_utf8_lossy(&text[..length]).trim_end().to_owned())
}

/// Writes before it cuts, so that whoever is refused meanwhile never reads an empty name.
fn write_holder(descriptor: BorrowedFd<'_>, holder: &str) -> io::Result<()> {
    let mut end = holder.len().min(HOLDER_MAX);
    while !holder.is_char_boundary(end) {
        end -= 1;
    }
    let text = &holder.as_bytes()[..end];
    let written = retry_on_intr(|| rustix::io::pwrite(descriptor, text, 0))?;
    if written != text.len() {
        return Err(io::ErrorKind::WriteZero.into());
    }
    rustix::fs::ftruncate(descriptor, end as u64)?;
    Ok(())
}

/// A word that a forked child finds wiped: one load tells parent and child apart.
pub struct ForkWord {
    page: NonNull<AtomicU32>,
}

// SAFETY: the page is owned by this value, is tied to no thread, and holds only an atomic.
unsafe impl Send for ForkWord {}
// SAFETY: shared access goes through the atomic.
unsafe impl Sync for ForkWord {}

impl ForkWord {
    const HERE: u32 = 0x5A5A_0001;

    /// Maps the page.
    ///
    /// # Errors
    /// The operating system's: no memory, or a kernel before 4.14.
    pub fn new() -> io::Result<ForkWord> {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a fresh private mapping at an address of the kernel's choice overlaps nothing.
        let start = unsafe {
            rustix::mm::mmap_anonymous(std::ptr::null_mut(), BLOCK, protection, MapFlags::PRIVATE)
        }?;
        let Some(page) = NonNull::new(start.cast::<AtomicU32>()) else {
            return Err(io::ErrorKind::OutOfMemory.into());
        };
        let word = ForkWord { page };
        // SAFETY: exactly the mapping made above, which nobody else knows yet.
        unsafe { rustix::mm::madvise(start, BLOCK, Advice::LinuxWipeOnFork) }?;
        word.word().store(ForkWord::HERE, Ordering::Relaxed);
        Ok(word)
    }

    fn word(&self) -> &AtomicU32 {
        // SAFETY: the page is mapped, aligned and zeroed or written, until `drop`.
        unsafe { self.page.as_ref() }
    }

    /// Whether this process is a fork of the one that made the word.
    #[must_use]
    #[inline]
    pub fn is_forked(&self) -> bool {
        self.word().load(Ordering::Relaxed) != ForkWord::HERE
    }
}

impl Drop for ForkWord {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `new`; `&mut self` says that nobody reads it any more.
        let unmapped = unsafe { rustix::mm::munmap(self.page.as_ptr().cast(), BLOCK) };
        debug_assert!(unmapped.is_ok(), "the page was mapped in new");
    }
}

impl fmt::Debug for ForkWord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ForkWord(forked: {})", self.is_forked())
    }
}
