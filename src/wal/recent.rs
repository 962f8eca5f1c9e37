//! The frames written last, kept in memory for tails that keep up (LOG.md L20).
//!
//! RECENT-1: nothing is kept while there is no tail. RECENT-2: what is kept, with what keeping it
//! takes, stays below [`RECENT_BYTES`]; a tail holds at most one frame besides. Who is too slow
//! reads the files.
//! RECENT-3: frames are kept as soon as they are written: who takes one out first asks whether it
//! is durable.

use std::collections::VecDeque;

use super::compress::unpack;
use super::frame::{FRAME_HEADER, FrameHeader, FrameKind};
use crate::ids::{Lsn, to_usize};
use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::sync::{Arc, Mutex, lock};

/// How many bytes are kept at most.
pub(crate) const RECENT_BYTES: usize = 4 * 1024 * 1024;
/// What an allocation takes besides its bytes: the allocator's word, two counters, rounding.
const ALLOCATED: usize = 32;

/// The records of one frame.
#[derive(Clone, Debug)]
pub(crate) struct RecentFrame {
    pub(crate) first: Lsn,
    /// The LSN behind the last one.
    pub(crate) next: Lsn,
    pub(crate) payload: Arc<[u8]>,
}

impl RecentFrame {
    /// Of memory. A small frame takes more besides its records than for them.
    fn bytes(&self) -> usize {
        size_of::<RecentFrame>() + ALLOCATED + self.payload.len()
    }
}

#[derive(Debug, Default)]
struct Kept {
    frames: VecDeque<RecentFrame>,
    bytes: usize,
}

/// The frames written last, in order.
#[derive(Debug, Default)]
pub(crate) struct Recent {
    tails: AtomicUsize,
    kept: Mutex<Kept>,
}

impl Recent {
    /// Takes note of a tail.
    pub(crate) fn join(&self) {
        self.tails.fetch_add(1, Ordering::Relaxed);
    }

    /// A tail has gone. The last one leaves nothing behind.
    pub(crate) fn leave(&self) {
        if self.tails.fetch_sub(1, Ordering::Relaxed) == 1 {
            *lock(&self.kept) = Kept::default();
        }
    }

    /// A copy of a frame that was written, if anybody may want it.
    pub(crate) fn copy(&self, header: &FrameHeader, frame: &[u8]) -> Option<RecentFrame> {
        if self.tails.load(Ordering::Relaxed) == 0 || header.kind != FrameKind::Records {
            return None;
        }
        let length = to_usize(u64::from(header.payload_length));
        let payload = frame.get(FRAME_HEADER..FRAME_HEADER + length).unwrap_or_default();
        let mut plain = Vec::new();
        let payload = match header.plain {
            Some(length) => {
                // What was packed a moment ago can be unpacked. If not, tails read the files.
                unpack(payload, length, &mut plain).ok()?;
                plain.as_slice()
            }
            None => payload,
        };
        let (first, next) = (header.first_lsn, header.next_lsn());
        let fits = payload.len() <= RECENT_BYTES;
        fits.then(|| RecentFrame { first, next, payload: payload.into() })
    }

    /// Keeps a frame, the one behind those that were kept before.
    pub(crate) fn keep(&self, frame: RecentFrame) {
        let mut kept = lock(&self.kept);
        // The last tail may have gone since the copy was made.
        if self.tails.load(Ordering::Relaxed) == 0 {
            return;
        }
        kept.bytes += frame.bytes();
        kept.frames.push_back(frame);
        while kept.bytes > RECENT_BYTES {
            kept.bytes -= kept.frames.pop_front().map_or(0, |frame| frame.bytes());
        }
    }

    /// The frame that holds `lsn`, if it is still here.
    pub(crate) fn holding(&self, lsn: Lsn) -> Option<RecentFrame> {
        let kept = lock(&self.kept);
        let at = kept.frames.partition_point(|frame| frame.next <= lsn);
        kept.frames.get(at).filter(|frame| frame.first <= lsn).cloned()
    }

    /// How many bytes are kept.
    #[cfg(test)]
    pub(crate) fn bytes(&self) -> usize {
        let kept = lock(&self.kept);
        assert_eq!(kept.bytes, kept.frames.iter().map(RecentFrame::bytes).sum::<usize>());
        kept.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_small_frames_take_besides_their_records_counts() {
        let recent = Recent::default();
        recent.join();
        for lsn in 1..=200_000 {
            let (first, next) = (Lsn::new(lsn), Lsn::new(lsn + 1));
            recent.keep(RecentFrame { first, next, payload: Arc::from([7; 8]) });
        }
        assert!(recent.bytes() <= RECENT_BYTES);
        let count = lock(&recent.kept).frames.len();
        assert!(count * 64 <= RECENT_BYTES && count * 96 > RECENT_BYTES, "{count} frames");
        assert!(recent.holding(Lsn::new(1)).is_none());
        assert_eq!(recent.holding(Lsn::new(200_000)).unwrap().first, Lsn::new(200_000));
    }
}
