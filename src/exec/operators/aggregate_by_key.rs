//! `aggregate_by_key`: the values of each key, folded into something of another type.

use std::fmt::Display;
use std::marker::PhantomData;

use crate::error::Result;
use crate::exec::combine::{Combine, Place, User, combine_by_key};
use crate::exec::dataset::Dataset;
use crate::exec::key::Key;
use crate::exec::row::{Kv, Row};
use crate::exec::wire::Value;

impl<K: Row, V: Row> Dataset<Kv<K, V>> {
    /// One row for each key: `init`, into which `fold` takes the values of the key.
    ///
    /// Values are folded within each source partition, in order, from an `init` of its own (where
    /// nearly every row has a key of its own, each value from one of its own); then `merge` takes
    /// the results of the source partitions in their order: one fixed tree, whatever the schedule.
    /// So `init` should be neutral, and it should not matter where the values are cut into
    /// partitions. Keys come out by reduce partition, there in first-seen order. Values may be
    /// borrowed ones: only what is folded is kept.
    ///
    /// ```
    /// use sawmill::{Dataset, Executor};
    /// let words = Dataset::from_vec(vec!["oak", "ash", "larch"], 2);
    /// let lengths = words.key_by(|word| word.len() as u32);
    /// let means = lengths.aggregate_by_key(
    ///     || (0u32, String::new()),
    ///     |(words, initials), word| {
    ///         *words += 1;
    ///         initials.push_str(&word[..1]);
    ///     },
    ///     |(words, initials), more| {
    ///         *words += more.0;
    ///         initials.push_str(&more.1);
    ///     },
    /// );
    /// let mut means = means.collect(&Executor::new(2, 4)?)?;
    /// means.sort();
    /// assert_eq!(means, [(3, (2, "oa".to_owned())), (5, (1, "l".to_owned()))]);
    /// # Ok::<(), sawmill::Error>(())
    /// ```
    #[must_use]
    pub fn aggregate_by_key<A: Value>(
        &self,
        init: impl Fn() -> A + Send + Sync + 'static,
        fold: impl for<'a> Fn(&mut A, V::View<'a>) + Send + Sync + 'static,
        merge: impl Fn(&mut A, A) + Send + Sync + 'static,
    ) -> Dataset<Kv<K, A>>
    where
        K: Key,
    {
        combine_by_key(self, "aggregate_by_key", Aggregate { init, fold, merge })
    }

    /// As [`Dataset::aggregate_by_key`], with closures that can fail: an `Err` is the failure of
    /// the record whose value was to be folded. What a failed closure has left in its accumulator
    /// is thrown away with the attempt.
    ///
    /// ```
    /// use sawmill::{Dataset, Executor};
    /// let words = Dataset::from_vec(vec!["7", "x"], 1).key_by(|_| 0u8);
    /// let sums = words.try_aggregate_by_key(
    ///     || 0u64,
    ///     |sum, word| word.parse::<u64>().map(|n| *sum += n),
    ///     |sum, more| Ok(*sum += more),
    /// );
    /// let error = sums.collect(&Executor::new(1, 1)?).unwrap_err();
    /// assert!(error.to_string().contains("invalid digit"));
    /// # Ok::<(), sawmill::Error>(())
    /// ```
    #[must_use]
    pub fn try_aggregate_by_key<A: Value, E: Display + 'static>(
        &self,
        init: impl Fn() -> A + Send + Sync + 'static,
        fold: impl for<'a> Fn(&mut A, V::View<'a>) -> Result<(), E> + Send + Sync + 'static,
        merge: impl Fn(&mut A, A) -> Result<(), E> + Send + Sync + 'static,
    ) -> Dataset<Kv<K, A>>
    where
        K: Key,
    {
        let aggregate = TryAggregate { init, fold, merge, types: PhantomData };
        combine_by_key(self, "try_aggregate_by_key", aggregate)
    }
}

struct Aggregate<I, F, M> {
    init: I,
    fold: F,
    merge: M,
}

struct TryAggregate<I, F, M, E> {
    init: I,
    fold: F,
    merge: M,
    types: PhantomData<fn() -> E>,
}

impl<V, A, I, F, M> Combine<V> for Aggregate<I, F, M>
where
    V: Row,
    A: Value,
    I: Fn() -> A + Send + Sync + 'static,
    F: for<'a> Fn(&mut A, V::View<'a>) + Send + Sync + 'static,
    M: Fn(&mut A, A) + Send + Sync + 'static,
{
    type Folded = A;
    const ONE_FOLDS: bool = false;

    #[inline]
    fn one(&self, user: User<'_>, value: V::View<'_>) -> Result<A> {
        let mut folded = user.call(&self.init);
        user.call(|| (self.fold)(&mut folded, value));
        Ok(folded)
    }

    #[inline]
    fn fold(&self, mut place: Place<'_, A>, value: V::View<'_>) -> Result<()> {
        let (folded, user) = place.value(&self.init);
        user.call(|| (self.fold)(folded, value));
        Ok(())
    }

    #[inline]
    fn merge(&self, mut place: Place<'_, A>, folded: A) -> Result<()> {
        let mut new = Some(folded);
        let (all, user) = place.value(|| new.take().expect("asked for once"));
        if let Some(folded) = new {
            user.call(|| (self.merge)(all, folded));
        }
        Ok(())
    }
}

impl<V, A, I, F, M, E> Combine<V> for TryAggregate<I, F, M, E>
where
    V: Row,
    A: Value,
    I: Fn() -> A + Send + Sync + 'static,
    F: for<'a> Fn(&mut A, V::View<'a>) -> Result<(), E> + Send + Sync + 'static,
    M: Fn(&mut A, A) -> Result<(), E> + Send + Sync + 'static,
    E: Display + 'static,
{
    type Folded = A;
    const ONE_FOLDS: bool = false;

    fn one(&self, user: User<'_>, value: V::View<'_>) -> Result<A> {
        let mut folded = user.call(&self.init);
        user.attempt(|| (self.fold)(&mut folded, value))?;
        Ok(folded)
    }

    fn fold(&self, mut place: Place<'_, A>, value: V::View<'_>) -> Result<()> {
        let (folded, user) = place.value(&self.init);
        user.attempt(|| (self.fold)(folded, value))
    }

    fn merge(&self, mut place: Place<'_, A>, folded: A) -> Result<()> {
        let mut new = Some(folded);
        let (all, user) = place.value(|| new.take().expect("asked for once"));
        new.map_or(Ok(()), |folded| user.attempt(|| (self.merge)(all, folded)))
    }
}
