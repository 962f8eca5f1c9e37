//! Checkpoints: a job's state at a batch boundary, whole in one data file (a base) or as what has
//! changed since another one (a delta), made valid by the rename of one manifest (ENGINE.md E15,
//! E17). `docs/checkpoint-format.md` is the format.
//!
//! What survives a crash: once [`CheckpointStore::write`] has returned `Ok`, that checkpoint, or a
//! later one, is what [`CheckpointStore::newest`] finds. Before, it is that one or the one before
//! it, never a mixture of the two.
//!
//! CKPT-1: a manifest is renamed into place only after every data file that it names, and that
//! file's name, is durable and has been read back.
//! CKPT-2: a data file is unlinked only when no manifest that a restart may find names it.
//! CKPT-3: a number and a file name are used once by a store; nothing is overwritten.
//! CKPT-4: a manifest that exists names at least one checkpoint; starting from nothing is never
//! chosen here.
//! CKPT-5: a write costs four syncs, whatever it holds.
//! CKPT-6: a length is checked before it is written, and against the file before it is allocated.
//! CKPT-7: what is named builds only on what is named; of two kept checkpoints with different
//! bases no file is shared, so that no one bad byte costs both.

mod bytes;
mod chain;
mod data;
mod data_file;
mod find;
mod fold;
#[doc(hidden)]
pub mod fuzz;
mod io;
mod loaded;
mod manifest;
mod pace;
mod report;
mod savepoint;
mod session;
mod spare;
mod store;
#[cfg(test)]
mod tests;
mod writer;

use std::fmt;

pub(crate) use data_file::Look;
pub use data_file::{DataFile, ExtentInfo};
pub use fold::{Filled, Folding};
pub use loaded::{Loaded, Part};
pub(crate) use pace::{Pace, Turns};
pub(crate) use report::{Report, Status};
pub use savepoint::Savepoints;
pub use store::{CheckpointStore, Written};

use crate::ids::{BatchId, Generation, LogId, Lsn};

/// What a checkpoint says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckpointMeta {
    /// Its number, from 1. [`CheckpointStore::write`] gives it; what the caller puts here is
    /// ignored.
    pub checkpoint: u64,
    /// The checkpoint that it says the changes since; 0: none, it has everything.
    pub parent: u64,
    /// The job's name.
    pub job: String,
    /// The log that it belongs to.
    pub log_id: LogId,
    /// The job's generation.
    pub generation: Generation,
    /// The last batch that is in it.
    pub batch: BatchId,
    /// The first LSN that recovery from it needs (ENGINE.md E3).
    pub floor: Lsn,
    /// What the engine keeps beside the state. Opaque here.
    pub engine: Vec<u8>,
}

/// One partition of one operator's state, encoded: whole, or what has changed in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extent {
    /// The operator's name.
    pub operator: String,
    /// The schema id of its state.
    pub schema: u64,
    /// The partition.
    pub partition: u32,
    /// The partition's bytes.
    pub bytes: Vec<u8>,
}

/// The name of a checkpoint's data file.
fn file_name(checkpoint: u64) -> String {
    format!("{checkpoint:020}.ckpt")
}

/// The number in a data file's name.
fn file_number(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".ckpt")?;
    let plain = digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|_| plain)
}

/// Why bytes are not what the format says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Damage {
    /// Not a file of this kind.
    Magic,
    /// A version that this code does not know, in an otherwise whole header.
    Version(u32),
    /// A checksum differs.
    Checksum,
    /// The length and digest in the manifest are not those of the file.
    Digest,
    /// A length points past the end, or something follows the end.
    Length,
    /// A name is not UTF-8.
    Text,
    /// Bytes that must be zero are not.
    NotZero,
    /// Whole fields that contradict each other.
    Inconsistent,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Damage::Magic => "its first bytes are not sawmill's",
            Damage::Version(version) => return write!(f, "it has format version {version}"),
            Damage::Checksum => "a checksum differs",
            Damage::Digest => "its length or digest is not the one that the manifest names",
            Damage::Length => "a length does not fit the file",
            Damage::Text => "a name is not UTF-8",
            Damage::NotZero => "bytes that must be zero are not",
            Damage::Inconsistent => "its fields contradict each other",
        })
    }
}

impl std::error::Error for Damage {}
