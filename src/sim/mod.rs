//! A disk that exists only in memory, and that loses what a real one may lose.
//!
//! [`SimDisk`] stands behind the same traits as the real backends. A test runs its code on it, cuts
//! the power at a chosen operation, picks what survives, and opens the disk that is found then:
//!
//! ```
//! use std::path::Path;
//! use sawmill::sim::{CrashManner, CrashOutcome, SimDisk};
//! use sawmill::storage::{OpenMode, Storage};
//!
//! let disk = SimDisk::new(7);
//! let directory = disk.directory(Path::new("/log"), true)?;
//! let file = directory.open("segment", OpenMode::Create)?;
//! file.set_length(100)?;
//! file.sync()?;
//! // The name was never synced: a crash may lose it, however durable the bytes are.
//! let found = disk.power_cycle(CrashOutcome::LoseAll);
//! assert_eq!(found.files(), Vec::<std::path::PathBuf>::new());
//! assert!(directory.sync().is_err(), "the old disk is off");
//! # Ok::<(), sawmill::storage::IoFailure>(())
//! ```
mod channel;
mod crash;
mod directory;
mod disk;
mod fault;
mod file;
mod flight;
mod inode;
mod names;
mod pages;
mod rng;
mod state;
#[cfg(test)]
mod tests;
mod trace;

pub use crash::{CrashManner, CrashOutcome};
pub use disk::{Device, SimDisk, SimOptions};
pub use fault::FaultKind;
