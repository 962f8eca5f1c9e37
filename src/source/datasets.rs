//! Files and the log as sources of datasets: without a job, a plan or a journal.

use std::fmt;

use super::text_files::TextFiles;
use super::text_plan::{Position, check_given, cut};
use super::text_read::TextInput;
use super::{Ingest, Input, Limit, files::Files};
use crate::error::{Error, ErrorKind, Result};
use crate::exec::{Bytes, Dataset, PartitionSource, RunContext};
use crate::ids::{Lsn, StreamId};
use crate::storage::{BackendChoice, Storage, SystemStorage};
use crate::sync::Arc;
use crate::wal::{LsnRange, Pin, Wal};

impl TextFiles {
    /// The lines of the files as a dataset, in partitions of about `partition_bytes` (at least 1),
    /// cut behind newlines; a line of any length is one row.
    ///
    /// The files are declared final as they are now, as in a job: whenever a range is read again
    /// it must have the same bytes, else the run ends with
    /// [`SourceChanged`](ErrorKind::SourceChanged).
    ///
    /// ```
    /// use sawmill::{Executor, TextFiles};
    /// let place = tempfile::tempdir()?;
    /// let path = place.path().join("trees.txt");
    /// std::fs::write(&path, "oak\nash\nelm\n")?;
    /// let lines = TextFiles::new([path]).dataset(5)?;
    /// let executor = Executor::new(2, 1)?;
    /// assert_eq!(lines.collect(&executor)?, [b"oak", b"ash", b"elm"]);
    /// assert!(lines.explain(&executor.context(), 0)?.contains("trees.txt bytes 0..8"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// `Io` if a file does not exist or may not be read, `Invalid` if it is a directory or no
    /// regular file, `TooLarge` for too many files; the operating system's.
    pub fn dataset(&self, partition_bytes: u64) -> Result<Dataset<Bytes>> {
        let storage: Arc<dyn Storage> = Arc::new(SystemStorage::new(BackendChoice::Auto)?);
        let files = Arc::new(Files::new(&storage));
        let mut position = Position::first(&files, &check_given(self.paths())?)?;
        let planned = cut(&files, &mut position, Limit::bytes(u64::MAX), partition_bytes.max(1))?;
        let input = TextInput::new(files, planned, Arc::default());
        Ok(Dataset::from_source(Arc::new(InputRows { name: "text_files", input })))
    }
}

/// An input that was opened once and for all.
struct InputRows<I> {
    name: &'static str,
    input: I,
}

impl<I: Input> PartitionSource<Bytes> for InputRows<I> {
    fn name(&self) -> &str {
        self.name
    }

    fn partitions(&self, _run: &RunContext) -> Result<u32> {
        Ok(self.input.partitions())
    }

    fn read(&self, _run: &RunContext, partition: u32, out: &mut dyn FnMut(&[u8])) -> Result<()> {
        self.input.rows(partition, out)
    }

    fn describe(&self, _run: &RunContext, partition: u32) -> String {
        self.input.describe(partition)
    }
}

impl Wal {
    /// The records of a range of the log as a dataset of `partitions` (at least 1) runs of equal
    /// length in LSNs, give or take one. Records that the engine keeps for itself are left out.
    ///
    /// As long as the dataset lives, the log keeps the range.
    ///
    /// ```
    /// use sawmill::{Executor, Wal, WalOptions};
    /// let place = tempfile::tempdir()?;
    /// let options = WalOptions { segment_size: 64 << 10, ..WalOptions::default() };
    /// let wal = Wal::open(place.path(), options)?;
    /// let range = wal.append_batch(&["oak", "ash", "elm"])?;
    /// let records = wal.dataset(range, 2)?;
    /// let executor = Executor::new(2, 1)?;
    /// assert_eq!(records.collect(&executor)?, [b"oak", b"ash", b"elm"]);
    /// assert!(records.explain(&executor.context(), 1)?.contains("records 2..=3 of the log"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// `Invalid` if the range is not in the log any more, or not durable yet.
    pub fn dataset(&self, range: LsnRange, partitions: u32) -> Result<Dataset<Bytes>> {
        Ok(Dataset::from_source(LogRange::new(self, None, range, partitions)?))
    }
}

impl Ingest {
    /// As [`Wal::dataset`], of this stream's records only.
    ///
    /// # Errors
    /// As [`Wal::dataset`].
    pub fn dataset(&self, range: LsnRange, partitions: u32) -> Result<Dataset<Bytes>> {
        let source = LogRange::new(self.wal(), Some(self.stream()), range, partitions)?;
        Ok(Dataset::from_source(source))
    }
}

/// Records of a log. Cut by ordinals, never by frames: the same cut whatever the log was written
/// in (ENGINE.md E6).
struct LogRange {
    wal: Wal,
    stream: Option<StreamId>,
    range: LsnRange,
    partitions: u32,
    _pin: Option<Pin>,
}

impl fmt::Debug for LogRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LogRange({}..={})", self.range.first(), self.range.last())
    }
}

impl LogRange {
    fn new(
        wal: &Wal,
        stream: Option<StreamId>,
        range: LsnRange,
        partitions: u32,
    ) -> Result<Arc<LogRange>> {
        if !range.is_empty() && range.last() > wal.durable_lsn() {
            let text = format!("record {} is not durable yet", range.last());
            return Err(Error::new(ErrorKind::Invalid, text).at_path(wal.path()));
        }
        let pin = match range.is_empty() {
            true => None,
            false => Some(wal.pin("dataset", range.first())?),
        };
        let partitions = partitions.max(1);
        Ok(Arc::new(LogRange { wal: wal.clone(), stream, range, partitions, _pin: pin }))
    }

    /// The first LSN of a partition, and that behind it.
    fn lsns(&self, partition: u32) -> (Lsn, Lsn) {
        let cut = |partition: u64| {
            let part = u128::from(partition) * u128::from(self.range.len());
            let part = u64::try_from(part / u128::from(self.partitions));
            self.range.first().advance(part.unwrap_or(self.range.len()))
        };
        (cut(partition.into()), cut(u64::from(partition) + 1))
    }
}

impl PartitionSource<Bytes> for LogRange {
    fn name(&self) -> &str {
        "log_range"
    }

    fn partitions(&self, _run: &RunContext) -> Result<u32> {
        Ok(self.partitions)
    }

    fn read(&self, _run: &RunContext, partition: u32, out: &mut dyn FnMut(&[u8])) -> Result<()> {
        let (first, behind) = self.lsns(partition);
        if first == behind {
            return Ok(());
        }
        let mut replay = self.wal.replay_from(first)?;
        while let Some(record) = replay.next() {
            let record = record?;
            if record.lsn >= behind {
                break;
            }
            if self.stream.is_none_or(|stream| stream == record.stream) {
                out(record.payload);
            }
        }
        Ok(())
    }

    fn describe(&self, _run: &RunContext, partition: u32) -> String {
        let (first, behind) = self.lsns(partition);
        if first == behind {
            return "nothing".to_owned();
        }
        format!("records {first}..={} of the log", behind.previous())
    }
}
