//! Faults struck on purpose, without touching user code: for tests and drills.

use std::fmt;

use super::node::OperatorId;
use super::run::{Lost, TaskKind};
use crate::sync::{Mutex, lock};

#[derive(Clone, Copy)]
enum Drill {
    Panic { operator: OperatorId, kind: TaskKind, partition: u32, attempts: u32 },
    Lose { after: OperatorId, operator: OperatorId, lost: Lost },
}

/// Faults to be struck in one run. Each loss is struck once.
#[derive(Default)]
pub struct Drills(Mutex<Vec<Drill>>);

impl fmt::Debug for Drills {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Drills({})", lock(&self.0).len())
    }
}

impl Drills {
    /// The first `attempts` attempts at the task of this kind at this partition panic half-way:
    /// after the rows were computed, before they become visible.
    pub fn panic_at(&self, operator: OperatorId, kind: TaskKind, partition: u32, attempts: u32) {
        lock(&self.0).push(Drill::Panic { operator, kind, partition, attempts });
    }

    /// When the tasks of `after` have been done, what `operator` holds is lost.
    pub fn lose_after(&self, after: OperatorId, operator: OperatorId, lost: Lost) {
        lock(&self.0).push(Drill::Lose { after, operator, lost });
    }

    pub(crate) fn strike(
        &self,
        operator: OperatorId,
        kind: TaskKind,
        partition: u32,
        attempt: u32,
    ) {
        let strikes = lock(&self.0).iter().any(|drill| {
            matches!(drill, Drill::Panic { operator: o, kind: k, partition: p, attempts }
                if (*o, *k, *p) == (operator, kind, partition) && attempt <= *attempts)
        });
        assert!(!strikes, "a panic on purpose");
    }

    pub(crate) fn losses_after(&self, stage: OperatorId) -> Vec<(OperatorId, Lost)> {
        let mut losses = Vec::new();
        lock(&self.0).retain(|drill| match *drill {
            Drill::Lose { after, operator, lost } if after == stage => {
                losses.push((operator, lost));
                false
            }
            Drill::Lose { .. } | Drill::Panic { .. } => true,
        });
        losses
    }
}
