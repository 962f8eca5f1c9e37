//! The lineage: type-erased nodes with their dependencies, and the typed side that computes rows.
//!
//! - NODE-1: a node never changes after it was made, and knows its parents only: the graph has no
//!   cycles.
//! - NODE-2: nothing walks or drops the graph recursively, so a lineage may be of any length. Only
//!   a chain of operators fused into one pass uses the stack: at most [`MAX_FUSED`] of them.

use std::any::Any;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt;
use std::ops::Deref;
use std::sync::atomic::{AtomicU64, Ordering};

use super::row::Row;
use super::run::RunContext;
use super::task::Task;
use crate::error::Result;
use crate::sync::Arc;

/// The longest chain of narrow operators that is fused into one pass: each takes some stack.
/// `persist` ends a chain.
pub(crate) const MAX_FUSED: u32 = 1024;

/// The identity of an operator within this process. Says nothing about other processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OperatorId(u64);

impl fmt::Display for OperatorId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// What every node has.
#[derive(Debug)]
pub(crate) struct Meta {
    pub(crate) id: OperatorId,
    /// What a person reads: the operator's method, or the name the user gave.
    pub(crate) name: String,
    /// Number of operators fused into one pass that ends here.
    pub(crate) fused: u32,
    /// The same if nothing before is kept, though it was persisted.
    pub(crate) unkept: u32,
}

impl Meta {
    /// A node that starts a chain: a source, or whatever is held.
    pub(crate) fn first(name: impl Into<String>) -> Meta {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let id = OperatorId(NEXT.fetch_add(1, Ordering::Relaxed));
        Meta { id, name: name.into(), fused: 1, unkept: 1 }
    }

    /// A node that is fused with `fused` operators before it (none: it starts a chain), or, if
    /// nothing of them is kept, with `unkept`.
    pub(crate) fn fused(name: &str, (fused, unkept): (u32, u32)) -> Meta {
        let (fused, unkept) = (fused.saturating_add(1), unkept.saturating_add(1));
        Meta { fused, unkept, ..Meta::first(name) }
    }

    /// A node that is held, and ends the chain before it as long as it is.
    pub(crate) fn held_after(name: &str, parent: &Meta) -> Meta {
        Meta { unkept: parent.unkept.saturating_add(1), ..Meta::first(name) }
    }

    /// A node that is fused with its parent.
    pub(crate) fn after(name: impl Into<String>, parent: &Meta) -> Meta {
        let (fused, unkept) = (parent.fused.saturating_add(1), parent.unkept.saturating_add(1));
        Meta { fused, unkept, ..Meta::first(name) }
    }
}

/// What a partition of a node is computed from.
#[derive(Clone)]
pub(crate) enum Dependency {
    /// Partition `p` needs partition `p` of the parent.
    Narrow(Arc<dyn Node>),
    /// The partitions of all parents of this kind, one after the other, are the node's partitions.
    Slice(Arc<dyn Node>),
    /// Partition `p` needs bucket `p` of every partition of the parent, which must be a
    /// [`Role::Shuffle`].
    Wide(Arc<dyn Node>),
    /// Every partition needs all partitions of the parent, which must be [`Role::Held`].
    All(Arc<dyn Node>),
}

impl Dependency {
    pub(crate) fn node(&self) -> &Arc<dyn Node> {
        match self {
            Dependency::Narrow(node)
            | Dependency::Slice(node)
            | Dependency::Wide(node)
            | Dependency::All(node) => node,
        }
    }
}

/// A partition or bucket as the partition store holds it.
#[derive(Clone)]
pub(crate) struct Held {
    pub(crate) value: Arc<dyn Any + Send + Sync>,
    /// What it takes of memory, as far as its owner knows.
    pub(crate) bytes: usize,
}

impl Held {
    pub(crate) fn new(value: impl Any + Send + Sync, bytes: usize) -> Held {
        Held { value: Arc::new(value), bytes }
    }
}

/// How the partitions of a node come to be.
pub(crate) enum Role<'n> {
    /// Computed anew for each consumer, in one pass with it.
    Fused,
    /// Computed once per run and held in the run's partition store for all consumers.
    Held(&'n dyn Hold),
    /// Each partition is cut into buckets, which are held.
    Shuffle(&'n dyn Shuffle),
}

/// Computes partitions that are held.
pub(crate) trait Hold: Sync {
    /// The partition `task.partition()`, from what the node depends on.
    fn hold(&self, task: &Task<'_>) -> Result<Held>;
}

/// Computes the buckets of a shuffle.
pub(crate) trait Shuffle: Sync {
    /// The buckets `wanted` (ascending) of partition `task.partition()` of the parent, in that
    /// order.
    fn buckets(&self, task: &Task<'_>, wanted: &[u32]) -> Result<Vec<Held>>;

    /// Number of buckets of each partition: one for each partition of the nodes behind.
    fn bucket_count(&self, run: &RunContext) -> u32 {
        run.parallelism()
    }
}

/// How the rows of a node are distributed over its partitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Partitioning {
    /// Nothing is known.
    Unknown,
    /// By the hash of the key, over as many partitions as the run's parallelism.
    ByKey,
}

/// Type-erased lineage: what plans, `explain` and recomputation walk.
pub(crate) trait Node: Send + Sync {
    fn meta(&self) -> &Meta;

    fn dependencies(&self) -> Vec<Dependency>;

    /// Number of partitions in this run; `parents` has one number for each dependency.
    fn partitions(&self, _run: &RunContext, parents: &[u32]) -> Result<u32> {
        Ok(parents[0])
    }

    fn role(&self) -> Role<'_> {
        Role::Fused
    }

    fn partitioning(&self) -> Partitioning {
        Partitioning::Unknown
    }

    /// Whether the node is held, each partition as a `ByteTable` of its values by the canonical
    /// bytes of their keys: keyed operators then read hashes and keys where they lie.
    fn holds_table(&self) -> bool {
        false
    }

    /// Whether the node, which is held, can do without: its consumers can compute a partition in
    /// one pass with it.
    fn may_be_cached(&self) -> bool {
        false
    }

    /// What `explain` adds about a partition (a source says where the rows come from, a shuffle
    /// what it decided about those of a partition of its parent).
    fn describe(&self, _run: &RunContext, _partition: u32) -> Option<String> {
        None
    }
}

/// A node and all that it is computed from, directly or not.
pub(crate) fn lineage(node: &Arc<dyn Node>) -> BTreeSet<OperatorId> {
    let mut found = BTreeSet::from([node.meta().id]);
    let mut waiting = vec![Arc::clone(node)];
    while let Some(node) = waiting.pop() {
        let parents = node.dependencies();
        let new = parents.iter().filter(|parent| found.insert(parent.node().meta().id));
        waiting.extend(new.map(|parent| Arc::clone(parent.node())));
    }
    found
}

impl fmt::Debug for dyn Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Node({})", self.meta().name)
    }
}

/// The typed side of a node: pushes the rows of one partition. A view lives for one call only.
pub(crate) trait Compute<R: Row>: Node {
    fn run(&self, task: &Task<'_>, out: &mut dyn FnMut(R::View<'_>)) -> Result<()>;
}

/// A node's hold on its parent. Dropping the last one of a long chain takes no stack (NODE-2).
pub(crate) struct Parent<R: Row>(Option<Arc<dyn Compute<R>>>);

impl<R: Row> Parent<R> {
    pub(crate) fn new(node: &Arc<dyn Compute<R>>) -> Parent<R> {
        Parent(Some(Arc::clone(node)))
    }

    pub(crate) fn node(&self) -> Arc<dyn Node> {
        let node: Arc<dyn Compute<R>> = Arc::clone(self.compute());
        node
    }

    pub(crate) fn compute(&self) -> &Arc<dyn Compute<R>> {
        self.0.as_ref().expect("taken by drop only")
    }
}

impl<R: Row> Deref for Parent<R> {
    type Target = dyn Compute<R>;

    fn deref(&self) -> &Self::Target {
        &**self.compute()
    }
}

impl<R: Row> Drop for Parent<R> {
    fn drop(&mut self) {
        if let Some(node) = self.0.take() {
            bury(node);
        }
    }
}

type Graves = RefCell<Option<Vec<Arc<dyn Node>>>>;
thread_local!(static GRAVES: Graves = const { RefCell::new(None) });

/// Changes the queue of nodes to be dropped; `None` when this thread is ending and has none.
fn graves<T>(change: impl FnOnce(&mut Option<Vec<Arc<dyn Node>>>) -> T) -> Option<T> {
    GRAVES.try_with(|graves| change(&mut graves.borrow_mut())).ok()
}

/// Drops a node, and by a loop instead of recursion the parents whose last holder it was.
fn bury(node: Arc<dyn Node>) {
    struct Reset;
    impl Drop for Reset {
        fn drop(&mut self) {
            // Also when the drop of something that user code captured panics: what is left in the
            // queue then goes the recursive way, outside of the borrow.
            drop(graves(Option::take));
        }
    }

    let first = graves(|graves| match graves {
        Some(waiting) => {
            waiting.push(Arc::clone(&node));
            false
        }
        None => {
            *graves = Some(Vec::new());
            true
        }
    });
    if first == Some(true) {
        let _reset = Reset;
        let mut next = Some(node);
        while let Some(node) = next {
            drop(node);
            next = graves(|graves| graves.as_mut().and_then(Vec::pop)).flatten();
        }
    }
}

/// The lineage of the map side of a shuffle: a node with the fields `meta` and `parent`, whose
/// partitions it cuts into buckets.
macro_rules! shuffle_node {
    ([$($generics:tt)*] $node:ty $(, describe: $describe:expr)?) => {
        impl<$($generics)*> crate::exec::node::Node for $node {
            fn meta(&self) -> &crate::exec::node::Meta {
                &self.meta
            }

            fn dependencies(&self) -> Vec<crate::exec::node::Dependency> {
                vec![crate::exec::node::Dependency::Narrow(self.parent.node())]
            }

            fn role(&self) -> crate::exec::node::Role<'_> {
                crate::exec::node::Role::Shuffle(self)
            }

            $(fn describe(
                &self,
                run: &crate::exec::run::RunContext,
                partition: u32,
            ) -> Option<String> {
                let describe: fn(&Self, &crate::exec::run::RunContext, u32) -> _ = $describe;
                describe(self, run, partition)
            })?
        }
    };
}

pub(crate) use shuffle_node;
