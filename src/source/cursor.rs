//! Planning over the log without reading anything twice.
//!
//! CURSOR-1: `records` are all records of the stream in `start..scanned`.
//! CURSOR-2: nothing above the durable LSN is looked at (LOG.md L19): the tail sees to it.
//! CURSOR-3: a source that keeps up reads no file: small batches would pay a device's read each.

use std::fmt;

use super::received_plan::{PlannedRecords, position_behind, weight};
use super::records::Records;
use super::{Limit, Planned};
use crate::error::Result;
use crate::exec::{Lent, Spares};
use crate::ids::{Lsn, StreamId, to_u64};
use crate::wal::{Tail, Wal};

/// Where planning stands, with the records that the next input will have. Asked again from the same
/// position it goes on where it stopped; asked from another one, it starts there.
pub(super) struct Cursor {
    wal: Wal,
    stream: StreamId,
    /// The position that `records` begin at.
    start: Lsn,
    /// Everything before this was looked at.
    scanned: Lsn,
    records: Records,
    /// What earlier inputs were in.
    spares: Spares<Records>,
    /// Of the records.
    weight: u64,
    /// Whether an input was taken here last, so that the next one begins at `start`.
    follows: bool,
    /// Shows what comes from `scanned` on; `None` before anything was looked at.
    tail: Option<Tail>,
}

impl fmt::Debug for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cursor")
            .field("stream", &self.stream)
            .field("start", &self.start)
            .field("scanned", &self.scanned)
            .finish_non_exhaustive()
    }
}

impl Cursor {
    pub(super) fn new(wal: &Wal, stream: StreamId, spares: &Spares<Records>) -> Cursor {
        Cursor {
            wal: wal.clone(),
            stream,
            start: Lsn::FIRST,
            scanned: Lsn::FIRST,
            records: spares.take().unwrap_or_default(),
            spares: spares.clone(),
            weight: 0,
            follows: false,
            tail: None,
        }
    }

    fn restart(&mut self, at: Lsn) {
        let anew = Cursor::new(&self.wal, self.stream, &self.spares);
        *self = Cursor { start: at, scanned: at, ..anew };
    }

    /// The next input from `from` on, of about `limit` bytes; `None` if nothing came.
    pub(super) fn plan(&mut self, from: Lsn, limit: Limit) -> Result<Option<Planned>> {
        // More than this limit allows, from an earlier call with another one: cut anew.
        let overfull = self.records.len() > 1 && self.is_full(limit);
        if self.start != from || (overfull && !self.cut_at(limit)) {
            self.restart(from);
        }
        if let Err(error) = self.scan(limit) {
            // Whatever it was, the next call looks again.
            self.restart(from);
            return Err(error);
        }
        let Some(planned) = PlannedRecords::of(self.stream, &self.records, limit.bytes) else {
            return Ok(None);
        };
        Ok(Some(Planned {
            input: planned.encode(),
            next: position_behind(planned.last),
            bytes: self.records.bytes(),
            records: Some(planned.records),
        }))
    }

    /// Whether the records at hand are those that this limit cuts at.
    fn cut_at(&self, limit: Limit) -> bool {
        let last = self.records.range(self.records.len() - 1, self.records.len()).next();
        to_u64(self.records.len()) <= limit.records
            && last.is_some_and(|(_, payload)| self.weight - weight(payload) < limit.bytes)
    }

    fn is_full(&self, limit: Limit) -> bool {
        self.weight >= limit.bytes || to_u64(self.records.len()) >= limit.records
    }

    /// Looks at records until there are enough, or no more.
    fn scan(&mut self, limit: Limit) -> Result<()> {
        while !self.is_full(limit) {
            let tail = match &mut self.tail {
                Some(tail) => tail,
                None => {
                    let tail = self.wal.tail(self.scanned)?;
                    self.tail.insert(tail.stream(self.stream))
                }
            };
            let Some(record) = tail.try_next() else {
                // It saw all that is durable, the engine's own records among it.
                self.scanned = self.scanned.max(tail.next_lsn());
                return Ok(());
            };
            let record = record?;
            self.scanned = record.lsn.next();
            self.weight += weight(record.payload);
            self.records.push(record.lsn, record.payload);
        }
        Ok(())
    }

    /// Looks at the records of the next input, of about `limit` bytes, if it is known where that
    /// begins. A failure is left to the plan that meets it again.
    pub(super) fn read_ahead(&mut self, limit: Limit) {
        if self.follows && self.scan(limit).is_err() {
            self.restart(self.start);
        }
    }

    /// Moves the position on over records that are not of the stream, if the cursor stands there:
    /// to the first one that is, or to where nothing was looked at yet. Returns where that is.
    pub(super) fn settle(&mut self, from: Lsn) -> Option<Lsn> {
        let to = self.records.first().unwrap_or(self.scanned);
        if self.start != from || to <= from {
            return None;
        }
        self.start = to;
        Some(to)
    }

    /// The records of a planned input, if it is the one that was planned here last. The cursor then
    /// goes on behind them.
    pub(super) fn take(&mut self, planned: &PlannedRecords) -> Option<Lent<Records>> {
        let ends = (self.records.first(), self.records.last());
        if ends != (Some(planned.first), Some(planned.last)) {
            return None;
        }
        self.start = planned.last.next();
        self.follows = true;
        self.weight = 0;
        let empty = self.spares.take().unwrap_or_default();
        Some(self.spares.give(std::mem::replace(&mut self.records, empty)))
    }
}
