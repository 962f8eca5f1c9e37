//! The operating system's directories: opening, and making names durable.
//!
//! DIR-1: a directory whose name may be lost is never handed out: made ones are synced, each
//! before the next is made inside it, and so is the parent of the deepest that already existed,
//! which a process killed in between may have left unsynced.
//! DIR-2: opening to read writes nothing into the directory.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use rustix::fs::{Advice, AtFlags, CWD, FileType, Mode, OFlags, RawDir};
use rustix::io::Errno;

use super::failure::{INTERRUPTIONS, retry_on_intr};
use super::lock::DirectoryLock;
use super::pace::SharedPace;
use super::page::{PageView, SharedPage};
use super::posix::SystemFile;
use super::probe::{self, Wish};
use super::{
    Backend, BackendChoice, BackendKind, Channel, Directory, File, IoFailure, Lock, OpenMode,
};

/// Bytes of entries that the kernel is asked for at a time.
const LISTED: usize = 32 << 10;

/// An open directory. It stays the same one if it is renamed.
#[derive(Debug)]
pub(super) struct SystemDirectory {
    path: PathBuf,
    descriptor: OwnedFd,
    device: u64,
    wish: Wish,
    /// What was found when something was first to be written here.
    for_writing: OnceLock<Backend>,
    for_reading: OnceLock<BackendKind>,
    /// Of all channels together.
    pace: Arc<SharedPace>,
}

impl SystemDirectory {
    pub(super) fn open(
        path: &Path,
        create: bool,
        wish: Wish,
    ) -> Result<SystemDirectory, IoFailure> {
        // Absolute, so that a change of the working directory changes no meaning.
        let path = std::path::absolute(path)
            .map_err(|error| IoFailure::new("open of the directory", path, &error))?;
        if create {
            create_durably(&path)?;
        }
        let directory = SystemDirectory::open_existing(path, wish)?;
        if create {
            directory.backend_for_writing()?;
        }
        Ok(directory)
    }

    fn open_existing(path: PathBuf, wish: Wish) -> Result<SystemDirectory, IoFailure> {
        let descriptor = open_directory(&path, OFlags::RDONLY)
            .or_else(|errno| match errno {
                // Files can be opened in a directory that may not be listed.
                Errno::ACCESS => open_directory(&path, OFlags::PATH),
                _ => Err(errno),
            })
            .map_err(failed("open of the directory", &path))?;
        let stat =
            rustix::fs::fstat(&descriptor).map_err(failed("stat of the directory", &path))?;
        Ok(SystemDirectory {
            path,
            descriptor,
            device: stat.st_dev,
            wish,
            for_writing: OnceLock::new(),
            for_reading: OnceLock::new(),
            pace: Arc::new(SharedPace::new()),
        })
    }

    fn backend_for_writing(&self) -> Result<Backend, IoFailure> {
        if let Some(backend) = self.for_writing.get() {
            return Ok(*backend);
        }
        let found = probe::find(self.descriptor.as_fd(), &self.path, self.wish)?;
        Ok(*self.for_writing.get_or_init(|| found))
    }

    fn kind_for_reading(&self) -> Result<BackendKind, IoFailure> {
        if let Some(backend) = self.for_writing.get() {
            return Ok(backend.kind);
        }
        if let Some(kind) = self.for_reading.get() {
            return Ok(*kind);
        }
        let found = probe::find_for_reading(&self.path, self.wish)?;
        Ok(*self.for_reading.get_or_init(|| found))
    }

    /// A name within this directory, joined to its path for messages.
    fn named(&self, operation: &'static str, name: &str) -> Result<PathBuf, IoFailure> {
        let path = self.path.join(name);
        let inside = !name.is_empty() && !name.contains(['/', '\0']) && name != "." && name != "..";
        if inside { Ok(path) } else { Err(IoFailure::from_errno(operation, path, libc::EINVAL)) }
    }

    fn open_descriptor(&self, name: &str, mode: OpenMode) -> Result<OwnedFd, IoFailure> {
        let path = self.named("open", name)?;
        let failed = failed("open", &path);
        let (access, wants_direct) = match mode {
            OpenMode::Read => (OFlags::RDONLY, false),
            OpenMode::ReadDirect => {
                let known = self.for_writing.get();
                (OFlags::RDONLY, known.map_or(!self.wish.buffered, |backend| backend.direct))
            }
            OpenMode::Create => (OFlags::RDWR | OFlags::CREATE | OFlags::EXCL, false),
            OpenMode::Write => (OFlags::RDWR, false),
            OpenMode::CreateDirect => {
                let direct = self.backend_for_writing()?.direct;
                (OFlags::RDWR | OFlags::CREATE | OFlags::EXCL, direct)
            }
            OpenMode::WriteDirect => (OFlags::RDWR, self.backend_for_writing()?.direct),
        };
        let open = |direct: bool| {
            let direct = if direct { OFlags::DIRECT } else { OFlags::empty() };
            // Not blocking, so that a named pipe is refused and not waited for.
            let flags = access | direct | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
            retry_on_intr(|| {
                rustix::fs::openat(&self.descriptor, name, flags, Mode::from_raw_mode(0o666))
            })
        };
        let existing = !access.contains(OFlags::CREATE);
        let (descriptor, is_direct) = match open(wants_direct) {
            Err(Errno::INVAL) if wants_direct && existing => (open(false), false),
            // Nothing was tried here yet: the device may want larger pieces than ours.
            Ok(opened) if wants_direct && existing && !probe::block_is_aligned(&opened) => {
                (open(false), false)
            }
            opened => (opened, wants_direct),
        };
        let descriptor = descriptor.map_err(&failed)?;
        check_regular(&descriptor, &path)?;
        let flags = if is_direct { OFlags::DIRECT } else { OFlags::empty() };
        rustix::fs::fcntl_setfl(&descriptor, flags).map_err(&failed)?;
        if mode == OpenMode::ReadDirect && !is_direct {
            forget_cache(&descriptor).map_err(&failed)?;
        }
        Ok(descriptor)
    }
}

impl Directory for SystemDirectory {
    fn path(&self) -> &Path {
        &self.path
    }

    fn backend(&self) -> Backend {
        if let Some(backend) = self.for_writing.get() {
            return *backend;
        }
        let kind = self.kind_for_reading().unwrap_or(BackendKind::Pwrite);
        Backend { kind, direct: false }
    }

    fn subdirectory(&self, name: &str) -> Result<Arc<dyn Directory>, IoFailure> {
        let path = self.named("open of the directory", name)?;
        create_durably(&path)?;
        let directory = SystemDirectory::open_existing(path, self.wish)?;
        match self.for_writing.get() {
            Some(backend) if directory.device == self.device => {
                directory.for_writing.get_or_init(|| *backend);
            }
            Some(_) => {
                directory.backend_for_writing()?;
            }
            None => {}
        }
        Ok(Arc::new(directory))
    }

    fn list(&self) -> Result<Vec<String>, IoFailure> {
        let failed = failed("list", &self.path);
        // An open file of its own: where a listing is belongs to that.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let open = || rustix::fs::openat(&self.descriptor, c".", flags, Mode::empty());
        let own = retry_on_intr(open).map_err(&failed)?;
        let mut buffer = Vec::with_capacity(LISTED);
        let mut entries = RawDir::new(own, buffer.spare_capacity_mut());
        let (mut names, mut interruptions) = (Vec::new(), 0);
        while let Some(entry) = entries.next() {
            let entry = match entry {
                // As `retry_on_intr`, which cannot lend what it returns.
                Err(Errno::INTR) if interruptions < INTERRUPTIONS => {
                    interruptions += 1;
                    continue;
                }
                entry => entry.map_err(&failed)?,
            };
            let mut file_type = entry.file_type();
            if file_type == FileType::Unknown {
                let flags = AtFlags::SYMLINK_NOFOLLOW;
                match rustix::fs::statat(&self.descriptor, entry.file_name(), flags) {
                    Ok(stat) => file_type = FileType::from_raw_mode(stat.st_mode),
                    Err(Errno::NOENT) => continue,
                    Err(errno) => return Err(failed(errno)),
                }
            }
            if file_type == FileType::Directory {
                continue;
            }
            // A name that is not UTF-8 is a stranger's, and could not be opened by `&str`.
            if let Ok(name) = entry.file_name().to_str() {
                names.push(name.to_owned());
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn open(&self, name: &str, mode: OpenMode) -> Result<Arc<dyn File>, IoFailure> {
        let descriptor = self.open_descriptor(name, mode)?;
        Ok(Arc::new(SystemFile::new(self.path.join(name), descriptor)))
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), IoFailure> {
        let path = self.named("rename", from)?;
        self.named("rename", to)?;
        rustix::fs::renameat(&self.descriptor, from, &self.descriptor, to)
            .map_err(failed("rename", &path))
    }

    fn unlink(&self, name: &str) -> Result<(), IoFailure> {
        let path = self.named("unlink", name)?;
        rustix::fs::unlinkat(&self.descriptor, name, AtFlags::empty())
            .map_err(failed("unlink", &path))
    }

    fn sync(&self) -> Result<(), IoFailure> {
        rustix::fs::fsync(&self.descriptor).map_err(failed("sync of the directory", &self.path))
    }

    fn lock(&self, name: &str, holder: &str) -> Result<Result<Box<dyn Lock>, String>, IoFailure> {
        let path = self.named("lock", name)?;
        let taken = DirectoryLock::take(self.descriptor.as_fd(), name, path, holder)?;
        Ok(taken.map(|lock| -> Box<dyn Lock> { Box::new(lock) }))
    }

    fn channel(&self) -> Result<Box<dyn Channel>, IoFailure> {
        let may = self.wish.choice == BackendChoice::Auto;
        probe::channel(&self.path, self.kind_for_reading()?, may.then_some(&self.pace))
    }

    fn ring_bypassed(&self) -> u64 {
        self.pace.bypassed()
    }

    fn free_bytes(&self) -> Result<u64, IoFailure> {
        let stat = rustix::fs::fstatvfs(&self.descriptor).map_err(failed("statvfs", &self.path))?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    fn new_page(&self) -> Option<(SharedPage, String)> {
        let page = SharedPage::new().ok()?;
        let address = page.address();
        Some((page, address))
    }

    fn open_page(&self, address: &str) -> Option<PageView> {
        PageView::open(address).ok()
    }

    fn overwrites_in_place(&self) -> bool {
        // A file system that does not say what it is gets the careful answer.
        rustix::fs::fstatfs(&self.descriptor).is_ok_and(|stat| !moves_or_forgets(stat.f_type))
    }
}

/// Whether this is the magic number of a file system that writes to new places, or to none.
#[allow(clippy::useless_conversion, reason = "on other machines the number is narrower")]
fn moves_or_forgets(magic: rustix::fs::FsWord) -> bool {
    // The kernel's numbers have 32 bits; the field may be signed.
    let magic = i64::from(magic) & 0xFFFF_FFFF;
    [
        0x9123_683E, // btrfs
        0x2FC1_2FC1, // ZFS
        0xCA45_1A4E, // bcachefs
        0x3434,      // NILFS
        0xF2F5_2010, // F2FS
        0x0102_1994, // tmpfs
        0x8584_58F6, // ramfs
    ]
    .contains(&magic)
}

fn failed(operation: &'static str, path: &Path) -> impl Fn(Errno) -> IoFailure {
    move |errno| IoFailure::from_errno(operation, path, errno.raw_os_error())
}

fn open_directory(path: &Path, access: OFlags) -> Result<OwnedFd, Errno> {
    let flags = access | OFlags::DIRECTORY | OFlags::CLOEXEC;
    retry_on_intr(|| rustix::fs::openat(CWD, path, flags, Mode::empty()))
}

fn check_regular(descriptor: &OwnedFd, path: &Path) -> Result<(), IoFailure> {
    let stat = rustix::fs::fstat(descriptor).map_err(failed("stat", path))?;
    let file_type = FileType::from_raw_mode(stat.st_mode);
    if file_type == FileType::RegularFile {
        return Ok(());
    }
    if file_type == FileType::Directory {
        return Err(IoFailure::from_errno("open", path, libc::EISDIR));
    }
    let error = std::io::Error::from(std::io::ErrorKind::Unsupported);
    Err(IoFailure::new("open as a regular file", path, &error))
}

/// Makes the next reads come from the device as well as it can be had without `O_DIRECT`: dirty
/// pages would survive the advice, so they are written first.
fn forget_cache(descriptor: &OwnedFd) -> Result<(), Errno> {
    rustix::fs::fdatasync(descriptor)?;
    rustix::fs::fadvise(descriptor, 0, None, Advice::DontNeed)
}

/// Makes a directory and its missing parents, durably (DIR-1). `path` is absolute.
fn create_durably(path: &Path) -> Result<(), IoFailure> {
    let mut missing = Vec::new();
    let mut existing = path;
    loop {
        match rustix::fs::stat(existing) {
            Ok(_) => break,
            Err(Errno::NOENT) => missing.push(existing),
            Err(errno) => return Err(failed("open of the directory", existing)(errno)),
        }
        let Some(parent) = existing.parent() else { break };
        existing = parent;
    }
    if let Some(parent) = existing.parent() {
        match sync_directory(parent) {
            // Not ours: whoever may not even read it has not made anything in it just now, and
            // a pseudo file system has nothing to sync.
            Ok(()) | Err(Errno::ACCESS | Errno::PERM | Errno::INVAL | Errno::ROFS) => {}
            Err(errno) => return Err(failed("sync of the directory", parent)(errno)),
        }
    }
    for made in missing.into_iter().rev() {
        let parent = made.parent().unwrap_or(made);
        match rustix::fs::mkdir(made, Mode::from_raw_mode(0o777)) {
            // Made by someone else at the same time: equally in need of a sync.
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(failed("creation of the directory", made)(errno)),
        }
        sync_directory(made).map_err(failed("sync of the directory", made))?;
        sync_directory(parent).map_err(failed("sync of the directory", parent))?;
    }
    Ok(())
}

fn sync_directory(path: &Path) -> Result<(), Errno> {
    let descriptor = open_directory(path, OFlags::RDONLY)?;
    rustix::fs::fsync(&descriptor)
}
