//! What identifies the values that an operator keeps.

use super::State;

/// The codec of state values: postcard 1.
const CODEC: &str = "postcard-1";

/// The schema id of a state type.
#[must_use]
pub fn schema_id<S: State>() -> u64 {
    crate::checksum::xxh3(format!("{CODEC}/{}", S::VERSION).as_bytes())
}
