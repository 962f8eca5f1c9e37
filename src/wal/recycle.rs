//! What becomes of segments below the start: used again, or removed (LOG.md L17, L18). Why a
//! crash at any place is harmless is a table in `docs/recovery.md`, "Recycling".
//!
//! RECYCLE-1: a segment comes here only when the start above it is durable in both slots of `LOG`.
//! RECYCLE-2: bytes of a segment change only if nobody can see it: nobody here knows it, it has one
//! link, and the description that changes it holds byte 1 exclusively, which every reader in any
//! process holds shared.
//! RECYCLE-3: the header with the new number is durable before the file gets the new name, and the
//! name before the first frame goes in.
//! RECYCLE-4: at most `limit` files are kept to be used again.
//! RECYCLE-5: an error here takes nothing from the log: what could not be removed is tried again,
//! and at last removed by the next opening.
//! RECYCLE-6: what was not needed while [`IDLE`] segments were made, not even the last of it, is
//! removed by and by: what a busy moment left does not stay for ever.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use crate::clock::Clock;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{LogId, SegmentNumber};
use crate::planted::{Bug, planted};
use crate::storage::{Channel, File, IoFailure, LockKind, OpenMode};
use crate::sync::Arc;
use crate::wal::home::{Home, READ_BYTE};
use crate::wal::index::SegmentEntry;
use crate::wal::segment::{Segment, SegmentHeader, file_name};

/// How often, and how long apart, the lock of a renamed segment is tried: a request that has
/// completed may hold the description a little longer.
const LOCK_TRIES: u32 = 2000;
const LOCK_STEP: Duration = Duration::from_millis(1);

/// So many segments in a row that left a file over, and one fewer will do. If not, one in so many
/// is made anew.
const IDLE: u32 = 256;

/// A file that nobody can see, still under its old name, locked.
#[derive(Debug)]
struct Kept {
    number: SegmentNumber,
    file: Arc<dyn File>,
}

/// The files below the start.
#[derive(Debug)]
pub(crate) struct Recycler {
    home: Arc<Home>,
    limit: usize,
    size: u64,
    /// Somebody here still reads them, or their removal failed.
    given_up: Vec<Arc<Segment>>,
    kept: VecDeque<Kept>,
    reused: u64,
    /// Segments that were made one after the other and left a file over.
    idle: u32,
}

impl Recycler {
    /// Keeps up to `limit` files of `size` bytes; none where they are not worth it.
    pub(crate) fn new(home: Arc<Home>, limit: usize, size: u64) -> Recycler {
        let limit = if home.directory().overwrites_in_place() { limit } else { 0 };
        let (given_up, kept) = (Vec::new(), VecDeque::new());
        Recycler { home, limit, size, given_up, kept, reused: 0, idle: 0 }
    }

    /// Where the segments are.
    pub(crate) fn home(&self) -> &Arc<Home> {
        &self.home
    }

    /// Whether a file is there to be used again.
    pub(crate) fn has_kept(&self) -> bool {
        !self.kept.is_empty()
    }

    /// How many segments were made of kept files.
    #[cfg(test)]
    pub(crate) fn reused(&self) -> u64 {
        self.reused
    }

    /// Takes segments that lie below the durable start (RECYCLE-1).
    pub(crate) fn give_up(&mut self, entries: Vec<SegmentEntry>) {
        self.given_up.extend(entries.into_iter().map(|entry| entry.segment));
        self.sweep();
    }

    /// Keeps or removes what nobody here reads any more.
    pub(crate) fn sweep(&mut self) {
        let mut removed = false;
        for segment in std::mem::take(&mut self.given_up) {
            if !segment.is_alone() && !planted(Bug::RecycleShared) {
                self.given_up.push(segment);
                continue;
            }
            // What is kept open for the next reader has none any more.
            self.home.forget_before(segment.number().next());
            if let Some(file) = self.claim(segment.number()) {
                self.kept.push_back(Kept { number: segment.number(), file });
            } else if self.remove(segment.number()).is_ok() {
                removed = true;
            } else {
                self.given_up.push(segment);
            }
        }
        if removed {
            // Names that come back are below the start, and removed by the next opening.
            drop(self.home.directory().sync());
        }
    }

    /// The file, locked against everybody, if there is room for it and nobody can see it.
    fn claim(&self, number: SegmentNumber) -> Option<Arc<dyn File>> {
        if self.kept.len() >= self.limit {
            return None;
        }
        let file = self.home.directory().open(&file_name(number), OpenMode::WriteDirect).ok()?;
        if planted(Bug::RecycleShared) {
            return Some(file);
        }
        let stamp = file.stamp().ok()?;
        let locked = [0, READ_BYTE]
            .iter()
            .all(|byte| file.try_lock(*byte, LockKind::Exclusive).is_ok_and(|got| got));
        (stamp.length == self.size && stamp.links == 1 && locked).then_some(file)
    }

    fn remove(&self, number: SegmentNumber) -> Result<(), IoFailure> {
        match self.home.directory().unlink(&file_name(number)) {
            Err(failure) if failure.kind() != io::ErrorKind::NotFound => Err(failure),
            _ => Ok(()),
        }
    }

    /// Makes segment `number` of a kept file; `None` if there is none that can be used. When this
    /// returns a segment, a frame may go in (LOG.md L1).
    ///
    /// # Errors
    /// The operating system's, from the rename on. What is left is removed here or by the next
    /// opening.
    pub(crate) fn reuse(
        &mut self,
        log: LogId,
        number: SegmentNumber,
        channel: &mut dyn Channel,
        clock: &dyn Clock,
    ) -> Result<Option<Segment>> {
        self.sweep();
        let header = SegmentHeader { log, number, size: self.size };
        while let Some(kept) = self.kept.pop_front() {
            if self.rename(&kept, &header, channel).is_err() {
                // Another one may do, or a new one. This name is below the start.
                drop(self.remove(kept.number));
                continue;
            }
            drop(kept);
            match self.finish(&header, clock) {
                Ok(file) => {
                    self.reused += 1;
                    self.shrink();
                    return Ok(Some(Segment::opened(&self.home, &header, file)));
                }
                Err(error) => {
                    // As where a preparation fails: it holds no frame, and nothing names it.
                    drop(self.remove(number));
                    return Err(error);
                }
            }
        }
        self.idle = 0;
        Ok(None)
    }

    /// Removes a file that was long not needed (RECYCLE-6).
    fn shrink(&mut self) {
        self.idle = if self.kept.is_empty() { 0 } else { self.idle + 1 };
        if self.idle == IDLE {
            self.idle = 0;
            // As in `sweep`: a name that comes back is below the start.
            if let Some(kept) = self.kept.pop_back() {
                drop(self.remove(kept.number));
            }
        }
    }

    /// The new header first, durable, and then the new name (RECYCLE-3).
    fn rename(
        &self,
        kept: &Kept,
        header: &SegmentHeader,
        channel: &mut dyn Channel,
    ) -> Result<(), IoFailure> {
        // It may have got another name since it was kept.
        if kept.file.stamp()?.links != 1 && !planted(Bug::RecycleShared) {
            return Err(IoFailure::new(
                "recycling",
                kept.file.path(),
                &io::ErrorKind::Other.into(),
            ));
        }
        if self.home.directory().backend().direct {
            // What readers left in the page cache would cost each write over it; advice only.
            drop(kept.file.forget_cached());
        }
        header.write(&kept.file, channel)?;
        self.home.directory().rename(&file_name(kept.number), &file_name(header.number))
    }

    /// The durable name, and a description of that name that is locked as a writer's.
    fn finish(&self, header: &SegmentHeader, clock: &dyn Clock) -> Result<Arc<dyn File>> {
        let directory = self.home.directory();
        if !planted(Bug::NoDirectorySync) {
            directory.sync()?;
        }
        let file = directory.open(&file_name(header.number), OpenMode::WriteDirect)?;
        for _ in 0..LOCK_TRIES {
            if file.try_lock(0, LockKind::Exclusive)? {
                return Ok(file);
            }
            clock.sleep(LOCK_STEP);
        }
        let message = "a segment that was just recycled is locked by somebody else";
        Err(Error::new(ErrorKind::Locked, message).at_path(file.path()))
    }

    /// Removes what was kept, and what nobody here reads: the log is closed. What stays is removed
    /// by the next opening.
    pub(crate) fn clear(&mut self) {
        self.limit = 0;
        self.sweep();
        for kept in std::mem::take(&mut self.kept) {
            drop(self.remove(kept.number));
        }
    }
}
