//! `collect`: all rows.

use crate::error::Result;
use crate::exec::dataset::Dataset;
use crate::exec::executor::Executor;
use crate::exec::row::Row;
use crate::exec::run::RunContext;

impl Executor {
    /// All rows, owned, in order.
    ///
    /// # Errors
    /// As [`Executor::for_each_partition`].
    pub fn collect<R: Row>(&self, run: &RunContext, dataset: &Dataset<R>) -> Result<Vec<R::Owned>> {
        let parts = self.for_each_partition(run, dataset, |rows| {
            let mut part = Vec::new();
            rows.for_each(|view| part.push(R::own(view)))?;
            Ok(part)
        })?;
        Ok(parts.into_iter().flatten().collect())
    }
}

impl<R: Row> Dataset<R> {
    /// [`Executor::collect`] in a run of its own.
    ///
    /// ```
    /// use sawmill::{Dataset, Executor};
    /// let numbers = Dataset::from_vec(vec![3, 1, 2], 2);
    /// assert_eq!(numbers.collect(&Executor::new(2, 1)?)?, [3, 1, 2]);
    /// # Ok::<(), sawmill::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Executor::for_each_partition`].
    pub fn collect(&self, executor: &Executor) -> Result<Vec<R::Owned>> {
        executor.collect(&executor.context(), self)
    }
}
