//! The operators of [`Dataset`] that look at keys, and those that move rows between partitions,
//! as a stream has them: each means the same, within one batch.

use std::fmt::Display;

use super::job::Stream;
use crate::error::Result;
#[allow(unused_imports, reason = "the documents name `Dataset`")]
use crate::exec::{Data, Dataset, Key, Kv, Row, StorageLevel, Value, Wire};

impl<R: Row> Stream<R> {
    /// Each row as a value, with a key. See [`Dataset::key_by`].
    #[must_use]
    pub fn key_by<K: Data>(
        &self,
        f: impl for<'a> Fn(&R::View<'a>) -> K + Send + Sync + 'static,
    ) -> Stream<Kv<K, R>> {
        self.derive(self.dataset().key_by(f))
    }

    /// Each different row of the batch once. See [`Dataset::distinct`].
    #[must_use]
    pub fn distinct(&self) -> Stream<R>
    where
        R: Key,
    {
        self.derive(self.dataset().distinct())
    }

    /// How often each row occurs in the batch. See [`Dataset::count_by_value`].
    #[must_use]
    pub fn count_by_value(&self) -> Stream<Kv<R, u64>>
    where
        R: Key,
    {
        self.derive(self.dataset().count_by_value())
    }

    /// The same rows in that many partitions. See [`Dataset::repartition`].
    #[must_use]
    pub fn repartition(&self, partitions: u32) -> Stream<R>
    where
        R: Wire,
    {
        self.derive(self.dataset().repartition(partitions))
    }

    /// The same rows, computed once for each batch and held until it is completed: for a stream
    /// that several sinks or operators read. See [`Dataset::persist`].
    #[must_use]
    pub fn persist(&self, level: StorageLevel) -> Stream<R>
    where
        R: Wire,
    {
        self.derive(self.dataset().persist(level))
    }
}

impl<K: Row, V: Row> Stream<Kv<K, V>> {
    /// The key of each row. See [`Dataset::keys`].
    #[must_use]
    pub fn keys(&self) -> Stream<K> {
        self.derive(self.dataset().keys())
    }

    /// The value of each row. See [`Dataset::values`].
    #[must_use]
    pub fn values(&self) -> Stream<V> {
        self.derive(self.dataset().values())
    }

    /// How many rows of the batch each key has. See [`Dataset::count_by_key`].
    #[must_use]
    pub fn count_by_key(&self) -> Stream<Kv<K, u64>>
    where
        K: Key,
    {
        self.derive(self.dataset().count_by_key())
    }

    /// The values of each key of the batch, folded. See [`Dataset::aggregate_by_key`].
    #[must_use]
    pub fn aggregate_by_key<A: Value>(
        &self,
        init: impl Fn() -> A + Send + Sync + 'static,
        fold: impl for<'a> Fn(&mut A, V::View<'a>) + Send + Sync + 'static,
        merge: impl Fn(&mut A, A) + Send + Sync + 'static,
    ) -> Stream<Kv<K, A>>
    where
        K: Key,
    {
        self.derive(self.dataset().aggregate_by_key(init, fold, merge))
    }

    /// As [`Stream::aggregate_by_key`], with closures that can fail. See
    /// [`Dataset::try_aggregate_by_key`].
    #[must_use]
    pub fn try_aggregate_by_key<A: Value, E: Display + 'static>(
        &self,
        init: impl Fn() -> A + Send + Sync + 'static,
        fold: impl for<'a> Fn(&mut A, V::View<'a>) -> Result<(), E> + Send + Sync + 'static,
        merge: impl Fn(&mut A, A) -> Result<(), E> + Send + Sync + 'static,
    ) -> Stream<Kv<K, A>>
    where
        K: Key,
    {
        self.derive(self.dataset().try_aggregate_by_key(init, fold, merge))
    }
}

impl<K: Row, V: Data> Stream<Kv<K, V>> {
    /// Other values for the same keys. See [`Dataset::map_values`].
    #[must_use]
    pub fn map_values<W: Data>(
        &self,
        f: impl Fn(V) -> W + Send + Sync + 'static,
    ) -> Stream<Kv<K, W>> {
        self.derive(self.dataset().map_values(f))
    }

    /// The rows of the batch in the order of their keys. See [`Dataset::sort_by_key`].
    #[must_use]
    pub fn sort_by_key(&self) -> Stream<Kv<K::Owned, V>>
    where
        K::Owned: Value + Ord,
        V: Value,
    {
        self.derive(self.dataset().sort_by_key())
    }
}

impl<K: Key, V: Value> Stream<Kv<K, V>> {
    /// One row for each key of the batch. See [`Dataset::reduce_by_key`].
    #[must_use]
    pub fn reduce_by_key(&self, f: impl Fn(V, V) -> V + Send + Sync + 'static) -> Stream<Kv<K, V>> {
        self.derive(self.dataset().reduce_by_key(f))
    }

    /// As [`Stream::reduce_by_key`], with a closure that can fail. See
    /// [`Dataset::try_reduce_by_key`].
    #[must_use]
    pub fn try_reduce_by_key<E: Display + 'static>(
        &self,
        f: impl Fn(V, V) -> Result<V, E> + Send + Sync + 'static,
    ) -> Stream<Kv<K, V>> {
        self.derive(self.dataset().try_reduce_by_key(f))
    }

    /// All values of each key of the batch. See [`Dataset::group_by_key`].
    #[must_use]
    pub fn group_by_key(&self) -> Stream<Kv<K, Vec<V>>> {
        self.derive(self.dataset().group_by_key())
    }

    /// All values that two streams of one job have of each key in the batch. See
    /// [`Dataset::cogroup`].
    #[must_use]
    #[allow(clippy::type_complexity, reason = "the type says what comes out")]
    pub fn cogroup<W: Value>(&self, other: &Stream<Kv<K, W>>) -> Stream<Kv<K, (Vec<V>, Vec<W>)>> {
        self.derive(self.dataset().cogroup(other.dataset()))
    }

    /// The pairs of values that two streams of one job have of one key in the batch. See
    /// [`Dataset::join`].
    #[must_use]
    pub fn join<W: Value>(&self, other: &Stream<Kv<K, W>>) -> Stream<Kv<K, (V, W)>> {
        self.derive(self.dataset().join(other.dataset()))
    }

    /// Every row of this stream, with what the other has of its key in the batch. See
    /// [`Dataset::left_outer_join`].
    #[must_use]
    pub fn left_outer_join<W: Value>(
        &self,
        other: &Stream<Kv<K, W>>,
    ) -> Stream<Kv<K, (V, Option<W>)>> {
        self.derive(self.dataset().left_outer_join(other.dataset()))
    }

    /// Every row of the other stream, with what this one has of its key in the batch. See
    /// [`Dataset::right_outer_join`].
    #[must_use]
    pub fn right_outer_join<W: Value>(
        &self,
        other: &Stream<Kv<K, W>>,
    ) -> Stream<Kv<K, (Option<V>, W)>> {
        self.derive(self.dataset().right_outer_join(other.dataset()))
    }

    /// Every row of either stream, with what the other has of its key in the batch. See
    /// [`Dataset::full_outer_join`].
    #[must_use]
    #[allow(clippy::type_complexity, reason = "the type says what comes out")]
    pub fn full_outer_join<W: Value>(
        &self,
        other: &Stream<Kv<K, W>>,
    ) -> Stream<Kv<K, (Option<V>, Option<W>)>> {
        self.derive(self.dataset().full_outer_join(other.dataset()))
    }
}
