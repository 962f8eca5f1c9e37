//! `flat_map_rows`: any number of rows for each row, borrowed ones too.

use std::fmt::Display;
use std::marker::PhantomData;

use super::try_rows::try_rows;
use super::{Narrow, narrow_node, with_user};
use crate::error::Result;
use crate::exec::dataset::Dataset;
use crate::exec::node::Compute;
use crate::exec::row::{Emit, Row};
use crate::exec::task::Task;

impl<R: Row> Dataset<R> {
    /// Any number of rows for each row, pushed one by one: they may borrow from the row they come
    /// from, so that nothing is allocated.
    ///
    /// ```
    /// use sawmill::{Dataset, Executor, Str};
    /// let words = Dataset::from_vec(vec!["oak ash"], 1).flat_map_rows::<Str>(|line, out| {
    ///     for word in line.split(' ') {
    ///         out.push(word);
    ///     }
    /// });
    /// assert_eq!(words.collect(&Executor::new(1, 1)?)?, ["oak", "ash"]);
    /// # Ok::<(), sawmill::Error>(())
    /// ```
    #[must_use]
    pub fn flat_map_rows<U: Row>(
        &self,
        f: impl for<'a> Fn(R::View<'a>, &mut Emit<'_, U>) + Send + Sync + 'static,
    ) -> Dataset<U> {
        let base = Narrow::new("flat_map_rows", self.parent());
        Dataset::from_node(FlatMapRows { base, f, row: PhantomData })
    }

    /// As [`Dataset::flat_map_rows`], with a closure that can fail: an `Err` is the failure of that
    /// record, and what was pushed for it before counts for nothing.
    ///
    /// ```
    /// use sawmill::{Dataset, Executor, Str};
    /// let numbers = Dataset::from_vec(vec!["7 8", "nine"], 1);
    /// let numbers = numbers.try_flat_map_rows::<u32, _>(|line, out| {
    ///     for word in line.split(' ') {
    ///         out.push(word.parse()?);
    ///     }
    ///     Ok::<_, std::num::ParseIntError>(())
    /// });
    /// let error = numbers.collect(&Executor::new(1, 1)?).unwrap_err();
    /// assert!(error.to_string().contains("invalid digit"));
    /// # Ok::<(), sawmill::Error>(())
    /// ```
    #[must_use]
    pub fn try_flat_map_rows<U: Row, E: Display + 'static>(
        &self,
        f: impl for<'a> Fn(R::View<'a>, &mut Emit<'_, U>) -> Result<(), E> + Send + Sync + 'static,
    ) -> Dataset<U> {
        try_rows::<_, U, E>("try_flat_map_rows", self, false, move |view, user, out| {
            user.call(|| f(view, &mut Emit::new(out)))
        })
    }
}

struct FlatMapRows<R: Row, U, F> {
    base: Narrow<R>,
    f: F,
    row: PhantomData<fn() -> U>,
}

narrow_node!([R: Row, U: Row, F: Send + Sync + 'static] FlatMapRows<R, U, F>);

impl<R, U, F> Compute<U> for FlatMapRows<R, U, F>
where
    R: Row,
    U: Row,
    F: for<'a> Fn(R::View<'a>, &mut Emit<'_, U>) + Send + Sync + 'static,
{
    fn run(&self, task: &Task<'_>, out: &mut dyn FnMut(U::View<'_>)) -> Result<()> {
        let Narrow { meta, parent } = &self.base;
        with_user!(task, meta, |user| parent.run(task, &mut |view| {
            user.call(|| (self.f)(view, &mut Emit::new(out)));
        }))
    }
}
