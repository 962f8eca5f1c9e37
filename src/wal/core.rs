//! What the handles and the threads of one open log share.

use std::path::Path;

use super::catalog::Catalog;
use super::group::{Resolved, Waiting};
use super::index::SegmentIndex;
use super::options::{Background, Limits};
use super::pins::Pins;
use super::prepare::{Preparation, Preparer};
use super::progress::Progress;
use super::ready::Room;
use super::retention::Retention;
use super::slot::Slot;
use super::stage::Stage;
use super::staging::Staging;
use super::stats::Stats;
use crate::clock::Clock;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{LogId, Lsn};
use crate::storage::ForkWord;
use crate::storage::{Directory, Lock, Storage};
use crate::sync::atomic::AtomicU64;
use crate::sync::{Arc, Condvar, Mutex, lock};

/// How far a handle's life has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// Takes appends.
    Open,
    /// Takes no more; writes what it has.
    Closing,
    /// Has given its files away.
    Closed,
}

/// Where the write slot is.
#[derive(Debug)]
pub(crate) enum Place {
    /// Here, and nobody waits who could lead.
    Free(Box<Slot>),
    /// Here, for the candidate that was appointed.
    Handed(Box<Slot>),
    /// With a leader.
    Taken,
    /// Nowhere: the log is poisoned or closed.
    Gone,
}

/// What the leader has taken out to write.
#[derive(Debug)]
pub(crate) struct Flight {
    pub(super) waiting: Waiting,
    pub(super) last_lsn: Lsn,
    /// Whether everything up to `last_lsn` is durable when it lands.
    pub(super) durable: bool,
}

/// Those who wait for frames that were written plain to become durable.
#[derive(Debug)]
pub(crate) struct SyncRequest {
    pub(super) waiting: Waiting,
    pub(super) target: Lsn,
}

/// Everything that the log's one mutex guards.
#[derive(Debug)]
pub(crate) struct Open {
    pub(crate) phase: Phase,
    pub(crate) failed: Option<Error>,
    pub(crate) staging: Staging,
    pub(crate) place: Place,
    pub(super) flight: Option<Flight>,
    pub(super) syncing: Option<SyncRequest>,
    /// Those who wait for more to become durable, whatever it is.
    pub(super) tails: Waiting,
    pub(crate) preparation: Preparation,
    /// Whether the committer sleeps and has to be woken for work.
    pub(super) committer_sleeps: bool,
    /// Whether the background threads shall end.
    pub(crate) stop: bool,
    /// How many sleep on `room`.
    pub(crate) room_waiters: usize,
    /// Those who wait for room without sleeping on `room`.
    pub(crate) spacious: Room,
}

/// The log, shared by its handles and its threads.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) directory: Arc<dyn Directory>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) log: LogId,
    pub(crate) limits: Limits,
    pub(crate) background: Background,
    pub(crate) progress: Arc<Progress>,
    /// Where records are put without the mutex.
    pub(super) stage: Arc<Stage>,
    pub(crate) stats: Arc<Stats>,
    pub(crate) pins: Mutex<Pins>,
    pub(crate) retention: Retention,
    pub(super) catalog: Catalog,
    /// The first LSN of the log.
    pub(crate) start: AtomicU64,
    pub(crate) index: Arc<SegmentIndex>,
    pub(crate) fork: Arc<ForkWord>,
    /// The directory's lock, until the log is closed.
    pub(crate) lock: Mutex<Option<Box<dyn Lock>>>,
    pub(crate) open: Mutex<Open>,
    /// Memory or a prepared segment came free, an attempt to prepare one ended, or the phase moved.
    pub(crate) room: Condvar,
    /// Somebody should write what nobody waits for.
    pub(super) committer: Condvar,
    /// A segment should be prepared or `LOG` written.
    pub(crate) preparer_work: Condvar,
    pub(crate) preparer: Mutex<Option<Preparer>>,
}

impl Open {
    /// Refuses when the log takes no more appends.
    pub(crate) fn check(&self) -> Result<()> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        match self.phase {
            Phase::Open => Ok(()),
            Phase::Closing | Phase::Closed => Err(closed()),
        }
    }

    /// Whether the write slot is there for whoever comes.
    pub(super) fn is_free(&self) -> bool {
        matches!(self.place, Place::Free(_))
    }

    /// Takes the slot, if it is free.
    pub(super) fn take_free(&mut self) -> Option<Box<Slot>> {
        match std::mem::replace(&mut self.place, Place::Taken) {
            Place::Free(slot) => Some(slot),
            other @ (Place::Handed(_) | Place::Taken | Place::Gone) => {
                self.place = other;
                None
            }
        }
    }

    /// Takes the slot that was handed to the caller; `None` if the log was poisoned meanwhile.
    pub(super) fn take_handed(&mut self) -> Option<Box<Slot>> {
        match std::mem::replace(&mut self.place, Place::Taken) {
            Place::Handed(slot) => Some(slot),
            other @ (Place::Free(_) | Place::Taken | Place::Gone) => {
                self.place = other;
                None
            }
        }
    }

    /// Whether anybody waits for a frame, a sync or room. Tails do not count: there may be nothing
    /// that would come.
    #[cfg(any(test, feature = "testing"))]
    pub(super) fn is_awaited(&mut self) -> bool {
        let flying = self.flight.iter().any(|flight| flight.waiting.is_awaited());
        let room = self.room_waiters > 0 || self.spacious.is_awaited();
        flying || room || self.queued().any(|waiting| waiting.is_awaited())
    }

    /// Everybody who waits for something that nobody has taken out yet, in the order in which it
    /// will be written.
    pub(super) fn queued(&mut self) -> impl Iterator<Item = &mut Waiting> {
        let syncing = self.syncing.iter_mut().map(|request| &mut request.waiting);
        self.staging.all_waiting().chain(syncing)
    }
}

/// Poisons the log if its holder panics: who waits must not wait for ever. Declared before any
/// guard of the log's mutex, which is then released first.
#[derive(Debug)]
pub(super) struct Panics<'a> {
    core: &'a Core,
    /// Whether the thread was unwinding before: a destructor may append.
    before: bool,
}

impl<'a> Panics<'a> {
    pub(super) fn poison(core: &'a Core) -> Panics<'a> {
        Panics { core, before: std::thread::panicking() }
    }
}

impl Drop for Panics<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() && !self.before {
            let message = "a bug in the log: a thread panicked within it";
            self.core.poison(Error::new(ErrorKind::Poisoned, message));
        }
    }
}

/// The error of a handle that was closed.
pub(crate) fn closed() -> Error {
    Error::new(ErrorKind::Closed, "the log was closed; open it again")
}

/// The error of every call in a forked child.
#[cold]
pub(crate) fn forked(path: &Path) -> Error {
    let message = "this process is a fork of the one that opened the log; open it again here";
    Error::new(ErrorKind::Forked, message).at_path(path)
}

impl Core {
    /// Refuses in a forked child. Before any lock: the parent's other threads, which may have held
    /// it, do not exist here.
    #[inline]
    pub(crate) fn check_fork(&self) -> Result<()> {
        if !self.fork.is_forked() {
            return Ok(());
        }
        Err(forked(self.directory.path()))
    }

    /// Refuses when the log takes no more appends.
    pub(crate) fn check(&self) -> Result<()> {
        self.check_fork()?;
        lock(&self.open).check()
    }

    /// Poisons the log (LOG.md L12): every pending and later call gets `error`, and nothing is
    /// written any more. The first error stays. Who waits is woken by what this returns.
    pub(super) fn fail(&self, open: &mut Open, error: Error) -> Vec<Resolved> {
        if open.failed.is_some() {
            return Vec::new();
        }
        open.failed = Some(error.clone());
        if !matches!(open.place, Place::Taken) {
            open.place = Place::Gone;
        }
        let flight = open.flight.take().map(|flight| flight.waiting);
        let syncing = open.syncing.take().map(|request| request.waiting);
        let waiting = flight.into_iter().chain(open.staging.abandon()).chain(syncing);
        let resolved = waiting.map(|waiting| waiting.resolve(Some(error.clone()))).collect();
        let mut resolved: Vec<_> = resolved;
        resolved.extend(self.room_came(open));
        resolved.extend(open.tails_look());
        self.committer.notify_all();
        self.preparer_work.notify_all();
        resolved
    }

    /// As [`Core::fail`], for who does not hold the mutex.
    pub(crate) fn poison(&self, error: Error) {
        let resolved = self.fail(&mut lock(&self.open), error);
        Resolved::wake(resolved);
    }
}
