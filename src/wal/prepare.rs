//! Preparing segments and keeping `LOG` up to date: one thread, or whoever calls where there are
//! no threads. No append waits for it, unless no prepared segment is left.
//!
//! PREPARE-1: one thread at a time writes `LOG` (LOG.md L2). PREPARE-2: nothing is written after
//! the log was poisoned (LOG.md L12). PREPARE-3: who prepares ahead of what is needed rests between
//! two pieces, so that appends have the device. PREPARE-4: between two pieces the preparer is
//! whose who waits for it: a truncation, which may bring files to be used again, does not wait for
//! segments that are made anew.

use std::time::Duration;

use super::core::{Core, Open, Panics, closed};
use super::filling::{Filling, Piece};
use super::group::Resolved;
use super::log_file::{LogFile, LogState};
use super::options::Background;
use super::recycle::Recycler;
use super::segment::{FIRST_FRAME, Segment, SegmentHeader};
use super::truncate;
use crate::clock::Clock;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{LogId, Lsn, SegmentNumber};
use crate::storage::Channel;
use crate::sync::atomic::Ordering;
use crate::sync::{Arc, Condvar, Mutex, MutexGuard, lock, nap, wait};

/// How long a rest is: so many times what the piece before took, and no longer than this.
const REST: u32 = 8;
const REST_MAX: Duration = Duration::from_millis(4);
/// How often it is looked whether who waits for the preparer has it, and how long apart.
const LOOKS: u32 = 50;
const LOOK: Duration = Duration::from_micros(100);

/// What the preparing thread needs: also what truncation and closing take from it.
#[derive(Debug)]
pub(crate) struct Preparer {
    pub(crate) channel: Box<dyn Channel>,
    pub(crate) log_file: LogFile,
    pub(crate) segment_size: u64,
    pub(crate) recycler: Recycler,
    /// The new segment that is on its way.
    pub(crate) filling: Option<Filling>,
}

impl Preparer {
    /// A segment of a file that was kept, also instead of one that is on its way; without one, a
    /// new one is begun.
    fn begin(
        &mut self,
        log: LogId,
        number: SegmentNumber,
        clock: &dyn Clock,
    ) -> Result<Option<Segment>> {
        self.give_up_filling();
        let reused = self.recycler.reuse(log, number, &mut *self.channel, clock)?;
        if reused.is_none() {
            let header = SegmentHeader { log, number, size: self.segment_size };
            self.filling = Some(Filling::begin(self.recycler.home(), header)?);
        }
        Ok(reused)
    }

    /// Removes what is not whole and nobody needs.
    pub(super) fn give_up_filling(&mut self) {
        self.filling.take().into_iter().for_each(Filling::give_up);
    }

    /// The next piece of the one that was begun; the segment, once it is whole.
    fn go_on(&mut self, piece: Piece) -> Result<Option<Segment>> {
        let Some(mut filling) = self.filling.take() else { return Ok(None) };
        if !filling.is_full()
            && let Err(error) = filling.fill(piece, &mut *self.channel)
        {
            filling.give_up();
            return Err(error);
        }
        if filling.is_full() {
            return filling.finish(&mut *self.channel).map(Some);
        }
        self.filling = Some(filling);
        Ok(None)
    }
}

/// A segment that frames may go into.
struct Made {
    segment: Segment,
    recycled: bool,
}

/// What was asked of it, and what came of that; under the log's mutex.
#[derive(Debug, Default)]
pub(crate) struct Preparation {
    /// How many attempts have ended.
    attempts: u64,
    /// Why the last one failed.
    failed: Option<Error>,
    asked: bool,
    /// Whether the log has come into a new segment since `LOG` was written.
    pub(crate) log_is_stale: bool,
}

impl Preparation {
    /// How many attempts have ended.
    pub(super) fn attempts(&self) -> u64 {
        self.attempts
    }
}

impl Core {
    /// Asks for what is missing, unless that just failed: then only who needs it asks.
    pub(super) fn ask_preparer(&self, open: &mut Open) {
        let missing = open.staging.missing_spare().is_some();
        let wanted = missing && open.preparation.failed.is_none() || open.preparation.log_is_stale;
        if wanted && !open.preparation.asked {
            open.preparation.asked = true;
            self.preparer_work.notify_one();
        }
    }

    /// Where there are no threads: does what was asked.
    pub(super) fn prepare_inline(&self) {
        if self.background == Background::Inline && lock(&self.open).preparation.asked {
            self.prepare();
        }
    }

    /// No prepared segment may be taken: has one prepared, and waits for it.
    ///
    /// # Errors
    /// `DiskFull`, or what else hindered the attempt. Nothing was appended.
    pub(super) fn await_segment<'a>(
        &'a self,
        mut open: MutexGuard<'a, Open>,
        need: u64,
    ) -> Result<MutexGuard<'a, Open>> {
        self.stats.segment_waits.count();
        let seen = open.preparation.attempts;
        if self.background == Background::Inline {
            open.preparation.asked = true;
            drop(open);
            self.prepare();
            open = lock(&self.open);
        } else {
            // The error of an earlier attempt does not matter: this waits for another.
            drop(self.want_segment(&mut open, need));
            while open.preparation.attempts == seen && open.check().is_ok() {
                open = self.await_room(open);
            }
        }
        open.check()?;
        self.attempt_failed(&open, need).map_or(Ok(open), Err)
    }

    /// Has a segment prepared, for a frame of `need` bytes; returns why the last attempt failed, if
    /// it did.
    pub(super) fn want_segment(&self, open: &mut Open, need: u64) -> Option<Error> {
        open.preparation.asked = true;
        self.preparer_work.notify_one();
        self.attempt_failed(open, need)
    }

    /// Why the last attempt to prepare a segment failed, if it did.
    pub(super) fn attempt_failed(&self, open: &Open, need: u64) -> Option<Error> {
        let error = open.preparation.failed.as_ref()?;
        let message = format!("no space for a frame of {need} bytes");
        let error = Error::new(error.kind(), message).caused_by(error.clone());
        Some(error.at_path(self.directory.path()))
    }

    /// Prepares what is missing and writes `LOG` if it is stale.
    pub(super) fn prepare(&self) {
        let _panics = Panics::poison(self);
        let mut resolved = Vec::new();
        self.take_steps(&mut resolved);
        // Without the preparer's lock, which a waker that closes the log would need (GROUP-3).
        Resolved::wake(resolved);
    }

    fn take_steps(&self, resolved: &mut Vec<Resolved>) {
        loop {
            let mut preparer = lock(&self.preparer);
            let begun_ns = self.clock.monotonic_ns();
            let Some(held) = preparer.as_mut() else { return };
            let Some(step) = self.next_step(held) else { return };
            let done = self.take_step(step, held, resolved);
            drop(preparer);
            self.hand_over();
            if let Some(done) = done {
                self.give_way(done, begun_ns);
            }
        }
    }

    /// Returns how many bytes are there of a segment that is not whole yet.
    fn take_step(
        &self,
        step: Step,
        preparer: &mut Preparer,
        resolved: &mut Vec<Resolved>,
    ) -> Option<u64> {
        let (made, recycled) = match step {
            Step::WriteLog => {
                self.follow_rotation(preparer, resolved);
                return None;
            }
            Step::Begin(number) => (preparer.begin(self.log, number, &*self.clock), true),
            Step::Fill(piece) => (preparer.go_on(piece), false),
        };
        let made = match made {
            Ok(None) => return preparer.filling.as_ref().map(Filling::done),
            Ok(Some(segment)) => Ok(Made { segment, recycled }),
            Err(error) => Err(error),
        };
        resolved.extend(self.finish_attempt(made, preparer.segment_size));
        None
    }

    /// The log has come into a new segment: `LOG` says so.
    fn follow_rotation(&self, preparer: &mut Preparer, resolved: &mut Vec<Resolved>) {
        let before = self.first_lsn();
        // Retention does not pass the place of the catalog.
        self.cover_catalog_at_rotation();
        // What cannot be read now is not given up; `apply_retention` says why.
        let retained = self.retain(preparer, resolved);
        // A truncation has written all that this would say, and a failed one was the last write
        // (PREPARE-2).
        let said = retained.is_ok_and(|first| first > before);
        if said || lock(&self.open).failed.is_some() {
            return;
        }
        if let Err(error) = self.write_log(preparer, false) {
            resolved.extend(self.fail(&mut lock(&self.open), error));
        }
    }

    fn next_step(&self, preparer: &Preparer) -> Option<Step> {
        let mut open = lock(&self.open);
        // PREPARE-2, and nobody needs what would be prepared.
        if open.stop || open.failed.is_some() {
            return None;
        }
        let missing = if open.preparation.asked { open.staging.missing_spare() } else { None };
        // Who waits for a segment waits for nothing else: for `LOG` only where a truncation, which
        // comes with it, may bring a file.
        let hurry = open.room_waiters > 0 && open.staging.is_short();
        let quick = preparer.recycler.has_kept();
        let first = quick && hurry && missing.is_some();
        if !first && std::mem::take(&mut open.preparation.log_is_stale) {
            return Some(Step::WriteLog);
        }
        if preparer.filling.is_some() && !first {
            return Some(Step::Fill(if hurry { Piece::Quickly } else { Piece::Gently }));
        }
        if missing.is_none() {
            open.preparation.asked = false;
        }
        missing.map(Step::Begin)
    }

    /// Leaves the device to the appends for a while, behind a piece that was begun at `begun_ns`,
    /// unless the segment, of which `done` bytes are there, may be needed soon (PREPARE-3).
    fn give_way(&self, done: u64, begun_ns: u64) {
        let needed = {
            let open = lock(&self.open);
            open.stop || open.failed.is_some() || open.staging.needs_more_than(done)
        };
        if !needed && self.background == Background::Threads && self.clock.passes() {
            let took = Duration::from_nanos(self.clock.monotonic_ns().saturating_sub(begun_ns));
            self.clock.sleep((took * REST).min(REST_MAX));
        }
    }

    /// Leaves the preparer to who waits for it (PREPARE-4): a mutex alone would mostly give it to
    /// the thread that has just had it.
    fn hand_over(&self) {
        for _ in 0..LOOKS {
            if self.preparer_awaited.load(Ordering::Relaxed) == 0 {
                return;
            }
            let (mutex, nobody) = (Mutex::new(()), Condvar::new());
            drop(nap(&mutex, &nobody, lock(&mutex), LOOK));
        }
    }

    /// The preparer, once it has ended the piece that it is at.
    pub(super) fn hold_preparer(&self) -> MutexGuard<'_, Option<Preparer>> {
        self.preparer_awaited.fetch_add(1, Ordering::Relaxed);
        let preparer = lock(&self.preparer);
        self.preparer_awaited.fetch_sub(1, Ordering::Relaxed);
        preparer
    }

    fn finish_attempt(&self, made: Result<Made>, size: u64) -> Option<Resolved> {
        let failed = match &made {
            Ok(_) => None,
            Err(error) if error.kind() == ErrorKind::DiskFull => {
                let free = self.directory.free_bytes().unwrap_or(0);
                let plan = self.plan(self.progress.durable());
                let message = format!(
                    "no space to prepare a segment: {size} bytes are needed, {free} are free, a \
                     truncation could free {} more",
                    plan.bytes
                );
                let error = Error::new(ErrorKind::DiskFull, message).caused_by(error.clone());
                Some(error.at_path(self.directory.path()))
            }
            Err(error) => Some(error.clone()),
        };
        if let Ok(Made { recycled, .. }) = made {
            self.stats.prepared(recycled, if recycled { FIRST_FRAME } else { size });
        }
        let mut open = lock(&self.open);
        match made {
            Ok(made) if open.failed.is_none() => open.staging.add_spare(Arc::new(made.segment)),
            Ok(_) => {}
            Err(_) => {
                open.staging.preparation_failed();
                open.preparation.asked = false;
            }
        }
        open.preparation.failed = failed;
        open.preparation.attempts += 1;
        self.room_came(&mut open)
    }

    /// Writes the next slot of `LOG`: how far the log is durable now.
    pub(super) fn write_log(&self, preparer: &mut Preparer, clean: bool) -> Result<()> {
        let state = self.log_state(preparer.log_file.state(), clean);
        preparer.log_file.write_slot(state, &mut *preparer.channel).map_err(|failure| {
            let message = "a write of LOG failed";
            Error::new(ErrorKind::Poisoned, message).caused_by(failure)
        })
    }

    fn log_state(&self, last: &LogState, clean: bool) -> LogState {
        let mut state = LogState { clean, ..*last };
        let durable = self.progress.durable();
        if durable > state.durable_lsn {
            let segment = self.index.segment_of(durable).unwrap_or(state.durable_segment);
            state.durable_lsn = durable;
            state.durable_segment = segment.max(state.durable_segment);
        }
        state
    }

    /// Gives up the oldest segments (LOG.md L17).
    pub(crate) fn truncate_before(&self, lsn: Lsn) -> Result<Lsn> {
        self.check()?;
        if lsn > self.progress.durable().next() {
            let message = format!("record {lsn} is not durable, so nothing before it is given up");
            return Err(Error::new(ErrorKind::Invalid, message).at_path(self.directory.path()));
        }
        self.cover_catalog(lsn)?;
        let mut resolved = Vec::new();
        let start = self.truncate(lsn, &mut resolved);
        Resolved::wake(resolved);
        start
    }

    fn truncate(&self, lsn: Lsn, resolved: &mut Vec<Resolved>) -> Result<Lsn> {
        let mut preparer = self.hold_preparer();
        let Some(preparer) = preparer.as_mut() else { return Err(closed()) };
        self.check()?;
        self.truncate_with(preparer, lsn, resolved)
    }

    /// As [`Core::truncate_before`], for who has the preparer. Pins hold what they hold (PIN-1).
    pub(super) fn truncate_with(
        &self,
        preparer: &mut Preparer,
        lsn: Lsn,
        resolved: &mut Vec<Resolved>,
    ) -> Result<Lsn> {
        let pins = lock(&self.pins);
        let lsn = self.clamp_to_catalog(pins.clamp(lsn));
        let start = truncate::truncate_before(
            lsn,
            // Read last: `LOG` attests the catalog's repetition, for what it repeats is given up.
            self.progress.durable(),
            &self.index,
            &mut preparer.log_file,
            &mut *preparer.channel,
            &mut preparer.recycler,
        );
        match start {
            Ok(start) => {
                self.start.store(start.get(), Ordering::Release);
                Ok(start)
            }
            Err(cause) => {
                let error = Error::new(ErrorKind::Poisoned, "a truncation of the log failed");
                let error = error.caused_by(cause);
                resolved.extend(self.fail(&mut lock(&self.open), error.clone()));
                Err(error)
            }
        }
    }

    /// The first LSN of the log.
    pub(crate) fn first_lsn(&self) -> Lsn {
        Lsn::new(self.start.load(Ordering::Acquire))
    }

    /// The preparing thread.
    pub(super) fn run_preparer(&self) {
        let mut open = lock(&self.open);
        while !open.stop && open.failed.is_none() {
            if open.preparation.asked {
                drop(open);
                self.prepare();
                open = lock(&self.open);
            } else {
                open = wait(&self.preparer_work, open);
            }
        }
    }
}

enum Step {
    WriteLog,
    Begin(SegmentNumber),
    Fill(Piece),
}
