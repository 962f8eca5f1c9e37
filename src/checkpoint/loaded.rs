//! A checkpoint to start from: its base, and the deltas on it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::chain::chain;
use super::data_file::{DataFile, Failed, Look, damaged_file};
use super::manifest::Entry;
use super::{CheckpointMeta, Damage};
use crate::error::{Error, Result};
use crate::ids::to_usize;
use crate::planted::{Bug, planted};
use crate::state::{self, OperatorState};
use crate::storage::Directory;

/// One partition of one operator in a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// The operator's name.
    pub operator: String,
    /// The schema id of its state.
    pub schema: u64,
    /// The partition.
    pub partition: u32,
    /// Bytes, in all files together.
    pub length: u64,
    /// File of the chain and extent in it, the base's first.
    places: Vec<(usize, usize)>,
}

/// A checkpoint all of whose files are what was written.
#[derive(Clone)]
pub struct Loaded {
    /// What it says about itself.
    pub meta: CheckpointMeta,
    /// Its files: the base, then the deltas in order; the last one is the checkpoint's own.
    pub files: Vec<Arc<DataFile>>,
    /// What it holds, in the order of the base.
    pub parts: Vec<Part>,
    /// One sentence for every newer checkpoint that was named but not whole. Empty is normal.
    pub fell_back: Vec<String>,
}

impl fmt::Debug for Loaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loaded")
            .field("meta", &self.meta)
            .field("files", &self.files.len())
            .field("parts", &self.parts.len())
            .field("fell_back", &self.fell_back)
            .finish()
    }
}

impl Loaded {
    /// Puts the files of a chain together.
    pub(super) fn of(files: Vec<Arc<DataFile>>) -> Result<Loaded, Broken> {
        let mut parts: Vec<Part> = Vec::new();
        let mut known = BTreeMap::new();
        for (place, file) in files.iter().enumerate() {
            for (ordinal, extent) in file.extents.iter().enumerate() {
                let name = (extent.operator.clone(), extent.partition);
                if place == 0 {
                    known.insert(name, parts.len());
                    parts.push(Part {
                        operator: extent.operator.clone(),
                        schema: extent.schema,
                        partition: extent.partition,
                        length: extent.length,
                        places: vec![(0, ordinal)],
                    });
                    continue;
                }
                // A delta changes what the base has.
                let part = known.get(&name).map(|at| &mut parts[*at]);
                let Some(part) = part.filter(|part| part.schema == extent.schema) else {
                    let error = damaged_file(file, Damage::Inconsistent);
                    return Err(Broken { number: file.meta.checkpoint, error });
                };
                part.length += extent.length;
                part.places.push((place, ordinal));
            }
        }
        #[allow(clippy::expect_used, reason = "a chain has its own file at least")]
        let meta = files.last().expect("CKPT-7: a chain has a file").meta.clone();
        Ok(Loaded { meta, files, parts, fell_back: Vec::new() })
    }

    /// Reads and checks a part: its bytes in the base, then in every delta that has some. Any
    /// number of threads may read at the same time.
    ///
    /// # Errors
    /// `Corrupt` or `Unreadable` if the medium lost the bytes since they were verified.
    pub fn read_pieces(&self, part: &Part) -> Result<Vec<Vec<u8>>> {
        self.pieces(part).map_err(|broken| broken.error)
    }

    /// Restores a part: from its bytes in the base, as they come, then from every delta. Of bytes
    /// that the medium lost, returns the number of the file that had them and the error: then
    /// nothing was restored.
    ///
    /// # Errors
    /// `Corrupt` if the bytes are what was written, and no such state.
    pub(crate) fn restore(
        &self,
        part: &Part,
        state: &OperatorState,
    ) -> Result<Option<(u64, Error)>> {
        let base =
            part.places.first().map(|(place, ordinal)| &self.files[*place].extents[*ordinal]);
        let length = base.map_or(0, |base| to_usize(base.length));
        let mut restoring = state.restoring(part.partition, length);
        for (nth, (place, ordinal)) in part.places.iter().enumerate() {
            let file = &self.files[*place];
            let read = match nth {
                0 => file.extent_in_pieces(*ordinal, |piece| restoring.base(piece)),
                _ => match file.read_extent(*ordinal) {
                    Ok(bytes) => restoring.delta(&bytes).map_err(Failed::Refused),
                    Err(error) => Err(Failed::Lost(error)),
                },
            };
            match read {
                Ok(()) => {}
                Err(Failed::Lost(error)) => return Ok(Some((file.meta.checkpoint, error))),
                Err(Failed::Refused(error)) => return Err(error),
            }
        }
        restoring.install(self.meta.batch)?;
        Ok(None)
    }

    pub(super) fn pieces(&self, part: &Part) -> Result<Vec<Vec<u8>>, Broken> {
        let read = |(place, ordinal): &(usize, usize)| {
            let file = &self.files[*place];
            let number = file.meta.checkpoint;
            file.read_extent(*ordinal).map_err(|error| Broken { number, error })
        };
        part.places.iter().map(read).collect()
    }

    /// Reads a part as one: what a base taken at the same batch has of it.
    ///
    /// # Errors
    /// As [`Loaded::read_pieces`].
    pub fn read(&self, part: &Part) -> Result<Vec<u8>> {
        self.read_folded(part).map_err(|broken| broken.error)
    }

    pub(super) fn read_folded(&self, part: &Part) -> Result<Vec<u8>, Broken> {
        let mut pieces = self.pieces(part)?;
        let deltas = pieces.split_off(1);
        let base = pieces.swap_remove(0);
        if deltas.is_empty() {
            return Ok(base);
        }
        let number = self.meta.checkpoint;
        state::fold(&base, &deltas).map_err(|error| Broken { number, error })
    }
}

/// A file that is not what was written, and why.
pub(super) struct Broken {
    pub(super) number: u64,
    pub(super) error: Error,
}

/// The files of a directory, each opened and looked at once.
pub(super) struct Shelf<'a> {
    directory: &'a Arc<dyn Directory>,
    look: Look,
    opened: BTreeMap<u64, Result<Arc<DataFile>>>,
}

impl<'a> Shelf<'a> {
    pub(super) fn new(directory: &'a Arc<dyn Directory>, look: Look) -> Shelf<'a> {
        Shelf { directory, look, opened: BTreeMap::new() }
    }

    /// The checkpoint at a place of the manifest's entries, its whole chain.
    pub(super) fn load(&mut self, entries: &[Entry], place: usize) -> Result<Loaded, Broken> {
        let mut files = Vec::new();
        for place in chain(entries, place) {
            let entry = &entries[place];
            let number = entry.meta.checkpoint;
            let open = || DataFile::open(self.directory, entry, self.look).map(Arc::new);
            match self.opened.entry(number).or_insert_with(open) {
                Ok(file) => files.push(Arc::clone(file)),
                Err(_) if planted(Bug::DeltaSkipped) && entry.meta.parent != 0 => {}
                Err(error) => return Err(Broken { number, error: error.clone() }),
            }
        }
        Loaded::of(files)
    }
}
