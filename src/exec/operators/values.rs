//! `values`: the values alone.

use super::{Narrow, narrow_node};
use crate::error::Result;
use crate::exec::dataset::Dataset;
use crate::exec::node::Compute;
use crate::exec::row::{Kv, Row};
use crate::exec::task::Task;

impl<K: Row, V: Row> Dataset<Kv<K, V>> {
    /// The value of each row, in the same order.
    ///
    /// ```
    /// use sawmill::{Dataset, Executor};
    /// let lengths = Dataset::from_vec(vec!["oak", "larch"], 1).pair_with(|word| word.len());
    /// assert_eq!(lengths.values().collect(&Executor::new(1, 1)?)?, [3, 5]);
    /// # Ok::<(), sawmill::Error>(())
    /// ```
    #[must_use]
    pub fn values(&self) -> Dataset<V> {
        Dataset::from_node(Values { base: Narrow::new("values", self.parent()) })
    }
}

struct Values<K: Row, V: Row> {
    base: Narrow<Kv<K, V>>,
}

narrow_node!([K: Row, V: Row] Values<K, V>);

impl<K: Row, V: Row> Compute<V> for Values<K, V> {
    fn run(&self, task: &Task<'_>, out: &mut dyn FnMut(V::View<'_>)) -> Result<()> {
        self.base.parent.run(task, &mut |(_, value)| out(value))
    }
}
