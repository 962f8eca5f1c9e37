//! `pair_with`: each row as a key, with a value beside it.

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
    /// Each row as a key, with the value that `f` gives it. The row is passed on as it is, so that
    /// a borrowed key stays borrowed.
    ///
    /// ```
    /// use sawmill::{Dataset, Executor};
    /// let pairs = Dataset::from_vec(vec!["oak"], 1).pair_with(|word| word.len());
    /// assert_eq!(pairs.collect(&Executor::new(1, 1)?)?, [("oak", 3)]);
    /// # Ok::<(), sawmill::Error>(())
    /// ```
    #[must_use]
    pub fn pair_with<V: Data>(
        &self,
        f: impl for<'a> Fn(&R::View<'a>) -> V + Send + Sync + 'static,
    ) -> Dataset<Kv<R, V>> {
        let base = Narrow::new("pair_with", self.parent());
        Dataset::from_node(PairWith { base, f, value: PhantomData })
    }

    /// As [`Dataset::pair_with`], with a closure that can fail: an `Err` is the failure of that
    /// record.
    #[must_use]
    pub fn try_pair_with<V: Data, E: Display + 'static>(
        &self,
        f: impl for<'a> Fn(&R::View<'a>) -> Result<V, E> + Send + Sync + 'static,
    ) -> Dataset<Kv<R, V>> {
        try_rows::<_, Kv<R, V>, E>("try_pair_with", self, false, move |view, user, out| {
            let value = user.call(|| f(&view))?;
            out((view, value));
            Ok(())
        })
    }
}

struct PairWith<R: Row, V, F> {
    base: Narrow<R>,
    f: F,
    value: PhantomData<fn() -> V>,
}

narrow_node!([R: Row, V: Data, F: Send + Sync + 'static] PairWith<R, V, F>);

impl<R, V, F> Compute<Kv<R, V>> for PairWith<R, V, F>
where
    R: Row,
    V: Data,
    F: for<'a> Fn(&R::View<'a>) -> V + Send + Sync + 'static,
{
    fn run(&self, task: &Task<'_>, out: &mut dyn FnMut((R::View<'_>, V))) -> Result<()> {
        let Narrow { meta, parent } = &self.base;
        with_user!(task, meta, |user| parent.run(task, &mut |view| {
            let value = user.call(|| (self.f)(&view));
            out((view, value));
        }))
    }
}
