//! Keyed state: tables of one partition, the changes of one batch, and named operators.
//!
//! A batch reads completed state and collects its changes in an [`Overlay`]; only its completion
//! merges them (ENGINE.md E1, E10). So readers of state never see a batch that is not complete,
//! and undoing one is dropping its overlay.

mod changes;
mod codec;
mod frozen;
mod operator;
mod overlay;
mod restoring;
mod schema;
mod table;
mod touched;

pub(crate) use changes::Changes;
pub(crate) use codec::{encoded_keys, entries, fold};
pub(crate) use frozen::Encoding;
pub(crate) use operator::Tracking;
pub use operator::{KeyedState, OperatorState};
pub use overlay::Overlay;
pub use schema::schema_id;
pub use table::StateTable;

use serde::Serialize;
use serde::de::DeserializeOwned;

/// The hash by which keys are placed and found: 64-bit XXH3, seed 0, of the canonical bytes.
/// High bits choose the partition, low bits the slot.
#[must_use]
#[inline]
pub fn hash_key(key: &[u8]) -> u64 {
    crate::checksum::xxh3(key)
}

/// A type whose values an operator keeps per key, across batches and restarts.
///
/// `VERSION` is raised when values mean something else though their shape stays; a changed shape
/// is noticed without it.
///
/// ```
/// use serde::{Deserialize, Serialize};
/// #[derive(Clone, Serialize, Deserialize)]
/// struct Count { seen: u64 }
/// impl sawmill::state::State for Count {}
/// assert_ne!(sawmill::state::schema_id::<Count>(), sawmill::state::schema_id::<u64>());
/// ```
pub trait State: Clone + Send + Sync + Serialize + DeserializeOwned + 'static {
    /// The version of the values' meaning.
    const VERSION: u32 = 1;
}

macro_rules! plain {
    ($($type:ty)*) => { $(impl State for $type {})* };
}
plain!(u8 u16 u32 u64 u128 usize i8 i16 i32 i64 i128 isize f32 f64 bool char String);
impl State for () {}

/// The versions of parts, mixed in order: a part's new version is the whole's new version.
const fn mix(first: u32, second: u32) -> u32 {
    first.wrapping_mul(31).wrapping_add(second)
}

impl<T: State> State for Vec<T> {
    const VERSION: u32 = T::VERSION;
}
impl<T: State> State for Option<T> {
    const VERSION: u32 = T::VERSION;
}
impl<A: State> State for (A,) {
    const VERSION: u32 = A::VERSION;
}
impl<A: State, B: State> State for (A, B) {
    const VERSION: u32 = mix(A::VERSION, B::VERSION);
}
impl<A: State, B: State, C: State> State for (A, B, C) {
    const VERSION: u32 = mix(mix(A::VERSION, B::VERSION), C::VERSION);
}
impl<A: State, B: State, C: State, D: State> State for (A, B, C, D) {
    const VERSION: u32 = mix(mix(mix(A::VERSION, B::VERSION), C::VERSION), D::VERSION);
}
