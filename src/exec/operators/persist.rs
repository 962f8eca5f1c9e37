//! `persist`: partitions that are computed once per run and held.

use super::Narrow;
use crate::error::Result;
use crate::exec::dataset::Dataset;
use crate::exec::node::{Compute, Dependency, Held, Hold, Meta, Node, Partitioning, Role};
use crate::exec::row::Row;
use crate::exec::task::Task;
use crate::exec::wire::{Wire, read_encoded};
use crate::sync::Arc;

impl<R: Row> Dataset<R> {
    /// Computes each partition once per run and holds it, encoded, in memory: for a dataset with
    /// several consumers, and to end a chain of fused operators that grows too long.
    ///
    /// ```
    /// use sawmill::{Dataset, Executor, RunContext};
    /// let executor = Executor::new(1, 1)?;
    /// let squares = Dataset::from_vec(vec![1, 2, 3], 2).map(|n| n * n).persist();
    /// let run = executor.context();
    /// assert_eq!(executor.collect(&run, &squares)?, [1, 4, 9]);
    /// assert_eq!(executor.count(&run, &squares)?, 3);
    /// assert_eq!(run.tasks().len(), 2 + 2 + 2, "two partitions held, two actions");
    /// # Ok::<(), sawmill::Error>(())
    /// ```
    #[must_use]
    pub fn persist(&self) -> Dataset<R>
    where
        R: Wire,
    {
        let base = Narrow { meta: Meta::first("persist"), parent: self.parent() };
        Dataset::from_node(Persist { base })
    }
}

struct Persist<R: Row> {
    base: Narrow<R>,
}

impl<R: Wire> Node for Persist<R> {
    fn meta(&self) -> &Meta {
        &self.base.meta
    }

    fn dependencies(&self) -> Vec<Dependency> {
        vec![Dependency::Narrow(self.base.parent.node())]
    }

    fn role(&self) -> Role<'_> {
        Role::Held(self)
    }

    fn partitioning(&self) -> Partitioning {
        self.base.parent.partitioning()
    }
}

impl<R: Wire> Hold for Persist<R> {
    fn hold(&self, task: &Task<'_>) -> Result<Held> {
        let mut bytes = Vec::new();
        self.base.parent.run(task, &mut |view| R::put(view, &mut bytes))?;
        Ok(Arc::new(bytes))
    }
}

impl<R: Wire> Compute<R> for Persist<R> {
    fn run(&self, task: &Task<'_>, out: &mut dyn FnMut(R::View<'_>)) -> Result<()> {
        let bytes = task.held::<Vec<u8>>(self.base.meta.id, task.partition())?;
        read_encoded::<R>(&bytes, out)
    }
}
