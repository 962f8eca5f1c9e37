//! What a file operation failed with.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::error::{Error, ErrorKind};

/// A failed file operation: which one, on what, with which error number.
#[derive(Clone, Debug)]
pub struct IoFailure {
    operation: &'static str,
    path: PathBuf,
    offset: Option<u64>,
    errno: Option<i32>,
    kind: io::ErrorKind,
}

impl IoFailure {
    /// A failure with the operating system's error.
    pub fn new(operation: &'static str, path: impl AsRef<Path>, error: &io::Error) -> IoFailure {
        IoFailure {
            operation,
            path: path.as_ref().to_owned(),
            offset: None,
            errno: error.raw_os_error(),
            kind: error.kind(),
        }
    }

    /// A failure with an error number.
    pub fn from_errno(operation: &'static str, path: impl AsRef<Path>, errno: i32) -> IoFailure {
        IoFailure::new(operation, path, &io::Error::from_raw_os_error(errno))
    }

    /// Names the offset.
    #[must_use]
    pub fn at(mut self, offset: u64) -> IoFailure {
        self.offset = Some(offset);
        self
    }

    /// The operating system's error number, if it gave one.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        self.errno
    }

    /// The portable kind of error.
    #[must_use]
    pub fn kind(&self) -> io::ErrorKind {
        self.kind
    }

    /// The path concerned.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the disk, the quota or the file system had no room.
    #[must_use]
    pub fn is_disk_full(&self) -> bool {
        matches!(self.kind, io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }
}

impl fmt::Display for IoFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.operation, self.path.display())?;
        if let Some(offset) = self.offset {
            write!(f, " at offset {offset}")?;
        }
        match self.errno {
            Some(errno) => write!(f, ": {}", io::Error::from_raw_os_error(errno)),
            None => write!(f, ": {}", self.kind),
        }
    }
}

impl std::error::Error for IoFailure {}

impl From<IoFailure> for Error {
    fn from(failure: IoFailure) -> Error {
        let kind = if failure.is_disk_full() { ErrorKind::DiskFull } else { ErrorKind::Io };
        let path = failure.path.clone();
        Error::new(kind, format!("{} failed", failure.operation)).at_path(path).caused_by(failure)
    }
}
