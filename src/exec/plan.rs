//! What a run has to compute: the lineage in topological order, and from it the stages.
//!
//! - PLAN-1: parents stand before their children.
//! - PLAN-2: work is what is needed and not held, and nothing else: demand goes from the action
//!   upwards and stops at every held partition and bucket.

use std::collections::{BTreeMap, BTreeSet};

use super::node::{Dependency, MAX_FUSED, Node, OperatorId, Role};
use super::run::RunContext;
use super::store::{Slot, Store};
use crate::error::{Error, ErrorKind, Result};
use crate::sync::Arc;

/// The most partitions that a node may have: each costs memory, rows or not.
const MAX_PARTITIONS: u32 = 1 << 20;

#[derive(Clone, Copy, Debug)]
pub(crate) enum Edge {
    Narrow {
        parent: usize,
    },
    /// The node's partitions from `first` on are the parent's.
    Slice {
        parent: usize,
        first: u32,
    },
    Wide {
        parent: usize,
    },
    /// Each of the node's partitions needs all of the parent's.
    All {
        parent: usize,
    },
}

impl Edge {
    fn parent(self) -> usize {
        match self {
            Edge::Narrow { parent }
            | Edge::Slice { parent, .. }
            | Edge::Wide { parent }
            | Edge::All { parent } => parent,
        }
    }
}

pub(crate) struct Planned {
    pub(crate) node: Arc<dyn Node>,
    pub(crate) edges: Vec<Edge>,
    pub(crate) partitions: u32,
}

impl Planned {
    /// Whether the node's partitions are kept as far as the run's budget allows, and computed
    /// within their consumers' tasks otherwise.
    fn is_cached(&self, store: &Store) -> bool {
        store.budget().is_some() && self.node.may_be_cached()
    }
}

/// The lineage of one node, in topological order.
pub(crate) struct Plan {
    nodes: Vec<Planned>,
    index: BTreeMap<OperatorId, usize>,
}

/// What is asked of one node.
#[derive(Clone, Default)]
pub(crate) struct Demand {
    pub(crate) partitions: BTreeSet<u32>,
    /// Of a shuffle: the reduce partitions that want their bucket of every map task.
    pub(crate) buckets: BTreeSet<u32>,
}

/// Called with a node's place, what is asked of it, and what of that is missing if it is held.
type Visit<'v> = dyn FnMut(usize, &Demand, Option<Vec<Work>>) + 'v;

/// One task of a stage.
pub(crate) struct Work {
    pub(crate) partition: u32,
    /// Of a shuffle: the buckets that are missing, ascending.
    pub(crate) wanted: Vec<u32>,
}

/// The tasks of one node.
pub(crate) struct Stage<'p> {
    pub(crate) index: usize,
    pub(crate) node: &'p Arc<dyn Node>,
    pub(crate) work: Vec<Work>,
}

impl Plan {
    /// Walks the lineage of `target` without recursion and counts partitions.
    ///
    /// # Errors
    /// `Invalid` if more than [`MAX_FUSED`] operators are fused into one pass, or if one has more
    /// than [`MAX_PARTITIONS`]; and what sources say when they are asked for their partitions.
    pub(crate) fn new(target: &Arc<dyn Node>, run: &RunContext) -> Result<Plan> {
        let mut plan = Plan { nodes: Vec::new(), index: BTreeMap::new() };
        let mut stack = vec![(Arc::clone(target), target.dependencies(), 0)];
        while let Some((node, dependencies, next)) = stack.last_mut() {
            if let Some(dependency) = dependencies.get(*next) {
                *next += 1;
                let parent = Arc::clone(dependency.node());
                if !plan.index.contains_key(&parent.meta().id) {
                    let dependencies = parent.dependencies();
                    stack.push((parent, dependencies, 0));
                }
            } else {
                let (node, dependencies) = (Arc::clone(node), std::mem::take(dependencies));
                stack.pop();
                plan.add(node, &dependencies, run)?;
            }
        }
        Ok(plan)
    }

    fn add(
        &mut self,
        node: Arc<dyn Node>,
        dependencies: &[Dependency],
        run: &RunContext,
    ) -> Result<()> {
        let meta = node.meta();
        if meta.fused > MAX_FUSED {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!(
                    "`{}` ends a chain of {} narrow operators, more than the {MAX_FUSED} that can \
                     be fused into one pass: put a `persist` into it",
                    meta.name, meta.fused
                ),
            ));
        }
        if self.index.contains_key(&meta.id) {
            return Ok(());
        }
        let (mut edges, mut counts, mut slices) = (Vec::new(), Vec::new(), 0);
        for dependency in dependencies {
            let parent = self.index[&dependency.node().meta().id];
            let count = self.nodes[parent].partitions;
            counts.push(count);
            edges.push(match dependency {
                Dependency::Narrow(_) => Edge::Narrow { parent },
                Dependency::Wide(_) => Edge::Wide { parent },
                Dependency::All(_) => Edge::All { parent },
                Dependency::Slice(_) => {
                    let first = slices;
                    slices += count;
                    Edge::Slice { parent, first }
                }
            });
        }
        let partitions = node.partitions(run, &counts)?;
        if partitions > MAX_PARTITIONS {
            let text = format!(
                "`{}` has {partitions} partitions, more than the {MAX_PARTITIONS} that can be run",
                meta.name
            );
            return Err(Error::new(ErrorKind::Invalid, text));
        }
        self.index.insert(meta.id, self.nodes.len());
        self.nodes.push(Planned { node, edges, partitions });
        Ok(())
    }

    pub(crate) fn partitions_of(&self, operator: OperatorId) -> u32 {
        self.nodes[self.index[&operator]].partitions
    }

    /// Partitions of the node that the plan is for.
    pub(crate) fn target_partitions(&self) -> u32 {
        self.nodes.last().map_or(0, |target| target.partitions)
    }

    /// The node that the plan is for.
    pub(crate) fn target(&self) -> OperatorId {
        self.nodes[self.nodes.len() - 1].node.meta().id
    }

    pub(crate) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// How a person finds an operator: its name, and its place in the lineage, from 1.
    pub(crate) fn label(&self, operator: OperatorId) -> String {
        self.index.get(&operator).map_or_else(String::new, |&index| {
            format!("`{}` (operator {} of {})", self.name(index), index + 1, self.nodes.len())
        })
    }

    /// All nodes, parents first.
    pub(crate) fn nodes(&self) -> &[Planned] {
        &self.nodes
    }

    pub(crate) fn name(&self, index: usize) -> &str {
        &self.nodes[index].node.meta().name
    }

    /// Of each node whether it is one of `operators`, or needs one of them.
    pub(crate) fn needing(&self, operators: &BTreeSet<OperatorId>) -> Vec<bool> {
        let mut needs = Vec::with_capacity(self.nodes.len());
        for planned in &self.nodes {
            let of_parent = planned.edges.iter().any(|edge| needs[edge.parent()]);
            needs.push(of_parent || operators.contains(&planned.node.meta().id));
        }
        needs
    }

    /// The stages that have work when the action wants these partitions of the target, in the
    /// order in which they can be done.
    pub(crate) fn stages(&self, store: &Store, wanted: &BTreeSet<u32>) -> Vec<Stage<'_>> {
        let mut stages = Vec::new();
        self.walk(store, wanted, &mut |index, _, work| {
            if let Some(work) = work.filter(|work| !work.is_empty()) {
                stages.push(Stage { index, node: &self.nodes[index].node, work });
            }
        });
        stages.reverse();
        stages
    }

    /// The shuffles of which somebody still reads buckets before the action has these partitions.
    pub(crate) fn still_read(&self, store: &Store, wanted: &BTreeSet<u32>) -> BTreeSet<OperatorId> {
        let mut read = BTreeSet::new();
        self.walk(store, wanted, &mut |index, demand, _| {
            if !demand.buckets.is_empty() {
                read.insert(self.nodes[index].node.meta().id);
            }
        });
        read
    }

    /// PLAN-2: goes from the target upwards and shows for each node what is asked of it and, if it
    /// is held, what of that is missing.
    pub(crate) fn walk(&self, store: &Store, wanted: &BTreeSet<u32>, visit: &mut Visit<'_>) {
        let mut demands = vec![Demand::default(); self.nodes.len()];
        if let Some(target) = demands.last_mut() {
            target.partitions.clone_from(wanted);
        }
        for index in (0..self.nodes.len()).rev() {
            let demand = std::mem::take(&mut demands[index]);
            let work = self.work(index, &demand, store);
            let upwards = match &work {
                Some(work) => work.iter().map(|work| work.partition).collect(),
                None => self.passed_on(index, &demand, store),
            };
            self.ask_parents(index, &upwards, &mut demands);
            visit(index, &demand, work);
        }
    }

    /// What a node without tasks of its own asks its parents for: all that it is asked, less what
    /// is kept of it.
    fn passed_on(&self, index: usize, demand: &Demand, store: &Store) -> BTreeSet<u32> {
        let planned = &self.nodes[index];
        let id = planned.node.meta().id;
        let kept = |partition: u32| {
            planned.is_cached(store) && store.holds(id, Slot::Partition(partition))
        };
        demand.partitions.iter().copied().filter(|&partition| !kept(partition)).collect()
    }

    /// What is missing of a node that is held; `None` for one that is not.
    fn work(&self, index: usize, demand: &Demand, store: &Store) -> Option<Vec<Work>> {
        let planned = &self.nodes[index];
        let id = planned.node.meta().id;
        match planned.node.role() {
            Role::Fused => None,
            Role::Held(_) if planned.is_cached(store) => None,
            Role::Held(_) => {
                let missing = demand.partitions.iter().copied();
                let missing = missing.filter(|&p| !store.holds(id, Slot::Partition(p)));
                Some(missing.map(|partition| Work { partition, wanted: Vec::new() }).collect())
            }
            Role::Shuffle(_) => {
                let missing = |map: u32| {
                    let wanted = demand.buckets.iter().copied();
                    wanted.filter(move |&reduce| !store.holds(id, Slot::Bucket { map, reduce }))
                };
                let works = (0..planned.partitions)
                    .map(|map| Work { partition: map, wanted: missing(map).collect() });
                Some(works.filter(|work| !work.wanted.is_empty()).collect())
            }
        }
    }

    fn ask_parents(&self, index: usize, partitions: &BTreeSet<u32>, demands: &mut [Demand]) {
        if partitions.is_empty() {
            return;
        }
        for edge in &self.nodes[index].edges {
            match *edge {
                Edge::Narrow { parent } => demands[parent].partitions.extend(partitions),
                Edge::Wide { parent } => demands[parent].buckets.extend(partitions),
                Edge::All { parent } => {
                    let all = 0..self.nodes[parent].partitions;
                    demands[parent].partitions.extend(all);
                }
                Edge::Slice { parent, first } => {
                    let end = first + self.nodes[parent].partitions;
                    let mine = partitions.range(first..end).map(|partition| partition - first);
                    demands[parent].partitions.extend(mine);
                }
            }
        }
    }
}
