//! `save`: all partitions into a sink.

use crate::error::Result;
use crate::exec::dataset::{Dataset, Rows};
use crate::exec::executor::Executor;
use crate::exec::row::Row;
use crate::exec::run::RunContext;

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
}

impl<R: Row> Dataset<R> {
    /// [`Executor::save`] in a run of its own.
    ///
    /// # Errors
    /// As [`Executor::save`].
    pub fn save(&self, executor: &Executor, sink: &(impl PartitionSink<R> + ?Sized)) -> Result<()> {
        executor.save(&executor.context(), self, sink)
    }
}
