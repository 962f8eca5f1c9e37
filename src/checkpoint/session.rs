//! The operations of one write: data file, manifest, switch. Its syncs are counted.

use std::io;
use std::sync::Arc;

use super::find::MANIFEST;
use super::manifest::Digest;
use super::writer::{Ends, Writer};
use super::{CheckpointMeta, data_file, file_name, spare};
use crate::error::{ErrorKind, Result};
use crate::ids::to_usize;
use crate::planted::{Bug, planted};
use crate::storage::{Channel, Directory, File, IoFailure, OpenMode, files};

type IoResult<T> = Result<T, IoFailure>;

/// The next manifest, before its rename.
pub(super) const NEXT: &str = "MANIFEST.tmp";

/// Fills a new data file; the number is that of the last durable manifest.
pub(super) type Fill<'f> =
    dyn FnMut(&mut dyn Channel, Ends<'_>, &CheckpointMeta, u64) -> Result<Digest> + 'f;

/// One write's operations, its syncs counted.
pub(super) struct Session {
    pub(super) directory: Arc<dyn Directory>,
    pub(super) syncs: u32,
    /// Whether there is a spare file that this may use.
    pub(super) spare: bool,
}

impl Session {
    pub(super) fn sync(
        &mut self,
        channel: &mut dyn Channel,
        file: &Arc<dyn File>,
    ) -> Result<(), IoFailure> {
        self.syncs += 1;
        files::sync_data(channel, file)
    }

    fn sync_names(&mut self) -> Result<(), IoFailure> {
        self.syncs += 1;
        self.directory.sync()
    }

    /// Writes, reads back and syncs a data file under its new name.
    pub(super) fn write_data(
        &mut self,
        channel: &mut dyn Channel,
        meta: &CheckpointMeta,
        manifest: u64,
        fill: &mut Fill<'_>,
    ) -> Result<(Arc<dyn File>, Digest)> {
        let name = &file_name(meta.checkpoint);
        let directory = Arc::clone(&self.directory);
        let mut filled = |file: IoResult<Arc<dyn File>>| -> Result<(Arc<dyn File>, Digest)> {
            let (file, back) = (file?, directory.open(name, OpenMode::ReadDirect)?);
            let digest = fill(channel, Ends { file: &file, back: &back }, meta, manifest)?;
            Ok((file, digest))
        };
        let (file, digest) = match filled(directory.open(name, OpenMode::CreateDirect)) {
            Err(error) if error.kind() == ErrorKind::DiskFull && self.spare => {
                let (file, digest) = filled(self.take_spare(name))?;
                // What it does not need makes room for the manifest.
                file.set_length(digest.length)?;
                (file, digest)
            }
            other => other?,
        };
        if !planted(Bug::ManifestBeforeData) {
            self.sync(channel, &file)?;
        }
        self.sync_names()?;
        data_file::check_length(&file, &digest)?;
        Ok((file, digest))
    }

    /// The spare under the name of a data file that found no space.
    fn take_spare(&mut self, name: &str) -> Result<Arc<dyn File>, IoFailure> {
        self.spare = false;
        files::remove_if_there(&*self.directory, name)?;
        self.directory.rename(spare::SPARE, name)?;
        self.directory.open(name, OpenMode::WriteDirect)
    }

    /// Writes and syncs the next manifest under its passing name.
    pub(super) fn write_manifest(&mut self, channel: &mut dyn Channel, bytes: &[u8]) -> Result<()> {
        let file = match self.directory.open(NEXT, OpenMode::CreateDirect) {
            Err(failure) if failure.kind() == io::ErrorKind::AlreadyExists => {
                files::remove_if_there(&*self.directory, NEXT)?;
                self.directory.open(NEXT, OpenMode::CreateDirect)?
            }
            other => other?,
        };
        let back = self.directory.open(NEXT, OpenMode::ReadDirect)?;
        let mut writer = Writer::new(channel, Ends { file: &file, back: &back });
        writer.put(bytes)?;
        let digest = writer.finish()?;
        assert_eq!(to_usize(digest.length), bytes.len(), "CKPT: all of the manifest was sent");
        self.sync(channel, &file)?;
        Ok(())
    }

    /// Puts the next manifest in the place of the last one.
    pub(super) fn switch(&mut self) -> Result<(), IoFailure> {
        self.directory.rename(NEXT, MANIFEST)?;
        self.sync_names()
    }
}
