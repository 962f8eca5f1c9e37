//! Nodes whose partitions are held as tables: one row for each key.

use super::key::Key;
use super::keyed::view_of;
use super::node::{Compute, Dependency, Held, Hold, Meta, Node, Partitioning, Role};
use super::row::Kv;
use super::run::RunContext;
use super::spare::Spares;
use super::table::{ByteTable, HeldTable};
use super::task::Task;
use super::wire::Value;
use crate::error::Result;

/// How the table of one partition is made.
pub(crate) trait Tabulate: Send + Sync + 'static {
    type Key: Key;
    type Value: Value;

    fn dependencies(&self) -> Vec<Dependency>;

    /// The table of partition `task.partition()`: the keys that the run's parallelism places there,
    /// in the room of `empty`. `meta` is that of the node, to call user code with.
    fn table(
        &self,
        task: &Task<'_>,
        meta: &Meta,
        empty: ByteTable<Self::Value>,
    ) -> Result<ByteTable<Self::Value>>;
}

/// Holds one table for each partition and emits its rows: by partition, there in the order in
/// which the keys were first seen.
pub(crate) struct Tabled<T: Tabulate> {
    meta: Meta,
    made: T,
    spares: Spares<ByteTable<T::Value>>,
}

impl<T: Tabulate> Tabled<T> {
    pub(crate) fn new(name: &str, made: T) -> Tabled<T> {
        Tabled { meta: Meta::first(name), made, spares: Spares::default() }
    }
}

impl<T: Tabulate> Node for Tabled<T> {
    fn meta(&self) -> &Meta {
        &self.meta
    }

    fn dependencies(&self) -> Vec<Dependency> {
        self.made.dependencies()
    }

    fn partitions(&self, run: &RunContext, _parents: &[u32]) -> Result<u32> {
        Ok(run.parallelism())
    }

    fn role(&self) -> Role<'_> {
        Role::Held(self)
    }

    fn partitioning(&self) -> Partitioning {
        Partitioning::ByKey
    }

    fn holds_table(&self) -> bool {
        true
    }
}

impl<T: Tabulate> Hold for Tabled<T> {
    fn hold(&self, task: &Task<'_>) -> Result<Held> {
        let empty = self.spares.take().unwrap_or_default();
        let table = self.made.table(task, &self.meta, empty)?;
        let bytes = table.memory();
        Ok(Held::new(self.spares.lend(table, task.run()), bytes))
    }
}

impl<T: Tabulate> Compute<Kv<T::Key, T::Value>> for Tabled<T> {
    fn run(
        &self,
        task: &Task<'_>,
        out: &mut dyn FnMut((<T::Key as super::row::Row>::View<'_>, T::Value)),
    ) -> Result<()> {
        let table = task.held::<HeldTable<T::Value>>(self.meta.id, task.partition())?;
        for (_, key, value) in table.iter() {
            out((view_of::<T::Key>(key)?, value.clone()));
        }
        Ok(())
    }
}
