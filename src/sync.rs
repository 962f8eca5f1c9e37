//! Threads and their meeting points. Everything concurrent takes its types from here, so that a
//! model checker can stand in for the standard library.

pub(crate) use std::sync::atomic;
pub(crate) use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, RwLock};
pub(crate) use std::thread::{JoinHandle, current};

use rustix::thread::futex;

/// Starts a named thread.
#[allow(clippy::disallowed_methods, reason = "this is the seam, and it names the thread")]
pub(crate) fn spawn<T: Send + 'static>(
    name: &str,
    body: impl FnOnce() -> T + Send + 'static,
) -> std::io::Result<JoinHandle<T>> {
    std::thread::Builder::new().name(name.to_owned()).spawn(body)
}

/// Runs `body` on `count` threads at once, the calling one included; returns when all are done. A
/// panic of one becomes the caller's.
///
/// # Errors
/// The system refused a thread: `body` has run on fewer.
pub(crate) fn scoped(name: &str, count: usize, body: impl Fn() + Sync) -> std::io::Result<()> {
    std::thread::scope(|scope| {
        let started = (1..count).try_for_each(|_| {
            let builder = std::thread::Builder::new().name(name.to_owned());
            builder.spawn_scoped(scope, &body).map(drop)
        });
        body();
        started
    })
}

/// Locks, also after a panic of another holder: our own panics poison the log by other means.
pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Locks if nobody holds it, this thread included.
pub(crate) fn try_lock<T: ?Sized>(mutex: &Mutex<T>) -> Option<MutexGuard<'_, T>> {
    match mutex.try_lock() {
        Ok(guard) => Some(guard),
        Err(std::sync::TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
        Err(std::sync::TryLockError::WouldBlock) => None,
    }
}

/// A word that threads sleep on until it changes. Waking everybody is one system call, and nobody
/// has to take a lock again afterwards: what a group of 64 waiters needs.
#[derive(Debug, Default)]
pub(crate) struct Gate(atomic::AtomicU32);

impl Gate {
    /// What the word says. What was written before [`Gate::open`] is visible to who reads it.
    pub(crate) fn get(&self) -> u32 {
        self.0.load(atomic::Ordering::Acquire)
    }

    /// Changes the word, waking nobody, and returns what it was: in one step, so that what came
    /// before the change to that is visible.
    pub(crate) fn swap(&self, value: u32) -> u32 {
        self.0.swap(value, atomic::Ordering::AcqRel)
    }

    /// Changes the word and wakes everybody. A read-modify-write: if several threads open it, who
    /// reads the word sees what each of them did before, not only the last one.
    pub(crate) fn open(&self, value: u32) {
        self.swap(value);
        // The call fails for invalid arguments only.
        futex::wake(&self.0, futex::Flags::PRIVATE, i32::MAX.cast_unsigned()).ok();
    }

    /// Sleeps while the word is `value`, but no longer than `limit`; returns what it is then.
    pub(crate) fn wait_briefly(&self, value: u32, limit: std::time::Duration) -> u32 {
        let now = self.get();
        if now == value {
            let limit = futex::Timespec {
                tv_sec: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: i64::from(limit.subsec_nanos()),
            };
            // Returns at once if the word has changed; the caller looks at it again anyway.
            futex::wait(&self.0, futex::Flags::PRIVATE, value, Some(&limit)).ok();
        }
        self.get()
    }

    /// Sleeps until the word is not `value`; returns what it is.
    pub(crate) fn wait_while(&self, value: u32) -> u32 {
        loop {
            let now = self.get();
            if now != value {
                return now;
            }
            // Returns at once if the word has changed; any error just reads it again.
            futex::wait(&self.0, futex::Flags::PRIVATE, value, None).ok();
        }
    }
}

/// A small number of this thread, by which it picks among things that threads should not fight
/// over. Threads may have the same one.
#[inline]
pub(crate) fn lane() -> usize {
    static NEXT: atomic::AtomicUsize = atomic::AtomicUsize::new(0);
    const NONE: usize = usize::MAX;
    thread_local!(static LANE: std::cell::Cell<usize> = const { std::cell::Cell::new(NONE) });
    // Without a destructor, so that it can be had as long as the thread runs.
    match LANE.get() {
        NONE => {
            let fresh = NEXT.fetch_add(1, atomic::Ordering::Relaxed) % 1024;
            LANE.set(fresh);
            fresh
        }
        known => known,
    }
}

/// Waits on a condition variable, also after a panic of another holder.
pub(crate) fn wait<'a, T>(condition: &Condvar, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
    condition.wait(guard).unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// As [`wait`], but not for longer than `time`, by the system's clock: only for waits whose length
/// nothing depends on.
pub(crate) fn wait_for<'a, T>(
    condition: &Condvar,
    guard: MutexGuard<'a, T>,
    time: std::time::Duration,
) -> MutexGuard<'a, T> {
    let (guard, _) =
        condition.wait_timeout(guard, time).unwrap_or_else(std::sync::PoisonError::into_inner);
    guard
}
