//! Leading: whoever holds the write slot writes one frame, publishes what became of it, wakes who
//! waited for it, and hands the slot on. The protocol is in the module's documentation.

use std::time::Duration;

use super::core::{Core, Flight, Open, Panics, Place};
use super::group::{Group, Resolved};
use super::index::SegmentEntry;
use super::options::Background;
use super::slot::Slot;
use super::staging::Frame;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::Lsn;
use crate::planted::{Bug, planted};
use crate::storage::AlignedBuf;
use crate::sync::{Arc, MutexGuard, lock, nap, wait};

/// How long the committer leaves a frame alone that grows and that nobody waits for, before it
/// looks again, and how often: a fast device would otherwise get one small frame after the other.
const NAP: Duration = Duration::from_micros(50);
const NAPS: u32 = if cfg!(shuttle) { 1 } else { 20 };

/// When a leader stops.
#[derive(Clone, Copy, Debug)]
pub(super) enum Until<'a> {
    /// Its own group has its outcome.
    Resolved(&'a Group),
    /// One frame was written.
    Once,
    /// Nothing is left to write, somebody waits who can lead, or tasks are to be woken.
    Idle,
}

/// What a leader has taken out to do.
enum Work {
    Frame { frame: Box<Frame>, durable: bool },
    Sync,
}

/// What became of it.
struct Landed {
    outcome: Result<Option<AlignedBuf>>,
    /// The number of its staging buffer.
    number: usize,
    /// Bytes of the buffer, which an error does not hand back.
    capacity: usize,
    rotated: bool,
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

    /// Takes out what is next. Frames that somebody waits for, and those before them, come before
    /// a sync of written ones: they bring it along.
    fn pick(&mut self, core: &Core) -> Option<Work> {
        if self.failed.is_some() {
            return None;
        }
        assert!(self.flight.is_none(), "COMMIT-2: one write in flight");
        let awaited = self.staging.all_waiting().any(|waiting| waiting.is_awaited());
        if !awaited && let Some(request) = self.syncing.take() {
            let last_lsn = core.progress.written();
            self.flight = Some(Flight { waiting: request.waiting, last_lsn, durable: true });
            return Some(Work::Sync);
        }
        let mut frame = self.staging.take_oldest()?;
        core.progress.set_appended(frame.last_lsn());
        let waiting = std::mem::take(&mut frame.waiting);
        let durable = waiting.wants_durable();
        self.flight = Some(Flight { waiting, last_lsn: frame.last_lsn(), durable });
        Some(Work::Frame { frame: Box::new(frame), durable })
    }
}

impl Core {
    /// Leads with the slot until `until`, then hands it on.
    pub(super) fn lead<'a>(
        &'a self,
        open: MutexGuard<'a, Open>,
        mut slot: Box<Slot>,
        until: Until<'_>,
    ) {
        let _panics = Panics::poison(self);
        // Behind the guard above, so that a panic unlocks before it poisons.
        let mut open = open;
        let mut resolved = Vec::new();
        while let Some(work) = open.pick(self) {
            drop(open);
            // Tasks have to wait: this thread holds the slot (GROUP-3).
            resolved.retain_mut(Resolved::wake_callers);
            let landed = self.perform(&mut slot, work);
            open = lock(&self.open);
            self.publish(&mut open, landed, &mut resolved);
            let done = match until {
                Until::Resolved(group) => group.outcome().is_some(),
                Until::Once => true,
                Until::Idle => {
                    let tasks = resolved.iter().any(Resolved::has_tasks);
                    let called = open.queued().any(|waiting| waiting.has_candidate());
                    tasks || called || open.may_grow()
                }
            };
            if done {
                break;
            }
        }
        let next = self.release(&mut open, slot);
        drop(open);
        // The next leader first: its write and these wake-ups then overlap.
        if let Some(next) = next {
            next.appoint();
        }
        Resolved::wake(resolved);
    }

    /// Writes or syncs, outside the mutex.
    fn perform(&self, slot: &mut Slot, work: Work) -> Landed {
        match work {
            Work::Sync => {
                let outcome = slot.sync(&self.progress).map(|()| None);
                Landed { outcome, number: 0, capacity: 0, rotated: false }
            }
            Work::Frame { frame, durable } => {
                // Who reserved before it was sealed may still be copying.
                let mut buffer = self.stage.take(frame.buffer);
                frame.apply_voids(&mut buffer);
                let (number, capacity) = (frame.buffer, buffer.capacity());
                let rotated = slot.starts_segment(&frame);
                let start = if rotated { self.start_segment(&frame) } else { Ok(()) };
                let outcome = start.and_then(|()| {
                    slot.write(&frame, buffer, durable, self.clock.wall_ns(), &self.progress)
                });
                Landed { outcome: outcome.map(Some), number, capacity, rotated }
            }
        }
    }

    /// The segment before is sealed: its last frame has landed. Before the first one of the new
    /// segment is written, the lock must still be ours (LOG.md L11).
    fn start_segment(&self, frame: &Frame) -> Result<()> {
        let current = lock(&self.lock).as_ref().map(|lock| lock.is_current());
        match current {
            Some(Ok(true)) => {}
            Some(Err(failure)) => {
                let error = Error::new(ErrorKind::Poisoned, "the log's lock cannot be checked");
                return Err(error.caused_by(failure));
            }
            Some(Ok(false)) | None => {
                let message =
                    "LOCK was replaced while the log was open: another writer may be here";
                let error = Error::new(ErrorKind::Poisoned, message);
                return Err(error.at_path(self.directory.path()));
            }
        }
        let segment = Arc::clone(&frame.segment);
        self.index.push(SegmentEntry { segment, first_lsn: frame.first_lsn });
        Ok(())
    }

    /// Takes note of what landed: outcomes are fixed here, in LSN order, and nowhere else.
    fn publish(&self, open: &mut Open, landed: Landed, resolved: &mut Vec<Resolved>) {
        let Some(flight) = open.flight.take() else {
            // Poisoned meanwhile by somebody else, who told everybody.
            assert!(open.failed.is_some(), "COMMIT-2: what landed was not in flight");
            return;
        };
        match landed.outcome {
            Ok(buffer) => {
                if let Some(buffer) = buffer {
                    open.staging.recycle(landed.number, buffer);
                }
                let raised = flight.durable;
                // Whoever waits for a frame that was written plain asked for no more.
                if flight.durable || flight.waiting.is_awaited() {
                    resolved.push(flight.waiting.resolve(None));
                }
                let durable = self.progress.durable();
                if open.syncing.as_ref().is_some_and(|request| request.target <= durable)
                    && let Some(request) = open.syncing.take()
                {
                    resolved.push(request.waiting.resolve(None));
                }
                if raised {
                    resolved.extend(open.tails_look());
                }
                if landed.rotated {
                    open.preparation.log_is_stale = true;
                    self.ask_preparer(open);
                }
            }
            Err(error) if planted(Bug::ContinueAfterError) => {
                open.staging.forget(landed.number, landed.capacity);
                resolved.push(flight.waiting.resolve(Some(error)));
            }
            Err(error) => {
                open.flight = Some(flight);
                resolved.extend(self.fail(open, error));
            }
        }
        resolved.extend(self.room_came(open));
    }

    /// Gives the slot to somebody who waits, or leaves it free. Returns whom to tell.
    fn release(&self, open: &mut Open, slot: Box<Slot>) -> Option<Arc<Group>> {
        if open.failed.is_some() {
            open.place = Place::Gone;
            return None;
        }
        let next = open.queued().find_map(|waiting| waiting.appoint());
        if next.is_some() {
            open.place = Place::Handed(slot);
            return next;
        }
        open.place = Place::Free(slot);
        if !planted(Bug::LostWakeup) {
            self.nudge(open);
        }
        None
    }

    /// Wakes the committer if there is something that nobody else writes.
    pub(super) fn nudge(&self, open: &mut Open) {
        if open.committer_sleeps && open.is_free() && open.has_work() {
            open.committer_sleeps = false;
            self.committer.notify_one();
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
                && let Some(slot) = open.take_free()
            {
                self.lead(open, slot, Until::Idle);
                open = lock(&self.open);
                continue;
            }
            open.committer_sleeps = true;
            open = wait(&self.committer, open);
            open.committer_sleeps = false;
        }
    }
}
