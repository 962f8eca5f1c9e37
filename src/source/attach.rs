//! The typed side: a source becomes part of a job, and its rows a dataset.

use std::fmt;

use super::{Opened, Source};
use crate::error::{Error, ErrorKind, Result};
use crate::exec::{Bytes, Dataset, Name, PartitionSource, Row, RunContext};
use crate::sync::Arc;

/// What a job can read: [`TextFiles`](crate::TextFiles), [`Received`](crate::Received). Only this
/// crate's types are sources for now. As a bound, it lets a job be built over either:
///
/// ```
/// use sawmill::{Bytes, Job, Result, StreamSource, TextFiles, name};
/// fn lines(source: impl StreamSource<Row = Bytes>) -> Result<Job> {
///     let built = Job::build(name!("lines"), |job| {
///         job.source(name!("in"), source).write_json_lines(name!("out"), "out");
///     });
///     Ok(built?.0)
/// }
/// assert!(lines(TextFiles::new(["README.md"])).is_ok());
/// ```
pub trait StreamSource: sealed::Sealed {
    /// What comes out of it.
    type Row: Row;

    /// The source under its name, and its rows.
    #[doc(hidden)]
    fn attach(self, name: Name) -> Attached<Self::Row>;
}

pub(super) mod sealed {
    /// Not to be implemented elsewhere: how sources are driven may change.
    pub trait Sealed {}
}

/// A source of a job: as the driver sees it, and as operators do.
#[doc(hidden)]
pub struct Attached<R: Row> {
    pub(crate) source: Arc<dyn Source>,
    pub(crate) rows: Dataset<R>,
}

impl<R: Row> fmt::Debug for Attached<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attached").field("source", &self.source).finish_non_exhaustive()
    }
}

impl Attached<Bytes> {
    /// A source with the dataset that reads what the run has under the source's name.
    pub(super) fn new(source: impl Source + 'static) -> Attached<Bytes> {
        let rows = Dataset::from_source(Arc::new(OpenedRows(source.name().to_owned())));
        Attached { source: Arc::new(source), rows }
    }
}

/// The rows of an [`Opened`] input of this name.
struct OpenedRows(String);

impl OpenedRows {
    fn with<T>(&self, run: &RunContext, read: impl FnOnce(&Opened) -> T) -> Result<T> {
        match run.input::<Opened>(&self.0) {
            Some(opened) => Ok(read(&opened)),
            None => {
                let text = format!("the run has no input for the source `{}`", self.0);
                Err(Error::new(ErrorKind::Invalid, text))
            }
        }
    }
}

impl PartitionSource<Bytes> for OpenedRows {
    fn name(&self) -> &str {
        &self.0
    }

    fn partitions(&self, run: &RunContext) -> Result<u32> {
        self.with(run, |opened| opened.input().partitions())
    }

    fn read(&self, run: &RunContext, partition: u32, out: &mut dyn FnMut(&[u8])) -> Result<()> {
        self.with(run, |opened| opened.rows(partition, out))?
    }

    fn describe(&self, run: &RunContext, partition: u32) -> String {
        let described = self.with(run, |opened| opened.input().describe(partition));
        described.unwrap_or_else(|error| error.to_string())
    }
}
