//! Step 7: checkpoints, and the truncation that follows (ENGINE.md E3, E15, E17).

use super::boundary::EngineState;
use super::cut::{Cut, Flight, Writing};
use super::driver::JobDriver;
use super::events::Event;
use super::marks::Mark;
use super::streams::OpenedStream;
use crate::checkpoint::{CheckpointMeta, Extent};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{BatchId, Lsn};
use crate::planted::{Bug, planted};
use crate::state::OperatorState;
use crate::sync::lock;

impl JobDriver {
    /// Step 7: ends the checkpoint that is on its way if it is written, and takes one if it is due.
    pub(crate) fn checkpoint(&mut self) -> Result<()> {
        if self.flight.as_ref().is_some_and(Flight::is_done) {
            self.land()?;
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
        let Some(store) = self.store.clone().filter(|_| self.writing != Writing::Inline) else {
            return self.take_checkpoint();
        };
        self.last_checkpoint_ns = self.env.clock.monotonic_ns();
        let begun = self.cut().and_then(|cut| match self.writing {
            Writing::Beside => Flight::beside(cut, &self.env.wal, &store),
            Writing::Late | Writing::Inline => Ok(Flight::late(cut)),
        });
        match begun {
            Ok(flight) => self.flight = Some(flight),
            Err(error) => self.alarm(&error)?,
        }
        Ok(())
    }

    /// Waits for the checkpoint on its way, if there is one.
    ///
    /// # Errors
    /// The log's.
    pub(crate) fn land(&mut self) -> Result<()> {
        let (Some(flight), Some(store)) = (self.flight.take(), &self.store) else { return Ok(()) };
        let batch = flight.batch;
        let ended = flight.land(&self.env.wal, store)?;
        self.conclude(batch, ended)
    }

    /// Writes a checkpoint of the last completed batch, at once, then truncates the log.
    ///
    /// # Errors
    /// The log's.
    pub(crate) fn take_checkpoint(&mut self) -> Result<()> {
        let written = match (self.cut(), &self.store) {
            (Ok(cut), Some(store)) => cut.write(&self.env.wal, store)?,
            (Ok(_), None) => Err(no_store()),
            (Err(error), _) => Err(error),
        };
        self.last_checkpoint_ns = self.env.clock.monotonic_ns();
        self.conclude(self.boundary.batch, written)
    }

    /// A checkpoint that failed is an alarm, not an error: the one before stands, and the log keeps
    /// what it needs (ENGINE.md E17).
    fn conclude(&mut self, batch: BatchId, written: Result<()>) -> Result<()> {
        if let Err(error) = written {
            return self.alarm(&error);
        }
        self.marks.reach(Mark::Checkpointed, batch);
        let marks = self.marks;
        self.board.update(|progress| {
            progress.checkpoint = batch;
            progress.checkpoint_alarm = None;
            progress.marks = marks;
        });
        self.truncate()
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
        let extents = self.encode_states()?;
        let (streams, sides) = (self.env.streams.snapshot(), self.env.sides.snapshot());
        let floor = self.floor(&streams)?;
        let (shape, boundary) = (self.shape.clone(), self.boundary.clone());
        let (batch, completion) = (boundary.batch, boundary.completion);
        let meta = CheckpointMeta {
            checkpoint: 0,
            job: self.shape.job.clone(),
            log_id: self.env.wal.log_id(),
            generation: self.shape.generation,
            batch,
            floor,
            engine: EngineState { shape, boundary, streams, sides }.encode(),
        };
        Ok(Cut { batch, completion, meta, extents })
    }

    /// Every partition of every operator, encoded in parallel.
    fn encode_states(&self) -> Result<Vec<Extent>> {
        let parts: Vec<(&OperatorState, u32)> = self
            .states
            .iter()
            .flat_map(|state| (0..self.shape.parallelism).map(move |partition| (state, partition)))
            .collect();
        let encode = |number: usize| {
            let (state, partition) = parts[number];
            let bytes = state.encode_partition(partition)?;
            let operator = state.name().to_owned();
            Ok(Extent { operator, schema: state.schema(), partition, bytes })
        };
        self.env.executor.for_each_number(parts.len(), encode).into_iter().collect()
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

    /// Lets the log go that no kept checkpoint needs.
    fn truncate(&self) -> Result<()> {
        let Some(store) = &self.store else { return Ok(()) };
        let floor = lock(store).kept().iter().map(|kept| kept.floor).min();
        let Some(floor) = floor else { return Ok(()) };
        if floor > self.env.wal.first_lsn() {
            self.env.wal.truncate_before(floor)?;
        }
        Ok(())
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
