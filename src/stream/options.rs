//! How one run of a job is driven.

use std::fmt;
use std::time::Duration;

use super::progress::Listener;
use super::trigger::Trigger;
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
    /// Time between checkpoints; one is also taken when the job ends. Default 1 s, minimum 0
    /// (after every batch), maximum 1 day.
    pub checkpoint_interval: Duration,
    /// Partitions of every keyed operator and its state, recorded with the job: it cannot be
    /// changed under existing state yet. Not the number of threads. Default 8, minimum 1, maximum
    /// 1024.
    pub parallelism: u32,
    /// Called on the driver's thread after every completed batch, and after a failed checkpoint.
    pub on_progress: Option<Listener>,
}

impl Default for RunOptions {
    fn default() -> RunOptions {
        RunOptions {
            trigger: Trigger::default(),
            checkpoint_interval: Duration::from_secs(1),
            parallelism: 8,
            on_progress: None,
        }
    }
}

impl fmt::Debug for RunOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunOptions")
            .field("trigger", &self.trigger)
            .field("checkpoint_interval", &self.checkpoint_interval)
            .field("parallelism", &self.parallelism)
            .field("on_progress", &self.on_progress.is_some())
            .finish()
    }
}

impl RunOptions {
    pub(crate) fn validate(&self) -> Result<()> {
        self.trigger.validate()?;
        if self.checkpoint_interval > Duration::from_secs(24 * 60 * 60) {
            return Err(Error::new(ErrorKind::Invalid, "checkpoint_interval is at most one day"));
        }
        if !(1..=1024).contains(&self.parallelism) {
            let message = format!("parallelism is 1 to 1024, not {}", self.parallelism);
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
