//! `map_values`: other values for the same keys.

use std::fmt::Display;
use std::marker::PhantomData;

use super::try_rows::try_rows;
use super::{Narrow, narrow_node, with_user};
use crate::error::Result;
use crate::exec::dataset::Dataset;
use crate::exec::node::Compute;
use crate::exec::row::{Data, Kv, Row};
use crate::exec::task::Task;

impl<K: Row, V: Data> Dataset<Kv<K, V>> {
    /// The same keys with other values. What is distributed by key stays so: no shuffle follows.
    ///
    /// ```
    /// use sawmill::{Dataset, Executor};
    /// let pairs = Dataset::from_vec(vec!["oak"], 1).pair_with(|_| 1u8).map_values(|n| n * 2);
    /// assert_eq!(pairs.collect(&Executor::new(1, 1)?)?, [("oak", 2)]);
    /// # Ok::<(), sawmill::Error>(())
    /// ```
    #[must_use]
    pub fn map_values<W: Data>(
        &self,
        f: impl Fn(V) -> W + Send + Sync + 'static,
    ) -> Dataset<Kv<K, W>> {
        let base = Narrow::new("map_values", self.parent());
        Dataset::from_node(MapValues { base, f, value: PhantomData })
    }

    /// As [`Dataset::map_values`], with a closure that can fail: an `Err` is the failure of that
    /// record.
    #[must_use]
    pub fn try_map_values<W: Data, E: Display + 'static>(
        &self,
        f: impl Fn(V) -> Result<W, E> + Send + Sync + 'static,
    ) -> Dataset<Kv<K, W>> {
        try_rows::<_, Kv<K, W>, E>("try_map_values", self, true, move |(key, value), user, out| {
            let value = user.call(|| f(value))?;
            out((key, value));
            Ok(())
        })
    }
}

struct MapValues<K: Row, V: Data, W, F> {
    base: Narrow<Kv<K, V>>,
    f: F,
    value: PhantomData<fn() -> W>,
}

narrow_node!([K: Row, V: Data, W: Data, F: Send + Sync + 'static] MapValues<K, V, W, F>,
    partitioning: |node| node.base.parent.partitioning());

impl<K, V, W, F> Compute<Kv<K, W>> for MapValues<K, V, W, F>
where
    K: Row,
    V: Data,
    W: Data,
    F: Fn(V) -> W + Send + Sync + 'static,
{
    fn run(&self, task: &Task<'_>, out: &mut dyn FnMut((K::View<'_>, W))) -> Result<()> {
        let Narrow { meta, parent } = &self.base;
        with_user!(task, meta, |user| parent.run(task, &mut |(key, value)| {
            let value = user.call(|| (self.f)(value));
            out((key, value));
        }))
    }
}
