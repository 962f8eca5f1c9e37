//! Step 7: checkpoints, and the truncation that follows (ENGINE.md E3, E15, E17).

use super::boundary::EngineState;
use super::cut::{Cut, Errand, Flight, Writing};
use super::driver::JobDriver;
use super::events::Event;
use super::marks::Mark;
use super::streams::OpenedStream;
use crate::checkpoint::{CheckpointMeta, Extent, Written};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{BatchId, Lsn};
use crate::planted::{Bug, planted};
use crate::state::{OperatorState, Tracking};
use crate::sync::lock;

/// What the next checkpoint may build on, and whether the last one is to be folded.
#[derive(Debug, Default)]
pub(crate) struct Lineage {
    /// The checkpoint that the state's changes are known since.
    pub(crate) parent: Option<u64>,
    /// A checkpoint has become the newest: whether it is to be folded was not asked yet.
    asks_fold: bool,
}

impl JobDriver {
    /// Step 7: ends the checkpoint that is on its way if it is written, and takes one if it is due.
    pub(crate) fn checkpoint(&mut self) -> Result<()> {
        if self.flight.as_ref().is_some_and(Flight::is_done) {
            self.land()?;
        }
        if self.flight.is_none() {
            self.fold_if_due()?;
        }
        let elapsed = self.env.clock.monotonic_ns().saturating_sub(self.last_checkpoint_ns);
        let due = elapsed >= self.options.checkpoint_interval_ns();
        if due && self.flight.is_none() && self.marks.checkpointed < self.marks.completed {
            self.begin_checkpoint()?;
        }
        Ok(())
    }

    /// Takes the cut, and has it written where this driver's checkpoints are.
    fn begin_checkpoint(&mut self) -> Result<()> {
        if self.store.is_none() || self.writing == Writing::Inline {
            return self.take_checkpoint();
        }
        self.last_checkpoint_ns = self.env.clock.monotonic_ns();
        let cut = self.cut();
        match cut.and_then(|cut| self.send(Errand::Write(Box::new(cut)))) {
            Ok(()) => Ok(()),
            Err(error) => self.conclude(self.boundary.batch, Err(error)),
        }
    }

    /// Sends the checkpoint's thread, or whoever does its work here.
    fn send(&mut self, errand: Errand) -> Result<()> {
        let store = self.store.as_ref().ok_or_else(no_store)?;
        self.flight = Some(match self.writing {
            Writing::Beside => Flight::beside(errand, &self.env.wal, store)?,
            Writing::Late | Writing::Inline => Flight::late(errand),
        });
        Ok(())
    }

    /// Deltas that have become more than their base are written as one file, from theirs: batches
    /// go on meanwhile.
    fn fold_if_due(&mut self) -> Result<()> {
        let asks = std::mem::take(&mut self.lineage.asks_fold);
        let due = self.store.as_ref().is_some_and(|store| asks && lock(store).needs_fold());
        if !due {
            return Ok(());
        }
        if let Err(error) = self.send(Errand::Fold(self.marks.checkpointed)) {
            return self.alarm(&error);
        }
        if self.writing == Writing::Inline { self.land() } else { Ok(()) }
    }

    /// Waits for what is on its way, if there is something.
    ///
    /// # Errors
    /// The log's.
    pub(crate) fn land(&mut self) -> Result<()> {
        let (Some(flight), Some(store)) = (self.flight.take(), &self.store) else { return Ok(()) };
        let (batch, folds) = (flight.batch, flight.folds);
        let ended = flight.land(&self.env.wal, store)?;
        if folds { self.conclude_fold(ended) } else { self.conclude(batch, ended) }
    }

    /// Writes a checkpoint of the last completed batch, at once, then truncates the log.
    ///
    /// # Errors
    /// The log's.
    pub(crate) fn take_checkpoint(&mut self) -> Result<()> {
        let written = match (self.cut(), &self.store) {
            (Ok(cut), Some(store)) => Errand::Write(Box::new(cut)).run(&self.env.wal, store)?,
            (Ok(_), None) => Err(no_store()),
            (Err(error), _) => Err(error),
        };
        self.last_checkpoint_ns = self.env.clock.monotonic_ns();
        self.conclude(self.boundary.batch, written)
    }

    /// A checkpoint that failed is an alarm, not an error: the one before stands, the log keeps
    /// what it needs, and the next one holds what this one had taken (ENGINE.md E17).
    fn conclude(&mut self, batch: BatchId, written: Result<Written>) -> Result<()> {
        let written = match written {
            Ok(written) => written,
            Err(error) => {
                self.track(if planted(Bug::FailedCutForgotten) {
                    Tracking::Settle
                } else {
                    Tracking::Revert
                });
                return self.alarm(&error);
            }
        };
        self.track(Tracking::Settle);
        self.lineage = Lineage { parent: Some(written.checkpoint), asks_fold: true };
        self.marks.reach(Mark::Checkpointed, batch);
        let marks = self.marks;
        self.board.update(|progress| {
            progress.checkpoint = batch;
            progress.checkpoint_alarm = None;
            progress.marks = marks;
        });
        Ok(())
    }

    /// A fold changes no state: the next delta builds on the new file. One that failed leaves
    /// everything as it was (ENGINE.md E17).
    fn conclude_fold(&mut self, written: Result<Written>) -> Result<()> {
        match written {
            Ok(written) => {
                self.lineage.parent = Some(written.checkpoint);
                Ok(())
            }
            Err(error) => self.alarm(&error),
        }
    }

    fn track(&self, step: Tracking) {
        self.states.iter().for_each(|state| state.track(step));
    }

    /// The checkpoint that the next one builds on; `None` if it has to be a base, or a base costs
    /// no more than twice of what has changed.
    fn parent(&self) -> Option<u64> {
        let (parent, store) = (self.lineage.parent?, self.store.as_ref()?);
        let parts = self
            .states
            .iter()
            .flat_map(|state| (0..self.shape.parallelism).map(move |partition| (state, partition)));
        let (touched, keys) = parts.fold((0, 0), |(touched, keys), (state, partition)| {
            (touched + state.touched(partition), keys + state.len(partition))
        });
        (2 * touched < keys && lock(store).takes_delta(parent)).then_some(parent)
    }

    /// What a source has looked at and found none of its records in, it needs no more (E3).
    fn settle(&mut self) -> Result<()> {
        for source in &self.job.sources {
            if let Some(position) = source.settled(self.boundary.position(source.name()))? {
                self.boundary.settle(source.name(), position);
            }
        }
        Ok(())
    }

    /// CUT-1: the state at the last completed batch, and where the log is needed from then on.
    fn cut(&mut self) -> Result<Cut> {
        self.settle()?;
        let parent = self.parent();
        let extents = self.encode_states(parent.is_some())?;
        let (streams, sides) = (self.env.streams.snapshot(), self.env.sides.snapshot());
        let floor = self.floor(&streams)?;
        let (shape, boundary) = (self.shape.clone(), self.boundary.clone());
        let (batch, completion) = (boundary.batch, boundary.completion);
        let meta = CheckpointMeta {
            checkpoint: 0,
            parent: parent.unwrap_or(0),
            job: self.shape.job.clone(),
            log_id: self.env.wal.log_id(),
            generation: self.shape.generation,
            batch,
            floor,
            engine: EngineState { shape, boundary, streams, sides }.encode(),
        };
        self.track(Tracking::Cut);
        Ok(Cut { batch, completion, meta, extents })
    }

    /// Every partition of every operator, or what has changed in it, encoded in parallel.
    fn encode_states(&self, changes: bool) -> Result<Vec<Extent>> {
        let parts: Vec<(&OperatorState, u32)> = self
            .states
            .iter()
            .flat_map(|state| (0..self.shape.parallelism).map(move |partition| (state, partition)))
            .collect();
        let encode = |number: usize| {
            let (state, partition) = parts[number];
            let bytes = match changes {
                true => state.encode_touched(partition)?,
                false => Some(state.encode_partition(partition)?),
            };
            let (operator, schema) = (state.name().to_owned(), state.schema());
            Ok(bytes.map(|bytes| Extent { operator, schema, partition, bytes }))
        };
        let encoded = self.env.executor.for_each_number(parts.len(), encode).into_iter();
        encoded.filter_map(Result::transpose).collect()
    }

    /// E3: the first record that recovery from a checkpoint of this batch needs.
    fn floor(&self, streams: &[OpenedStream]) -> Result<Lsn> {
        if planted(Bug::FloorFromLogEnd) {
            return Ok(self.env.wal.durable_lsn().next());
        }
        // The plan of the next batch is behind the completion of this one.
        let mut floor = self.boundary.completion.next();
        for source in &self.job.sources {
            let position = self.boundary.position(source.name());
            floor = source.retention(position)?.map_or(floor, |needed| floor.min(needed));
        }
        // What nobody reads yet, somebody may read later.
        let read = |stream: &&OpenedStream| {
            self.job.sources.iter().any(|source| source.stream() == Some(stream.stream))
        };
        let unread = streams.iter().filter(|stream| !read(stream));
        Ok(unread.map(|stream| stream.opened).fold(floor, Lsn::min))
    }

    fn alarm(&self, error: &Error) -> Result<()> {
        self.board.update(|progress| progress.checkpoint_alarm = Some(error.to_string()));
        self.notify()?;
        self.tell(|| Event::Failed { batch: self.boundary.batch, error: error.clone() })
    }
}

fn no_store() -> Error {
    Error::new(ErrorKind::Invalid, "this driver takes no checkpoints")
}
