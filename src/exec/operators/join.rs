//! `join`: the pairs of values that two datasets have of one key.

use crate::exec::dataset::Dataset;
use crate::exec::joining::{Shape, join_by_key};
use crate::exec::key::Key;
use crate::exec::row::Kv;
use crate::exec::wire::Value;

impl<K: Key, V: Value> Dataset<Kv<K, V>> {
    /// One row for each pair of a row of this dataset and one of `other` with the same key.
    ///
    /// Rows come out by reduce partition, there in the order of this dataset, for each of its rows
    /// in the order of `other`. Of `other`, one partition at a time is put into a table in memory:
    /// let it be the smaller one. A dataset that is distributed by key already (behind
    /// [`Dataset::reduce_by_key`], [`Dataset::cogroup`], another join) is read in place: no
    /// shuffle. What comes out is computed for each consumer, from what the shuffles hold.
    ///
    /// ```
    /// use sawmill::{Dataset, Executor};
    /// let visits = Dataset::from_vec(vec![(1u32, 10u64), (2, 20), (1, 30)], 2).map_to_pair(|v| v);
    /// let names = Dataset::from_vec(vec![(1u32, "ada".to_owned())], 1).map_to_pair(|n| n);
    /// let rows = visits.join(&names).collect(&Executor::new(2, 4)?)?;
    /// assert_eq!(rows, [(1, (10, "ada".to_owned())), (1, (30, "ada".to_owned()))]);
    /// # Ok::<(), sawmill::Error>(())
    /// ```
    #[must_use]
    pub fn join<W: Value>(&self, other: &Dataset<Kv<K, W>>) -> Dataset<Kv<K, (V, W)>> {
        join_by_key("join", self, other, Inner)
    }
}

struct Inner;

impl<V: Value, W: Value> Shape<V, W> for Inner {
    type Out = (V, W);

    const KEEPS_UNASKED: bool = false;

    #[inline]
    fn matched(value: V, found: W) -> (V, W) {
        (value, found)
    }

    #[inline]
    fn alone(_: V) -> Option<(V, W)> {
        None
    }

    fn unasked(_: W) -> Option<(V, W)> {
        None
    }
}
