//! `reduce_by_key`: one row for each key.

use std::fmt::Display;
use std::marker::PhantomData;

use crate::error::Result;
use crate::exec::combine::{Combine, Place, User, combine_by_key};
use crate::exec::dataset::Dataset;
use crate::exec::key::Key;
use crate::exec::row::{Data, Kv, Row};
use crate::exec::wire::Value;

impl<K: Row, V: Data> Dataset<Kv<K, V>> {
    /// One row for each key, its values folded by `f`.
    ///
    /// Values of one key are folded within each source partition first, in order, then the results
    /// in the order of the source partitions: one fixed tree, whatever the schedule. So `f` should
    /// be associative; where it is not quite (floats), the result is still the same each time.
    /// Keys come out by reduce partition, there in first-seen order.
    ///
    /// ```
    /// use sawmill::{Dataset, Executor};
    /// let sums = Dataset::from_vec(vec![1u64, 2, 3, 4, 5], 2)
    ///     .map_to_pair(|n| (n % 2 == 0, n))
    ///     .reduce_by_key(|a, b| a + b);
    /// let mut sums = sums.collect(&Executor::new(2, 4)?)?;
    /// sums.sort();
    /// assert_eq!(sums, [(false, 9), (true, 6)]);
    /// # Ok::<(), sawmill::Error>(())
    /// ```
    #[must_use]
    pub fn reduce_by_key(&self, f: impl Fn(V, V) -> V + Send + Sync + 'static) -> Dataset<Kv<K, V>>
    where
        K: Key,
        V: Value,
    {
        combine_by_key(self, "reduce_by_key", Reduce(f))
    }

    /// As [`Dataset::reduce_by_key`], with a closure that can fail: an `Err` is the failure of the
    /// record whose value was to be folded.
    ///
    /// ```
    /// use sawmill::{Dataset, Executor};
    /// let numbers = Dataset::from_vec(vec![200u8, 50, 100], 1).map_to_pair(|n| (n % 100, n));
    /// let sums = numbers.try_reduce_by_key(|a, b| a.checked_add(b).ok_or("too large"));
    /// let error = sums.collect(&Executor::new(1, 1)?).unwrap_err();
    /// assert!(error.to_string().contains("too large"));
    /// # Ok::<(), sawmill::Error>(())
    /// ```
    #[must_use]
    pub fn try_reduce_by_key<E: Display + 'static>(
        &self,
        f: impl Fn(V, V) -> Result<V, E> + Send + Sync + 'static,
    ) -> Dataset<Kv<K, V>>
    where
        K: Key,
        V: Value,
    {
        combine_by_key(self, "try_reduce_by_key", TryReduce(f, PhantomData))
    }
}

struct Reduce<F>(F);

struct TryReduce<E, F>(F, PhantomData<fn() -> E>);

impl<V: Value, F: Fn(V, V) -> V + Send + Sync + 'static> Combine<V> for Reduce<F> {
    type Folded = V;
    const ONE_FOLDS: bool = true;

    #[inline]
    fn one(&self, _: User<'_>, value: V) -> Result<V> {
        Ok(value)
    }

    #[inline(always)]
    fn fold(&self, place: Place<'_, V>, value: V) -> Result<()> {
        place.upsert(value, &self.0);
        Ok(())
    }

    #[inline(always)]
    fn merge(&self, place: Place<'_, V>, folded: V) -> Result<()> {
        self.fold(place, folded)
    }
}

impl<V, E, F> Combine<V> for TryReduce<E, F>
where
    V: Value,
    E: Display + 'static,
    F: Fn(V, V) -> Result<V, E> + Send + Sync + 'static,
{
    type Folded = V;
    const ONE_FOLDS: bool = true;

    fn one(&self, _: User<'_>, value: V) -> Result<V> {
        Ok(value)
    }

    fn fold(&self, mut place: Place<'_, V>, value: V) -> Result<()> {
        let mut new = Some(value);
        let (old, user) = place.value(|| new.take().expect("asked for once"));
        if let Some(value) = new {
            *old = user.attempt(|| (self.0)(old.clone(), value))?;
        }
        Ok(())
    }

    fn merge(&self, place: Place<'_, V>, folded: V) -> Result<()> {
        self.fold(place, folded)
    }
}
