//! The operating system's files.

use std::any::Any;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FallocateFlags, Stat};
use rustix::io::Errno;

use super::directory::SystemDirectory;
use super::failure::retry_on_intr;
use super::probe::Wish;
use super::{Directory, File, FileStamp, IoFailure, LockKind, MappedBytes, Mapping, Storage};
use super::{lock, mmap};
use crate::error::{Error, ErrorKind};

/// Names the environment variable that decides where the option is [`BackendChoice::Auto`].
const VARIABLE: &str = "SAWMILL_BACKEND";
/// `FALLOC_FL_WRITE_ZEROES`, by its value in the kernel's interface.
const WRITE_ZEROES: u32 = 0x80;

/// Who shall carry file operations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum BackendChoice {
    /// What works: io_uring before `pwritev2`, past the page cache before through it. The
    /// environment variable `SAWMILL_BACKEND` (`auto`, `uring`, `pwrite`, `uring-buffered`,
    /// `pwrite-buffered`) overrides this choice, and only this one.
    ///
    /// With io_uring, a durable write that has the ring for itself is carried by a system call
    /// instead while that is more than twice as quick as a ring that needs over a millisecond:
    /// so it is on a machine whose processors are busy, if the device has no FUA. Whoever writes
    /// in the directory finds out as it writes, and goes back when the ring is quick again;
    /// [`WalStats::ring_bypassed`](crate::WalStats::ring_bypassed) counts these writes.
    #[default]
    Auto,
    /// io_uring for every operation, or an error.
    Uring,
    /// `pwritev2` and `fdatasync`.
    Pwrite,
}

/// The operating system's files, behind [`Storage`].
///
/// ```
/// use sawmill::storage::{BackendChoice, OpenMode, Storage, SystemStorage};
/// # let place = tempfile::tempdir()?;
/// let storage = SystemStorage::new(BackendChoice::Pwrite)?;
/// let directory = storage.directory(&place.path().join("log"), true)?;
/// directory.open("first", OpenMode::Create)?;
/// directory.sync()?;
/// assert_eq!(directory.list()?, ["first"]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct SystemStorage {
    wish: Wish,
}

impl SystemStorage {
    /// The operating system's files, through the backend of this choice. Which one works in a
    /// directory is found out when the directory is opened.
    ///
    /// # Errors
    /// `Invalid` if `choice` is [`BackendChoice::Auto`] and `SAWMILL_BACKEND` has a value that
    /// means nothing.
    pub fn new(choice: BackendChoice) -> Result<SystemStorage, Error> {
        let variable = match choice {
            BackendChoice::Auto => std::env::var_os(VARIABLE),
            BackendChoice::Uring | BackendChoice::Pwrite => None,
        };
        let Some(value) = variable else {
            return Ok(SystemStorage { wish: Wish { choice, buffered: false } });
        };
        SystemStorage::from_name(&value.to_string_lossy())
    }

    /// The choice by the name that `SAWMILL_BACKEND` would have.
    ///
    /// # Errors
    /// `Invalid`, listing the names, if this is none of them.
    pub fn from_name(name: &str) -> Result<SystemStorage, Error> {
        let (choice, buffered) = match name {
            "auto" | "" => (BackendChoice::Auto, false),
            "uring" => (BackendChoice::Uring, false),
            "pwrite" => (BackendChoice::Pwrite, false),
            "uring-buffered" => (BackendChoice::Uring, true),
            "pwrite-buffered" => (BackendChoice::Pwrite, true),
            _ => {
                let message = format!(
                    "{VARIABLE}={name} names no backend: auto, uring, pwrite, uring-buffered and \
                     pwrite-buffered do"
                );
                return Err(Error::new(ErrorKind::Invalid, message));
            }
        };
        Ok(SystemStorage { wish: Wish { choice, buffered } })
    }

    /// Sends every byte through the page cache, also where `O_DIRECT` works.
    #[must_use]
    pub fn force_buffered(mut self) -> SystemStorage {
        self.wish.buffered = true;
        self
    }
}

impl Storage for SystemStorage {
    fn directory(&self, path: &Path, create: bool) -> Result<Arc<dyn Directory>, IoFailure> {
        Ok(Arc::new(SystemDirectory::open(path, create, self.wish)?))
    }

    fn random(&self) -> [u8; 16] {
        random()
    }
}

/// Sixteen bytes of the kernel's randomness.
pub(super) fn random() -> [u8; 16] {
    let mut bytes = [0; 16];
    let flags = rustix::rand::GetRandomFlags::empty();
    // Requests of up to 256 bytes are answered whole once the pool is ready, which is waited for.
    let got = retry_on_intr(|| rustix::rand::getrandom(&mut bytes, flags));
    assert_eq!(got, Ok(16), "STORAGE: the kernel has random bytes (Linux 3.17)");
    bytes
}

/// An open regular file.
#[derive(Debug)]
pub(super) struct SystemFile {
    path: PathBuf,
    descriptor: OwnedFd,
}

impl SystemFile {
    pub(super) fn new(path: PathBuf, descriptor: OwnedFd) -> SystemFile {
        SystemFile { path, descriptor }
    }

    fn failed(&self, operation: &'static str) -> impl Fn(Errno) -> IoFailure + '_ {
        move |errno| IoFailure::from_errno(operation, &self.path, errno.raw_os_error())
    }

    fn stat(&self) -> Result<Stat, IoFailure> {
        rustix::fs::fstat(&self.descriptor).map_err(self.failed("stat"))
    }
}

impl AsFd for SystemFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

/// The system's file behind `file`; refuses what the kernel would misread: a file of another
/// storage, and an offset that as a signed number is negative (-1 means the current position).
pub(super) fn system_file<'a>(
    operation: &'static str,
    file: &'a dyn File,
    offset: Option<u64>,
) -> Result<&'a SystemFile, IoFailure> {
    let system = file.as_any().downcast_ref::<SystemFile>();
    match (system, i64::try_from(offset.unwrap_or(0))) {
        (Some(system), Ok(_)) => Ok(system),
        _ => Err(IoFailure::from_errno(operation, file.path(), libc::EINVAL)),
    }
}

fn non_negative(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

impl File for SystemFile {
    fn path(&self) -> &Path {
        &self.path
    }

    #[allow(clippy::useless_conversion, reason = "on other machines the counts are narrower")]
    fn stamp(&self) -> Result<FileStamp, IoFailure> {
        let stat = self.stat()?;
        let nanoseconds = i64::try_from(stat.st_mtime_nsec).unwrap_or(0);
        Ok(FileStamp {
            length: non_negative(stat.st_size),
            modified_ns: stat.st_mtime.saturating_mul(1_000_000_000).saturating_add(nanoseconds),
            inode: stat.st_ino,
            links: stat.st_nlink.into(),
        })
    }

    fn allocate(&self, length: u64) -> Result<(), IoFailure> {
        if length == 0 {
            return Ok(());
        }
        let none = FallocateFlags::empty();
        match retry_on_intr(|| rustix::fs::fallocate(&self.descriptor, none, 0, length)) {
            Ok(()) => Ok(()),
            Err(Errno::OPNOTSUPP | Errno::NOSYS) if self.stamp()?.length >= length => Ok(()),
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => self.set_length(length),
            Err(errno) => Err(self.failed("allocate")(errno)),
        }
    }

    fn allocate_written(&self, length: u64) -> Result<bool, IoFailure> {
        let written = FallocateFlags::from_bits_retain(WRITE_ZEROES);
        if length > 0 && self.stamp()?.length == 0 {
            match retry_on_intr(|| rustix::fs::fallocate(&self.descriptor, written, 0, length)) {
                Ok(()) => return Ok(true),
                // An older kernel, another file system, or a device that would have to be sent
                // every zero.
                Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {}
                Err(errno) => return Err(self.failed("allocate")(errno)),
            }
        }
        self.allocate(length)?;
        Ok(false)
    }

    fn set_length(&self, length: u64) -> Result<(), IoFailure> {
        retry_on_intr(|| rustix::fs::ftruncate(&self.descriptor, length))
            .map_err(self.failed("set length"))
    }

    fn sync(&self) -> Result<(), IoFailure> {
        rustix::fs::fsync(&self.descriptor).map_err(self.failed("sync"))
    }

    fn forget_cached(&self) -> Result<(), IoFailure> {
        rustix::fs::fadvise(&self.descriptor, 0, None, rustix::fs::Advice::DontNeed)
            .map_err(self.failed("advice on the cache"))
    }

    fn map(&self, length: u64) -> Result<Mapping, IoFailure> {
        if self.stamp()?.length < length {
            let error = io::Error::from(io::ErrorKind::UnexpectedEof);
            return Err(IoFailure::new("map", &self.path, &error));
        }
        if length == 0 {
            return Ok(Mapping::from_bytes(Box::default()));
        }
        let failed = |error: io::Error| IoFailure::new("map", &self.path, &error);
        let length = usize::try_from(length)
            .map_err(|_| failed(io::Error::from_raw_os_error(libc::EOVERFLOW)))?;
        let map = mmap::map(self.as_fd(), length).map_err(failed)?;
        Ok(Mapping(MappedBytes::Mapped(map)))
    }

    fn try_lock(&self, byte: u64, kind: LockKind) -> Result<bool, IoFailure> {
        lock::try_lock(self.as_fd(), byte, 1, kind)
            .map_err(|error| IoFailure::new("lock", &self.path, &error))
    }

    fn is_locked(&self, byte: u64) -> Result<bool, IoFailure> {
        lock::is_locked(self.as_fd(), byte)
            .map_err(|error| IoFailure::new("look at the lock", &self.path, &error))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
