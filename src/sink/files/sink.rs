//! The sink that writes rows as lines, in whatever format.

use std::any::Any;
use std::fmt;
use std::io;

use super::options::OutputFiles;
use super::parts::{FileNames, Lines, PartFiles, Rows};
use super::progress::Progress;
use crate::error::{Error, ErrorKind, Result};
use crate::exec::{Dataset, Executor, Name, Row, RunContext, Spares};
use crate::ids::BatchId;
use crate::sink::{Output, Promise, Sink, SinkContext, SinkIdentity, digest_of};
use crate::sync::{Arc, Mutex, lock};

/// How a row becomes a line.
pub(crate) trait LineFormat<R: Row>: fmt::Debug + Send + Sync + 'static {
    /// Of the files.
    const EXTENSION: &'static str;
    /// Whether line breaks between double quotes end no line.
    const QUOTED: bool = false;
    /// What is kept from one row of a partition to the next.
    type Scratch: Default;

    /// Appends the row, without the line break at its end.
    fn write(scratch: &mut Self::Scratch, view: R::View<'_>, out: &mut Vec<u8>) -> io::Result<()>;
}

/// The sink of these rows.
pub(crate) fn file_sink<R: Row, F: LineFormat<R>>(
    (name, rows): (Name, Dataset<R>),
    options: OutputFiles,
    format: F,
    header: Vec<u8>,
) -> Arc<dyn Sink> {
    let names = FileNames { extension: F::EXTENSION };
    let lines = Lines { names, quoted: F::QUOTED, header };
    let (files, spares) = (Mutex::default(), Spares::default());
    Arc::new(FileSink { name, options, rows, format, lines, files, spares })
}

struct FileSink<R: Row, F> {
    name: Name,
    options: OutputFiles,
    rows: Dataset<R>,
    format: F,
    lines: Lines,
    files: Mutex<Option<PartFiles>>,
    /// Lines of batches that are written.
    spares: Spares<Vec<u8>>,
}

impl<R: Row, F: fmt::Debug> fmt::Debug for FileSink<R, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileSink")
            .field("name", &self.name)
            .field("format", &self.format)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

impl<R: Row, F: LineFormat<R>> FileSink<R, F> {
    fn with_files<T>(&self, call: impl FnOnce(&mut PartFiles) -> Result<T>) -> Result<T> {
        match &mut *lock(&self.files) {
            Some(files) => call(files),
            None => {
                let text = format!("the sink `{}` is not open", self.name);
                Err(Error::new(ErrorKind::SinkFailed, text).at_path(&self.options.directory))
            }
        }
    }
}

impl<R: Row, F: LineFormat<R>> Sink for FileSink<R, F> {
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
        let mut files = lock(&self.files);
        // First of all: the old handles go, also when opening fails.
        *files = None;
        let (options, lines) = (&self.options, self.lines.clone());
        *files = Some(PartFiles::open(cx.storage, options, lines, identity, progress)?);
        Ok(())
    }

    fn compute(&self, executor: &Executor, run: &RunContext) -> Result<Output> {
        let parts = executor.for_each_partition(run, &self.rows, |rows| {
            let (mut scratch, mut refused) = (F::Scratch::default(), None);
            let mut lines = self.spares.take().unwrap_or_default();
            rows.for_each(|view| match F::write(&mut scratch, view, &mut lines) {
                Ok(()) => lines.push(b'\n'),
                Err(error) => refused = Some(error),
            })?;
            match refused {
                Some(error) => {
                    let format = F::EXTENSION;
                    let text = format!("a row for the sink `{}` has no {format} form", self.name);
                    Err(Error::new(ErrorKind::TaskFailed, text).caused_by(error))
                }
                None => Ok(self.spares.lend(lines, run)),
            }
        })?;
        Ok(Box::new(Rows { batch_time_ns: run.batch_time_ns().unwrap_or(0), parts }))
    }

    fn digest(&self, output: &(dyn Any + Send + Sync)) -> Option<u64> {
        output
            .downcast_ref::<Rows>()
            .map(|rows| digest_of(rows.parts.iter().map(|part| part.as_slice())))
    }

    fn publish(
        &self,
        batch: BatchId,
        _attempt: u32,
        output: &(dyn Any + Send + Sync),
    ) -> Result<Vec<u8>> {
        let Some(rows) = output.downcast_ref::<Rows>() else {
            unreachable!("SINK: a sink is given what it computed")
        };
        self.with_files(|files| files.publish(batch, rows))
    }

    /// Opening has cut the files back to what is completed.
    fn has(&self, _batch: BatchId) -> Result<Option<bool>> {
        Ok(Some(false))
    }

    fn promise(&self) -> (Promise, &'static str) {
        let why = "files are cut back to what completed; who reads them without `_manifest` \
                   may see up to one batch more, and files beside the one that replaced them";
        (Promise::Idempotent, why)
    }

    fn settle(&self) -> Result<()> {
        self.with_files(PartFiles::settle)
    }
}
