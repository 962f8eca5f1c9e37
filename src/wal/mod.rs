#![doc = include_str!("README.md")]

mod append;
pub(crate) mod barrier;
mod commit;
mod core;
pub(crate) mod frame;
pub(crate) mod fuzz;
mod group;
pub(crate) mod index;
pub(crate) mod log_file;
mod open;
mod options;
mod pending;
mod prepare;
pub(crate) mod progress;
mod range;
pub(crate) mod record;
pub(crate) mod recovery;
pub(crate) mod replay;
pub(crate) mod scan;
pub(crate) mod segment;
mod slot;
mod stage;
mod staging;
#[cfg(test)]
mod tests;
pub(crate) mod transfer;
pub(crate) mod truncate;
#[allow(clippy::module_inception, reason = "the file is named by what it holds")]
mod wal;
pub(crate) mod window;
#[cfg(test)]
pub(crate) mod writer_tests;

pub use options::{Background, WalOptions};
pub use pending::Pending;
pub use range::LsnRange;
pub use replay::{Record, Replay};
pub use wal::Wal;
