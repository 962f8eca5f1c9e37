//! Appends with a deadline.
//!
//! DEADLINE-1: a call with a time limit never leads, so that cannot pass with the write slot in
//! hand. DEADLINE-2: a record that is given up becomes void while its frame is still in memory, or
//! not at all: `TimedOut` is never indeterminate (LOG.md L6, L7).
//!
//! Time comes from the clock of the log, never from a bounded wait of the standard library: a test
//! moves a [`ManualClock`](crate::clock::ManualClock), and that is the event.

use std::time::Duration;

use super::commit::Until;
use super::core::{Core, Open, Panics};
use super::group::Ticket;
use super::options::Background;
use super::staging::{Mark, NoRoom, Want};
use super::wal::Wal;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{Lsn, StreamId};
use crate::planted::{Bug, planted};
use crate::sync::{MutexGuard, lock};

impl Core {
    /// Appends a durable record unless `deadline_ns` on the log's clock comes first.
    fn append_until(&self, stream: StreamId, payload: &[u8], deadline_ns: u64) -> Result<Lsn> {
        self.check_fork()?;
        let bytes = self.measure(&[payload])?;
        let want = Want::user(stream, Mark::Durable);
        let _panics = Panics::poison(self);
        let mut open = lock(&self.open);
        let reservation = loop {
            open.check()?;
            match open.staging.place(&self.stage, want, 1, bytes) {
                Ok(reservation) => break reservation,
                Err(reason) => open = self.await_room_until(open, reason, deadline_ns)?,
            }
        };
        self.ask_preparer(&mut open);
        let ticket = open.staging.waiting_for_open().follow_durable();
        self.nudge(&mut open);
        drop(open);
        // It never leads, so nobody but others can wait for this copy.
        let lsn = reservation.fill(want, &[payload]).first();
        let outcome = self.await_until(&ticket, lsn, deadline_ns);
        self.prepare_inline();
        outcome.map(|()| lsn)
    }

    /// No room: waits for some, until the deadline.
    pub(super) fn await_room_until<'a>(
        &'a self,
        mut open: MutexGuard<'a, Open>,
        reason: NoRoom,
        deadline_ns: u64,
    ) -> Result<MutexGuard<'a, Open>> {
        let inline = self.background == Background::Inline;
        if inline && self.clock.monotonic_ns() >= deadline_ns {
            return Err(self.timed_out("there was no room for it"));
        }
        match reason {
            NoRoom::Memory if inline => return Ok(self.await_memory(open)),
            NoRoom::Segment(need) if inline => return self.await_segment(open, need),
            NoRoom::Memory => {
                self.stats.memory_waits.count();
                self.nudge(&mut open);
            }
            NoRoom::Segment(_) => self.stats.segment_waits.count(),
        }
        let attempts = open.preparation.attempts();
        if let NoRoom::Segment(need) = reason {
            // What an earlier attempt found does not matter: this one asks for another.
            drop(self.want_segment(&mut open, need));
        }
        loop {
            let ticket = open.spacious.follow();
            drop(open);
            if ticket.group.wait_until(&*self.clock, deadline_ns).is_none() {
                return Err(self.timed_out("there was no room for it"));
            }
            open = lock(&self.open);
            open.check()?;
            match reason {
                NoRoom::Segment(_) if open.preparation.attempts() == attempts => {}
                NoRoom::Segment(need) => {
                    let failed = self.attempt_failed(&open, need);
                    return failed.map_or(Ok(open), Err);
                }
                NoRoom::Memory => return Ok(open),
            }
        }
    }

    /// Waits for the outcome; takes the record back if the deadline comes before its frame is on
    /// its way.
    fn await_until(&self, ticket: &Ticket, lsn: Lsn, deadline_ns: u64) -> Result<()> {
        if self.background == Background::Inline {
            self.write_until(ticket, deadline_ns);
        }
        if let Some(outcome) = ticket.group.wait_until(&*self.clock, deadline_ns) {
            return outcome;
        }
        let given_up = {
            let mut open = lock(&self.open);
            ticket.group.outcome().is_none() && open.staging.make_void(lsn)
        };
        if given_up || planted(Bug::DeadlineForgetsFlight) {
            return Err(self.timed_out("its frame was not on its way yet"));
        }
        ticket.group.wait()
    }

    /// Where there are no threads, whoever calls writes.
    fn write_until(&self, ticket: &Ticket, deadline_ns: u64) {
        while ticket.group.outcome().is_none() && self.clock.monotonic_ns() < deadline_ns {
            let mut open = lock(&self.open);
            let Some(slot) = open.take_free() else { return };
            self.lead(open, slot, Until::Once, false);
        }
    }

    fn timed_out(&self, why: &str) -> Error {
        let message = format!("the deadline passed and the record was not appended: {why}");
        Error::new(ErrorKind::TimedOut, message).at_path(self.directory.path())
    }
}

impl Wal {
    /// As [`append`](Wal::append), but gives up when `limit` has passed before the record's frame
    /// is sealed. From then on the write is under way, and the call waits for its outcome: with
    /// `TimedOut` the record was *not* appended and never appears, also not after a crash. (Its LSN
    /// may be used up: LSNs of readers may skip.) A limit of zero gives up unless the frame is on
    /// its way at once.
    ///
    /// The log's own thread writes the frame, so this costs one hand-over more than `append`.
    ///
    /// # Errors
    /// `TimedOut`; else as [`append`](Wal::append): `Poisoned` is indeterminate, on a full disk
    /// `DiskFull` comes when that is known, not at the deadline.
    ///
    /// ```
    /// use std::time::Duration;
    /// # let place = tempfile::tempdir()?;
    /// # let options = sawmill::WalOptions { segment_size: 64 << 10, ..Default::default() };
    /// let wal = sawmill::Wal::open(place.path(), options)?;
    /// let lsn = wal.append_timeout(b"within a minute", Duration::from_secs(60))?;
    /// assert!(wal.durable_lsn() >= lsn);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn append_timeout(&self, payload: &[u8], limit: Duration) -> Result<Lsn> {
        self.append_timeout_to(StreamId::DEFAULT, payload, limit)
    }

    /// As [`append_timeout`](Wal::append_timeout), to a stream.
    ///
    /// # Errors
    /// As [`append_timeout`](Wal::append_timeout).
    pub fn append_timeout_to(
        &self,
        stream: StreamId,
        payload: &[u8],
        limit: Duration,
    ) -> Result<Lsn> {
        self.timed(|core| {
            let limit = u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX);
            let deadline_ns = core.clock.monotonic_ns().saturating_add(limit);
            core.append_until(stream, payload, deadline_ns)
        })
    }
}
