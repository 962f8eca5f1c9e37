//! What a job tells about itself while it runs.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::events::BatchReport;
use super::marks::Marks;
use crate::ids::BatchId;
use crate::sync::{Arc, Mutex, lock};

/// Key ranges that recovery had lost from the newest checkpoint, and what it took to have them
/// again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Restored {
    /// The checkpoint that is damaged.
    pub checkpoint: u64,
    /// Stateful operators and their partitions that were lost in it. No other state changed.
    pub lost: Vec<(String, u32)>,
    /// The older checkpoint that they were taken from.
    pub from: u64,
    /// Batches computed again for them alone.
    pub batches: u64,
    /// Tasks of these batches.
    pub tasks: u64,
}

/// How far a job is. Only completed batches are in it.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Progress {
    /// The last completed batch; zero before the first.
    pub batch: BatchId,
    /// Batches completed by this run, those not counted that only rebuilt state.
    pub batches: u64,
    /// The last batch that this run completed.
    pub last: BatchReport,
    /// Whether the job rests, because it was asked to [pause](crate::StreamRun::pause).
    pub paused: bool,
    /// Input bytes of the last batch.
    pub batch_bytes: u64,
    /// Input bytes of all batches since the job was first started.
    pub input_bytes: u64,
    /// Bytes that sources have read in this run, what was read again after a restart included:
    /// to rebuild state, and to see that it is still the same.
    pub bytes_read: u64,
    /// Records that sources have passed on in this run, counted like `bytes_read`.
    pub records_read: u64,
    /// Time of the last batch in nanoseconds since the Unix epoch, as its plan has it.
    pub batch_time_ns: u64,
    /// What all completed batches have added to each [`Accumulator`](crate::Accumulator), by name.
    pub accumulators: BTreeMap<String, i64>,
    /// Records that all completed batches have left out, because user code failed at them.
    pub skipped_records: u64,
    /// The last batch that a checkpoint holds; zero if there is none.
    pub checkpoint: BatchId,
    /// The last batch that an earlier run had completed, if there was one: this run goes on
    /// behind it.
    pub recovered_batch: Option<BatchId>,
    /// How long a recovery would take now: see
    /// [`RunOptions::recovery_budget`](crate::RunOptions::recovery_budget).
    pub predicted_recovery: Duration,
    /// What of the state recovery had to restore from an older checkpoint; `None` is normal.
    pub restored: Option<Restored>,
    /// Why the last checkpoint failed, or which damaged one recovery had to pass over, until one
    /// succeeds. The job goes on meanwhile; what recovery has to do, and what the log keeps, grows.
    pub checkpoint_alarm: Option<String>,
    /// What was done, when this run was started, about a batch within which processes had ended
    /// again and again.
    pub crash_alarm: Option<String>,
    /// Why a sink failed at the batch in flight, until it succeeds. It is called again, up to
    /// [`RunOptions::sink_attempts`](crate::RunOptions::sink_attempts) times.
    pub sink_alarm: Option<String>,
    /// All marks.
    pub marks: Marks,
}

/// Who is told about progress: see [`RunOptions::on_progress`](crate::RunOptions::on_progress).
pub type Listener = Arc<dyn Fn(&Progress) + Send + Sync>;

/// The progress, as others see it.
#[derive(Clone, Default)]
pub(crate) struct Board(Arc<Mutex<Progress>>);

impl Board {
    pub(crate) fn read(&self) -> Progress {
        lock(&self.0).clone()
    }

    pub(crate) fn update(&self, change: impl FnOnce(&mut Progress)) -> Progress {
        let mut progress = lock(&self.0);
        change(&mut progress);
        progress.clone()
    }
}

impl fmt::Debug for Board {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Board({:?})", self.read())
    }
}
