//! `persist`: partitions that are computed once per run and held.

use super::Narrow;
use crate::error::Result;
use crate::exec::dataset::Dataset;
use crate::exec::node::{
    Compute, Dependency, Held, Hold, MAX_FUSED, Meta, Node, Partitioning, Role,
};
use crate::exec::row::Row;
use crate::exec::run::{Lost, RunContext};
use crate::exec::task::Task;
use crate::exec::wire::{Wire, read_encoded};

/// Where a persisted dataset is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StorageLevel {
    /// In memory, encoded, in the run that computed it.
    Memory,
}

impl<R: Row> Dataset<R> {
    /// Computes each partition once per run and holds it: for a dataset with several consumers,
    /// and to end a chain of fused operators that grows too long.
    ///
    /// Under a limit ([`RunContext::with_memory`]) partitions stay as long as there is room; a
    /// partition that is gone is computed again when it is asked for, from what is still held
    /// before it. The rows are the same either way. [`Dataset::unpersist`] lets all of them go,
    /// [`RunContext::drop_partition`] one.
    ///
    /// ```
    /// use sawmill::{Dataset, Executor, RunContext, StorageLevel};
    /// let executor = Executor::new(1, 1)?;
    /// let squares = Dataset::from_vec(vec![1, 2, 3], 2).map(|n| n * n);
    /// let squares = squares.persist(StorageLevel::Memory);
    /// let run = executor.context();
    /// assert_eq!(executor.collect(&run, &squares)?, [1, 4, 9]);
    /// assert_eq!(executor.count(&run, &squares)?, 3);
    /// assert_eq!(run.tasks().len(), 2 + 2 + 2, "two partitions held, two actions");
    /// assert_eq!(squares.unpersist(&run), 2);
    /// # Ok::<(), sawmill::Error>(())
    /// ```
    #[must_use]
    pub fn persist(&self, level: StorageLevel) -> Dataset<R>
    where
        R: Wire,
    {
        let StorageLevel::Memory = level;
        let parent = self.parent();
        let base = Narrow { meta: Meta::held_after("persist", parent.meta()), parent };
        Dataset::from_node(Persist { base })
    }

    /// Lets go what a run holds of this dataset's operator: what is asked for again is computed
    /// again. Returns how many partitions were held.
    pub fn unpersist(&self, run: &RunContext) -> usize {
        run.drop_partition(self.operator(), Lost::All)
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

    fn may_be_cached(&self) -> bool {
        self.base.meta.unkept <= MAX_FUSED
    }
}

impl<R: Wire> Hold for Persist<R> {
    fn hold(&self, task: &Task<'_>) -> Result<Held> {
        let mut bytes = Vec::new();
        self.base.parent.run(task, &mut |view| R::put(view, &mut bytes))?;
        let size = bytes.capacity();
        Ok(Held::new(bytes, size))
    }
}

impl<R: Wire> Persist<R> {
    /// Computes the partition in one pass with its consumer, which sees what a later one will see:
    /// the encoded rows. They are offered to the store if they can fit at all.
    fn pass_on(&self, task: &Task<'_>, out: &mut dyn FnMut(R::View<'_>)) -> Result<()> {
        let room = task.run().store().budget().unwrap_or(usize::MAX);
        let (mut bytes, mut fits, mut failed) = (Vec::new(), true, None);
        self.base.parent.run(task, &mut |view| {
            if failed.is_some() {
                return;
            }
            if !fits {
                bytes.clear();
            }
            let start = bytes.len();
            R::put(view, &mut bytes);
            failed = read_encoded::<R>(&bytes[start..], out).err();
            fits = fits && bytes.len() <= room;
        })?;
        if let Some(error) = failed {
            return Err(error);
        }
        if fits {
            bytes.shrink_to_fit();
            task.offer(self.base.meta.id, bytes);
        }
        Ok(())
    }
}

impl<R: Wire> Compute<R> for Persist<R> {
    fn run(&self, task: &Task<'_>, out: &mut dyn FnMut(R::View<'_>)) -> Result<()> {
        match task.kept::<Vec<u8>>(self.base.meta.id, self.may_be_cached())? {
            Some(bytes) => read_encoded::<R>(&bytes, out),
            None => self.pass_on(task, out),
        }
    }
}
