//! Another parallelism (ENGINE.md E4): the state in other partitions, between two batches.
//!
//! RESCALE-1: a planned batch is executed with the parallelism of its plan, whatever the options
//! say: it gave its rows an order that was seen, or may have been.
//! RESCALE-2: a change takes effect at the first batch behind the last planned one, and begins a
//! generation of the job. Which partitions a checkpoint has is said by the checkpoint; which ones a
//! batch had, by its plan: so a crash at any place of a change leaves nothing half changed.

use super::driver::JobDriver;
use super::journal::{Entry, JOURNAL};
use crate::error::Result;
use crate::state::Tracking;

impl JobDriver {
    /// RESCALE-2: before a batch is planned. The checkpoint that follows is a whole one; if it
    /// fails, that is an alarm as always: the one before has the state as it was, and the log the
    /// batches since (ENGINE.md E17).
    ///
    /// # Errors
    /// The log's.
    pub(super) fn change_parallelism(&mut self) -> Result<()> {
        if self.options.parallelism == self.shape.parallelism {
            return Ok(());
        }
        self.land()?;
        self.bring_to(self.options.parallelism);
        self.shape.generation = self.shape.generation.next();
        let entry = Entry::JobStarted(self.shape.clone());
        self.env.wal.append_internal(JOURNAL, &[&entry.encode()])?;
        match self.store {
            Some(_) => self.take_checkpoint(),
            None => Ok(()),
        }
    }

    /// Has the state in so many partitions, in memory. RESCALE-1: before a batch is executed that
    /// was planned by an earlier run.
    pub(crate) fn bring_to(&mut self, parallelism: u32) {
        if self.shape.parallelism == parallelism {
            return;
        }
        self.shape.parallelism = parallelism;
        for (operator, state) in self.job.operators.iter().zip(&mut self.states) {
            *state = state.in_partitions(parallelism);
            operator.rebind(state);
            state.track(Tracking::Begin);
        }
        // What changes from here on is no change of what a checkpoint has in other partitions.
        self.lineage.parent = None;
    }
}
