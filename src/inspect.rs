//! What an engine's directory holds, found beside whoever runs the engine and without changing it.

mod stored;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::checkpoint::{Loaded, Look, Part, Report, Status};
use crate::engine::{CHECKPOINTS, Engine};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{BatchId, Generation, LogId, Lsn, StreamId, to_u64};
use crate::state::encoded_keys;
use crate::storage::{BackendChoice, Storage, SystemStorage};
use crate::stream::EngineState;

pub use stored::StoredState;

/// What [`Engine::inspect`] finds.
#[derive(Debug)]
#[non_exhaustive]
pub struct EngineReport {
    /// The directory of the checkpoints.
    pub path: PathBuf,
    /// Sequence of the manifest; 0 if there is none: no checkpoint was ever written.
    pub manifest: u64,
    /// The checkpoints that count, oldest first.
    pub checkpoints: Vec<CheckpointReport>,
}

/// One checkpoint.
#[derive(Debug)]
#[non_exhaustive]
pub struct CheckpointReport {
    /// Its number; numbers rise.
    pub number: u64,
    /// The checkpoint that its data file says the changes since; `None`: it is a base.
    pub parent: Option<u64>,
    /// Whether a restart may go on from it. If not, it is there for those that build on it.
    pub kept: bool,
    /// The log that it belongs to.
    pub log_id: LogId,
    /// The job's name.
    pub job: String,
    /// The job's generation.
    pub generation: Generation,
    /// The last batch that is in it.
    pub batch: BatchId,
    /// What it pins: the log is kept from this record on.
    pub floor: Lsn,
    /// Bytes of its data file.
    pub bytes: u64,
    /// When the data file was written, in nanoseconds since the Unix epoch, by the file system.
    pub written_ns: Option<i64>,
    /// What it holds, its base and deltas together, by operator in the order in which they were
    /// written; empty if it is damaged.
    pub operators: Vec<OperatorReport>,
    /// What the engine keeps beside the state; `None` if it cannot be read.
    pub engine: Option<JobReport>,
    /// Why recovery could not start from it; `None`: nothing wrong was found.
    pub damage: Option<Error>,
}

/// The state of one operator in a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct OperatorReport {
    /// The operator's name.
    pub name: String,
    /// Says codec, version and shape of its values.
    pub schema: u64,
    /// Number of partitions.
    pub partitions: u32,
    /// Bytes of encoded state, in all files.
    pub bytes: u64,
    /// Number of keys; `None` if only the index was read.
    pub keys: Option<u64>,
}

/// Where the job stood at a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct JobReport {
    /// Partitions of state and shuffles.
    pub parallelism: u32,
    /// Batch time of the last batch, in nanoseconds since the Unix epoch.
    pub batch_time_ns: u64,
    /// The record that completed the last batch.
    pub completion: Lsn,
    /// Bytes of input of all batches.
    pub input_bytes: u64,
    /// Names of the job's sources, in its order.
    pub sources: Vec<String>,
    /// Names of the job's sinks, in its order.
    pub sinks: Vec<String>,
    /// Ingest streams of the log.
    pub streams: Vec<(String, StreamId)>,
    /// Side inputs that later batches may read: name, the record that holds the version, bytes.
    pub sides: Vec<(String, Lsn, u64)>,
    /// Totals of accumulators.
    pub accumulators: BTreeMap<String, i64>,
}

impl EngineReport {
    /// Whether nothing wrong was found: every checkpoint could be started from, as far as was
    /// looked.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.checkpoints.iter().all(|checkpoint| checkpoint.damage.is_none())
    }
}

impl Engine {
    /// Says what the checkpoints in an engine's directory hold, changing nothing; a job may run
    /// there meanwhile, in any process. With `whole`, every byte is read from the device and
    /// compared with its digest, otherwise only indexes are.
    ///
    /// ```
    /// use sawmill::{Engine, EngineOptions};
    /// let place = tempfile::tempdir()?;
    /// Engine::open(place.path(), EngineOptions::default())?.close()?;
    /// let report = Engine::inspect(place.path(), true)?;
    /// assert!(report.is_sound() && report.checkpoints.is_empty(), "no job ran yet");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// `Io` if there is no such engine; `Corrupt` if the manifest is damaged, lost or older
    /// than its files; `Unsupported` if a newer version wrote it; `Unreadable` if the medium does
    /// not return it. What is wrong with a single checkpoint is in [`CheckpointReport::damage`].
    pub fn inspect(path: impl AsRef<Path>, whole: bool) -> Result<EngineReport> {
        let storage = SystemStorage::new(BackendChoice::default())?;
        inspect(&storage, path.as_ref(), whole)
    }
}

fn inspect(storage: &dyn Storage, path: &Path, whole: bool) -> Result<EngineReport> {
    let directory = storage.directory(&path.join(CHECKPOINTS), false)?;
    let report = Report::read(&directory, if whole { Look::Whole } else { Look::Index })?;
    let checkpoints =
        report.checkpoints.into_iter().map(|status| describe(status, whole)).collect();
    let path = directory.path().to_owned();
    Ok(EngineReport { path, manifest: report.manifest, checkpoints })
}

pub(crate) fn describe(status: Status, whole: bool) -> CheckpointReport {
    let Status { meta, bytes, kept, found } = status;
    let mut report = CheckpointReport {
        number: meta.checkpoint,
        parent: (meta.parent != 0).then_some(meta.parent),
        kept,
        log_id: meta.log_id,
        job: meta.job,
        generation: meta.generation,
        batch: meta.batch,
        floor: meta.floor,
        bytes,
        written_ns: None,
        operators: Vec::new(),
        engine: None,
        damage: None,
    };
    let fill = |report: &mut CheckpointReport| -> Result<()> {
        let loaded = found?;
        report.written_ns = loaded.files.last().and_then(|file| file.written_ns());
        report.operators = operators(&loaded, whole)?;
        report.engine = Some(job(EngineState::decode(&loaded.meta.engine)?));
        Ok(())
    };
    report.damage = fill(&mut report).err();
    report
}

/// Parts together by operator.
fn operators(loaded: &Loaded, whole: bool) -> Result<Vec<OperatorReport>> {
    let mut found: Vec<OperatorReport> = Vec::new();
    for part in &loaded.parts {
        let keys = if whole { Some(keys_of(loaded, part)?) } else { None };
        let known = found.iter_mut().find(|known| known.name == part.operator);
        match known {
            Some(known) => {
                known.partitions += 1;
                known.bytes += part.length;
                known.keys = known.keys.zip(keys).map(|(sum, more)| sum + more);
            }
            None => found.push(OperatorReport {
                name: part.operator.clone(),
                schema: part.schema,
                partitions: 1,
                bytes: part.length,
                keys,
            }),
        }
    }
    Ok(found)
}

fn keys_of(loaded: &Loaded, part: &Part) -> Result<u64> {
    let bytes = loaded.read(part)?;
    encoded_keys(&bytes).ok_or_else(|| {
        let (operator, partition) = (&part.operator, part.partition);
        let message = format!("state of operator {operator}, partition {partition}: no key count");
        Error::new(ErrorKind::Corrupt, message)
    })
}

fn job(state: EngineState) -> JobReport {
    let EngineState { shape, boundary, streams, sides } = state;
    JobReport {
        parallelism: shape.parallelism,
        batch_time_ns: boundary.batch_time_ns,
        completion: boundary.completion,
        input_bytes: boundary.input_bytes,
        sources: shape.sources.into_iter().map(|source| source.name).collect(),
        sinks: shape.sinks,
        streams: streams.into_iter().map(|open| (open.name, open.stream)).collect(),
        sides: sides
            .into_iter()
            .map(|side| (side.name, side.version, to_u64(side.bytes.len())))
            .collect(),
        accumulators: boundary.accumulators,
    }
}
