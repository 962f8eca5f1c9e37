//! The segmented write-ahead log.

pub(crate) mod frame;
mod options;
pub(crate) mod progress;
mod range;
pub(crate) mod record;

pub use options::{Background, WalOptions};
pub use range::LsnRange;
