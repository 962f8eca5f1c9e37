//! Opening and reading the files that users name.
//!
//! FILES-1: bytes of files that others may truncate are read into memory of ours, never mapped.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use crate::error::{Error, ErrorKind, Result};
use crate::ids::to_u64;
use crate::storage::{
    AlignedBuf, Channel, Directory, File, FileStamp, IoFailure, Op, OpenMode, Storage,
};
use crate::sync::{Arc, Mutex, lock};

/// Bytes read at a time: large enough that a system call does not count, small enough that what was
/// read is still in the second-level cache when it is looked at.
pub(super) const WINDOW: usize = 256 * 1024;

/// Directories kept open. Opening one costs some system calls and a probe of the backend.
const MAX_PLACES: usize = 64;

/// Readers kept for reuse in one directory.
const MAX_IDLE: usize = 16;

/// The way to files: directories and readers are kept from one use to the next.
#[derive(Debug)]
pub(super) struct Files {
    storage: Arc<dyn Storage>,
    places: Mutex<BTreeMap<PathBuf, Place>>,
}

#[derive(Debug)]
struct Place {
    directory: Arc<dyn Directory>,
    idle: Vec<Reader>,
}

#[derive(Debug)]
struct Reader {
    channel: Box<dyn Channel>,
    buffer: Option<AlignedBuf>,
}

/// An open file with a reader of its own.
#[derive(Debug)]
pub(super) struct OpenFile<'f> {
    files: &'f Files,
    place: PathBuf,
    file: Arc<dyn File>,
    reader: Option<Reader>,
}

impl Files {
    pub(super) fn new(storage: &Arc<dyn Storage>) -> Files {
        Files { storage: Arc::clone(storage), places: Mutex::default() }
    }

    /// Whether files are opened there.
    pub(super) fn are_in(&self, storage: &Arc<dyn Storage>) -> bool {
        Arc::ptr_eq(&self.storage, storage)
    }

    /// Opens an existing regular file.
    pub(super) fn open(&self, path: &Path) -> Result<OpenFile<'_>, IoFailure> {
        let invalid =
            |text| IoFailure::new("open", path, &io::Error::new(io::ErrorKind::IsADirectory, text));
        let name = path.file_name().ok_or_else(|| invalid("no file name"))?;
        let name = name.to_str().ok_or_else(|| invalid("not UTF-8"))?;
        // `a/` names what is in `a`, and `Path::file_name` would forget the slash.
        if path.as_os_str().as_encoded_bytes().ends_with(b"/") {
            return Err(invalid("no file name"));
        }
        let place = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        let (directory, reader) = self.place(&place)?;
        let file = directory.open(name, OpenMode::Read)?;
        let reader = match reader {
            Some(reader) => reader,
            None => Reader { channel: directory.channel()?, buffer: None },
        };
        Ok(OpenFile { files: self, place, file, reader: Some(reader) })
    }

    /// Length and modification time of a file, without reading any of it.
    pub(super) fn stamp(&self, path: &Path) -> Result<FileStamp, IoFailure> {
        self.open(path)?.stamp()
    }

    fn place(&self, path: &Path) -> Result<(Arc<dyn Directory>, Option<Reader>), IoFailure> {
        if let Some(place) = lock(&self.places).get_mut(path) {
            return Ok((Arc::clone(&place.directory), place.idle.pop()));
        }
        let directory = self.storage.directory(path, false)?;
        let mut places = lock(&self.places);
        if places.len() >= MAX_PLACES {
            places.clear();
        }
        let place = Place { directory: Arc::clone(&directory), idle: Vec::new() };
        places.insert(path.to_owned(), place);
        Ok((directory, None))
    }
}

impl OpenFile<'_> {
    pub(super) fn stamp(&self) -> Result<FileStamp, IoFailure> {
        self.file.stamp()
    }

    /// Reads up to `length` bytes (at most [`WINDOW`]) at `offset`; none only at the end of the
    /// file.
    pub(super) fn read(&mut self, offset: u64, length: usize) -> Result<&[u8], IoFailure> {
        assert!(0 < length && length <= WINDOW, "FILES: read of {length} bytes");
        #[allow(clippy::expect_used, reason = "taken by drop only")]
        let reader = self.reader.as_mut().expect("an open file has a reader");
        let mut buffer = reader.buffer.take().unwrap_or_else(|| AlignedBuf::zeroed(WINDOW));
        buffer.set_len(length);
        let op = Op::Read { file: Arc::clone(&self.file), offset, buffer };
        let completion = reader.channel.run(op);
        reader.buffer = completion.buffer;
        let read = completion.result?;
        Ok(reader.buffer.as_deref().and_then(|bytes| bytes.get(..read)).unwrap_or_default())
    }

    /// Reads the bytes from `start` to `end` in windows. `false`: the file ends before.
    pub(super) fn scan(
        &mut self,
        start: u64,
        end: u64,
        mut each: impl FnMut(&[u8]),
    ) -> Result<bool, IoFailure> {
        let mut at = start;
        while at < end {
            let wanted = usize::try_from(end - at).map_or(WINDOW, |left| left.min(WINDOW));
            let bytes = self.read(at, wanted)?;
            if bytes.is_empty() {
                return Ok(false);
            }
            at += to_u64(bytes.len());
            each(bytes);
        }
        Ok(true)
    }
}

impl Drop for OpenFile<'_> {
    fn drop(&mut self) {
        let Some(reader) = self.reader.take() else { return };
        let mut places = lock(&self.files.places);
        if let Some(place) = places.get_mut(&self.place)
            && place.idle.len() < MAX_IDLE
        {
            place.idle.push(reader);
        }
    }
}

/// The error of a file that was named and cannot be an input.
#[allow(clippy::wildcard_enum_match_arm, reason = "the kinds of `io` are many, and grow")]
pub(super) fn not_an_input(path: &Path, failure: IoFailure) -> Error {
    let (kind, text) = match failure.kind() {
        io::ErrorKind::NotFound => (ErrorKind::Io, "the input file does not exist"),
        io::ErrorKind::PermissionDenied => (ErrorKind::Io, "the input file may not be read"),
        io::ErrorKind::IsADirectory => {
            (ErrorKind::Invalid, "the input is a directory: name the files in it")
        }
        io::ErrorKind::Unsupported => {
            (ErrorKind::Invalid, "the input is no regular file, and cannot be read twice")
        }
        _ => (ErrorKind::Io, "the input file cannot be opened"),
    };
    Error::new(kind, text).at_path(path).caused_by(failure)
}

/// The error of a file that could be opened before.
#[allow(clippy::wildcard_enum_match_arm, reason = "the kinds of `io` are many, and grow")]
pub(super) fn not_opened_again(path: &Path, failure: IoFailure) -> Error {
    let text = match failure.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => "is gone",
        io::ErrorKind::IsADirectory | io::ErrorKind::Unsupported => "is no regular file any more",
        _ => {
            let text = "an input file cannot be opened again";
            return Error::new(ErrorKind::Io, text).at_path(path).caused_by(failure);
        }
    };
    changed(path, text).caused_by(failure)
}

/// The error of a file that opened, and then refused a read.
pub(super) fn not_read(path: &Path, failure: IoFailure) -> Error {
    let text = "an input file cannot be read";
    Error::new(ErrorKind::Unreadable, text).at_path(path).caused_by(failure)
}

/// The error of a file that is not what it was.
pub(super) fn changed(path: &Path, how: &str) -> Error {
    let text = format!("an input file {how}: it was planned as final, and must stay as it was");
    Error::new(ErrorKind::SourceChanged, text).at_path(path)
}
