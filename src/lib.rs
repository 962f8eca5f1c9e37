//! An embeddable, single-node, log-structured storage engine with a streaming core: append records
//! that are on stable storage when the call returns, and have every one of them counted once.
//!
//! ```
//! use sawmill::{Engine, EngineOptions, Job, Received, RunOptions, Trigger, name};
//! # let place = tempfile::tempdir()?;
//! # let directory = place.path();
//! let trigger = Trigger::AvailableNow { bytes: 1 << 20 }; // what is there, then the job ends
//! for life in 1..=3 {
//!     let engine = Engine::open(directory, EngineOptions::default())?;
//!     let events = engine.ingest(name!("events"))?;
//!     let (job, counts) = Job::build(name!("count"), |job| {
//!         let words = job.source(name!("in"), Received::from(&events));
//!         let counts = words.pair_with(|_| 1u64).map_with_state::<u64, ()>(
//!             name!("counts"),
//!             |_word, new, total| {
//!                 *total = Some(total.unwrap_or(0) + new.sum::<u64>());
//!                 None
//!             },
//!         );
//!         counts.state
//!     })?;
//!     events.append(b"oak")?; // on disk when it returns
//!     let run = engine.start(job, RunOptions { trigger, ..Default::default() })?; // recovers
//!     if life == 2 {
//!         drop((run, engine)); // nothing is closed, maybe nothing was counted yet
//!         continue;
//!     }
//!     run.await_termination()?;
//!     assert_eq!(counts.get(b"oak"), Some(life), "each record once");
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # When not
//!
//! It is neither a cluster nor replicated: one process writes a directory, and the loss of that
//! disk is the loss of its data. It is not a database: no SQL, no secondary indexes. It runs on
//! Linux, on 64 bits. If losing the last second is fine, a plain file is simpler.
//!
//! # A crash, and what is left of it
//!
//! | | after `kill -9` or a power cut |
//! |---|---|
//! | a record whose `append` returned | there, once |
//! | a record that was only submitted | there or not, whole |
//! | the batch in flight | executed again as planned, published once per id |
//! | state | the newest whole checkpoint, and what was planned since, computed again |
//! | files in [`OutputFiles`] | cut back to what completed, then continued |
//! | [`for_each_batch`](Stream::for_each_batch) | may see the batch in flight again, with its id |
//!
//! Results are the same bytes whatever the number of threads, the schedule, retries and crashes.
//! User functions must be pure for that, and sinks the only place with effects.
//!
//! # The parts
//!
//! - [`Wal`]: the log, a product by itself: group commit, recovery, replay, truncation.
//! - [`Engine`]: a directory with a log and checkpoints. [`Ingest`] appends to it, [`Job`]s run in
//!   it, [`StreamRun`] is a job that runs, [`RunOptions`] and [`Trigger`] say how.
//! - [`Stream`]: batch after batch through `map`, `filter`, `flat_map_rows`, `reduce_by_key`,
//!   [`map_with_state`](Stream::map_with_state); [`StateHandle`] asks for completed state.
//! - Sources: [`Received`] records of the log, [`TextFiles`]. Sinks: files of JSON, text or CSV
//!   ([`OutputFiles`]), another log ([`CommittedRows`]), SQLite (feature `sqlite`),
//!   [`for_each_batch`](Stream::for_each_batch), and your own ([`BatchSink`], [`TwoPhaseSink`]).
//! - [`Engine::savepoint`]: a job's state under a name, in one file, from which it can be started
//!   in another directory.
//! - [`Dataset`] and [`Executor`]: the same operators over one set of rows, without a log.
//! - [`Error`]: its [`ErrorKind`] says what the caller can do.
//! - `testing`, `sim` (feature `testing`): jobs driven by hand, on a disk that crashes on demand.

pub mod checkpoint;
mod checksum;
pub mod clock;
mod engine;
mod error;
mod exec;
#[doc(hidden)]
pub mod fuzzing;
mod ids;
mod inspect;
mod options;
pub mod planted;
mod recovery;
mod savepoint;
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

/// The README's example compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

pub use engine::Engine;
pub use error::{Error, ErrorKind, Result};
pub use exec::{
    Accumulator, BatchRng, Broadcast, Bytes, CancelToken, Data, Dataset, Drills, Emit, Executor,
    Key, Kv, Lost, Malformed, Name, OperatorId, PartitionSink, PartitionSource, Row, Rows,
    RunContext, StorageLevel, Str, TaskKind, TaskOutcome, TaskRecord, Value, Wire,
};
pub use ids::{
    BatchId, Epoch, Generation, LogId, Lsn, Position, ProducerId, SegmentNumber, StreamId,
};
pub use inspect::{CheckpointReport, EngineReport, JobReport, OperatorReport, StoredState};
pub use options::EngineOptions;
pub use savepoint::SavepointReport;
pub use sink::{
    BatchOutput, BatchSink, CollectedRows, CommittedRow, CommittedRows, FileManifest, JsonRow,
    ManifestFile, Opening, Outcome, OutputFiles, Promise, SinkError, SinkIdentity, TextRow,
    TwoPhaseSink,
};
#[cfg(feature = "csv")]
pub use sink::{CsvFields, CsvRow};
#[cfg(feature = "sqlite")]
pub use sink::{SqlValue, SqliteTable};
#[doc(hidden)]
pub use source::Attached;
pub use source::{DeadLetter, Ingest, Received, RecordPlace, StreamSource, TextFiles};
pub use state::State;
pub use stream::{
    BatchReport, Delivery, Event, EventListener, Guarantees, Job, JobBuilder, Link, Listener,
    Marks, Progress, Restored, RunOptions, SideInput, StateHandle, Stateful, Stream, StreamRun,
    Trigger,
};
pub use wal::{
    AppendOptions, Background, Backup, Compression, Damage, Durability, Entry, EpochReport, Hold,
    Latencies, LogMarks, LogReport, LsnRange, OwnedRecord, Pending, PendingReceipt, Pin,
    ProducerStamp, ProducerState, ReaderPosition, ReaderStats, ReaderTail, Ready, Receipt, Record,
    Repair, Replay, Safeguard, SegmentReport, SegmentState, Tail, TruncationPlan, Wal, WalOptions,
    WalReader, WalStats, WalStream, WriterState,
};
