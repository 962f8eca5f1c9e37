//! The standard library, and the kernel.

pub(crate) use std::sync::atomic;
pub(crate) use std::sync::{Condvar, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};
pub(crate) use std::thread::{JoinHandle, current};

use std::time::Duration;

use rustix::thread::futex;

use crate::clock::Clock;

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

/// In a gate's word: what it says. Above it, how often it was nudged.
const SAYS: u32 = 0xff;
/// In a gate's word: one nudge.
const NUDGE: u32 = SAYS + 1;

/// A word of 8 bits that threads sleep on until it changes. Waking everybody is one system call,
/// and nobody has to take a lock again afterwards: what a group of 64 waiters needs.
#[derive(Debug, Default)]
pub(crate) struct Gate(atomic::AtomicU32);

impl Gate {
    /// Changes the word, waking nobody, and returns what it was: in one step, so that what came
    /// before the change to that is visible.
    pub(crate) fn swap(&self, value: u32) -> u32 {
        self.0.swap(value, atomic::Ordering::AcqRel) & SAYS
    }

    /// Changes the word and wakes everybody. A read-modify-write: if several threads open it, who
    /// reads the word sees what each of them did before, not only the last one.
    pub(crate) fn open(&self, value: u32) {
        self.swap(value);
        self.wake();
    }

    /// Has everybody who sleeps until a moment look at the clock again: time was moved. It stays
    /// noticed by who has looked and does not sleep yet, until the word is changed.
    pub(crate) fn nudge(&self) {
        self.0.fetch_add(NUDGE, atomic::Ordering::AcqRel);
        self.wake();
    }

    fn wake(&self) {
        // The call fails for invalid arguments only.
        futex::wake(&self.0, futex::Flags::PRIVATE, i32::MAX.cast_unsigned()).ok();
    }

    /// Sleeps while the word is `value`, until `deadline_ns` of a clock at most; returns what it is
    /// then.
    pub(crate) fn wait_until(&self, value: u32, clock: &dyn Clock, deadline_ns: u64) -> u32 {
        loop {
            let word = self.0.load(atomic::Ordering::Acquire);
            // After the word: who moves time nudges afterwards, so that the word has changed.
            let left = deadline_ns.saturating_sub(clock.monotonic_ns());
            if word & SAYS != value || left == 0 {
                return word & SAYS;
            }
            let left = Duration::from_nanos(left);
            let limit = futex::Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: i64::from(left.subsec_nanos()),
            };
            let limit = clock.passes().then_some(&limit);
            // Returns at once if the word has changed; any error just reads it again.
            futex::wait(&self.0, futex::Flags::PRIVATE, word, limit).ok();
        }
    }

    /// Sleeps until the word is not `value`; returns what it is.
    pub(crate) fn wait_while(&self, value: u32) -> u32 {
        loop {
            let word = self.0.load(atomic::Ordering::Acquire);
            if word & SAYS != value {
                return word & SAYS;
            }
            // Returns at once if the word has changed; any error just reads it again.
            futex::wait(&self.0, futex::Flags::PRIVATE, word, None).ok();
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

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::clock::{ManualClock, Sleeper};
    use crate::sync::Arc;

    impl Sleeper for Gate {
        fn time_moved(&self) {
            self.nudge();
        }
    }

    /// Without a look at the clock in between: moving it is the event.
    #[test]
    fn time_that_is_moved_by_hand_ends_a_wait() {
        for _ in 0..100 {
            let (gate, clock) = (Arc::new(Gate::default()), Arc::new(ManualClock::default()));
            let (done, watch) = mpsc::channel();
            let sleeper = (Arc::clone(&gate), Arc::clone(&clock));
            let body = move || {
                let (gate, clock) = sleeper;
                let weak = Arc::downgrade(&gate);
                clock.watch(weak);
                done.send(gate.wait_until(0, &*clock, 3_600_000_000_000)).unwrap();
            };
            let thread = spawn("sleeper", body).unwrap();
            clock.advance(Duration::from_secs(1800));
            clock.advance(Duration::from_secs(1800));
            assert_eq!(watch.recv_timeout(Duration::from_secs(10)), Ok(0));
            thread.join().unwrap();
        }
    }

    #[test]
    fn a_gate_that_is_opened_ends_a_wait_whatever_was_nudged() {
        let gate = Arc::new(Gate::default());
        let other = Arc::clone(&gate);
        let body = move || other.wait_until(0, &ManualClock::default(), u64::MAX);
        let thread = spawn("sleeper", body).unwrap();
        (0..300).for_each(|_| gate.nudge());
        gate.open(2);
        gate.nudge();
        assert_eq!((thread.join().unwrap(), gate.wait_while(0), gate.swap(0)), (2, 2, 2));
    }
}
