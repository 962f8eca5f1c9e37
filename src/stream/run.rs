//! A job that runs on its own thread.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use super::cut::Writing;
use super::driver::{JobDriver, Stepped};
use super::progress::{Board, Progress};
use crate::error::{Error, ErrorKind, Result};
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Arc, Condvar, JoinHandle, Mutex, current, lock, spawn};

/// The longest time between two looks at idle sources.
const IDLE_MAX: Duration = Duration::from_millis(10);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Wish {
    Run,
    /// Finish the batch, take a checkpoint.
    Stop,
    /// Finish the batch.
    Abandon,
}

/// What the handle tells the driver's thread.
#[derive(Debug)]
struct Control {
    wish: Mutex<Wish>,
    changed: Condvar,
    /// The driver's: whether it is to end.
    ending: Arc<AtomicBool>,
}

impl Control {
    fn wish(&self) -> Wish {
        *lock(&self.wish)
    }

    fn ask(&self, wish: Wish) {
        let mut now = lock(&self.wish);
        *now = wish.max(*now);
        drop(now);
        self.ending.store(true, Ordering::Release);
        self.changed.notify_all();
    }

    /// Waits a little, or until something is asked.
    fn wait(&self, at_most: Duration) {
        let now = lock(&self.wish);
        if *now == Wish::Run {
            drop(self.changed.wait_timeout(now, at_most));
        }
    }
}

/// A started job. Dropping it waits until the batch in work is done, and ends the job behind it
/// without a checkpoint: what was done is in the log, and the next start goes on from there.
pub struct StreamRun {
    control: Arc<Control>,
    board: Board,
    thread: Option<JoinHandle<Result<()>>>,
}

impl fmt::Debug for StreamRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StreamRun(batch {})", self.board.read().batch)
    }
}

impl StreamRun {
    /// Runs the driver on a thread of its own. `ended` goes when the driver has gone.
    pub(crate) fn spawn(mut driver: JobDriver, ended: impl Send + 'static) -> Result<StreamRun> {
        driver.writing = Writing::Beside;
        let (wish, changed) = (Mutex::new(Wish::Run), Condvar::new());
        let control = Arc::new(Control { wish, changed, ending: Arc::clone(&driver.ending) });
        let (told, board) = (Arc::clone(&control), driver.board.clone());
        let thread = spawn("sawmill-driver", move || {
            let mut driver = driver;
            let outcome = catch_unwind(AssertUnwindSafe(|| drive(&mut driver, &told)));
            drop((driver, ended));
            outcome.unwrap_or_else(|panic| {
                let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
                let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
                let text = text.unwrap_or_else(|| "no message".to_owned());
                let message = format!("the driver panicked ({text}); open the engine again");
                Err(Error::new(ErrorKind::Poisoned, message))
            })
        })
        .map_err(|cause| {
            Error::new(ErrorKind::Io, "the driver's thread could not be started").caused_by(cause)
        })?;
        Ok(StreamRun { control, board, thread: Some(thread) })
    }

    /// How far the job is.
    #[must_use]
    pub fn progress(&self) -> Progress {
        self.board.read()
    }

    /// Whether the job has ended, well or not.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Waits until the job ends by itself: available-now and nothing more there, or every source
    /// at its declared end.
    ///
    /// # Errors
    /// What ended the job early: `SourceChanged`, `TaskFailed`, `SinkFailed`, the log's. What was
    /// completed until then stays; started again, the job goes on behind it.
    pub fn await_termination(mut self) -> Result<Progress> {
        self.join()
    }

    /// Finishes the batch in work, takes a checkpoint, ends the job. A sink that fails is not tried
    /// again: the batch stays in flight, for the next start.
    ///
    /// # Errors
    /// As [`await_termination`](StreamRun::await_termination); `Invalid` on the job's own thread,
    /// that is from one of its callbacks.
    pub fn stop(mut self) -> Result<Progress> {
        self.control.ask(Wish::Stop);
        self.join()
    }

    fn join(&mut self) -> Result<Progress> {
        let Some(thread) = self.thread.take() else { return Ok(self.board.read()) };
        if thread.thread().id() == current().id() {
            // From a callback, on the driver's own thread: it ends when the callback has returned.
            let message = "a job cannot wait for its own end: stop it from another thread";
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        let ended = thread.join().unwrap_or_else(|_| {
            Err(Error::new(ErrorKind::Poisoned, "the driver's thread panicked"))
        });
        ended.map(|()| self.board.read())
    }
}

impl Drop for StreamRun {
    fn drop(&mut self) {
        self.control.ask(Wish::Abandon);
        // Its error has nobody to go to; what was acknowledged is safe without it.
        drop(self.join());
    }
}

fn drive(driver: &mut JobDriver, control: &Control) -> Result<()> {
    let mut idle = Duration::from_millis(1);
    loop {
        match control.wish() {
            Wish::Run => {}
            Wish::Stop => return driver.finish(),
            Wish::Abandon => return Ok(()),
        }
        match driver.step()? {
            Stepped::Batch(_) => idle = Duration::from_millis(1),
            Stepped::Ended => return Ok(()),
            Stepped::Idle => {
                control.wait(idle);
                idle = (idle * 2).min(IDLE_MAX);
            }
        }
    }
}
