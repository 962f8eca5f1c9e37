//! Work on the pool beside whoever asked for it: stages that can be done before it is their turn.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::executor::Executor;
use super::node::{Node, OperatorId};
use super::plan::Plan;
use super::run::RunContext;
use crate::error::Result;
use crate::sync::{Arc, Gate};

/// What a gate says while the work goes on, and when it has ended.
const GOES_ON: u32 = 0;
const ENDED: u32 = 1;

/// Work that was begun.
#[derive(Debug)]
pub(crate) struct Aside(Arc<Gate>);

impl Aside {
    /// Waits for its end.
    pub(crate) fn wait(&self) {
        self.0.wait_while(GOES_ON);
    }
}

/// Says that the work has ended, however it did.
struct Tell(Arc<Gate>);

impl Drop for Tell {
    fn drop(&mut self) {
        self.0.open(ENDED);
    }
}

impl Executor {
    /// Begins work on the pool. What comes of it, the work itself must leave somewhere: also a
    /// panic in it is nobody's but its own.
    pub(crate) fn spawn(
        self: &Arc<Executor>,
        work: impl FnOnce(&Executor) + Send + 'static,
    ) -> Aside {
        let aside = Aside(Arc::default());
        let (tell, executor) = (Tell(Arc::clone(&aside.0)), Arc::clone(self));
        self.pool().spawn(move || {
            let _tell = tell;
            drop(catch_unwind(AssertUnwindSafe(|| work(&executor))));
            // Before the end is told, so that who waits for it is the last to have the pool.
            drop(executor);
        });
        aside
    }

    /// Computes what is held on the way to `target` and needs nothing of the operators `without`.
    /// What was lost meanwhile is left to who needs it. Returns whether `target` needs nothing of
    /// them itself.
    ///
    /// # Errors
    /// As [`Executor::hold`].
    pub(crate) fn begin(
        &self,
        run: &RunContext,
        target: &Arc<dyn Node>,
        without: &BTreeSet<OperatorId>,
    ) -> Result<bool> {
        let plan = Plan::new(target, run)?;
        let needs = plan.needing(without);
        if needs.last() == Some(&false) {
            return Ok(true); // who computes it computes all that is on the way
        }
        let all: BTreeSet<u32> = (0..plan.target_partitions()).collect();
        for stage in plan.stages(run.store(), &all) {
            if !needs[stage.index] && self.fill(run, &plan, &stage)? {
                break;
            }
        }
        Ok(false)
    }
}
