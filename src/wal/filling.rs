//! A new segment on its way: zeros are really written to its full length, piece by piece, so that
//! who makes it leaves the device, and what it holds, to others between two of them.

use crate::error::{Error, ErrorKind, Result};
use crate::ids::{to_u64, to_usize};
use crate::planted::{Bug, planted};
use crate::storage::{AlignedBuf, Channel, File, LockKind, OpenMode, files};
use crate::sync::Arc;
use crate::wal::home::Home;
use crate::wal::segment::{Segment, SegmentHeader, file_name, is_valid_size};
use crate::wal::transfer;

/// Bytes of a piece that appends should hardly notice.
const SMALL: usize = 256 * 1024;
/// Bytes of a piece for which somebody waits.
const LARGE: u64 = 8 << 20;

/// How the next piece is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    /// A small write: an append that meets it on its way to the device waits for no more.
    Gently,
    /// As fast as the device takes it: somebody waits for this segment.
    Quickly,
}

/// A file that becomes a segment. Dropping it leaves the file, which the next opening removes.
#[derive(Debug)]
pub(crate) struct Filling {
    home: Arc<Home>,
    header: SegmentHeader,
    file: Arc<dyn File>,
    /// Bytes that are written.
    done: u64,
    /// Zeros, while they are not on their way.
    zeros: Option<AlignedBuf>,
}

impl Filling {
    /// Makes the file.
    ///
    /// # Errors
    /// `DiskFull`, or what the operating system refused. Nothing is left of it then, or what the
    /// next opening removes.
    pub(crate) fn begin(home: &Arc<Home>, header: SegmentHeader) -> Result<Filling> {
        assert!(is_valid_size(header.size), "SEGMENT: sizes are checked where they come from");
        let file = home.directory().open(&file_name(header.number), OpenMode::CreateDirect)?;
        let mut filling = Filling { home: Arc::clone(home), header, file, done: 0, zeros: None };
        match filling.allocate() {
            Ok(()) => Ok(filling),
            Err(error) => {
                filling.give_up();
                Err(error)
            }
        }
    }

    fn allocate(&mut self) -> Result<()> {
        let (file, size) = (&self.file, self.header.size);
        if !file.try_lock(0, LockKind::Exclusive)? {
            let message = "a segment that was just created is locked by somebody else";
            return Err(Error::new(ErrorKind::Locked, message).at_path(file.path()));
        }
        // Where a write goes to a new place anyway, written zeros would be in vain.
        if !self.home.directory().overwrites_in_place() {
            file.allocate(size)?;
            self.done = size;
        } else if file.allocate_written(size)? {
            self.done = size;
        }
        Ok(())
    }

    /// Bytes that are written.
    pub(crate) fn done(&self) -> u64 {
        self.done
    }

    /// Whether every byte is written.
    pub(crate) fn is_full(&self) -> bool {
        self.done == self.header.size
    }

    /// Writes the next piece.
    ///
    /// # Errors
    /// `DiskFull`, or what the operating system refused: then it is to be given up.
    pub(crate) fn fill(&mut self, piece: Piece, channel: &mut dyn Channel) -> Result<()> {
        let left = self.header.size - self.done;
        if piece == Piece::Quickly {
            let to = self.done + left.min(LARGE);
            files::fill_zeros(channel, &self.file, self.done, to)?;
            self.done = to;
            return Ok(());
        }
        let room = SMALL.min(to_usize(self.header.size));
        let mut zeros = self.zeros.take().unwrap_or_else(|| AlignedBuf::zeroed(room));
        zeros.set_len(to_usize(left).min(zeros.capacity()));
        let length = to_u64(zeros.len());
        self.zeros = Some(transfer::write_all(channel, &self.file, self.done, zeros, false)?);
        self.done += length;
        Ok(())
    }

    /// Syncs the file, writes the header, and syncs the directory. When this returns, a frame may
    /// go in (LOG.md L1).
    ///
    /// # Errors
    /// As [`Filling::begin`].
    pub(crate) fn finish(self, channel: &mut dyn Channel) -> Result<Segment> {
        match self.seal(channel) {
            Ok(()) => Ok(Segment::opened(&self.home, &self.header, self.file)),
            Err(error) => {
                self.give_up();
                Err(error)
            }
        }
    }

    fn seal(&self, channel: &mut dyn Channel) -> Result<()> {
        self.file.sync()?;
        self.header.write(&self.file, channel)?;
        if !planted(Bug::NoDirectorySync) {
            self.home.directory().sync()?;
        }
        Ok(())
    }

    /// Removes the file: only to give the space back at once, the next opening would, too.
    pub(crate) fn give_up(self) {
        drop(self.home.directory().unlink(&file_name(self.header.number)));
    }
}
