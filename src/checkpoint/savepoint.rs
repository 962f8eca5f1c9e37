//! Savepoints: whole checkpoints under names of their own, each in one file that needs no other.
//!
//! SAVE-1: a savepoint's name is there only when all of its bytes are durable and were read back;
//! it is never written over, and goes only by [`Savepoints::remove`].
//! SAVE-2: a savepoint pins nothing but its own file: no record of a log, no checkpoint.

use std::io;
use std::path::PathBuf;

use super::Written;
use super::data_file::{self, DataFile, Look};
use super::fold::Fold;
use super::loaded::Loaded;
use super::manifest::Digest;
use super::pace::Pace;
use super::writer::Ends;
use crate::error::{Error, ErrorKind, Result};
use crate::planted::{Bug, planted};
use crate::storage::{Directory, Lock, OpenMode, files};
use crate::sync::Arc;

const END: &str = ".savepoint";
const LOCK: &str = "LOCK";
/// The longest name, in bytes.
const NAME_MAX: usize = 100;

/// The savepoints in one directory.
#[derive(Clone, Debug)]
pub struct Savepoints {
    directory: Arc<dyn Directory>,
    pace: Pace,
}

impl Savepoints {
    /// Those in a directory.
    #[must_use]
    pub fn new(directory: Arc<dyn Directory>) -> Savepoints {
        Savepoints { directory, pace: Pace::default() }
    }

    /// The same, whose writes let others have their turn on the device.
    pub(crate) fn paced(self, pace: Pace) -> Savepoints {
        Savepoints { pace, ..self }
    }

    /// Writes a checkpoint as a savepoint of this name, from its files. Durable and read back from
    /// the device when it returns.
    ///
    /// # Errors
    /// `Invalid` for a name that is taken or is none; `Locked` if somebody else writes here;
    /// `DiskFull`, `Io`, `Unreadable`, `Corrupt`: then there is no such savepoint, unless the last
    /// step failed, the directory's sync.
    pub fn write(&self, name: &str, loaded: Loaded) -> Result<Written> {
        let file = file_name(name)?;
        let _lock = self.lock()?;
        if self.directory.list()?.contains(&file) {
            let message = format!("there is a savepoint `{name}` already: remove it first");
            return Err(Error::new(ErrorKind::Invalid, message).at_path(self.path_of(&file)));
        }
        let temporary = format!("{file}.tmp");
        files::remove_if_there(&*self.directory, &temporary)?;
        let filled = self.fill(&temporary, Fold::of(loaded));
        let (checkpoint, digest) = match filled {
            Ok(filled) => filled,
            Err(error) => {
                // On a full disk its space is missed; the next write removes it, too.
                drop(files::remove_if_there(&*self.directory, &temporary));
                return Err(error);
            }
        };
        self.directory.rename(&temporary, &file)?;
        self.directory.sync()?;
        let (bytes, newest_bytes) = (digest.length, digest.length);
        Ok(Written { checkpoint, parent: None, bytes, newest_bytes, syncs: 2 })
    }

    /// Fills, reads back and syncs a file under its passing name.
    fn fill(&self, temporary: &str, fold: Fold) -> Result<(u64, Digest)> {
        let mut channel = self.pace.channel(self.directory.channel()?);
        let file = self.directory.open(temporary, OpenMode::CreateDirect)?;
        let back = self.directory.open(temporary, OpenMode::ReadDirect)?;
        let (meta, ends) = (fold.meta(), Ends { file: &file, back: &back });
        // No manifest names it, and it says nothing about any.
        let digest = fold.write(&mut *channel, ends, &meta, 0).map_err(|broken| broken.error)?;
        if !planted(Bug::SavepointNotSynced) {
            files::sync_data(&mut *channel, &file)?;
        }
        data_file::check_length(&file, &digest)?;
        Ok((meta.checkpoint, digest))
    }

    /// The names, sorted.
    ///
    /// # Errors
    /// The operating system's.
    pub fn list(&self) -> Result<Vec<String>> {
        let names = self.directory.list()?.into_iter();
        let known = names.filter_map(|name| {
            let stem = name.strip_suffix(END)?;
            file_name(stem).is_ok().then(|| stem.to_owned())
        });
        Ok(known.collect())
    }

    /// Opens a savepoint. With `whole` every byte is read and checked; without, every block is when
    /// it is read.
    ///
    /// # Errors
    /// `Invalid` if there is none of this name; `Corrupt`, `Unreadable`, `Unsupported`.
    pub fn open(&self, name: &str, whole: bool) -> Result<Loaded> {
        let file = file_name(name)?;
        if !self.directory.list()?.contains(&file) {
            let message = format!("there is no savepoint `{name}`");
            return Err(Error::new(ErrorKind::Invalid, message).at_path(self.directory.path()));
        }
        self.open_file(&file, if whole { Look::Whole } else { Look::Index })
    }

    /// As [`open`](Savepoints::open), of a file of any name: savepoints may be copied.
    pub(crate) fn open_file(&self, file: &str, look: Look) -> Result<Loaded> {
        let data = DataFile::read(&self.directory, file, |_, file| data_file::check_shape(file))?;
        let data = Arc::new(data);
        if data.meta.parent != 0 {
            let message = "this is a delta, which needs other files: no savepoint";
            return Err(Error::new(ErrorKind::Invalid, message).at_path(self.path_of(file)));
        }
        if look == Look::Whole {
            (0..data.extents.len()).try_for_each(|at| data.read_extent(at).map(drop))?;
        }
        Loaded::of(vec![data]).map_err(|broken| broken.error)
    }

    /// Bytes of a savepoint's file.
    ///
    /// # Errors
    /// The operating system's.
    pub fn bytes(&self, name: &str) -> Result<u64> {
        let file = self.directory.open(&file_name(name)?, OpenMode::Read)?;
        Ok(file.stamp()?.length)
    }

    /// Removes a savepoint, durably.
    ///
    /// # Errors
    /// `Invalid` if there is none of this name; `Locked`; the operating system's.
    pub fn remove(&self, name: &str) -> Result<()> {
        let file = file_name(name)?;
        let _lock = self.lock()?;
        match self.directory.unlink(&file) {
            Err(failure) if failure.kind() == io::ErrorKind::NotFound => {
                let message = format!("there is no savepoint `{name}`");
                Err(Error::new(ErrorKind::Invalid, message).at_path(self.directory.path()))
            }
            removed => Ok(removed.and_then(|()| self.directory.sync())?),
        }
    }

    fn path_of(&self, file: &str) -> PathBuf {
        self.directory.path().join(file)
    }

    fn lock(&self) -> Result<Box<dyn Lock>> {
        self.directory.lock(LOCK, "a savepoint is written or removed")?.map_err(|holder| {
            let message = format!("the savepoints are in use: {holder}");
            Error::new(ErrorKind::Locked, message).at_path(self.directory.path())
        })
    }
}

/// The file of a savepoint; names are those that every tool and file system takes.
pub(crate) fn file_name(name: &str) -> Result<String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let fits = (1..=NAME_MAX).contains(&name.len()) && !name.starts_with(['.', '-']);
    if fits && name.bytes().all(plain) {
        return Ok(format!("{name}{END}"));
    }
    let message = format!(
        "`{name}` is no name for a savepoint: 1 to {NAME_MAX} letters, digits, `.`, `_`, `-`, and \
         neither `.` nor `-` first"
    );
    Err(Error::new(ErrorKind::Invalid, message))
}

const _: () = assert!(NAME_MAX + END.len() + 4 < 256, "names fit a directory");
