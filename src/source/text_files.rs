//! Text files as a direct source (ENGINE.md E18): a bounded set, read once each, in order.

use std::fmt;
use std::path::PathBuf;

use super::attach::sealed::Sealed;
use super::files::{Files, not_opened_again};
use super::text_plan::{PlannedText, Position, check_given, cut, partition_bytes};
use super::text_read::{TextInput, compare, verify_again};
use super::{
    Amount, Attached, LastRead, Limit, Meter, Opened, Planned, Source, SourceContext, StreamSource,
};
use crate::error::Result;
use crate::exec::{Bytes, Name};
use crate::ids::{Lsn, StreamId};
use crate::storage::Storage;
use crate::sync::{Arc, Mutex, lock};

/// Files of lines, as a direct source: their bytes do not go through the log, only what was read of
/// which, and a digest of it. Exactly once, while the files are kept as they are.
///
/// A row is a line without its `\n`; a `\r` stays, and so does any other byte, valid UTF-8 or not.
/// The end of a file ends its last line. Files are read in the order given; a file named twice is
/// read twice. All of them must exist when the first batch is planned: they are declared final as
/// they are then (path, size, modification time), and an error of kind
/// [`SourceChanged`](crate::ErrorKind::SourceChanged) names the file that is found otherwise later,
/// also after a restart. A job that goes on after a restart must name the same files in the same
/// order.
///
/// A batch is cut at the trigger's bytes, to the end of the line: a line of any length is one row.
///
/// ```
/// use sawmill::TextFiles;
/// let files = TextFiles::new(["README.md", "docs/format.md"]);
/// assert_eq!(files.paths().len(), 2);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TextFiles {
    paths: Vec<PathBuf>,
}

impl TextFiles {
    /// The files at these paths. Nothing is opened yet. At most 65,536, with paths of 4 MiB
    /// together. Relative paths are compared as given after a restart.
    pub fn new<P: Into<PathBuf>>(paths: impl IntoIterator<Item = P>) -> TextFiles {
        TextFiles { paths: paths.into_iter().map(Into::into).collect() }
    }

    /// The paths, in order.
    #[must_use]
    pub fn paths(&self) -> &[PathBuf] {
        &self.paths
    }

    /// The source as the driver sees it.
    fn into_source(self, name: &str) -> TextSource {
        TextSource {
            name: name.to_owned(),
            paths: self.paths,
            files: Mutex::default(),
            read: Arc::default(),
        }
    }
}

impl Sealed for TextFiles {}

impl StreamSource for TextFiles {
    type Row = Bytes;

    fn attach(self, name: Name) -> Attached<Bytes> {
        Attached::new(self.into_source(name.get()))
    }
}

/// [`TextFiles`] in a job.
pub(super) struct TextSource {
    name: String,
    paths: Vec<PathBuf>,
    files: Mutex<Option<Arc<Files>>>,
    read: Arc<Meter>,
}

impl fmt::Debug for TextSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TextSource").field("name", &self.name).finish_non_exhaustive()
    }
}

impl TextSource {
    fn files(&self, storage: &Arc<dyn Storage>) -> Arc<Files> {
        let mut files = lock(&self.files);
        match &*files {
            Some(files) if files.are_in(storage) => Arc::clone(files),
            _ => Arc::clone(files.insert(Arc::new(Files::new(storage)))),
        }
    }

    fn position(&self, bytes: &[u8]) -> Result<Position> {
        let position = Position::decode(bytes)?;
        position.check_paths(&check_given(&self.paths)?)?;
        Ok(position)
    }
}

impl Source for TextSource {
    fn name(&self) -> &str {
        &self.name
    }

    fn rests_on(&self) -> &'static str {
        "while the files are kept as they were read: a change is noticed"
    }

    fn stream(&self) -> Option<StreamId> {
        None
    }

    fn plan(
        &self,
        cx: SourceContext<'_>,
        position: Option<&[u8]>,
        limit: Limit,
    ) -> Result<Option<Planned>> {
        let files = self.files(cx.storage);
        let mut next = match position {
            Some(bytes) => self.position(bytes)?,
            // Also when all of them are empty: the batch without rows declares them final.
            None if !self.paths.is_empty() => Position::first(&files, &check_given(&self.paths)?)?,
            None => return Ok(None),
        };
        if position.is_some() && next.exhausted() {
            return Ok(None);
        }
        let planned = cut(&files, &mut next, limit, partition_bytes(limit.bytes))?;
        Ok(Some(Planned {
            input: planned.encode(),
            next: next.encode(),
            bytes: planned.bytes(),
            records: None,
        }))
    }

    fn open(&self, cx: SourceContext<'_>, input: &[u8]) -> Result<Arc<Opened>> {
        let planned = PlannedText::decode(input)?;
        let input = TextInput::new(self.files(cx.storage), planned, Arc::clone(&self.read));
        Ok(Arc::new(Opened::new(input)))
    }

    fn verify_digest(&self, input: &[u8], recorded: &[u8], actual: &[u8]) -> Result<()> {
        compare(&PlannedText::decode(input)?, recorded, actual)
    }

    fn verify_position(
        &self,
        cx: SourceContext<'_>,
        position: &[u8],
        last: Option<LastRead<'_>>,
    ) -> Result<()> {
        let position = self.position(position)?;
        let files = self.files(cx.storage);
        for declared in &position.files {
            let path = declared.path();
            let file = files.open(path).map_err(|failure| not_opened_again(path, failure))?;
            super::text_read::check_stamp(&file, declared)?;
        }
        match last {
            Some(last) if !position.exhausted() => {
                verify_again(&files, &PlannedText::decode(last.input)?, last.digest, &self.read)
            }
            _ => Ok(()),
        }
    }

    fn retention(&self, _position: Option<&[u8]>) -> Result<Option<Lsn>> {
        Ok(None)
    }

    fn exhausted(&self, position: Option<&[u8]>) -> Result<bool> {
        match position {
            Some(bytes) => Ok(Position::decode(bytes)?.exhausted()),
            None => Ok(self.paths.is_empty()),
        }
    }

    fn amount_read(&self) -> Amount {
        self.read.total()
    }
}
