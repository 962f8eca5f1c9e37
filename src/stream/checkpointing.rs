//! Step 7: checkpoints, and the truncation that follows (ENGINE.md E3, E15, E17).

use std::time::Duration;

use super::boundary::EngineState;
use super::cut::{Cut, Errand, Flight, Writing};
use super::driver::JobDriver;
use super::events::Event;
use super::marks::Mark;
use super::streams::OpenedStream;
use crate::checkpoint::{CheckpointMeta, Written};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{BatchId, Lsn};
use crate::planted::{Bug, planted};
use crate::state::Tracking;
use crate::sync::{Arc, lock, try_lock};

/// More keys than this are not encoded as a whole only to have a second base.
const MANY: usize = 1 << 16;

/// What the next checkpoint may build on, and whether the last one is to be folded.
#[derive(Debug, Default)]
pub(crate) struct Lineage {
    /// The checkpoint that the state's changes are known since.
    pub(crate) parent: Option<u64>,
    /// A checkpoint has become the newest: whether it is to be folded was not asked yet.
    asks_fold: bool,
    /// What the store said when it was free: whether it takes a delta on the parent, and whether it
    /// wants another base.
    takes_delta: bool,
    wants_base: bool,
    /// Whether batches would wait for the cut, and a fold can follow.
    is_beside: bool,
}

impl JobDriver {
    /// Step 7: ends the checkpoint that is on its way if it is written, and takes one if it is due.
    pub(crate) fn checkpoint(&mut self) -> Result<()> {
        let begun = self.env.clock.monotonic_ns();
        self.do_checkpoint(begun)?;
        let took = self.env.clock.monotonic_ns().saturating_sub(begun);
        self.checkpointing += Duration::from_nanos(took);
        Ok(())
    }

    fn do_checkpoint(&mut self, now: u64) -> Result<()> {
        if self.flight.as_mut().is_some_and(Flight::is_done) {
            self.land_checkpoint()?;
        }
        // Whoever writes has the store: nobody waits for it here.
        if self.flight.is_some() {
            return Ok(());
        }
        if self.folding.as_mut().is_some_and(Flight::is_done) {
            self.land_fold()?;
        }
        self.fold_if_due()?;
        let elapsed = now.saturating_sub(self.last_checkpoint_ns);
        let late = elapsed >= self.options.checkpoint_interval_ns();
        let due = late || self.budget.is_due(now) || self.saves.wants_one();
        if self.marks.checkpointed == self.marks.completed {
            self.saves.answer(&Ok(()), true);
        } else if due && self.ask_store(false) {
            self.begin_checkpoint()?;
        }
        Ok(())
    }

    /// What had to be rebuilt goes into a checkpoint at once: else a process that is killed again
    /// and again, each time before the interval has passed, would rebuild more and more. While the
    /// budget has room, batches do not wait for it: who is killed before it stands has published
    /// more than who waited, and only the next recovery takes longer.
    pub(super) fn keep_what_was_rebuilt(&mut self) -> Result<()> {
        if self.budget.is_used_up() {
            return self.take_checkpoint();
        }
        if self.ask_store(false) {
            // A base if one is wanted: all that is whole may hang on a single chain.
            self.lineage.is_beside = false;
            self.begin_checkpoint()?;
        }
        Ok(())
    }

    /// Asks the store what the next checkpoint may be; `false` if somebody else has it (a fold that
    /// ends has it for some syncs, and while large files are removed) and that is not waited for.
    pub(super) fn ask_store(&mut self, waits: bool) -> bool {
        let (Some(store), parent) = (&self.store, self.lineage.parent) else { return true };
        let Some(store) = (if waits { Some(lock(store)) } else { try_lock(store) }) else {
            return false;
        };
        self.lineage.takes_delta = parent.is_some_and(|parent| store.takes_delta(parent));
        self.lineage.wants_base = store.wants_base();
        self.lineage.is_beside = !waits;
        true
    }

    /// Takes the cut, and has it written where this driver's checkpoints are.
    pub(super) fn begin_checkpoint(&mut self) -> Result<()> {
        if self.store.is_none() || self.env.writing == Writing::Inline {
            return self.take_checkpoint();
        }
        self.last_checkpoint_ns = self.env.clock.monotonic_ns();
        let cut = self.cut();
        match cut.and_then(|cut| self.send(Errand::Write(Box::new(cut)))) {
            Ok(flight) => {
                self.flight = Some(flight);
                Ok(())
            }
            Err(error) => self.conclude(self.boundary.batch, Err(error)),
        }
    }

    /// Sends a thread, or whoever does its work here.
    fn send(&self, errand: Errand) -> Result<Flight> {
        let store = self.store.as_ref().ok_or_else(no_store)?;
        match self.env.writing {
            Writing::Beside => Flight::beside(errand, &self.env.wal, store),
            Writing::Late | Writing::Inline => Ok(Flight::late(errand)),
        }
    }

    /// Deltas that have become more than their base are written as one file, from theirs: batches
    /// and checkpoints go on meanwhile.
    fn fold_if_due(&mut self) -> Result<()> {
        let (Some(store), Some(newest)) = (&self.store, self.lineage.parent) else { return Ok(()) };
        if self.folding.is_some() || !std::mem::take(&mut self.lineage.asks_fold) {
            return Ok(());
        }
        let Some(mut free) = try_lock(store) else {
            self.lineage.asks_fold = true;
            return Ok(());
        };
        if !free.needs_fold() {
            return Ok(());
        }
        let (number, keeps) = (free.take_number(), free.keeps());
        drop(free);
        let batch = self.marks.checkpointed;
        match self.send(Errand::Fold { checkpoint: newest, number, batch }) {
            Ok(folding) => self.folding = Some(folding),
            Err(error) => return self.alarm(&error),
        }
        // Who keeps one checkpoint has no place for a fold that is not the newest.
        if self.env.writing == Writing::Inline || keeps == 1 { self.land_fold() } else { Ok(()) }
    }

    /// Waits for what is on its way, if there is something.
    ///
    /// # Errors
    /// The log's.
    pub(crate) fn land(&mut self) -> Result<()> {
        self.land_checkpoint()?;
        self.land_fold()
    }

    fn land_checkpoint(&mut self) -> Result<()> {
        let (Some(flight), Some(store)) = (self.flight.take(), &self.store) else { return Ok(()) };
        let batch = flight.batch;
        let ended = flight.land(&self.env.wal, store)?;
        self.conclude(batch, ended)
    }

    fn land_fold(&mut self) -> Result<()> {
        let (Some(flight), Some(store)) = (self.folding.take(), &self.store) else { return Ok(()) };
        let folded = flight.folds;
        let ended = flight.land(&self.env.wal, store)?;
        self.conclude_fold(folded, ended)
    }

    /// Writes a checkpoint of the last completed batch, at once.
    ///
    /// # Errors
    /// The log's.
    pub(crate) fn take_checkpoint(&mut self) -> Result<()> {
        self.ask_store(true);
        let written = match (self.cut(), &self.store) {
            (Ok(cut), Some(store)) => Errand::Write(Box::new(cut)).run(&self.env.wal, store)?,
            (Ok(_), None) => Err(no_store()),
            (Err(error), _) => Err(error),
        };
        self.last_checkpoint_ns = self.env.clock.monotonic_ns();
        self.conclude(self.boundary.batch, written)
    }

    /// The first checkpoint of a directory that begins on the state of a savepoint: no batch may
    /// be planned without it, because the log does not begin with batch 1.
    ///
    /// # Errors
    /// Whatever keeps it from being written.
    pub(crate) fn found(&mut self) -> Result<()> {
        let store = Arc::clone(self.store.as_ref().ok_or_else(no_store)?);
        let written = self.cut()?.write(&self.env.wal, &store)??;
        self.conclude(self.boundary.batch, Ok(written))
    }

    /// A checkpoint that failed is an alarm, not an error: the one before stands, the log keeps
    /// what it needs, and the next one holds what this one had taken (ENGINE.md E17).
    fn conclude(&mut self, batch: BatchId, written: Result<Written>) -> Result<()> {
        let written = match written {
            Ok(written) => written,
            Err(error) => {
                self.saves.answer(&Err(error.clone()), false);
                self.track(if planted(Bug::FailedCutForgotten) {
                    Tracking::Settle
                } else {
                    Tracking::Revert
                });
                return self.alarm(&error);
            }
        };
        self.follow(&written);
        self.marks.reach(Mark::Checkpointed, batch);
        self.budget.stands(written.newest_bytes, self.env.clock.monotonic_ns());
        let (marks, predicted) = (self.marks, self.budget.predicted());
        self.board.update(|progress| {
            progress.checkpoint = batch;
            progress.predicted_recovery = predicted;
            progress.checkpoint_alarm = None;
            progress.marks = marks;
        });
        self.saves.answer(&Ok(()), false);
        Ok(())
    }

    /// What the next delta builds on. CUT-3: while the checkpoint that this one builds on is
    /// folded, that stays, and what this one has taken is taken again.
    fn follow(&mut self, written: &Written) {
        let folded = self.folding.as_ref().and_then(|folding| folding.folds);
        let on_folded = folded.is_some() && written.parent == folded;
        if on_folded && !planted(Bug::FoldForgetsDelta) {
            return self.track(Tracking::Revert);
        }
        self.track(Tracking::Settle);
        if !on_folded {
            self.lineage.parent = Some(written.checkpoint);
        }
        self.lineage.asks_fold = true;
    }

    /// A fold changes no state: the next delta builds on the new file. One that failed leaves
    /// everything as it was (ENGINE.md E17), and so does one of a checkpoint that nothing builds on
    /// any more.
    fn conclude_fold(&mut self, folded: Option<u64>, written: Result<Written>) -> Result<()> {
        let is_parent = self.lineage.parent == folded;
        self.lineage.asks_fold |= is_parent && written.is_err();
        match written {
            Ok(written) if is_parent => self.lineage.parent = Some(written.checkpoint),
            Err(error) if is_parent => return self.alarm(&error),
            Ok(_) | Err(_) => {}
        }
        Ok(())
    }

    fn track(&self, step: Tracking) {
        self.states.iter().for_each(|state| state.track(step));
    }

    /// The checkpoint that the next one builds on; `None` if it has to be a base, or a base costs
    /// no more than twice of what has changed.
    fn parent(&self) -> Option<u64> {
        let parent = self.lineage.parent?;
        let parts = self
            .states
            .iter()
            .flat_map(|state| (0..self.shape.parallelism).map(move |partition| (state, partition)));
        let (touched, keys) = parts.fold((0, 0), |(touched, keys), (state, partition)| {
            (touched + state.touched(partition), keys + state.len(partition))
        });
        // Another base comes from the files, where encoding one would keep batches waiting.
        let files = (self.lineage.is_beside && keys > MANY) || self.folding.is_some();
        let takes = self.lineage.takes_delta && (files || !self.lineage.wants_base);
        (2 * touched < keys && takes).then_some(parent)
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
        let begun = self.env.clock.monotonic_ns();
        self.settle()?;
        let parent = self.parent();
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
        self.saves.cut();
        self.budget.cut(begun, self.env.clock.monotonic_ns());
        let (states, executor) = (self.states.clone(), Arc::clone(&self.env.executor));
        let parallelism = self.shape.parallelism;
        Ok(Cut { batch, completion, meta, states, parallelism, executor })
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
