//! `key_by`: each row as a value, with a key beside it.

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
    /// Each row as a value, with the owned key that `f` gives it: the counterpart of
    /// [`Dataset::pair_with`].
    ///
    /// ```
    /// use sawmill::{Dataset, Executor};
    /// let pairs = Dataset::from_vec(vec!["oak"], 1).key_by(|word| word.len() as u64);
    /// assert_eq!(pairs.collect(&Executor::new(1, 1)?)?, [(3, "oak")]);
    /// # Ok::<(), sawmill::Error>(())
    /// ```
    #[must_use]
    pub fn key_by<K: Data>(
        &self,
        f: impl for<'a> Fn(&R::View<'a>) -> K + Send + Sync + 'static,
    ) -> Dataset<Kv<K, R>> {
        let base = Narrow::new("key_by", self.parent());
        Dataset::from_node(KeyBy { base, f, key: PhantomData })
    }

    /// As [`Dataset::key_by`], with a closure that can fail: an `Err` is the failure of that
    /// record.
    #[must_use]
    pub fn try_key_by<K: Data, E: Display + 'static>(
        &self,
        f: impl for<'a> Fn(&R::View<'a>) -> Result<K, E> + Send + Sync + 'static,
    ) -> Dataset<Kv<K, R>> {
        try_rows::<_, Kv<K, R>, E>("try_key_by", self, false, move |view, user, out| {
            let key = user.call(|| f(&view))?;
            out((key, view));
            Ok(())
        })
    }
}

struct KeyBy<R: Row, K, F> {
    base: Narrow<R>,
    f: F,
    key: PhantomData<fn() -> K>,
}

narrow_node!([R: Row, K: Data, F: Send + Sync + 'static] KeyBy<R, K, F>);

impl<R, K, F> Compute<Kv<K, R>> for KeyBy<R, K, F>
where
    R: Row,
    K: Data,
    F: for<'a> Fn(&R::View<'a>) -> K + Send + Sync + 'static,
{
    fn run(&self, task: &Task<'_>, out: &mut dyn FnMut((K, R::View<'_>))) -> Result<()> {
        let Narrow { meta, parent } = &self.base;
        with_user!(task, meta, |user| parent.run(task, &mut |view| {
            let key = user.call(|| (self.f)(&view));
            out((key, view));
        }))
    }
}
