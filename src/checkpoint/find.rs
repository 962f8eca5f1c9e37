//! Finds what a checkpoint directory says about itself, changing nothing.

use super::Damage;
use super::data_file::{self, damaged};
use super::io;
use super::manifest::{self, Manifest};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{LogId, to_u64};
use crate::storage::{BLOCK, Channel, Directory, OpenMode};

/// The file that names the checkpoints that count.
pub(super) const MANIFEST: &str = "MANIFEST";

/// The sequence of the manifest that was durable when an unnamed data file was begun; 0 if the file
/// says nothing about manifests of `log`.
pub(super) fn evidence(
    directory: &dyn Directory,
    name: &str,
    channel: &mut dyn Channel,
    log: Option<LogId>,
) -> Result<u64> {
    let file = directory.open(name, OpenMode::ReadDirect).map_err(io::unreadable)?;
    if file.stamp().map_err(io::unreadable)?.length < to_u64(BLOCK) {
        return Ok(0);
    }
    match data_file::read_header(channel, &file) {
        Ok(header) if log.is_some_and(|log| log != header.log_id) => Ok(0),
        Ok(header) => Ok(header.manifest),
        // A crash tears what was not yet synced: a header that is not whole says nothing.
        Err(error) if error.kind() == ErrorKind::Corrupt => Ok(0),
        Err(error) => Err(error),
    }
}

/// The data file `name` was begun when manifest `seen` was durable, and the newest one here is
/// `durable` (0: none).
pub(super) fn lost_manifest(
    directory: &dyn Directory,
    name: &str,
    seen: u64,
    durable: u64,
) -> Error {
    let found = match durable {
        0 => "there is none".to_owned(),
        sequence => format!("the one here is number {sequence}"),
    };
    let message = format!(
        "{name} was written when manifest {seen} was durable, but {found}: the manifest was \
         removed or an old one put back; restore it, or move this directory away to start from \
         empty"
    );
    Error::new(ErrorKind::Corrupt, message).at_path(directory.path().join(MANIFEST))
}

/// The manifest of a directory, whole; `None` if there is none.
pub(super) fn find_manifest(
    directory: &dyn Directory,
    names: &[String],
    channel: &mut dyn Channel,
) -> Result<Option<Manifest>> {
    let named = names.iter().any(|name| name == MANIFEST);
    named.then(|| read_manifest(directory, channel)).transpose()
}

fn read_manifest(directory: &dyn Directory, channel: &mut dyn Channel) -> Result<Manifest> {
    let file = directory.open(MANIFEST, OpenMode::ReadDirect).map_err(io::unreadable)?;
    let length = file.stamp().map_err(io::unreadable)?.length;
    let whole = length > 0 && length % to_u64(BLOCK) == 0 && length <= manifest::LIMIT;
    let parsed = if whole {
        manifest::decode(&io::read_range(channel, &file, 0, length)?)
    } else {
        Err(Damage::Length)
    };
    parsed.map_err(|damage| {
        if matches!(damage, Damage::Version(_)) {
            return damaged(&*file, damage);
        }
        let message = "the manifest of the checkpoints is damaged; restore it, or move this \
                       directory away to start from empty";
        Error::new(ErrorKind::Corrupt, message).at_path(file.path()).caused_by(damage)
    })
}
