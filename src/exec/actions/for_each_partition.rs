//! `for_each_partition`: a function for each partition, which all other actions are built on.

use crate::error::Result;
use crate::exec::dataset::{Dataset, Rows};
use crate::exec::executor::Executor;
use crate::exec::row::Row;
use crate::exec::run::RunContext;

impl Executor {
    /// Calls `action` for each partition, in parallel; the results stand in partition order.
    ///
    /// `action` may be called again for the same partition (after a failure, or when something it
    /// needs was lost): what it does besides returning must bear that.
    ///
    /// ```
    /// use sawmill::{Dataset, Executor};
    /// let executor = Executor::new(2, 4)?;
    /// let numbers = Dataset::from_vec(vec![1, 2, 3, 4], 2);
    /// let sums = executor.for_each_partition(&executor.context(), &numbers, |rows| {
    ///     let mut sum = 0;
    ///     rows.for_each(|number| sum += number)?;
    ///     Ok((rows.partition(), sum))
    /// })?;
    /// assert_eq!(sums, [(0, 3), (1, 7)]);
    /// # Ok::<(), sawmill::Error>(())
    /// ```
    ///
    /// # Errors
    /// `TaskFailed` when user code failed at every attempt, `Invalid` when the lineage cannot be
    /// run, and what sources return, of any kind.
    pub fn for_each_partition<R: Row, T: Send>(
        &self,
        run: &RunContext,
        dataset: &Dataset<R>,
        action: impl Fn(Rows<'_, R>) -> Result<T> + Sync,
    ) -> Result<Vec<T>> {
        let compute = dataset.parent();
        self.run(run, &dataset.node(), &|task| action(Rows::new(&*compute, task)))
    }
}

impl<R: Row> Dataset<R> {
    /// [`Executor::for_each_partition`] in a run of its own.
    ///
    /// # Errors
    /// As [`Executor::for_each_partition`].
    pub fn for_each_partition<T: Send>(
        &self,
        executor: &Executor,
        action: impl Fn(Rows<'_, R>) -> Result<T> + Sync,
    ) -> Result<Vec<T>> {
        executor.for_each_partition(&executor.context(), self, action)
    }
}
