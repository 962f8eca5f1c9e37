//! `reduce_by_key`: one row for each key.

use std::marker::PhantomData;

use crate::error::{Error, ErrorKind, Result};
use crate::exec::dataset::Dataset;
use crate::exec::key::{Key, hash};
use crate::exec::keyed::{RoomHint, Targets};
use crate::exec::node::{
    Compute, Dependency, Held, Hold, Meta, Node, Parent, Partitioning, Role, Shuffle,
};
use crate::exec::row::{Data, Kv, Row};
use crate::exec::run::RunContext;
use crate::exec::table::ByteTable;
use crate::exec::task::Task;
use crate::exec::wire::Value;
use crate::sync::Arc;

impl<K: Row, V: Data> Dataset<Kv<K, V>> {
    /// One row for each key, its values folded by `f`.
    ///
    /// Values of one key are folded within each source partition first, in order, then the results
    /// in the order of the source partitions: one fixed tree, whatever the schedule. So `f` should
    /// be associative; where it is not quite (floats), the result is still the same each time.
    /// Keys come out by reduce partition, there in first-seen order.
    ///
    /// ```
    /// use sawmill::{Dataset, Executor};
    /// let sums = Dataset::from_vec(vec![1u64, 2, 3, 4, 5], 2)
    ///     .map_to_pair(|n| (n % 2 == 0, n))
    ///     .reduce_by_key(|a, b| a + b);
    /// let mut sums = sums.collect(&Executor::new(2, 4)?)?;
    /// sums.sort();
    /// assert_eq!(sums, [(false, 9), (true, 6)]);
    /// # Ok::<(), sawmill::Error>(())
    /// ```
    #[must_use]
    pub fn reduce_by_key(&self, f: impl Fn(V, V) -> V + Send + Sync + 'static) -> Dataset<Kv<K, V>>
    where
        K: Key,
        V: Value,
    {
        let (f, parent) = (Arc::new(f), self.parent());
        let combine = Arc::new(Combine {
            meta: Meta::after("reduce_by_key.combine", parent.meta()),
            parent,
            f: Arc::clone(&f),
            keys_before: RoomHint::default(),
        });
        Dataset::from_node(ReduceByKey {
            meta: Meta::first("reduce_by_key"),
            combine,
            f,
            row: PhantomData,
        })
    }
}

/// The map side: folds each source partition into one table for each reduce partition. That it
/// combines is fixed, and part of the operator's meaning (ENGINE.md E7).
struct Combine<K: Key, V: Value, F> {
    meta: Meta,
    parent: Parent<Kv<K, V>>,
    f: Arc<F>,
    /// How many keys the buckets had last time.
    keys_before: RoomHint,
}

/// The reduce side: merges the tables of all source partitions, in their order.
struct ReduceByKey<K: Key, V: Value, F> {
    meta: Meta,
    combine: Arc<Combine<K, V, F>>,
    f: Arc<F>,
    row: PhantomData<fn() -> (K, V)>,
}

impl<K: Key, V: Value, F: Fn(V, V) -> V + Send + Sync + 'static> Node for Combine<K, V, F> {
    fn meta(&self) -> &Meta {
        &self.meta
    }

    fn dependencies(&self) -> Vec<Dependency> {
        vec![Dependency::Narrow(self.parent.node())]
    }

    fn role(&self) -> Role<'_> {
        Role::Shuffle(self)
    }
}

impl<K: Key, V: Value, F: Fn(V, V) -> V + Send + Sync + 'static> Node for ReduceByKey<K, V, F> {
    fn meta(&self) -> &Meta {
        &self.meta
    }

    fn dependencies(&self) -> Vec<Dependency> {
        let combine: Arc<Combine<K, V, F>> = Arc::clone(&self.combine);
        vec![Dependency::Wide(combine)]
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

impl<K: Key, V: Value, F: Fn(V, V) -> V + Send + Sync + 'static> Shuffle for Combine<K, V, F> {
    fn buckets(&self, task: &Task<'_>, wanted: &[u32]) -> Result<Vec<Held>> {
        let room = self.keys_before.room();
        let mut tables: Vec<ByteTable<V>> =
            wanted.iter().map(|_| ByteTable::with_capacity(room)).collect();
        let targets = Targets::new(task.run().parallelism(), wanted);
        let mut scratch = Vec::new();
        self.parent.run(task, &mut |(key, value)| {
            let key = K::bytes(&key, &mut scratch);
            let hash = hash(key);
            if let Some(table) = targets.of(hash) {
                let fold = |a, b| task.call(&self.meta, || (self.f)(a, b));
                tables[table].upsert(hash, key, value, fold);
            }
        })?;
        self.keys_before.learn(tables.iter().map(ByteTable::len));
        Ok(tables.into_iter().map(|table| Arc::new(table) as Held).collect())
    }
}

impl<K: Key, V: Value, F: Fn(V, V) -> V + Send + Sync + 'static> Hold for ReduceByKey<K, V, F> {
    fn hold(&self, task: &Task<'_>) -> Result<Held> {
        let id = self.combine.meta.id;
        let buckets = (0..task.partitions_of(id))
            .map(|map| task.bucket::<ByteTable<V>>(id, map, task.partition()))
            .collect::<Result<Vec<_>>>()?;
        let fullest = buckets.iter().map(|bucket| bucket.len()).max().unwrap_or(0);
        let mut table = ByteTable::with_capacity(fullest);
        for bucket in buckets {
            for (hash, key, value) in bucket.iter() {
                let fold = |a, b| task.call(&self.meta, || (self.f)(a, b));
                table.upsert(hash, key, value.clone(), fold);
            }
        }
        Ok(Arc::new(table))
    }
}

impl<K: Key, V: Value, F> Compute<Kv<K, V>> for ReduceByKey<K, V, F>
where
    F: Fn(V, V) -> V + Send + Sync + 'static,
{
    fn run(&self, task: &Task<'_>, out: &mut dyn FnMut((K::View<'_>, V))) -> Result<()> {
        let table = task.held::<ByteTable<V>>(self.meta.id, task.partition())?;
        for (_, key, value) in table.iter() {
            let view = K::view(key).map_err(|error| {
                let text = "a key does not read the canonical bytes it wrote";
                Error::new(ErrorKind::TaskFailed, text).caused_by(error)
            })?;
            out((view, value.clone()));
        }
        Ok(())
    }
}
