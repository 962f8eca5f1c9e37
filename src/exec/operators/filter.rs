//! `filter`: the rows that satisfy a condition.

use std::fmt::Display;
use std::marker::PhantomData;

use super::{Narrow, narrow_node, with_user};
use crate::error::Result;
use crate::exec::dataset::Dataset;
use crate::exec::node::Compute;
use crate::exec::row::Row;
use crate::exec::task::Task;

impl<R: Row> Dataset<R> {
    /// The rows for which `f` is true, in the same order.
    ///
    /// ```
    /// use sawmill::{Dataset, Executor};
    /// let even = Dataset::from_vec(vec![1, 2, 3, 4], 2).filter(|number| number % 2 == 0);
    /// assert_eq!(even.collect(&Executor::new(1, 1)?)?, [2, 4]);
    /// # Ok::<(), sawmill::Error>(())
    /// ```
    #[must_use]
    pub fn filter(
        &self,
        f: impl for<'a> Fn(&R::View<'a>) -> bool + Send + Sync + 'static,
    ) -> Dataset<R> {
        Dataset::from_node(Filter { base: Narrow::new("filter", self.parent()), f })
    }

    /// As [`Dataset::filter`], with a closure that can fail: an `Err` is the failure of that
    /// record.
    #[must_use]
    pub fn try_filter<E: Display + 'static>(
        &self,
        f: impl for<'a> Fn(&R::View<'a>) -> Result<bool, E> + Send + Sync + 'static,
    ) -> Dataset<R> {
        let base = Narrow::new("try_filter", self.parent());
        Dataset::from_node(TryFilter { base, f, error: PhantomData })
    }
}

struct Filter<R: Row, F> {
    base: Narrow<R>,
    f: F,
}

struct TryFilter<R: Row, E, F> {
    base: Narrow<R>,
    f: F,
    error: PhantomData<fn() -> E>,
}

narrow_node!([R: Row, F: Send + Sync + 'static] Filter<R, F>,
    partitioning: |node| node.base.parent.partitioning());
narrow_node!([R: Row, E, F: Send + Sync + 'static] TryFilter<R, E, F>,
    partitioning: |node| node.base.parent.partitioning());

impl<R, F> Compute<R> for Filter<R, F>
where
    R: Row,
    F: for<'a> Fn(&R::View<'a>) -> bool + Send + Sync + 'static,
{
    fn run(&self, task: &Task<'_>, out: &mut dyn FnMut(R::View<'_>)) -> Result<()> {
        let Narrow { meta, parent } = &self.base;
        with_user!(task, meta, |user| parent.run(task, &mut |view| {
            if user.call(|| (self.f)(&view)) {
                out(view);
            }
        }))
    }
}

impl<R, E, F> Compute<R> for TryFilter<R, E, F>
where
    R: Row,
    E: Display,
    F: for<'a> Fn(&R::View<'a>) -> Result<bool, E> + Send + Sync + 'static,
{
    fn run(&self, task: &Task<'_>, out: &mut dyn FnMut(R::View<'_>)) -> Result<()> {
        let Narrow { meta, parent } = &self.base;
        let mut refused = None;
        parent.run(task, &mut |view| {
            if refused.is_none() {
                match task.call(meta, || (self.f)(&view)) {
                    Ok(true) => out(view),
                    Ok(false) => {}
                    Err(error) => refused = Some(task.refuse(meta, error)),
                }
            }
        })?;
        refused.map_or(Ok(()), Err)
    }
}
