//! `union`: the partitions of one dataset, then those of another.

use super::super::node::{Compute, Dependency, Meta, Node, Parent};
use crate::error::Result;
use crate::exec::dataset::Dataset;
use crate::exec::row::Row;
use crate::exec::run::RunContext;
use crate::exec::task::Task;

impl<R: Row> Dataset<R> {
    /// The partitions of this dataset, then those of `other`: rows that are in both stay twice.
    ///
    /// ```
    /// use sawmill::{Dataset, Executor};
    /// let both = Dataset::from_vec(vec![1, 2], 1).union(&Dataset::from_vec(vec![2, 3], 1));
    /// assert_eq!(both.collect(&Executor::new(1, 1)?)?, [1, 2, 2, 3]);
    /// # Ok::<(), sawmill::Error>(())
    /// ```
    #[must_use]
    pub fn union(&self, other: &Dataset<R>) -> Dataset<R> {
        let parents = [self.parent(), other.parent()];
        let [left, right] = [parents[0].meta(), parents[1].meta()];
        // The deeper one of the two: with what is persisted kept, and without. It may be another.
        let depth = (left.fused.max(right.fused), left.unkept.max(right.unkept));
        let meta = Meta::fused("union", depth);
        Dataset::from_node(Union { meta, parents })
    }
}

struct Union<R: Row> {
    meta: Meta,
    parents: [Parent<R>; 2],
}

impl<R: Row> Node for Union<R> {
    fn meta(&self) -> &Meta {
        &self.meta
    }

    fn dependencies(&self) -> Vec<Dependency> {
        self.parents.iter().map(|parent| Dependency::Slice(parent.node())).collect()
    }

    fn partitions(&self, _run: &RunContext, parents: &[u32]) -> Result<u32> {
        Ok(parents.iter().sum())
    }
}

impl<R: Row> Compute<R> for Union<R> {
    fn run(&self, task: &Task<'_>, out: &mut dyn FnMut(R::View<'_>)) -> Result<()> {
        let [left, right] = &self.parents;
        let first = task.partitions_of(left.meta().id);
        match task.partition().checked_sub(first) {
            None => left.run(task, out),
            Some(partition) => right.run(&task.at(partition), out),
        }
    }
}
