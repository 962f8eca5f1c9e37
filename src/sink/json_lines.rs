//! Rows as lines of JSON in files (ENGINE.md E19).

use std::any::Any;
use std::fmt;
use std::path::{Path, PathBuf};

use super::json::JsonRow;
use super::line_files::LineFiles;
use super::progress::Progress;
use super::{Output, Sink, SinkContext, SinkIdentity, digest_of};
use crate::error::{Error, ErrorKind, Result};
use crate::exec::{Dataset, Executor, Name, RunContext};
use crate::ids::BatchId;
use crate::sync::{Arc, Mutex, lock};

/// Where and how a job writes its rows as lines of JSON.
///
/// The directory gets files `part-000000.jsonl`, `part-000001.jsonl`, ...: one JSON value per line
/// (see [`JsonRow`]), partition after partition, batch after batch. A file is finished when it has
/// reached `roll_bytes`, at the end of the line. The bytes do not depend on the number of threads.
///
/// Exactly once: after a crash the sink cuts its files back to what completed batches wrote, and
/// writes the batch in flight again. Who reads the files while the job runs may see up to one batch
/// that is not completed yet. The directory belongs to one sink of one job; a file `_sink` in it
/// says to which, and another sink is refused with `JobMismatch`. The last 64 files that completed
/// batches wrote must stay as they are: the next start refuses with `SinkFailed` if one is gone, of
/// another length, or (the last one) changed. Older ones may be moved away.
///
/// ```
/// use sawmill::JsonLines;
/// let lines = JsonLines::new("out").with_roll_bytes(1 << 20);
/// assert_eq!(lines.directory(), std::path::Path::new("out"));
/// assert_eq!(JsonLines::from("out").roll_bytes(), 64 << 20);
/// ```
///
/// ```
/// use sawmill::{Engine, EngineOptions, Job, Received, RunOptions, Trigger, name};
/// # let place = tempfile::tempdir()?;
/// let engine = Engine::open(place.path().join("data"), EngineOptions::default())?;
/// let events = engine.ingest(name!("events"))?;
/// events.append_batch(&["oak", "ash", "oak"])?;
/// let out = place.path().join("out");
/// let (job, ()) = Job::build(name!("lengths"), |job| {
///     let words = job.source(name!("in"), Received::from(&events));
///     let counts = words.pair_with(|_| 1u64).reduce_by_key(|a, b| a + b);
///     counts.filter(|(word, _)| *word == b"oak").write_json_lines(name!("lines"), &out);
/// })?;
/// let trigger = Trigger::AvailableNow { bytes: 1 << 20 };
/// engine.start(job, RunOptions { trigger, ..RunOptions::default() })?.await_termination()?;
/// let written = std::fs::read_to_string(out.join("part-000000.jsonl"))?;
/// assert_eq!(written, "{\"key\":\"oak\",\"value\":2}\n");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JsonLines {
    directory: PathBuf,
    roll_bytes: u64,
}

impl JsonLines {
    /// Files in this directory, which is made if it is missing.
    pub fn new(directory: impl Into<PathBuf>) -> JsonLines {
        JsonLines { directory: directory.into(), roll_bytes: 64 << 20 }
    }

    /// Sets how long a file grows before the next one is begun: bytes, default 64 MiB, at least 1.
    /// Exceeded by less than a line.
    #[must_use]
    pub fn with_roll_bytes(mut self, roll_bytes: u64) -> JsonLines {
        self.roll_bytes = roll_bytes.max(1);
        self
    }

    /// The directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// How long a file grows, bytes.
    #[must_use]
    pub fn roll_bytes(&self) -> u64 {
        self.roll_bytes
    }

    /// The sink of these rows.
    pub(crate) fn attach<R: JsonRow>(self, name: Name, rows: Dataset<R>) -> Arc<dyn Sink> {
        Arc::new(JsonLinesSink { name, options: self, rows, files: Mutex::default() })
    }
}

impl From<&str> for JsonLines {
    fn from(directory: &str) -> JsonLines {
        JsonLines::new(directory)
    }
}

impl From<&Path> for JsonLines {
    fn from(directory: &Path) -> JsonLines {
        JsonLines::new(directory)
    }
}

impl From<&PathBuf> for JsonLines {
    fn from(directory: &PathBuf) -> JsonLines {
        JsonLines::new(directory)
    }
}

impl From<PathBuf> for JsonLines {
    fn from(directory: PathBuf) -> JsonLines {
        JsonLines::new(directory)
    }
}

struct JsonLinesSink<R: JsonRow> {
    name: Name,
    options: JsonLines,
    rows: Dataset<R>,
    files: Mutex<Option<LineFiles>>,
}

impl<R: JsonRow> fmt::Debug for JsonLinesSink<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JsonLinesSink")
            .field("name", &self.name)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

/// What `compute` gives: the lines of each partition.
type Lines = Vec<Vec<u8>>;

impl<R: JsonRow> Sink for JsonLinesSink<R> {
    fn name(&self) -> &str {
        self.name.get()
    }

    fn open(
        &self,
        cx: SinkContext<'_>,
        identity: &SinkIdentity,
        progress: Option<&[u8]>,
    ) -> Result<()> {
        let progress = progress.map_or_else(|| Ok(Progress::default()), Progress::decode)?;
        let JsonLines { directory, roll_bytes } = &self.options;
        let mut files = lock(&self.files);
        // First of all: the old handles go, also when opening fails.
        *files = None;
        *files = Some(LineFiles::open(cx.storage, directory, identity, progress, *roll_bytes)?);
        Ok(())
    }

    fn compute(&self, executor: &Executor, run: &RunContext) -> Result<Output> {
        let lines: Lines = executor.for_each_partition(run, &self.rows, |rows| {
            let (mut lines, mut refused) = (Vec::new(), None);
            rows.for_each(|view| match R::write_json(view, &mut lines) {
                Ok(()) => lines.push(b'\n'),
                Err(error) => refused = Some(error),
            })?;
            match refused {
                Some(error) => {
                    let text = format!("a row for the sink `{}` has no JSON form", self.name);
                    Err(Error::new(ErrorKind::TaskFailed, text).caused_by(error))
                }
                None => Ok(lines),
            }
        })?;
        Ok(Box::new(lines))
    }

    fn digest(&self, output: &(dyn Any + Send + Sync)) -> Option<u64> {
        output.downcast_ref::<Lines>().map(|lines| digest_of(lines.iter().map(Vec::as_slice)))
    }

    fn publish(
        &self,
        batch: BatchId,
        _attempt: u32,
        output: &(dyn Any + Send + Sync),
    ) -> Result<Vec<u8>> {
        let Some(lines) = output.downcast_ref::<Lines>() else {
            unreachable!("SINK: a sink is given what it computed")
        };
        match &mut *lock(&self.files) {
            Some(files) => files.publish(batch, lines),
            None => {
                let text = format!("the sink `{}` is not open", self.name);
                Err(Error::new(ErrorKind::SinkFailed, text).at_path(&self.options.directory))
            }
        }
    }
}
