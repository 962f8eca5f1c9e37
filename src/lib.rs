//! # sawmill
//!
//! An embeddable, single-node, log-structured storage engine with a streaming core.

pub mod checkpoint;
mod checksum;
pub mod clock;
mod error;
mod ids;
pub mod planted;
pub mod state;
#[cfg(any(test, feature = "testing"))]
pub mod sim;
pub mod storage;
mod sync;
#[allow(dead_code, reason = "the parts that use these come next")]
mod wal;

pub use error::{Error, ErrorKind, Result};
pub use ids::{BatchId, Epoch, Generation, LogId, Lsn, Position, SegmentNumber, StreamId};
