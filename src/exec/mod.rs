#![doc = include_str!("README.md")]
#![allow(dead_code, reason = "some of this only the streaming engine's operators use")]

mod accumulator;
mod actions;
mod aside;
mod broadcast;
mod combine;
mod dataset;
mod drill;
mod executor;
mod explain;
mod joining;
mod key;
mod keyed;
mod name;
mod node;
mod operators;
mod plan;
mod probe;
mod random;
mod row;
mod run;
mod sample;
mod source;
mod spare;
mod store;
mod suspect;
mod table;
mod tabled;
mod task;
mod waiting;
mod wire;

pub use accumulator::Accumulator;
pub use actions::PartitionSink;
pub use broadcast::{Broadcast, CancelToken};
pub use dataset::{Dataset, Rows};
pub use drill::Drills;
pub use executor::Executor;
pub use key::Key;
pub use name::Name;
pub use node::OperatorId;
pub use operators::StorageLevel;
pub use random::BatchRng;
pub use row::{Bytes, Data, Emit, Kv, Row, Str};
pub use run::{Lost, RunContext, TaskKind, TaskOutcome, TaskRecord};
pub use source::PartitionSource;
pub use wire::{Malformed, Value, Wire};

#[allow(
    unused_imports,
    reason = "the streaming engine builds its stateful operators on these"
)]
pub(crate) use {
    aside::Aside,
    combine::User,
    key::partition_of,
    keyed::{KeyedInput, view_of},
    node::{Compute, Dependency, Held, Hold, Meta, Node, Parent, Partitioning, Role, lineage},
    probe::{Probe, Word},
    spare::{Lent, Reuse, Spares},
    suspect::{Fault, InputRow, on_its_way},
    table::{ByteTable, WARM},
    task::Task,
};
