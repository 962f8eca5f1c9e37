//! What pending submissions hold of a log, and how they come by it without an atomic step.
//!
//! Each `Pending` counts as a reference. Counting up and down are two read-modify-writes for each
//! record, on a line that threads share; on x86 each also waits for the copy before it to reach
//! the cache. So a thread keeps the references it gets back, and hands them out again.
//!
//! SHARE-1: what a thread keeps is only a [`Share`]: once the last handle of the log has gone, that
//! holds nothing but marks and an outcome, no file, no buffer and no thread.
//! SHARE-2: when it holds no log any more, its marks and its error are final.

use std::cell::RefCell;
use std::path::Path;
use std::task::Waker;

use super::core::{Core, closed, forked};
use super::progress::Progress;
use crate::error::{Error, Result};
use crate::ids::Lsn;
use crate::storage::ForkWord;
use crate::sync::{Arc, Mutex, lane, lock};

/// How many counts of references a log has: for threads that keep none.
const LANES: usize = 8;
/// How many references a thread keeps. More than this come at once only when many submissions are
/// dropped before others are made.
const KEPT: usize = 64;

/// What a [`Pending`](crate::Pending) holds of the log.
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct Share {
    log: Mutex<Log>,
    progress: Arc<Progress>,
    fork: Arc<ForkWord>,
    path: Arc<Path>,
}

#[derive(Debug)]
enum Log {
    Here(Arc<Core>),
    /// The last handle has gone; the error if the log was poisoned by then.
    Gone(Option<Error>),
}

/// The shares of a log.
#[derive(Debug)]
pub(crate) struct Shares([Arc<Share>; LANES]);

impl Shares {
    pub(crate) fn new(core: &Arc<Core>) -> Shares {
        let path: Arc<Path> = core.directory.path().into();
        let share = || Share {
            log: Mutex::new(Log::Here(Arc::clone(core))),
            progress: Arc::clone(&core.progress),
            fork: Arc::clone(&core.fork),
            path: Arc::clone(&path),
        };
        Shares(std::array::from_fn(|_| Arc::new(share())))
    }

    /// A reference for a submission of this thread.
    #[inline]
    pub(crate) fn take(&self) -> Arc<Share> {
        let kept = |purse: &RefCell<Purse>| purse.try_borrow_mut().ok()?.take(self);
        // No purse any more: the thread is ending.
        let kept = PURSE.try_with(kept).ok().flatten();
        kept.unwrap_or_else(|| Arc::clone(&self.0[lane() % LANES]))
    }

    /// The last handle has gone: no more comes of this log than there is.
    pub(crate) fn let_go(&self, failed: Option<&Error>) {
        for share in &self.0 {
            // Dropped behind the lock: it may be the last reference to the log.
            let log = std::mem::replace(&mut *lock(&share.log), Log::Gone(failed.cloned()));
            drop(log);
        }
    }
}

impl Share {
    /// Takes a reference back from a submission.
    #[inline]
    pub(crate) fn give_back(self: Arc<Share>) {
        let mut share = Some(self);
        // Not kept if the thread is ending, or has enough.
        let keep = |purse: &RefCell<Purse>| {
            if let Ok(mut purse) = purse.try_borrow_mut() {
                purse.keep(&mut share);
            }
        };
        PURSE.try_with(keep).ok();
        drop(share);
    }

    /// The log, as long as it has a handle; `Ok(None)`: `lsn` is durable, and the log has gone.
    fn core(&self, lsn: Lsn) -> Result<Option<Arc<Core>>> {
        match &*lock(&self.log) {
            Log::Here(core) => Ok(Some(Arc::clone(core))),
            Log::Gone(_) if self.progress.durable() >= lsn => Ok(None),
            Log::Gone(Some(error)) => Err(error.clone()),
            Log::Gone(None) => Err(closed()),
        }
    }

    /// Whether `lsn` is durable. In a forked child, nothing is waited for.
    fn is_durable(&self, lsn: Lsn) -> Result<bool> {
        match self.fork.is_forked() {
            true => Err(forked(&self.path)),
            false => Ok(self.progress.durable() >= lsn),
        }
    }

    /// Waits until `lsn` and everything before it is durable.
    pub(crate) fn wait_durable(&self, lsn: Lsn) -> Result<()> {
        if self.is_durable(lsn)? {
            return Ok(());
        }
        match self.core(lsn)? {
            Some(core) => core.wait_durable(lsn).map(drop),
            None => Ok(()),
        }
    }

    /// As [`Share::wait_durable`] for a future: `None` if it has to be polled again, when `waker`
    /// is woken.
    pub(crate) fn poll_durable(&self, lsn: Lsn, waker: &Waker) -> Option<Result<()>> {
        match self.is_durable(lsn) {
            Ok(true) => return Some(Ok(())),
            Ok(false) => {}
            Err(error) => return Some(Err(error)),
        }
        match self.core(lsn) {
            Ok(Some(core)) => core.poll_durable(lsn, waker).map(|durable| durable.map(drop)),
            Ok(None) => Some(Ok(())),
            Err(error) => Some(Err(error)),
        }
    }
}

thread_local!(static PURSE: RefCell<Purse> = const { RefCell::new(Purse::EMPTY) });

/// References to one log that a thread keeps.
struct Purse {
    kept: [Option<Arc<Share>>; KEPT],
    count: usize,
}

impl Purse {
    const EMPTY: Purse = Purse { kept: [const { None }; KEPT], count: 0 };

    /// One of this log, if there is one.
    #[inline]
    fn take(&mut self, shares: &Shares) -> Option<Arc<Share>> {
        let last = self.count.checked_sub(1)?;
        let place = self.kept.get_mut(last)?;
        // All of one log say the same of it.
        if !Arc::ptr_eq(&place.as_ref()?.progress, &shares.0[0].progress) {
            return None;
        }
        self.count = last;
        place.take()
    }

    /// Keeps one, if there is a place; those of another log go.
    #[inline]
    fn keep(&mut self, share: &mut Option<Arc<Share>>) {
        // A model checker's own types must not outlive its run.
        if cfg!(shuttle) {
            return;
        }
        if let (Some(share), Some(Some(first))) = (&*share, self.kept.first())
            && !Arc::ptr_eq(&share.progress, &first.progress)
        {
            *self = Purse::EMPTY;
        }
        if let Some(place) = self.kept.get_mut(self.count) {
            *place = share.take();
            self.count += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::error::ErrorKind;
    use crate::{Wal, WalOptions};

    fn wal(path: &std::path::Path) -> Wal {
        Wal::open(path, WalOptions { segment_size: 64 << 10, ..WalOptions::default() }).unwrap()
    }

    #[test]
    fn what_is_kept_is_handed_out_again_and_never_to_another_log() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (one, two) = (wal(one.path()), wal(two.path()));
        for round in 0..3 {
            let many: Vec<_> = (0..200_u8).map(|byte| one.submit(&[byte; 9]).unwrap()).collect();
            for byte in 0..=round {
                two.submit(&[byte]).unwrap();
            }
            drop(many);
            let lone = one.submit(b"lone").unwrap();
            let other = two.submit(b"other").unwrap();
            assert_eq!(lone.wait().unwrap(), one.durable_lsn());
            assert_eq!(other.wait().unwrap(), two.durable_lsn());
        }
        assert_eq!((one.durable_lsn().get(), two.durable_lsn().get()), (603, 9));
    }

    #[test]
    fn a_thread_that_keeps_references_keeps_no_log() {
        let place = tempfile::tempdir().unwrap();
        let wal = wal(place.path());
        let core = crate::sync::Arc::downgrade(wal.core());
        for byte in 0..100_u8 {
            drop(wal.submit(&[byte]).unwrap());
        }
        let last = wal.submit(b"last").unwrap();
        drop(wal);
        assert!(core.upgrade().is_none(), "SHARE-1");
        assert_eq!(last.wait().unwrap(), last.lsn(), "what was submitted was made durable");
    }

    #[test]
    fn what_was_not_durable_when_a_poisoned_log_went_fails_with_its_error() {
        let place = tempfile::tempdir().unwrap();
        let wal = wal(place.path());
        let early = wal.submit(b"early").unwrap();
        early.wait().unwrap();
        let late = wal.submit(b"late").unwrap();
        let late_lsn = late.lsn();
        wal.core().poison(crate::Error::new(ErrorKind::Poisoned, "the test says so"));
        let durable = wal.durable_lsn();
        drop(wal);
        early.wait().unwrap();
        match late.wait() {
            Ok(lsn) => assert!(lsn <= durable, "durable before it was poisoned"),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Poisoned);
                assert!(late_lsn > durable);
            }
        }
    }
}
