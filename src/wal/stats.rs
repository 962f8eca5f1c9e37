//! Counters of an open log. They are raised per frame, per wait or per blocking call with relaxed
//! additions, never per submitted record, and decide nothing.

use std::fmt;

use super::histogram::{Latencies, Recorder};
use super::record::RECORD_HEADER;
use super::wal::Wal;
use crate::clock::Clock;
use crate::error::Error;
use crate::ids::to_u64;
use crate::storage::Backend;
use crate::sync::counting::{AtomicU64, Ordering};
use crate::sync::{Arc, lock};

/// A number that only grows.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    /// Counts one more.
    pub(crate) fn count(&self) {
        self.add(1);
    }

    /// Counts some more.
    pub(crate) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What is counted while the log is open.
#[derive(Debug)]
pub(crate) struct Stats {
    clock: Arc<dyn Clock>,
    frames: Counter,
    records: Counter,
    payload_bytes: Counter,
    written_bytes: Counter,
    durable_writes: Counter,
    /// Syncs of files that hold frames which were written plain.
    pub(crate) syncs: Counter,
    /// Frames that say how far the log is durable, and nothing else.
    pub(crate) attestations: Counter,
    /// Appends that found no room in memory.
    pub(crate) memory_waits: Counter,
    /// Appends that found no prepared segment.
    pub(crate) segment_waits: Counter,
    segments_prepared: Counter,
    segments_recycled: Counter,
    prepared_bytes: Counter,
    append: Recorder,
    write: Recorder,
}

/// A frame that was written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Written {
    pub(crate) records: u32,
    /// Payload bytes of the frame, the records' headers included.
    pub(crate) payload: u64,
    pub(crate) on_disk: u64,
    pub(crate) durable: bool,
}

impl Stats {
    /// Nothing counted; time from `clock`.
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Stats {
        Stats {
            clock,
            frames: Counter::default(),
            records: Counter::default(),
            payload_bytes: Counter::default(),
            written_bytes: Counter::default(),
            durable_writes: Counter::default(),
            syncs: Counter::default(),
            attestations: Counter::default(),
            memory_waits: Counter::default(),
            segment_waits: Counter::default(),
            segments_prepared: Counter::default(),
            segments_recycled: Counter::default(),
            prepared_bytes: Counter::default(),
            append: Recorder::new(),
            write: Recorder::new(),
        }
    }

    /// A moment, for the durations below.
    pub(crate) fn now(&self) -> u64 {
        self.clock.monotonic_ns()
    }

    /// A write that took so long has completed.
    pub(crate) fn wrote(&self, took_ns: u64, written: &Written) {
        self.write.record(took_ns);
        let headers = u64::from(written.records) * to_u64(RECORD_HEADER);
        self.frames.count();
        self.records.add(u64::from(written.records));
        self.payload_bytes.add(written.payload.saturating_sub(headers));
        self.written_bytes.add(written.on_disk);
        self.durable_writes.add(u64::from(written.durable));
    }

    /// A blocking append that began at `begun` was acknowledged.
    pub(crate) fn appended(&self, begun: u64) {
        self.append.record(self.now().saturating_sub(begun));
    }

    /// A segment was made ready, of a new file or of one that was used before, and so many bytes
    /// were written for that.
    pub(crate) fn prepared(&self, recycled: bool, bytes: u64) {
        self.segments_prepared.count();
        self.segments_recycled.add(u64::from(recycled));
        self.prepared_bytes.add(bytes);
    }
}

/// What a log did since it was opened, as [`Wal::stats`] shows it. Plain numbers: take two and
/// subtract to get a rate.
///
/// Each number is exact, but they are read one after the other while the log goes on.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct WalStats {
    /// How bytes reach the medium.
    pub backend: Backend,
    /// Why the log takes nothing more, if it was poisoned.
    pub poison: Option<Error>,
    /// Frames written; recovery's barrier is not counted.
    pub frames: u64,
    /// Frames without records that were written after an idle time, to attest the ones before; see
    /// [`WalOptions::attest_after`](crate::WalOptions::attest_after).
    pub attestations: u64,
    /// Frames whose write made them durable; the others were written plain.
    pub durable_frames: u64,
    /// Records in those frames, the engine's own ones included.
    pub records: u64,
    /// Bytes of these records' payloads.
    pub payload_bytes: u64,
    /// Bytes of these frames on the medium: payloads, headers and padding.
    pub written_bytes: u64,
    /// Syncs of files that hold frames which were written plain.
    pub syncs: u64,
    /// How many durable writes may be in flight at this moment: found by trying, judged in records
    /// per second (LOG.md L9).
    pub write_depth: usize,
    /// Whether a frame waits, for as long as a few writes take at most, for those who were served
    /// by the one before, because that brings more records per second than to write at once.
    pub gathering: bool,
    /// How often an append waited because the log held as many bytes as
    /// [`WalOptions::memory`](crate::WalOptions::memory) allows: the device is the limit.
    pub memory_waits: u64,
    /// How often an append waited for a segment to be prepared: the preparation is the limit.
    pub segment_waits: u64,
    /// Segments made ready for frames.
    pub segments_prepared: u64,
    /// How many of these were made of files that had been given up, so that only a header was
    /// written (see [`WalOptions::recycled`](crate::WalOptions::recycled)).
    pub segments_recycled: u64,
    /// Bytes written to make segments ready: whole new files, and headers.
    pub prepared_bytes: u64,
    /// Durable writes that were carried by a system call, though the backend is io_uring, because
    /// the ring was slow (see [`BackendChoice::Auto`](crate::storage::BackendChoice::Auto)).
    pub ring_bypassed: u64,
    /// From the call of a blocking append to its acknowledgement.
    pub append_latency: Latencies,
    /// From the start of a frame's write to its completion.
    pub write_latency: Latencies,
}

impl WalStats {
    /// Records in a frame, on average: how well group commit works. Zero without frames.
    #[must_use]
    pub fn records_per_frame(&self) -> f64 {
        ratio(self.records, self.frames)
    }

    /// Bytes on the medium for each byte of payload (LOG.md L23: a lone small record costs a
    /// block), preparation left out. Zero without payload.
    #[must_use]
    pub fn waste(&self) -> f64 {
        ratio(self.written_bytes, self.payload_bytes)
    }
}

#[allow(clippy::cast_precision_loss, reason = "a ratio for people to read")]
fn ratio(of: u64, to: u64) -> f64 {
    if to == 0 { 0.0 } else { of as f64 / to as f64 }
}

impl fmt::Display for WalStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let WalStats { records, frames, syncs, .. } = self;
        let (packed, waste) = (self.records_per_frame(), self.waste());
        write!(f, "{}: {records} records in {frames} frames ({packed:.1} each), ", self.backend)?;
        write!(f, "{waste:.2} bytes written per payload byte, {syncs} syncs, ")?;
        let (memory, segment) = (self.memory_waits, self.segment_waits);
        write!(f, "{memory} waits for memory, {segment} for a segment; ")?;
        write!(f, "append {:?}, write {:?}", self.append_latency, self.write_latency)?;
        match &self.poison {
            Some(error) => write!(f, "; poisoned: {error}"),
            None => Ok(()),
        }
    }
}

impl Wal {
    /// What the log did since it was opened: counters, latencies, and why it was poisoned, if it
    /// was. Nothing of it survives the handle. Works on a poisoned, full or closed log too; in a
    /// forked child it says nothing of the parent's poison and depth.
    ///
    /// ```
    /// # let place = tempfile::tempdir()?;
    /// # let options = sawmill::WalOptions { segment_size: 64 << 10, ..Default::default() };
    /// let wal = sawmill::Wal::open(place.path(), options)?;
    /// wal.append_batch(&[[7; 100]; 10])?;
    /// let stats = wal.stats();
    /// assert_eq!((stats.frames, stats.records, stats.payload_bytes), (1, 10, 1000));
    /// assert_eq!(stats.waste(), 4.096); // one block
    /// assert!(stats.poison.is_none());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn stats(&self) -> WalStats {
        let core = self.core();
        // The parent's other threads may have held the mutex when it forked.
        let (poison, write_depth, gathering) = if core.fork.is_forked() {
            (None, 1, false)
        } else {
            let open = lock(&core.open);
            (open.failed.clone(), open.depth.settled(), open.depth.is_gathering())
        };
        let stats = &core.stats;
        WalStats {
            backend: self.backend(),
            poison,
            frames: stats.frames.get(),
            attestations: stats.attestations.get(),
            durable_frames: stats.durable_writes.get(),
            records: stats.records.get(),
            payload_bytes: stats.payload_bytes.get(),
            written_bytes: stats.written_bytes.get(),
            syncs: stats.syncs.get(),
            write_depth,
            gathering,
            memory_waits: stats.memory_waits.get(),
            segment_waits: stats.segment_waits.get(),
            segments_prepared: stats.segments_prepared.get(),
            segments_recycled: stats.segments_recycled.get(),
            prepared_bytes: stats.prepared_bytes.get(),
            ring_bypassed: core.directory.ring_bypassed(),
            append_latency: stats.append.snapshot(),
            write_latency: stats.write.snapshot(),
        }
    }
}
