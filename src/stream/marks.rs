//! How far a job's batches have come.
//!
//! STREAM-1: `checkpointed <= completed <= prepared <= plan durable <= planned`, asserted here at
//! every move and nowhere else. STREAM-2: marks never fall; batches pass them one by one.

use crate::ids::BatchId;

/// A job's progress marks, in batch ids (ENGINE.md, "Progress marks").
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Marks {
    /// The last batch whose plan is in the log, durable or not.
    pub planned: BatchId,
    /// The last batch whose plan is durable.
    pub plan_durable: BatchId,
    /// The last batch whose outputs may be published.
    pub prepared: BatchId,
    /// The last batch that is published, and part of the state.
    pub completed: BatchId,
    /// The last batch that a checkpoint holds.
    pub checkpointed: BatchId,
}

/// Which mark moves.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Mark {
    Planned,
    PlanDurable,
    Prepared,
    Completed,
    Checkpointed,
}

impl Marks {
    /// The marks of a job that goes on behind this batch.
    pub(crate) fn restored(batch: BatchId) -> Marks {
        Marks {
            planned: batch,
            plan_durable: batch,
            prepared: batch,
            completed: batch,
            checkpointed: batch,
        }
    }

    /// Moves one mark to `batch`.
    ///
    /// # Panics
    /// If a step was left out or taken twice: a broken engine must not go on.
    pub(crate) fn reach(&mut self, mark: Mark, batch: BatchId) {
        let (place, dense) = match mark {
            Mark::Planned => (&mut self.planned, true),
            Mark::PlanDurable => (&mut self.plan_durable, true),
            Mark::Prepared => (&mut self.prepared, true),
            Mark::Completed => (&mut self.completed, true),
            Mark::Checkpointed => (&mut self.checkpointed, false),
        };
        if dense {
            assert_eq!(place.next(), batch, "STREAM-2: {mark:?} passes batches one by one");
        }
        assert!(*place <= batch, "STREAM-2: {mark:?} never falls");
        *place = batch;
        self.check();
    }

    fn check(&self) {
        assert!(self.plan_durable <= self.planned, "STREAM-1: plan durable <= planned: {self:?}");
        assert!(self.prepared <= self.plan_durable, "STREAM-1: prepared <= durable: {self:?}");
        assert!(self.completed <= self.prepared, "STREAM-1: completed <= prepared: {self:?}");
        assert!(self.checkpointed <= self.completed, "STREAM-1: checkpointed: {self:?}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_passes_every_mark_in_order() {
        let mut marks = Marks::restored(BatchId::new(4));
        let five = BatchId::new(5);
        for mark in
            [Mark::Planned, Mark::PlanDurable, Mark::Prepared, Mark::Completed, Mark::Checkpointed]
        {
            marks.reach(mark, five);
        }
        assert_eq!(marks, Marks::restored(five));
    }

    #[test]
    #[should_panic(expected = "STREAM-1")]
    fn a_step_left_out_stops_the_engine() {
        let mut marks = Marks::default();
        marks.reach(Mark::Planned, BatchId::new(1));
        marks.reach(Mark::Prepared, BatchId::new(1));
    }

    #[test]
    #[should_panic(expected = "STREAM-2")]
    fn a_batch_left_out_stops_the_engine() {
        Marks::default().reach(Mark::Planned, BatchId::new(2));
    }
}
