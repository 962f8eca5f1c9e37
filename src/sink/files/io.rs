//! Reading and writing the files of one directory, a chunk at a time.

use crate::error::{Error, ErrorKind, Result};
use crate::ids::{to_u64, to_usize};
use crate::storage::{AlignedBuf, Channel, Completion, Directory, File, IoFailure, Op, OpenMode};
use crate::sync::Arc;

/// Bytes written at a time.
pub(super) const CHUNK: usize = 1 << 20;

/// A directory, and the way its bytes take.
#[derive(Debug)]
pub(super) struct FileIo {
    pub(super) directory: Arc<dyn Directory>,
    channel: Box<dyn Channel>,
    buffer: Option<AlignedBuf>,
    gathered: Option<Gathered>,
}

/// Bytes that were not written yet: a write each for what a partition has would be dozens.
#[derive(Debug)]
struct Gathered {
    file: Arc<dyn File>,
    /// Where they belong.
    start: u64,
    buffer: AlignedBuf,
}

impl FileIo {
    pub(super) fn new(directory: Arc<dyn Directory>) -> Result<FileIo> {
        let channel = directory.channel().map_err(failed)?;
        Ok(FileIo { directory, channel, buffer: None, gathered: None })
    }

    pub(super) fn error(&self, kind: ErrorKind, name: &str, text: &str) -> Error {
        Error::new(kind, text).at_path(self.directory.path().join(name))
    }

    pub(super) fn names(&self) -> Result<Vec<String>> {
        self.directory.list().map_err(failed)
    }

    pub(super) fn open(&self, name: &str, mode: OpenMode) -> Result<Arc<dyn File>> {
        self.directory.open(name, mode).map_err(failed)
    }

    pub(super) fn unlink(&self, name: &str) -> Result<()> {
        self.directory.unlink(name).map_err(failed)
    }

    /// Makes names durable.
    pub(super) fn sync_names(&self) -> Result<()> {
        self.directory.sync().map_err(failed)
    }

    /// Has a file of this name with these bytes, durably, in one step.
    pub(super) fn replace(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        let new = format!("{name}.new");
        if self.names()?.contains(&new) {
            self.unlink(&new)?;
        }
        let file = self.open(&new, OpenMode::Create)?;
        self.write(&file, 0, bytes)?;
        file.sync().map_err(failed)?;
        self.directory.rename(&new, name).map_err(failed)?;
        self.sync_names()
    }

    /// Writes bytes, all of them.
    pub(super) fn write(&mut self, file: &Arc<dyn File>, start: u64, bytes: &[u8]) -> Result<()> {
        self.append(file, start, bytes)?;
        self.flush()
    }

    /// Takes bytes that come behind those of the call before, if they are of the same file, and
    /// writes them by the chunk; the last ones at [`FileIo::sync`], which is to come before another
    /// file's bytes.
    pub(super) fn append(&mut self, file: &Arc<dyn File>, start: u64, bytes: &[u8]) -> Result<()> {
        let mut taken = 0;
        while taken < bytes.len() {
            let mut gathered = self.gathered.take().unwrap_or_else(|| {
                let mut buffer = self.buffer.take().unwrap_or_else(|| AlignedBuf::zeroed(CHUNK));
                buffer.set_len(0);
                Gathered { file: Arc::clone(file), start: start + to_u64(taken), buffer }
            });
            let length = gathered.buffer.len();
            assert_eq!(gathered.start + to_u64(length), start + to_u64(taken), "FILES: a gap");
            let more = (bytes.len() - taken).min(CHUNK - length);
            gathered.buffer.set_len(length + more);
            gathered.buffer[length..].copy_from_slice(&bytes[taken..taken + more]);
            taken += more;
            self.gathered = Some(gathered);
            if length + more == CHUNK {
                self.flush()?;
            }
        }
        Ok(())
    }

    /// Writes what was gathered. If that fails, it is forgotten.
    fn flush(&mut self) -> Result<()> {
        let Some(Gathered { file, mut start, mut buffer }) = self.gathered.take() else {
            return Ok(());
        };
        loop {
            let length = buffer.len();
            let op = Op::Write { file: Arc::clone(&file), offset: start, buffer, durable: false };
            // A short write is not an error by itself: what is missing is written next, or refused.
            let moved = self.finish(op).map_err(failed)?;
            if moved >= length {
                return Ok(());
            }
            let Some(back) = self.buffer.take().filter(|_| moved > 0) else {
                let text = "an output file took no more bytes";
                return Err(Error::new(ErrorKind::SinkFailed, text).at_path(file.path()));
            };
            buffer = back;
            buffer.copy_within(moved..length, 0);
            buffer.set_len(length - moved);
            start += to_u64(moved);
        }
    }

    /// Forgets what was gathered.
    pub(super) fn forget(&mut self) {
        self.gathered = None;
    }

    /// Has what the file was given on stable storage.
    pub(super) fn sync(&mut self, file: &Arc<dyn File>) -> Result<()> {
        self.flush()?;
        self.finish(Op::Sync { file: Arc::clone(file) }).map(|_| ()).map_err(failed)
    }

    /// Reads the first `length` bytes.
    pub(super) fn read(
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

    /// All bytes of a small file, at most `CHUNK` of them.
    pub(super) fn read_small(&mut self, name: &str) -> Result<Vec<u8>> {
        let file = self.open(name, OpenMode::Read)?;
        let length = file.stamp().map_err(failed)?.length.min(to_u64(CHUNK));
        self.read_all(&file, length)
    }

    pub(super) fn read_all(&mut self, file: &Arc<dyn File>, length: u64) -> Result<Vec<u8>> {
        let mut all = Vec::new();
        self.read(file, length, |bytes| all.extend_from_slice(bytes))?;
        Ok(all)
    }

    /// Runs an operation and keeps its buffer.
    fn finish(&mut self, op: Op) -> Result<usize, IoFailure> {
        let Completion { buffer, result, .. } = self.channel.run(op);
        self.buffer = buffer.or_else(|| self.buffer.take());
        result
    }
}

/// A sink's error of the storage's.
pub(super) fn failed(failure: IoFailure) -> Error {
    let kind = if failure.is_disk_full() { ErrorKind::DiskFull } else { ErrorKind::SinkFailed };
    let text = "the file sink could not do its work; nothing of the batch counts yet";
    Error::new(kind, text).at_path(failure.path()).caused_by(failure)
}
