//! Decoders over arbitrary bytes, for `fuzz/`: each returns or refuses, and never panics. Not part
//! of the public interface.

pub use crate::checkpoint::fuzz::{decode_checkpoint, decode_manifest};
pub use crate::wal::fuzz::{decode_log_slots, decode_wal};
#[cfg(any(test, feature = "testing"))]
pub use image::recover_image;

/// Images of a log's directory.
#[cfg(any(test, feature = "testing"))]
mod image;
