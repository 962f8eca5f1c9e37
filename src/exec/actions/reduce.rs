//! `reduce`: rows folded pairwise.

use std::fmt::Display;

use crate::error::{Error, ErrorKind, Result};
use crate::exec::dataset::Dataset;
use crate::exec::executor::Executor;
use crate::exec::row::Row;
use crate::exec::run::RunContext;

impl Executor {
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

    /// As [`Executor::reduce`], with a closure that can fail: an `Err` is the failure of the record
    /// that was to be folded.
    ///
    /// ```
    /// use sawmill::{Dataset, Executor};
    /// let executor = Executor::new(2, 1)?;
    /// let numbers = Dataset::from_vec(vec![200u8, 100], 1);
    /// let add = |a: u8, b: u8| a.checked_add(b).ok_or("too large");
    /// let sum = executor.try_reduce(&executor.context(), &numbers, add);
    /// assert!(sum.unwrap_err().to_string().contains("too large"));
    /// # Ok::<(), sawmill::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Executor::for_each_partition`]; `TaskFailed` when `reduce` failed at every attempt, or
    /// when what partitions gave was put together.
    pub fn try_reduce<R: Row, E: Display>(
        &self,
        run: &RunContext,
        dataset: &Dataset<R>,
        reduce: impl Fn(R::Owned, R::Owned) -> Result<R::Owned, E> + Sync,
    ) -> Result<Option<R::Owned>> {
        let join = |left: Option<R::Owned>, right: R::Owned| match left {
            Some(left) => reduce(left, right).map(Some),
            None => Ok(Some(right)),
        };
        let failed = |error: E| Error::new(ErrorKind::TaskFailed, error.to_string());
        let parts = self.for_each_partition(run, dataset, |rows| {
            let mut reduced = Ok(None);
            rows.for_each(|view| {
                if let Ok(left) = &mut reduced {
                    reduced = join(left.take(), R::own(view));
                }
            })?;
            reduced.map_err(failed)
        })?;
        parts.into_iter().flatten().try_fold(None, join).map_err(failed)
    }
}

impl<R: Row> Dataset<R> {
    /// [`Executor::reduce`] in a run of its own.
    ///
    /// ```
    /// use sawmill::{Dataset, Executor};
    /// let executor = Executor::new(2, 1)?;
    /// assert_eq!(Dataset::from_vec(vec![3, 1, 2], 2).reduce(&executor, Ord::max)?, Some(3));
    /// assert_eq!(Dataset::from_vec(vec![0; 0], 2).reduce(&executor, Ord::max)?, None);
    /// # Ok::<(), sawmill::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Executor::for_each_partition`].
    pub fn reduce(
        &self,
        executor: &Executor,
        reduce: impl Fn(R::Owned, R::Owned) -> R::Owned + Sync,
    ) -> Result<Option<R::Owned>> {
        executor.reduce(&executor.context(), self, reduce)
    }
}
