//! The segments that hold the log, oldest first: shared by the writer, which adds one at each
//! rotation, truncation, which removes some, and readers, which take a copy.
//!
//! INDEX-1: numbers are dense and ascending; first LSNs never fall.
//! INDEX-2: the last entry is the active segment; all others are sealed.

use crate::ids::{Lsn, SegmentNumber};
use crate::sync::{Arc, Mutex, lock};
use crate::wal::segment::Segment;

/// One segment that holds frames.
#[derive(Clone, Debug)]
pub(crate) struct SegmentEntry {
    pub(crate) segment: Arc<Segment>,
    /// The first LSN of its first frame.
    pub(crate) first_lsn: Lsn,
}

/// The segments from the start to the active one.
#[derive(Debug)]
pub(crate) struct SegmentIndex(Mutex<Vec<SegmentEntry>>);

impl SegmentIndex {
    /// An index of these, oldest first.
    pub(crate) fn new(entries: Vec<SegmentEntry>) -> SegmentIndex {
        SegmentIndex(Mutex::new(entries))
    }

    /// Adds the segment that becomes the active one. Before its first frame can become durable.
    ///
    /// # Panics
    /// If its number is not the next one (INDEX-1).
    pub(crate) fn push(&self, entry: SegmentEntry) {
        let mut entries = lock(&self.0);
        if let Some(last) = entries.last() {
            let dense = last.segment.number().next() == entry.segment.number();
            assert!(dense && last.first_lsn <= entry.first_lsn, "INDEX-1: dense and ascending");
        }
        entries.push(entry);
    }

    /// The segments that may hold `from` or something above it, oldest first.
    pub(crate) fn reaching(&self, from: Lsn) -> Vec<SegmentEntry> {
        let entries = lock(&self.0);
        entries[holder_of(&entries, from)..].to_vec()
    }

    /// The number of the segment that holds `lsn`, for a `LOG` slot; the first one's for what is
    /// below the start.
    pub(crate) fn segment_of(&self, lsn: Lsn) -> Option<SegmentNumber> {
        let entries = lock(&self.0);
        entries.get(holder_of(&entries, lsn)).map(|entry| entry.segment.number())
    }

    /// The first entry.
    pub(crate) fn first(&self) -> Option<SegmentEntry> {
        lock(&self.0).first().cloned()
    }

    /// The active segment's entry.
    pub(crate) fn active(&self) -> Option<SegmentEntry> {
        lock(&self.0).last().cloned()
    }

    /// Removes what lies before segment `number`, and returns it, oldest first.
    pub(crate) fn remove_before(&self, number: SegmentNumber) -> Vec<SegmentEntry> {
        let mut entries = lock(&self.0);
        let count = entries.partition_point(|entry| entry.segment.number() < number);
        entries.drain(..count).collect()
    }
}

/// The last entry whose first LSN is not above `lsn`: segments without records share theirs with
/// the next one.
fn holder_of(entries: &[SegmentEntry], lsn: Lsn) -> usize {
    entries.partition_point(|entry| entry.first_lsn <= lsn).saturating_sub(1)
}
