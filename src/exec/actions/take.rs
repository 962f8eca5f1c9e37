//! `take`: the first rows.

use crate::error::Result;
use crate::exec::dataset::{Dataset, Rows};
use crate::exec::executor::Executor;
use crate::exec::row::Row;
use crate::exec::run::RunContext;

impl Executor {
    /// The first `rows` rows, owned, in order; all, if there are fewer.
    ///
    /// Partitions are computed from the first on, one, then four times as many each time, until
    /// there are enough rows: what is not needed is mostly not computed.
    ///
    /// ```
    /// use sawmill::{Dataset, Executor};
    /// let executor = Executor::new(2, 4)?;
    /// let numbers = Dataset::from_vec((0..100).collect(), 20);
    /// let run = executor.context();
    /// assert_eq!(executor.take(&run, &numbers, 7)?, [0, 1, 2, 3, 4, 5, 6]);
    /// assert_eq!(run.tasks().len(), 1 + 4, "partitions of 5 rows");
    /// # Ok::<(), sawmill::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Executor::for_each_partition`].
    pub fn take<R: Row>(
        &self,
        run: &RunContext,
        dataset: &Dataset<R>,
        rows: usize,
    ) -> Result<Vec<R::Owned>> {
        let compute = dataset.parent();
        let (mut taken, mut next, mut width) = (Vec::new(), 0u32, 1u32);
        while taken.len() < rows {
            let missing = rows - taken.len();
            let some = next..next.saturating_add(width);
            let parts = self.run_some(run, &dataset.node(), some.clone(), &|task| {
                let mut part = Vec::new();
                Rows::new(&*compute, task).for_each(|view| {
                    if part.len() < missing {
                        part.push(R::own(view));
                    }
                })?;
                Ok(part)
            })?;
            if parts.is_empty() {
                break;
            }
            taken.extend(parts.into_iter().flatten().take(missing));
            (next, width) = (some.end, width.saturating_mul(4));
        }
        Ok(taken)
    }
}

impl<R: Row> Dataset<R> {
    /// [`Executor::take`] in a run of its own.
    ///
    /// # Errors
    /// As [`Executor::for_each_partition`].
    pub fn take(&self, executor: &Executor, rows: usize) -> Result<Vec<R::Owned>> {
        executor.take(&executor.context(), self, rows)
    }
}
