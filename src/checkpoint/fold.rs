//! A chain of files written as one base, partition by partition: no more than one of them is in
//! memory at a time, and the state that batches work on is not looked at.

use std::sync::Arc;

use super::data_file::Look;
use super::loaded::{Broken, Loaded, Shelf};
use super::manifest::{Digest, Entry};
use super::writer::DataWriter;
use super::{CheckpointMeta, Extent};
use crate::error::{Error, ErrorKind};
use crate::storage::{Channel, Directory, File};

/// A fold of a whole chain. What it reads is checked block by block.
pub(super) struct Fold(Loaded);

/// What failed was not one of the chain's files.
const NONE: u64 = 0;

fn ours(error: Error) -> Broken {
    Broken { number: NONE, error }
}

impl Fold {
    pub(super) fn of_newest(
        directory: &Arc<dyn Directory>,
        entries: &[Entry],
    ) -> Result<Fold, Broken> {
        let Some(newest) = entries.len().checked_sub(1) else {
            let message = "there is no checkpoint to fold";
            return Err(ours(Error::new(ErrorKind::Invalid, message).at_path(directory.path())));
        };
        Shelf::new(directory, Look::Index).load(entries, newest).map(Fold)
    }

    /// That of the newest checkpoint, but for what it builds on.
    pub(super) fn meta(&self) -> CheckpointMeta {
        CheckpointMeta { parent: 0, ..self.0.meta.clone() }
    }

    /// Fills a data file.
    pub(super) fn write(
        &self,
        channel: &mut dyn Channel,
        file: &Arc<dyn File>,
        meta: &CheckpointMeta,
        manifest: u64,
    ) -> Result<Digest, Broken> {
        let parts = &self.0.parts;
        let counts = (manifest, parts.len());
        let mut writer = DataWriter::begin(channel, file, meta, counts).map_err(ours)?;
        for part in parts {
            let bytes = self.0.read_folded(part)?;
            let operator = part.operator.clone();
            let extent = Extent { operator, schema: part.schema, partition: part.partition, bytes };
            writer.reserve(&extent).and_then(|()| writer.put(&extent)).map_err(ours)?;
        }
        writer.finish().map_err(ours)
    }
}
