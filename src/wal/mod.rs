#![doc = include_str!("README.md")]

mod append;
mod backup;
pub(crate) mod barrier;
mod commit;
mod core;
mod deadline;
mod durability;
pub(crate) mod frame;
pub(crate) mod fuzz;
mod get;
mod group;
mod histogram;
pub(crate) mod home;
pub(crate) mod index;
pub(crate) mod log_file;
mod marks;
mod open;
mod options;
mod pending;
mod pins;
mod prepare;
pub(crate) mod progress;
mod range;
mod read_only;
mod ready;
mod recent;
pub(crate) mod record;
pub(crate) mod recovery;
mod recycle;
pub(crate) mod replay;
mod report;
mod retention;
pub(crate) mod scan;
pub(crate) mod segment;
mod slot;
mod stage;
mod staging;
mod stats;
mod tail;
#[cfg(test)]
mod tests;
pub(crate) mod tombstone;
pub(crate) mod transfer;
pub(crate) mod truncate;
#[allow(clippy::module_inception, reason = "the file is named by what it holds")]
mod wal;
#[cfg(any(test, feature = "testing"))]
pub(crate) mod watch;
pub(crate) mod window;
#[cfg(test)]
pub(crate) mod writer_tests;

pub use backup::Backup;
pub use durability::{AppendOptions, Durability};
pub use get::{LogMarks, OwnedRecord};
pub use histogram::Latencies;
pub use options::{Background, WalOptions};
pub use pending::Pending;
pub use pins::Pin;
pub use range::LsnRange;
pub use read_only::{ReaderStats, ReaderTail, WalReader, WriterState};
pub use ready::Ready;
pub use replay::{Record, Replay};
pub use report::{Damage, EpochReport, LogReport, Repair, SegmentReport, SegmentState};
pub use retention::{Hold, TruncationPlan};
pub use stats::WalStats;
pub use tail::Tail;
pub use wal::Wal;
