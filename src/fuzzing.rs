//! Decoders over arbitrary bytes, for `fuzz/`: each returns or refuses, and never panics. Not part
//! of the public interface.

pub use crate::checkpoint::fuzz::{decode_checkpoint, decode_manifest};
#[cfg(any(test, feature = "testing"))]
pub use crate::wal::fuzz::{decode_wal, recover_image};
