//! What lies behind the place where the chain ends: does anything there say that records behind it
//! were acknowledged? (LOG.md L15)
//!
//! EVIDENCE-1: every block boundary to the end of the last segment is looked at, not only those
//! that the chain would reach.

use std::ops::ControlFlow;

use crate::error::{ErrorKind, Result};
use crate::ids::{Epoch, LogId, Lsn, Position, to_u64};
use crate::planted::{Bug, planted};
use crate::storage::BLOCK;
use crate::wal::frame::{FrameHeader, FrameKind};
use crate::wal::recovery::walk::{Device, Segments, Walked};
use crate::wal::scan;
use crate::wal::segment::{FIRST_FRAME, Segment};

/// How many headers behind the end are kept, to say where the log is intact again.
const BEHIND_MAX: usize = 1024;

/// What was found behind the end.
#[derive(Clone, Debug, Default)]
pub(super) struct Evidence {
    /// The highest epoch of any decodable header: the next one's must be above it (L16).
    pub(super) highest_epoch: Epoch,
    /// The highest LSN that a header says is durable, among those that count.
    pub(super) durable: Lsn,
    /// The first header of a later incarnation, other than its barrier: the barrier was durable
    /// before it was written, and it is not in the chain (L16).
    pub(super) later: Option<FrameHeader>,
    /// The first headers that count and start above the end of the chain, at most [`BEHIND_MAX`]:
    /// where frames may be intact again.
    pub(super) behind: Vec<FrameHeader>,
    /// How many decodable headers there are that do not come from an earlier incarnation.
    pub(super) frames: u64,
}

impl Evidence {
    pub(super) fn add(&mut self, header: &FrameHeader, walked: &Walked) {
        if !planted(Bug::EpochFromAccepted) {
            self.highest_epoch = self.highest_epoch.max(header.epoch);
        }
        // Frames of earlier incarnations are what an earlier recovery dropped.
        if header.epoch < walked.epoch() {
            return;
        }
        self.frames += 1;
        self.durable = self.durable.max(header.durable_lsn);
        if planted(Bug::ExistenceAttests) && header.first_lsn > walked.next_lsn() {
            self.durable = self.durable.max(header.first_lsn.previous());
        }
        if header.epoch > walked.epoch() && header.kind != FrameKind::Barrier {
            self.later.get_or_insert(*header);
        }
        let above = header.first_lsn >= walked.next_lsn() && header.position != walked.fault_at;
        if above && self.behind.len() < BEHIND_MAX {
            self.behind.push(*header);
        }
    }
}

/// Looks at every block boundary from the end of the chain to the end of the last segment.
///
/// # Errors
/// `Unreadable`: what cannot be read could be the evidence.
pub(super) fn search(
    device: &mut Device<'_>,
    segments: &Segments,
    walked: &Walked,
) -> Result<Evidence> {
    let mut evidence = Evidence::default();
    let end = walked.end.position;
    for (number, segment) in segments.range(end.segment..) {
        let offset = if *number == end.segment { end.offset } else { FIRST_FRAME };
        let found = each_header(device, segment, walked.end.log, offset, |header| {
            evidence.add(header, walked);
            ControlFlow::Continue(())
        });
        match found {
            Err(error)
                if error.kind() == ErrorKind::Unreadable && planted(Bug::ReadErrorIsTorn) => {}
            other => other?,
        }
    }
    Ok(evidence)
}

/// Calls `found` with each decodable header at a block boundary of the segment from `offset` on,
/// until it breaks.
///
/// # Errors
/// `Unreadable`.
pub(super) fn each_header(
    device: &mut Device<'_>,
    segment: &Segment,
    log: LogId,
    offset: u64,
    mut found: impl FnMut(&FrameHeader) -> ControlFlow<()>,
) -> Result<()> {
    let mut offset = offset;
    while offset < segment.size() {
        let bytes = device.window.load(device.channel, segment, offset, to_u64(BLOCK))?;
        let position = Position { segment: segment.number(), offset };
        for (header, _) in scan::headers(bytes, log, position) {
            if found(&header).is_break() {
                return Ok(());
            }
        }
        offset += to_u64(bytes.len());
    }
    Ok(())
}
