//! The headers behind a hole: which of them may be where the log goes on.
//!
//! BEHIND-1: what a later opening dropped is never among them. BEHIND-2: at most [`HELD`] are held
//! at a time; the rest is read again when it is their turn.

use std::collections::{BTreeMap, VecDeque};

use super::survey::scan_behind;
use super::walk::{Device, Segments, Walked};
use crate::error::Result;
use crate::ids::{Epoch, Lsn, Position};
use crate::wal::frame::FrameHeader;

/// How many headers are held at a time: some 10 MiB.
const HELD: usize = if cfg!(test) { 3 } else { 64 * 1024 };

/// What was found behind a hole.
#[derive(Debug, Default)]
pub(super) struct Behind {
    /// Those that may come next in the log, in their order.
    held: VecDeque<FrameHeader>,
    /// The last one that was held, and whether there were more.
    last: Position,
    more: bool,
    /// The lowest first LSN of each epoch.
    lowest: BTreeMap<Epoch, Lsn>,
    /// Behind the highest record that any of them names.
    pub(super) named: Lsn,
}

impl Behind {
    /// Takes a header; they come in the order of their positions.
    pub(super) fn add(&mut self, header: &FrameHeader, walked: &Walked) {
        let lowest = self.lowest.entry(header.epoch).or_insert(header.first_lsn);
        *lowest = header.first_lsn.min(*lowest);
        if header.epoch >= walked.epoch() {
            self.named = self.named.max(header.next_lsn());
        }
        self.hold(header, walked);
    }

    fn hold(&mut self, header: &FrameHeader, walked: &Walked) {
        let own =
            walked.last.is_none_or(|last| last.epoch != header.epoch || last.nonce == header.nonce);
        let follows = header.epoch >= walked.epoch() && header.first_lsn >= walked.next_lsn();
        if !own || !follows || header.position <= self.last {
            return;
        }
        if self.held.len() == HELD {
            self.more = true;
        } else if !self.more {
            self.held.push_back(*header);
        }
    }

    /// The highest epoch.
    pub(super) fn highest(&self) -> Epoch {
        self.lowest.keys().next_back().copied().unwrap_or_default()
    }

    /// Whether an opening that came later wrote other records in this one's place: it had dropped
    /// it.
    pub(super) fn dropped(&self, header: &FrameHeader) -> bool {
        let mut later = self.lowest.range(header.epoch.next()..);
        later.any(|(_, first)| *first <= header.first_lsn)
    }

    /// The next one.
    ///
    /// # Errors
    /// `Io`.
    pub(super) fn next(
        &mut self,
        device: &mut Device<'_>,
        segments: &Segments,
        walked: &Walked,
    ) -> Result<Option<FrameHeader>> {
        if self.held.is_empty() && self.more {
            self.more = false;
            scan_behind(device, segments, walked, |header| self.hold(header, walked))?;
        }
        let next = self.held.pop_front();
        self.last = next.map_or(self.last, |header| header.position);
        Ok(next)
    }
}
