//! How one run of a job is driven.

use std::fmt;
use std::time::Duration;

use super::events::EventListener;
use super::progress::Listener;
use super::trigger::{Trigger, check_bytes};
use crate::error::{Error, ErrorKind, Result};

/// How [`Engine::start`](crate::Engine::start) drives a job.
///
/// ```
/// use sawmill::{RunOptions, Trigger};
/// let trigger = Trigger::AvailableNow { bytes: 1 << 20 };
/// let options = RunOptions { trigger, ..RunOptions::default() };
/// assert_eq!(options.parallelism, 8);
/// ```
#[derive(Clone)]
pub struct RunOptions {
    /// How batches are cut. Default: about 4 MiB each, until stopped.
    pub trigger: Trigger,
    /// About how many input bytes a batch has at most, over all sources, whatever the trigger and
    /// however much is there. Twice as much may be in memory: the next batch is read ahead; what
    /// comes faster than it is processed waits in the log, or in its files. Default 64 MiB, minimum
    /// 1 byte, maximum 1 GiB.
    pub batch_bytes: u64,
    /// The same for the first batch of this run, which may find a long backlog and everything cold.
    /// Default `None`: as any other. Minimum 1 byte, maximum 1 GiB.
    pub first_batch_bytes: Option<u64>,
    /// How long a recovery may take that loads the newest checkpoint and computes again what was
    /// completed behind it. The engine measures both and takes checkpoints as often as that needs,
    /// but never so often that batches wait more than a seventh of their time for them;
    /// [`Progress::predicted_recovery`](crate::Progress::predicted_recovery) says how long it
    /// would take now. Opening the log, and user code elsewhere, is not in it. Default 2 s, minimum
    /// 10 ms, maximum 1 day.
    pub recovery_budget: Duration,
    /// The longest time between checkpoints, whatever the budget; one is also taken when the job
    /// ends. They are written beside the batches that follow, one at a time. Default 10 s, minimum
    /// 0 (behind the batch that completes when the one before is written), maximum 1 day.
    pub checkpoint_interval: Duration,
    /// Partitions of every keyed operator and its state, recorded with the job and each batch. A
    /// later start may choose another number: a batch that was planned keeps that of its plan, the
    /// first one behind it has the new one, for which the state is moved, in memory, and a whole
    /// checkpoint taken. Not the number of threads. Default 8, minimum 1, maximum 1024.
    pub parallelism: u32,
    /// How often each run of the job calls a sink that fails with one batch, before the job ends
    /// with [`SinkFailed`](ErrorKind::SinkFailed). The id stays the same and the attempt's number
    /// rises; the pause between two calls grows from 50 ms to at most 5 s, and ends at once when
    /// the job is stopped. Default 5 (0.75 s together), minimum 1, maximum 1000.
    pub sink_attempts: u32,
    /// Called on the driver's thread after every completed batch, after a failed checkpoint, and
    /// before a sink that failed is called again. It must not wait for the job's end. A panic in
    /// it ends the job with [`TaskFailed`](ErrorKind::TaskFailed).
    pub on_progress: Option<Listener>,
    /// Called on the driver's thread with every [`Event`](crate::Event), under the same conditions.
    pub on_event: Option<EventListener>,
}

impl Default for RunOptions {
    fn default() -> RunOptions {
        RunOptions {
            trigger: Trigger::default(),
            batch_bytes: 64 << 20,
            first_batch_bytes: None,
            recovery_budget: Duration::from_secs(2),
            checkpoint_interval: Duration::from_secs(10),
            parallelism: 8,
            sink_attempts: 5,
            on_progress: None,
            on_event: None,
        }
    }
}

impl fmt::Debug for RunOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunOptions")
            .field("trigger", &self.trigger)
            .field("batch_bytes", &self.batch_bytes)
            .field("first_batch_bytes", &self.first_batch_bytes)
            .field("recovery_budget", &self.recovery_budget)
            .field("checkpoint_interval", &self.checkpoint_interval)
            .field("parallelism", &self.parallelism)
            .field("sink_attempts", &self.sink_attempts)
            .field("on_progress", &self.on_progress.is_some())
            .field("on_event", &self.on_event.is_some())
            .finish()
    }
}

impl RunOptions {
    pub(crate) fn validate(&self) -> Result<()> {
        self.trigger.validate()?;
        check_bytes("batch_bytes", self.batch_bytes)?;
        check_bytes("first_batch_bytes", self.first_batch_bytes.unwrap_or(1))?;
        let day = Duration::from_secs(24 * 60 * 60);
        if self.checkpoint_interval > day {
            return Err(Error::new(ErrorKind::Invalid, "checkpoint_interval is at most one day"));
        }
        if !(Duration::from_millis(10)..=day).contains(&self.recovery_budget) {
            let message = "recovery_budget is 10 ms to one day";
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        if !(1..=1024).contains(&self.parallelism) {
            let message = format!("parallelism is 1 to 1024, not {}", self.parallelism);
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        if !(1..=1000).contains(&self.sink_attempts) {
            let message = format!("sink_attempts is 1 to 1000, not {}", self.sink_attempts);
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        Ok(())
    }

    pub(crate) fn checkpoint_interval_ns(&self) -> u64 {
        u64::try_from(self.checkpoint_interval.as_nanos()).unwrap_or(u64::MAX)
    }

    pub(crate) fn listener(&self) -> Option<Listener> {
        self.on_progress.clone()
    }
}
