//! `right_outer_join`: every row of the other dataset, with what this one has of its key.

use crate::exec::dataset::Dataset;
use crate::exec::joining::{Shape, join_by_key};
use crate::exec::key::Key;
use crate::exec::row::Kv;
use crate::exec::wire::Value;

impl<K: Key, V: Value> Dataset<Kv<K, V>> {
    /// One row for each pair of rows with the same key, and one with `None` for each row of
    /// `other` whose key this dataset has not.
    ///
    /// Rows come out by reduce partition, there in the order of `other`, for each of its rows in
    /// the order of this dataset, which is the one put into a table: it is
    /// [`Dataset::left_outer_join`] seen from the other side.
    ///
    /// ```
    /// use sawmill::{Dataset, Executor};
    /// let visits = Dataset::from_vec(vec![(1u32, 10u64), (2, 20)], 2).map_to_pair(|v| v);
    /// let names = Dataset::from_vec(vec![(1u32, 'a'), (3, 'c')], 1).map_to_pair(|n| n);
    /// let mut rows = visits.right_outer_join(&names).collect(&Executor::new(2, 4)?)?;
    /// rows.sort();
    /// assert_eq!(rows, [(1, (Some(10), 'a')), (3, (None, 'c'))]);
    /// # Ok::<(), sawmill::Error>(())
    /// ```
    #[must_use]
    pub fn right_outer_join<W: Value>(
        &self,
        other: &Dataset<Kv<K, W>>,
    ) -> Dataset<Kv<K, (Option<V>, W)>> {
        join_by_key("right_outer_join", other, self, RightOuter)
    }
}

/// The probing side is the right one.
struct RightOuter;

impl<V: Value, W: Value> Shape<W, V> for RightOuter {
    type Out = (Option<V>, W);

    const KEEPS_UNASKED: bool = false;

    fn matched(value: W, found: V) -> Self::Out {
        (Some(found), value)
    }

    fn alone(value: W) -> Option<Self::Out> {
        Some((None, value))
    }

    fn unasked(_: V) -> Option<Self::Out> {
        None
    }
}
