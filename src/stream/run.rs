//! A job that runs on its own thread.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;
use std::time::Duration;

use super::driver::{JobDriver, Stepped};
use super::events::Event;
use super::progress::{Board, Progress};
use super::saves::Saves;
use crate::checkpoint::Pace;
use crate::clock::{Clock, SystemClock};
use crate::error::{Error, ErrorKind, Result};
use crate::exec::CancelToken;
use crate::storage::Storage;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Arc, Condvar, JoinHandle, Mutex, current, lock, spawn};

/// The longest time between two looks at idle sources.
const IDLE_MAX: Duration = Duration::from_millis(10);
/// The shortest one: behind a batch, the next records are on their way.
const IDLE_MIN: Duration = Duration::from_micros(100);
/// The longest time for which a tick is waited for at once.
const PATIENCE: Duration = Duration::from_millis(100);
/// For how long the end of user code is waited for, once its job is given up.
const LONGEST_TASK: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Wish {
    #[default]
    Run,
    /// Process what is there, take a checkpoint.
    Drain,
    /// Finish the batch, take a checkpoint.
    Stop,
    /// Finish the batch.
    Abandon,
}

#[derive(Debug, Default)]
struct Wishes {
    end: Wish,
    paused: bool,
    /// Whether the driver has gone.
    gone: bool,
}

/// What the handle tells the driver's thread, and that one tells the handle.
#[derive(Debug)]
struct Control {
    wishes: Mutex<Wishes>,
    changed: Condvar,
    /// The driver's: whether it is to end.
    ending: Arc<AtomicBool>,
    cancel: CancelToken,
}

impl Control {
    /// How the job is to end, and whether it is to rest until then.
    fn asked(&self) -> (Wish, bool) {
        let wishes = lock(&self.wishes);
        (wishes.end, wishes.paused && wishes.end == Wish::Run)
    }

    fn ask(&self, wish: Wish) {
        let mut wishes = lock(&self.wishes);
        wishes.end = wish.max(wishes.end);
        drop(wishes);
        // Whoever drains still wants every sink to be called as often as it takes.
        if wish > Wish::Drain {
            self.ending.store(true, Ordering::Release);
        }
        self.changed.notify_all();
    }

    fn pause(&self, paused: bool) {
        lock(&self.wishes).paused = paused;
        self.changed.notify_all();
    }

    fn gone(&self) {
        lock(&self.wishes).gone = true;
        self.changed.notify_all();
    }

    /// Waits a little, or until something else is asked than this.
    fn wait(&self, (end, rests): (Wish, bool), at_most: Duration) {
        let wishes = lock(&self.wishes);
        if wishes.end == end && (wishes.paused && wishes.end == Wish::Run) == rests {
            drop(self.changed.wait_timeout(wishes, at_most));
        }
    }

    /// Waits until the driver has gone; `false` if it still has not.
    fn await_gone(&self, at_most: Duration) -> bool {
        let mut wishes = lock(&self.wishes);
        let (clock, mut left) = (SystemClock, at_most);
        let until = clock.monotonic_ns().saturating_add(nanos(at_most));
        while !wishes.gone && !left.is_zero() {
            wishes = match self.changed.wait_timeout(wishes, left) {
                Ok((wishes, _)) => wishes,
                Err(poisoned) => poisoned.into_inner().0,
            };
            left = Duration::from_nanos(until.saturating_sub(clock.monotonic_ns()));
        }
        wishes.gone
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// A started job. Dropping it waits until the batch in work is done, and ends the job behind it
/// without a checkpoint: what was done is in the log, and the next start goes on from there.
pub struct StreamRun {
    control: Arc<Control>,
    board: Board,
    thread: Option<JoinHandle<Result<()>>>,
    saves: Saves,
    storage: Arc<dyn Storage>,
    place: PathBuf,
}

impl fmt::Debug for StreamRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StreamRun(batch {})", self.board.read().batch)
    }
}

impl StreamRun {
    /// Runs the driver on a thread of its own. `ended` goes when the driver has gone.
    pub(crate) fn spawn(
        driver: JobDriver,
        ended: impl Send + 'static,
        place: PathBuf,
    ) -> Result<StreamRun> {
        let (wishes, changed) = (Mutex::default(), Condvar::new());
        let (ending, cancel) = (Arc::clone(&driver.ending), driver.cancel.clone());
        let control = Arc::new(Control { wishes, changed, ending, cancel });
        let (told, board) = (Arc::clone(&control), driver.board.clone());
        let (saves, storage) = (driver.saves.clone(), Arc::clone(&driver.env.storage));
        let asked = saves.clone();
        let thread = spawn("sawmill-driver", move || {
            let mut driver = driver;
            let outcome = catch_unwind(AssertUnwindSafe(|| {
                let driven = drive(&mut driver, &told);
                if let Err(error) = &driven {
                    let batch = driver.boundary.batch;
                    // A listener that panics has nothing to add to the error.
                    drop(driver.tell(|| Event::Ended { batch, error: error.clone() }));
                }
                driven
            }));
            // However it ended: what was left for a next step, which does not come.
            driver.env.wal.begin_durable(driver.env.wal.appended_lsn());
            drop((driver, ended));
            asked.close();
            told.gone();
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
        Ok(StreamRun { control, board, thread: Some(thread), saves, storage, place })
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

    /// Has a checkpoint taken of the last completed batch, or of a later one, and waits until it
    /// stands.
    pub(crate) fn await_checkpoint(&self) -> Result<()> {
        let (reply, answer) = channel();
        self.saves.ask(reply);
        self.control.changed.notify_all();
        answer.recv().map_err(|cause| {
            let message = "the job ended before its checkpoint stood";
            Error::new(ErrorKind::Closed, message).caused_by(cause)
        })?
    }

    /// Where the engine is, and how what is written there gives way to its log.
    pub(crate) fn place(&self) -> (&dyn Storage, &Path, Pace) {
        (&*self.storage, &self.place, self.saves.pace())
    }

    /// Begins no further batch until [`resume`](StreamRun::resume). The one in work is finished;
    /// [`Progress::paused`] says when the job rests. Records may be appended meanwhile.
    pub fn pause(&self) {
        self.control.pause(true);
    }

    /// Goes on after a pause.
    pub fn resume(&self) {
        self.control.pause(false);
    }

    /// Processes everything that is durable in the log, and in the files of direct sources, when it
    /// is called, also in a paused job and without waiting for an interval's ticks; then ends the
    /// job as [`stop`](StreamRun::stop) does.
    ///
    /// # Errors
    /// As [`stop`](StreamRun::stop).
    pub fn drain(mut self) -> Result<Progress> {
        self.control.ask(Wish::Drain);
        self.join()
    }

    /// As [`stop`](StreamRun::stop), for at most so long. Then the batch in work is given up: it
    /// stays in flight, and the next start goes on with it, under the same id. That is always
    /// safe, as a kill is.
    ///
    /// # Errors
    /// As [`stop`](StreamRun::stop); `TimedOut` if a batch was given up, or if user code has not
    /// even returned a second later: the job ends when it does.
    pub fn stop_within(mut self, at_most: Duration) -> Result<Progress> {
        self.control.ask(Wish::Stop);
        if self.control.await_gone(at_most) {
            return self.join();
        }
        self.give_up();
        let gone = self.control.await_gone(LONGEST_TASK);
        let ended = if gone { self.join() } else { Ok(self.board.read()) };
        match ended {
            Err(error) if error.kind() == ErrorKind::Closed => Err(timed_out(&self.board)),
            Ok(_) if !gone => {
                self.thread = None;
                Err(timed_out(&self.board))
            }
            ended => ended,
        }
    }

    /// Ends the job now, and gives up the batch in work: it stays in flight, and the next start
    /// goes on with it, under the same id. Waits for user code that is being called, and for a
    /// checkpoint that is being written, for nothing else.
    ///
    /// # Errors
    /// As [`await_termination`](StreamRun::await_termination), but for the batch given up.
    pub fn abort(mut self) -> Result<Progress> {
        self.give_up();
        match self.join() {
            Err(error) if error.kind() == ErrorKind::Closed => Ok(self.board.read()),
            ended => ended,
        }
    }

    fn give_up(&self) {
        self.control.ask(Wish::Abandon);
        self.control.cancel.cancel();
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

fn timed_out(board: &Board) -> Error {
    let message = format!(
        "the job was given up behind batch {}; started again, it goes on with the next one",
        board.read().batch
    );
    Error::new(ErrorKind::TimedOut, message)
}

fn drive(driver: &mut JobDriver, control: &Control) -> Result<()> {
    let mut idle = IDLE_MIN;
    loop {
        let asked = control.asked();
        match asked {
            (Wish::Run, true) => {
                driver.rest()?;
                control.wait(asked, IDLE_MAX);
                continue;
            }
            (Wish::Run, false) => driver.wake(),
            (Wish::Drain, _) => driver.drain(),
            (Wish::Stop, _) => return driver.finish(),
            (Wish::Abandon, _) => return Ok(()),
        }
        match driver.step()? {
            Stepped::Batch(_) => idle = IDLE_MIN,
            Stepped::Ended => return Ok(()),
            Stepped::Idle => {
                let due = Duration::from_nanos(driver.wait_ns(driver.env.clock.monotonic_ns()));
                // Under an interval nobody looks before the tick.
                control.wait(asked, if due.is_zero() { idle } else { due.min(PATIENCE) });
                idle = (idle * 2).min(IDLE_MAX);
            }
        }
    }
}
