//! Where rows come from: the trait that sources implement, and rows in memory.

use super::node::{Compute, Dependency, Meta, Node};
use super::row::{Data, Row};
use super::run::RunContext;
use super::task::Task;
use crate::error::Result;
use crate::sync::Arc;

/// A source of partitioned rows that can be read any number of times.
///
/// Within one run every call gives the same partitions and the same rows: what a stream's source
/// has to read is planned, and comes with the run ([`RunContext::input`]).
pub trait PartitionSource<R: Row>: Send + Sync {
    /// The source's name.
    fn name(&self) -> &str;

    /// Number of partitions in this run.
    ///
    /// # Errors
    /// If the run has no usable input for this source.
    fn partitions(&self, run: &RunContext) -> Result<u32>;

    /// Pushes the rows of one partition, in order.
    ///
    /// # Errors
    /// If they cannot be read, or are not what they were. Errors keep their kind.
    fn read(
        &self,
        run: &RunContext,
        partition: u32,
        out: &mut dyn FnMut(R::View<'_>),
    ) -> Result<()>;

    /// Says where the rows of a partition come from, for `explain`.
    fn describe(&self, run: &RunContext, partition: u32) -> String;
}

pub(crate) struct SourceNode<R: Row> {
    meta: Meta,
    source: Arc<dyn PartitionSource<R>>,
}

impl<R: Row> SourceNode<R> {
    pub(crate) fn new(source: Arc<dyn PartitionSource<R>>) -> SourceNode<R> {
        SourceNode { meta: Meta::first(source.name()), source }
    }
}

impl<R: Row> Node for SourceNode<R> {
    fn meta(&self) -> &Meta {
        &self.meta
    }

    fn dependencies(&self) -> Vec<Dependency> {
        Vec::new()
    }

    fn partitions(&self, run: &RunContext, _parents: &[u32]) -> Result<u32> {
        self.source.partitions(run)
    }

    fn describe(&self, run: &RunContext, partition: u32) -> Option<String> {
        Some(self.source.describe(run, partition))
    }
}

impl<R: Row> Compute<R> for SourceNode<R> {
    fn run(&self, task: &Task<'_>, out: &mut dyn FnMut(R::View<'_>)) -> Result<()> {
        self.source.read(task.run(), task.partition(), out)
    }
}

/// Rows in memory.
pub(crate) struct VecSource<T> {
    rows: Vec<T>,
    partitions: u32,
}

impl<T> VecSource<T> {
    pub(crate) fn new(rows: Vec<T>, partitions: u32) -> VecSource<T> {
        VecSource { rows, partitions: partitions.max(1) }
    }

    /// Ordinals cut evenly: partition p has the rows from `p * len / partitions` on.
    fn range(&self, partition: u32) -> std::ops::Range<usize> {
        let cut = |partition: u64| {
            let rows = self.rows.len() as u128;
            usize::try_from(u128::from(partition) * rows / u128::from(self.partitions))
                .unwrap_or(self.rows.len())
        };
        cut(u64::from(partition))..cut(u64::from(partition) + 1)
    }
}

impl<T: Data> PartitionSource<T> for VecSource<T> {
    fn name(&self) -> &str {
        "from_vec"
    }

    fn partitions(&self, _run: &RunContext) -> Result<u32> {
        Ok(self.partitions)
    }

    fn read(&self, _run: &RunContext, partition: u32, out: &mut dyn FnMut(T)) -> Result<()> {
        self.rows[self.range(partition)].iter().for_each(|row| out(row.clone()));
        Ok(())
    }

    fn describe(&self, _run: &RunContext, partition: u32) -> String {
        let range = self.range(partition);
        format!("rows {}..{} of a vector", range.start, range.end)
    }
}

/// Rows that a function makes.
pub(crate) struct FnSource<F> {
    make: F,
    partitions: u32,
}

impl<F> FnSource<F> {
    pub(crate) fn new(make: F, partitions: u32) -> FnSource<F> {
        FnSource { make, partitions: partitions.max(1) }
    }
}

impl<I, F> PartitionSource<I::Item> for FnSource<F>
where
    I: IntoIterator,
    I::Item: Data,
    F: Fn(u32) -> I + Send + Sync,
{
    fn name(&self) -> &str {
        "from_fn"
    }

    fn partitions(&self, _run: &RunContext) -> Result<u32> {
        Ok(self.partitions)
    }

    fn read(&self, _run: &RunContext, partition: u32, out: &mut dyn FnMut(I::Item)) -> Result<()> {
        (self.make)(partition).into_iter().for_each(out);
        Ok(())
    }

    fn describe(&self, _run: &RunContext, partition: u32) -> String {
        format!("call {partition} of a function")
    }
}
