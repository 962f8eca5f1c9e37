//! `map_partitions`: sees a whole partition.

use std::marker::PhantomData;

use super::{Narrow, narrow_node};
use crate::error::Result;
use crate::exec::dataset::{Dataset, Rows};
use crate::exec::node::Compute;
use crate::exec::row::{Emit, Row};
use crate::exec::task::Task;

impl<R: Row> Dataset<R> {
    /// Calls `f` once for each partition, with all its rows: for work that is set up once, or that
    /// looks at more than one row. `f` is its own `try_` twin: an `Err` of its own (see
    /// [`Error::new`](crate::Error::new)) is the failure of the partition, and what
    /// [`Rows::for_each`] fails with it returns at once.
    ///
    /// ```
    /// use sawmill::{Dataset, Executor};
    /// let sums = Dataset::from_vec(vec![1, 2, 3, 4], 2).map_partitions::<i32>(|rows, out| {
    ///     let mut sum = 0;
    ///     rows.for_each(|number| sum += number)?;
    ///     out.push(sum);
    ///     Ok(())
    /// });
    /// assert_eq!(sums.collect(&Executor::new(1, 1)?)?, [3, 7]);
    /// # Ok::<(), sawmill::Error>(())
    /// ```
    #[must_use]
    pub fn map_partitions<U: Row>(
        &self,
        f: impl Fn(Rows<'_, R>, &mut Emit<'_, U>) -> Result<()> + Send + Sync + 'static,
    ) -> Dataset<U> {
        let base = Narrow::new("map_partitions", self.parent());
        Dataset::from_node(MapPartitions { base, f, row: PhantomData })
    }
}

struct MapPartitions<R: Row, U, F> {
    base: Narrow<R>,
    f: F,
    row: PhantomData<fn() -> U>,
}

narrow_node!([R: Row, U: Row, F: Send + Sync + 'static] MapPartitions<R, U, F>);

impl<R, U, F> Compute<U> for MapPartitions<R, U, F>
where
    R: Row,
    U: Row,
    F: Fn(Rows<'_, R>, &mut Emit<'_, U>) -> Result<()> + Send + Sync + 'static,
{
    fn run(&self, task: &Task<'_>, out: &mut dyn FnMut(U::View<'_>)) -> Result<()> {
        let Narrow { meta, parent } = &self.base;
        let done = task.call(meta, || (self.f)(Rows::new(&**parent, task), &mut Emit::new(out)));
        // Whoever failed before it is blamed already.
        done.inspect_err(|_| task.blame(meta))
    }
}
