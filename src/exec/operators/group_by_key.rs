//! `group_by_key`: all values of each key.

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
    /// One row for each key: its values, in the dataset's order. Keys come out by reduce
    /// partition, there in first-seen order.
    ///
    /// All values of a key are in memory at once, and every row goes through the shuffle: to sum,
    /// count or pick, [`Dataset::reduce_by_key`] and [`Dataset::aggregate_by_key`] are faster.
    ///
    /// ```
    /// use sawmill::{Dataset, Executor};
    /// let words = Dataset::from_vec(vec!["oak", "larch", "ash"], 2).map(str::to_owned);
    /// let by_length = words.key_by(|word| word.len() as u32).group_by_key();
    /// let mut groups = by_length.collect(&Executor::new(2, 4)?)?;
    /// groups.sort();
    /// assert_eq!(groups[0], (3, vec!["oak".to_owned(), "ash".to_owned()]));
    /// # Ok::<(), sawmill::Error>(())
    /// ```
    #[must_use]
    pub fn group_by_key(&self) -> Dataset<Kv<K, Vec<V>>> {
        Dataset::from_node(Tabled::new("group_by_key", Group(self.keyed_input())))
    }
}

struct Group<K: Key, V: Value>(KeyedInput<K, V>);

impl<K: Key, V: Value> Tabulate for Group<K, V> {
    type Key = K;
    type Value = Vec<V>;

    fn dependencies(&self) -> Vec<Dependency> {
        vec![self.0.dependency()]
    }

    fn table(
        &self,
        task: &Task<'_>,
        _: &Meta,
        mut table: ByteTable<Vec<V>>,
    ) -> Result<ByteTable<Vec<V>>> {
        self.0.for_each(task, |hash, key, value| {
            table.get_or_insert_with(hash, key, Vec::new).push(value);
        })?;
        Ok(table)
    }
}
