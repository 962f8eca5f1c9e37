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
}

impl FileIo {
    pub(super) fn new(directory: Arc<dyn Directory>) -> Result<FileIo> {
        let channel = directory.channel().map_err(failed)?;
        Ok(FileIo { directory, channel, buffer: None })
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

    pub(super) fn write(&mut self, file: &Arc<dyn File>, start: u64, bytes: &[u8]) -> Result<()> {
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

    pub(super) fn sync(&mut self, file: &Arc<dyn File>) -> Result<()> {
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
