//! The model checker `shuttle`: one thread runs at a time, and which one is the checker's choice at
//! every step. `just shuttle` runs what is checked, `tests/shuttle_commit.rs`.

pub(crate) use shuttle::sync::atomic;
pub(crate) use shuttle::sync::{
    Condvar, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard,
};
pub(crate) use shuttle::thread::current;

use std::time::Duration;

use super::{Arc, lock, wait};
use crate::clock::Clock;

/// A thread of the model.
#[derive(Debug)]
pub(crate) struct JoinHandle<T> {
    thread: shuttle::thread::JoinHandle<T>,
    finished: Arc<atomic::AtomicBool>,
}

impl<T> JoinHandle<T> {
    pub(crate) fn join(self) -> std::thread::Result<T> {
        self.thread.join()
    }

    pub(crate) fn thread(&self) -> &shuttle::thread::Thread {
        self.thread.thread()
    }

    pub(crate) fn is_finished(&self) -> bool {
        self.finished.load(atomic::Ordering::Acquire)
    }
}

/// Starts a thread of the model.
pub(crate) fn spawn<T: Send + 'static>(
    name: &str,
    body: impl FnOnce() -> T + Send + 'static,
) -> std::io::Result<JoinHandle<T>> {
    let finished = Arc::new(atomic::AtomicBool::new(false));
    let flag = Arc::clone(&finished);
    let body = move || {
        let result = body();
        flag.store(true, atomic::Ordering::Release);
        result
    };
    let thread = shuttle::thread::Builder::new().name(name.to_owned()).spawn(body)?;
    Ok(JoinHandle { thread, finished })
}

/// Runs `body` on `count` threads of the model, the calling one included.
#[allow(clippy::unnecessary_wraps, reason = "the machine may refuse a thread, a model does not")]
pub(crate) fn scoped(_name: &str, count: usize, body: impl Fn() + Sync) -> std::io::Result<()> {
    shuttle::thread::scope(|scope| {
        for _ in 1..count {
            scope.spawn(&body);
        }
        body();
    });
    Ok(())
}

/// As the machine's, with a condition variable for the kernel's queue.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    word: atomic::AtomicU32,
    queue: Mutex<()>,
    woken: Condvar,
}

impl Gate {
    pub(crate) fn swap(&self, value: u32) -> u32 {
        self.word.swap(value, atomic::Ordering::AcqRel)
    }

    pub(crate) fn open(&self, value: u32) {
        self.swap(value);
        self.nudge();
    }

    pub(crate) fn nudge(&self) {
        drop(lock(&self.queue));
        self.woken.notify_all();
    }

    pub(crate) fn wait_until(&self, value: u32, clock: &dyn Clock, deadline_ns: u64) -> u32 {
        let mut queue = lock(&self.queue);
        loop {
            let now = self.word.load(atomic::Ordering::Acquire);
            if now != value || clock.monotonic_ns() >= deadline_ns {
                return now;
            }
            queue = wait(&self.woken, queue);
        }
    }

    pub(crate) fn wait_while(&self, value: u32) -> u32 {
        let mut queue = lock(&self.queue);
        loop {
            let now = self.word.load(atomic::Ordering::Acquire);
            if now != value {
                return now;
            }
            queue = wait(&self.woken, queue);
        }
    }
}

/// As the machine's: which one does not matter, that they differ does.
pub(crate) fn lane() -> usize {
    usize::from(shuttle::current::me())
}

/// Time passes only when a test moves it, and then `condition` is notified.
pub(crate) fn wait_until<'a, T>(
    condition: &Condvar,
    guard: MutexGuard<'a, T>,
    clock: &dyn Clock,
    deadline_ns: u64,
) -> MutexGuard<'a, T> {
    match deadline_ns.saturating_sub(clock.monotonic_ns()) {
        0 => guard,
        _ => wait(condition, guard),
    }
}

/// Its length says nothing, so it is as long as the checker likes, from not at all to whatever
/// the other threads do meanwhile.
pub(crate) fn nap<'a, T>(
    mutex: &'a Mutex<T>,
    _condition: &Condvar,
    guard: MutexGuard<'a, T>,
    _time: Duration,
) -> MutexGuard<'a, T> {
    drop(guard);
    shuttle::thread::yield_now();
    lock(mutex)
}
