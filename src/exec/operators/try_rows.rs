//! What the `try_` twins share: rows through a closure that can fail, up to the first failure.

use std::fmt::Display;
use std::marker::PhantomData;

use super::{Narrow, narrow_node};
use crate::error::Result;
use crate::exec::combine::User;
use crate::exec::dataset::Dataset;
use crate::exec::node::{Compute, Partitioning};
use crate::exec::row::Row;
use crate::exec::task::Task;

/// The dataset of the rows that `f` passes on. User code is called through the [`User`] that `f` is
/// given; its `Err` is the failure of that record, and of the task.
pub(super) fn try_rows<R: Row, U: Row, E: Display + 'static>(
    name: &str,
    parent: &Dataset<R>,
    keeps_keys: bool,
    f: impl for<'a> Fn(R::View<'a>, User<'_>, &mut dyn FnMut(U::View<'_>)) -> Result<(), E>
    + Send
    + Sync
    + 'static,
) -> Dataset<U> {
    let base = Narrow::new(name, parent.parent());
    Dataset::from_node(TryRows { base, keeps_keys, f, row: PhantomData })
}

struct TryRows<R: Row, U, E, F> {
    base: Narrow<R>,
    /// Whether rows keep their keys, and with them their partitions.
    keeps_keys: bool,
    f: F,
    row: PhantomData<fn() -> Result<U, E>>,
}

narrow_node!([R: Row, U: Row, E, F: Send + Sync + 'static] TryRows<R, U, E, F>,
partitioning: |node| match node.keeps_keys {
    true => node.base.parent.partitioning(),
    false => Partitioning::Unknown,
});

impl<R, U, E, F> Compute<U> for TryRows<R, U, E, F>
where
    R: Row,
    U: Row,
    E: Display,
    F: for<'a> Fn(R::View<'a>, User<'_>, &mut dyn FnMut(U::View<'_>)) -> Result<(), E>
        + Send
        + Sync
        + 'static,
{
    fn run(&self, task: &Task<'_>, out: &mut dyn FnMut(U::View<'_>)) -> Result<()> {
        let Narrow { meta, parent } = &self.base;
        let (user, mut refused) = (User::new(task, meta), None);
        parent.run(task, &mut |view| {
            if refused.is_none()
                && let Err(error) = (self.f)(view, user, out)
            {
                refused = Some(task.refuse(meta, error));
            }
        })?;
        refused.map_or(Ok(()), Err)
    }
}
