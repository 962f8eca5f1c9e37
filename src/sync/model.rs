//! The model checker `shuttle`: one thread runs at a time, and which one is the checker's choice at
//! every step. `just shuttle` runs what is checked, `tests/models/src/committer.rs`.

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

/// As the machine's, with a condition variable for the kernel's queue. Which of the sleepers a
/// wake-up reaches is the checker's choice.
#[derive(Debug, Default)]
pub(crate) struct Futex {
    word: atomic::AtomicU32,
    queue: Mutex<Queue>,
    woken: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    sleeping: u32,
    /// How many of those who were asleep have been woken and did not notice yet.
    woken: u32,
}

impl Futex {
    pub(crate) fn word(&self) -> &atomic::AtomicU32 {
        &self.word
    }

    /// Time does not pass by itself: who moves it changes the word.
    pub(crate) fn wait(&self, expected: u32, _limit: Option<Duration>) -> bool {
        let mut queue = lock(&self.queue);
        if self.word.load(atomic::Ordering::Acquire) != expected {
            return false;
        }
        queue.sleeping += 1;
        while queue.woken == 0 {
            queue = wait(&self.woken, queue);
        }
        queue.woken -= 1;
        true
    }

    pub(crate) fn wake(&self, count: u32) -> u32 {
        let mut queue = lock(&self.queue);
        let chosen = count.min(queue.sleeping);
        queue.sleeping -= chosen;
        queue.woken += chosen;
        drop(queue);
        self.woken.notify_all();
        chosen
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
