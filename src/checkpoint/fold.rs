//! A chain of files written as one base, partition by partition: no more than one of them is in
//! memory at a time, and the state that batches work on is not looked at.

use std::fmt;
use std::sync::Arc;

use super::data_file::Look;
use super::loaded::{Broken, Loaded, Shelf};
use super::manifest::{Digest, Entry};
use super::pace::Pace;
use super::session::Session;
use super::writer::{DataWriter, Ends};
use super::{CheckpointMeta, Extent};
use crate::error::{Error, ErrorKind, Result};
use crate::storage::{Channel, Directory};

/// A fold of a whole chain. What it reads is checked block by block.
pub(super) struct Fold(Loaded);

/// A fold between its two halves: the data file is written beside checkpoints that follow the one
/// that is folded, the manifest is switched between two of them.
pub struct Folding {
    fold: Fold,
    meta: CheckpointMeta,
    session: Session,
    /// The last manifest that was durable when it was begun.
    manifest: u64,
    pace: Pace,
}

impl fmt::Debug for Folding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Folding(checkpoint {})", self.meta.checkpoint)
    }
}

impl fmt::Debug for Filled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Filled(checkpoint {}, {:?})", self.meta.checkpoint, self.outcome)
    }
}

impl Folding {
    pub(super) fn new(
        fold: Fold,
        number: u64,
        (directory, manifest, pace): (&Arc<dyn Directory>, u64, Pace),
    ) -> Folding {
        let meta = CheckpointMeta { checkpoint: number, ..fold.meta() };
        let session = Session { directory: Arc::clone(directory), syncs: 0, spare: false };
        Folding { fold, meta, session, manifest, pace }
    }

    /// Writes, reads back and syncs the data file.
    #[must_use]
    pub fn fill(mut self) -> Filled {
        let mut bad = NONE;
        let channel = self.session.directory.channel().map_err(Error::from);
        let outcome = channel.and_then(|channel| {
            let (fold, bad, mut channel) = (&self.fold, &mut bad, self.pace.channel(channel));
            let data = self.session.write_data(
                &mut *channel,
                &self.meta,
                self.manifest,
                &mut |channel, ends, meta, manifest| {
                    let filled = fold.write(channel, ends, meta, manifest);
                    filled.map_err(|broken| {
                        *bad = broken.number;
                        broken.error
                    })
                },
            );
            data.map(|(_, digest)| digest)
        });
        Filled { meta: self.meta, session: self.session, outcome, bad }
    }
}

/// What came of a fold's data file.
pub struct Filled {
    pub(super) meta: CheckpointMeta,
    pub(super) session: Session,
    pub(super) outcome: Result<Digest, Error>,
    /// The number of the file that was not what was written, if one was not.
    pub(super) bad: u64,
}

/// What failed was not one of the chain's files.
const NONE: u64 = 0;

fn ours(error: Error) -> Broken {
    Broken { number: NONE, error }
}

impl Fold {
    /// Of the checkpoint with this number.
    pub(super) fn of_entry(
        directory: &Arc<dyn Directory>,
        entries: &[Entry],
        number: u64,
    ) -> Result<Fold, Broken> {
        let place = entries.iter().position(|entry| entry.meta.checkpoint == number);
        let Some(place) = place else {
            let message = format!("there is no checkpoint {number} to fold");
            return Err(ours(Error::new(ErrorKind::Invalid, message).at_path(directory.path())));
        };
        Shelf::new(directory, Look::Index).load(entries, place).map(Fold)
    }

    pub(super) fn of(loaded: Loaded) -> Fold {
        Fold(loaded)
    }

    /// That of the newest checkpoint, but for what it builds on.
    pub(super) fn meta(&self) -> CheckpointMeta {
        CheckpointMeta { parent: 0, ..self.0.meta.clone() }
    }

    /// Fills a data file.
    pub(super) fn write(
        &self,
        channel: &mut dyn Channel,
        ends: Ends<'_>,
        meta: &CheckpointMeta,
        manifest: u64,
    ) -> Result<Digest, Broken> {
        let parts = &self.0.parts;
        let counts = (manifest, parts.len());
        let mut writer = DataWriter::begin(channel, ends, meta, counts).map_err(ours)?;
        for part in parts {
            let bytes = self.0.read_folded(part)?;
            let operator = part.operator.clone();
            let extent = Extent { operator, schema: part.schema, partition: part.partition, bytes };
            writer.reserve(&extent).and_then(|()| writer.put(&extent)).map_err(ours)?;
        }
        writer.finish().map_err(ours)
    }
}
