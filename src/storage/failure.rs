//! What a file operation failed with.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::error::{Error, ErrorKind};

/// How often a call is begun again that a signal has interrupted. More interruptions in a row than
/// any timer causes: then it is an error, and nobody waits for ever.
pub(super) const INTERRUPTIONS: u32 = 10_000;

/// Begins `call` again when a signal has interrupted it: then it has not happened.
pub(super) fn retry_on_intr<T>(
    mut call: impl FnMut() -> rustix::io::Result<T>,
) -> rustix::io::Result<T> {
    for _ in 0..INTERRUPTIONS {
        match call() {
            Err(rustix::io::Errno::INTR) => {}
            done => return done,
        }
    }
    call()
}

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

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::*;

    /// A call that is always interrupted was begun again for ever: whoever appended hung.
    #[test]
    fn what_is_always_interrupted_ends_with_an_error() {
        let mut calls = 0;
        let outcome: rustix::io::Result<()> = retry_on_intr(|| {
            calls += 1;
            Err(Errno::INTR)
        });
        assert_eq!((outcome, calls), (Err(Errno::INTR), INTERRUPTIONS + 1));
        calls = 0;
        let outcome = retry_on_intr(|| {
            calls += 1;
            if calls < 3 { Err(Errno::INTR) } else { Ok(calls) }
        });
        assert_eq!(outcome, Ok(3));
    }
}
