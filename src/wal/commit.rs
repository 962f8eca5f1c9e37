//! Leading: whoever holds a write slot writes frames, publishes what became of them, wakes who
//! waited for them, and hands the slot on. The protocol is in the module's documentation.

use std::time::Duration;

use super::core::{Core, Open, Panics};
use super::depth::PLAIN_MAX;
use super::flight::{Arrival, Flight, Landed};
use super::group::{Group, Resolved, Waiting};
use super::index::SegmentEntry;
use super::options::Background;
use super::slot::{Attests, Reaped, Sealer, Slot};
use super::staging::Frame;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::Lsn;
use crate::planted::{Bug, planted};
use crate::storage::File;
use crate::sync::atomic::Ordering;
use crate::sync::{Arc, MutexGuard, lock, nap};

/// How long the committer leaves a frame alone that grows and that nobody waits for, before it
/// looks again, and how often: a fast device would otherwise get one small frame after the other.
/// Nothing depends on it: nobody waits for such a frame, and who begins to wakes the committer or
/// leads.
const NAP: Duration = Duration::from_micros(50);
const NAPS: u32 = if cfg!(shuttle) { 1 } else { 20 };

/// When a leader takes nothing more out. It leaves when what it has in flight has landed.
#[derive(Clone, Copy, Debug)]
pub(super) enum Until<'a> {
    /// Its own group was taken out, or has its outcome.
    Resolved(&'a Group),
    /// One frame was written.
    Once,
    /// Nothing is left to write, somebody waits who can lead, or tasks are to be woken.
    Idle,
}

/// What can be taken out next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    Frame,
    Sync,
}

/// What a leader has taken out to do. Who has the sealer is the only one to take anything out.
struct Work {
    /// Its number among the flights.
    serial: u64,
    sealer: Box<Sealer>,
    /// What is to be synced before the frame is written, or instead of a frame.
    sync: Vec<Arc<dyn File>>,
    /// `None`: the sync is all.
    frame: Option<Box<Frame>>,
    durable: bool,
    /// Whether it is the first frame of a segment.
    starts: bool,
    /// Whether others may seal and submit while it is in flight.
    is_shared: bool,
}

impl Open {
    /// Whether something can be written.
    pub(super) fn has_work(&self) -> bool {
        let syncing = self.syncing.as_ref().is_some_and(|request| request.waiting.is_awaited());
        !self.staging.is_empty() || syncing
    }

    /// Whether nothing is there but a frame that takes records and that nobody waits for.
    fn may_grow(&mut self) -> bool {
        self.staging.has_open_only() && !self.queued().any(|waiting| waiting.is_awaited())
    }

    /// What may be taken out now, beside what is in flight. Frames that somebody waits for until
    /// they are durable, and those before them, come before a sync of written ones: they bring it
    /// along. Others do not, and could keep it waiting for ever.
    pub(super) fn next_work(&mut self) -> Option<Next> {
        if self.failed.is_some() {
            return None;
        }
        let alone = self.flights.is_empty();
        if self.syncing.is_some() && !self.staging.all_waiting().any(|w| w.wants_durable()) {
            // What is in flight lands first (LOG.md L8).
            return alone.then_some(Next::Sync);
        }
        let oldest = self.staging.oldest()?;
        let may = if alone {
            true
        } else if oldest.waiting.is_awaited() {
            let unsynced = !self.dirty.is_empty() && !planted(Bug::PlainBeforeDurable);
            let overtakes = self.flights.has_plain() || unsynced;
            let (count, records) = (self.flights.len(), self.flights.records());
            (!oldest.waiting.wants_durable() || !overtakes)
                && self.depth.may_add(count, records, oldest.records)
        } else {
            oldest.is_sealed && self.flights.len() < PLAIN_MAX
        };
        may.then_some(Next::Frame)
    }

    /// Takes out what is next, if it may be written now.
    fn take_work(&mut self, core: &Core) -> Option<Work> {
        let next = self.next_work()?;
        let sealer = self.slots.sealer.take()?;
        if next == Next::Sync
            && let Some(request) = self.syncing.take()
        {
            let flight = Flight::new(request.waiting, core.progress.written(), true);
            let serial = self.flights.push(flight);
            let sync = std::mem::take(&mut self.dirty);
            let (starts, is_shared) = (false, false);
            return Some(Work {
                serial,
                sealer,
                sync,
                frame: None,
                durable: true,
                starts,
                is_shared,
            });
        }
        let Some(mut frame) = self.staging.take_oldest() else {
            unreachable!("COMMIT-2: what may be written is there")
        };
        core.progress.set_appended(frame.last_lsn());
        let waiting = std::mem::take(&mut frame.waiting);
        let durable = waiting.wants_durable();
        let skip = !durable || planted(Bug::PlainBeforeDurable);
        let sync = if skip { Vec::new() } else { std::mem::take(&mut self.dirty) };
        let mut flight = Flight::new(waiting, frame.last_lsn(), durable);
        flight.records = u64::from(frame.records);
        let starts = sealer.starts_segment(&frame);
        if starts {
            let (segment, first_lsn) = (Arc::clone(&frame.segment), frame.first_lsn);
            flight.starts = Some(SegmentEntry { segment, first_lsn });
        }
        let serial = self.flights.push(flight);
        let is_shared = self.depth.get() > 1 && core.background == Background::Threads;
        let frame = Some(Box::new(frame));
        Some(Work { serial, sealer, sync, frame, durable, starts, is_shared })
    }

    /// What a group waited for has come.
    fn settle(&mut self, waiting: Waiting, resolved: &mut Vec<Resolved>) {
        let mut settled = waiting.resolve(None);
        self.rows.list(&mut settled);
        resolved.push(settled);
    }

    /// Takes the sealer back, if it is here, and what its last frame has left of its place.
    fn restore(&mut self, sealer: &mut Option<Box<Sealer>>) {
        if let Some((segment, saved)) = sealer.as_mut().and_then(|sealer| sealer.take_saved()) {
            self.staging.draw_up(segment, saved);
        }
        self.slots.restore(sealer);
    }

    /// Whether what a leader is there for was taken out, or has its outcome.
    fn is_served(&mut self, until: Until<'_>) -> bool {
        match until {
            Until::Resolved(group) => {
                group.outcome().is_some() || self.flights.all_waiting().any(|w| w.is_of(group))
            }
            Until::Once | Until::Idle => false,
        }
    }

    /// Whether a slot may be taken, to write something: whatever there is while nobody leads, and
    /// beside those who do, what is worth a write of its own.
    fn may_take(&mut self) -> bool {
        if self.slots.is_idle() {
            return !self.is_held();
        }
        // Asked first, because it notes whether anybody wants more depth.
        let wanted = self.next_work().is_some();
        wanted && !self.slots.is_handed() && self.slots.is_ready()
    }

    /// Takes a slot, if it may be taken.
    pub(super) fn take_slot(&mut self) -> Option<Slot> {
        if self.may_take() { self.slots.take() } else { None }
    }

    /// Whether one more slot would be used. Says so once for each.
    fn wants_slot(&mut self) -> bool {
        let wanted = self.depth.get();
        self.slots.wants_more(wanted)
    }

    /// A leader leaves before its group has its outcome: others see to it, or call it again.
    fn stand_back(&mut self, group: &Group, candidate: bool) -> Left {
        let queued = !self.flights.all_waiting().any(|waiting| waiting.is_of(group));
        let Some(waiting) = self.waiting_of(group) else {
            unreachable!("GROUP-1: a group without an outcome waits somewhere")
        };
        if waiting.stand_back(candidate, queued) { Left::Candidate } else { Left::Follower }
    }

    /// Whether a leader should stop taking work out, having published.
    fn is_done(&mut self, until: Until<'_>, resolved: &[Resolved]) -> bool {
        match until {
            Until::Resolved(group) => group.outcome().is_some(),
            Until::Once => true,
            Until::Idle => {
                let tasks = resolved.iter().any(Resolved::has_tasks);
                let called = self.queued().any(|waiting| waiting.has_candidate());
                tasks || called || self.may_grow()
            }
        }
    }
}

/// How a leader left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Left {
    /// Its group has its outcome, or it leads for none.
    Done,
    /// It may be told to lead again.
    Candidate,
    /// Others see to it.
    Follower,
}

/// What became of work that a leader has begun.
enum Begun {
    /// It was submitted.
    Submitted,
    /// There was nothing but a sync.
    Synced,
    /// It was not submitted, and nothing is from now on. `None`: everybody knows already.
    Refused(Option<Error>),
}

impl Core {
    /// Leads with a slot until `until` and until everything has landed that it submitted; then
    /// hands the slot on. `candidate`: whether the caller is the one of its group who may be told
    /// to lead.
    pub(super) fn lead<'a>(
        &'a self,
        open: MutexGuard<'a, Open>,
        mut slot: Slot,
        until: Until<'_>,
        candidate: bool,
    ) -> Left {
        let _panics = Panics::poison(self);
        // Behind the guard above, so that a panic unlocks before it poisons.
        let mut open = open;
        let mut resolved = Vec::new();
        let mut sealer = None;
        let mut done = open.is_served(until);
        loop {
            if !done
                && slot.has_room()
                && let Some(work) = open.take_work(self)
            {
                done = open.is_served(until);
                let serial = work.serial;
                drop(open);
                // Tasks have to wait: this thread holds the slot (GROUP-3).
                resolved.retain_mut(Resolved::wake_callers);
                let begun = self.begin(&mut slot, work, &mut sealer);
                if !matches!((&begun, done), (Begun::Submitted, true)) {
                    // Now, not after the mutex was waited for: another's write may fail meanwhile,
                    // and after that nothing more goes to the disk (LOG.md L12).
                    slot.start();
                    open = lock(&self.open);
                    open.restore(&mut sealer);
                    self.note(&mut open, serial, begun, &mut resolved);
                    continue;
                }
            } else if slot.is_empty() || open.failed.is_some() {
                // Of a poisoned log everybody is told first; then the rest is waited for.
                break;
            } else {
                drop(open);
                resolved.retain_mut(Resolved::wake_callers);
            }
            let reaped = slot.reap(&self.progress);
            open = lock(&self.open);
            open.restore(&mut sealer);
            if let Some(reaped) = reaped {
                self.publish(&mut open, reaped, &mut resolved);
            }
            done = done || open.is_done(until, &resolved);
        }
        self.leave(open, slot, until, candidate, resolved)
    }

    /// Gives the slot away and wakes whoever has to know.
    fn leave(
        &self,
        mut open: MutexGuard<'_, Open>,
        slot: Slot,
        until: Until<'_>,
        candidate: bool,
        resolved: Vec<Resolved>,
    ) -> Left {
        let left = match until {
            Until::Resolved(group) if group.outcome().is_none() => {
                open.stand_back(group, candidate)
            }
            Until::Resolved(_) | Until::Once | Until::Idle => Left::Done,
        };
        let wanted = open.depth.most();
        let gone = open.slots.give_back(slot, wanted);
        let next = self.appoint_next(&mut open);
        let mut resolved = resolved;
        if open.slots.is_idle() {
            // First, so that these are not woken in rows.
            drop(resolved.splice(..0, open.rows.rest()));
        }
        let more = self.background == Background::Threads && open.wants_slot();
        drop(open);
        // The next leader first: its write and these wake-ups then overlap.
        if let Some(next) = next {
            next.appoint();
        }
        Resolved::wake(resolved);
        // A slot of a trial that has ended, or, of a poisoned log, one that waits for what is in
        // flight, not for ever.
        drop(gone);
        if more {
            self.add_slot();
        }
        left
    }

    /// Seals and submits, or syncs, outside the mutex. The sealer is given back before the write
    /// where others may submit beside it, and is left in `kept` otherwise.
    fn begin(&self, slot: &mut Slot, work: Work, kept: &mut Option<Box<Sealer>>) -> Begun {
        // What was submitted before has waited long enough.
        slot.start();
        let Work { serial, mut sealer, sync, frame, durable, starts, is_shared } = work;
        let synced = if sync.is_empty() { None } else { Some(self.progress.written()) };
        if let Err(error) = slot.sync(sync) {
            return Begun::Refused(Some(error));
        }
        let Some(frame) = frame else {
            *kept = Some(sealer);
            return Begun::Synced;
        };
        // Who reserved before it was sealed may still be copying.
        let mut buffer = self.stage.take(frame.buffer);
        frame.apply_voids(&mut buffer);
        if starts && let Err(error) = self.check_lock() {
            return Begun::Refused(Some(error));
        }
        // What a sync has made durable is attested, though its mark is raised later.
        let attests = Attests {
            durable: synced.unwrap_or_else(|| self.progress.durable()),
            catalog: self.progress.catalog(),
        };
        let sealed = sealer.seal(&frame, buffer, durable, self.clock.wall_ns(), attests);
        *kept = Some(sealer);
        if is_shared {
            let next = {
                let mut open = lock(&self.open);
                open.restore(kept);
                self.appoint_next(&mut open)
            };
            if let Some(next) = next {
                next.appoint();
            }
        }
        if self.failing.load(Ordering::Acquire) {
            return Begun::Refused(None);
        }
        slot.submit(sealed, serial);
        Begun::Submitted
    }

    /// Before the first frame of a segment is written, the lock must still be ours (LOG.md L11).
    fn check_lock(&self) -> Result<()> {
        let current = lock(&self.lock).as_ref().map(|lock| lock.is_current());
        match current {
            Some(Ok(true)) => Ok(()),
            Some(Ok(false)) | None if planted(Bug::LockNotChecked) => Ok(()),
            Some(Err(failure)) => {
                let error = Error::new(ErrorKind::Poisoned, "the log's lock cannot be checked");
                Err(error.caused_by(failure))
            }
            Some(Ok(false)) | None => {
                let message =
                    "LOCK was replaced while the log was open: another writer may be here";
                let error = Error::new(ErrorKind::Poisoned, message);
                Err(error.at_path(self.directory.path()))
            }
        }
    }

    /// Takes note of what was begun and does not have to be reaped.
    fn note(&self, open: &mut Open, serial: u64, begun: Begun, resolved: &mut Vec<Resolved>) {
        match begun {
            Begun::Synced if open.failed.is_none() => {
                let ended_ns = self.stats.now();
                open.flights.arrive(serial, Arrival { ended_ns, ..Arrival::default() });
                self.settle_landed(open, resolved);
                resolved.extend(self.room_came(open));
            }
            Begun::Refused(Some(error)) => resolved.extend(self.fail(open, error)),
            Begun::Submitted | Begun::Synced | Begun::Refused(None) => {}
        }
    }

    /// Takes note of a frame that was reaped.
    fn publish(&self, open: &mut Open, reaped: Reaped, resolved: &mut Vec<Resolved>) {
        if open.failed.is_some() {
            // Everybody was told.
            return;
        }
        let Reaped { serial, outcome, number, capacity } = reaped;
        match outcome {
            Ok(Landed { buffer, arrival }) => {
                open.staging.recycle(number, buffer);
                open.flights.arrive(serial, arrival);
            }
            Err(error) if planted(Bug::ContinueAfterError) => {
                open.staging.forget(number, capacity);
                open.flights.arrive(serial, Arrival { failed: Some(error), ..Arrival::default() });
            }
            Err(error) => {
                resolved.extend(self.fail(open, error));
                return;
            }
        }
        self.settle_landed(open, resolved);
        resolved.extend(self.room_came(open));
    }

    /// Outcomes are fixed here, in LSN order, and nowhere else (FLIGHT-1).
    fn settle_landed(&self, open: &mut Open, resolved: &mut Vec<Resolved>) {
        resolved.extend(open.rows.next());
        let mut raised = None;
        while let Some((flight, arrival)) = open.flights.leave() {
            if let Some(error) = arrival.failed {
                resolved.push(flight.waiting.resolve(Some(error)));
                continue;
            }
            if let Some(entry) = flight.starts {
                // The segment before is sealed: its last frame has landed.
                self.index.push(entry);
                open.preparation.log_is_stale = true;
                self.ask_preparer(open);
            }
            self.progress.set_written(flight.last_lsn);
            if let Some(recent) = arrival.recent {
                self.progress.recent.keep(recent);
            }
            if let Some(file) = arrival.dirty
                && !open.dirty.iter().any(|dirty| Arc::ptr_eq(dirty, &file))
            {
                open.dirty.push(file);
            }
            if let Some(facts) = arrival.facts {
                open.receipts.landed(flight.last_lsn, facts);
            }
            if flight.durable {
                self.progress.set_durable(flight.last_lsn);
                // What landed last let it rise.
                raised = raised.max(Some(arrival.ended_ns));
            }
            let awaited = flight.waiting.is_awaited();
            if awaited && flight.records > 0 {
                open.depth.landed(flight.records, arrival.ended_ns, arrival.took_ns);
            }
            // Whoever waits for a frame that was written plain asked for no more.
            if flight.durable || awaited {
                open.settle(flight.waiting, resolved);
            }
        }
        let durable = self.progress.durable();
        if open.syncing.as_ref().is_some_and(|request| request.target <= durable)
            && let Some(request) = open.syncing.take()
        {
            open.settle(request.waiting, resolved);
        }
        if let Some(risen_ns) = raised {
            self.note_rise(open, risen_ns);
            resolved.extend(open.tails_look());
        }
    }

    /// Puts a slot aside for somebody who waits, if that is worth it, or wakes the committer.
    /// Returns whom to tell. While nobody leads, whoever waits is worth it (COMMIT-1).
    fn appoint_next(&self, open: &mut Open) -> Option<Arc<Group>> {
        if !open.may_take() {
            return None;
        }
        let next = open.queued().find_map(|waiting| waiting.appoint());
        match next {
            Some(_) => open.slots.hand(),
            None if planted(Bug::LostWakeup) => {}
            None => self.nudge(open),
        }
        next
    }

    /// Wakes the committer if there is something that nobody else writes.
    pub(super) fn nudge(&self, open: &mut Open) {
        if open.committer_sleeps && open.has_work() && open.may_take() {
            open.committer_sleeps = false;
            self.committer.notify_one();
        }
    }

    /// Makes one more slot, for the depth that pays. If it cannot be had, there are enough.
    pub(super) fn add_slot(&self) {
        if let Ok(channel) = self.directory.channel() {
            let slot = Slot::new(channel, Arc::clone(&self.stats));
            let refused = lock(&self.open).slots.add(slot);
            drop(refused);
        }
    }

    /// The committer's thread: writes what nobody waits for in a blocking call.
    pub(super) fn run_committer(&self) {
        assert!(self.background == Background::Threads, "COMMIT: inline logs have no threads");
        let mut open = lock(&self.open);
        let (mut seen, mut naps) = (Lsn::ZERO, 0);
        while !open.stop && open.failed.is_none() {
            let appended = open.staging.appended();
            if naps < NAPS && seen != appended && open.may_grow() {
                (seen, naps) = (appended, naps + 1);
                open.committer_sleeps = true;
                open = nap(&self.open, &self.committer, open, NAP);
                open.committer_sleeps = false;
                continue;
            }
            naps = 0;
            if open.has_work()
                && let Some(slot) = open.take_slot()
            {
                self.lead(open, slot, Until::Idle, false);
                open = lock(&self.open);
                continue;
            }
            open = self.rest(open);
        }
    }
}
