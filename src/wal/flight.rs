//! What was taken out to be written and has no outcome yet, oldest first.
//!
//! FLIGHT-1: completions come in any order, outcomes in the order of LSNs: a flight leaves when it
//! and every one before it has landed. FLIGHT-2: a durable frame is submitted only when every plain
//! one before it has landed and was synced (LOG.md L8), so behind a plain frame in flight there is
//! no durable one.

use std::collections::VecDeque;

use super::group::Waiting;
use super::index::SegmentEntry;
use super::receipt::Facts;
use super::recent::RecentFrame;
use crate::ids::Lsn;
use crate::planted::{Bug, planted};
use crate::storage::{AlignedBuf, File};
use crate::sync::Arc;

/// A frame on its way, or a sync.
#[derive(Debug)]
pub(crate) struct Flight {
    pub(super) waiting: Waiting,
    /// How many records it has.
    pub(super) records: u64,
    pub(super) last_lsn: Lsn,
    /// Whether everything up to `last_lsn` is durable when it and all before it have landed.
    pub(super) durable: bool,
    /// The segment whose first frame it is.
    pub(super) starts: Option<SegmentEntry>,
    arrival: Option<Arrival>,
}

/// A frame's write has completed: what it leaves.
#[derive(Debug)]
pub(crate) struct Landed {
    pub(super) buffer: AlignedBuf,
    pub(super) arrival: Arrival,
}

/// How a flight ended: what is needed when all before it have ended too.
#[derive(Debug, Default)]
pub(super) struct Arrival {
    /// Its records, if a tail may want them.
    pub(super) recent: Option<RecentFrame>,
    /// Its file, if that has to be synced.
    pub(super) dirty: Option<Arc<dyn File>>,
    pub(super) ended_ns: u64,
    /// How long its write took.
    pub(super) took_ns: u64,
    /// Where it is and how it was written, for receipts; of a sync, nothing.
    pub(super) facts: Option<Facts>,
    /// Why it failed, where a planted bug goes on.
    pub(super) failed: Option<crate::error::Error>,
}

impl Flight {
    pub(super) fn new(waiting: Waiting, last_lsn: Lsn, durable: bool) -> Flight {
        Flight { waiting, records: 0, last_lsn, durable, starts: None, arrival: None }
    }
}

/// The flights, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Flights {
    queue: VecDeque<Flight>,
    /// The number of the oldest.
    first: u64,
    plain: usize,
    records: u64,
}

impl Flights {
    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }

    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Whether one of them was written plain.
    pub(super) fn has_plain(&self) -> bool {
        self.plain > 0
    }

    /// The records in all of them.
    pub(super) fn records(&self) -> u64 {
        self.records
    }

    /// Takes another one in; returns its number.
    pub(super) fn push(&mut self, flight: Flight) -> u64 {
        let overtakes = flight.durable && self.plain > 0;
        assert!(!overtakes, "FLIGHT-2: a durable frame behind a plain one in flight");
        self.plain += usize::from(!flight.durable);
        self.records += flight.records;
        self.queue.push_back(flight);
        self.first + self.queue.len() as u64 - 1
    }

    /// Takes note of how one has ended.
    pub(super) fn arrive(&mut self, serial: u64, arrival: Arrival) {
        // One that is no longer here was let go by a planted bug.
        if let Some(at) = serial.checked_sub(self.first)
            && let Some(flight) = self.queue.get_mut(crate::ids::to_usize(at))
        {
            assert!(flight.arrival.is_none(), "FLIGHT-1: a flight ends once");
            flight.arrival = Some(arrival);
        }
    }

    /// Takes the oldest out if it has ended.
    pub(super) fn leave(&mut self) -> Option<(Flight, Arrival)> {
        let front = self.queue.front_mut()?;
        let arrival = match front.arrival.take() {
            Some(arrival) => arrival,
            None if planted(Bug::DurableOverHole) && self.is_overtaken() => Arrival::default(),
            None => return None,
        };
        let flight = self.queue.pop_front()?;
        self.first += 1;
        self.plain -= usize::from(!flight.durable);
        self.records -= flight.records;
        Some((flight, arrival))
    }

    /// Whether a durable frame has landed before one that is older.
    fn is_overtaken(&self) -> bool {
        self.queue.iter().any(|flight| flight.durable && flight.arrival.is_some())
    }

    /// Those who wait for what makes `lsn` durable, if that is in flight.
    pub(super) fn covering(&mut self, lsn: Lsn) -> Option<&mut Waiting> {
        let found = self.queue.iter_mut().find(|flight| flight.durable && lsn <= flight.last_lsn);
        found.map(|flight| &mut flight.waiting)
    }

    /// Those who wait for the frame that holds `lsn`, if it is in flight.
    pub(super) fn holding(&mut self, lsn: Lsn) -> Option<&mut Waiting> {
        let found = self.queue.iter_mut().find(|flight| lsn <= flight.last_lsn);
        found.map(|flight| &mut flight.waiting)
    }

    /// Everybody who waits.
    pub(super) fn all_waiting(&mut self) -> impl Iterator<Item = &mut Waiting> {
        self.queue.iter_mut().map(|flight| &mut flight.waiting)
    }

    /// Gives all of them up: they have no outcome but an error.
    pub(super) fn abandon(&mut self) -> Vec<Waiting> {
        self.first += self.queue.len() as u64;
        (self.plain, self.records) = (0, 0);
        self.queue.drain(..).map(|flight| flight.waiting).collect()
    }
}
