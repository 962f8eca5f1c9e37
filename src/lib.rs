//! # sawmill
//!
//! An embeddable, single-node, log-structured storage engine with a streaming core.

mod checksum;
pub mod clock;
mod error;
mod exec;
mod ids;
pub mod planted;
#[cfg(any(test, feature = "testing"))]
pub mod sim;
pub mod storage;
mod sync;
#[allow(dead_code, reason = "the parts that use these come next")]
mod wal;

pub use error::{Error, ErrorKind, Result};
pub use exec::{
    Bytes, Data, Dataset, Drills, Emit, Executor, Key, Kv, Lost, Malformed, Name, OperatorId,
    PartitionSource, Row, Rows, RunContext, Str, TaskKind, TaskOutcome, TaskRecord, Value, Wire,
};
pub use ids::{BatchId, Epoch, Generation, LogId, Lsn, Position, SegmentNumber, StreamId};
pub use wal::{Background, LsnRange, Pending, Record, Replay, Wal, WalOptions};
