//! The segmented write-ahead log.

pub(crate) mod frame;
pub(crate) mod index;
pub(crate) mod log_file;
mod options;
pub(crate) mod progress;
mod range;
pub(crate) mod record;
pub(crate) mod recovery;
pub(crate) mod segment;
pub(crate) mod transfer;
pub(crate) mod truncate;

pub use options::{Background, WalOptions};
pub use range::LsnRange;
