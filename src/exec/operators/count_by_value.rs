//! `count_by_value`: how often each row occurs.

use super::count_by_key::Count;
use crate::exec::combine::combine_by_key;
use crate::exec::dataset::Dataset;
use crate::exec::key::Key;
use crate::exec::row::{Kv, Row};

impl<R: Row> Dataset<R> {
    /// One row for each different row, with how often it occurs. Rows come out by reduce
    /// partition, there in first-seen order.
    ///
    /// ```
    /// use sawmill::{Dataset, Executor};
    /// let words = Dataset::from_vec(vec!["oak", "ash", "oak"], 2).map(str::to_owned);
    /// let mut counts = words.count_by_value().collect(&Executor::new(2, 4)?)?;
    /// counts.sort();
    /// assert_eq!(counts, [("ash".to_owned(), 1), ("oak".to_owned(), 2)]);
    /// # Ok::<(), sawmill::Error>(())
    /// ```
    #[must_use]
    pub fn count_by_value(&self) -> Dataset<Kv<R, u64>>
    where
        R: Key,
    {
        combine_by_key(&self.pair_with(|_| ()), "count_by_value", Count)
    }
}
