//! A checkpoint between its two halves: what the driver takes between two batches, and what is
//! then encoded and written beside the batches that follow. Folding one is such an errand, too.
//!
//! CUT-1: a cut is the state at exactly one batch, and says from where on the log is needed then:
//! both are fixed before the next batch changes anything (STATE-7).
//! CUT-2: one is on its way at most, and one fold beside it; whoever ends the driver awaits both.
//! CUT-3: while a checkpoint is folded, those that follow are deltas on it, each with all that has
//! changed since: so the next one can be a delta on the fold, whichever was written meanwhile.

use std::fmt;

use super::encoder::encode;
use crate::checkpoint::{CheckpointMeta, CheckpointStore, Extent, Written};
use crate::error::{Error, ErrorKind, Result};
use crate::exec::Executor;
use crate::ids::{BatchId, Lsn};
use crate::planted::{Bug, planted};
use crate::state::OperatorState;
use crate::sync::{Arc, JoinHandle, Mutex, lock, spawn};
use crate::wal::Wal;

/// How many steps a fold without a thread takes.
const LOOKS: u32 = 3;

/// The store of a job's checkpoints, as the driver and whoever writes share it.
pub(crate) type SharedStore = Arc<Mutex<CheckpointStore>>;

/// The state at one batch: whole, or what has changed since the last checkpoint.
pub(crate) struct Cut {
    pub(crate) batch: BatchId,
    /// The record that completed the batch.
    pub(crate) completion: Lsn,
    pub(crate) meta: CheckpointMeta,
    /// The operators' state, in so many partitions.
    pub(crate) states: Vec<OperatorState>,
    pub(crate) parallelism: u32,
    pub(crate) executor: Arc<Executor>,
}

impl fmt::Debug for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cut(batch {}, {} operators)", self.batch, self.states.len())
    }
}

/// How the writing of a cut ended: an alarm inside, what ends the driver outside.
pub(crate) type Ended = Result<Result<Written, Error>>;

impl Cut {
    /// Writes the checkpoint and makes it the newest.
    ///
    /// # Errors
    /// The log's. What fails in the store is inside: its predecessor stands (ENGINE.md E17).
    pub(crate) fn write(self, wal: &Wal, store: &SharedStore) -> Ended {
        // E1: it may become visible only when the record of its batch's completion is durable.
        if self.completion > wal.durable_lsn() && !planted(Bug::CheckpointBeforeCompletion) {
            wal.wait_durable(self.completion)?;
        }
        let extents = match self.encode() {
            Ok(extents) => extents,
            Err(error) => return Ok(Err(error)),
        };
        let write = |meta| lock(store).write(meta, &extents);
        match write(self.meta.clone()) {
            // E15: the log makes room, as far as the checkpoints that stand do not need it.
            Err(error) if error.kind() == ErrorKind::DiskFull => {
                let made = !planted(Bug::FullDiskKeepsLog) && truncate(wal, store)?;
                Ok(if made { write(self.meta) } else { Err(error) })
            }
            written => Ok(written),
        }
    }

    /// Every partition of every operator, or what has changed in it.
    fn encode(&self) -> Result<Vec<Extent>> {
        let changes = self.meta.parent != 0;
        let encoded = encode(&self.states, self.parallelism, changes, &self.executor)?;
        let extent = |(state, partition, bytes): (OperatorState, u32, Vec<u8>)| {
            let (operator, schema) = (state.name().to_owned(), state.schema());
            Extent { operator, schema, partition, bytes }
        };
        Ok(encoded.into_iter().map(extent).collect())
    }
}

/// What is to be done with the store.
#[derive(Debug)]
pub(crate) enum Errand {
    /// A cut becomes a checkpoint.
    Write(Box<Cut>),
    /// A checkpoint, of this batch, becomes one file, under a number that is older than that of
    /// every checkpoint that is written meanwhile.
    Fold { checkpoint: u64, number: u64, batch: BatchId },
}

impl Errand {
    fn batch(&self) -> BatchId {
        match self {
            Errand::Write(cut) => cut.batch,
            Errand::Fold { batch, .. } => *batch,
        }
    }

    /// Does it; the log is then truncated, by whoever does this: what else the log does at the time
    /// may keep that waiting.
    ///
    /// # Errors
    /// As [`Cut::write`].
    pub(crate) fn run(self, wal: &Wal, store: &SharedStore) -> Ended {
        let done = match self {
            Errand::Write(cut) => cut.write(wal, store)?,
            Errand::Fold { checkpoint, number, .. } => {
                let folding = lock(store).begin_fold(checkpoint, number);
                // Checkpoints are written meanwhile.
                let filled = folding.map(|folding| folding.fill());
                filled.and_then(|filled| lock(store).end_fold(filled))
            }
        };
        if done.is_ok() {
            truncate(wal, store)?;
        }
        Ok(done)
    }
}

/// Lets the log go that no kept checkpoint needs (ENGINE.md E3). Returns whether some of it went.
fn truncate(wal: &Wal, store: &SharedStore) -> Result<bool> {
    let floor = lock(store).kept().map(|kept| kept.floor).min();
    let first = wal.first_lsn();
    match floor {
        Some(floor) if floor > first => match wal.truncate_before(floor) {
            // Its own records have no room: it is tried again behind the next checkpoint.
            Err(error) if error.kind() == ErrorKind::DiskFull => Ok(false),
            start => Ok(start? > first),
        },
        _ => Ok(false),
    }
}

/// Where a driver's checkpoints are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Writing {
    /// On the driver's thread, at once.
    #[default]
    Inline,
    /// On the driver's thread, when the next batch is complete: what a thread of its own may do,
    /// the same in every run.
    #[cfg_attr(not(feature = "testing"), allow(dead_code, reason = "for the harness"))]
    Late,
    /// On a thread of its own.
    Beside,
}

/// An errand on its way. Dropping it waits for its thread.
#[derive(Debug)]
pub(crate) struct Flight {
    pub(crate) batch: BatchId,
    /// The checkpoint that it folds.
    pub(crate) folds: Option<u64>,
    /// How often it was asked whether it is done.
    looks: u32,
    way: Option<Way>,
}

#[derive(Debug)]
enum Way {
    Waits(Errand),
    Thread(JoinHandle<Ended>),
}

impl Flight {
    fn new(errand: &Errand) -> Flight {
        let folds = match errand {
            Errand::Write(_) => None,
            Errand::Fold { checkpoint, .. } => Some(*checkpoint),
        };
        Flight { batch: errand.batch(), folds, looks: 0, way: None }
    }

    /// Leaves the errand for later.
    pub(crate) fn late(errand: Errand) -> Flight {
        let flight = Flight::new(&errand);
        flight.with(Way::Waits(errand))
    }

    fn with(mut self, way: Way) -> Flight {
        self.way = Some(way);
        self
    }

    /// Starts on a thread of its own.
    ///
    /// # Errors
    /// `Io` if the system gives no thread.
    pub(crate) fn beside(errand: Errand, wal: &Wal, store: &SharedStore) -> Result<Flight> {
        let (flight, wal, store) = (Flight::new(&errand), wal.clone(), Arc::clone(store));
        let thread = spawn("sawmill-checkpoint", move || errand.run(&wal, &store));
        let thread = thread.map_err(|cause| {
            let message = "the checkpoint's thread could not be started";
            Error::new(ErrorKind::Io, message).caused_by(cause)
        })?;
        Ok(flight.with(Way::Thread(thread)))
    }

    /// Whether [`Flight::land`] would not wait for a thread. A fold without one lets some
    /// checkpoints pass, as with one.
    pub(crate) fn is_done(&mut self) -> bool {
        self.looks += 1;
        match &self.way {
            Some(Way::Thread(thread)) => thread.is_finished(),
            Some(Way::Waits(Errand::Fold { .. })) => self.looks > LOOKS,
            Some(Way::Waits(Errand::Write(_))) | None => true,
        }
    }

    /// Waits for the end.
    ///
    /// # Errors
    /// As [`Cut::write`].
    pub(crate) fn land(mut self, wal: &Wal, store: &SharedStore) -> Ended {
        let panicked = || Error::new(ErrorKind::Poisoned, "the checkpoint's thread panicked");
        match self.way.take() {
            Some(Way::Waits(errand)) => errand.run(wal, store),
            Some(Way::Thread(thread)) => thread.join().unwrap_or_else(|_| Err(panicked())),
            None => unreachable!("CUT-2: a flight lands once, and has a way until then"),
        }
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        if let Some(Way::Thread(thread)) = self.way.take() {
            // Its result has nobody to go to: a checkpoint that became visible is found again.
            drop(thread.join());
        }
    }
}
