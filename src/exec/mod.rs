//! Datasets: the deterministic batch executor.
//!
//! A [`Dataset`] is a lineage of operators over sources. An [`Executor`] runs it, stage by stage:
//! shuffles and other held partitions first, in topological order, then the action. Whatever is
//! held may be lost at any time; what is needed of it is then computed again, and nothing else.
//!
//! This module knows no log positions, no wall clock and no paths: inputs come through
//! [`PartitionSource`], time through [`RunContext`].

mod action;
mod dataset;
mod drill;
mod executor;
mod explain;
mod key;
mod keyed;
mod name;
mod node;
mod operators;
mod plan;
mod row;
mod run;
mod source;
mod table;
mod task;
mod wire;

pub use dataset::{Dataset, Rows};
pub use drill::Drills;
pub use executor::Executor;
pub use key::Key;
pub use name::Name;
pub use node::OperatorId;
pub use row::{Bytes, Data, Emit, Kv, Row, Str};
pub use run::{Lost, RunContext, TaskKind, TaskOutcome, TaskRecord};
pub use source::PartitionSource;
pub use wire::{Malformed, Value, Wire};

#[allow(
    unused_imports,
    reason = "the streaming engine builds its stateful operators on these"
)]
pub(crate) use {
    key::partition_of,
    keyed::KeyedInput,
    node::{Compute, Dependency, Held, Hold, Meta, Node, Parent, Partitioning, Role},
    table::ByteTable,
    task::Task,
};
