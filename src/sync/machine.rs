//! The standard library, and the kernel.

pub(crate) use std::sync::atomic;
pub(crate) use std::sync::{Condvar, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};
pub(crate) use std::thread::{JoinHandle, current};

use std::time::Duration;

use rustix::thread::futex;

use crate::clock::Clock;

/// As much as a thread of the pool has: user code runs here, too. Only what is touched is backed.
const STACK_BYTES: usize = 16 << 20;

/// Starts a named thread.
#[allow(clippy::disallowed_methods, reason = "this is the seam, and it names the thread")]
pub(crate) fn spawn<T: Send + 'static>(
    name: &str,
    body: impl FnOnce() -> T + Send + 'static,
) -> std::io::Result<JoinHandle<T>> {
    std::thread::Builder::new().name(name.to_owned()).stack_size(STACK_BYTES).spawn(body)
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

/// A word that threads sleep on, and the kernel's queue of those who do.
#[derive(Debug, Default)]
pub(crate) struct Futex(atomic::AtomicU32);

impl Futex {
    pub(crate) fn word(&self) -> &atomic::AtomicU32 {
        &self.0
    }

    /// Sleeps if the word is `expected`, for `limit` at most; returns whether it was woken. May end
    /// at any moment, but who was chosen by [`Futex::wake`] is told so.
    pub(crate) fn wait(&self, expected: u32, limit: Option<Duration>) -> bool {
        let limit = limit.map(|limit| futex::Timespec {
            tv_sec: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(limit.subsec_nanos()),
        });
        // Returns at once if the word has changed; after any error the caller reads it again.
        futex::wait(&self.0, futex::Flags::PRIVATE, expected, limit.as_ref()).is_ok()
    }

    /// Wakes up to `count` of those who sleep, who came first first; returns how many.
    pub(crate) fn wake(&self, count: u32) -> u32 {
        // The kernel's number is signed. The call fails for invalid arguments only.
        let count = count.min(i32::MAX.cast_unsigned());
        let woken = futex::wake(&self.0, futex::Flags::PRIVATE, count).unwrap_or(0);
        u32::try_from(woken).unwrap_or(count)
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

/// As [`wait`](super::wait), but not beyond `deadline_ns` of a clock. May end at any moment: look
/// at the clock. Who moves its time notifies `condition`, holding the mutex.
pub(crate) fn wait_until<'a, T>(
    condition: &Condvar,
    guard: MutexGuard<'a, T>,
    clock: &dyn Clock,
    deadline_ns: u64,
) -> MutexGuard<'a, T> {
    match deadline_ns.saturating_sub(clock.monotonic_ns()) {
        0 => guard,
        _ if !clock.passes() => super::wait(condition, guard),
        left => wait_for(condition, guard, Duration::from_nanos(left)),
    }
}

/// As [`wait`](super::wait), but not for longer than `time`, by the system's clock: only for waits
/// whose length nothing depends on.
pub(crate) fn nap<'a, T>(
    _mutex: &'a Mutex<T>,
    condition: &Condvar,
    guard: MutexGuard<'a, T>,
    time: Duration,
) -> MutexGuard<'a, T> {
    wait_for(condition, guard, time)
}

fn wait_for<'a, T>(
    condition: &Condvar,
    guard: MutexGuard<'a, T>,
    time: Duration,
) -> MutexGuard<'a, T> {
    let (guard, _) =
        condition.wait_timeout(guard, time).unwrap_or_else(std::sync::PoisonError::into_inner);
    guard
}
