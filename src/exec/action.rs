//! Actions: what makes a dataset be computed.

use super::dataset::{Dataset, Rows};
use super::executor::Executor;
use super::row::Row;
use super::run::RunContext;
use crate::error::Result;

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

    /// Folds the rows of each partition, in order, into a value made by `init`, then merges the
    /// values of the partitions, in order: one fixed tree, so that floats too give the same bits
    /// each time (ENGINE.md E7).
    ///
    /// # Errors
    /// As [`Executor::for_each_partition`].
    pub fn fold<R: Row, A: Send>(
        &self,
        run: &RunContext,
        dataset: &Dataset<R>,
        init: impl Fn() -> A + Sync,
        fold: impl Fn(&mut A, R::View<'_>) + Sync,
        merge: impl Fn(A, A) -> A,
    ) -> Result<A> {
        let parts = self.for_each_partition(run, dataset, |rows| {
            let mut folded = init();
            rows.for_each(|view| fold(&mut folded, view))?;
            Ok(folded)
        })?;
        Ok(parts.into_iter().reduce(merge).unwrap_or_else(init))
    }

    /// Folds owned rows pairwise, in the order of [`Executor::fold`]; `None` without rows.
    ///
    /// # Errors
    /// As [`Executor::for_each_partition`].
    pub fn reduce<R: Row>(
        &self,
        run: &RunContext,
        dataset: &Dataset<R>,
        reduce: impl Fn(R::Owned, R::Owned) -> R::Owned + Sync,
    ) -> Result<Option<R::Owned>> {
        let join = |left: Option<R::Owned>, right: R::Owned| {
            Some(match left {
                Some(left) => reduce(left, right),
                None => right,
            })
        };
        let parts = self.for_each_partition(run, dataset, |rows| {
            let mut reduced = None;
            rows.for_each(|view| reduced = join(reduced.take(), R::own(view)))?;
            Ok(reduced)
        })?;
        Ok(parts.into_iter().flatten().fold(None, join))
    }
}
