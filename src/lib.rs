//! # sawmill
//!
//! An embeddable, single-node, log-structured storage engine with a streaming core.

pub mod clock;
mod checksum;
mod error;
mod ids;
pub mod planted;
#[cfg(any(test, feature = "testing"))]
pub mod sim;
pub mod storage;
mod sync;

pub use error::{Error, ErrorKind, Result};
pub use ids::{BatchId, Epoch, Generation, LogId, Lsn, Position, SegmentNumber, StreamId};
