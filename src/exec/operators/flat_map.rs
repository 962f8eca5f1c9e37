//! `flat_map`: any number of owned rows for each row.

use std::fmt::Display;
use std::marker::PhantomData;

use super::{Narrow, narrow_node, with_user};
use crate::error::Result;
use crate::exec::dataset::Dataset;
use crate::exec::node::Compute;
use crate::exec::row::{Data, Row};
use crate::exec::task::Task;

impl<R: Row> Dataset<R> {
    /// Any number of owned rows for each row. For rows that borrow from the row they come from,
    /// and for speed, see [`Dataset::flat_map_rows`].
    ///
    /// ```
    /// use sawmill::{Dataset, Executor};
    /// let twice = Dataset::from_vec(vec![1, 2], 2).flat_map(|number| [number, number * 10]);
    /// assert_eq!(twice.collect(&Executor::new(1, 1)?)?, [1, 10, 2, 20]);
    /// # Ok::<(), sawmill::Error>(())
    /// ```
    #[must_use]
    pub fn flat_map<I: IntoIterator + 'static>(
        &self,
        f: impl for<'a> Fn(R::View<'a>) -> I + Send + Sync + 'static,
    ) -> Dataset<I::Item>
    where
        I::Item: Data,
    {
        let base = Narrow::new("flat_map", self.parent());
        Dataset::from_node(FlatMap { base, f, rows: PhantomData })
    }

    /// As [`Dataset::flat_map`], with a closure that can fail: an `Err` is the failure of that
    /// record.
    #[must_use]
    pub fn try_flat_map<I: IntoIterator + 'static, E: Display + 'static>(
        &self,
        f: impl for<'a> Fn(R::View<'a>) -> Result<I, E> + Send + Sync + 'static,
    ) -> Dataset<I::Item>
    where
        I::Item: Data,
    {
        let base = Narrow::new("try_flat_map", self.parent());
        Dataset::from_node(TryFlatMap { base, f, rows: PhantomData })
    }
}

struct FlatMap<R: Row, I, F> {
    base: Narrow<R>,
    f: F,
    rows: PhantomData<fn() -> I>,
}

struct TryFlatMap<R: Row, I, E, F> {
    base: Narrow<R>,
    f: F,
    rows: PhantomData<fn() -> Result<I, E>>,
}

narrow_node!([R: Row, I, F: Send + Sync + 'static] FlatMap<R, I, F>);
narrow_node!([R: Row, I, E, F: Send + Sync + 'static] TryFlatMap<R, I, E, F>);

impl<R, I, F> Compute<I::Item> for FlatMap<R, I, F>
where
    R: Row,
    I: IntoIterator,
    I::Item: Data,
    F: for<'a> Fn(R::View<'a>) -> I + Send + Sync + 'static,
{
    fn run(&self, task: &Task<'_>, out: &mut dyn FnMut(I::Item)) -> Result<()> {
        let Narrow { meta, parent } = &self.base;
        // The iterator too is user code.
        with_user!(task, meta, |user| parent.run(task, &mut |view| {
            user.call(|| (self.f)(view).into_iter().for_each(&mut *out));
        }))
    }
}

impl<R, I, E, F> Compute<I::Item> for TryFlatMap<R, I, E, F>
where
    R: Row,
    I: IntoIterator,
    I::Item: Data,
    E: Display,
    F: for<'a> Fn(R::View<'a>) -> Result<I, E> + Send + Sync + 'static,
{
    fn run(&self, task: &Task<'_>, out: &mut dyn FnMut(I::Item)) -> Result<()> {
        let Narrow { meta, parent } = &self.base;
        let mut refused = None;
        parent.run(task, &mut |view| {
            if refused.is_none() {
                let done = task
                    .call(meta, || (self.f)(view).map(|rows| rows.into_iter().for_each(&mut *out)));
                refused = done.err().map(|error| task.refuse(meta, error));
            }
        })?;
        refused.map_or(Ok(()), Err)
    }
}
