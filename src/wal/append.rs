//! Appending and waiting: what callers do before and after they lead.

use std::task::Waker;

use super::commit::{Left, Until};
use super::core::{Core, Open, Panics, Phase, SyncRequest, closed};
use super::group::{Call, Ticket, Waiting};
use super::options::Background;
use super::range::LsnRange;
use super::record::RECORD_HEADER;
use super::replay::Replay;
use super::stage::Reservation;
use super::staging::{Mark, NoRoom, Want};
use super::turns;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{Lsn, StreamId, to_u64};
use crate::planted::{Bug, planted};
use crate::sync::{Arc, MutexGuard, lock, wait};

/// Up to how many bytes are copied under the mutex by an append that has it anyway: less than
/// giving it back and taking it again costs.
const COPY_UNDER_MUTEX: usize = 2048;

impl Core {
    /// Appends records as one atomic batch, and waits for what `want` says.
    #[inline]
    pub(crate) fn append(&self, want: Want, payloads: &[&[u8]]) -> Result<LsnRange> {
        self.check_fork()?;
        let bytes = self.measure(payloads)?;
        if want.until == Mark::Appended {
            self.stage.take_turns();
        }
        if !payloads.is_empty()
            && let Some(reservation) = self.stage.reserve(payloads.len(), bytes)
        {
            let lsns = reservation.fill(want, payloads);
            turns::placed(lsns.last().next());
            if waits(want) {
                let _panics = Panics::poison(self);
                self.join_and_wait(lock(&self.open), want.until, lsns.last())?;
            }
            return Ok(lsns);
        }
        self.append_with_mutex(want, payloads, bytes)
    }

    /// As [`Core::append`], when no open frame has room: opens one.
    fn append_with_mutex(&self, want: Want, payloads: &[&[u8]], bytes: usize) -> Result<LsnRange> {
        let _panics = Panics::poison(self);
        let mut open = lock(&self.open);
        let reservation = loop {
            open.check()?;
            if payloads.is_empty() {
                return Ok(LsnRange::new(open.staging.appended().next(), 0));
            }
            match open.staging.place(&self.stage, want, payloads.len(), bytes) {
                Ok(reservation) => break reservation,
                Err(NoRoom::Memory) => open = self.await_memory(open),
                Err(NoRoom::Segment(need)) => open = self.await_segment(open, need)?,
            }
        };
        self.placed(open, want, reservation, payloads, bytes)
    }

    /// What follows when records have got their place under the mutex: copies them, and waits as
    /// long as was asked for.
    pub(super) fn placed<'a>(
        &'a self,
        mut open: MutexGuard<'a, Open>,
        want: Want,
        reservation: Reservation<'a>,
        payloads: &[&[u8]],
        bytes: usize,
    ) -> Result<LsnRange> {
        self.ask_preparer(&mut open);
        let lsns = if bytes <= COPY_UNDER_MUTEX {
            reservation.fill(want, payloads)
        } else {
            if waits(want) {
                open.staging.waiting_for_open().promise(want.until == Mark::Durable);
            }
            drop(open);
            let lsns = reservation.fill(want, payloads);
            open = lock(&self.open);
            lsns
        };
        if waits(want) {
            self.join_and_wait(open, want.until, lsns.last())?;
        } else {
            if want.told {
                self.nudge(&mut open);
            }
            drop(open);
        }
        self.prepare_inline();
        Ok(lsns)
    }

    /// Gives a record its place in a frame of its own that is written durable, and does not wait.
    pub(crate) fn submit_alone(&self, payload: &[u8]) -> Result<Lsn> {
        self.check_fork()?;
        let bytes = self.measure(&[payload])?;
        let want = Want::user(StreamId::DEFAULT, Mark::Appended);
        let _panics = Panics::poison(self);
        let mut open = lock(&self.open);
        let lsns = loop {
            open.check()?;
            open.staging.seal();
            match open.staging.place(&self.stage, want, 1, bytes) {
                Ok(reservation) => break reservation.fill(want, &[payload]),
                Err(NoRoom::Memory) => open = self.await_memory(open),
                Err(NoRoom::Segment(need)) => open = self.await_segment(open, need)?,
            }
        };
        open.staging.waiting_for_open().promise(true);
        open.staging.seal();
        self.ask_preparer(&mut open);
        self.nudge(&mut open);
        drop(open);
        self.prepare_inline();
        Ok(lsns.first())
    }

    /// The last record that has its place in the log.
    pub(crate) fn appended(&self) -> Lsn {
        // A forked child must not wait for a lock whose holder does not exist there.
        match self.fork.is_forked() {
            true => self.progress.appended(),
            false => lock(&self.open).staging.appended(),
        }
    }

    /// Refuses a payload of so many bytes if it is over the limit (LOG.md L4).
    pub(super) fn check_record(&self, bytes: usize) -> Result<()> {
        match to_u64(bytes) {
            length if length <= self.limits.record => Ok(()),
            length => Err(self.too_large("record", length, self.limits.record)),
        }
    }

    fn too_large(&self, what: &str, bytes: u64, limit: u64) -> Error {
        let message = format!("a {what} of {bytes} bytes is over the limit of {limit} bytes");
        Error::new(ErrorKind::TooLarge, message).at_path(self.directory.path())
    }

    /// Bytes of the records with their headers, if they are within the limits (LOG.md L4).
    pub(super) fn measure(&self, payloads: &[&[u8]]) -> Result<usize> {
        self.check_batch(payloads.iter().map(|payload| payload.len()))
    }

    /// As [`Core::measure`], of records of these sizes.
    #[inline]
    pub(super) fn check_batch(&self, records: impl Iterator<Item = usize>) -> Result<usize> {
        let mut bytes = 0;
        for length in records {
            self.check_record(length)?;
            bytes += RECORD_HEADER + length;
        }
        self.check_bytes_of_batch(bytes)
    }

    /// Refuses a batch of so many bytes, headers included, if it is over the limit.
    #[inline]
    pub(super) fn check_bytes_of_batch(&self, bytes: usize) -> Result<usize> {
        match to_u64(bytes) {
            bytes if bytes > self.limits.batch => {
                Err(self.too_large("batch", bytes, self.limits.batch))
            }
            _ => Ok(bytes),
        }
    }

    /// Staging is full: writes a frame, or waits until somebody has.
    pub(super) fn await_memory<'a>(
        &'a self,
        mut open: MutexGuard<'a, Open>,
    ) -> MutexGuard<'a, Open> {
        if let Some(slot) = open.take_free() {
            self.lead(open, slot, Until::Once, false);
            return lock(&self.open);
        }
        self.stats.memory_waits.count();
        self.await_room(open)
    }

    /// Sleeps until something has changed that an append may wait for.
    pub(super) fn await_room<'a>(&'a self, mut open: MutexGuard<'a, Open>) -> MutexGuard<'a, Open> {
        open.room_waiters += 1;
        open = wait(&self.room, open);
        open.room_waiters -= 1;
        open
    }

    /// Reads records from `from` on, up to the durable LSN (LOG.md L19).
    pub(crate) fn replay(&self, from: Lsn, internal: bool) -> Result<Replay> {
        self.check()?;
        let through = self.progress.durable();
        Ok(self.replay_through(from, through, internal))
    }

    /// Reads records from `from` on, up to `through`, which is durable.
    pub(super) fn replay_through(&self, from: Lsn, through: Lsn, internal: bool) -> Replay {
        let (index, directory) = (Arc::clone(&self.index), Arc::clone(&self.directory));
        Replay::new(index, directory, self.log, from, through, internal)
    }

    /// Waits until `lsn` and everything before it is durable; returns the durable LSN.
    pub(crate) fn wait_durable(&self, lsn: Lsn) -> Result<Lsn> {
        self.check_fork()?;
        let durable = self.progress.durable();
        if durable >= lsn {
            return Ok(durable);
        }
        let _panics = Panics::poison(self);
        self.join_and_wait(lock(&self.open), Mark::Durable, lsn)?;
        Ok(self.progress.durable())
    }

    /// Has `lsn` and everything before it made durable by the committer, beside the caller. What
    /// comes of it is told to who waits for it.
    pub(crate) fn begin_durable(&self, lsn: Lsn) {
        let mut open = lock(&self.open);
        if let Some(waiting) = open.staging.waiting_for(lsn) {
            waiting.promise(true);
            self.nudge(&mut open);
        }
    }

    /// Joins whoever waits for `lsn` to come so far, and waits.
    pub(super) fn join_and_wait(
        &self,
        mut open: MutexGuard<'_, Open>,
        until: Mark,
        lsn: Lsn,
    ) -> Result<()> {
        if self.is_settled(&open, lsn)? {
            return Ok(());
        }
        if until == Mark::Written && self.progress.written() >= lsn {
            return Ok(());
        }
        let ticket = match until {
            Mark::Durable => match self.covering(&mut open, lsn) {
                Covering::Queued(waiting) => waiting.join(),
                Covering::Flying(waiting) => waiting.follow(),
            },
            Mark::Written | Mark::Appended => {
                let Open { staging, flights, .. } = &mut *open;
                match (staging.waiting_for(lsn), flights.holding(lsn)) {
                    (Some(waiting), _) => waiting.join_written(),
                    (None, Some(waiting)) => waiting.follow(),
                    (None, None) => unreachable!("FLIGHT-1: neither staged, flying nor written"),
                }
            }
        };
        self.await_outcome(open, ticket)
    }

    /// As [`Core::wait_durable`] for a future: `None` if it has to be polled again, when `waker`
    /// is woken.
    pub(crate) fn poll_durable(&self, lsn: Lsn, waker: &Waker) -> Option<Result<Lsn>> {
        if self.background == Background::Inline {
            return Some(self.wait_durable(lsn));
        }
        if let Err(error) = self.check_fork() {
            return Some(Err(error));
        }
        let durable = self.progress.durable();
        if durable >= lsn {
            return Some(Ok(durable));
        }
        let mut open = lock(&self.open);
        match self.is_settled(&open, lsn) {
            Ok(false) => {}
            Ok(true) => return Some(Ok(self.progress.durable())),
            Err(error) => return Some(Err(error)),
        }
        match self.covering(&mut open, lsn) {
            Covering::Queued(waiting) | Covering::Flying(waiting) => waiting.join_future(waker),
        }
        self.nudge(&mut open);
        None
    }

    /// Whether nobody has to wait for `lsn` any more.
    fn is_settled(&self, open: &Open, lsn: Lsn) -> Result<bool> {
        if self.progress.durable() >= lsn {
            return Ok(true);
        }
        if let Some(error) = &open.failed {
            return Err(error.clone());
        }
        if lsn > open.staging.appended() {
            let message = format!("no record has LSN {lsn} yet");
            return Err(Error::new(ErrorKind::Invalid, message).at_path(self.directory.path()));
        }
        if open.phase == Phase::Closed { Err(closed()) } else { Ok(false) }
    }

    /// Those whose outcome makes `lsn` durable.
    fn covering<'a>(&self, open: &'a mut Open, lsn: Lsn) -> Covering<'a> {
        let Open { staging, flights, syncing, .. } = open;
        if let Some(waiting) = staging.waiting_for(lsn) {
            return Covering::Queued(waiting);
        }
        if let Some(waiting) = flights.covering(lsn) {
            return Covering::Flying(waiting);
        }
        let fresh = || SyncRequest { waiting: Waiting::default(), target: lsn };
        let request = syncing.get_or_insert_with(fresh);
        request.target = request.target.max(lsn);
        Covering::Queued(&mut request.waiting)
    }

    /// Leads, if a slot may be taken or was handed over, or sleeps, until the group has its
    /// outcome. Of a candidate the first sleep may end earlier (GATHER-2).
    pub(super) fn await_outcome<'a>(
        &'a self,
        mut open: MutexGuard<'a, Open>,
        ticket: Ticket,
    ) -> Result<()> {
        let Ticket { group, candidate } = ticket;
        let mut role = if candidate { Left::Candidate } else { Left::Follower };
        let mut deadline_ns = None;
        if candidate {
            deadline_ns = self.be_patient(&mut open, &group);
        }
        let mut slot = open.take_slot();
        loop {
            if let Some(slot) = slot.take() {
                let candidate = role == Left::Candidate;
                if candidate && let Some(waiting) = open.waiting_of(&group) {
                    waiting.set_leading();
                }
                role = self.lead(open, slot, Until::Resolved(&group), candidate);
            } else {
                drop(open);
            }
            let call = match role {
                Left::Follower => return group.wait(),
                Left::Candidate => group.wait_for_call(&*self.clock, deadline_ns.take()),
                Left::Done => Call::Done,
            };
            if call == Call::Done {
                break;
            }
            open = lock(&self.open);
            slot = match call {
                Call::Late => open.lose_patience(&group),
                Call::Lead | Call::Done => open.slots.take_handed(),
            };
            if slot.is_none() && call == Call::Lead {
                // Poisoned meanwhile.
                break;
            }
        }
        group.outcome().unwrap_or_else(|| unreachable!("GROUP-1: led without an outcome"))
    }
}

/// Whether an append has to wait at all.
fn waits(want: Want) -> bool {
    want.until != Mark::Appended && !planted(Bug::AcknowledgeAtSubmit)
}

/// Where a wait has to join.
enum Covering<'a> {
    /// Not taken out yet: the first one to join may have to lead.
    Queued(&'a mut Waiting),
    /// Being written: its leader will see to it.
    Flying(&'a mut Waiting),
}
