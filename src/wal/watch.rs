//! Watching a log: whether somebody waits and nothing happens, and what the committer's state is
//! then. For tests; see [`testing::watched`](crate::testing::watched).
//!
//! WATCH-1: nothing here waits for a lock of the log: whoever holds one may be what is wrong.

use std::cell::RefCell;
use std::panic::resume_unwind;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{TryLockError, Weak};
use std::time::Duration;

use super::core::{Core, Open};
use crate::sync::{Arc, Mutex, MutexGuard, lock, spawn};

/// How often a log is looked at.
const LOOK: Duration = Duration::from_millis(50);
/// How long nothing may happen while somebody waits.
const PATIENCE: Duration = Duration::from_secs(10);
/// How many times as long everything together may take when nobody waits for a log.
const ALTOGETHER: u32 = 12;

/// Logs that were opened by a watched body.
type Logs = Arc<Mutex<Vec<Weak<Core>>>>;

thread_local!(static LOGS: RefCell<Option<Logs>> = const { RefCell::new(None) });

/// A log was opened by this thread: it is watched, if the thread is.
pub(super) fn opened(core: &Arc<Core>) {
    let logs = LOGS.with_borrow(Clone::clone);
    if let Some(logs) = logs {
        lock(&logs).push(Arc::downgrade(core));
    }
}

/// What moves when something happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Pulse {
    written: u64,
    durable: u64,
    events: u64,
}

impl Core {
    fn try_open(&self) -> Option<MutexGuard<'_, Open>> {
        match self.open.try_lock() {
            Ok(guard) => Some(guard),
            Err(TryLockError::Poisoned(guard)) => Some(guard.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// How far the log has come, if somebody waits for it to come further.
    fn pulse(&self) -> Option<Pulse> {
        let mut open = self.try_open()?;
        let events = open.spacious.events();
        let marks = (self.progress.written().get(), self.progress.durable().get());
        let pulse = Pulse { written: marks.0, durable: marks.1, events };
        open.is_awaited().then_some(pulse)
    }

    /// The committer's state: marks, where the slot is, what is in flight, staged and waited for.
    pub(super) fn dump(&self) -> String {
        let progress = &self.progress;
        let (appended, written) = (progress.appended(), progress.written());
        let mut text = format!(
            "log {}: taken out {appended}, written {written}, durable {}\n",
            self.directory.path().display(),
            progress.durable()
        );
        // Who holds it may be about to let go.
        let mut found = (0..20).find_map(|_| {
            std::thread::yield_now();
            self.try_open()
        });
        match &mut found {
            Some(open) => {
                let state = format!("{:#?}", **open);
                let unused = |line: &&str| line.contains("StagingBuffer(Claimed { end: 0,");
                let lines = state.lines().filter(|line| !unused(line));
                lines.for_each(|line| text.extend([line, "\n"]));
            }
            None => text.push_str("its mutex is held\n"),
        }
        text
    }
}

/// Runs `body` on a thread of its own, and fails when somebody waits for a log that it opened there
/// and nothing happens to that log for 10 s: an append that stays unresolved is a bug. The failure
/// says what the committer's state is. However slow the machine is, a log that moves is left alone.
///
/// # Panics
/// Then; or as `body` does; or if `body` takes two minutes.
pub fn watched<T: Send + 'static>(body: impl FnOnce() -> T + Send + 'static) -> T {
    watched_for(PATIENCE, body)
}

/// As [`watched`], with another patience.
pub(crate) fn watched_for<T: Send + 'static>(
    patience: Duration,
    body: impl FnOnce() -> T + Send + 'static,
) -> T {
    let logs = Logs::default();
    let seen = Arc::clone(&logs);
    let (done, watch) = channel();
    let body = move || {
        LOGS.set(Some(seen));
        drop(done.send(body()));
    };
    let thread = match spawn("watched", body) {
        Ok(thread) => thread,
        Err(failure) => panic!("the system refused a thread: {failure}"),
    };
    let mut since = Duration::ZERO;
    let (mut last, mut altogether) = (Vec::new(), Duration::ZERO);
    loop {
        match watch.recv_timeout(LOOK) {
            Ok(result) => return result,
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => match thread.join() {
                Err(panic) => resume_unwind(panic),
                Ok(()) => unreachable!("a body that ends has sent its result"),
            },
        }
        let logs: Vec<_> = lock(&logs).iter().filter_map(Weak::upgrade).collect();
        let pulses: Vec<_> = logs.iter().map(|core| core.pulse()).collect();
        let stuck = pulses.iter().zip(&last).any(|(now, then)| now.is_some() && now == then);
        since = if stuck { since + LOOK } else { Duration::ZERO };
        altogether += LOOK;
        if since >= patience || altogether >= patience * ALTOGETHER {
            let dumps: Vec<_> = logs.iter().map(|core| core.dump()).collect();
            panic!("somebody still waits for the log\n{}", dumps.join("\n"));
        }
        last = pulses;
    }
}
