//! The narrow operators of a stream with closures that can fail: an `Err` is the failure of that
//! record, and after some attempts of the job, which says so and goes on there when it is started
//! again.

use std::fmt::Display;

use super::job::Stream;
use crate::error::Result;
#[allow(unused_imports, reason = "the documents name `Dataset`")]
use crate::exec::{Data, Dataset, Emit, Kv, Row};

impl<R: Row> Stream<R> {
    /// One owned row for each row. See [`Dataset::try_map`].
    #[must_use]
    pub fn try_map<U: Data, E: Display + 'static>(
        &self,
        f: impl for<'a> Fn(R::View<'a>) -> Result<U, E> + Send + Sync + 'static,
    ) -> Stream<U> {
        self.derive(self.dataset().try_map(f))
    }

    /// The rows for which `f` is true. See [`Dataset::try_filter`].
    #[must_use]
    pub fn try_filter<E: Display + 'static>(
        &self,
        f: impl for<'a> Fn(&R::View<'a>) -> Result<bool, E> + Send + Sync + 'static,
    ) -> Stream<R> {
        self.derive(self.dataset().try_filter(f))
    }

    /// Any number of owned rows for each row. See [`Dataset::try_flat_map`].
    #[must_use]
    pub fn try_flat_map<I: IntoIterator + 'static, E: Display + 'static>(
        &self,
        f: impl for<'a> Fn(R::View<'a>) -> Result<I, E> + Send + Sync + 'static,
    ) -> Stream<I::Item>
    where
        I::Item: Data,
    {
        self.derive(self.dataset().try_flat_map(f))
    }

    /// Any number of rows for each row, borrowed ones too. See [`Dataset::try_flat_map_rows`].
    #[must_use]
    pub fn try_flat_map_rows<U: Row, E: Display + 'static>(
        &self,
        f: impl for<'a> Fn(R::View<'a>, &mut Emit<'_, U>) -> Result<(), E> + Send + Sync + 'static,
    ) -> Stream<U> {
        self.derive(self.dataset().try_flat_map_rows(f))
    }

    /// Each row as a key, with a value. See [`Dataset::try_pair_with`].
    #[must_use]
    pub fn try_pair_with<V: Data, E: Display + 'static>(
        &self,
        f: impl for<'a> Fn(&R::View<'a>) -> Result<V, E> + Send + Sync + 'static,
    ) -> Stream<Kv<R, V>> {
        self.derive(self.dataset().try_pair_with(f))
    }

    /// Each row as a value, with a key. See [`Dataset::try_key_by`].
    #[must_use]
    pub fn try_key_by<K: Data, E: Display + 'static>(
        &self,
        f: impl for<'a> Fn(&R::View<'a>) -> Result<K, E> + Send + Sync + 'static,
    ) -> Stream<Kv<K, R>> {
        self.derive(self.dataset().try_key_by(f))
    }

    /// An owned key and value for each row. See [`Dataset::try_map_to_pair`].
    #[must_use]
    pub fn try_map_to_pair<K: Data, V: Data, E: Display + 'static>(
        &self,
        f: impl for<'a> Fn(R::View<'a>) -> Result<(K, V), E> + Send + Sync + 'static,
    ) -> Stream<Kv<K, V>> {
        self.derive(self.dataset().try_map_to_pair(f))
    }
}

impl<K: Row, V: Data> Stream<Kv<K, V>> {
    /// Other values for the same keys. See [`Dataset::try_map_values`].
    #[must_use]
    pub fn try_map_values<W: Data, E: Display + 'static>(
        &self,
        f: impl Fn(V) -> Result<W, E> + Send + Sync + 'static,
    ) -> Stream<Kv<K, W>> {
        self.derive(self.dataset().try_map_values(f))
    }
}
