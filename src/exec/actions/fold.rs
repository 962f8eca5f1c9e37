//! `fold`: all rows in one value.

use std::fmt::Display;

use crate::error::{Error, ErrorKind, Result};
use crate::exec::dataset::Dataset;
use crate::exec::executor::Executor;
use crate::exec::row::Row;
use crate::exec::run::RunContext;

impl Executor {
    /// Folds the rows of each partition, in order, into a value made by `init`, then merges the
    /// values of the partitions, in order: one fixed tree, so that floats too give the same bits
    /// each time (ENGINE.md E7). `init` is used once for each partition, so it should be neutral.
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

    /// As [`Executor::fold`], with a fold that can fail: an `Err` is the failure of that record.
    ///
    /// ```
    /// use sawmill::{Dataset, Executor};
    /// let executor = Executor::new(2, 1)?;
    /// let words = Dataset::from_vec(vec!["7", "x"], 2);
    /// let add = |sum: &mut u32, word: &str| word.parse::<u32>().map(|number| *sum += number);
    /// let sum = executor.try_fold(&executor.context(), &words, || 0, add, |a, b| a + b);
    /// assert!(sum.unwrap_err().to_string().contains("invalid digit"));
    /// # Ok::<(), sawmill::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Executor::for_each_partition`]; `TaskFailed` when `fold` failed at every attempt.
    pub fn try_fold<R: Row, A: Send, E: Display>(
        &self,
        run: &RunContext,
        dataset: &Dataset<R>,
        init: impl Fn() -> A + Sync,
        fold: impl Fn(&mut A, R::View<'_>) -> Result<(), E> + Sync,
        merge: impl Fn(A, A) -> A,
    ) -> Result<A> {
        let parts = self.for_each_partition(run, dataset, |rows| {
            let (mut folded, mut refused) = (init(), None);
            rows.for_each(|view| {
                if refused.is_none() {
                    refused = fold(&mut folded, view).err();
                }
            })?;
            let failed = |error: E| Err(Error::new(ErrorKind::TaskFailed, error.to_string()));
            refused.map_or(Ok(folded), failed)
        })?;
        Ok(parts.into_iter().reduce(merge).unwrap_or_else(init))
    }
}

impl<R: Row> Dataset<R> {
    /// [`Executor::fold`] in a run of its own.
    ///
    /// ```
    /// use sawmill::{Dataset, Executor};
    /// let words = Dataset::from_vec(vec!["oak", "ash", "elm"], 2);
    /// let text = words.fold(
    ///     &Executor::new(2, 1)?,
    ///     String::new,
    ///     |text, word| text.push_str(word),
    ///     |left, right| left + &right,
    /// )?;
    /// assert_eq!(text, "oakashelm");
    /// # Ok::<(), sawmill::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Executor::for_each_partition`].
    pub fn fold<A: Send>(
        &self,
        executor: &Executor,
        init: impl Fn() -> A + Sync,
        fold: impl Fn(&mut A, R::View<'_>) + Sync,
        merge: impl Fn(A, A) -> A,
    ) -> Result<A> {
        executor.fold(&executor.context(), self, init, fold, merge)
    }
}
