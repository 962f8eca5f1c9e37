//! The actions, one per file: what makes a dataset be computed. Each file has the same order: the
//! method of the executor with its documentation, that of the dataset, tests.
//!
//! ACTION-1: what partitions give is put together in partition order, on the caller's thread: no
//! schedule shows in it.

mod collect;
mod count;
mod fold;
mod for_each_partition;
mod reduce;
mod save;
mod take;

pub use save::PartitionSink;
