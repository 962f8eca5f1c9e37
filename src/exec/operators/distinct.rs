//! `distinct`: each row once.

use crate::error::Result;
use crate::exec::combine::{Combine, Place, User, combine_by_key};
use crate::exec::dataset::Dataset;
use crate::exec::key::Key;
use crate::exec::row::Row;

impl<R: Row> Dataset<R> {
    /// Each different row once: by reduce partition, there in first-seen order.
    ///
    /// ```
    /// use sawmill::{Dataset, Executor};
    /// let rows = Dataset::from_vec(vec![3u32, 1, 3, 2, 1], 2).distinct();
    /// assert_eq!(rows.collect(&Executor::new(2, 1)?)?, [3, 1, 2]);
    /// # Ok::<(), sawmill::Error>(())
    /// ```
    #[must_use]
    pub fn distinct(&self) -> Dataset<R>
    where
        R: Key,
    {
        combine_by_key(&self.pair_with(|_| ()), "distinct", Once).keys()
    }
}

struct Once;

impl Combine<()> for Once {
    type Folded = ();
    const ONE_FOLDS: bool = true;

    fn one(&self, _: User<'_>, (): ()) -> Result<()> {
        Ok(())
    }

    #[inline]
    fn fold(&self, place: Place<'_, ()>, (): ()) -> Result<()> {
        place.upsert((), |(), ()| ());
        Ok(())
    }

    #[inline]
    fn merge(&self, place: Place<'_, ()>, (): ()) -> Result<()> {
        Combine::<()>::fold(self, place, ())
    }
}
