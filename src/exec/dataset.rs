//! `Dataset`: a partitioned, immutable, lazily computed collection that knows its lineage.

use std::fmt;

use super::key::Key;
use super::keyed::KeyedInput;
use super::name::Name;
use super::node::{Compute, Dependency, Node, OperatorId, Parent};
use super::random::BatchRng;
use super::row::{Data, Kv, Row};
use super::run::RunContext;
use super::source::{FnSource, PartitionSource, SourceNode, VecSource};
use super::task::Task;
use super::wire::Value;
use crate::error::Result;
use crate::sync::Arc;

/// A partitioned, immutable collection that is computed when an action asks for it, and that knows
/// how to compute any one of its partitions again: its lineage.
///
/// Operators return new datasets and compute nothing. Narrow ones (`map`, `filter`, `flat_map`
/// ...) run fused, one pass for each partition; wide ones (`reduce_by_key` ...) exchange rows by
/// the hash of their key. Rows are emitted in an order that does not depend on the schedule.
///
/// ```
/// use sawmill::{Bytes, Dataset, Executor};
/// let lines = Dataset::from_vec(vec!["oak ash oak".to_owned(), "ash oak".to_owned()], 2);
/// let counts = lines
///     .flat_map_rows::<Bytes>(|line, out| {
///         for word in line.split(' ') {
///             out.push(word.as_bytes());
///         }
///     })
///     .pair_with(|_| 1u64)
///     .reduce_by_key(|a, b| a + b);
/// let mut counts = counts.collect(&Executor::new(2, 4)?)?;
/// counts.sort();
/// assert_eq!(counts, [(b"ash".to_vec(), 2), (b"oak".to_vec(), 3)]);
/// # Ok::<(), sawmill::Error>(())
/// ```
pub struct Dataset<R: Row>(Arc<dyn Compute<R>>);

impl<R: Row> Clone for Dataset<R> {
    fn clone(&self) -> Self {
        Dataset(Arc::clone(&self.0))
    }
}

impl<R: Row> fmt::Debug for Dataset<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Dataset(`{}`)", self.0.meta().name)
    }
}

impl<T: Data> Dataset<T> {
    /// These rows, cut into `partitions` (at least 1) runs of equal length, give or take one.
    #[must_use]
    pub fn from_vec(rows: Vec<T>, partitions: u32) -> Dataset<T> {
        Dataset::from_source(Arc::new(VecSource::new(rows, partitions)))
    }

    /// Partition `p` of `partitions` (at least 1) has the rows of `make(p)`, which is called
    /// whenever they are needed and must return the same ones each time.
    ///
    /// ```
    /// use sawmill::{Dataset, Executor};
    /// let numbers = Dataset::from_fn(3, |partition| partition * 10..partition * 10 + 2);
    /// assert_eq!(numbers.collect(&Executor::new(2, 1)?)?, [0, 1, 10, 11, 20, 21]);
    /// # Ok::<(), sawmill::Error>(())
    /// ```
    #[must_use]
    pub fn from_fn<I: IntoIterator<Item = T>>(
        partitions: u32,
        make: impl Fn(u32) -> I + Send + Sync + 'static,
    ) -> Dataset<T> {
        Dataset::from_source(Arc::new(FnSource::new(make, partitions)))
    }
}

impl<R: Row> Dataset<R> {
    /// The rows of a source.
    #[must_use]
    pub fn from_source(source: Arc<dyn PartitionSource<R>>) -> Dataset<R> {
        Dataset::from_node(SourceNode::new(source))
    }

    /// A dataset computed by a node: how operators are made, also outside of this module.
    pub(crate) fn from_node(node: impl Compute<R> + 'static) -> Dataset<R> {
        Dataset(Arc::new(node))
    }

    /// The node, type-erased: to run actions on.
    pub(crate) fn node(&self) -> Arc<dyn Node> {
        let node: Arc<dyn Compute<R>> = Arc::clone(&self.0);
        node
    }

    /// The node, as a child holds it.
    pub(crate) fn parent(&self) -> Parent<R> {
        Parent::new(&self.0)
    }

    /// The identity of the operator that this dataset is the output of.
    #[must_use]
    pub fn operator(&self) -> OperatorId {
        self.0.meta().id
    }

    /// The operator whose held partitions feed this dataset's operator through a shuffle, if it
    /// is a wide one: what to give to [`RunContext::drop_partition`] to lose buckets.
    #[must_use]
    pub fn shuffle(&self) -> Option<OperatorId> {
        self.0.dependencies().iter().find_map(|dependency| match dependency {
            Dependency::Wide(node) => Some(node.meta().id),
            Dependency::Narrow(_) | Dependency::Slice(_) | Dependency::All(_) => None,
        })
    }
}

impl<K: Key, V: Value> Dataset<Kv<K, V>> {
    /// The rows, distributed by the hash of their key: what stateful operators depend on.
    pub(crate) fn keyed_input(&self) -> KeyedInput<K, V> {
        KeyedInput::new(&self.0)
    }
}

/// The rows of one partition, to be taken once or several times.
pub struct Rows<'t, R: Row> {
    node: &'t dyn Compute<R>,
    task: &'t Task<'t>,
}

impl<R: Row> fmt::Debug for Rows<'_, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Rows(partition {})", self.task.partition())
    }
}

impl<'t, R: Row> Rows<'t, R> {
    pub(crate) fn new(node: &'t dyn Compute<R>, task: &'t Task<'t>) -> Rows<'t, R> {
        Rows { node, task }
    }

    /// The partition, from 0.
    #[must_use]
    pub fn partition(&self) -> u32 {
        self.task.partition()
    }

    /// The run this is part of: batch and batch time.
    #[must_use]
    pub fn run(&self) -> &'t RunContext {
        self.task.run()
    }

    /// Random numbers for this partition: the same ones whenever it is computed again, others for
    /// every batch, partition and name.
    ///
    /// ```
    /// use sawmill::{Dataset, Executor, name};
    /// let rows = Dataset::from_vec((0..1000u32).collect(), 4);
    /// let sample = rows.map_partitions::<u32>(|rows, out| {
    ///     let mut random = rows.rng(name!("sample"));
    ///     rows.for_each(|row| {
    ///         if random.below(10) == 0 {
    ///             out.push(row);
    ///         }
    ///     })
    /// });
    /// let (once, again) = (Executor::new(1, 1)?, Executor::new(3, 1)?);
    /// assert_eq!(sample.collect(&once)?, sample.collect(&again)?);
    /// assert!((50..200).contains(&sample.count(&once)?));
    /// # Ok::<(), sawmill::Error>(())
    /// ```
    #[must_use]
    pub fn rng(&self, name: Name) -> BatchRng {
        BatchRng::new(self.run().batch(), self.partition(), name)
    }

    /// Calls `each` for every row, in order. Called again, the rows are computed again.
    ///
    /// # Errors
    /// What computing them fails with: return it at once.
    pub fn for_each(&self, mut each: impl FnMut(R::View<'_>)) -> Result<()> {
        self.node.run(self.task, &mut |view| each(view))
    }
}
