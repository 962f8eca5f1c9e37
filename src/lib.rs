//! # sawmill
//!
//! An embeddable, single-node, log-structured storage engine with a streaming core.

mod checksum;
pub mod clock;
mod error;
mod ids;
pub mod planted;
pub mod storage;
mod sync;

pub use error::{Error, ErrorKind, Result};
pub use ids::{BatchId, Epoch, Generation, LogId, Lsn, Position, SegmentNumber, StreamId};
