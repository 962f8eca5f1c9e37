//! What a log must be able to do to be measured.

use std::sync::atomic::{AtomicBool, Ordering};

use super::workload::Kind;
use super::writer::{Tally, Writer};
use super::{Outcome, now_ns};

/// What a round left on the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Written {
    /// Durable writes (of bulk work: writes).
    pub(crate) flushes: u64,
    /// Bytes of these writes.
    pub(crate) bytes: u64,
    /// Bytes that were written to make room for them, in the same time.
    pub(crate) prepared: u64,
}

/// A log, or the bare loop that shows what is possible.
pub(crate) trait Contender: Sync {
    fn name(&self) -> &'static str;

    /// Whether it can do this at all.
    fn can(&self, kind: Kind) -> bool;

    /// Whether it gets a round that does not count, and then [`Contender::warm_up`].
    fn wants_warm_up(&self) -> bool {
        false
    }

    /// Gets into the state in which it shall be measured, for rounds like the last one.
    fn warm_up(&self) -> Outcome {
        Ok(())
    }

    /// Whether it is another way of running the contender before it, and no competitor.
    fn is_variant(&self) -> bool {
        false
    }

    /// Appends a record and returns its LSN when it is durable. `who` is the thread's number.
    fn append(&self, who: usize, payload: &[u8]) -> Outcome<u64>;

    /// Appends records as one; returns the first one's LSN, the others follow it.
    fn append_batch(&self, who: usize, payloads: &[Vec<u8>]) -> Outcome<u64>;

    /// Submits so many records and waits for nothing.
    fn submit(&self, writer: &mut Writer, records: u64) -> Outcome;

    /// Makes what was submitted durable.
    fn sync(&self) -> Outcome;

    /// Keeps `depth` submissions in flight until told to stop, each followed to its end.
    fn in_flight(&self, writer: &mut Writer, depth: usize, stop: &AtomicBool) -> Outcome;

    /// After a round, outside of its time: checks that what was acknowledged is there (BENCH-1),
    /// makes room for the next round, and says what is on the disk if it can.
    fn settle(&self, kind: Kind, size: usize, appended: Tally) -> Outcome<Option<Written>>;
}

/// Lets one thread do its part of a round. Only bulk work has an end of its own: `records`.
pub(crate) fn work(
    contender: &dyn Contender,
    kind: Kind,
    writer: &mut Writer,
    records: u64,
    depth: usize,
    stop: &AtomicBool,
) -> Outcome {
    match kind {
        Kind::Append => {
            while !stop.load(Ordering::Relaxed) {
                let (number, begun) = (writer.number, now_ns());
                let lsn = contender.append(number, writer.payload())?;
                writer.latency.add(now_ns() - begun);
                writer.placed(lsn);
            }
        }
        Kind::Batch(size) => {
            let mut payloads = vec![Vec::new(); size];
            while !stop.load(Ordering::Relaxed) {
                payloads.iter_mut().for_each(|payload| writer.payload_into(payload));
                let begun = now_ns();
                let first = contender.append_batch(writer.number, &payloads)?;
                writer.latency.add(now_ns() - begun);
                for at in 0..size as u64 {
                    writer.placed_back(first + at, size as u64 - 1 - at);
                }
            }
        }
        Kind::InFlight(_) => contender.in_flight(writer, depth, stop)?,
        Kind::Bulk => contender.submit(writer, records)?,
        Kind::Replay => return Err("reading is not a writer's work".into()),
    }
    Ok(())
}
