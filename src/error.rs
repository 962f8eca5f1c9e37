//! The one public error: a small kind by what the caller can do, a sentence, and where.

use std::error::Error as StdError;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::ids::{Lsn, Position};

/// What sawmill's fallible calls return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What the caller can do about an [`Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// Another process or handle writes this directory. Wait for it, or stop it.
    Locked,
    /// This process is a fork of the one that opened the handle. Open it again in the child.
    Forked,
    /// A write or sync failed earlier: the handle does nothing more. Drop it and open it again.
    Poisoned,
    /// The handle was closed.
    Closed,
    /// No space for this append. Free some; the handle goes on by itself.
    DiskFull,
    /// There is no room at this moment. Nothing was appended: wait for room, or try again.
    WouldBlock,
    /// The deadline passed first. Nothing was appended.
    TimedOut,
    /// A producer sent a record that is stored and durable, so long ago that its LSN is not known
    /// any more. Nothing was appended, and nothing has to be done.
    Duplicate,
    /// A producer sent a record before the ones that come before it. Nothing was appended: send
    /// what is missing.
    SequenceGap,
    /// A producer with a higher epoch has taken over. Nothing was appended, nor will be.
    Fenced,
    /// The record, batch or option is over its limit. Nothing was written.
    TooLarge,
    /// Bytes that were acknowledged are damaged. Nothing was changed.
    Corrupt,
    /// A reader's position was cut off since: what it read is not the beginning of this log.
    Diverged {
        /// The last record that the reader and the log share; zero if none is known to be.
        last_good: Lsn,
    },
    /// Records that were damaged and given up by an explicit repair. The reader that says so goes
    /// on behind them: ask it for the next record.
    Lost,
    /// The medium refused to return bytes. Nothing was changed.
    Unreadable,
    /// Written by a newer version of sawmill, or not by sawmill at all.
    Unsupported,
    /// An option, argument or job definition is not valid.
    Invalid,
    /// A direct source's file is not what was read before.
    SourceChanged,
    /// A batch was computed again, with another result than the first time.
    OutputChanged,
    /// The job is not the one whose state the directory holds.
    JobMismatch,
    /// User code failed: an `Err`, or a panic, after its retries.
    TaskFailed,
    /// A sink failed, and still failed after its retries.
    SinkFailed,
    /// The operating system refused, outside the commit path.
    Io,
}

/// An error of sawmill: its [`kind`](Error::kind) says what the caller can do, its text says what
/// happened and where, [`source`](StdError::source) says why. Cheap to clone.
///
/// ```
/// use sawmill::{ErrorKind, Wal, WalOptions};
/// let error = Wal::open("/proc/no/such/place", WalOptions::default()).unwrap_err();
/// assert_eq!(error.kind(), ErrorKind::Io);
/// ```
#[derive(Clone)]
pub struct Error(Arc<Inner>);

struct Inner {
    kind: ErrorKind,
    message: String,
    path: Option<PathBuf>,
    position: Option<Position>,
    lsns: Option<(Lsn, Lsn)>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// An error of this kind; `message` is a sentence that says what happened and what to do. For
    /// those who write sources, sinks and closures of their own: `Io` may pass and is attempted
    /// again, `TaskFailed` is user code that failed.
    ///
    /// ```
    /// use sawmill::{Error, ErrorKind};
    /// let error = Error::new(ErrorKind::TaskFailed, "the partition has no header");
    /// assert_eq!(error.to_string(), "the partition has no header");
    /// ```
    #[must_use]
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Error {
        Error(Arc::new(Inner {
            kind,
            message: message.into(),
            path: None,
            position: None,
            lsns: None,
            source: None,
        }))
    }

    fn edit(mut self, change: impl FnOnce(&mut Inner)) -> Error {
        match Arc::get_mut(&mut self.0) {
            Some(inner) => change(inner),
            None => debug_assert!(false, "errors are completed before they are shared"),
        }
        self
    }

    /// Names the file or directory.
    pub(crate) fn at_path(self, path: impl AsRef<Path>) -> Error {
        self.edit(|inner| inner.path = Some(path.as_ref().to_owned()))
    }

    /// Names the place in the log.
    pub(crate) fn at_position(self, position: Position) -> Error {
        self.edit(|inner| inner.position = Some(position))
    }

    /// Names the records concerned, both ends included.
    pub(crate) fn for_lsns(self, first: Lsn, last: Lsn) -> Error {
        self.edit(|inner| inner.lsns = Some((first, last)))
    }

    /// Names the cause.
    pub(crate) fn caused_by(self, source: impl StdError + Send + Sync + 'static) -> Error {
        self.edit(|inner| inner.source = Some(Box::new(source)))
    }

    /// What the caller can do.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The file or directory concerned.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        self.0.path.as_deref()
    }

    /// The place in the log concerned.
    #[must_use]
    pub fn position(&self) -> Option<Position> {
        self.0.position
    }

    /// The records concerned, both ends included.
    #[must_use]
    pub fn lsns(&self) -> Option<(Lsn, Lsn)> {
        self.0.lsns
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)?;
        if let Some((first, last)) = self.0.lsns {
            write!(f, " (records {first}..={last})")?;
        }
        match (&self.0.path, self.0.position) {
            (Some(path), Some(position)) => write!(f, " [{}, {position}]", path.display())?,
            (Some(path), None) => write!(f, " [{}]", path.display())?,
            (None, Some(position)) => write!(f, " [{position}]")?,
            (None, None) => {}
        }
        match &self.0.source {
            Some(source) => write!(f, ": {source}"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Error({:?}: {self})", self.0.kind)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}
