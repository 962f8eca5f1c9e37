//! What a directory of checkpoints holds, found beside whoever writes it and without changing it.

use super::data_file::Look;
use super::find::{evidence, find_manifest, lost_manifest};
use super::loaded::{Loaded, Shelf};
use super::manifest::{Entry, Manifest};
use super::{CheckpointMeta, file_number};
use crate::error::{Error, ErrorKind, Result};
use crate::storage::{Channel, Directory};
use crate::sync::Arc;

/// How often a report is begun again because the manifest changed under it. A job would have to
/// write and retire a checkpoint in each of the times that one report takes.
const TRIES: u32 = 8;

/// The checkpoints that the manifest names.
#[derive(Debug)]
pub(crate) struct Report {
    /// Sequence of the manifest; 0: there is none.
    pub(crate) manifest: u64,
    /// Oldest first.
    pub(crate) checkpoints: Vec<Status>,
}

/// One checkpoint that the manifest names.
#[derive(Debug)]
pub(crate) struct Status {
    pub(crate) meta: CheckpointMeta,
    /// Bytes of its data file, by the manifest.
    pub(crate) bytes: u64,
    /// Whether a restart may go on from it; if not, it is there for those that build on it.
    pub(crate) kept: bool,
    /// Its files, or why one of them is not what was written.
    pub(crate) found: Result<Loaded>,
}

impl Report {
    /// Looks at every checkpoint of a directory.
    ///
    /// # Errors
    /// `Corrupt` if the manifest is damaged, lost or older than its files, `Unsupported` if a newer
    /// version wrote it, `Unreadable` if the medium does not return it. What is wrong with a single
    /// checkpoint is in its [`Status`].
    pub(crate) fn read(directory: &Arc<dyn Directory>, look: Look) -> Result<Report> {
        let mut channel = directory.channel()?;
        let mut last = None;
        for _ in 0..TRIES {
            let names = directory.list()?;
            let Some(manifest) = find_manifest(&**directory, &names, &mut *channel)? else {
                check_unnamed(&**directory, &mut *channel, &names, None)?;
                return Ok(Report { manifest: 0, checkpoints: Vec::new() });
            };
            check_unnamed(&**directory, &mut *channel, &names, Some(&manifest))?;
            let report = Report::of(directory, &manifest, look);
            // Damage counts only if the manifest still stands: a writer removes what it no longer
            // names.
            let settled = last == Some(manifest.sequence);
            if settled || report.checkpoints.iter().all(|status| status.found.is_ok()) {
                return Ok(report);
            }
            last = Some(manifest.sequence);
        }
        let message = "the checkpoints changed faster than they could be looked at; try again";
        Err(Error::new(ErrorKind::Io, message).at_path(directory.path()))
    }

    /// The newest checkpoint that is whole, as far as was looked; `None` if there is none at all.
    ///
    /// # Errors
    /// What is wrong with the oldest one, if none is whole.
    pub(crate) fn into_newest(self) -> Result<Option<Loaded>> {
        let mut newest = None;
        for status in self.checkpoints.into_iter().rev().filter(|status| status.kept) {
            newest = Some(status.found);
            if newest.as_ref().is_some_and(Result::is_ok) {
                break;
            }
        }
        newest.transpose()
    }

    /// The newest checkpoint; `None` if there is none.
    ///
    /// # Errors
    /// What is wrong with it: an older one is not taken instead.
    pub(crate) fn into_last(mut self) -> Result<Option<Loaded>> {
        self.checkpoints.pop().map(|status| status.found).transpose()
    }

    fn of(directory: &Arc<dyn Directory>, manifest: &Manifest, look: Look) -> Report {
        let mut shelf = Shelf::new(directory, look);
        let status = |(place, entry): (usize, &Entry)| Status {
            meta: entry.meta.clone(),
            bytes: entry.digest.length,
            kept: entry.kept,
            found: shelf.load(&manifest.entries, place).map_err(|broken| broken.error),
        };
        let checkpoints = manifest.entries.iter().enumerate().map(status).collect();
        Report { manifest: manifest.sequence, checkpoints }
    }
}

/// Whether a data file says that a newer manifest than this one was durable.
fn check_unnamed(
    directory: &dyn Directory,
    channel: &mut dyn Channel,
    names: &[String],
    manifest: Option<&Manifest>,
) -> Result<()> {
    let entries = manifest.map_or(&[][..], |manifest| &manifest.entries);
    let durable = manifest.map_or(0, |manifest| manifest.sequence);
    let log = entries.last().map(|entry| entry.meta.log_id);
    for name in names {
        let number = file_number(name);
        let named = |number| entries.iter().any(|entry| entry.meta.checkpoint == number);
        if number.is_none_or(named) {
            continue;
        }
        // What cannot be read says nothing; a writer may just be at it, or have removed it.
        let seen = evidence(directory, name, channel, log).unwrap_or(0);
        if seen > durable {
            return Err(lost_manifest(directory, name, seen, durable));
        }
    }
    Ok(())
}
