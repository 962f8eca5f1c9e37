//! # sawmill
//!
//! An embeddable, single-node, log-structured storage engine with a streaming core.

pub mod checkpoint;
mod checksum;
pub mod clock;
mod engine;
mod error;
mod exec;
#[doc(hidden)]
pub mod fuzzing;
mod ids;
mod options;
pub mod planted;
mod recovery;
#[cfg(any(test, feature = "testing"))]
pub mod sim;
mod sink;
mod source;
pub mod state;
pub mod storage;
mod stream;
mod sync;
#[cfg(feature = "testing")]
pub mod testing;
mod versioned;
#[allow(dead_code, reason = "the log's recovery report and a few views of it have no user yet")]
mod wal;

pub use engine::Engine;
pub use error::{Error, ErrorKind, Result};
pub use exec::{
    Bytes, Data, Dataset, Drills, Emit, Executor, Key, Kv, Lost, Malformed, Name, OperatorId,
    PartitionSink, PartitionSource, Row, Rows, RunContext, Str, TaskKind, TaskOutcome, TaskRecord,
    Value, Wire,
};
pub use ids::{BatchId, Epoch, Generation, LogId, Lsn, Position, SegmentNumber, StreamId};
pub use options::EngineOptions;
pub use sink::{BatchOutput, JsonLines, JsonRow, SinkIdentity};
#[doc(hidden)]
pub use source::Attached;
pub use source::{Ingest, Received, StreamSource, TextFiles};
pub use state::State;
pub use stream::{
    Job, JobBuilder, Listener, Marks, Progress, RunOptions, StateHandle, Stateful, Stream,
    StreamRun, Trigger,
};
pub use wal::{
    AppendOptions, Background, Backup, Durability, Hold, Latencies, LogMarks, LsnRange,
    OwnedRecord, Pending, Pin, Ready, Record, Replay, TruncationPlan, Wal, WalOptions, WalStats,
};
