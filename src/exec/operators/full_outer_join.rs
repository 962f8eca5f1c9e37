//! `full_outer_join`: every row of either dataset, with what the other has of its key.

use crate::exec::dataset::Dataset;
use crate::exec::joining::{Shape, join_by_key};
use crate::exec::key::Key;
use crate::exec::row::Kv;
use crate::exec::wire::Value;

impl<K: Key, V: Value> Dataset<Kv<K, V>> {
    /// As [`Dataset::left_outer_join`], and behind the other rows of each partition one row with
    /// `None` for each row of `other` whose key this dataset has not: by key in first-seen order.
    ///
    /// ```
    /// use sawmill::{Dataset, Executor};
    /// let visits = Dataset::from_vec(vec![(1u32, 10u64), (2, 20)], 2).map_to_pair(|v| v);
    /// let names = Dataset::from_vec(vec![(1u32, 'a'), (3, 'c')], 1).map_to_pair(|n| n);
    /// let rows = visits.full_outer_join(&names).collect(&Executor::new(1, 1)?)?;
    /// let expected = [(1, (Some(10), Some('a'))), (2, (Some(20), None)), (3, (None, Some('c')))];
    /// assert_eq!(rows, expected);
    /// # Ok::<(), sawmill::Error>(())
    /// ```
    #[must_use]
    #[allow(clippy::type_complexity, reason = "the type says what comes out")]
    pub fn full_outer_join<W: Value>(
        &self,
        other: &Dataset<Kv<K, W>>,
    ) -> Dataset<Kv<K, (Option<V>, Option<W>)>> {
        join_by_key("full_outer_join", self, other, FullOuter)
    }
}

struct FullOuter;

impl<V: Value, W: Value> Shape<V, W> for FullOuter {
    type Out = (Option<V>, Option<W>);

    const KEEPS_UNASKED: bool = true;

    fn matched(value: V, found: W) -> Self::Out {
        (Some(value), Some(found))
    }

    fn alone(value: V) -> Option<Self::Out> {
        Some((Some(value), None))
    }

    fn unasked(found: W) -> Option<Self::Out> {
        Some((None, Some(found)))
    }
}
