//! `map`: one owned row for each row.

use std::fmt::Display;
use std::marker::PhantomData;

use super::{Narrow, narrow_node, with_user};
use crate::error::Result;
use crate::exec::dataset::Dataset;
use crate::exec::node::Compute;
use crate::exec::row::{Data, Row};
use crate::exec::task::Task;

impl<R: Row> Dataset<R> {
    /// One owned row for each row, in the same order.
    ///
    /// ```
    /// use sawmill::{Dataset, Executor};
    /// let lengths = Dataset::from_vec(vec!["oak", "larch"], 2).map(str::len);
    /// assert_eq!(lengths.collect(&Executor::new(1, 1)?)?, [3, 5]);
    /// # Ok::<(), sawmill::Error>(())
    /// ```
    #[must_use]
    pub fn map<U: Data>(
        &self,
        f: impl for<'a> Fn(R::View<'a>) -> U + Send + Sync + 'static,
    ) -> Dataset<U> {
        let base = Narrow::new("map", self.parent());
        Dataset::from_node(Map { base, f, row: PhantomData })
    }

    /// As [`Dataset::map`], with a closure that can fail: an `Err` is the failure of that record.
    #[must_use]
    pub fn try_map<U: Data, E: Display + 'static>(
        &self,
        f: impl for<'a> Fn(R::View<'a>) -> Result<U, E> + Send + Sync + 'static,
    ) -> Dataset<U> {
        let base = Narrow::new("try_map", self.parent());
        Dataset::from_node(TryMap { base, f, row: PhantomData })
    }
}

struct Map<R: Row, U, F> {
    base: Narrow<R>,
    f: F,
    row: PhantomData<fn() -> U>,
}

struct TryMap<R: Row, U, E, F> {
    base: Narrow<R>,
    f: F,
    row: PhantomData<fn() -> Result<U, E>>,
}

narrow_node!([R: Row, U: Data, F: Send + Sync + 'static] Map<R, U, F>);
narrow_node!([R: Row, U: Data, E, F: Send + Sync + 'static] TryMap<R, U, E, F>);

impl<R, U, F> Compute<U> for Map<R, U, F>
where
    R: Row,
    U: Data,
    F: for<'a> Fn(R::View<'a>) -> U + Send + Sync + 'static,
{
    fn run(&self, task: &Task<'_>, out: &mut dyn FnMut(U)) -> Result<()> {
        let Narrow { meta, parent } = &self.base;
        with_user!(task, meta, |user| parent
            .run(task, &mut |view| out(user.call(|| (self.f)(view)))))
    }
}

impl<R, U, E, F> Compute<U> for TryMap<R, U, E, F>
where
    R: Row,
    U: Data,
    E: Display,
    F: for<'a> Fn(R::View<'a>) -> Result<U, E> + Send + Sync + 'static,
{
    fn run(&self, task: &Task<'_>, out: &mut dyn FnMut(U)) -> Result<()> {
        let Narrow { meta, parent } = &self.base;
        let mut refused = None;
        parent.run(task, &mut |view| {
            if refused.is_none() {
                match task.call(meta, || (self.f)(view)) {
                    Ok(row) => out(row),
                    Err(error) => refused = Some(task.refuse(meta, error)),
                }
            }
        })?;
        refused.map_or(Ok(()), Err)
    }
}
