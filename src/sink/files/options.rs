//! Where a file sink writes, and when it begins another file.

use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where and how a job writes its rows as lines in files.
///
/// The directory gets files `part-000000.jsonl`, `part-000001.jsonl`, ... (`.txt`, `.csv`), row
/// after row, partition after partition, batch after batch. A file is finished at the end of a line
/// when it has reached `roll_bytes` or `roll_rows`, and at the beginning of a batch when the file
/// is older than `roll_every`. The bytes do not depend on the number of threads.
///
/// Exactly once: after a crash the sink cuts its files back to what completed batches wrote, and
/// writes the batch in flight again. Who reads the files while the job runs may see up to one batch
/// that is not completed yet; who follows [`FileManifest`](crate::FileManifest) never does. The
/// directory belongs to one sink of one job; a file `_sink` in it says to which, and another sink
/// is refused with `JobMismatch`. The last 64 files that completed batches wrote must stay as they
/// are: the next start refuses with `SinkFailed` if one is gone, of another length, or (the last
/// one) changed. Older ones may be moved away.
///
/// ```
/// use sawmill::OutputFiles;
/// let files = OutputFiles::new("out").with_roll_bytes(1 << 20);
/// assert_eq!(files.directory(), std::path::Path::new("out"));
/// assert_eq!(OutputFiles::from("out").roll_bytes(), 64 << 20);
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
pub struct OutputFiles {
    pub(super) directory: PathBuf,
    pub(super) roll: Roll,
    pub(super) compact_files: usize,
}

/// When a file is finished.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Roll {
    pub(super) bytes: u64,
    pub(super) rows: u64,
    /// Of batch time.
    pub(super) every_ns: u64,
}

impl OutputFiles {
    /// Files in this directory, which is made if it is missing.
    pub fn new(directory: impl Into<PathBuf>) -> OutputFiles {
        let roll = Roll { bytes: 64 << 20, rows: u64::MAX, every_ns: u64::MAX };
        OutputFiles { directory: directory.into(), roll, compact_files: 0 }
    }

    /// Sets how long a file grows before the next one is begun: bytes, default 64 MiB, at least 1.
    /// Exceeded by less than a line.
    #[must_use]
    pub fn with_roll_bytes(mut self, roll_bytes: u64) -> OutputFiles {
        self.roll.bytes = roll_bytes.max(1);
        self
    }

    /// Sets how many rows a file gets before the next one is begun: at least 1, default no limit.
    #[must_use]
    pub fn with_roll_rows(mut self, roll_rows: u64) -> OutputFiles {
        self.roll.rows = roll_rows.max(1);
        self
    }

    /// Sets for how long a file gets rows: the first batch whose time is later than that of the
    /// batch that began the file by this much begins another one. Default: for ever.
    #[must_use]
    pub fn with_roll_every(mut self, batch_time: Duration) -> OutputFiles {
        self.roll.every_ns = u64::try_from(batch_time.as_nanos()).unwrap_or(u64::MAX);
        self
    }

    /// Replaces each `files` finished files, 2 to 32, by one with the same rows, when there are so
    /// many: for output that rolls often. The batch that makes them so many writes the new file;
    /// the old ones go when that batch is completed; until then, who does not follow the manifest
    /// sees both. Default: none.
    #[must_use]
    pub fn with_compaction(mut self, files: usize) -> OutputFiles {
        self.compact_files = files.clamp(2, 32);
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
        self.roll.bytes
    }
}

impl From<&str> for OutputFiles {
    fn from(directory: &str) -> OutputFiles {
        OutputFiles::new(directory)
    }
}

impl From<&Path> for OutputFiles {
    fn from(directory: &Path) -> OutputFiles {
        OutputFiles::new(directory)
    }
}

impl From<&PathBuf> for OutputFiles {
    fn from(directory: &PathBuf) -> OutputFiles {
        OutputFiles::new(directory)
    }
}

impl From<PathBuf> for OutputFiles {
    fn from(directory: PathBuf) -> OutputFiles {
        OutputFiles::new(directory)
    }
}
