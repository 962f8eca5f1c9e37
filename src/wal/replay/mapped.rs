//! Sealed segments as memory, secured piece by piece before they are touched (LOG.md L20).
//!
//! MAPPED-1: no byte is touched before its range was populated: a file that was cut is an error
//! there, and the reader turns to reading the device, which says what is wrong.

use crate::ids::{SegmentNumber, to_usize};
use crate::sync::Arc;
use crate::wal::segment::{Segment, SegmentMap};

/// How much is populated at once, unless a frame is longer.
pub(super) const PIECE: usize = 256 * 1024;

/// The map of one sealed segment.
#[derive(Debug)]
pub(super) struct Mapped {
    segment: SegmentNumber,
    bytes: Arc<SegmentMap>,
    /// What may be touched ends here; what lies before was passed.
    secured: usize,
    piece: usize,
}

impl Mapped {
    /// Maps a segment; `None` if that is refused, also because the file is shorter than it was.
    pub(super) fn of(segment: &Segment, piece: usize) -> Option<Mapped> {
        let bytes = Arc::new(segment.map().ok()?);
        Some(Mapped { segment: segment.number(), bytes, secured: 0, piece })
    }

    pub(super) fn segment(&self) -> SegmentNumber {
        self.segment
    }

    pub(super) fn share(&self) -> Arc<SegmentMap> {
        Arc::clone(&self.bytes)
    }

    /// The bytes from `offset` on, of which `wanted` may be touched, fewer only at the end;
    /// `None` if they cannot be had this way. Offsets never fall.
    pub(super) fn secure(&mut self, offset: u64, wanted: u64) -> Option<&[u8]> {
        let start = to_usize(offset);
        let end = start.saturating_add(to_usize(wanted)).min(self.bytes.len());
        if end > self.secured {
            let from = start.max(self.secured);
            let most = end.max(start.saturating_add(self.piece)).min(self.bytes.len());
            self.bytes.populate(from..most).ok()?;
            self.secured = most;
        }
        self.bytes.get(start..end)
    }
}
