//! `cogroup`: all values that two datasets have of each key.

use crate::error::Result;
use crate::exec::dataset::Dataset;
use crate::exec::key::Key;
use crate::exec::keyed::KeyedInput;
use crate::exec::node::{Dependency, Meta};
use crate::exec::row::Kv;
use crate::exec::table::ByteTable;
use crate::exec::tabled::{Tabled, Tabulate};
use crate::exec::task::Task;
use crate::exec::wire::Value;

impl<K: Key, V: Value> Dataset<Kv<K, V>> {
    /// One row for each key of either dataset: its values in this one and its values in `other`,
    /// each in their dataset's order. Keys come out by reduce partition, there in first-seen
    /// order, this dataset's first.
    ///
    /// A dataset that is distributed by key already (behind [`Dataset::reduce_by_key`], another
    /// `cogroup`, a join) is read in place: no shuffle.
    ///
    /// ```
    /// use sawmill::{Dataset, Executor};
    /// let ages = Dataset::from_vec(vec![7u64, 9], 1).key_by(|age| age % 2);
    /// let names = Dataset::from_vec(vec!["ada".to_owned()], 1).key_by(|_| 1u64);
    /// let both = ages.cogroup(&names).collect(&Executor::new(2, 4)?)?;
    /// assert_eq!(both, [(1, (vec![7, 9], vec!["ada".to_owned()]))]);
    /// # Ok::<(), sawmill::Error>(())
    /// ```
    #[must_use]
    #[allow(clippy::type_complexity, reason = "the type says what comes out")]
    pub fn cogroup<W: Value>(&self, other: &Dataset<Kv<K, W>>) -> Dataset<Kv<K, (Vec<V>, Vec<W>)>> {
        let cogroup = Cogroup { left: self.keyed_input(), right: other.keyed_input() };
        Dataset::from_node(Tabled::new("cogroup", cogroup))
    }
}

struct Cogroup<K: Key, V: Value, W: Value> {
    left: KeyedInput<K, V>,
    right: KeyedInput<K, W>,
}

impl<K: Key, V: Value, W: Value> Tabulate for Cogroup<K, V, W> {
    type Key = K;
    type Value = (Vec<V>, Vec<W>);

    fn dependencies(&self) -> Vec<Dependency> {
        vec![self.left.dependency(), self.right.dependency()]
    }

    fn table(
        &self,
        task: &Task<'_>,
        _: &Meta,
        mut table: ByteTable<Self::Value>,
    ) -> Result<ByteTable<Self::Value>> {
        self.left.for_each(task, |hash, key, value| {
            table.get_or_insert_with(hash, key, Default::default).0.push(value);
        })?;
        self.right.for_each(task, |hash, key, value| {
            table.get_or_insert_with(hash, key, Default::default).1.push(value);
        })?;
        Ok(table)
    }
}
