//! `keys`: the keys alone.

use super::{Narrow, narrow_node};
use crate::error::Result;
use crate::exec::dataset::Dataset;
use crate::exec::node::Compute;
use crate::exec::row::{Kv, Row};
use crate::exec::task::Task;

impl<K: Row, V: Row> Dataset<Kv<K, V>> {
    /// The key of each row, in the same order: as often as it occurs.
    ///
    /// ```
    /// use sawmill::{Dataset, Executor};
    /// let lengths = Dataset::from_vec(vec!["oak", "larch"], 1).pair_with(|word| word.len());
    /// assert_eq!(lengths.keys().collect(&Executor::new(1, 1)?)?, ["oak", "larch"]);
    /// # Ok::<(), sawmill::Error>(())
    /// ```
    #[must_use]
    pub fn keys(&self) -> Dataset<K> {
        Dataset::from_node(Keys { base: Narrow::new("keys", self.parent()) })
    }
}

struct Keys<K: Row, V: Row> {
    base: Narrow<Kv<K, V>>,
}

narrow_node!([K: Row, V: Row] Keys<K, V>);

impl<K: Row, V: Row> Compute<K> for Keys<K, V> {
    fn run(&self, task: &Task<'_>, out: &mut dyn FnMut(K::View<'_>)) -> Result<()> {
        self.base.parent.run(task, &mut |(key, _)| out(key))
    }
}
