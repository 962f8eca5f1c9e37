//! The files behind the JSON-lines sink: written at known lengths, cut back to known lengths.
//!
//! PARTS-1: bytes at and behind the length in the progress belong to no completed batch, and are
//! written or cut at will; bytes before it are never touched again.
//! PARTS-2: when `publish` returns, what it wrote is durable, with the names of the files.
//! PARTS-3: a directory holds the part files of one sink, and says whose (ENGINE.md E5).

use std::path::Path;

use memchr::memchr;

use super::SinkIdentity;
use super::progress::{FileMark, Progress};
use crate::checksum::{crc32c, crc32c_append};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{BatchId, to_u64, to_usize};
use crate::planted::{Bug, planted};
use crate::storage::{
    AlignedBuf, Channel, Completion, Directory, File, IoFailure, Op, OpenMode, Storage,
};
use crate::sync::Arc;

/// Bytes written at a time.
const CHUNK: usize = 1 << 20;

/// Says whose files these are.
const IDENTITY: &str = "_sink";
const IDENTITY_NEW: &str = "_sink.new";

fn file_name(number: u64) -> String {
    format!("part-{number:06}.jsonl")
}

fn file_number(name: &str) -> Option<u64> {
    let number = name.strip_prefix("part-")?.strip_suffix(".jsonl")?.parse().ok()?;
    (file_name(number) == name).then_some(number)
}

/// The part files of one sink.
#[derive(Debug)]
pub(super) struct LineFiles {
    directory: Arc<dyn Directory>,
    channel: Box<dyn Channel>,
    buffer: Option<AlignedBuf>,
    progress: Progress,
    /// The open file of the progress, if it has one.
    file: Option<Arc<dyn File>>,
    roll_bytes: u64,
    /// A publication failed: what lies behind the progress is not known.
    doubtful: bool,
}

impl LineFiles {
    /// Opens the directory, and undoes what is not in `progress`.
    pub(super) fn open(
        storage: &Arc<dyn Storage>,
        path: &Path,
        identity: &SinkIdentity,
        progress: Progress,
        roll_bytes: u64,
    ) -> Result<LineFiles> {
        let directory = storage.directory(path, true).map_err(failed)?;
        let channel = directory.channel().map_err(failed)?;
        let mut files = LineFiles {
            directory,
            channel,
            buffer: None,
            progress,
            file: None,
            roll_bytes,
            doubtful: true,
        };
        files.claim(identity)?;
        files.cut_back()?;
        Ok(files)
    }

    fn error(&self, kind: ErrorKind, name: &str, text: &str) -> Error {
        Error::new(kind, text).at_path(self.directory.path().join(name))
    }

    /// Checks whose directory this is, and makes a new one ours (PARTS-3).
    fn claim(&mut self, identity: &SinkIdentity) -> Result<()> {
        let names = self.directory.list().map_err(failed)?;
        let ours = format!("{identity}\n");
        if names.iter().any(|name| name == IDENTITY) {
            let file = self.directory.open(IDENTITY, OpenMode::Read).map_err(failed)?;
            let length = file.stamp().map_err(failed)?.length.min(to_u64(CHUNK));
            let mut found = Vec::new();
            self.read(&file, length, |bytes| found.extend_from_slice(bytes))?;
            if found != ours.as_bytes() {
                let text = format!(
                    "the directory belongs to another sink ({}), not to this one ({identity})",
                    String::from_utf8_lossy(&found).trim_end()
                );
                return Err(self.error(ErrorKind::JobMismatch, IDENTITY, &text));
            }
            if self.progress.files().next().is_some() {
                return Ok(());
            }
            // Seen is not durable: an earlier opening may have failed at its sync, and what that
            // forgot no later one makes good. So it is written again, until files count.
        } else if let Some(name) = names.iter().find(|name| file_number(name).is_some()) {
            let text = "the directory has an output file, and no note whose it is: \
                        give the sink a directory of its own";
            return Err(self.error(ErrorKind::JobMismatch, name, text));
        }
        if names.iter().any(|name| name == IDENTITY_NEW) {
            self.directory.unlink(IDENTITY_NEW).map_err(failed)?;
        }
        let file = self.directory.open(IDENTITY_NEW, OpenMode::Create).map_err(failed)?;
        self.write(&file, 0, ours.as_bytes())?;
        file.sync().map_err(failed)?;
        self.directory.rename(IDENTITY_NEW, IDENTITY).map_err(failed)?;
        self.directory.sync().map_err(failed)
    }

    /// Undoes everything that is not in the progress.
    fn cut_back(&mut self) -> Result<()> {
        self.file = None;
        let names = self.directory.list().map_err(failed)?;
        let stray =
            |name: &&String| file_number(name).is_some_and(|number| !self.progress.counts(number));
        let mut removed = false;
        for name in names.iter().filter(stray) {
            if !planted(Bug::NoSinkCut) {
                self.directory.unlink(name).map_err(failed)?;
                removed = true;
            }
        }
        if removed {
            self.directory.sync().map_err(failed)?;
        }
        for mark in self.progress.finished.clone() {
            self.check_file(&mark, OpenMode::Read)?;
        }
        if let Some(mark) = self.progress.open.clone() {
            let file = self.check_file(&mark, OpenMode::Write)?;
            self.check_content(&file, &mark)?;
            self.cut_file(&file, &mark)?;
            self.file = Some(file);
        }
        self.doubtful = false;
        Ok(())
    }

    /// Opens a file of the progress; it must have the bytes that count.
    fn check_file(&self, mark: &FileMark, mode: OpenMode) -> Result<Arc<dyn File>> {
        let name = file_name(mark.number);
        let file = self.directory.open(&name, mode).map_err(|failure| {
            let text = "an output file that a completed batch wrote cannot be opened";
            self.error(ErrorKind::SinkFailed, &name, text).caused_by(failure)
        })?;
        let length = file.stamp().map_err(failed)?.length;
        if length < mark.length {
            let text = format!(
                "an output file has {length} bytes, less than the {} that completed batches wrote",
                mark.length
            );
            return Err(self.error(ErrorKind::SinkFailed, &name, &text));
        }
        let is_open = mode == OpenMode::Write;
        if !is_open && length > mark.length {
            let text = format!(
                "a finished output file has {length} bytes, more than the {} it was finished with",
                mark.length
            );
            return Err(self.error(ErrorKind::SinkFailed, &name, &text));
        }
        Ok(file)
    }

    fn check_content(&mut self, file: &Arc<dyn File>, mark: &FileMark) -> Result<()> {
        let mut crc = crc32c(b"");
        self.read(file, mark.length, |bytes| crc = crc32c_append(crc, bytes))?;
        if crc == mark.crc32c {
            return Ok(());
        }
        let text = "an output file was changed: it is not what completed batches wrote";
        Err(self.error(ErrorKind::SinkFailed, &file_name(mark.number), text))
    }

    fn cut_file(&mut self, file: &Arc<dyn File>, mark: &FileMark) -> Result<()> {
        let length = file.stamp().map_err(failed)?.length;
        if planted(Bug::NoSinkCut) {
            // As a sink would that opens its file to append.
            if let Some(open) = &mut self.progress.open {
                open.length = length;
            }
            return Ok(());
        }
        if length > mark.length {
            file.set_length(mark.length).map_err(failed)?;
        }
        // Also when nothing was cut: a sync that failed may have left the length not durable.
        file.sync().map_err(failed)
    }

    /// Publishes the lines of a batch, and returns the progress behind it.
    pub(super) fn publish(&mut self, batch: BatchId, parts: &[Vec<u8>]) -> Result<Vec<u8>> {
        if batch <= self.progress.last {
            return Ok(self.progress.encode());
        }
        if self.doubtful {
            self.cut_back()?;
        }
        self.doubtful = true;
        let mut next = self.progress.clone();
        next.last = batch;
        let created = self.append(&mut next, batch, parts)?;
        if created {
            self.directory.sync().map_err(failed)?;
        }
        self.progress = next;
        self.doubtful = false;
        Ok(self.progress.encode())
    }

    /// Writes and syncs; `true` if a file was created.
    fn append(&mut self, next: &mut Progress, batch: BatchId, parts: &[Vec<u8>]) -> Result<bool> {
        let (mut file, mut created, mut unsynced) = (self.file.take(), false, false);
        for part in parts {
            let mut rest = part.as_slice();
            while !rest.is_empty() {
                let number = next.next_number();
                let mark = next.open.get_or_insert_with(|| FileMark {
                    number,
                    length: 0,
                    crc32c: crc32c(b""),
                    first: batch,
                    last: batch,
                });
                let target = match &file {
                    Some(file) => file,
                    None => {
                        created = true;
                        let name = file_name(mark.number);
                        let made = self.directory.open(&name, OpenMode::Create);
                        file.insert(made.map_err(failed)?)
                    }
                };
                // Longer already if the files were to be longer when it was begun.
                let room = self.roll_bytes.saturating_sub(mark.length);
                let (now, later) = rest.split_at(lines_to(rest, room));
                let target = Arc::clone(target);
                self.write(&target, mark.length, now)?;
                unsynced = true;
                mark.length += to_u64(now.len());
                mark.crc32c = crc32c_append(mark.crc32c, now);
                mark.last = batch;
                if mark.length >= self.roll_bytes {
                    self.sync(&target)?;
                    unsynced = false;
                    next.finish();
                    file = None;
                }
                rest = later;
            }
        }
        if let Some(file) = file.as_ref().filter(|_| unsynced) {
            self.sync(file)?;
        }
        self.file = file;
        Ok(created)
    }

    fn write(&mut self, file: &Arc<dyn File>, start: u64, bytes: &[u8]) -> Result<()> {
        let mut written = 0;
        while written < bytes.len() {
            let mut buffer = self.buffer.take().unwrap_or_else(|| AlignedBuf::zeroed(CHUNK));
            let chunk = (bytes.len() - written).min(CHUNK);
            buffer.set_len(chunk);
            buffer.copy_from_slice(&bytes[written..written + chunk]);
            let (file, offset) = (Arc::clone(file), start + to_u64(written));
            let op = Op::Write { file: Arc::clone(&file), offset, buffer, durable: false };
            // A short write is not an error by itself: what is missing is written next, or refused.
            let moved = self.finish(op).map_err(failed)?;
            if moved == 0 {
                let text = "an output file took no more bytes";
                return Err(Error::new(ErrorKind::SinkFailed, text).at_path(file.path()));
            }
            written += moved;
        }
        Ok(())
    }

    fn sync(&mut self, file: &Arc<dyn File>) -> Result<()> {
        self.finish(Op::Sync { file: Arc::clone(file) }).map(|_| ()).map_err(failed)
    }

    /// Reads the first `length` bytes.
    fn read(
        &mut self,
        file: &Arc<dyn File>,
        length: u64,
        mut each: impl FnMut(&[u8]),
    ) -> Result<()> {
        let mut at = 0;
        while at < length {
            let mut buffer = self.buffer.take().unwrap_or_else(|| AlignedBuf::zeroed(CHUNK));
            buffer.set_len(to_usize(length - at).min(CHUNK));
            let op = Op::Read { file: Arc::clone(file), offset: at, buffer };
            let moved = self.finish(op).map_err(failed)?;
            let bytes = self.buffer.as_deref().and_then(|bytes| bytes.get(..moved));
            let bytes = bytes.unwrap_or_default();
            if bytes.is_empty() {
                let text = "an output file was cut while it was read";
                return Err(Error::new(ErrorKind::SinkFailed, text).at_path(file.path()));
            }
            each(bytes);
            at += to_u64(bytes.len());
        }
        Ok(())
    }

    /// Runs an operation and keeps its buffer.
    fn finish(&mut self, op: Op) -> Result<usize, IoFailure> {
        let Completion { buffer, result, .. } = self.channel.run(op);
        self.buffer = buffer.or_else(|| self.buffer.take());
        result
    }
}

/// How many bytes go into a file with this much room: all that fit, or up to the end of the line
/// that reaches the limit.
fn lines_to(bytes: &[u8], room: u64) -> usize {
    match usize::try_from(room) {
        Ok(room) if room < bytes.len() => {
            let from = room.saturating_sub(1);
            memchr(b'\n', &bytes[from..]).map_or(bytes.len(), |at| from + at + 1)
        }
        _ => bytes.len(),
    }
}

/// A sink's error of the storage's.
fn failed(failure: IoFailure) -> Error {
    let kind = if failure.is_disk_full() { ErrorKind::DiskFull } else { ErrorKind::SinkFailed };
    let text = "the file sink could not do its work; nothing of the batch counts yet";
    Error::new(kind, text).at_path(failure.path()).caused_by(failure)
}
