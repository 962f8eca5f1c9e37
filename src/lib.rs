//! # sawmill
//!
//! An embeddable, single-node, log-structured storage engine with a streaming core.

pub mod checkpoint;
mod checksum;
pub mod clock;
mod error;
mod exec;
#[doc(hidden)]
pub mod fuzzing;
mod ids;
pub mod planted;
#[cfg(any(test, feature = "testing"))]
pub mod sim;
#[allow(dead_code, reason = "the driver, which uses these, comes next")]
mod sink;
#[allow(dead_code, reason = "the driver, which uses these, comes next")]
mod source;
pub mod state;
pub mod storage;
mod sync;
mod versioned;
#[allow(dead_code, reason = "the parts that use these come next")]
mod wal;

pub use error::{Error, ErrorKind, Result};
pub use exec::{
    Bytes, Data, Dataset, Drills, Emit, Executor, Key, Kv, Lost, Malformed, Name, OperatorId,
    PartitionSource, Row, Rows, RunContext, Str, TaskKind, TaskOutcome, TaskRecord, Value, Wire,
};
pub use ids::{BatchId, Epoch, Generation, LogId, Lsn, Position, SegmentNumber, StreamId};
pub use sink::{BatchOutput, JsonLines, JsonRow, SinkIdentity};
#[doc(hidden)]
pub use source::Attached;
pub use source::{Ingest, Received, StreamSource, TextFiles};
pub use wal::{Background, LsnRange, Pending, Record, Replay, Wal, WalOptions};
