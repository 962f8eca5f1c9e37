//! The only code that touches files: traits, and the backends behind them.
//!
//! [`Storage`] opens directories; a [`Directory`] opens files and makes names durable; a
//! [`Channel`] moves bytes. Whoever moves bytes gives the buffer away: an [`Op`] owns it, and only
//! its [`Completion`] hands it back, so that no one can touch or free what the kernel still reads.
//!
//! STORAGE-1: a buffer is owned by exactly one of caller, channel, completion.
//! STORAGE-2: a dropped channel first waits for what it has in flight.
//! STORAGE-3: no backend retries a failed write or sync; `EINTR`, `EAGAIN`, `EBUSY` of the waiting
//! call itself are not completions and are repeated, but not for ever.

pub(crate) mod buffer;
mod directory;
mod failure;
pub mod files;
mod lock;
mod mmap;
mod pace;
mod page;
mod posix;
mod probe;
mod pwrite;
pub(crate) mod staging_buffer;
pub(crate) mod staging_word;
mod uring;

use std::any::Any;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

pub use buffer::AlignedBuf;
pub use failure::IoFailure;
pub use lock::ForkWord;
pub use page::{PageView, SharedPage};
pub use posix::{BackendChoice, SystemStorage};

/// Bytes in a block: the alignment of frames, staging buffers and direct writes.
pub const BLOCK: usize = 4096;

/// How bytes reach the medium, as found by trying real operations when a directory is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Who carries the operations.
    pub kind: BackendKind,
    /// Whether writes pass by the page cache (`O_DIRECT`).
    pub direct: bool,
}

/// Who carries the operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BackendKind {
    /// io_uring.
    Uring,
    /// `pwritev2`, `preadv2`, `fdatasync`.
    Pwrite,
    /// The simulated disk.
    Simulated,
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            BackendKind::Uring => "io_uring",
            BackendKind::Pwrite => "pwrite",
            BackendKind::Simulated => "simulated",
        };
        let path = if self.direct { "direct" } else { "buffered" };
        write!(f, "{kind}+{path}")?;
        if cfg!(feature = "planted") {
            f.write_str(" (PLANTED BUGS COMPILED IN: NOT FOR DATA YOU NEED)")?;
        }
        Ok(())
    }
}

/// The root of the seam: where directories come from.
pub trait Storage: fmt::Debug + Send + Sync {
    /// Opens a directory. With `create`, makes it and its missing parents, and makes their names
    /// durable before it returns.
    ///
    /// # Errors
    /// The operating system's, with the path.
    fn directory(&self, path: &Path, create: bool) -> Result<Arc<dyn Directory>, IoFailure>;

    /// Sixteen random bytes.
    fn random(&self) -> [u8; 16];
}

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// An existing file, to read, through the page cache.
    Read,
    /// An existing file, to read from the device (`O_DIRECT` where there is any).
    ReadDirect,
    /// A new file, to read and write through the page cache. Fails if the name exists.
    Create,
    /// An existing file, to read and write through the page cache.
    Write,
    /// A new file, to read and write past the page cache where that works.
    CreateDirect,
    /// An existing file, to read and write past the page cache where that works.
    WriteDirect,
}

/// A directory: names, and their durability.
pub trait Directory: fmt::Debug + Send + Sync {
    /// The path, for messages.
    fn path(&self) -> &Path;
    /// How bytes reach the medium here. Where nothing was to be written yet: how they are read.
    fn backend(&self) -> Backend;
    /// A directory inside this one, made durable if it has to be made.
    ///
    /// # Errors
    /// The operating system's.
    fn subdirectory(&self, name: &str) -> Result<Arc<dyn Directory>, IoFailure>;
    /// The names of the files, sorted by bytes. Directories are left out, and names that are not
    /// UTF-8, which sawmill never gives.
    ///
    /// # Errors
    /// The operating system's.
    fn list(&self) -> Result<Vec<String>, IoFailure>;
    /// Opens a file by the mode's rules. A created name is durable only after [`Directory::sync`].
    ///
    /// # Errors
    /// The operating system's; a directory is refused with `EISDIR`.
    fn open(&self, name: &str, mode: OpenMode) -> Result<Arc<dyn File>, IoFailure>;
    /// Renames within the directory, replacing `to`. Durable only after [`Directory::sync`].
    ///
    /// # Errors
    /// The operating system's.
    fn rename(&self, from: &str, to: &str) -> Result<(), IoFailure>;
    /// Removes a name. Durable only after [`Directory::sync`].
    ///
    /// # Errors
    /// The operating system's.
    fn unlink(&self, name: &str) -> Result<(), IoFailure>;
    /// Makes the names durable as they stand.
    ///
    /// # Errors
    /// The operating system's. Never repeated.
    fn sync(&self) -> Result<(), IoFailure>;
    /// Takes the directory's lock: a file of this name, exclusively locked, that says `holder`.
    /// `Ok(Err(holder))` if somebody else has it. Never waits.
    ///
    /// # Errors
    /// The operating system's.
    fn lock(&self, name: &str, holder: &str) -> Result<Result<Box<dyn Lock>, String>, IoFailure>;
    /// A channel for files of this directory.
    ///
    /// # Errors
    /// The operating system's.
    fn channel(&self) -> Result<Box<dyn Channel>, IoFailure>;
    /// Bytes that an unprivileged writer can still allocate here.
    ///
    /// # Errors
    /// The operating system's.
    fn free_bytes(&self) -> Result<u64, IoFailure>;
    /// How many durable writes the channels of this directory have carried by a system call so
    /// far, because the ring was slow (see [`BackendChoice::Auto`]). By default none.
    fn ring_bypassed(&self) -> u64 {
        0
    }
    /// Whether somebody holds the lock of this name. Writes nothing and takes nothing. `false` if
    /// there is no such file.
    ///
    /// # Errors
    /// The operating system's.
    fn is_locked(&self, name: &str) -> Result<bool, IoFailure> {
        match self.open(name, OpenMode::Read) {
            Ok(file) => file.is_locked(0),
            Err(failure) if failure.kind() == std::io::ErrorKind::NotFound => Ok(false),
            Err(failure) => Err(failure),
        }
    }
    /// A page of memory by which readers in other processes are told how far a writer has come, and
    /// the address under which they find it; by default none.
    fn new_page(&self) -> Option<(SharedPage, String)> {
        None
    }
    /// The page with this address, if it is there; by default none.
    fn open_page(&self, address: &str) -> Option<PageView> {
        let _ = address;
        None
    }
    /// Whether a write over written bytes goes to the same place of the medium, so that a file
    /// that was written once is worth keeping. `false` on copy-on-write file systems and in memory.
    /// By default `true`.
    fn overwrites_in_place(&self) -> bool {
        true
    }
}

/// A directory's lock, held until dropped.
pub trait Lock: fmt::Debug + Send + Sync {
    /// Whether the lock's file is still the one that was locked (LOG.md L11).
    ///
    /// # Errors
    /// The operating system's.
    fn is_current(&self) -> Result<bool, IoFailure>;
}

/// What tells a file from another one or from its own past.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileStamp {
    /// Length in bytes.
    pub length: u64,
    /// Last modification, in nanoseconds since the Unix epoch.
    pub modified_ns: i64,
    /// Inode number.
    pub inode: u64,
    /// Number of hard links.
    pub links: u64,
}

/// An open file.
pub trait File: fmt::Debug + Send + Sync {
    /// The path, for messages.
    fn path(&self) -> &Path;
    /// Length, modification time, identity.
    ///
    /// # Errors
    /// The operating system's.
    fn stamp(&self) -> Result<FileStamp, IoFailure>;
    /// Reserves space for `length` bytes and makes the file that long. The bytes read as zeros,
    /// but are not written: write them before they are needed quickly. Never shortens.
    ///
    /// # Errors
    /// `ENOSPC` leaves the file as it was or shorter than asked.
    fn allocate(&self, length: u64) -> Result<(), IoFailure>;
    /// As [`File::allocate`]; `true` if the bytes are zeros that were really written, as some file
    /// systems do it faster than anybody else (`FALLOC_FL_WRITE_ZEROES`, Linux 6.17). Where that
    /// does not work, and by default: `allocate`, and `false`.
    ///
    /// # Errors
    /// As [`File::allocate`].
    fn allocate_written(&self, length: u64) -> Result<bool, IoFailure> {
        self.allocate(length)?;
        Ok(false)
    }
    /// Cuts or extends the file.
    ///
    /// # Errors
    /// The operating system's.
    fn set_length(&self, length: u64) -> Result<(), IoFailure>;
    /// Makes data and metadata durable, blocking (`fsync`). For cold paths; the commit path uses
    /// [`Op::Sync`].
    ///
    /// # Errors
    /// The operating system's. Never repeated.
    fn sync(&self) -> Result<(), IoFailure>;
    /// Lets go of what the page cache holds of the file, as far as nobody uses it: direct writes
    /// over cached bytes have to, page by page. Loses nothing. By default nothing is cached.
    ///
    /// # Errors
    /// The operating system's.
    fn forget_cached(&self) -> Result<(), IoFailure> {
        Ok(())
    }
    /// Maps the first `length` bytes read-only. Only for files that nobody changes any more.
    ///
    /// # Errors
    /// The operating system's; `UnexpectedEof` if the file is shorter.
    fn map(&self, length: u64) -> Result<Mapping, IoFailure>;
    /// Tries to lock one byte on this open file description, without waiting. `false`: somebody
    /// else holds it. Released when the last handle of the description goes, writes in flight
    /// included.
    ///
    /// # Errors
    /// The operating system's.
    fn try_lock(&self, byte: u64, kind: LockKind) -> Result<bool, IoFailure>;
    /// Whether another description holds this byte exclusively. Takes nothing. By default: nobody.
    ///
    /// # Errors
    /// The operating system's.
    fn is_locked(&self, byte: u64) -> Result<bool, IoFailure> {
        let _ = byte;
        Ok(false)
    }
    /// The backend's own type, for the backend's channels.
    fn as_any(&self) -> &dyn Any;
}

/// How a byte of a file is locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockKind {
    /// With others who share it.
    Shared,
    /// Alone.
    Exclusive,
}

/// An operation on its way to the medium. It owns its buffer until its completion.
#[derive(Debug)]
pub enum Op {
    /// Writes the buffer's bytes at `offset`. With `durable`, the completion means that these
    /// bytes (not others) are on stable storage.
    Write {
        /// The file.
        file: Arc<dyn File>,
        /// Byte offset; a multiple of [`BLOCK`] for direct files, as is the buffer's length.
        offset: u64,
        /// The bytes.
        buffer: AlignedBuf,
        /// Whether completion means durable (`RWF_DSYNC`).
        durable: bool,
    },
    /// Reads up to the buffer's length at `offset`; fewer bytes at the end of the file.
    Read {
        /// The file.
        file: Arc<dyn File>,
        /// Byte offset; a multiple of [`BLOCK`] for direct files, as is the buffer's length.
        offset: u64,
        /// Where the bytes go; its length is how many are wanted.
        buffer: AlignedBuf,
    },
    /// Makes every write of the file that completed before this was submitted durable
    /// (`fdatasync`).
    Sync {
        /// The file.
        file: Arc<dyn File>,
    },
}

/// What became of an [`Op`].
#[derive(Debug)]
pub struct Completion {
    /// What [`Channel::submit`] returned.
    pub token: u64,
    /// The operation's buffer, if it had one.
    pub buffer: Option<AlignedBuf>,
    /// Bytes moved. Fewer than asked is not an error here: the caller decides.
    pub result: Result<usize, IoFailure>,
}

/// A way for bytes: one per write slot, background thread or reader. Handed over, never shared.
pub trait Channel: fmt::Debug + Send {
    /// Starts an operation. Never fails: errors arrive as completions.
    fn submit(&mut self, op: Op) -> u64;
    /// Waits for the next completion, in whatever order they come. `None` if nothing is in flight.
    fn complete(&mut self) -> Option<Completion>;
    /// Has what was submitted begin, where submitting alone only notes it until
    /// [`Channel::complete`]. For who has something else to do before it waits. By default nothing.
    fn start(&mut self) {}
    /// How many operations are carried out beside one another. One, the default: each is carried
    /// out as it is submitted.
    fn depth(&self) -> usize {
        1
    }

    /// Submits one operation and waits for it. Only while nothing else is in flight.
    ///
    /// # Panics
    /// If another operation is in flight.
    fn run(&mut self, op: Op) -> Completion {
        let token = self.submit(op);
        match self.complete() {
            Some(completion) if completion.token == token => completion,
            _ => panic!("STORAGE: run() beside other operations in flight"),
        }
    }
}

/// Bytes of a file that nobody changes, readable until dropped.
pub struct Mapping(MappedBytes);

enum MappedBytes {
    /// And whether they count as held by the page cache.
    Owned(Box<[u8]>, bool),
    Mapped(memmap2::Mmap),
}

impl Mapping {
    /// A mapping whose bytes are in memory: for the simulated disk, and for files that are better
    /// read than mapped.
    #[must_use]
    pub fn from_bytes(bytes: Box<[u8]>) -> Mapping {
        Mapping(MappedBytes::Owned(bytes, true))
    }

    /// The same bytes, which the page cache is said not to hold: for the simulated disk.
    #[must_use]
    pub fn not_resident(mut self) -> Mapping {
        if let MappedBytes::Owned(_, resident) = &mut self.0 {
            *resident = false;
        }
        self
    }

    /// Brings `range` into memory and into this process's page tables, so that touching it does
    /// not have to ask the file any more. What lies beyond the bytes is left out.
    ///
    /// # Errors
    /// `EFAULT` if the file was cut meanwhile or cannot be read, where touching the bytes would
    /// raise a signal; `EINVAL` from Linux before 5.14. Read the file instead.
    pub fn populate(&self, range: std::ops::Range<usize>) -> std::io::Result<()> {
        let end = range.end.min(self.len());
        match &self.0 {
            MappedBytes::Mapped(map) if range.start < end => mmap::populate(map, range.start..end),
            MappedBytes::Mapped(_) | MappedBytes::Owned(..) => Ok(()),
        }
    }
}

impl Mapping {
    /// Whether the page cache holds the page at `at`, so that touching it asks no device. Where
    /// the kernel does not say: yes.
    #[must_use]
    pub fn is_resident(&self, at: usize) -> bool {
        match &self.0 {
            MappedBytes::Mapped(map) => mmap::is_resident(map, at),
            MappedBytes::Owned(_, resident) => *resident,
        }
    }
}

impl std::ops::Deref for Mapping {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        match &self.0 {
            MappedBytes::Owned(bytes, _) => bytes,
            MappedBytes::Mapped(map) => map,
        }
    }
}

impl fmt::Debug for Mapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Mapping({} bytes)", self.len())
    }
}
