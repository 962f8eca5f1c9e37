//! Actions: what makes a dataset be computed.

use super::dataset::{Dataset, Rows};
use super::executor::Executor;
use super::row::Row;
use super::run::RunContext;
use crate::error::Result;

/// Where [`Executor::save`] puts the rows of a dataset.
pub trait PartitionSink<R: Row>: Sync {
    /// Takes the rows of one partition. It is called in parallel for different partitions, and
    /// again for the same one after a failure or a loss: the last call counts, and what an earlier
    /// one wrote must not be seen beside it.
    ///
    /// # Errors
    /// What taking the rows fails with (return it at once), and what writing fails with: `Io` is
    /// attempted again, other kinds end the run.
    fn write(&self, rows: Rows<'_, R>) -> Result<()>;

    /// Called once, after all partitions: makes them visible, as a whole if the sink can. When it
    /// is not called, nothing that was written counts.
    ///
    /// # Errors
    /// What making visible fails with: it is `save`'s result.
    fn finish(&self, partitions: u32) -> Result<()>;
}

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

    /// Hands each partition to a sink, in parallel, then tells the sink that this was all.
    ///
    /// # Errors
    /// As [`Executor::for_each_partition`], and what the sink returns.
    ///
    /// ```
    /// use std::collections::BTreeMap;
    /// use std::sync::Mutex;
    /// use sawmill::{Dataset, Executor, PartitionSink, Result, Rows};
    ///
    /// #[derive(Default)]
    /// struct Memory(Mutex<BTreeMap<u32, Vec<u32>>>);
    ///
    /// impl PartitionSink<u32> for Memory {
    ///     fn write(&self, rows: Rows<'_, u32>) -> Result<()> {
    ///         let mut part = Vec::new();
    ///         rows.for_each(|row| part.push(row))?;
    ///         self.0.lock().unwrap().insert(rows.partition(), part);
    ///         Ok(())
    ///     }
    ///
    ///     fn finish(&self, partitions: u32) -> Result<()> {
    ///         assert_eq!(self.0.lock().unwrap().len(), partitions as usize);
    ///         Ok(())
    ///     }
    /// }
    ///
    /// let (executor, memory) = (Executor::new(2, 4)?, Memory::default());
    /// let numbers = Dataset::from_vec(vec![1u32, 2, 3, 4], 2);
    /// executor.save(&executor.context(), &numbers, &memory)?;
    /// assert_eq!(memory.0.lock().unwrap()[&1], [3, 4]);
    /// # Ok::<(), sawmill::Error>(())
    /// ```
    pub fn save<R: Row>(
        &self,
        run: &RunContext,
        dataset: &Dataset<R>,
        sink: &(impl PartitionSink<R> + ?Sized),
    ) -> Result<()> {
        let written = self.for_each_partition(run, dataset, |rows| sink.write(rows))?;
        sink.finish(u32::try_from(written.len()).unwrap_or(u32::MAX))
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
