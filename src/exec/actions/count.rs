//! `count`: how many rows.

use crate::error::Result;
use crate::exec::dataset::Dataset;
use crate::exec::executor::Executor;
use crate::exec::row::Row;
use crate::exec::run::RunContext;

impl Executor {
    /// Number of rows.
    ///
    /// # Errors
    /// As [`Executor::for_each_partition`].
    pub fn count<R: Row>(&self, run: &RunContext, dataset: &Dataset<R>) -> Result<u64> {
        let parts = self.for_each_partition(run, dataset, |rows| {
            let mut count = 0u64;
            rows.for_each(|_| count += 1)?;
            Ok(count)
        })?;
        Ok(parts.into_iter().sum())
    }
}

impl<R: Row> Dataset<R> {
    /// [`Executor::count`] in a run of its own.
    ///
    /// ```
    /// use sawmill::{Dataset, Executor};
    /// assert_eq!(Dataset::from_vec(vec![3, 1, 2], 2).count(&Executor::new(2, 1)?)?, 3);
    /// # Ok::<(), sawmill::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Executor::for_each_partition`].
    pub fn count(&self, executor: &Executor) -> Result<u64> {
        executor.count(&executor.context(), self)
    }
}
