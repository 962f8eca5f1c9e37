//! Saying how far the log is durable when no other frame does (LOG.md L10).
//!
//! Every frame says how far the log was durable when it was sealed, so the last group is attested
//! by nobody: until something follows, damage to it cannot be told from a write that never
//! finished. After a short idle time the committer closes that window with a frame of its own.
//!
//! ATTEST-1: an attestation is written only to a log that is open and whole, when nothing is staged
//! or in flight, nobody waits for anything, and nobody has a slot. ATTEST-2: at most one for each
//! rise of the durable mark, and one in [`IDLE_MIN`]. ATTEST-3: while there is nothing to attest,
//! the committer sleeps without a limit; the first rise after that wakes it once.
//! ATTEST-4: it never takes the segment that is kept in reserve (LOG.md L5).

use std::time::Duration;

use super::commit::Until;
use super::core::{Core, Open, Panics, Phase};
use super::options::{Background, WalOptions};
use super::slot::{Attests, Slot};
use super::wal::Wal;
use crate::clock::Sleeper;
use crate::error::Result;
use crate::ids::Lsn;
use crate::planted::{Bug, planted};
use crate::sync::{Arc, MutexGuard, lock, wait, wait_until};

/// The shortest idle time: no more than one attestation in so long.
pub(crate) const IDLE_MIN: Duration = Duration::from_millis(50);

/// What is attested, and when something happened last; under the log's mutex.
#[derive(Debug)]
pub(crate) struct Attest {
    /// How long nothing happens before an attestation; `None`: there is none.
    idle_ns: Option<u64>,
    /// Everything up to here is attested by a frame that is durable.
    attested: Lsn,
    /// When the durable mark rose last, by the clock that never falls.
    rose_ns: u64,
    /// Whether the committer knows that there may be something to attest.
    is_watched: bool,
    /// How often the committer came to rest.
    rests: u64,
}

impl Attest {
    /// Right after recovery, whose barrier attests everything.
    pub(super) fn new(options: &WalOptions, durable: Lsn) -> Attest {
        let idle = options.attest_after.filter(|_| options.background == Background::Threads);
        let idle_ns = idle.map(|idle| u64::try_from(idle.as_nanos()).unwrap_or(u64::MAX));
        Attest { idle_ns, attested: durable, rose_ns: 0, is_watched: false, rests: 0 }
    }

    /// Whether somebody has to know when time is moved.
    pub(super) fn is_on(&self) -> bool {
        self.idle_ns.is_some()
    }

    /// When an attestation is due, if nothing happens until then.
    fn due_ns(&self, durable: Lsn) -> Option<u64> {
        let idle = self.idle_ns.filter(|_| durable > self.attested)?;
        Some(self.rose_ns.saturating_add(idle))
    }

    /// How often the committer came to rest, and whether it then waited for the clock.
    #[cfg(test)]
    pub(crate) fn rests(&self) -> (u64, bool) {
        (self.rests, self.is_watched)
    }
}

impl Open {
    /// Whether nobody writes, and nobody wants to.
    fn may_attest(&self) -> bool {
        let whole = self.failed.is_none() && self.phase == Phase::Open && !self.stop;
        let quiet = !self.has_work() && self.flights.is_empty();
        whole && quiet && self.slots.is_idle() && self.slots.is_ready()
    }
}

impl Core {
    /// The durable mark has risen at `now_ns`. Wakes the committer if it has to know (ATTEST-3).
    pub(super) fn note_rise(&self, open: &mut Open, now_ns: u64) {
        if !open.attest.is_on() {
            return;
        }
        open.attest.rose_ns = now_ns;
        if open.committer_sleeps && !open.attest.is_watched && !planted(Bug::RiseUnnoticed) {
            open.committer_sleeps = false;
            self.committer.notify_one();
        }
    }

    /// The committer has nothing to write: it sleeps until it has, or attests when it is time.
    pub(super) fn rest<'a>(&'a self, mut open: MutexGuard<'a, Open>) -> MutexGuard<'a, Open> {
        open.attest.rests += 1;
        let due = open.attest.due_ns(self.progress.durable());
        if due.is_some_and(|due| self.clock.monotonic_ns() >= due) {
            return self.attest(open).0;
        }
        open.attest.is_watched = due.is_some();
        open.committer_sleeps = true;
        let mut open = match due {
            Some(due) => wait_until(&self.committer, open, &*self.clock, due),
            None => wait(&self.committer, open),
        };
        open.committer_sleeps = false;
        open
    }

    /// Writes an attestation, if nobody else writes or wants to; returns whether it did.
    fn attest<'a>(&'a self, mut open: MutexGuard<'a, Open>) -> (MutexGuard<'a, Open>, bool) {
        if open.failed.is_some() && planted(Bug::AttestAfterPoison) {
            let written = self.attest_all_the_same(&mut open);
            return (open, written);
        }
        if !open.may_attest() {
            // Something is under way: whatever that is, it is not idle yet.
            open.attest.rose_ns = self.clock.monotonic_ns();
            return (open, false);
        }
        let appended = open.staging.appended();
        if open.staging.place_attestation(&self.stage).is_err() {
            // Only the reserve is left. A segment may come, although the mark does not rise.
            open.attest.rose_ns = self.clock.monotonic_ns();
            return (open, false);
        }
        // There is nothing to be done until the mark rises again.
        open.attest.attested = appended;
        open.staging.waiting_for_open().promise(true);
        self.ask_preparer(&mut open);
        let Some(slot) = open.take_free() else { unreachable!("ATTEST-1: a slot that nobody has") };
        self.stats.attestations.count();
        self.lead(open, slot, Until::Once, false);
        self.prepare_inline();
        (lock(&self.open), true)
    }

    /// The planted bug: past everything that would hinder it.
    fn attest_all_the_same(&self, open: &mut Open) -> bool {
        let (placed, sealer) =
            (open.staging.place_attestation(&self.stage), open.slots.sealer.take());
        let frame = placed.ok().and_then(|()| open.staging.take_oldest());
        let (Some(frame), Some(mut sealer)) = (frame, sealer) else { return false };
        let Ok(channel) = self.directory.channel() else { return false };
        let buffer = self.stage.take(frame.buffer);
        let attests =
            Attests { durable: self.progress.durable(), catalog: self.progress.catalog() };
        let sealed = sealer.seal(&frame, buffer, true, self.clock.wall_ns(), attests);
        let mut slot = Slot::new(channel, Arc::clone(&self.stats));
        slot.submit(sealed, 0);
        slot.reap(&self.progress).is_some()
    }
}

impl Sleeper for Core {
    /// The committer looks at the clock again, if it sleeps until a moment.
    fn time_moved(&self) {
        if lock(&self.open).attest.is_watched {
            self.committer.notify_all();
        }
    }
}

impl Wal {
    /// Attests now what is durable, as the log's thread does by itself after
    /// [`WalOptions::attest_after`]: for logs without threads. Whether there was anything to attest
    /// and nobody was writing.
    ///
    /// # Errors
    /// `Poisoned`, `Closed`, `Forked`.
    #[doc(hidden)]
    pub fn attest_now(&self) -> Result<bool> {
        let core = self.core();
        let _panics = Panics::poison(core);
        if !planted(Bug::AttestAfterPoison) {
            core.check()?;
        }
        let open = lock(&core.open);
        if core.progress.durable() <= open.attest.attested {
            return Ok(false);
        }
        let (open, written) = core.attest(open);
        let failed = open.failed.clone();
        drop(open);
        failed.map_or(Ok(written), Err)
    }
}
