//! `left_outer_join`: every row of this dataset, with what the other has of its key.

use crate::exec::dataset::Dataset;
use crate::exec::joining::{Shape, join_by_key};
use crate::exec::key::Key;
use crate::exec::row::Kv;
use crate::exec::wire::Value;

impl<K: Key, V: Value> Dataset<Kv<K, V>> {
    /// As [`Dataset::join`], and one row with `None` for each row of this dataset whose key
    /// `other` has not, at its place in this dataset's order.
    ///
    /// ```
    /// use sawmill::{Dataset, Executor};
    /// let visits = Dataset::from_vec(vec![(1u32, 10u64), (2, 20)], 2).map_to_pair(|v| v);
    /// let names = Dataset::from_vec(vec![(1u32, 'a'), (3, 'c')], 1).map_to_pair(|n| n);
    /// let mut rows = visits.left_outer_join(&names).collect(&Executor::new(2, 4)?)?;
    /// rows.sort();
    /// assert_eq!(rows, [(1, (10, Some('a'))), (2, (20, None))]);
    /// # Ok::<(), sawmill::Error>(())
    /// ```
    #[must_use]
    pub fn left_outer_join<W: Value>(
        &self,
        other: &Dataset<Kv<K, W>>,
    ) -> Dataset<Kv<K, (V, Option<W>)>> {
        join_by_key("left_outer_join", self, other, LeftOuter)
    }
}

struct LeftOuter;

impl<V: Value, W: Value> Shape<V, W> for LeftOuter {
    type Out = (V, Option<W>);

    const KEEPS_UNASKED: bool = false;

    fn matched(value: V, found: W) -> Self::Out {
        (value, Some(found))
    }

    fn alone(value: V) -> Option<Self::Out> {
        Some((value, None))
    }

    fn unasked(_: W) -> Option<Self::Out> {
        None
    }
}
