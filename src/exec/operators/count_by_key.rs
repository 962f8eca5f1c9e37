//! `count_by_key`: how many rows each key has.

use crate::error::Result;
use crate::exec::combine::{Combine, Place, User, combine_by_key};
use crate::exec::dataset::Dataset;
use crate::exec::key::Key;
use crate::exec::row::{Kv, Row};

impl<K: Row, V: Row> Dataset<Kv<K, V>> {
    /// One row for each key: how many rows have it. Keys come out by reduce partition, there in
    /// first-seen order. Values need no codec: they are not kept.
    ///
    /// ```
    /// use sawmill::{Dataset, Executor};
    /// let words = Dataset::from_vec(vec!["oak", "larch", "ash"], 2);
    /// let lengths = words.key_by(|word| word.len() as u32);
    /// let mut counts = lengths.count_by_key().collect(&Executor::new(2, 4)?)?;
    /// counts.sort();
    /// assert_eq!(counts, [(3, 2), (5, 1)]);
    /// # Ok::<(), sawmill::Error>(())
    /// ```
    #[must_use]
    pub fn count_by_key(&self) -> Dataset<Kv<K, u64>>
    where
        K: Key,
    {
        combine_by_key(self, "count_by_key", Count)
    }
}

pub(super) struct Count;

impl<V: Row> Combine<V> for Count {
    type Folded = u64;
    const ONE_FOLDS: bool = true;

    #[inline]
    fn one(&self, _: User<'_>, _: V::View<'_>) -> Result<u64> {
        Ok(1)
    }

    #[inline]
    fn fold(&self, place: Place<'_, u64>, _: V::View<'_>) -> Result<()> {
        place.upsert(1, |a, b| a + b);
        Ok(())
    }

    #[inline]
    fn merge(&self, place: Place<'_, u64>, folded: u64) -> Result<()> {
        place.upsert(folded, |a, b| a + b);
        Ok(())
    }
}
