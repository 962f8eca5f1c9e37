//! What happens to a run: blocks that are lost between stages, in the middle of tasks and between
//! two actions; tasks that panic half-way or at their end.

use std::sync::{Arc, Mutex};

use proptest::prelude::*;
use proptest::sample::Index;
use sawmill::{Data, Dataset, Lost, OperatorId, RunContext, TaskKind, TaskOutcome};

/// More than all the panics that are ordered for one run.
pub(crate) const ATTEMPTS: u32 = 10;

/// One thing that may be struck: a task that an undisturbed run had.
pub(crate) type Target = (OperatorId, TaskKind, u32);

/// What the undisturbed run had.
pub(crate) fn targets(run: &RunContext) -> Vec<Target> {
    run.tasks().iter().map(|task| (task.operator, task.kind, task.partition)).collect()
}

/// What is ordered; which tasks are meant is found out by an undisturbed run.
#[derive(Clone, Debug)]
pub(crate) struct Faults {
    /// Panics at the end of a task, some attempts long.
    panics: Vec<(Index, u32)>,
    /// Losses behind a stage, of what another one holds.
    losses: Vec<(Index, Index, u8)>,
    /// After so many rows more, in the middle of whatever task is on: a loss, or (`None`) a panic.
    shakes: Vec<(u64, Option<(Index, u8)>)>,
}

pub(crate) fn faults() -> impl Strategy<Value = Faults> {
    let index = any::<Index>;
    let loss = (index(), 0u8..4);
    (
        prop::collection::vec((index(), 1u32..4), 0..3),
        prop::collection::vec((index(), index(), 0u8..4), 0..4),
        prop::collection::vec((0u64..40, prop::option::weighted(0.7, loss)), 0..6),
    )
        .prop_map(|(panics, losses, shakes)| Faults { panics, losses, shakes })
}

fn lost((operator, _, partition): Target, how: u8) -> (OperatorId, Lost) {
    let lost = match how {
        0 => Lost::All,
        1 => Lost::Bucket { map: partition, reduce: partition / 2 },
        _ => Lost::Partition(partition),
    };
    (operator, lost)
}

impl Faults {
    /// Orders what the run strikes by itself.
    pub(crate) fn order(&self, run: &RunContext, targets: &[Target]) {
        if targets.is_empty() {
            return;
        }
        for (at, attempts) in &self.panics {
            let (operator, kind, partition) = *at.get(targets);
            run.drills().panic_at(operator, kind, partition, *attempts);
        }
        for (after, at, how) in &self.losses {
            let (operator, lost) = lost(*at.get(targets), *how);
            run.drills().lose_after(after.get(targets).0, operator, lost);
        }
    }

    /// Loses the same blocks now; how many were held.
    pub(crate) fn lose(&self, run: &RunContext, targets: &[Target]) -> usize {
        let losses = self.losses.iter().filter(|_| !targets.is_empty());
        let drop = |(_, at, how): &(Index, Index, u8)| {
            let (operator, lost) = lost(*at.get(targets), *how);
            run.drop_partition(operator, lost)
        };
        losses.map(drop).sum()
    }
}

/// What was really struck.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Struck {
    pub(crate) lost: usize,
    pub(crate) panics: usize,
}

impl std::ops::AddAssign for Struck {
    fn add_assign(&mut self, more: Struck) {
        self.lost += more.lost;
        self.panics += more.panics;
    }
}

impl Struck {
    /// Adds what the log of a run shows.
    pub(crate) fn count(&mut self, run: &RunContext) {
        let failed = run.tasks().into_iter().filter(|task| task.outcome == TaskOutcome::Failed);
        self.panics += failed.count();
    }
}

/// A loss, or (`None`) a panic.
type Order = Option<(OperatorId, Lost)>;

/// Sits in the middle of tasks and strikes there.
#[derive(Default)]
pub(crate) struct Chaos {
    /// Next one last: after so many rows.
    orders: Mutex<Vec<(u64, Order)>>,
    lost: Mutex<usize>,
}

impl Chaos {
    pub(crate) fn arm(&self, faults: &Faults, targets: &[Target]) {
        let shakes = faults.shakes.iter().filter(|_| !targets.is_empty());
        let order = |(after, loss): &(u64, Option<(Index, u8)>)| {
            let loss = loss.map(|(at, how)| lost(*at.get(targets), how));
            (*after, loss)
        };
        *self.orders.lock().unwrap() = shakes.map(order).collect();
    }

    pub(crate) fn disarm(&self, struck: &mut Struck) {
        self.orders.lock().unwrap().clear();
        struck.lost += std::mem::take(&mut *self.lost.lock().unwrap());
    }

    /// One row passes by.
    fn pass(&self, run: &RunContext) {
        let due = {
            let mut orders = self.orders.lock().unwrap();
            match orders.last_mut() {
                Some((0, _)) => orders.pop(),
                Some((rows, _)) => {
                    *rows -= 1;
                    None
                }
                None => None,
            }
        };
        match due {
            Some((_, Some((operator, lost)))) => {
                *self.lost.lock().unwrap() += run.drop_partition(operator, lost);
            }
            Some((_, None)) => panic!("a panic in the middle of a task"),
            None => {}
        }
    }

    /// The same rows, with this in their way.
    pub(crate) fn shake<T: Data>(self: &Arc<Chaos>, rows: &Dataset<T>) -> Dataset<T> {
        let chaos = Arc::clone(self);
        rows.map_partitions::<T>(move |rows, out| {
            rows.for_each(|row| {
                chaos.pass(rows.run());
                out.push(row);
            })
        })
    }
}
