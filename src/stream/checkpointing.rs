//! Step 7: checkpoints, and the truncation that follows (ENGINE.md E3, E15, E17).

use super::boundary::EngineState;
use super::driver::JobDriver;
use super::marks::Mark;
use super::streams::OpenedStream;
use crate::checkpoint::{CheckpointMeta, Extent};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::Lsn;
use crate::planted::{Bug, planted};
use crate::state::OperatorState;

impl JobDriver {
    /// Step 7: takes a checkpoint if one is due.
    pub(crate) fn checkpoint(&mut self) -> Result<()> {
        let elapsed = self.env.clock.monotonic_ns().saturating_sub(self.last_checkpoint_ns);
        let due = elapsed >= self.options.checkpoint_interval_ns();
        if due && self.marks.checkpointed < self.marks.completed {
            self.take_checkpoint()?;
        }
        Ok(())
    }

    /// Writes a checkpoint of the last completed batch, then truncates the log. A checkpoint that
    /// fails is an alarm, not an error: the one before stands, and the log keeps what it needs.
    ///
    /// # Errors
    /// The log's.
    pub(crate) fn take_checkpoint(&mut self) -> Result<()> {
        // E1: it may become visible only when the record of its batch's completion is durable.
        if !planted(Bug::CheckpointBeforeCompletion) {
            self.await_completion()?;
        }
        let written = self.write_checkpoint();
        self.last_checkpoint_ns = self.env.clock.monotonic_ns();
        match written {
            Ok(()) => {
                let batch = self.boundary.batch;
                self.marks.reach(Mark::Checkpointed, batch);
                let marks = self.marks;
                self.board.update(|progress| {
                    progress.checkpoint = batch;
                    progress.checkpoint_alarm = None;
                    progress.marks = marks;
                });
                self.truncate()
            }
            Err(error) => self.alarm(&error),
        }
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

    fn write_checkpoint(&mut self) -> Result<()> {
        self.settle()?;
        let extents = self.encode_states()?;
        let streams = self.env.streams.snapshot();
        let floor = self.floor(&streams)?;
        let (shape, boundary) = (self.shape.clone(), self.boundary.clone());
        let meta = CheckpointMeta {
            checkpoint: 0,
            job: self.shape.job.clone(),
            log_id: self.env.wal.log_id(),
            generation: self.shape.generation,
            batch: self.boundary.batch,
            floor,
            engine: EngineState { shape, boundary, streams }.encode(),
        };
        let store = self.store.as_mut().ok_or_else(no_store)?;
        store.write(meta, &extents).map(drop)
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
        let kept = self.store.iter().flat_map(|store| store.kept());
        let Some(floor) = kept.map(|kept| kept.floor).min() else {
            return Ok(());
        };
        if floor > self.env.wal.first_lsn() {
            self.env.wal.truncate_before(floor)?;
        }
        Ok(())
    }

    fn alarm(&self, error: &Error) -> Result<()> {
        self.board.update(|progress| progress.checkpoint_alarm = Some(error.to_string()));
        self.notify()
    }
}

fn no_store() -> Error {
    Error::new(ErrorKind::Invalid, "this driver takes no checkpoints")
}
