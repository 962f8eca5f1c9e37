//! The operators, one per file. Each file has the same order: the method with its documentation,
//! the node, the node's place in the lineage, what it computes, tests.

mod aggregate_by_key;
mod cogroup;
mod count_by_key;
mod count_by_value;
mod distinct;
mod filter;
mod flat_map;
mod flat_map_rows;
mod full_outer_join;
mod group_by_key;
mod join;
mod key_by;
mod keys;
mod left_outer_join;
mod map;
mod map_partitions;
mod map_to_pair;
mod map_values;
mod pair_with;
mod persist;
mod reduce_by_key;
mod repartition;
mod right_outer_join;
mod sort_by_key;
mod try_rows;
mod union;
mod values;

pub use persist::StorageLevel;

use super::node::{Meta, Parent};
use super::row::Row;

/// What every narrow operator with one parent has.
pub(super) struct Narrow<R: Row> {
    meta: Meta,
    parent: Parent<R>,
}

impl<R: Row> Narrow<R> {
    fn new(name: &str, parent: Parent<R>) -> Narrow<R> {
        Narrow { meta: Meta::after(name, parent.meta()), parent }
    }
}

/// The lineage of a narrow operator, whose node has its [`Narrow`] in the field `base`.
macro_rules! narrow_node {
    ([$($generics:tt)*] $node:ty $(, partitioning: $partitioning:expr)?) => {
        impl<$($generics)*> crate::exec::node::Node for $node {
            fn meta(&self) -> &crate::exec::node::Meta {
                &self.base.meta
            }

            fn dependencies(&self) -> Vec<crate::exec::node::Dependency> {
                vec![crate::exec::node::Dependency::Narrow(self.base.parent.node())]
            }

            $(fn partitioning(&self) -> crate::exec::node::Partitioning {
                let partitioning: fn(&Self) -> _ = $partitioning;
                partitioning(self)
            })?
        }
    };
}

/// Calls user code for each row of a partition, by the `user` that it names: how, is decided once,
/// so that no row looks whether closures may add to accumulators.
macro_rules! with_user {
    ($task:ident, $meta:ident, |$user:ident| $run:expr) => {
        match $task.calls($meta) {
            crate::exec::task::Calls::Tallied($user) => $run,
            crate::exec::task::Calls::Plain($user) => $run,
        }
    };
}

use {narrow_node, with_user};
