//! What the handles and the threads of one open log share.

use std::path::Path;

use super::attest::Attest;
use super::catalog::Catalog;
use super::depth::Depth;
use super::flight::Flights;
use super::group::{Group, Resolved, Waiting};
use super::index::SegmentIndex;
use super::lineage::Lineage;
use super::options::{Background, Limits};
use super::pins::Pins;
use super::prepare::{Preparation, Preparer};
use super::progress::Progress;
use super::ready::Room;
use super::receipt::Receipts;
use super::retention::Retention;
use super::rows::Rows;
use super::slot::Slot;
use super::slots::Slots;
use super::stage::Stage;
use super::staging::Staging;
use super::stats::Stats;
use crate::clock::Clock;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{LogId, Lsn};
use crate::planted::{Bug, planted};
use crate::storage::ForkWord;
use crate::storage::{Directory, File, Lock, Storage};
use crate::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
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
    pub(super) slots: Slots,
    pub(super) flights: Flights,
    /// Groups that are being woken.
    pub(super) rows: Rows,
    pub(super) receipts: Receipts,
    pub(super) depth: Depth,
    /// Files that hold frames which were written plain and not synced since.
    pub(super) dirty: Vec<Arc<dyn File>>,
    pub(super) syncing: Option<SyncRequest>,
    /// What is attested, and when to attest more.
    pub(super) attest: Attest,
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
    /// The epochs until this one.
    pub(super) lineage: Lineage,
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
    /// Set when the log is poisoned: nothing is submitted from then on.
    pub(super) failing: AtomicBool,
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
    /// How many wait for the preparer: it does not rest meanwhile.
    pub(crate) preparer_awaited: AtomicUsize,
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

    /// Takes a slot, if nobody leads or is about to: for who writes whatever there is.
    pub(super) fn take_free(&mut self) -> Option<Slot> {
        if self.slots.is_idle() { self.slots.take() } else { None }
    }

    /// Those of `group`, wherever they wait.
    pub(super) fn waiting_of(&mut self, group: &Group) -> Option<&mut Waiting> {
        let syncing = self.syncing.iter_mut().map(|request| &mut request.waiting);
        let all = self.flights.all_waiting().chain(self.staging.all_waiting()).chain(syncing);
        all.into_iter().find(|waiting| waiting.is_of(group))
    }

    /// Whether anybody waits for a frame, a sync or room. Tails do not count: there may be nothing
    /// that would come.
    #[cfg(any(test, feature = "testing"))]
    pub(super) fn is_awaited(&mut self) -> bool {
        let flying = self.flights.all_waiting().any(|waiting| waiting.is_awaited());
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
        if !self.fork.is_forked() || planted(Bug::ForkUnnoticed) {
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
        self.failing.store(true, Ordering::Release);
        // Nothing is in flight in these (SLOT-4). Leaders keep theirs until they have reaped.
        drop(open.slots.go());
        let flights = open.flights.abandon().into_iter();
        let syncing = open.syncing.take().map(|request| request.waiting);
        let waiting = flights.chain(open.staging.abandon()).chain(syncing);
        let resolved = waiting.map(|waiting| waiting.resolve(Some(error.clone()))).collect();
        let mut resolved: Vec<_> = resolved;
        resolved.extend(open.rows.rest());
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
