//! Where damaged bytes are kept: files in `quarantine/` whose names say where they come from.
//! Nobody reads them but people. They are never written over and never deleted by sawmill.

use std::ops::Range;
use std::path::PathBuf;

use super::repair::read_what_can_be;
use crate::checksum::is_zero;
use crate::error::Result;
use crate::ids::to_u64;
use crate::storage::{BLOCK, Channel, Directory, File, OpenMode};
use crate::sync::Arc;
use crate::wal::transfer;

/// The directory's name.
pub(crate) const QUARANTINE: &str = "quarantine";
/// Bytes of one read and one write.
const PIECE: u64 = 1 << 20;

/// The directory, made when something is to be kept.
pub(super) struct Quarantine<'a> {
    log: &'a Arc<dyn Directory>,
    directory: Option<Arc<dyn Directory>>,
    kept: Vec<PathBuf>,
    unreadable: u64,
}

impl<'a> Quarantine<'a> {
    pub(super) fn new(log: &'a Arc<dyn Directory>) -> Quarantine<'a> {
        Quarantine { log, directory: None, kept: Vec::new(), unreadable: 0 }
    }

    /// The files that hold what was kept, and how many blocks could not be read.
    pub(super) fn into_parts(self) -> (Vec<PathBuf>, u64) {
        (self.kept, self.unreadable)
    }

    /// Keeps bytes of the file `name` as `NAME-OFFSET-LENGTH.N`, durable when this returns, under
    /// the first N, from 1, that is free or holds the same bytes. Nothing is kept of zeros.
    ///
    /// # Errors
    /// `DiskFull` and `Io`.
    pub(super) fn keep(
        &mut self,
        channel: &mut dyn Channel,
        file: &Arc<dyn File>,
        name: &str,
        range: Range<u64>,
    ) -> Result<()> {
        let mut blank = true;
        for piece in pieces(&range) {
            let (bytes, unreadable) = read_what_can_be(channel, file, piece)?;
            blank &= is_zero(&bytes) && unreadable == 0;
        }
        if blank {
            return Ok(());
        }
        let directory = match &self.directory {
            Some(directory) => Arc::clone(directory),
            None => Arc::clone(self.directory.insert(self.log.subdirectory(QUARANTINE)?)),
        };
        let taken = directory.list()?;
        let name = format!("{name}-{}-{}", range.start, range.end - range.start);
        for number in 1_u64.. {
            let name = format!("{name}.{number}");
            if taken.contains(&name) {
                let copy = directory.open(&name, OpenMode::Read)?;
                if !same(channel, file, &range, &copy)? {
                    continue;
                }
                // Of an earlier attempt, which may not have come to sync it.
                copy.sync()?;
            } else {
                let copy = directory.open(&name, OpenMode::Create)?;
                for piece in pieces(&range) {
                    let at = piece.start - range.start;
                    let (bytes, unreadable) = read_what_can_be(channel, file, piece)?;
                    self.unreadable += unreadable;
                    transfer::write_all(channel, &copy, at, bytes, false)?;
                }
                copy.sync()?;
            }
            directory.sync()?;
            self.kept.push(directory.path().join(name));
            break;
        }
        Ok(())
    }
}

fn pieces(range: &Range<u64>) -> impl Iterator<Item = Range<u64>> + use<> {
    let end = range.end;
    let step = usize::try_from(PIECE).unwrap_or(usize::MAX);
    range.clone().step_by(step).map(move |start| start..(start + PIECE).min(end))
}

/// Whether a copy holds exactly these bytes.
fn same(
    channel: &mut dyn Channel,
    file: &Arc<dyn File>,
    range: &Range<u64>,
    copy: &Arc<dyn File>,
) -> Result<bool> {
    if copy.stamp()?.length != range.end - range.start {
        return Ok(false);
    }
    for piece in pieces(range) {
        let at = piece.start - range.start;
        let (bytes, _) = read_what_can_be(channel, file, piece)?;
        if transfer::read_exact(channel, copy, at, bytes.len())?[..] != bytes[..] {
            return Ok(false);
        }
    }
    Ok(true)
}

const _: () = assert!(PIECE.is_multiple_of(to_u64(BLOCK)));
