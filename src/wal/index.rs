//! The segments that hold the log, oldest first: shared by the writer, which adds one at each
//! rotation, truncation, which removes some, and readers, which take a copy.
//!
//! INDEX-1: numbers are dense and ascending; first LSNs never fall.
//! INDEX-2: the last entry is the active segment; all others are sealed, and hold no description
//! that writes.

use std::collections::VecDeque;

use crate::ids::{Lsn, SegmentNumber};
use crate::storage::{Channel, Directory, IoFailure};
use crate::sync::{Arc, Mutex, lock};
use crate::wal::scan::Expected;
use crate::wal::segment::Segment;

/// One segment that holds frames.
#[derive(Clone, Debug)]
pub(crate) struct SegmentEntry {
    pub(crate) segment: Arc<Segment>,
    /// The first LSN of its first frame.
    pub(crate) first_lsn: Lsn,
}

impl SegmentEntry {
    fn seal(&mut self) {
        if self.segment.is_open() {
            self.segment = Arc::new(self.segment.to_sealed());
        }
    }
}

/// How many places are remembered.
const PLACES: usize = 16;
/// How many idle channels are kept for the next readers.
const CHANNELS: usize = 4;

/// The segments from the start to the active one, and what readers leave for the next reader.
#[derive(Debug)]
pub(crate) struct SegmentIndex {
    entries: Mutex<Vec<SegmentEntry>>,
    /// Where readers ended: a poll goes on there instead of walking a segment from its start.
    places: Mutex<VecDeque<Expected>>,
    channels: Mutex<Vec<Box<dyn Channel>>>,
    start: Option<Start>,
}

/// Says where the log starts at this moment, where that is decided in another process.
struct Start(Box<dyn Fn() -> Option<Lsn> + Send + Sync>);

impl std::fmt::Debug for Start {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Start")
    }
}

impl SegmentIndex {
    /// An index of these, oldest first.
    pub(crate) fn new(mut entries: Vec<SegmentEntry>) -> SegmentIndex {
        let sealed = entries.len().saturating_sub(1);
        entries.iter_mut().take(sealed).for_each(SegmentEntry::seal);
        let (places, channels) = (Mutex::default(), Mutex::default());
        SegmentIndex { entries: Mutex::new(entries), places, channels, start: None }
    }

    /// The same, of a log that another process may truncate meanwhile.
    pub(crate) fn with_start(
        mut self,
        start: Box<dyn Fn() -> Option<Lsn> + Send + Sync>,
    ) -> SegmentIndex {
        self.start = Some(Start(start));
        self
    }

    /// Where the log starts by now, if another process may have moved that.
    pub(crate) fn start_elsewhere(&self) -> Option<Lsn> {
        self.start.as_ref().and_then(|start| start.0())
    }

    /// The last entry.
    pub(crate) fn last(&self) -> Option<SegmentEntry> {
        lock(&self.entries).last().cloned()
    }

    /// Adds the segment that becomes the active one. Before its first frame can become durable.
    ///
    /// # Panics
    /// If its number is not the next one (INDEX-1).
    pub(crate) fn push(&self, entry: SegmentEntry) {
        let mut entries = lock(&self.entries);
        if let Some(last) = entries.last_mut() {
            let dense = last.segment.number().next() == entry.segment.number();
            assert!(dense && last.first_lsn <= entry.first_lsn, "INDEX-1: dense and ascending");
            last.seal();
        }
        entries.push(entry);
    }

    /// The segments that may hold `from` or something above it, oldest first.
    pub(crate) fn reaching(&self, from: Lsn) -> Vec<SegmentEntry> {
        let entries = lock(&self.entries);
        entries[holder_of(&entries, from)..].to_vec()
    }

    /// The number of the segment that holds `lsn`, for a `LOG` slot; the first one's for what is
    /// below the start.
    pub(crate) fn segment_of(&self, lsn: Lsn) -> Option<SegmentNumber> {
        let entries = lock(&self.entries);
        entries.get(holder_of(&entries, lsn)).map(|entry| entry.segment.number())
    }

    /// The active segment's entry.
    #[cfg(test)]
    pub(crate) fn active(&self) -> Option<SegmentEntry> {
        self.last()
    }

    /// Removes what lies before segment `number`, and returns it, oldest first.
    pub(crate) fn remove_before(&self, number: SegmentNumber) -> Vec<SegmentEntry> {
        let mut entries = lock(&self.entries);
        let count = entries.partition_point(|entry| entry.segment.number() < number);
        entries.drain(..count).collect()
    }

    /// Remembers a place that a reader reached: everything before it is durable and verified.
    pub(crate) fn remember(&self, place: Expected) {
        let mut places = lock(&self.places);
        places.retain(|old| old.next_lsn != place.next_lsn);
        if places.len() == PLACES {
            places.pop_front();
        }
        places.push_back(place);
    }

    /// The remembered place that is nearest to `from` and not behind it.
    pub(crate) fn place_before(&self, from: Lsn) -> Option<Expected> {
        let places = lock(&self.places);
        let near = places.iter().filter(|place| place.next_lsn.is_some_and(|lsn| lsn <= from));
        near.max_by_key(|place| place.next_lsn).copied()
    }

    /// A channel to read with: an idle one, or a new one.
    pub(crate) fn channel(&self, directory: &dyn Directory) -> Result<Box<dyn Channel>, IoFailure> {
        let idle = lock(&self.channels).pop();
        idle.map_or_else(|| directory.channel(), Ok)
    }

    /// Keeps a channel with nothing in flight for the next reader.
    pub(crate) fn give_back(&self, channel: Box<dyn Channel>) {
        let mut channels = lock(&self.channels);
        if channels.len() < CHANNELS {
            channels.push(channel);
        }
    }
}

/// The last entry whose first LSN is not above `lsn`: segments without records share theirs with
/// the next one.
fn holder_of(entries: &[SegmentEntry], lsn: Lsn) -> usize {
    entries.partition_point(|entry| entry.first_lsn <= lsn).saturating_sub(1)
}
