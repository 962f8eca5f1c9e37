//! Where segments are, and the descriptions that readers left open for the next reader.
//!
//! HOME-1: a description that reads a sealed segment holds the shared lock of its byte 1
//! (LOG.md L18). HOME-2: at most [`READERS`] are kept that nobody uses.

use std::collections::VecDeque;

use crate::ids::SegmentNumber;
use crate::planted::{Bug, planted};
use crate::storage::{Directory, File, IoFailure, LockKind, OpenMode};
use crate::sync::{Arc, Mutex, lock};
use crate::wal::segment::file_name;

/// How many descriptions are kept for the next reader.
pub(crate) const READERS: usize = 8;
/// The byte that readers hold shared, and whoever recycles the segment exclusively.
pub(crate) const READ_BYTE: u64 = 1;

/// A log's directory, as its segments see it.
#[derive(Debug)]
pub(crate) struct Home {
    directory: Arc<dyn Directory>,
    /// The one used last at the back.
    readers: Mutex<VecDeque<(SegmentNumber, Arc<dyn File>)>>,
}

impl Home {
    /// The segments of this directory.
    pub(crate) fn new(directory: Arc<dyn Directory>) -> Arc<Home> {
        Arc::new(Home { directory, readers: Mutex::default() })
    }

    /// The directory.
    pub(crate) fn directory(&self) -> &Arc<dyn Directory> {
        &self.directory
    }

    /// A description to read a sealed segment through the page cache: a kept one, or a new one.
    ///
    /// # Errors
    /// The operating system's.
    pub(crate) fn reader(&self, number: SegmentNumber) -> Result<Arc<dyn File>, IoFailure> {
        let mut readers = lock(&self.readers);
        let kept = readers.iter().position(|(kept, _)| *kept == number);
        let (_, file) = match kept.and_then(|at| readers.remove(at)) {
            Some(kept) => kept,
            None => (number, self.open_to_read(number, OpenMode::Read)?),
        };
        if readers.len() == READERS {
            readers.pop_front();
        }
        readers.push_back((number, Arc::clone(&file)));
        Ok(file)
    }

    /// A new description to read a segment (HOME-1).
    ///
    /// # Errors
    /// The operating system's; `EAGAIN` if the segment is being recycled: it is below the start.
    pub(crate) fn open_to_read(
        &self,
        number: SegmentNumber,
        mode: OpenMode,
    ) -> Result<Arc<dyn File>, IoFailure> {
        let file = self.directory.open(&file_name(number), mode)?;
        if planted(Bug::ReaderUnlocked) || file.try_lock(READ_BYTE, LockKind::Shared)? {
            return Ok(file);
        }
        Err(IoFailure::from_errno("lock of byte 1", file.path(), EAGAIN))
    }

    /// Lets go of what is kept open of the segments before `number`.
    pub(crate) fn forget_before(&self, number: SegmentNumber) {
        lock(&self.readers).retain(|(kept, _)| *kept >= number);
    }
}

const EAGAIN: i32 = 11;
