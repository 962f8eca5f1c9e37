//! What an engine's directory holds, found beside whoever runs the engine and without changing it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::checkpoint::{Loaded, Look, Report, Status};
use crate::engine::{CHECKPOINTS, Engine};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{BatchId, Generation, LogId, Lsn, StreamId};
use crate::state::encoded_keys;
use crate::storage::{BackendChoice, Storage, SystemStorage};
use crate::stream::EngineState;

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
    /// What it holds, by operator in the order in which they were written; empty if it is damaged.
    pub operators: Vec<OperatorReport>,
    /// What the engine keeps beside the state; `None` if this version cannot read it.
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
    /// Bytes of encoded state.
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

fn describe(status: Status, whole: bool) -> CheckpointReport {
    let Status { meta, bytes, found } = status;
    let engine = EngineState::decode(&meta.engine);
    let (written_ns, operators, damage) = match found {
        Ok(loaded) => match operators(&loaded, whole) {
            Ok(operators) => (loaded.written_ns(), operators, None),
            Err(error) => (loaded.written_ns(), Vec::new(), Some(error)),
        },
        Err(error) => (None, Vec::new(), Some(error)),
    };
    CheckpointReport {
        number: meta.checkpoint,
        log_id: meta.log_id,
        job: meta.job,
        generation: meta.generation,
        batch: meta.batch,
        floor: meta.floor,
        bytes,
        written_ns,
        operators,
        damage: damage.or_else(|| engine.as_ref().err().cloned()),
        engine: engine.ok().map(job),
    }
}

/// Extents together by operator.
fn operators(loaded: &Loaded, whole: bool) -> Result<Vec<OperatorReport>> {
    let mut found: Vec<OperatorReport> = Vec::new();
    for (ordinal, extent) in loaded.extents.iter().enumerate() {
        let keys = if whole { Some(keys_of(loaded, ordinal)?) } else { None };
        let known = found.iter_mut().find(|known| known.name == extent.operator);
        match known {
            Some(known) => {
                known.partitions += 1;
                known.bytes += extent.length;
                known.keys = known.keys.zip(keys).map(|(sum, more)| sum + more);
            }
            None => found.push(OperatorReport {
                name: extent.operator.clone(),
                schema: extent.schema,
                partitions: 1,
                bytes: extent.length,
                keys,
            }),
        }
    }
    Ok(found)
}

fn keys_of(loaded: &Loaded, ordinal: usize) -> Result<u64> {
    let bytes = loaded.read_extent(ordinal)?;
    encoded_keys(&bytes).ok_or_else(|| {
        let extent = &loaded.extents[ordinal];
        let (operator, partition) = (&extent.operator, extent.partition);
        let message = format!("state of operator {operator}, partition {partition}: no key count");
        Error::new(ErrorKind::Corrupt, message)
    })
}

fn job(state: EngineState) -> JobReport {
    let EngineState { shape, boundary, streams } = state;
    JobReport {
        parallelism: shape.parallelism,
        batch_time_ns: boundary.batch_time_ns,
        completion: boundary.completion,
        input_bytes: boundary.input_bytes,
        sources: shape.sources.into_iter().map(|source| source.name).collect(),
        sinks: shape.sinks,
        streams: streams.into_iter().map(|open| (open.name, open.stream)).collect(),
        accumulators: boundary.accumulators,
    }
}
