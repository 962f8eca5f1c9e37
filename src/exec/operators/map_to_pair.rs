//! `map_to_pair`: an owned key and value for each row.

use std::fmt::Display;
use std::marker::PhantomData;

use super::try_rows::try_rows;
use super::{Narrow, narrow_node, with_user};
use crate::error::Result;
use crate::exec::dataset::Dataset;
use crate::exec::node::Compute;
use crate::exec::row::{Data, Kv, Row};
use crate::exec::task::Task;

impl<R: Row> Dataset<R> {
    /// An owned key and value for each row: the keyed operators then apply. For keys that borrow,
    /// see [`Dataset::pair_with`].
    ///
    /// ```
    /// use sawmill::{Dataset, Executor};
    /// let by_length = Dataset::from_vec(vec!["oak", "ash"], 1)
    ///     .map_to_pair(|word| (word.len() as u64, 1u64))
    ///     .reduce_by_key(|a, b| a + b);
    /// assert_eq!(by_length.collect(&Executor::new(1, 1)?)?, [(3, 2)]);
    /// # Ok::<(), sawmill::Error>(())
    /// ```
    #[must_use]
    pub fn map_to_pair<K: Data, V: Data>(
        &self,
        f: impl for<'a> Fn(R::View<'a>) -> (K, V) + Send + Sync + 'static,
    ) -> Dataset<Kv<K, V>> {
        let base = Narrow::new("map_to_pair", self.parent());
        Dataset::from_node(MapToPair { base, f, pair: PhantomData })
    }

    /// As [`Dataset::map_to_pair`], with a closure that can fail: an `Err` is the failure of that
    /// record.
    #[must_use]
    pub fn try_map_to_pair<K: Data, V: Data, E: Display + 'static>(
        &self,
        f: impl for<'a> Fn(R::View<'a>) -> Result<(K, V), E> + Send + Sync + 'static,
    ) -> Dataset<Kv<K, V>> {
        try_rows::<_, Kv<K, V>, E>("try_map_to_pair", self, false, move |view, user, out| {
            out(user.call(|| f(view))?);
            Ok(())
        })
    }
}

struct MapToPair<R: Row, K, V, F> {
    base: Narrow<R>,
    f: F,
    pair: PhantomData<fn() -> (K, V)>,
}

narrow_node!([R: Row, K: Data, V: Data, F: Send + Sync + 'static] MapToPair<R, K, V, F>);

impl<R, K, V, F> Compute<Kv<K, V>> for MapToPair<R, K, V, F>
where
    R: Row,
    K: Data,
    V: Data,
    F: for<'a> Fn(R::View<'a>) -> (K, V) + Send + Sync + 'static,
{
    fn run(&self, task: &Task<'_>, out: &mut dyn FnMut((K, V))) -> Result<()> {
        let Narrow { meta, parent } = &self.base;
        with_user!(task, meta, |user| parent
            .run(task, &mut |view| out(user.call(|| (self.f)(view)))))
    }
}
