//! `_manifest`: which bytes of which files count, for readers. Derived: what the journal says of
//! completed batches, in another form.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::progress::FileMark;
use crate::checksum::crc32c;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::BatchId;
use crate::sink::SinkIdentity;

pub(super) const NAME: &str = "_manifest";
const FORMAT: u32 = 1;

/// What a file sink says about its files: the contents of `_manifest`, which is replaced as a
/// whole.
///
/// Everything in it is of completed batches, and stays as it is but for compaction: files are in
/// order, their batches too, and a file of which more is written later only grows. It may be some
/// batches behind: it is written when a file is finished, about once a second of batch time, and
/// when the job is idle or ends. Read the named bytes of the named files, and nothing else; if one
/// is gone, it was replaced: read the manifest again.
///
/// ```
/// use sawmill::FileManifest;
/// let text = "{\"format\":1,\"log\":\"aa\",\"job\":\"j\",\"sink\":\"s\",\"batch\":3}\n\
///             {\"file\":\"part-000000.txt\",\"bytes\":8,\"rows\":2,\"crc32c\":77,\
///             \"first_batch\":1,\"last_batch\":3,\"open\":true}\n\
///             {\"files\":1,\"crc32c\":1236781944}\n";
/// let manifest = FileManifest::parse(text.as_bytes())?;
/// assert_eq!((manifest.batch.get(), manifest.files[0].bytes), (3, 8));
/// assert!(FileManifest::parse(&text.as_bytes()[1..]).is_err(), "half of one is none");
/// # Ok::<(), sawmill::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FileManifest {
    /// The log's id, as text.
    pub log: String,
    /// The job's name.
    pub job: String,
    /// The sink's name.
    pub sink: String,
    /// The last batch whose rows are in the files.
    pub batch: BatchId,
    /// The files, in order.
    pub files: Vec<ManifestFile>,
}

/// One file of a [`FileManifest`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ManifestFile {
    /// Its name in the directory.
    pub file: String,
    /// How many of its bytes count.
    pub bytes: u64,
    /// The rows in these bytes.
    pub rows: u64,
    /// CRC32C of these bytes.
    pub crc32c: u32,
    /// No batch before this one has rows in it.
    pub first_batch: BatchId,
    /// No batch after this one has, in these bytes.
    pub last_batch: BatchId,
    /// Whether it may grow.
    pub open: bool,
}

#[derive(Serialize, Deserialize)]
struct Head {
    format: u32,
    log: String,
    job: String,
    sink: String,
    batch: BatchId,
}

#[derive(Serialize, Deserialize)]
struct Foot {
    files: usize,
    crc32c: u32,
}

impl FileManifest {
    /// Reads the bytes of a `_manifest` file.
    ///
    /// # Errors
    /// `Corrupt` if they are not those of a whole one, `Unsupported` for a later format.
    pub fn parse(bytes: &[u8]) -> Result<FileManifest> {
        let damaged = || Error::new(ErrorKind::Corrupt, "the bytes are not those of a `_manifest`");
        let text = std::str::from_utf8(bytes).map_err(|_| damaged())?;
        let text = text.strip_suffix('\n').ok_or_else(damaged)?;
        let (rest, foot) = text.rsplit_once('\n').ok_or_else(damaged)?;
        let foot: Foot = serde_json::from_str(foot).map_err(|_| damaged())?;
        let mut lines = rest.split('\n');
        let head: Head =
            lines.next().and_then(|line| serde_json::from_str(line).ok()).ok_or_else(damaged)?;
        if head.format != FORMAT {
            let message = format!("the `_manifest` has format {}, not {FORMAT}", head.format);
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        if crc32c(&bytes[..rest.len() + 1]) != foot.crc32c {
            return Err(damaged());
        }
        let files: Result<Vec<ManifestFile>, _> = lines.map(serde_json::from_str).collect();
        let files = files.map_err(|_| damaged())?;
        if files.len() != foot.files {
            return Err(damaged());
        }
        let Head { log, job, sink, batch, .. } = head;
        Ok(FileManifest { log, job, sink, batch, files })
    }

    pub(super) fn encode(&self) -> Result<Vec<u8>> {
        let FileManifest { log, job, sink, batch, files } = self.clone();
        let head = Head { format: FORMAT, log, job, sink, batch };
        let mut text = line(&head)?;
        for file in &files {
            text += &line(file)?;
        }
        let foot = Foot { files: files.len(), crc32c: crc32c(text.as_bytes()) };
        text += &line(&foot)?;
        Ok(text.into_bytes())
    }

    pub(super) fn new(identity: &SinkIdentity, batch: BatchId) -> FileManifest {
        let SinkIdentity { log, job, sink } = identity.clone();
        FileManifest { log: log.to_string(), job, sink, batch, files: Vec::new() }
    }

    /// Whether it is of this sink.
    pub(super) fn is_of(&self, identity: &SinkIdentity) -> bool {
        let empty = FileManifest::new(identity, self.batch);
        (&empty.log, &empty.job, &empty.sink) == (&self.log, &self.job, &self.sink)
    }

    /// The files by name.
    pub(super) fn by_name(self) -> BTreeMap<String, ManifestFile> {
        self.files.into_iter().map(|file| (file.file.clone(), file)).collect()
    }
}

impl ManifestFile {
    pub(super) fn new(name: String, mark: &FileMark, open: bool) -> ManifestFile {
        ManifestFile {
            file: name,
            bytes: mark.length,
            rows: mark.rows,
            crc32c: mark.crc32c,
            first_batch: mark.first,
            last_batch: mark.last,
            open,
        }
    }
}

fn line(value: &impl Serialize) -> Result<String> {
    let mut text = serde_json::to_string(value).map_err(|cause| {
        Error::new(ErrorKind::SinkFailed, "a manifest could not be written").caused_by(cause)
    })?;
    text.push('\n');
    Ok(text)
}
